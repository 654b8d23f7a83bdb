//! Models in several files, as `llama-gguf-split` writes them: `NAME-00001-of-00003.gguf`, and so on. The first has the
//! metadata, each its own tensors.

use std::path::{Path, PathBuf};

use super::metadata::{Metadata, Value};
use super::{Gguf, Header, Part, map};
use crate::error::Error;

/// What a file says of the model that it is a part of.
struct Split {
    /// Which part this is, from 0.
    no: u64,
    /// Parts.
    count: u64,
    /// Tensors of all parts.
    n_tensors: Option<u64>,
}

impl Split {
    /// `None` for a model in one file.
    fn of(metadata: &Metadata) -> Result<Option<Split>, Error> {
        let count = number(metadata, "split.count")?.unwrap_or(0);
        if count <= 1 {
            return Ok(None);
        }
        let split = Split {
            no: number(metadata, "split.no")?.unwrap_or(0),
            count,
            n_tensors: number(metadata, "split.tensors.count")?,
        };
        if split.no >= count {
            let what = format!("part {} of {count} parts (\"split.no\")", split.no + 1);
            return Err(Error::bad_file(metadata.path(), what));
        }
        Ok(Some(split))
    }
}

/// A number of parts or tensors; writers differ in its type.
fn number(metadata: &Metadata, key: &str) -> Result<Option<u64>, Error> {
    let number = match metadata.get(key) {
        None => return Ok(None),
        Some(&Value::U8(n)) => Some(n.into()),
        Some(&Value::U16(n)) => Some(n.into()),
        Some(&Value::U32(n)) => Some(n.into()),
        Some(&Value::U64(n)) => Some(n),
        Some(&Value::I32(n)) => u64::try_from(n).ok(),
        Some(&Value::I64(n)) => u64::try_from(n).ok(),
        Some(_) => None,
    };
    // Part numbers are counted from 1 where people read them.
    let sane = number.filter(|&n| n < u64::from(u32::MAX));
    sane.map(Some).ok_or_else(|| {
        let what = format!("metadata key {key:?} is no count");
        Error::bad_file(metadata.path(), what)
    })
}

/// Where part `no` (from 0) of `count` is, by the name of another part; `None` if that has no such name.
fn sibling(path: &Path, no: u64, count: u64) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let stem = name.strip_suffix(&format!("-of-{count:05}.gguf"))?;
    let (stem, digits) = stem.rsplit_once('-')?;
    let is_number = digits.len() >= 5 && digits.bytes().all(|b| b.is_ascii_digit());
    let name = format!("{stem}-{:05}-of-{count:05}.gguf", no + 1);
    is_number.then(|| path.with_file_name(name))
}

/// The other parts of a model whose first file this is, with what each says of itself.
///
/// # Errors
/// If the file is not the first, or another is missing, or is no part of this model.
pub(super) fn others(path: &Path, metadata: &Metadata) -> Result<Vec<(Part, Header)>, Error> {
    let Some(Split { no, count, .. }) = Split::of(metadata)? else {
        return Ok(Vec::new());
    };
    if no > 0 {
        let first = match sibling(path, 0, count) {
            Some(first) => format!("{}", first.display()),
            None => "the one whose name ends in -00001-of-…".to_owned(),
        };
        let what = format!(
            "part {} of {count} of a model: give the first, {first}",
            no + 1
        );
        return Err(Error::bad_file(path, what));
    }
    let other = |no| {
        let Some(other) = sibling(path, no, count) else {
            let what = format!(
                "the first of {count} parts, whose name does not end in -00001-of-{count:05}.gguf: the others \
                 cannot be found"
            );
            return Err(Error::bad_file(path, what));
        };
        if !other.exists() {
            let (no, other) = (no + 1, other.display());
            let what =
                format!("the first of {count} parts, of which part {no} is missing: {other}");
            return Err(Error::bad_file(path, what));
        }
        let (part, header) = map(&other)?;
        let split = Split::of(&header.metadata)?;
        match split.filter(|split| (split.no, split.count) == (no, count)) {
            Some(_) => Ok((part, header)),
            None => {
                let (no, first) = (no + 1, path.display());
                let what =
                    format!("does not say that it is part {no} of {count}, as {first} has it");
                Err(Error::bad_file(&other, what))
            }
        }
    };
    (1..count).map(other).collect()
}

/// Whether all tensors are there that the parts should have.
pub(super) fn check(model: &Gguf) -> Result<(), Error> {
    let split = Split::of(model.metadata())?;
    let (n, count) = (model.tensors().len() as u64, model.parts.len() as u64);
    match split.and_then(|split| split.n_tensors) {
        Some(due) if due != n => {
            let what = format!("its {count} parts have {n} tensors, {due} are due");
            Err(Error::bad_file(model.path(), what))
        }
        _ => Ok(()),
    }
}
