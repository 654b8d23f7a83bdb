//! `crossval record`.

use std::path::PathBuf;

use reports::number;
use reports::outcome::Outcome;
use serde::Serialize;

use super::limits::{LimitFlags, ModelFile};
use super::run::{DEFAULT_N_PREDICT, default_prompt, prompts, threads};
use super::terminal::Terminal;
use super::tokens::TokenIds;
use crossval::Error;
use crossval::environment::{self, Provenance};
use crossval::record::RecordOptions;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFile,
    /// Engine to record: bitnet.cpp, bitnet.cpp@NAME, llama.cpp, rust, oracle or exec:COMMAND
    #[arg(long, value_name = "ENGINE", default_value = "bitnet.cpp")]
    engine: String,
    /// A prompt; may be given several times [default: "Once upon a time"]
    #[arg(short, long, value_name = "TEXT")]
    prompt: Vec<String>,
    /// A file whose text is a prompt; may be given several times
    #[arg(long, value_name = "FILE")]
    prompt_file: Vec<PathBuf>,
    /// Token IDs as a prompt, such as 1,403,407
    #[arg(long, value_name = "IDS", allow_hyphen_values = true)]
    tokens: Vec<TokenIds>,
    /// Make each prompt one message of the user, rendered by the chat template in the model's file
    #[arg(long, conflicts_with = "tokens")]
    chat: bool,
    /// Tokens to generate greedily from each prompt, past any end-of-text token
    #[arg(short, long, value_name = "N", default_value_t = DEFAULT_N_PREDICT)]
    n_predict: usize,
    /// Threads of the engine
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = threads)]
    threads: usize,
    /// Context of the engine, tokens [default: as much as the prompts take]
    #[arg(short, long, value_name = "N")]
    ctx_size: Option<usize>,
    /// The trace to write, a safetensors file
    #[arg(short, long, value_name = "FILE")]
    output: PathBuf,
    /// Print what was written as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitFlags,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Recorded {
    schema: &'static str,
    /// The trace.
    path: String,
    bytes: u64,
    engine: String,
    model: String,
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let launcher = args.limits.launcher();
    let mut prompts = prompts(&args.prompt, &args.prompt_file, args.tokens)?;
    if prompts.is_empty() {
        prompts.push(default_prompt());
    }
    let options = RecordOptions {
        launcher,
        engine: args.engine.parse()?,
        model: args.model.required()?,
        prompts,
        chat: args.chat,
        n_predict: args.n_predict,
        threads: args.threads,
        n_ctx: args.ctx_size,
        output: args.output,
        command: std::env::args_os()
            .map(|a| a.to_string_lossy().into_owned())
            .collect(),
        environment: environment::describe(provenance),
    };
    let size = terminal
        .bar()
        .during(|progress| crossval::record::record(&options, progress))?;
    if args.json {
        terminal.print_json(&Recorded {
            schema: "crossval.record/1",
            path: options.output.display().to_string(),
            bytes: size,
            engine: options.engine.to_string(),
            model: options.model.display().to_string(),
        })?;
    } else {
        let size = number::bytes(size as f64);
        terminal.print(&format!("{}  {size}\n", options.output.display()))?;
    }
    Ok(Outcome::Pass)
}
