//! A folder for a report.

use std::fs::{File, TryLockError};
use std::io::{Error as IoError, ErrorKind};
use std::path::Path;
use std::time::{Duration, Instant};

use crossval::Error;
use crossval::text_file;

/// How long a lock is tried for: a baseline in the folder is written under it, too, which takes no time.
const TRIED: Duration = Duration::from_secs(1);

/// A folder that can be written to, and that no other crossval writes a report to as long as this lives.
#[derive(Debug)]
pub(super) struct Folder {
    _lock: File,
}

/// Why there is no folder at `path`, and none could be made.
fn no_folder(path: &Path, e: &IoError) -> IoError {
    let file = path
        .ancestors()
        .find(|a| a.exists())
        .filter(|a| a.is_file());
    match file {
        Some(file) if file == path => IoError::new(e.kind(), "this is a file; give a folder"),
        Some(file) => {
            let what = format!("{} is a file, and no folder", file.display());
            IoError::new(e.kind(), what)
        }
        None => saying(e, "this folder cannot be made"),
    }
}

/// What the system says behind what it means here.
fn saying(e: &IoError, what: &str) -> IoError {
    IoError::new(e.kind(), format!("{what}: {}", text_file::in_words(e)))
}

impl Folder {
    /// Creates the folder if need be. To be called before minutes of work, not after.
    ///
    /// # Errors
    /// [`Error::Io`] naming the folder.
    pub(super) fn claim(path: &Path) -> Result<Folder, Error> {
        let io = |e| Error::io(path, e);
        std::fs::create_dir_all(path).map_err(|e| io(no_folder(path, &e)))?;
        let writable = tempfile::NamedTempFile::new_in(path);
        writable.map_err(|e| io(saying(&e, "nothing can be written to this folder")))?;
        let lock = File::open(path).map_err(io)?;
        let until = Instant::now() + TRIED;
        loop {
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                Err(TryLockError::WouldBlock) => {
                    let why = "another crossval is at work on a report there";
                    return Err(io(IoError::new(ErrorKind::ResourceBusy, why)));
                }
                // Some network file systems have no locks.
                Err(TryLockError::Error(e)) if e.kind() != ErrorKind::Unsupported => {
                    return Err(io(e));
                }
                Ok(()) | Err(TryLockError::Error(_)) => return Ok(Folder { _lock: lock }),
            }
        }
    }
}
