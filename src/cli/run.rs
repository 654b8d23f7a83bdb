//! `crossval run`.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use reports::Format;
use reports::model::Mode;
use reports::outcome::Outcome;

use super::folder::Folder;
use super::gate::{Rule, hold};
use super::limits::{LimitFlags, ModelFile, ModelFlags, format};
use super::report::pointer;
use super::terminal::Terminal;
use super::tokens::TokenIds;
use crossval::Error;
use crossval::engine::EngineSpec;
use crossval::environment::{self, Provenance};
use crossval::interrupt;
use crossval::known::Ledger;
use crossval::parity::{Conditions, RunOptions, Scope, TextSource, Texts};
use crossval::profile::Profile;
use crossval::session::prompts::PromptSource;
use crossval::session::setup::Setup;
use crossval::speed::gate::{Baseline, measure_again};
use crossval::text_file;
use crossval::verdict;
use crossval_trace::Trace;
use crossval_workers::fault::Faults;

pub(super) const DEFAULT_N_PREDICT: usize = 32;

/// Generated strings on which the tokenizers are compared.
const STRINGS: u64 = 1000;

/// For `--help`.
const EXAMPLES: &str = "\
Examples:
  The Rust engine against BitNet.cpp:
    crossval run model.gguf
  With the flags of llama.cpp:
    crossval run -m model.gguf -p \"Once upon a time\" -n 64 -t 2
  An engine of your own, and one that offers its logits alone:
    crossval run model.gguf --candidate 'exec:python3 worker.py'
    crossval run model.gguf --candidate exec:./mine --profile logits
  Against several references:
    crossval run model.gguf --reference bitnet.cpp --reference llama.cpp
  For programs:
    crossval run model.gguf --json | jq .verdict";

const OF_ENGINES: &str = "Model and engines";
const OF_INPUT: &str = "What they are fed";
const OF_SCOPE: &str = "What is compared";
const OF_SPEED: &str = "Speed, and earlier runs";
const OF_OUTPUT: &str = "What comes out";
const OF_LIMITS: &str = "What an engine may take";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten, next_help_heading = OF_ENGINES)]
    model: ModelFile,
    /// Engine to compare against: bitnet.cpp, bitnet.cpp@NAME, llama.cpp, rust, oracle, trace:FILE or exec:COMMAND; may be given
    /// several times, for a comparison with each and who agrees with whom
    #[arg(long, value_name = "ENGINE", default_value = "bitnet.cpp", help_heading = OF_ENGINES)]
    reference: Vec<String>,
    /// Engine under test
    #[arg(long, value_name = "ENGINE", default_value = "rust", help_heading = OF_ENGINES)]
    candidate: String,
    /// A prompt; may be given several times [default: "Once upon a time", or those of a trace]
    #[arg(short, long, value_name = "TEXT", help_heading = OF_INPUT)]
    prompt: Vec<String>,
    /// A file whose text is a prompt; may be given several times
    #[arg(long, value_name = "FILE", help_heading = OF_INPUT)]
    prompt_file: Vec<PathBuf>,
    /// Token IDs as a prompt, such as 1,403,407
    #[arg(long, value_name = "IDS", allow_hyphen_values = true, help_heading = OF_INPUT)]
    tokens: Vec<TokenIds>,
    /// Make each prompt one message of the user, rendered by the chat template in the model's file
    #[arg(long, conflicts_with = "tokens", help_heading = OF_INPUT)]
    chat: bool,
    /// A text to measure the perplexity of both engines on
    #[arg(long, value_name = "FILE", help_heading = OF_INPUT)]
    text: Option<PathBuf>,
    /// Windows of the text to evaluate at most, of up to 512 tokens each
    #[arg(long, value_name = "N", requires = "text", value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..), help_heading = OF_INPUT)]
    chunks: Option<usize>,
    /// Tokens to generate greedily from each prompt, past any end-of-text token [default: 32, or as in a trace]
    #[arg(short, long, value_name = "N", help_heading = OF_INPUT)]
    n_predict: Option<usize>,
    /// Threads per engine
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = threads, help_heading = OF_SCOPE)]
    threads: usize,
    /// Context of the engines, tokens [default: as much as the prompts take]
    #[arg(short, long, value_name = "N", help_heading = OF_SCOPE)]
    ctx_size: Option<usize>,
    /// isolated: each stage starts from the reference's inputs; cumulative: each engine on its own [default: both,
    /// or cumulative if the candidate takes no values or the engines have logits alone in common]
    #[arg(long, value_enum, help_heading = OF_SCOPE)]
    mode: Option<ModeArg>,
    /// Compare the logits under all conditions (batch sizes, positions, contexts, workers) however long that takes, and
    /// not a sample of them on large models
    #[arg(long, help_heading = OF_SCOPE)]
    thorough: bool,
    /// Limits: standard, strict, logits or a TOML file
    #[arg(long, value_name = "PROFILE", default_value = "standard", help_heading = OF_SCOPE)]
    profile: String,
    /// Ledger of known deviations, a TOML file
    #[arg(long, value_name = "FILE", help_heading = OF_SCOPE)]
    known: Option<PathBuf>,
    /// Folder for the report
    #[arg(long, value_name = "DIR", default_value = "crossval-report", help_heading = OF_OUTPUT)]
    out: PathBuf,
    /// What to write there: json, html, md, junit, csv, jsonl
    #[arg(
        long,
        value_name = "FORMAT,…",
        value_delimiter = ',',
        value_parser = format,
        default_values_t = Format::DEFAULT,
        help_heading = OF_OUTPUT
    )]
    format: Vec<Format>,
    /// Do not time the engines
    #[arg(long, help_heading = OF_SPEED)]
    no_bench: bool,
    /// Hold the run against earlier ones, in a JSON file (see `crossval gate`)
    #[arg(long, value_name = "FILE", help_heading = OF_SPEED)]
    baseline: Option<PathBuf>,
    #[command(flatten, next_help_heading = OF_SPEED)]
    rule: Rule,
    /// Print the report as JSON, and nothing else
    #[arg(long, help_heading = OF_OUTPUT)]
    json: bool,
    /// A deliberate error in the candidate, to see the comparison fail
    #[arg(long, value_name = "FAULT", hide = true)]
    fault: Option<Faults>,
    #[command(flatten, next_help_heading = OF_ENGINES)]
    of_model: ModelFlags,
    #[command(flatten, next_help_heading = OF_LIMITS)]
    limits: LimitFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ModeArg {
    Both,
    Isolated,
    Cumulative,
}

pub(super) fn threads(s: &str) -> Result<usize, String> {
    match s.parse() {
        Ok(n @ 1..=512) => Ok(n),
        _ => Err("must be a number from 1 to 512".into()),
    }
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let launcher = args.of_model.apply(args.limits.launcher());
    let model = args.model.required()?;
    let mut candidate: EngineSpec = args.candidate.parse()?;
    if let Some(fault) = args.fault {
        match &mut candidate {
            EngineSpec::Rust { fault: slot } => *slot = Some(fault.to_string()),
            other => return Err(Error::Usage(format!("--fault: {other} takes no faults"))),
        }
    }
    let references = args.reference.iter().map(|name| name.parse());
    let mut references = references.collect::<Result<Vec<EngineSpec>, Error>>()?;
    let further = references.split_off(1);
    let reference = references.remove(0);
    let trace = reference.trace().or(candidate.trace());
    let trace = trace
        .map(|path| Trace::open(path).map_err(|e| Error::BadInput(e.to_string())))
        .transpose()?;
    let mut prompts = prompts(&args.prompt, &args.prompt_file, args.tokens)?;
    if prompts.is_empty() && trace.is_none() {
        prompts.push(default_prompt());
    }
    let recorded = trace.map(|t| t.info().n_predict);
    let options = RunOptions {
        setup: Setup {
            launcher: launcher.clone(),
            model,
            reference,
            candidate,
        },
        texts: Texts {
            prompts,
            chat: args.chat,
            text: text(args.text.as_deref(), args.chunks)?,
            strings: STRINGS,
        },
        scope: Scope {
            n_predict: args.n_predict.or(recorded).unwrap_or(DEFAULT_N_PREDICT),
            threads: args.threads,
            n_ctx: args.ctx_size,
            modes: match args.mode {
                None => Vec::new(),
                Some(ModeArg::Both) => vec![Mode::Isolated, Mode::Cumulative],
                Some(ModeArg::Isolated) => vec![Mode::Isolated],
                Some(ModeArg::Cumulative) => vec![Mode::Cumulative],
            },
            profile: Profile::open(&args.profile)?,
            spot_check: Some(crossval::parity::seed_of_now()),
            conditions: match args.thorough {
                true => Conditions::All,
                false => Conditions::Sampled,
            },
        },
        known: match &args.known {
            Some(file) => Ledger::open(file)?,
            None => Ledger::default(),
        },
        bench: !args.no_bench,
        command: std::env::args_os()
            .map(|a| a.to_string_lossy().into_owned())
            .collect(),
        environment: environment::describe(provenance),
    };
    let folder = Folder::claim(&args.out)?;
    let baseline = match &args.baseline {
        Some(file) => Baseline::open(file)?,
        None => None,
    };
    let bar = terminal.bar();
    let mut report = bar.during(|progress| crossval::matrix::run(&options, &further, progress))?;
    if let Some(file) = &args.baseline {
        let before = report.clone();
        let standard = args.rule.standard(file, baseline.as_ref());
        hold(&mut report, standard, &mut |tests| {
            bar.during(|progress| {
                measure_again(&launcher, &before, tests, &before.environment, progress)
            })
        });
    }
    drop(bar);
    if let Some(interruption) = interrupt::received() {
        verdict::interrupted(&mut report, interruption);
    }
    let written = reports::write_dir(&args.out, &report, &args.format)?;
    // The baseline may be in the same folder, and is written under the same lock.
    drop(folder);
    if let Some(file) = &args.baseline {
        args.rule.update(file, &report)?;
    }
    match args.json {
        true => terminal.print_json(&report)?,
        false => terminal.print(&(reports::terminal::summary(&report) + &pointer(&written)))?,
    }
    Ok(report.verdict.outcome())
}

/// Those of the flags.
pub(super) fn prompts(
    texts: &[String],
    files: &[PathBuf],
    tokens: Vec<TokenIds>,
) -> Result<Vec<PromptSource>, Error> {
    let mut prompts: Vec<PromptSource> = Vec::new();
    for text in texts {
        prompts.push(PromptSource::Text {
            text: text.clone(),
            source: "--prompt".into(),
        });
    }
    for file in files {
        let text = read("prompt file", file)?;
        prompts.push(PromptSource::Text {
            text,
            source: file.display().to_string(),
        });
    }
    if !tokens.is_empty() {
        let ids = tokens.into_iter().flat_map(|ids| ids.0);
        prompts.push(PromptSource::Tokens(ids.collect()));
    }
    Ok(prompts)
}

fn text(file: Option<&Path>, chunks: Option<usize>) -> Result<Option<TextSource>, Error> {
    file.map(|file| {
        Ok(TextSource {
            text: read("text", file)?,
            source: file.display().to_string(),
            chunks,
        })
    })
    .transpose()
}

fn read(what: &str, file: &Path) -> Result<String, Error> {
    text_file::read(file).map_err(|e| Error::BadInput(format!("{what} {}: {e}", file.display())))
}

pub(super) fn default_prompt() -> PromptSource {
    PromptSource::Text {
        text: "Once upon a time".into(),
        source: "default".into(),
    }
}
