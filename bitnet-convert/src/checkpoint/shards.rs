//! The tensors of a checkpoint, in one file of safetensors or several.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use bitnet_model::Error;
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

use super::json::Json;

/// The files of a checkpoint.
#[derive(Debug)]
pub(super) struct Shards {
    files: Vec<Shard>,
    tensors: BTreeMap<String, Place>,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    map: Mmap,
}

/// Where a tensor is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) dtype: Dtype,
    /// Rows first, as PyTorch has it.
    pub(super) shape: Vec<usize>,
    pub(super) offset: usize,
    pub(super) size: usize,
}

const ONE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

impl Shards {
    /// # Errors
    /// A file is missing, damaged, or no safetensors; a tensor is in two.
    pub(super) fn open(folder: &Path) -> Result<Shards, Error> {
        let mut shards = Shards {
            files: Vec::new(),
            tensors: BTreeMap::new(),
        };
        for path in files(folder)? {
            shards.add(&path)?;
        }
        Ok(shards)
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let io = |e| Error::io(path, e);
        let file = File::open(path).map_err(io)?;
        // SAFETY: the map is read-only, and what is read from it are plain numbers; as with every model file, nobody is to
        // truncate or rewrite it meanwhile.
        let map = unsafe { Mmap::map(&file) }.map_err(io)?;
        let bad = |e| Error::bad_file(path, format!("no safetensors: {e}"));
        let (head, metadata) = SafeTensors::read_metadata(&map).map_err(bad)?;
        let data = head + size_of::<u64>();
        for (name, info) in metadata.tensors() {
            let (start, end) = info.data_offsets;
            let place = Place {
                file: self.files.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                offset: data + start,
                size: end - start,
            };
            if map.len() < data + end {
                return Err(Error::bad_file(path, format!("tensor {name:?} is cut off")));
            }
            if let Some(other) = self.tensors.insert(name.clone(), place) {
                let other = self.files[other.file].path.display();
                return Err(Error::bad_file(
                    path,
                    format!("tensor {name:?} is in {other} too"),
                ));
            }
        }
        self.files.push(Shard {
            path: path.to_owned(),
            map,
        });
        Ok(())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    pub(super) fn place(&self, name: &str) -> Option<&Place> {
        self.tensors.get(name)
    }

    pub(super) fn path(&self, place: &Place) -> &Path {
        &self.files[place.file].path
    }

    pub(super) fn data(&self, place: &Place) -> &[u8] {
        &self.files[place.file].map[place.offset..][..place.size]
    }

    /// Takes a tensor's data out of this process's memory.
    pub(super) fn release(&self, place: &Place) {
        let map = &self.files[place.file].map;
        let advice = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: pages of a map that nobody writes to come back with the same bytes.
        let _ = unsafe { map.unchecked_advise_range(advice, place.offset, place.size) };
    }
}

/// One, those that the index names, or all that are there.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let one = folder.join(ONE);
    if one.is_file() {
        return Ok(vec![one]);
    }
    let index = folder.join(INDEX);
    if index.is_file() {
        let index = Json::read(&index)?;
        let map = index.object("weight_map")?;
        let named: BTreeSet<&str> = map.values().filter_map(|file| file.as_str()).collect();
        return Ok(named.into_iter().map(|file| folder.join(file)).collect());
    }
    let entries = folder.read_dir().map_err(|e| Error::io(folder, e))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        .collect();
    files.sort();
    match files[..] {
        [] => {
            let pickled = folder.join("pytorch_model.bin").is_file();
            let what = match pickled {
                true => {
                    "its weights are a PyTorch pickle, which runs code when it is read: convert it to safetensors first"
                }
                false => "there is no file of safetensors in it",
            };
            Err(Error::bad_file(folder, what))
        }
        _ => Ok(files),
    }
}
