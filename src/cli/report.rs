//! `crossval report`.

use std::path::{Path, PathBuf};

use reports::comparison::Comparison;
use reports::outcome::Outcome;
use reports::{Format, Report};

use super::limits::format;
use super::terminal::Terminal;
use crossval::Error;
use crossval::text_file;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A report.json
    file: PathBuf,
    /// Another, to be seen side by side with the first: what got better or worse, appeared or vanished
    other: Option<PathBuf>,
    /// Folder for the files [default: the folder of FILE; of two reports, none are written]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// What to write: json, html, md, junit, csv, jsonl; of two reports always json, html and md
    #[arg(
        long,
        value_name = "FORMAT,…",
        value_delimiter = ',',
        value_parser = format,
        default_values_t = [Format::Html, Format::Md],
        conflicts_with = "other"
    )]
    format: Vec<Format>,
    /// Print the report or the comparison as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// The report as files, if they are asked for.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// Folder for the report [default: none is written]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What to write there: json, html, md, junit, csv, jsonl
    #[arg(
        long,
        value_name = "FORMAT,…",
        value_delimiter = ',',
        value_parser = format,
        default_values_t = Format::DEFAULT,
        requires = "out"
    )]
    format: Vec<Format>,
}

impl Files {
    /// Writes a report, and returns the files.
    pub(super) fn write(&self, report: &Report) -> Result<Vec<(Format, PathBuf)>, Error> {
        Ok(match &self.out {
            Some(folder) => reports::write_dir(folder, report, &self.format)?,
            None => Vec::new(),
        })
    }
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let report = read_report(&args.file)?;
    match &args.other {
        Some(other) => compare(&report, &read_report(other)?, &args, terminal)?,
        None => render(&report, &args, terminal)?,
    }
    Ok(Outcome::Pass)
}

fn render(report: &Report, args: &Args, terminal: Terminal) -> Result<(), Error> {
    let beside = args.file.parent().unwrap_or(Path::new("."));
    let out = args.out.as_deref().unwrap_or(beside);
    let written = reports::write_dir(out, report, &args.format)?;
    match args.json {
        true => terminal.print_json(report),
        false => terminal.print(&lines(written.iter().map(|(_, path)| path))),
    }
}

fn compare(a: &Report, b: &Report, args: &Args, terminal: Terminal) -> Result<(), Error> {
    let comparison = Comparison::new(a, b);
    let written = match &args.out {
        Some(out) => reports::write_comparison(out, &comparison)?,
        None => Vec::new(),
    };
    if args.json {
        return terminal.print_json(&comparison);
    }
    let mut text = comparison.text();
    if !written.is_empty() {
        text += "\n";
        text += &lines(written.iter());
    }
    terminal.print(&text)
}

fn lines<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> String {
    paths.map(|path| format!("{}\n", path.display())).collect()
}

pub(super) fn read_report(file: &Path) -> Result<Report, Error> {
    let text =
        text_file::read(file).map_err(|e| Error::BadInput(format!("{}: {e}", file.display())))?;
    Ok(reports::json::parse(&text, &file.display().to_string())?)
}

/// `report  DIR/report.html`, or whichever is written first.
pub(super) fn pointer(written: &[(Format, PathBuf)]) -> String {
    let html = written.iter().find(|(format, _)| *format == Format::Html);
    let shown = html.or(written.first());
    shown.map_or(String::new(), |(_, path)| {
        format!("\nreport  {}\n", path.display())
    })
}
