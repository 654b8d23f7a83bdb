//! The GGUF container, versions 2 and 3, little-endian.
//!
//! Reading maps the file and copies only the metadata. A file is refused, with the tensor, key or byte at
//! fault, unless every count, offset and size in it agrees with its length; memory asked for is bounded by
//! the file's size. A model that was split is read through the first of its files. Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod foreign;
mod metadata;
mod read;
mod split;
#[cfg(test)]
mod tests;
mod tiles;
mod types;
mod write;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

pub use metadata::{Array, FromValue, Metadata, StringArray, Value};
pub use tiles::{Nibbles, Tiles, Tiling};
pub use types::{Content, Float, Layout, TRAILER, TensorType};
pub use write::{TensorWriter, Writer};

use crate::error::Error;
use read::Header;

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
    /// Which of the model's files it is in, from 0.
    pub part: usize,
    /// Where the data starts, bytes from the start of that file.
    pub offset: u64,
    /// Length of the data in bytes (I2_S, TL1 and TL2: packed weights and the 32-byte trailer). For an unknown type the
    /// room up to the next tensor or the end of the file.
    pub size: u64,
}

impl TensorInfo {
    /// Number of elements.
    pub fn n_elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// An open GGUF model: a file, or the first of several.
#[derive(Debug)]
pub struct Gguf {
    /// The first is the one that was opened.
    parts: Vec<Part>,
    version: u32,
    alignment: u64,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    index: HashMap<String, usize>,
}

/// What can be read of a damaged file, up to where it is damaged.
#[derive(Debug)]
pub struct Readable {
    /// The format version, 2 or 3.
    pub version: u32,
    /// The file's length in bytes.
    pub size: u64,
    /// Alignment of tensor data in bytes.
    pub alignment: u64,
    /// The key-value pairs.
    pub metadata: Metadata,
    /// Tensors, whose data need not be there; the size of one whose shape is wrong is 0.
    pub tensors: Vec<TensorInfo>,
}

/// One of a model's files.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    bytes: Bytes,
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
    /// Opens, maps read-only and checks a file, and the other files of a model that was split. Tensors of unknown type are
    /// listed; only their data is refused.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if it cannot be opened, [`BadFile`](crate::ErrorKind::BadFile) if it is
    /// not GGUF, truncated or damaged, or lacks one of its parts, [`Unsupported`](crate::ErrorKind::Unsupported) for other
    /// versions and byte orders.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        let (part, header) = map(path)?;
        let others = split::others(path, &header.metadata)?;
        let mut model = Gguf::of(part, header);
        for (part, header) in others {
            model.add(part, header.tensors)?;
        }
        split::check(&model)?;
        Ok(model)
    }

    /// What can be read of a file that [`open`](Gguf::open) refuses.
    ///
    /// # Errors
    /// As [`open`](Gguf::open), where that is nothing.
    pub fn readable(path: &Path) -> Result<Readable, Error> {
        let bytes = map_file(path)?;
        let (header, fault) = read::parse_partly(&bytes, path);
        match fault {
            Some(fault) if header.metadata.is_empty() => Err(fault),
            _ => Ok(Readable {
                version: header.version,
                size: bytes.len() as u64,
                alignment: header.alignment,
                metadata: header.metadata,
                tensors: header.tensors,
            }),
        }
    }

    /// Checks the bytes of a file that are in memory; `path` names it in errors. Of a model that was split, it is that part
    /// alone.
    ///
    /// # Errors
    /// As [`open`](Gguf::open).
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<Gguf, Error> {
        let header = read::parse(&bytes, path)?;
        let part = Part {
            path: path.to_owned(),
            bytes: Bytes::Owned(bytes),
        };
        Ok(Gguf::of(part, header))
    }

    fn of(part: Part, header: Header) -> Gguf {
        Gguf {
            parts: vec![part],
            version: header.version,
            alignment: header.alignment,
            metadata: header.metadata,
            tensors: header.tensors,
            index: header.index,
        }
    }

    fn add(&mut self, part: Part, tensors: Vec<TensorInfo>) -> Result<(), Error> {
        let no = self.parts.len();
        for tensor in tensors {
            let index = self.tensors.len();
            if let Some(other) = self.index.insert(tensor.name.clone(), index) {
                let other = self.parts[self.tensors[other].part].path.display();
                let what = format!("tensor {:?} is in {other} too", tensor.name);
                return Err(Error::bad_file(&part.path, what));
            }
            self.tensors.push(TensorInfo { part: no, ..tensor });
        }
        self.parts.push(part);
        Ok(())
    }

    /// Takes a tensor's data out of this process's memory; they are read from the file again when next looked at.
    pub fn release(&self, tensor: &TensorInfo) {
        if let Some(Bytes::Mapped(map)) = self.parts.get(tensor.part).map(|part| &part.bytes) {
            let (offset, size) = (tensor.offset as usize, tensor.size as usize);
            // SAFETY: pages of a map that nobody writes to come back with the same bytes.
            let _ = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, offset, size)
            };
        }
    }

    /// The file's path, as given when it was opened.
    pub fn path(&self) -> &Path {
        &self.parts[0].path
    }

    /// The paths of all files of the model, that one first.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// The length of all files in bytes.
    pub fn file_size(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes.len() as u64).sum()
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
            return Err(Error::unsupported(self.path(), what));
        }
        usize::try_from(tensor.offset)
            .ok()
            .and_then(|start| Some(start..start.checked_add(usize::try_from(tensor.size).ok()?)?))
            .and_then(|range| self.parts.get(tensor.part)?.bytes.get(range))
            .ok_or_else(|| {
                let path = self.path().display();
                Error::usage(format!("{path}: tensor {name:?} is not of this file"))
            })
    }
}

/// Maps a file and reads its head.
fn map(path: &Path) -> Result<(Part, Header), Error> {
    let bytes = map_file(path)?;
    let header = read::parse(&bytes, path)?;
    let part = Part {
        path: path.to_owned(),
        bytes: Bytes::Mapped(bytes),
    };
    Ok((part, header))
}

fn map_file(path: &Path) -> Result<Mmap, Error> {
    let io = |e| Error::io(path, e);
    // Before it is opened, since opening a FIFO waits for a writer.
    let metadata = std::fs::metadata(path).map_err(io)?;
    if metadata.is_dir() {
        return Err(Error::bad_file(path, foreign::what_the_folder_is(path)));
    }
    if !metadata.is_file() {
        return Err(Error::bad_file(path, "not a regular file"));
    }
    let file = File::open(path).map_err(io)?;
    // SAFETY: the map is read-only and private to this value. As with every mapped model file, the
    // contract is that nobody truncates or rewrites it meanwhile; the parser copies what it checks, and
    // data read later are plain numbers for which any bit pattern is valid.
    unsafe { Mmap::map(&file) }.map_err(io)
}
