//! `crossval profile`.

use clap::Subcommand;
use reports::outcome::Outcome;

use super::terminal::Terminal;
use crossval::Error;
use crossval::profile::Profile;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the commented TOML of a profile, to copy and edit for `run --profile FILE`
    Show {
        /// standard, strict, logits or a TOML file, which is checked
        #[arg(default_value = "standard")]
        profile: String,
    },
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let Command::Show { profile } = args.command;
    let text = Profile::text(&profile)?;
    terminal.print_always(&text)?;
    Ok(Outcome::Pass)
}
