//! Writing a trace: rows go to an unnamed file as they come; the header, which needs all sizes, comes last.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use reports::StagedFile;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use crate::error::Error;

/// A trace in the making. The file appears whole, or not at all.
pub(super) struct TraceWriter {
    output: PathBuf,
    /// Holds the tensors in the order in which they were begun; unnamed, so that nothing is left behind.
    spool: File,
    end: u64,
    tensors: BTreeMap<String, Spooled>,
}

/// A tensor in the spool.
struct Spooled {
    dtype: Dtype,
    shape: Vec<usize>,
    offset: u64,
    row_bytes: usize,
    /// Rows written so far.
    filled: usize,
}

impl Spooled {
    fn rows(&self) -> usize {
        self.shape[0]
    }

    fn len(&self) -> u64 {
        (self.rows() * self.row_bytes) as u64
    }
}

impl TraceWriter {
    /// Fails at once where nothing can be written.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub(super) fn create(output: &Path) -> Result<TraceWriter, Error> {
        let spool = tempfile::tempfile_in(folder(output)).map_err(|e| Error::io(output, e))?;
        if output.is_dir() {
            return Err(Error::io(output, io::ErrorKind::IsADirectory.into()));
        }
        Ok(TraceWriter {
            output: output.to_owned(),
            spool,
            end: 0,
            tensors: BTreeMap::new(),
        })
    }

    /// Adds a vector.
    pub(super) fn vector(&mut self, name: String, values: &[u32]) -> Result<(), Error> {
        self.begin(name.clone(), Dtype::U32, vec![values.len()])?;
        for (row, value) in values.iter().enumerate() {
            self.put_row(&name, row, &value.to_le_bytes())?;
        }
        Ok(())
    }

    /// Makes room for a tensor of `shape`, rows first; what is not written is 0.
    pub(super) fn begin(
        &mut self,
        name: String,
        dtype: Dtype,
        shape: Vec<usize>,
    ) -> Result<(), Error> {
        let row: usize = shape[1..].iter().product();
        let tensor = Spooled {
            offset: self.end,
            row_bytes: row * dtype.bitsize() / 8,
            filled: 0,
            dtype,
            shape,
        };
        self.end += tensor.len();
        self.spool
            .set_len(self.end)
            .map_err(|e| Error::io(&self.output, e))?;
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// Whether the tensor has been begun, and how many of its rows are there.
    pub(super) fn filled(&self, name: &str) -> Option<usize> {
        Some(self.tensors.get(name)?.filled)
    }

    /// Shape of a tensor that has been begun.
    pub(super) fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// Writes the start of a row; rows come in order.
    pub(super) fn put_row(&mut self, name: &str, row: usize, bytes: &[u8]) -> Result<(), Error> {
        let (output, spool) = (&self.output, &self.spool);
        let tensor = self
            .tensors
            .get_mut(name)
            .filter(|t| t.filled == row && row < t.rows() && bytes.len() <= t.row_bytes)
            .ok_or_else(|| Error::Internal(format!("row {row} of {name} has no place")))?;
        let at = tensor.offset + (row * tensor.row_bytes) as u64;
        spool
            .write_all_at(bytes, at)
            .map_err(|e| Error::io(output, e))?;
        tensor.filled += 1;
        Ok(())
    }

    /// Reads a row back.
    pub(super) fn row(&self, name: &str, row: usize) -> Result<Vec<u8>, Error> {
        let tensor = self
            .tensors
            .get(name)
            .filter(|t| row < t.filled)
            .ok_or_else(|| Error::Internal(format!("row {row} of {name} was not written")))?;
        let mut bytes = vec![0; tensor.row_bytes];
        let at = tensor.offset + (row * tensor.row_bytes) as u64;
        self.spool
            .read_exact_at(&mut bytes, at)
            .map_err(|e| Error::io(&self.output, e))?;
        Ok(bytes)
    }

    /// Puts the file in its place; returns its size.
    ///
    /// # Errors
    /// [`Error::Io`]; the output is then as it was before.
    pub(super) fn finish(self, metadata: HashMap<String, String>) -> Result<u64, Error> {
        if let Some((name, t)) = self.tensors.iter().find(|(_, t)| t.filled < t.rows()) {
            let (filled, rows) = (t.filled, t.rows());
            let what = format!("{name} has {filled} of {rows} rows");
            return Err(Error::Internal(what));
        }
        let written = StagedFile::create(&self.output).and_then(|mut file| {
            let size = self.assemble(&mut file, metadata)?;
            file.finish()?;
            Ok(size)
        });
        written.map_err(|e| Error::io(&self.output, e))
    }

    fn assemble(
        &self,
        file: &mut StagedFile,
        metadata: HashMap<String, String>,
    ) -> io::Result<u64> {
        // The widest types first, so that everything is aligned.
        let mut order: Vec<(&String, &Spooled)> = self.tensors.iter().collect();
        order.sort_by(|(_, a), (_, b)| b.dtype.cmp(&a.dtype).then(a.offset.cmp(&b.offset)));
        let mut infos = Vec::with_capacity(order.len());
        let mut end = 0;
        for (name, tensor) in &order {
            let start = end;
            end += tensor.rows() * tensor.row_bytes;
            let info = TensorInfo {
                dtype: tensor.dtype,
                shape: tensor.shape.clone(),
                data_offsets: (start, end),
            };
            infos.push(((*name).clone(), info));
        }
        let header = Metadata::new(Some(metadata), infos).map_err(io::Error::other)?;
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        for (_, tensor) in order {
            let mut spool = &self.spool;
            spool.seek(SeekFrom::Start(tensor.offset))?;
            let copied = io::copy(&mut spool.take(tensor.len()), file)?;
            if copied != tensor.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((8 + header.len() + end) as u64)
    }
}

fn folder(output: &Path) -> &Path {
    match output.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}
