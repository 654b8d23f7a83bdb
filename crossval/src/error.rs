//! What ends a command early, and with which exit code.

use std::io;
use std::path::{Path, PathBuf};

use reports::outcome::Outcome;

use crate::interrupt::Interruption;
use crate::text_file::in_words;

/// An error of the driver or the command line. The message names the file, flag or engine at fault.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Flags or inputs that cannot be served.
    #[error("{0}")]
    Usage(String),
    /// An option that cannot be served, by its name. The command line shows it as a flag.
    #[error("{option}: {what}")]
    Option {
        /// `prefill`, `text`, …
        option: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// A model or input file that cannot be used.
    #[error("{0}")]
    BadInput(String),
    /// An engine that is missing, refused or died.
    #[error("{0}")]
    Engine(String),
    /// Reading or writing failed.
    #[error("{path}: {}", in_words(.source), path = path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What happened.
        source: io::Error,
    },
    /// A signal ended the command before there was anything to report.
    #[error(transparent)]
    Interrupted(#[from] Interruption),
    /// A defect of crossval itself.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// An I/O error at `path`.
    pub fn io(path: impl AsRef<Path>, source: io::Error) -> Error {
        Error::Io {
            path: path.as_ref().to_owned(),
            source,
        }
    }

    /// What is wrong with an option.
    pub(crate) fn option(option: &'static str, what: impl Into<String>) -> Error {
        let what = what.into();
        Error::Option { option, what }
    }

    /// The outcome, and with it the exit code.
    pub fn outcome(&self) -> Outcome {
        match self {
            Error::Usage(_) | Error::Option { .. } => Outcome::Usage,
            Error::BadInput(_) => Outcome::BadInput,
            Error::Engine(_) => Outcome::Engine,
            Error::Io { .. } => Outcome::Io,
            Error::Interrupted(interruption) => interruption.outcome(),
            Error::Internal(_) => Outcome::Internal,
        }
    }
}

impl From<reports::Error> for Error {
    fn from(e: reports::Error) -> Error {
        match e {
            reports::Error::Io { path, source, .. } => Error::Io { path, source },
            e @ (reports::Error::Parse { .. } | reports::Error::Schema { .. }) => {
                Error::BadInput(e.to_string())
            }
            e => Error::Internal(e.to_string()),
        }
    }
}
