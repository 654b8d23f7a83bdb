//! Libraries that were built before, kept in the user's cache folder: a second clone of this repository, or CI on the
//! same machine, does not spend the minutes again.
//!
//! One folder per key, which stands for all that an object file depends on. It holds the libraries and their sums, and
//! appears by one rename. What does not match its sums is not used, and is replaced.

use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process;

use sha2::{Digest, Sha256};

/// Names another folder than the user's for all that is kept.
pub const VARIABLE: &str = "BITNET_CROSSVAL_CACHE";

/// The libraries' sums, as `sha256sum` writes and checks them.
const SUMS: &str = "SHA256SUMS";

/// A folder of built libraries.
pub struct Cache {
    root: PathBuf,
}

impl Cache {
    /// Where `variable` says: in `BITNET_CROSSVAL_CACHE`, else in `bitnet-crossval` below `XDG_CACHE_HOME` or
    /// `~/.cache`. `None` for a user without a home. As XDG has it, a relative path counts as none.
    pub fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Option<Cache> {
        let path = |name: &str| {
            variable(name)
                .map(PathBuf::from)
                .filter(|p| p.is_absolute())
        };
        let base = path(VARIABLE)
            .or_else(|| Some(path("XDG_CACHE_HOME")?.join("bitnet-crossval")))
            .or_else(|| Some(path("HOME")?.join(".cache/bitnet-crossval")))?;
        Some(Cache {
            root: base.join("references"),
        })
    }

    /// Where the libraries of a key are.
    pub fn entry(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Copies the libraries of a key into a folder, which is made. `false` if there are none, or they are damaged; then
    /// the folder is as it was.
    ///
    /// # Errors
    /// If the folder cannot be written to.
    pub fn take(&self, key: &str, into: &Path) -> io::Result<bool> {
        let Some(files) = whole(&self.entry(key)) else {
            return Ok(false);
        };
        fs::create_dir_all(into)?;
        for (name, bytes) in files {
            fs::write(into.join(name), bytes)?;
        }
        Ok(true)
    }

    /// Keeps the files of a folder as the libraries of a key. Of two builds at once the first is kept.
    ///
    /// # Errors
    /// If the cache cannot be written to; it is then as it was.
    pub fn keep(&self, key: &str, from: &Path) -> io::Result<()> {
        fs::create_dir_all(&self.root)?;
        let new = self.temporary(key)?;
        let kept = fill(&new, from).and_then(|()| self.put(key, &new));
        if kept.is_err() {
            let _ = fs::remove_dir_all(&new);
        }
        kept
    }

    fn put(&self, key: &str, new: &Path) -> io::Result<()> {
        let entry = self.entry(key);
        // A folder replaces no other folder that holds something.
        if fs::rename(new, &entry).is_ok() {
            return Ok(());
        }
        if whole(&entry).is_some() {
            return fs::remove_dir_all(new);
        }
        let damaged = self.temporary(key)?;
        let moved = fs::rename(&entry, &damaged);
        fs::remove_dir_all(&damaged)?;
        match moved {
            // Another build was as quick to remove it.
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        match fs::rename(new, &entry) {
            Err(_) if whole(&entry).is_some() => fs::remove_dir_all(new),
            renamed => renamed,
        }
    }

    /// A new folder beside the entries.
    fn temporary(&self, key: &str) -> io::Result<PathBuf> {
        let mut n = 0_u64;
        loop {
            let folder = self.root.join(format!(".{key}.{}.{n}", process::id()));
            match fs::create_dir(&folder) {
                // Of another thread, or of a process that had this number before.
                Err(e) if e.kind() == ErrorKind::AlreadyExists => n += 1,
                created => return created.map(|()| folder),
            }
        }
    }
}

/// The files of an entry, if it is whole.
fn whole(entry: &Path) -> Option<Vec<(String, Vec<u8>)>> {
    let sums = fs::read_to_string(entry.join(SUMS)).ok()?;
    let file = |line: &str| {
        let (sum, name) = line.split_once("  ")?;
        // A name, and no path.
        Path::new(name).file_name().filter(|&n| n == name)?;
        let bytes = fs::read(entry.join(name)).ok()?;
        (hex(&Sha256::digest(&bytes)) == sum).then(|| (name.to_owned(), bytes))
    };
    let files: Vec<_> = sums.lines().map(file).collect::<Option<_>>()?;
    (!files.is_empty()).then_some(files)
}

/// Fills a new entry with the files of a folder.
fn fill(entry: &Path, from: &Path) -> io::Result<()> {
    let mut sums = String::new();
    for file in fs::read_dir(from)? {
        let file = file?;
        if !file.file_type()?.is_file() {
            continue;
        }
        let name = file.file_name();
        let bytes = fs::read(file.path())?;
        let name = name
            .to_str()
            .ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "a name that is not UTF-8"))?;
        fs::write(entry.join(name), &bytes)?;
        sums += &format!("{}  {name}\n", hex(&Sha256::digest(&bytes)));
    }
    fs::write(entry.join(SUMS), sums)
}

/// Makes the key of a build of all that it depends on.
#[derive(Default)]
pub struct Key(Sha256);

impl Key {
    /// Something by name. Lengths are hashed too, so that no two lists of parts are the same bytes.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update((part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// The files below some of the files and folders in `root`, with their paths in it; what is not there is left out.
    ///
    /// # Errors
    /// Names what cannot be read.
    pub fn add_tree(&mut self, root: &Path, parts: &[PathBuf]) -> Result<(), String> {
        let mut files = Vec::new();
        for part in parts {
            list(part, &mut files)?;
        }
        files.sort();
        files.dedup();
        for path in files {
            let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            let name = path.strip_prefix(root).unwrap_or(&path);
            self.add(&name.to_string_lossy(), bytes);
        }
        Ok(())
    }

    /// The key, as hexadecimal digits.
    pub fn finish(self) -> String {
        hex(&self.0.finalize()[..16])
    }
}

/// The files below a path. Links to folders are not followed.
fn list(path: &Path, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let error = |e: io::Error| format!("{}: {e}", path.display());
    match fs::symlink_metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) => return Err(error(e)),
        Ok(metadata) if metadata.is_dir() => {
            for entry in fs::read_dir(path).map_err(error)? {
                list(&entry.map_err(error)?.path(), files)?;
            }
        }
        Ok(_) if path.is_file() => files.push(path.to_owned()),
        Ok(_) => {}
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
