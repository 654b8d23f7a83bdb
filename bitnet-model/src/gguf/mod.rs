//! The GGUF container, versions 2 and 3, little-endian.
//!
//! Reading maps the file and copies only the metadata. A file is refused, with the tensor, key or byte at
//! fault, unless every count, offset and size in it agrees with its length; memory asked for is bounded by
//! the file's size. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod metadata;
mod read;
#[cfg(test)]
mod tests;
mod types;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub use metadata::{Array, FromValue, Metadata, StringArray, Value};
pub use types::{Content, Float, I2_S_TRAILER, Layout, TensorType};
pub use write::{TensorWriter, Writer};

use crate::error::Error;

const MAGIC: &[u8] = b"GGUF";
/// Alignment of tensor data where `general.alignment` does not say otherwise.
const DEFAULT_ALIGNMENT: u64 = 32;

/// A tensor's name, shape, type and place in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The tensor's name.
    pub name: String,
    /// Dimensions in ggml's order: `shape[0]` is the row length and varies fastest. At most four, none zero.
    pub shape: Vec<u64>,
    /// How the elements are stored.
    pub ty: TensorType,
    /// Where the data starts, bytes from the start of the file.
    pub offset: u64,
    /// Length of the data in bytes (I2_S: packed weights and the 32-byte trailer). For an unknown type the
    /// room up to the next tensor or the end of the file.
    pub size: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// An open GGUF file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    bytes: Bytes,
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

/// Where a file's bytes are.
#[derive(Debug)]
enum Bytes {
    Mapped(Mmap),
    Owned(Vec<u8>),
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Bytes::Mapped(map) => map,
            Bytes::Owned(bytes) => bytes,
        }
    }
}

impl Gguf {
    /// Opens, maps read-only and checks a file. Tensors of unknown type are listed; only their data is refused.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if it cannot be opened, [`BadFile`](crate::ErrorKind::BadFile) if it is
    /// not GGUF, truncated or damaged, [`Unsupported`](crate::ErrorKind::Unsupported) for other versions and
    /// byte orders.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let io = |e| Error::io(path, e);
        // Before it is opened, since opening a FIFO waits for a writer.
        if !std::fs::metadata(path).map_err(io)?.is_file() {
            return Err(Error::bad_file(path, "not a regular file"));
        }
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only and private to this value. As with every mapped model file, the
        // contract is that nobody truncates or rewrites it meanwhile; the parser copies what it checks, and
        // data read later are plain numbers for which any bit pattern is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        Gguf::check(path, Bytes::Mapped(map))
    }

    /// Checks the bytes of a file that are in memory; `path` names it in errors.
    ///
    /// # Errors
    /// As [`open`](Gguf::open).
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Gguf, Error> {
        Gguf::check(path, Bytes::Owned(bytes))
    }

    /// Takes a tensor's data out of this process's memory; they are read from the file again when next looked at.
    pub fn release(&self, tensor: &TensorInfo) {
        if let Bytes::Mapped(map) = &self.bytes {
            let (offset, size) = (tensor.offset as usize, tensor.size as usize);
            // SAFETY: pages of a map that nobody writes to come back with the same bytes.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, size)
            };
        }
    }

    fn check(path: &Path, bytes: Bytes) -> Result<Gguf, Error> {
        let header = read::parse(&bytes, path)?;
        Ok(Gguf {
            path: path.to_owned(),
            bytes,
            version: header.version,
            alignment: header.alignment,
            metadata: header.metadata,
            tensors: header.tensors,
            index: header.index,
        })
    }

    /// The file's path, as given when it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes.
    pub fn file_size(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// The format version, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Alignment of tensor data in bytes.
    pub fn alignment(&self) -> u64 {
        self.alignment
    }

    /// The key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// Every tensor, in the file's order.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// A tensor's bytes, [`TensorInfo::size`] of them.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) if its type is unknown,
    /// [`Usage`](crate::ErrorKind::Usage) if `tensor` is not one of this file's.
    pub fn data(&self, tensor: &TensorInfo) -> Result<&[u8], Error> {
        let TensorInfo { name, ty, .. } = tensor;
        if let TensorType::Unknown(_) = ty {
            let why = ty.refusal().map_or(String::new(), |why| format!(": {why}"));
            let what = format!("tensor {name:?} has type {ty}, which is not supported{why}");
            return Err(Error::unsupported(&self.path, what));
        }
        usize::try_from(tensor.offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(usize::try_from(tensor.size).ok()?)?))
            .and_then(|range| self.bytes.get(range))
            .ok_or_else(|| {
                let path = self.path.display();
                Error::usage(format!("{path}: tensor {name:?} is not of this file"))
            })
    }
}
