//! The model that a run is about: its file, or files.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use reports::model::{Finding, Model, Source};
use reports::outcome::Outcome;
use sha2::{Digest, Sha256};

use super::activation;
use crate::error::Error;
use crate::hex::hex;
use crate::interrupt;
use bitnet_model::gguf::Gguf;
use bitnet_model::{lint, regular_file, scales};
use crossval_protocol::ModelFacts;

/// Bytes read between two looks whether a signal came.
const HASHED_AT_ONCE: usize = 1 << 20;

/// A model's file as it was when it was hashed.
#[derive(Clone, Debug)]
pub(crate) struct ModelFile {
    path: PathBuf,
    /// Bytes, of all files of a model that was split.
    pub(crate) size: u64,
    /// Of those one after the other, in hexadecimal digits.
    pub(crate) sha256: String,
    /// Where the scales of its weights are, in words, by type.
    scales: BTreeMap<String, String>,
    files: Vec<(PathBuf, State)>,
}

/// What changes with the content: device, inode, size, seconds and nanoseconds of the last change.
type State = (u64, u64, u64, i64, i64);

fn state(file: &Metadata) -> State {
    let changed = (file.mtime(), file.mtime_nsec());
    (file.dev(), file.ino(), file.len(), changed.0, changed.1)
}

/// The files of a model. What is no GGUF may be read by an engine all the same: it is a file of its own.
///
/// # Errors
/// [`Error::BadInput`] if there is no file.
pub(crate) fn paths(path: &Path) -> Result<Vec<PathBuf>, Error> {
    match Gguf::open(path) {
        Ok(model) => Ok(model.paths().map(Path::to_owned).collect()),
        Err(_) if path.is_file() => Ok(vec![path.to_owned()]),
        Err(e) => Err(Error::BadInput(format!("model {e}"))),
    }
}

/// Where the scales of the layers' matrices are, in words, by type. What is no GGUF says nothing of them.
fn weight_scales(path: &Path) -> BTreeMap<String, String> {
    let scales = Gguf::open(path).map(|gguf| scales::scales(&gguf));
    let scales = scales.into_iter().flatten();
    scales
        .map(|(ty, scales)| (ty.to_owned(), scales.to_string()))
        .collect()
}

/// What `crossval inspect` finds wrong with a file, by the names of its checks.
pub(crate) fn faults(path: &Path) -> Option<Finding> {
    let faults = lint::faults(&Gguf::open(path).ok()?);
    (!faults.is_empty()).then(|| Finding {
        outcome: Outcome::Pass,
        source: Source::ModelFile,
        place: None,
        text: format!(
            "the file is not in order: {} (crossval inspect --check says more)",
            faults.join(", ")
        ),
    })
}

/// That where weights lie is assumed. Engines that assume the same agree, and may agree on a wrong model.
pub(crate) fn tiles(path: &Path) -> Option<Finding> {
    let text = lint::tiles_assumed(&Gguf::open(path).ok()?)?;
    Some(Finding {
        outcome: Outcome::Pass,
        source: Source::ModelFile,
        place: None,
        text,
    })
}

impl ModelFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming it.
    pub(crate) fn hash(path: &Path) -> Result<ModelFile, Error> {
        let mut hasher = Sha256::new();
        let mut files = Vec::new();
        let mut size = 0;
        let mut chunk = vec![0; HASHED_AT_ONCE];
        for file_path in paths(path)? {
            let bad =
                |e: std::io::Error| Error::BadInput(format!("model {}: {e}", file_path.display()));
            let mut file = regular_file::open(&file_path).map_err(bad)?;
            let state = state(&file.metadata().map_err(bad)?);
            loop {
                let n = file.read(&mut chunk).map_err(bad)?;
                if n == 0 {
                    break;
                }
                size += n as u64;
                hasher.update(&chunk[..n]);
                interrupt::check()?;
            }
            files.push((file_path, state));
        }
        Ok(ModelFile {
            path: path.to_owned(),
            size,
            sha256: hex(&hasher.finalize()),
            scales: weight_scales(path),
            files,
        })
    }

    /// Its entry in a report.
    pub(crate) fn report(self, facts: &ModelFacts) -> Model {
        Model {
            path: self.path.display().to_string(),
            size_bytes: self.size,
            sha256: self.sha256,
            name: facts.name.clone(),
            architecture: facts.architecture.clone(),
            n_layer: facts.n_layer,
            n_embd: facts.n_embd,
            n_ff: facts.n_ff,
            n_head: facts.n_head,
            n_head_kv: facts.n_head_kv,
            n_vocab: facts.n_vocab,
            n_ctx_train: facts.n_ctx_train,
            tensor_types: facts.tensor_types.clone(),
            weight_scales: self.scales,
            activation: facts.activation.map(activation::report),
        }
    }

    /// Whether the file is no longer what it was: nobody knows then which of the two an engine has read.
    pub(crate) fn changed(&self) -> Option<Finding> {
        let unchanged = |(path, before): &&(PathBuf, State)| {
            std::fs::metadata(path).is_ok_and(|now| state(&now) == *before)
        };
        let (changed, _) = self.files.iter().find(|file| !unchanged(file))?;
        Some(Finding {
            outcome: Outcome::Incomplete,
            source: Source::ModelFile,
            place: None,
            text: format!("{} changed during the run", changed.display()),
        })
    }
}
