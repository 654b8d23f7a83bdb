//! Reports on disk.

use std::fmt;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::comparison::Comparison;
use crate::error::Error;
use crate::model::Report;
use crate::staged::StagedFile;
use crate::{html, json, junit, markdown, records};

/// A format that reports are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `report.json`: everything, [`Report`] as it is.
    Json,
    /// `report.html`: one self-contained page.
    Html,
    /// `report.md`: GitHub's Markdown, short enough for a comment.
    Md,
    /// `junit.xml`: a test case per layer, gate series and whatever else is judged.
    Junit,
    /// `taps.csv` and `bench.csv`.
    Csv,
    /// `taps.jsonl` and `bench.jsonl`.
    Jsonl,
}

impl Format {
    /// All of them.
    pub const ALL: [Format; 6] = [
        Format::Json,
        Format::Html,
        Format::Md,
        Format::Junit,
        Format::Csv,
        Format::Jsonl,
    ];
    /// Those that are written unless others are asked for.
    pub const DEFAULT: [Format; 3] = [Format::Json, Format::Html, Format::Md];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Html => "html",
            Format::Md => "md",
            Format::Junit => "junit",
            Format::Csv => "csv",
            Format::Jsonl => "jsonl",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = Error;

    fn from_str(name: &str) -> Result<Format, Error> {
        let mut all = Format::ALL.into_iter();
        all.find(|format| format.name() == name)
            .ok_or_else(|| Error::UnknownFormat {
                name: name.to_owned(),
                known: Format::ALL.map(Format::name).join(", "),
            })
    }
}

/// Writes a report in some formats to `dir`, which is created if need be, and returns the files written, in the order
/// of `formats`. Older ones are replaced when all of the new ones are on the disk: where one cannot be written, the
/// folder is left as it was.
///
/// # Errors
/// [`Error::Io`] naming the path, or what the writers of the formats return.
pub fn write_dir(
    dir: &Path,
    report: &Report,
    formats: &[Format],
) -> Result<Vec<(Format, PathBuf)>, Error> {
    let mut files = Vec::new();
    for &format in formats {
        for (name, text) in render(report, format)? {
            files.push((format, (name, text)));
        }
    }
    let paths = write_all(dir, files.iter().map(|(_, file)| file))?;
    let formats = files.iter().map(|&(format, _)| format);
    Ok(formats.zip(paths).collect())
}

/// Writes `comparison.json`, `comparison.html` and `comparison.md` to `dir` likewise, and returns them.
///
/// # Errors
/// As [`write_dir`].
pub fn write_comparison(dir: &Path, comparison: &Comparison) -> Result<Vec<PathBuf>, Error> {
    let json = serde_json::to_string_pretty(comparison).map_err(|source| Error::NotJson {
        at: ".".to_owned(),
        source,
    })?;
    let files = [
        ("comparison.json", json),
        ("comparison.html", comparison.html()?),
        ("comparison.md", comparison.markdown()),
    ];
    write_all(dir, &files)
}

/// The files of a format, names and contents.
///
/// # Errors
/// What the format's writer returns.
pub fn render(report: &Report, format: Format) -> Result<Vec<(&'static str, String)>, Error> {
    Ok(match format {
        Format::Json => vec![("report.json", json::write(report)?)],
        Format::Html => vec![("report.html", html::render(report)?)],
        Format::Md => vec![("report.md", markdown::render(report))],
        Format::Junit => vec![("junit.xml", junit::render(report)?)],
        Format::Csv => vec![
            ("taps.csv", records::taps_csv(report)),
            ("bench.csv", records::bench_csv(report)),
        ],
        Format::Jsonl => vec![
            ("taps.jsonl", records::taps_jsonl(report)),
            ("bench.jsonl", records::bench_jsonl(report)),
        ],
    })
}

/// By way of temporary files beside the files, so that nobody ever reads half a report.
fn write_all<'a>(
    dir: &Path,
    files: impl IntoIterator<Item = &'a (&'static str, String)>,
) -> Result<Vec<PathBuf>, Error> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            action,
            path,
            source,
        }
    };
    fs::create_dir_all(dir).map_err(failed("create", dir))?;
    let mut staged = Vec::new();
    for (name, text) in files {
        let path = dir.join(name);
        let stage = || {
            let mut file = StagedFile::create(&path)?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
            Ok(file)
        };
        staged.push((stage().map_err(failed("write", &path))?, path));
    }
    let in_place = staged.into_iter().map(|(file, path)| {
        file.finish().map_err(failed("write", &path))?;
        Ok(path)
    });
    in_place.collect()
}
