//! Writing a trace: rows go to an unnamed file as they come; the header, which needs all sizes, comes last.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

/// A trace in the making.
pub struct TraceWriter {
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
    /// Spools into `folder`, and fails at once where nothing can be written.
    ///
    /// # Errors
    /// Whatever making a file there returns; below, whatever writing to it does, and misuse.
    pub fn new(folder: &Path) -> io::Result<TraceWriter> {
        Ok(TraceWriter {
            spool: tempfile::tempfile_in(folder)?,
            end: 0,
            tensors: BTreeMap::new(),
        })
    }

    /// Adds a vector.
    pub fn vector(&mut self, name: String, values: &[u32]) -> io::Result<()> {
        self.begin(name.clone(), Dtype::U32, vec![values.len()])?;
        for (row, value) in values.iter().enumerate() {
            self.put_row(&name, row, &value.to_le_bytes())?;
        }
        Ok(())
    }

    /// Makes room for a tensor of `shape`, rows first; what is not written is 0.
    pub fn begin(&mut self, name: String, dtype: Dtype, shape: Vec<usize>) -> io::Result<()> {
        let row: usize = shape[1..].iter().product();
        let tensor = Spooled {
            offset: self.end,
            row_bytes: row * dtype.bitsize() / 8,
            filled: 0,
            dtype,
            shape,
        };
        self.end += tensor.len();
        self.spool.set_len(self.end)?;
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// Whether the tensor has been begun, and how many of its rows are there.
    pub fn filled(&self, name: &str) -> Option<usize> {
        Some(self.tensors.get(name)?.filled)
    }

    /// Shape of a tensor that has been begun.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.tensors.get(name)?.shape)
    }

    /// Writes the start of a row; rows come in order.
    pub fn put_row(&mut self, name: &str, row: usize, bytes: &[u8]) -> io::Result<()> {
        let tensor = self
            .tensors
            .get_mut(name)
            .filter(|t| t.filled == row && row < t.rows() && bytes.len() <= t.row_bytes)
            .ok_or_else(|| misuse(format!("row {row} of {name} has no place")))?;
        let at = tensor.offset + (row * tensor.row_bytes) as u64;
        self.spool.write_all_at(bytes, at)?;
        tensor.filled += 1;
        Ok(())
    }

    /// Reads a row back.
    pub fn row(&self, name: &str, row: usize) -> io::Result<Vec<u8>> {
        let tensor = self
            .tensors
            .get(name)
            .filter(|t| row < t.filled)
            .ok_or_else(|| misuse(format!("row {row} of {name} was not written")))?;
        let mut bytes = vec![0; tensor.row_bytes];
        let at = tensor.offset + (row * tensor.row_bytes) as u64;
        self.spool.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    /// Writes the file; returns its size.
    pub fn finish(self, metadata: HashMap<String, String>, out: &mut dyn Write) -> io::Result<u64> {
        if let Some((name, t)) = self.tensors.iter().find(|(_, t)| t.filled < t.rows()) {
            let (filled, rows) = (t.filled, t.rows());
            return Err(misuse(format!("{name} has {filled} of {rows} rows")));
        }
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
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for (_, tensor) in order {
            let mut spool = &self.spool;
            spool.seek(SeekFrom::Start(tensor.offset))?;
            let copied = io::copy(&mut spool.take(tensor.len()), out)?;
            if copied != tensor.len() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok((8 + header.len() + end) as u64)
    }
}

fn misuse(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}
