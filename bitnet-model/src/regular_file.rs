//! Files that are read from their start to their end.

use std::fs::File;
use std::io;
use std::path::Path;

/// Opens a regular file. Of others, a device has no end, and opening a FIFO waits for a writer.
///
/// # Errors
/// Those of opening a file, and one that says what is wrong.
pub fn open(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    File::open(path)
}
