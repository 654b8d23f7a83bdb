//! A trace on its way to its file, which appears whole or not at all.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use crossval_trace::TraceWriter;
use reports::StagedFile;
use safetensors::tensor::Dtype;

use crate::error::Error;

/// [`TraceWriter`], with errors that name the file.
pub(super) struct Output {
    path: PathBuf,
    writer: TraceWriter,
}

impl Output {
    /// Fails at once where nothing can be written.
    ///
    /// # Errors
    /// [`Error::Io`]; so do all below, and [`Error::Internal`] for rows out of place.
    pub(super) fn create(path: &Path) -> Result<Output, Error> {
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty());
        let writer = TraceWriter::new(folder.unwrap_or(Path::new(".")));
        let writer = writer.map_err(|e| Error::io(path, e))?;
        if path.is_dir() {
            return Err(Error::io(path, io::ErrorKind::IsADirectory.into()));
        }
        Ok(Output {
            path: path.to_owned(),
            writer,
        })
    }

    /// [`TraceWriter::vector`].
    pub(super) fn vector(&mut self, name: String, values: &[u32]) -> Result<(), Error> {
        let done = self.writer.vector(name, values);
        self.named(done)
    }

    /// [`TraceWriter::begin`].
    pub(super) fn begin(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
    ) -> Result<(), Error> {
        let done = self.writer.begin(name, dtype, shape);
        self.named(done)
    }

    /// [`TraceWriter::filled`].
    pub(super) fn filled(&self, name: &str) -> Option<usize> {
        self.writer.filled(name)
    }

    /// [`TraceWriter::shape`].
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.writer.shape(name)
    }

    /// [`TraceWriter::put_row`].
    pub(super) fn put_row(&mut self, name: &str, row: usize, bytes: &[u8]) -> Result<(), Error> {
        let done = self.writer.put_row(name, row, bytes);
        self.named(done)
    }

    /// [`TraceWriter::row`].
    pub(super) fn row(&self, name: &str, row: usize) -> Result<Vec<u8>, Error> {
        self.named(self.writer.row(name, row))
    }

    /// Puts the file in its place; returns its size. After an error the output is as it was before.
    pub(super) fn finish(self, metadata: HashMap<String, String>) -> Result<u64, Error> {
        let Output { path, writer } = self;
        let written = StagedFile::create(&path).and_then(|mut file| {
            let size = writer.finish(metadata, &mut file)?;
            file.finish()?;
            Ok(size)
        });
        written.map_err(|e| named(&path, e))
    }

    fn named<T>(&self, done: io::Result<T>) -> Result<T, Error> {
        done.map_err(|e| named(&self.path, e))
    }
}

fn named(path: &Path, e: io::Error) -> Error {
    match e.kind() {
        io::ErrorKind::InvalidInput => Error::Internal(format!("trace {}: {e}", path.display())),
        _ => Error::io(path, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unfinished_trace_leaves_the_old_one_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.safetensors");
        std::fs::write(&path, "old").unwrap();
        let mut output = Output::create(&path).unwrap();
        output.begin("x".into(), Dtype::F32, vec![2, 1]).unwrap();
        output.put_row("x", 0, &[0; 4]).unwrap();
        assert!(output.put_row("x", 0, &[0; 4]).is_err());
        let error = output.finish(HashMap::new()).unwrap_err();
        assert_eq!(error.outcome().exit_code(), 70);
        assert!(error.to_string().contains("1 of 2 rows"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1, "nothing is left beside it");
    }
}
