//! `crossval profile`.

use clap::Subcommand;
use reports::outcome::Outcome;
use serde::Serialize;

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
        /// Print the limits as JSON, those of `standard` among them that a file of your own does not name
        #[arg(long)]
        json: bool,
    },
}

/// What `--json` prints.
#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    name: String,
    /// The tables of the TOML.
    #[serde(flatten)]
    limits: serde_json::Value,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let Command::Show { profile, json } = args.command;
    match json {
        true => terminal.print_json(&Shown {
            schema: "crossval.profile/1",
            limits: Profile::limits(&profile)?,
            name: profile,
        })?,
        false => terminal.print_always(&Profile::text(&profile)?)?,
    }
    Ok(Outcome::Pass)
}
