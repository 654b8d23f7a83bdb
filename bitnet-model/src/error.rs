//! The error type of models and engines: opaque, with a kind to act on and a message that names what is at fault.

use std::fmt;
use std::io;
use std::path::Path;

use crate::tap::ObserverError;

/// What sort of thing went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system refused: no such file, no permission, disk full.
    Io,
    /// The file is damaged, truncated, or contradicts itself or its format.
    BadFile,
    /// The file is sound but asks for something that this engine does not have.
    Unsupported,
    /// A tensor that the architecture needs is not in the file, or one in the file is not used.
    MissingTensor,
    /// The caller asked for something impossible: token out of range, context overflow.
    Usage,
    /// The observer stopped the evaluation.
    Observer,
}

/// An error of this crate. Its message names the file and the tensor, key or argument at fault.
#[derive(thiserror::Error)]
#[error(transparent)]
pub struct Error(Box<Repr>);

#[derive(Debug, thiserror::Error)]
enum Repr {
    #[error("{path}: {source}")]
    Io {
        path: String,
        #[source]
        source: io::Error,
    },
    /// `place` is a file, with the key, tensor or byte offset in `what`.
    #[error("{place}: {what}")]
    BadFile { place: String, what: String },
    #[error("{place}: {what}")]
    Unsupported { place: String, what: String },
    #[error("{place}: {what}")]
    MissingTensor { place: String, what: String },
    #[error("{0}")]
    Usage(String),
    #[error("observer: {0}")]
    Observer(#[source] ObserverError),
}

impl Error {
    /// What sort of thing went wrong.
    pub fn kind(&self) -> ErrorKind {
        match *self.0 {
            Repr::Io { .. } => ErrorKind::Io,
            Repr::BadFile { .. } => ErrorKind::BadFile,
            Repr::Unsupported { .. } => ErrorKind::Unsupported,
            Repr::MissingTensor { .. } => ErrorKind::MissingTensor,
            Repr::Usage(_) => ErrorKind::Usage,
            Repr::Observer(_) => ErrorKind::Observer,
        }
    }

    /// The operating system refused something at `path`.
    pub fn io(path: &Path, source: io::Error) -> Error {
        let path = path.display().to_string();
        Repr::Io { path, source }.into()
    }

    /// The file at `place` is damaged or contradicts itself; `what` names the key, tensor or byte.
    pub fn bad_file(place: &Path, what: impl Into<String>) -> Error {
        let (place, what) = (place.display().to_string(), shortened(what.into()));
        Repr::BadFile { place, what }.into()
    }

    /// The file at `place` asks for what is not there; `what` names the key or tensor.
    pub fn unsupported(place: &Path, what: impl Into<String>) -> Error {
        let (place, what) = (place.display().to_string(), shortened(what.into()));
        Repr::Unsupported { place, what }.into()
    }

    /// A tensor of the file at `place` is missing, or not part of the model.
    pub fn missing_tensor(place: &Path, what: impl Into<String>) -> Error {
        let (place, what) = (place.display().to_string(), shortened(what.into()));
        Repr::MissingTensor { place, what }.into()
    }

    /// The caller asked for something impossible.
    pub fn usage(what: impl Into<String>) -> Error {
        Repr::Usage(what.into()).into()
    }

    /// An observer stopped the evaluation.
    pub fn observer(why: ObserverError) -> Error {
        Repr::Observer(why).into()
    }
}

/// A message without its middle, if it is long: names and texts from a file may be.
fn shortened(what: String) -> String {
    const BOTH_ENDS: usize = 240;
    if what.len() <= 3 * BOTH_ENDS {
        return what;
    }
    let start = &what[..what.floor_char_boundary(BOTH_ENDS)];
    let end = &what[what.ceil_char_boundary(what.len() - BOTH_ENDS)..];
    format!("{start} … {end}")
}

impl From<Repr> for Error {
    fn from(repr: Repr) -> Error {
        Error(Box::new(repr))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
