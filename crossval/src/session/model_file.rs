//! The file that a run is about.

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
use bitnet_model::regular_file;
use crossval_protocol::ModelFacts;

/// Bytes read between two looks whether a signal came.
const HASHED_AT_ONCE: usize = 1 << 20;

/// A model's file as it was when it was hashed.
#[derive(Clone, Debug)]
pub(crate) struct ModelFile {
    path: PathBuf,
    /// Bytes.
    pub(crate) size: u64,
    /// In hexadecimal digits.
    pub(crate) sha256: String,
    state: State,
}

/// What changes with the content: device, inode, size, seconds and nanoseconds of the last change.
type State = (u64, u64, u64, i64, i64);

fn state(file: &Metadata) -> State {
    let changed = (file.mtime(), file.mtime_nsec());
    (file.dev(), file.ino(), file.len(), changed.0, changed.1)
}

impl ModelFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`Error::BadInput`] naming it.
    pub(crate) fn hash(path: &Path) -> Result<ModelFile, Error> {
        let bad = |e: std::io::Error| Error::BadInput(format!("model {}: {e}", path.display()));
        let mut file = regular_file::open(path).map_err(bad)?;
        let state = state(&file.metadata().map_err(bad)?);
        let mut hasher = Sha256::new();
        let mut size = 0;
        let mut chunk = vec![0; HASHED_AT_ONCE];
        loop {
            let n = file.read(&mut chunk).map_err(bad)?;
            if n == 0 {
                break;
            }
            size += n as u64;
            hasher.update(&chunk[..n]);
            interrupt::check()?;
        }
        Ok(ModelFile {
            path: path.to_owned(),
            size,
            sha256: hex(&hasher.finalize()),
            state,
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
            activation: facts.activation.map(activation::report),
        }
    }

    /// Whether the file is no longer what it was: nobody knows then which of the two an engine has read.
    pub(crate) fn changed(&self) -> Option<Finding> {
        let now = std::fs::metadata(&self.path).map(|file| state(&file));
        let unchanged = now.is_ok_and(|now| now == self.state);
        (!unchanged).then(|| Finding {
            outcome: Outcome::Incomplete,
            source: Source::ModelFile,
            place: None,
            text: format!("{} changed during the run", self.path.display()),
        })
    }
}
