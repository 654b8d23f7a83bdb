//! `crossval bench`.

use std::path::PathBuf;

use clap::builder::RangedU64ValueParser;
use reports::outcome::Outcome;
use reports::{Format, render, write_dir};

use super::folder::Folder;
use super::limits::{LimitFlags, ModelFile, ModelFlags, format};
use super::report::pointer;
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

The exit code is 10 if an engine generates other tokens timed than untimed or than its own logits say, \
or if what it reports of its time, memory and CPU time does not fit the driver's clock, the operating \
system's counts or the machine's limits. That the two engines differ \
from each other is reported and is no failure: whether it is more than a near tie is for `crossval run` \
to say.";

#[derive(Debug, clap::Args)]
#[command(after_help = NOTES)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFile,
    /// Engine to compare against: bitnet.cpp, bitnet.cpp@NAME, llama.cpp, rust, oracle or exec:COMMAND
    #[arg(long, value_name = "ENGINE", default_value = "bitnet.cpp")]
    reference: String,
    /// Engine under test
    #[arg(long, value_name = "ENGINE", default_value = "rust")]
    candidate: String,
    /// Threads per engine, one or several counts [default: 1 and one per core]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', value_parser = run::threads)]
    threads: Vec<usize>,
    /// Tokens to prefill, one or several counts [default: 128,512, as far as they fit the model's context]
    #[arg(short, long, value_name = "N,…", value_delimiter = ',', value_parser = at_least_one())]
    prefill: Vec<usize>,
    /// Steps to decode [default: 64]
    #[arg(short = 'n', long, value_name = "N", value_parser = at_least_one())]
    decode: Option<usize>,
    /// Pairs per test, warm-up apart
    #[arg(long, value_name = "N", default_value_t = REPETITIONS, value_parser = at_least_one())]
    reps: usize,
    /// Decode with a compact copy of the candidate's output head too, of at most so many MiB: the same tokens from less
    /// memory traffic
    #[arg(long, value_name = "MIB", value_parser = RangedU64ValueParser::<u64>::new().range(1..1 << 40))]
    compact_head: Option<u64>,
    /// Folder for the report [default: none is written]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// With --out, what to write there: json, html, md, junit, csv, jsonl [default: json,html,md]; without, which of
    /// them to print in place of the table
    #[arg(long, value_name = "FORMAT,…", value_delimiter = ',', value_parser = format)]
    format: Vec<Format>,
    /// Print the report as JSON, and nothing else
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    of_model: ModelFlags,
    #[command(flatten)]
    limits: LimitFlags,
}

fn at_least_one() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(1..)
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let print = match (&args.out, args.format.as_slice()) {
        (Some(_), _) | (None, []) => None,
        (None, &[format]) if !args.json => Some(format),
        _ => {
            let what = "one is printed, and none beside --json; --out DIR writes several";
            return Err(Error::Usage(format!("--format: {what}")));
        }
    };
    let options = BenchOptions {
        setup: Setup {
            launcher: args.of_model.apply(args.limits.launcher()),
            model: args.model.required()?,
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
    let _folder = args.out.as_deref().map(Folder::claim).transpose()?;
    let mut report = terminal
        .bar()
        .during(|progress| measure(&options, progress))?;
    if let Some(interruption) = interrupt::received() {
        verdict::interrupted(&mut report, interruption);
    }
    for reason in &report.verdict.reasons {
        terminal::complain(&format!("error: {reason}"));
    }
    let written = match &args.out {
        Some(out) if args.format.is_empty() => write_dir(out, &report, &Format::DEFAULT)?,
        Some(out) => write_dir(out, &report, &args.format)?,
        None => Vec::new(),
    };
    match print {
        _ if args.json => terminal.print_json(&report)?,
        None => terminal.print(&(reports::terminal::bench(&report) + &pointer(&written)))?,
        // The last file: taps come before timings.
        Some(format) => {
            let (_, text) = render(&report, format)?.pop().unwrap_or_default();
            terminal.print_always(&text)?;
        }
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
