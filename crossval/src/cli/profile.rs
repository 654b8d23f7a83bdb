//! `crossval profile`.

use std::io::Write;

use clap::Subcommand;
use reports::outcome::Outcome;

use crate::error::Error;
use crate::profile::Profile;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Print the commented TOML of a profile, to copy and edit for `run --profile FILE`
    Show {
        /// standard, strict or a TOML file, which is checked
        #[arg(default_value = "standard")]
        profile: String,
    },
}

pub(super) fn run(args: Args) -> Result<Outcome, Error> {
    let Command::Show { profile } = args.command;
    let text = Profile::text(&profile)?;
    std::io::stdout()
        .write_all(text.as_bytes())
        .map_err(|e| Error::io("standard output", e))?;
    Ok(Outcome::Pass)
}
