//! What can go wrong while a report is read, rendered or written.

use std::path::PathBuf;

use crate::model::SCHEMA;

/// Why a report could not be read, rendered or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read, created or written.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried: `read`, `create`, `write`, `compress`.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The text is not a report.
    #[error("{origin}: not a {SCHEMA} report: {at}: {source}")]
    Parse {
        /// The file, or what else the text came from.
        origin: String,
        /// The field at fault, such as `taps[12].isolated.rows`; `.` for the whole document.
        at: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The text is a report of another schema, or has none.
    #[error("{origin}: schema is {}, expected {SCHEMA:?}", .found.as_deref().map_or_else(|| "missing".to_owned(), |s| format!("{s:?}")))]
    Schema {
        /// The file, or what else the text came from.
        origin: String,
        /// Its `schema`, if that is there and a string.
        found: Option<String>,
    },
    /// A field holds what JSON cannot express: NaN or an infinity where `null` is not allowed.
    #[error("the report has no JSON form: {at}: {source}")]
    NotJson {
        /// The field at fault.
        at: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// There is no format of that name.
    #[error("unknown format {name:?}; there are {known}")]
    UnknownFormat {
        /// The name.
        name: String,
        /// Names of those that there are.
        known: String,
    },
    /// JUnit's XML could not be written.
    #[error("JUnit: {0}")]
    Junit(#[from] quick_junit::SerializeError),
    /// The HTML template failed.
    #[error("HTML template: {0:#}")]
    Template(#[from] minijinja::Error),
    /// A chart could not be drawn.
    #[error("chart {chart:?}: {message}")]
    Chart {
        /// Its title.
        chart: String,
        /// The drawing library's message.
        message: String,
    },
}
