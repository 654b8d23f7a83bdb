//! `crossval bench`.

use std::path::PathBuf;

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;
use reports::outcome::Outcome;
use reports::records::{bench_csv, bench_jsonl};

use super::limits::LimitFlags;
use super::report::{Files, pointer};
use super::run;
use super::terminal::{self, Terminal};
use crossval::Error;
use crossval::environment::{self, Provenance};
use crossval::interrupt;
use crossval::session::setup::Setup;
use crossval::speed::bench::{BenchOptions, REPETITIONS, measure};
use crossval::verdict;

/// Notes on what is measured, for `--help`.
const NOTES: &str = "\
Tests:
  ppN        prefill of N random tokens from an empty context, logits of the last one only
  tgN        N greedy decode steps behind a one-token prompt
  ... certified  the same with the candidate's compact head (--compact-head), its tokens held to tgN's
  ttft       from the first ppN prompt to its first token, the model loaded
  load       loading the model, at the first of the thread counts, from the page cache
  load+ttft  loading it, then the first token: an engine that only maps the file reads it here
  ... cold   the same with the model's file dropped from the page cache, where that can be done

Each figure is a median with its 95% bootstrap interval. Ratios are candidate over reference, pair by \
pair; above 1 the candidate is faster. The roofline is measured in the same run on the same cores: \
decode is held against the read bandwidth, prefill against the int8 peak.

The exit code is 10 if an engine generates other tokens timed than untimed. That the two engines differ \
from each other is reported and is no failure: whether it is more than a near tie is for `crossval run` \
to say.";

#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Args {
    /// The model, a GGUF file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Engine to compare against: bitnet.cpp, bitnet.cpp@NAME, rust, oracle or exec:COMMAND
    #[arg(long, value_name = "ENGINE", default_value = "bitnet.cpp")]
    reference: String,
    /// Engine under test
    #[arg(long, value_name = "ENGINE", default_value = "rust")]
    candidate: String,
    /// Threads per engine, one or several counts [default: 1 and one per core]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = run::threads)]
    threads: Vec<usize>,
    /// Tokens to prefill, one or several counts [default: 128,512, as far as they fit the model's context]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = at_least_one())]
    prefill: Vec<usize>,
    /// Steps to decode [default: 64]
    #[arg(long, value_name = "N", value_parser = at_least_one())]
    decode: Option<usize>,
    /// Pairs per test, warm-up apart
    #[arg(long, value_name = "N", default_value_t = REPETITIONS, value_parser = at_least_one())]
    reps: usize,
    /// Decode with a compact copy of the candidate's output head too, of at most so many MiB: the same tokens from less
    /// memory traffic
    #[arg(long, value_name = "MIB", value_parser = RangedU64ValueParser::<u64>::new().range(1..1 << 40))]
    compact_head: Option<u64>,
    /// How to print the results: md is Markdown, csv and jsonl have every figure and sample
    #[arg(long, value_enum, default_value_t = Print::Table)]
    print: Print,
    /// Print the report as JSON, and nothing else
    #[arg(long, conflicts_with = "print")]
    json: bool,
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    limits: LimitFlags,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Print {
    Table,
    Md,
    Csv,
    Jsonl,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let options = BenchOptions {
        setup: Setup {
            launcher: args.limits.launcher(),
            model: args.model,
            reference: args.reference.parse()?,
            candidate: args.candidate.parse()?,
        },
        threads: unique(args.threads),
        prefill: unique(args.prefill),
        decode: args.decode,
        repetitions: args.reps,
        compact_head_budget: args.compact_head.unwrap_or(0) << 20,
        command: std::env::args_os()
            .map(|a| a.to_string_lossy().into_owned())
            .collect(),
        environment: environment::describe(provenance),
    };
    let _folder = args.files.claim()?;
    let mut report = terminal
        .bar()
        .during(|progress| measure(&options, progress))?;
    if let Some(interruption) = interrupt::received() {
        verdict::interrupted(&mut report, interruption);
    }
    for reason in &report.verdict.reasons {
        terminal::complain(&format!("error: {reason}"));
    }
    let written = args.files.write(&report)?;
    match args.print {
        _ if args.json => terminal.print_json(&report)?,
        Print::Table => {
            terminal.print(&(reports::terminal::bench(&report) + &pointer(&written)))?
        }
        Print::Md => terminal.print(&reports::terminal::bench_markdown(&report))?,
        Print::Csv => terminal.print(&bench_csv(&report))?,
        Print::Jsonl => terminal.print(&bench_jsonl(&report))?,
    }
    Ok(report.verdict.outcome())
}

/// Without repetitions, in the order given.
fn unique(numbers: Vec<usize>) -> Vec<usize> {
    let mut unique: Vec<usize> = Vec::new();
    for n in numbers {
        if !unique.contains(&n) {
            unique.push(n);
        }
    }
    unique
}
