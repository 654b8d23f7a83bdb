//! `crossval generate`.

use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;
use reports::outcome::Outcome;

use super::Cli;
use super::terminal::Terminal;
use crossval::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print a completion script, to be sourced by the shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write a man page of crossval and of each of its commands
    Man {
        /// Folder for them
        dir: PathBuf,
    },
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let mut cli = Cli::command();
    match args.what {
        What::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut cli, "crossval", &mut script);
            terminal.print_always(&String::from_utf8_lossy(&script))?;
        }
        What::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
            clap_mangen::generate_to(cli, &dir).map_err(|e| Error::io(&dir, e))?;
        }
    }
    Ok(Outcome::Pass)
}
