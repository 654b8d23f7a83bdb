//! Synthetic models: deterministic random weights with the statistics of trained ones, and a working tokenizer.
//!
//! A random model is of use for comparing engines only if it behaves: activations neither vanish nor explode,
//! quantisation steps are met in their whole range, attention picks out tokens, and the next token depends on
//! the ones before. `Statistics` says how that is brought about.

//!
//! ```
//! use bitnet_model::Architecture;
//! use bitnet_synth::{Preset, SynthOptions, SyntheticModel};
//!
//! let options = SynthOptions::new(Architecture::Bitnet, Preset::Tiny, 1);
//! let mut file = Vec::new();
//! let model = SyntheticModel::new(&options, "tiny.gguf".as_ref())?;
//! model.write(&mut file, &mut |_, _| true)?;
//! assert!(file.starts_with(b"GGUF"));
//! # Ok::<(), bitnet_synth::Error>(())
//! ```

mod packed;
mod random;
mod stress;
mod ternary;
mod tiled;
mod unit;
mod vocab;

use std::io::{self, BufWriter, Write};
use std::path::Path;

use bitnet_model::encode;
use bitnet_model::gguf::{Metadata, TRAILER, TensorType, Tiling, Value, Writer};
use bitnet_model::random::Rng;
use bitnet_model::{Activation, Architecture, Tap, activation};
pub use stress::Stress;

use packed::Packed;
use random::{NORMAL_LEVELS, TERNARY_NONZERO, fill_ternary, normal_table};
use stress::{Rows, write_scale};
use tiled::Codes;
use vocab::Vocab;

/// A size to start from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Preset {
    /// About 1 MB: 3 layers of 256. Every code path, in no time.
    Tiny,
    /// About 10 MB: 8 layers of 512.
    Small,
    /// The shape of BitNet b1.58 2B4T, 1.18 GB: 30 layers of 2560.
    TwoB4T,
}

/// Why no model was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A size that the format or the architecture cannot hold.
    #[error("{option}: {what}")]
    Option {
        /// `layers`, `embd`, `heads`, `kv-heads`, `head-dim`, `ffn`, `vocab`, `ctx`, `token-embedding-type`,
        /// `output-tensor-type`, `scale-tensors` or `stress`.
        option: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// The file cannot be made.
    #[error(transparent)]
    Model(#[from] bitnet_model::Error),
}

impl Error {
    fn option(option: &'static str, what: impl Into<String>) -> Error {
        let what = what.into();
        Error::Option { option, what }
    }
}

/// What to write.
#[derive(Clone, Debug, PartialEq)]
pub struct SynthOptions {
    /// Model family. One with sub-norms gets tied embeddings, another an output matrix of its own.
    pub architecture: Architecture,
    /// Layers.
    pub n_layer: u32,
    /// Width of the residual stream; a multiple of the block of the matrices' type.
    pub n_embd: u32,
    /// Query heads.
    pub n_head: u32,
    /// Key/value heads, a divisor of `n_head`.
    pub n_head_kv: u32,
    /// Values per head, even; `None` where the heads divide `n_embd` between them.
    pub head_dim: Option<u32>,
    /// Width of the feed-forward network; a multiple of the block of the matrices' type.
    pub n_ff: u32,
    /// Vocabulary size. Up to 32000 a SentencePiece vocabulary, above byte-level BPE.
    pub n_vocab: u32,
    /// Context length, tokens.
    pub n_ctx: u32,
    /// RoPE frequency base.
    pub rope_base: f32,
    /// Type of the layers' matrices: I2_S, TQ1_0, TQ2_0, Q1_0, Q2_0 in either length of blocks, TL1, TL2, F16 or F32.
    pub matrix_type: TensorType,
    /// Type of the embeddings: F16 where they are tied, else F32, or any other of those but I2_S, whose rows have no scale.
    pub token_embedding_type: TensorType,
    /// Type of the output matrix, where the embeddings are not tied; `None` for F32.
    pub output_type: Option<TensorType>,
    /// Whether the codes of the layers' matrices have scale 1, and the matrices theirs in a `.scale` tensor each. Ternary
    /// codes are then those of I2_S, whatever the type: such models differ in how engines round activations beside them.
    pub scale_tensors: bool,
    /// Type of the norms' weights: F32, as BitNet.cpp has it, or F16, as newer converters write them.
    pub norm_type: TensorType,
    /// What the file says of its activation; `None` for a file that says nothing. Weights do not depend on it.
    pub activation: Option<Activation>,
    /// What to provoke, in an architecture with I2_S matrices; `None` for an ordinary model.
    pub stress: Option<Stress>,
    /// Equal options and seeds give equal files.
    pub seed: u64,
}

impl SynthOptions {
    /// The options of a preset.
    pub fn new(architecture: Architecture, preset: Preset, seed: u64) -> SynthOptions {
        let (n_layer, n_embd, n_head, n_head_kv, n_ff, n_vocab, n_ctx, rope_base) = match preset {
            Preset::Tiny => (3, 256, 4, 2, 768, 512, 512, 1e4),
            Preset::Small => (8, 512, 8, 4, 1536, 4096, 2048, 1e4),
            Preset::TwoB4T => (30, 2560, 20, 5, 6912, 128_256, 4096, 5e5),
        };
        SynthOptions {
            architecture,
            n_layer,
            n_embd,
            n_head,
            n_head_kv,
            head_dim: None,
            n_ff,
            n_vocab,
            n_ctx,
            rope_base,
            matrix_type: match has_sub_norms(architecture) {
                true => TensorType::I2_S,
                false => TensorType::F32,
            },
            token_embedding_type: match has_sub_norms(architecture) {
                true => TensorType::F16,
                false => TensorType::F32,
            },
            output_type: None,
            scale_tensors: false,
            norm_type: TensorType::F32,
            activation: None,
            stress: None,
            seed,
        }
    }

    fn head_dim(&self) -> u32 {
        self.head_dim.unwrap_or(self.n_embd / self.n_head)
    }

    /// Refuses sizes that the format or the architecture cannot hold.
    fn check(&self) -> Result<(), Error> {
        let sizes = [
            ("layers", self.n_layer),
            ("embd", self.n_embd),
            ("heads", self.n_head),
            ("kv-heads", self.n_head_kv),
            ("head-dim", self.head_dim.unwrap_or(2)),
            ("ffn", self.n_ff),
            ("ctx", self.n_ctx),
        ];
        if let Some((option, _)) = sizes.into_iter().find(|&(_, value)| value == 0) {
            return Err(Error::option(option, "must be at least 1"));
        }
        // llama.cpp's LLAMA_MAX_LAYERS.
        if self.n_layer > 512 {
            let what = format!("{} is more than 512", self.n_layer);
            return Err(Error::option("layers", what));
        }
        if self.head_dim.is_none() {
            divides("embd", self.n_embd, ("the number of heads", self.n_head))?;
        }
        divides(
            "heads",
            self.n_head,
            ("the number of key/value heads", self.n_head_kv),
        )?;
        if !self.head_dim().is_multiple_of(2) {
            let what = format!("heads of {} values do not rotate in pairs", self.head_dim());
            let option = match self.head_dim {
                Some(_) => "head-dim",
                None => "embd",
            };
            return Err(Error::option(option, what));
        }
        if self.n_head.checked_mul(self.head_dim()).is_none() {
            let what = format!("{} heads of {} values", self.n_head, self.head_dim());
            return Err(Error::option("head-dim", what));
        }
        let ty = self.matrix_type;
        let block = (&*format!("the {ty} block"), ty.block_len() as u32);
        divides("embd", self.n_embd, block)?;
        // What the output projection takes.
        if let Some(head_dim) = self.head_dim {
            divides("head-dim", self.n_head * head_dim, block)?;
        }
        divides("ffn", self.n_ff, block)?;
        self.check_tokens("token-embedding-type", self.token_embedding_type)?;
        if let Some(ty) = self.output_type {
            self.check_tokens("output-tensor-type", ty)?;
            if has_sub_norms(self.architecture) {
                let what = format!("{} has no output matrix of its own", self.architecture);
                return Err(Error::option("output-tensor-type", what));
            }
        }
        let tiled = ty.tiling(1, 1).is_some();
        if self.scale_tensors && (ty.is_float() || tiled || self.stress.is_some()) {
            let what = match self.stress {
                Some(_) => "what provokes an overflow has its scales in its matrices".to_owned(),
                None if tiled => format!("{ty} has its scale behind the matrix"),
                None => format!("{ty} has no codes"),
            };
            return Err(Error::option("scale-tensors", what));
        }
        for (option, rows, columns) in [
            ("embd", self.n_head * self.head_dim(), self.n_embd),
            ("kv-heads", self.n_head_kv * self.head_dim(), self.n_embd),
            ("head-dim", self.n_embd, self.n_head * self.head_dim()),
            ("ffn", self.n_ff, self.n_embd),
            ("ffn", self.n_embd, self.n_ff),
        ] {
            if let Some(Err(why)) = ty.tiling(rows.into(), columns.into()) {
                return Err(Error::option(option, why));
            }
        }
        self.stress.map_or(Ok(()), |stress| stress.check(self))
    }
}

impl SynthOptions {
    /// Refuses a type for matrices of a row per token.
    fn check_tokens(&self, option: &'static str, ty: TensorType) -> Result<(), Error> {
        if ty.is_ternary() {
            let what = format!("the rows of {ty} have no scale");
            return Err(Error::option(option, what));
        }
        let block = (&*format!("the {ty} block"), ty.block_len() as u32);
        divides("embd", self.n_embd, block)
    }
}

fn has_sub_norms(architecture: Architecture) -> bool {
    architecture.has(Tap::FfnSubNorm)
}

/// Refuses a size that is no multiple of another.
fn divides(option: &'static str, value: u32, (of, divisor): (&str, u32)) -> Result<(), Error> {
    if value.is_multiple_of(divisor) {
        return Ok(());
    }
    let what = format!("{value} is not a multiple of {of}, {divisor}");
    Err(Error::option(option, what))
}

/// How large things are made. Widths are chosen such that
/// - the first layer makes the residual stream sqrt(n_embd) times as large as the embeddings. The output head is
///   the embedding, so a stream that still resembled its token's embedding would predict that token for ever;
/// - the other layers add a fifth of the stream's energy between them. Random layers amplify: were each to replace
///   the stream, one int8 code that differs between two engines would, layer by layer, become another text;
/// - attention scores have a standard deviation of 2: each query picks out a few positions;
/// - logits have a standard deviation of 3: the best of 100,000 tokens gets about a tenth of the probability.
#[derive(Debug)]
struct Statistics {
    /// Standard deviation of the embeddings.
    embedding: f64,
    /// Standard deviation of what attention and what the feed-forward network adds, per layer.
    residual: Vec<[f64; 2]>,
    output_gamma: f64,
}

/// Gamma in front of attention; trained models have it this small.
const ATTN_GAMMA: f64 = 0.02;
/// Standard deviation of q and k: its square is that of the scores.
const QK: f64 = 1.41;
/// Share of the final stream's energy that the layers behind the first have added.
const LATER_LAYERS: f64 = 0.2;
const LOGITS: f64 = 3.0;
/// RMS of attention output and of `silu(gate) * up` for gate and up of standard deviation 1, where no sub-norm
/// makes it 1.
const UNNORMED: f64 = 0.6;
/// Share of the embedding's size that control and byte tokens get, so that generation seldom runs into them.
const SPECIAL_EMBEDDING: f64 = 0.25;

impl Statistics {
    fn new(o: &SynthOptions) -> Statistics {
        let root = f64::from(o.n_embd).sqrt();
        let embedding = 0.08;
        let stream = embedding * root;
        let first = [embedding, (stream.powi(2) - 2.0 * embedding.powi(2)).sqrt()];
        let others = f64::from(2 * (o.n_layer - 1));
        let share = LATER_LAYERS / (1.0 - LATER_LAYERS);
        let later = [stream * (share / others).sqrt(); 2];
        Statistics {
            embedding,
            residual: (0..o.n_layer)
                .map(|i| if i == 0 { first } else { later })
                .collect(),
            output_gamma: LOGITS / (root * embedding),
        }
    }
}

/// How a tensor's data are made.
#[derive(Clone, Copy, Debug)]
enum Fill {
    /// Norm weights: a mean with a spread of a tenth of it.
    Gamma(f64),
    /// Norm weights that are all 1.
    Ones,
    /// A matrix of `shape[0]` inputs of the given RMS whose outputs have the given standard deviation: codes
    /// or normal as the type has it.
    Matrix { input: f64, output: f64 },
    /// A matrix whose codes have scale 1.
    Unit,
    /// One value.
    Value(f64),
    /// A matrix of the kind that stresses, with its scale.
    Stress { rows: Rows, scale: f64 },
    /// One row per token, normal with the given standard deviation.
    Tokens(f64),
}

#[derive(Debug)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    ty: TensorType,
    fill: Fill,
}

fn tensors(o: &SynthOptions) -> Vec<Tensor> {
    let s = Statistics::new(o);
    let (embd, ff, vocab) = (o.n_embd.into(), o.n_ff.into(), o.n_vocab.into());
    let head_dim = u64::from(o.head_dim());
    let (q, kv) = (
        head_dim * u64::from(o.n_head),
        head_dim * u64::from(o.n_head_kv),
    );
    let sub = match has_sub_norms(o.architecture) {
        true => 1.0,
        false => UNNORMED,
    };
    let tokens = |name: &str, ty: TensorType| Tensor {
        name: name.to_owned(),
        shape: vec![embd, vocab],
        ty,
        fill: Fill::Tokens(s.embedding),
    };
    let norm = |name: String, n: u64, gamma: f64| Tensor {
        name,
        shape: vec![n],
        ty: o.norm_type,
        fill: Fill::Gamma(gamma),
    };
    let matrix = |name: String, shape: [u64; 2], input: f64, output: f64| Tensor {
        name,
        shape: shape.to_vec(),
        ty: o.matrix_type,
        fill: Fill::Matrix { input, output },
    };
    let mut list = vec![
        tokens("token_embd.weight", o.token_embedding_type),
        norm("output_norm.weight".to_owned(), embd, s.output_gamma),
    ];
    if !has_sub_norms(o.architecture) {
        let ty = o.output_type.unwrap_or(TensorType::F32);
        list.push(tokens("output.weight", ty));
    }
    for (i, added) in s.residual.iter().enumerate() {
        let name = |part: &str| format!("blk.{i}.{part}.weight");
        list.push(norm(name("attn_norm"), embd, ATTN_GAMMA));
        list.push(matrix(name("attn_q"), [embd, q], ATTN_GAMMA, QK));
        list.push(matrix(name("attn_k"), [embd, kv], ATTN_GAMMA, QK));
        list.push(matrix(name("attn_v"), [embd, kv], ATTN_GAMMA, 1.0));
        if o.architecture.has(Tap::QNorm) {
            list.push(norm(name("attn_q_norm"), head_dim, QK));
            list.push(norm(name("attn_k_norm"), head_dim, QK));
        }
        list.push(matrix(name("attn_output"), [q, embd], sub, added[0]));
        list.push(norm(name("ffn_norm"), embd, 1.0));
        list.push(matrix(name("ffn_gate"), [embd, ff], 1.0, 1.0));
        list.push(matrix(name("ffn_up"), [embd, ff], 1.0, 1.0));
        list.push(matrix(name("ffn_down"), [ff, embd], sub, added[1]));
        if has_sub_norms(o.architecture) {
            list.push(norm(name("attn_sub_norm"), q, 1.0));
            list.push(norm(name("ffn_sub_norm"), ff, 1.0));
        }
    }
    if o.scale_tensors {
        list = list.into_iter().flat_map(unit::with_scale).collect();
    }
    if let Some(Stress::I16Overflow) = o.stress {
        stress::overflow_down_projections(&mut list, s.residual.iter().map(|added| added[1]));
    }
    list
}

/// The scale with which `inputs` inputs of RMS `input` give outputs of standard deviation `output`.
fn ternary_scale(inputs: u64, input: f64, output: f64) -> f64 {
    output / (input * (inputs as f64 * TERNARY_NONZERO).sqrt())
}

fn metadata(o: &SynthOptions, vocab: &Vocab, path: &Path) -> Result<Metadata, bitnet_model::Error> {
    let mut m = Metadata::new(path);
    let mut put = |key: &str, value: Value| m.insert(key, value).map(|_| ());
    let arch = o.architecture.name();
    put("general.architecture", arch.into())?;
    put(
        "general.name",
        format!("synthetic {arch}, seed {}", o.seed).into(),
    )?;
    // llama.cpp's LLAMA_FTYPE_MOSTLY_* and LLAMA_FTYPE_ALL_F32; BitNet.cpp's for I2_S, TL1 and TL2.
    let file_type: u32 = match o.matrix_type {
        TensorType::I2_S | TensorType::Q1_0 => 40,
        TensorType::TQ1_0 => 36,
        TensorType::TQ2_0 => 37,
        TensorType::Q2_0 | TensorType::Q2_0_128 => 41,
        TensorType::TL1 => 38,
        TensorType::TL2 => 39,
        TensorType::F16 => 1,
        _ => 0,
    };
    put("general.file_type", file_type.into())?;
    put("general.quantization_version", 2u32.into())?;
    let sizes = [
        ("vocab_size", o.n_vocab),
        ("context_length", o.n_ctx),
        ("embedding_length", o.n_embd),
        ("block_count", o.n_layer),
        ("feed_forward_length", o.n_ff),
        ("rope.dimension_count", o.head_dim()),
        ("attention.head_count", o.n_head),
        ("attention.head_count_kv", o.n_head_kv),
    ];
    for (key, value) in sizes {
        put(&format!("{arch}.{key}"), value.into())?;
    }
    put(
        &format!("{arch}.attention.layer_norm_rms_epsilon"),
        1e-5f32.into(),
    )?;
    put(&format!("{arch}.rope.freq_base"), o.rope_base.into())?;
    if let Some(head_dim) = o.head_dim {
        put(&format!("{arch}.attention.key_length"), head_dim.into())?;
        put(&format!("{arch}.attention.value_length"), head_dim.into())?;
    }
    if let Some(activation) = o.activation {
        put(
            &format!("{arch}.{}", activation::KEY),
            activation.name().into(),
        )?;
    }
    for (key, value) in vocab.metadata() {
        put(&format!("tokenizer.ggml.{key}"), value)?;
    }
    Ok(m)
}

/// Told the bytes of tensor data written so far and in all; `false` ends the work.
pub type Progress<'a> = dyn FnMut(u64, u64) -> bool + 'a;

/// A synthetic model that is about to be written.
pub struct SyntheticModel {
    options: SynthOptions,
    vocab: Vocab,
    tensors: Vec<Tensor>,
    writer: Writer,
}

impl SyntheticModel {
    /// Decides what will be in it; `path` names it in errors.
    ///
    /// # Errors
    /// [`Error::Option`] for sizes that the format cannot hold.
    pub fn new(options: &SynthOptions, path: &Path) -> Result<SyntheticModel, Error> {
        options.check()?;
        let vocab = Vocab::new(options.n_vocab as usize)?;
        let tensors = tensors(options);
        let mut writer = Writer::new(metadata(options, &vocab, path)?)?;
        for t in &tensors {
            writer.tensor(&t.name, &t.shape, t.ty)?;
        }
        Ok(SyntheticModel {
            options: options.clone(),
            vocab,
            tensors,
            writer,
        })
    }

    /// Writes it to `out`.
    ///
    /// # Errors
    /// What `out` returns, or another error if `progress` ended the work.
    pub fn write(self, out: &mut dyn Write, progress: &mut Progress) -> Result<(), Error> {
        let total = self.writer.data_size();
        let out = BufWriter::with_capacity(1 << 20, out);
        let mut writer = self.writer.begin(out)?;
        let table = normal_table();
        let mut done = 0;
        for tensor in &self.tensors {
            let rng = Rng::new(self.options.seed, &tensor.name);
            writer.write_tensor(|out| {
                let mut out = Counted {
                    out,
                    done: &mut done,
                    total,
                    progress: &mut *progress,
                };
                tensor.write(&self.vocab, rng, &table, &mut out)
            })?;
        }
        writer.finish()?;
        Ok(())
    }
}

/// Reports what passes through.
struct Counted<'a, 'p> {
    out: &'a mut dyn Write,
    done: &'a mut u64,
    total: u64,
    progress: &'a mut Progress<'p>,
}

impl Write for Counted<'_, '_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        *self.done += n as u64;
        match (self.progress)(*self.done, self.total) {
            true => Ok(n),
            // Not `Interrupted`, after which writing is tried again.
            false => Err(io::Error::other("interrupted")),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Bytes made at a time.
const CHUNK: u64 = 1 << 16;

impl Tensor {
    fn tiling(&self) -> Option<Result<&'static Tiling, String>> {
        self.ty.tiling(*self.shape.get(1)?, self.shape[0])
    }

    fn write(
        &self,
        vocab: &Vocab,
        mut rng: Rng,
        table: &[f32],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let n: u64 = self.shape.iter().product();
        match self.fill {
            Fill::Gamma(mean) => {
                let gammas = table.iter().map(|z| mean * (1.0 + 0.1 * f64::from(*z)));
                write_levels(self.ty, gammas, n, &mut rng, out)
            }
            Fill::Matrix { input, output } if self.ty == TensorType::I2_S => {
                let scale = ternary_scale(self.shape[0], input, output);
                let mut chunk = vec![0; CHUNK as usize];
                let mut left = n / 4;
                while left > 0 {
                    let part = &mut chunk[..left.min(CHUNK) as usize];
                    fill_ternary(&mut rng, part);
                    out.write_all(part)?;
                    left -= part.len() as u64;
                }
                write_scale(scale as f32, out)
            }
            Fill::Unit => unit::write(self.ty, n, &mut rng, out),
            Fill::Value(value) => out.write_all(&(value as f32).to_le_bytes()),
            Fill::Matrix { input, output } if let Some(Ok(tiling)) = self.tiling() => {
                let scale = ternary_scale(self.shape[0], input, output);
                // As I2_S has them.
                let mut blocks = vec![0; (n / 4) as usize];
                for chunk in blocks.chunks_mut(CHUNK as usize) {
                    fill_ternary(&mut rng, chunk);
                }
                let codes = Codes::new(&blocks, self.shape[1] as usize, self.shape[0] as usize);
                let mut packed = codes.pack(self.ty, tiling.tiles);
                // What does not fit is refused, as is any other size.
                let size = self.ty.data_size(&self.shape).map_err(io::Error::other)?;
                packed.resize((size - TRAILER) as usize, 0);
                out.write_all(&packed)?;
                write_scale(scale as f32, out)
            }
            Fill::Stress { rows, scale } => {
                let shape = [self.shape[0] as usize, self.shape[1] as usize];
                rows.write(shape, scale as f32, &mut rng, out)
            }
            Fill::Ones => (0..n).try_for_each(|_| match self.ty {
                TensorType::F16 => out.write_all(&half::f16::ONE.to_le_bytes()),
                _ => out.write_all(&1f32.to_le_bytes()),
            }),
            Fill::Matrix { input, output } => {
                let sigma = output / (input * (self.shape[0] as f64).sqrt());
                self.write_weights(sigma, n, &mut rng, table, out)
            }
            Fill::Tokens(sigma) => {
                let runs = vocab.runs();
                for (tokens, special) in runs {
                    let sigma = if special {
                        sigma * SPECIAL_EMBEDDING
                    } else {
                        sigma
                    };
                    let n = tokens * self.shape[0];
                    self.write_weights(sigma, n, &mut rng, table, out)?;
                }
                Ok(())
            }
        }
    }

    /// Writes `n` weights of the given standard deviation, whole rows.
    fn write_weights(
        &self,
        sigma: f64,
        n: u64,
        rng: &mut Rng,
        table: &[f32],
        out: &mut dyn Write,
    ) -> io::Result<()> {
        if let Some(packed) = Packed::of(self.ty) {
            return packed.write(sigma, n / self.ty.block_len(), rng, out);
        }
        if let Some(encode) = encode::block(self.ty) {
            let scale = sigma / TERNARY_NONZERO.sqrt();
            return ternary::write_blocks(encode, n, scale, table, rng, out);
        }
        write_levels(self.ty, scaled(table, sigma), n, rng, out)
    }
}

fn scaled(table: &[f32], sigma: f64) -> impl Iterator<Item = f64> {
    table.iter().map(move |z| sigma * f64::from(*z))
}

/// Writes `n` values as F16 or F32, each one of the `NORMAL_LEVELS` levels at random.
fn write_levels(
    ty: TensorType,
    levels: impl Iterator<Item = f64>,
    n: u64,
    rng: &mut Rng,
    out: &mut dyn Write,
) -> io::Result<()> {
    match ty {
        TensorType::F16 => {
            let half = |level| half::f16::from_f64(level).to_le_bytes();
            write_encoded(&levels.map(half).collect::<Vec<_>>(), n, rng, out)
        }
        _ => {
            let single = |level| (level as f32).to_le_bytes();
            write_encoded(&levels.map(single).collect::<Vec<_>>(), n, rng, out)
        }
    }
}

fn write_encoded<const N: usize>(
    levels: &[[u8; N]],
    n: u64,
    rng: &mut Rng,
    out: &mut dyn Write,
) -> io::Result<()> {
    assert_eq!(levels.len(), NORMAL_LEVELS);
    let mut chunk = vec![[0; N]; (CHUNK / N as u64) as usize];
    let mut left = n;
    while left > 0 {
        let part = &mut chunk[..left.min(CHUNK / N as u64) as usize];
        for four in part.chunks_mut(4) {
            let random = rng.next_u64().to_le_bytes();
            let (pairs, _) = random.as_chunks::<2>();
            for (value, &index) in four.iter_mut().zip(pairs) {
                *value = levels[usize::from(u16::from_le_bytes(index))];
            }
        }
        out.write_all(part.as_flattened())?;
        left -= part.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
