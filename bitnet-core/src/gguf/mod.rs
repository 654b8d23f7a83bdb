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
use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub use metadata::{Array, FromValue, Metadata, StringArray, Value};
pub use types::{I2_S_TRAILER, TensorType};
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

/// An open GGUF file, mapped read-only.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    map: Mmap,
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

impl Gguf {
    /// Opens, maps and checks a file. Tensors of unknown type are listed; only their data is refused.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if it cannot be opened, [`BadFile`](crate::ErrorKind::BadFile) if it is
    /// not GGUF, truncated or damaged, [`Unsupported`](crate::ErrorKind::Unsupported) for other versions and
    /// byte orders.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let io = |e| Error::io(path, e);
        let file = File::open(path).map_err(io)?;
        if !file.metadata().map_err(io)?.is_file() {
            return Err(Error::bad_file(path, "not a regular file"));
        }
        // SAFETY: the map is read-only and private to this value. As with every mapped model file, the
        // contract is that nobody truncates or rewrites it meanwhile; the parser copies what it checks, and
        // data read later are plain numbers for which any bit pattern is valid.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let header = read::parse(&map, path)?;
        Ok(Gguf {
            path: path.to_owned(),
            map,
            version: header.version,
            alignment: header.alignment,
            metadata: header.metadata,
            tensors: header.tensors,
            index: header.index,
        })
    }

    /// The file's path, as given to [`open`](Gguf::open).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's length in bytes.
    pub fn file_size(&self) -> u64 {
        self.map.len() as u64
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
            let what = format!("tensor {name:?} has type {ty}, which is not supported");
            return Err(Error::unsupported(&self.path, what));
        }
        usize::try_from(tensor.offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(usize::try_from(tensor.size).ok()?)?))
            .and_then(|range| self.map.get(range))
            .ok_or_else(|| {
                let path = self.path.display();
                Error::usage(format!("{path}: tensor {name:?} is not of this file"))
            })
    }
}
