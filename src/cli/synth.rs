//! `crossval synth`.

use std::io;
use std::path::{Path, PathBuf};

use bitnet_model::gguf::TensorType;
use bitnet_model::{Activation, Architecture, ErrorKind};
use clap::ValueEnum;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use reports::StagedFile;
use reports::number;
use reports::outcome::Outcome;
use serde::Serialize;

use super::limits::activation;
use super::terminal::Terminal;
use bitnet_synth::{Error as SynthError, Preset, Stress, SynthOptions, SyntheticModel};
use crossval::Error;
use crossval::interrupt;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Model family
    #[arg(long, value_parser = architectures())]
    arch: Architecture,
    /// Size to start from
    #[arg(long, value_enum, default_value_t = PresetArg::Tiny)]
    preset: PresetArg,
    /// Layers
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// Width of the residual stream
    #[arg(long, value_name = "N")]
    embd: Option<u32>,
    /// Query heads
    #[arg(long, value_name = "N")]
    heads: Option<u32>,
    /// Key/value heads
    #[arg(long, value_name = "N")]
    kv_heads: Option<u32>,
    /// Values per head [default: the heads divide --embd]
    #[arg(long, value_name = "N")]
    head_dim: Option<u32>,
    /// Width of the feed-forward network
    #[arg(long, value_name = "N")]
    ffn: Option<u32>,
    /// Vocabulary size
    #[arg(long, value_name = "N")]
    vocab: Option<u32>,
    /// Context length, tokens
    #[arg(long, value_name = "N")]
    ctx: Option<u32>,
    /// Type of the layers' matrices [default: i2_s for bitnet*, f32 for any other]
    #[arg(long = "type", value_enum, value_name = "TYPE", ignore_case = true)]
    matrix_type: Option<MatrixType>,
    /// Type of the embeddings, any of --type but i2_s [default: f16 for bitnet*, f32 for any other]
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        ignore_case = true,
        hide_possible_values = true
    )]
    token_embedding_type: Option<MatrixType>,
    /// Type of the output matrix, any of --type but i2_s [default: f32; bitnet* has none]
    #[arg(
        long,
        value_enum,
        value_name = "TYPE",
        ignore_case = true,
        hide_possible_values = true
    )]
    output_tensor_type: Option<MatrixType>,
    /// Give each matrix codes of scale 1, the same for every ternary type, and its scale in a .scale tensor
    #[arg(long)]
    scale_tensors: bool,
    /// Type of the norms' weights
    #[arg(long, value_enum, value_name = "TYPE", default_value_t = NormType::F32)]
    norm_type: NormType,
    /// Name this activation in the file [default: none]
    #[arg(long, value_name = "NAME", value_parser = activation())]
    activation: Option<Activation>,
    /// Make a model that drives engines where they are known to go wrong
    #[arg(long, value_enum, value_name = "WHAT")]
    stress: Option<StressArg>,
    /// Equal flags and seeds give equal files
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The file to write
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print what was written as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Written {
    schema: &'static str,
    /// The model's file.
    path: String,
    bytes: u64,
    architecture: &'static str,
    seed: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PresetArg {
    /// About 1 MB: 3 layers of 256
    Tiny,
    /// About 10 MB: 8 layers of 512
    Small,
    /// The shape of BitNet b1.58 2B4T, 1.18 GB: 30 layers of 2560
    #[value(name = "2b-4t")]
    TwoB4T,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum MatrixType {
    /// Ternary, 2 bits and a scale for all
    #[value(name = "i2_s")]
    I2S,
    /// Ternary, 1.7 bits with a scale for 256
    #[value(name = "tq1_0")]
    Tq1_0,
    /// Ternary, 2 bits, and a scale for 256
    #[value(name = "tq2_0")]
    Tq2_0,
    /// Signs, and a scale per 128
    #[value(name = "q1_0")]
    Q1_0,
    /// 2 bits, and a scale per 64
    #[value(name = "q2_0")]
    Q2_0,
    /// 2 bits, and a scale per 128, as in the first files of Q2_0
    #[value(name = "q2_0_128")]
    Q2_0_128,
    /// Ternary, 2 bits in tiles for ARM, of few shapes: --embd 1536 --ffn 4096
    #[value(name = "tl1")]
    Tl1,
    /// Ternary, 1.7 bits in tiles for x86, of the same shapes
    #[value(name = "tl2")]
    Tl2,
    /// What mainline llama.cpp reads, too
    F16,
    /// What rounds least
    F32,
}

impl From<MatrixType> for TensorType {
    fn from(ty: MatrixType) -> TensorType {
        match ty {
            MatrixType::I2S => TensorType::I2_S,
            MatrixType::Tq1_0 => TensorType::TQ1_0,
            MatrixType::Tq2_0 => TensorType::TQ2_0,
            MatrixType::Q1_0 => TensorType::Q1_0,
            MatrixType::Q2_0 => TensorType::Q2_0,
            MatrixType::Q2_0_128 => TensorType::Q2_0_128,
            MatrixType::Tl1 => TensorType::TL1,
            MatrixType::Tl2 => TensorType::TL2,
            MatrixType::F16 => TensorType::F16,
            MatrixType::F32 => TensorType::F32,
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum NormType {
    /// What every engine reads
    F32,
    /// What newer converters write
    F16,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum StressArg {
    /// Sums beyond 16 bits in the down projections; widens --ffn to a multiple of 8192
    #[value(name = "i16-overflow")]
    I16Overflow,
}

fn architectures() -> impl TypedValueParser<Value = Architecture> {
    let names = PossibleValuesParser::new(Architecture::ALL.map(Architecture::name));
    names.try_map(|name| {
        Architecture::ALL
            .into_iter()
            .find(|a| a.name() == name)
            .ok_or("unknown architecture")
    })
}

fn failed(path: &Path, e: SynthError) -> Error {
    match e {
        SynthError::Option { option, what } => Error::Option { option, what },
        SynthError::Model(e) if e.kind() == ErrorKind::Io => {
            let source = std::error::Error::source(&e).map(ToString::to_string);
            Error::io(
                path,
                io::Error::other(source.unwrap_or_else(|| e.to_string())),
            )
        }
        SynthError::Model(e) => Error::Internal(e.to_string()),
    }
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let preset = match args.preset {
        PresetArg::Tiny => Preset::Tiny,
        PresetArg::Small => Preset::Small,
        PresetArg::TwoB4T => Preset::TwoB4T,
    };
    let mut options = SynthOptions {
        norm_type: match args.norm_type {
            NormType::F32 => TensorType::F32,
            NormType::F16 => TensorType::F16,
        },
        activation: args.activation,
        head_dim: args.head_dim,
        output_type: args.output_tensor_type.map(TensorType::from),
        scale_tensors: args.scale_tensors,
        ..SynthOptions::new(args.arch, preset, args.seed)
    };
    if let Some(StressArg::I16Overflow) = args.stress {
        options = options.with_stress(Stress::I16Overflow);
    }
    for (flag, ty) in [
        (args.matrix_type, &mut options.matrix_type),
        (args.token_embedding_type, &mut options.token_embedding_type),
    ] {
        *ty = flag.map_or(*ty, TensorType::from);
    }
    for (flag, size) in [
        (args.layers, &mut options.n_layer),
        (args.embd, &mut options.n_embd),
        (args.heads, &mut options.n_head),
        (args.kv_heads, &mut options.n_head_kv),
        (args.ffn, &mut options.n_ff),
        (args.vocab, &mut options.n_vocab),
        (args.ctx, &mut options.n_ctx),
    ] {
        *size = flag.unwrap_or(*size);
    }
    let model = SyntheticModel::new(&options, &args.output).map_err(|e| failed(&args.output, e))?;
    let mut file = StagedFile::create(&args.output).map_err(|e| Error::io(&args.output, e))?;
    let written = terminal.bar().during(|progress| {
        progress.stage("writing");
        let mut written = 0;
        model.write(&mut file, &mut |done, total| {
            if written == 0 {
                progress.steps(total);
            }
            progress.done(done - written);
            written = done;
            interrupt::received().is_none()
        })
    });
    written.map_err(|e| failed(&args.output, e))?;
    file.finish().map_err(|e| Error::io(&args.output, e))?;
    let size = std::fs::metadata(&args.output)
        .map_err(|e| Error::io(&args.output, e))?
        .len();
    if args.json {
        terminal.print_json(&Written {
            schema: "crossval.synth/1",
            path: args.output.display().to_string(),
            bytes: size,
            architecture: args.arch.name(),
            seed: args.seed,
        })?;
    } else {
        let size = number::bytes(size as f64);
        terminal.print(&format!("{}  {size}\n", args.output.display()))?;
    }
    Ok(Outcome::Pass)
}
