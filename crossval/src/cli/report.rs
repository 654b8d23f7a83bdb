//! `crossval report`.

use std::path::{Path, PathBuf};

use reports::Report;
use reports::outcome::Outcome;

use super::terminal::Terminal;
use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A report.json
    file: PathBuf,
    /// Folder for the files [default: the folder of FILE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let report = read_report(&args.file)?;
    let beside = args.file.parent().unwrap_or(Path::new("."));
    let paths = reports::write_dir(args.out.as_deref().unwrap_or(beside), &report)?;
    terminal.print(&format!(
        "{}\n{}\n",
        paths.html.display(),
        paths.markdown.display()
    ))?;
    Ok(Outcome::Pass)
}

pub(super) fn read_report(file: &Path) -> Result<Report, Error> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Error::BadInput(format!("{}: {e}", file.display())))?;
    Ok(reports::json::parse(&text, &file.display().to_string())?)
}
