//! The command line: one file per subcommand. Errors become one message and the exit code here.

mod bench;
mod check_worker;
mod convert;
mod diff;
mod doctor;
mod folder;
mod gate;
mod generate;
mod inspect;
mod limits;
mod profile;
mod record;
mod report;
mod run;
mod selftest;
mod synth;
mod terminal;
mod tokenize;
mod tokens;
mod usage;

use std::path::PathBuf;
use std::process::ExitCode;

use bitnet_model::Activation;
use clap::{Parser, Subcommand};
use reports::outcome::Outcome;

use crossval::Error;
use crossval::environment::Provenance;
use crossval::interrupt;
use crossval_workers as workers;
use crossval_workers::fault::Faults;
use terminal::Terminal;

const EXIT_CODES: &str = "\
Exit codes:
  0    pass, also with known deviations
  10   parity failed (values, tokens), or a fault undetected
  11   performance regressed against the baseline
  12   both
  20   incomplete: something that was to be compared was not
  21   no baseline to judge the speed by, or too few samples
  30   an engine is missing or failed
  64   wrong usage (also: prompt longer than the context)
  65   bad model or input file
  70   internal error
  74   input/output error
  130  interrupted (SIGINT); a report says what was done until then
  143  terminated (SIGTERM); likewise";

/// Cross-validates and times BitNet b1.58 engines: is an engine right, and is it fast?
#[derive(Debug, Parser)]
#[command(name = "crossval", version, after_help = EXIT_CODES)]
struct Cli {
    /// Print no summary and no progress
    #[arg(long, short, global = true, display_order = 1000)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run both engines on the same tokens, compare every layer, write a report
    Run(run::Args),
    /// Time both engines side by side: prefill, decode, latency, load, memory, share of what the machine can do
    Bench(bench::Args),
    /// Hold reports against a baseline: is an engine still right, and not slower?
    Gate(gate::Args),
    /// Put faults into the engine under test, one at a time, and see whether the comparison finds each; on the bundled
    /// demo model, if no other is given
    Selftest(selftest::Args),
    /// Run one engine and keep everything that a later comparison needs
    Record(record::Args),
    /// Tokenize a text in both engines and compare, token by token
    Tokenize(tokenize::Args),
    /// See whether a worker keeps to the protocol: every message, batches of several sizes, errors, both ways to end
    CheckWorker(check_worker::Args),
    /// Write a synthetic model: random weights with realistic statistics, and a tokenizer
    Synth(synth::Args),
    /// Show what is in a model file, and whether each engine can run it
    Inspect(inspect::Args),
    /// Hold two model files against each other: keys, vocabulary, every tensor, and which mistake of a converter explains it
    Diff(diff::Args),
    /// Write a model again with its matrices in another type, and hold it against what it was
    Convert(convert::Args),
    /// Show the toolchain, the reference builds and the CPU features
    Doctor(doctor::Args),
    /// Show a tolerance profile
    Profile(profile::Args),
    /// Render a report again from its JSON, or show two side by side
    Report(report::Args),
    /// Print a shell's completions, or write the man pages
    Generate(generate::Args),
    /// Render the chat templates of `--chat`, from standard input to standard output
    #[command(hide = true, name = crossval_protocol::chat::COMMAND)]
    RenderChat,
    /// Run an engine in this process, speaking the worker protocol on standard input and output
    #[command(hide = true)]
    Worker {
        /// rust, bitnet.cpp or trace
        engine: String,
        /// A deliberate error
        #[arg(long)]
        fault: Option<Faults>,
        /// The trace
        #[arg(long)]
        file: Option<PathBuf>,
        /// In place of the one that the model's file names
        #[arg(long, value_parser = limits::activation())]
        activation: Option<Activation>,
    },
}

/// Runs the command that the process was started with.
pub fn main(provenance: &Provenance) -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(mut e) => {
            usage::suggest(&mut e);
            usage::print(&e);
            let outcome = if e.use_stderr() {
                Outcome::Usage
            } else {
                Outcome::Pass
            };
            return outcome.exit_code().into();
        }
    };
    let terminal = Terminal { quiet: cli.quiet };
    dispatch(cli.command, provenance, terminal)
        .unwrap_or_else(|e| {
            // What a signal has ended fails in many ways.
            let e = interrupt::received().map_or(e, Error::from);
            terminal::complain(&match &e {
                Error::Option { option, what } => format!("error: --{option}: {what}"),
                e => format!("error: {e}"),
            });
            e.outcome()
        })
        .exit_code()
        .into()
}

fn dispatch(
    command: Command,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    if !matches!(command, Command::Worker { .. } | Command::RenderChat) {
        interrupt::watch().map_err(|e| Error::Internal(format!("signal handlers: {e}")))?;
    }
    match command {
        Command::Run(args) => run::run(args, provenance, terminal),
        Command::Bench(args) => bench::run(args, provenance, terminal),
        Command::Gate(args) => gate::run(args, provenance, terminal),
        Command::Selftest(args) => selftest::run(args, provenance, terminal),
        Command::Record(args) => record::run(args, provenance, terminal),
        Command::Tokenize(args) => tokenize::run(args, terminal),
        Command::CheckWorker(args) => check_worker::run(args, terminal),
        Command::Synth(args) => synth::run(args, terminal),
        Command::Inspect(args) => inspect::run(args, terminal),
        Command::Diff(args) => diff::run(args, terminal),
        Command::Convert(args) => convert::run(args, terminal),
        Command::Doctor(args) => doctor::run(args, provenance, terminal),
        Command::Profile(args) => profile::run(args, terminal),
        Command::Report(args) => report::run(args, terminal),
        Command::Generate(args) => generate::run(args, terminal),
        Command::RenderChat => workers::chat::serve()
            .map(|()| Outcome::Pass)
            .map_err(of_worker),
        Command::Worker {
            engine,
            fault,
            file,
            activation,
        } => workers::serve(&engine, fault.as_ref(), file.as_deref(), activation)
            .map(|()| Outcome::Pass)
            .map_err(of_worker),
    }
}

fn of_worker(e: workers::Error) -> Error {
    match e {
        workers::Error::Usage(what) => Error::Usage(what),
        workers::Error::BadInput(what) => Error::BadInput(what),
        workers::Error::Internal(what) => Error::Internal(what),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
