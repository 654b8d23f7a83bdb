//! Files that appear whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// A file to be: written beside its place, and put there by [`StagedFile::finish`]. Dropped before, it leaves nothing
/// behind.
#[derive(Debug)]
pub struct StagedFile {
    file: Place,
    path: PathBuf,
}

#[derive(Debug)]
enum Place {
    Beside(NamedTempFile),
    /// A terminal, a pipe or a device cannot be replaced.
    There(File),
}

impl StagedFile {
    /// Starts a file that will be at `path`, in a folder that exists. An older one stays until the end; the new one
    /// has its permissions. Behind a symbolic link the file is replaced, not the link.
    ///
    /// # Errors
    /// Whatever keeps a file from being created there; [`io::ErrorKind::IsADirectory`] if it is a folder.
    pub fn create(path: &Path) -> io::Result<StagedFile> {
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let permissions = match fs::metadata(&path) {
            Ok(there) if there.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(there) if !there.is_file() => {
                let file = Place::There(OpenOptions::new().write(true).open(&path)?);
                return Ok(StagedFile { file, path });
            }
            Ok(there) => there.permissions(),
            // Less what the umask takes away.
            Err(_) => Permissions::from_mode(0o666),
        };
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        let file = tempfile::Builder::new()
            .prefix(".crossval-")
            .suffix(".tmp")
            .permissions(permissions)
            .tempfile_in(folder)?;
        let file = Place::Beside(file);
        Ok(StagedFile { file, path })
    }

    /// Puts it in its place once it is on the disk.
    ///
    /// # Errors
    /// Whatever keeps it from that; the older file is still there then.
    pub fn finish(mut self) -> io::Result<()> {
        self.flush()?;
        if let Place::Beside(file) = self.file {
            file.persist(&self.path)?;
        }
        Ok(())
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Place::Beside(file) => file.write(bytes),
            Place::There(file) => file.write(bytes),
        }
    }

    /// Onto the disk, so that what is put in place later is complete.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Place::Beside(file) => file.as_file().sync_all(),
            Place::There(file) => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_older_file_is_there_until_the_end_and_its_permissions_after_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();

        let mut file = StagedFile::create(&link).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        drop(file);
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);

        let mut file = StagedFile::create(&link).unwrap();
        file.write_all(b"new").unwrap();
        file.finish().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2);
    }

    #[test]
    fn devices_are_written_to_and_folders_are_refused() {
        let mut file = StagedFile::create(Path::new("/dev/full")).unwrap();
        let error = file.write_all(b"x").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        drop(file);
        assert!(!fs::metadata("/dev/full").unwrap().is_file());
        let error = StagedFile::create(&std::env::temp_dir()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }
}
