//! Reports as JSON text.

use std::path::Path;

use serde_json::Value;

use crate::error::Error;
use crate::model::{Report, SCHEMA};

/// The report as indented JSON text. What it returns, [`parse`] takes.
///
/// # Errors
/// [`Error::NotJson`] if a field that may not be `null` is NaN or infinite.
pub fn write(report: &Report) -> Result<String, Error> {
    write_compact(report)?;
    serde_json::to_string_pretty(report).map_err(|source| Error::NotJson {
        at: ".".to_owned(),
        source,
    })
}

/// The same without white space, for embedding.
pub(crate) fn write_compact(report: &Report) -> Result<String, Error> {
    let text = serde_json::to_string(report).map_err(|source| Error::NotJson {
        at: ".".to_owned(),
        source,
    })?;
    // serde_json writes every non-finite number as null, which only optional fields can be read back from.
    serde_path_to_error::deserialize::<_, Report>(&mut serde_json::Deserializer::from_str(&text))
        .map_err(|error| Error::NotJson {
        at: error.path().to_string(),
        source: error.into_inner(),
    })?;
    Ok(text)
}

/// Reads a report from JSON text; `origin` names the text in errors. Unknown fields are ignored, since
/// within /1 fields may be added.
///
/// # Errors
/// [`Error::Schema`] if `schema` is not [`SCHEMA`], [`Error::Parse`] if the text is not JSON or a field is
/// missing or of the wrong type.
pub fn parse(text: &str, origin: &str) -> Result<Report, Error> {
    let value: Value = serde_json::from_str(text).map_err(|source| Error::Parse {
        origin: origin.to_owned(),
        at: ".".to_owned(),
        source,
    })?;
    let found = value.get("schema").and_then(Value::as_str);
    if found != Some(SCHEMA) {
        return Err(Error::Schema {
            origin: origin.to_owned(),
            found: found.map(str::to_owned),
        });
    }
    serde_path_to_error::deserialize(value).map_err(|error| Error::Parse {
        origin: origin.to_owned(),
        at: error.path().to_string(),
        source: error.into_inner(),
    })
}

/// Reads a report from a file.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read as UTF-8 text, else as [`parse`].
pub fn read(path: &Path) -> Result<Report, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Io {
        action: "read",
        path: path.to_owned(),
        source,
    })?;
    parse(&text, &path.display().to_string())
}
