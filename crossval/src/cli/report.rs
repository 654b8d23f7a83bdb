//! `crossval report`.

use std::path::{Path, PathBuf};

use reports::outcome::Outcome;

use crate::error::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A report.json
    file: PathBuf,
    /// Folder for the files [default: the folder of FILE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Result<Outcome, Error> {
    let text = std::fs::read_to_string(&args.file)
        .map_err(|e| Error::BadInput(format!("{}: {e}", args.file.display())))?;
    let report = reports::json::parse(&text, &args.file.display().to_string())?;
    let beside = args.file.parent().unwrap_or(Path::new("."));
    let paths = reports::write_dir(args.out.as_deref().unwrap_or(beside), &report)?;
    println!("{}\n{}", paths.html.display(), paths.markdown.display());
    Ok(Outcome::Pass)
}
