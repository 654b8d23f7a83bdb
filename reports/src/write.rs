//! Reports on disk.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::model::Report;
use crate::{html, json, markdown};

/// The files of a written report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// `report.json`.
    pub json: PathBuf,
    /// `report.html`.
    pub html: PathBuf,
    /// `report.md`.
    pub markdown: PathBuf,
}

/// Writes `report.json`, `report.html` and `report.md` to `dir`, which is created if need be. Each file
/// appears whole or not at all; older ones are replaced.
///
/// # Errors
/// [`Error::Io`] naming the path, or what the writers of the three formats return.
pub fn write_dir(dir: &Path, report: &Report) -> Result<Paths, Error> {
    let paths = Paths {
        json: dir.join("report.json"),
        html: dir.join("report.html"),
        markdown: dir.join("report.md"),
    };
    fs::create_dir_all(dir).map_err(|source| Error::Io {
        action: "create",
        path: dir.to_owned(),
        source,
    })?;
    write_file(&paths.json, &json::write(report)?)?;
    write_file(&paths.html, &html::render(report)?)?;
    write_file(&paths.markdown, &markdown::render(report))?;
    Ok(paths)
}

/// Writes by way of a temporary file beside `path`, so that nobody ever reads half a report.
fn write_file(path: &Path, text: &str) -> Result<(), Error> {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let written = File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    });
    written.map_err(|source| {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        Error::Io {
            action: "write",
            path: path.to_owned(),
            source,
        }
    })
}
