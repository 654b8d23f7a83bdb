//! The model: its weights, and sessions that evaluate tokens.
//!
//! A `bitnet*` layer is RMS norm, q/k/v, RoPE, attention, sub-norm, output projection, residual; RMS norm, gate and
//! up, activation, sub-norm, down projection, residual. `llama` is the same without the sub-norms, `qwen3` too, with a norm of
//! each head of queries and keys before RoPE.

mod attention;
mod definition;
mod forward;
mod head;
mod linear;
mod load;
mod pages;
mod repack;
mod rope;
mod session;

use std::fmt;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use bitnet_model::Hyperparameters;
use memmap2::MmapMut;

use crate::Error;
use crate::gguf::Gguf;
use crate::kernels::Kernel;

pub use definition::{Activation, Definition, RopeStyle};
pub use session::{Generate, HeadUse, Logits, Session, SessionOptions};

use head::CompactHead;
use linear::{Linear, Matrix};

/// A model whose matrices stay in the mapped file, until decoding is better served by a copy.
pub struct Model {
    gguf: Arc<Gguf>,
    hyperparameters: Hyperparameters,
    definition: Definition,
    kernel: Kernel,
    embedding: Matrix,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// `None` where it is the embedding.
    output: Option<Matrix>,
    /// Tokens that were evaluated alone.
    decoded: AtomicUsize,
    compact_head: Option<CompactHead>,
    /// One divisor of the angle per pair.
    rope_factors: Option<Vec<f32>>,
}

/// The weights of one layer.
struct Layer {
    attn_norm: Vec<f32>,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Option<Vec<f32>>,
    k_norm: Option<Vec<f32>>,
    attn_sub_norm: Option<Vec<f32>>,
    output: Linear,
    ffn_norm: Vec<f32>,
    gate: Linear,
    up: Linear,
    ffn_sub_norm: Option<Vec<f32>>,
    down: Linear,
    /// The ternary matrices that could be repacked, one after the other. `None` within if there was no memory for it.
    trits: OnceLock<Option<MmapMut>>,
}

impl Model {
    /// Builds the model of a file.
    ///
    /// # Errors
    /// The message names the file and the key or tensor at fault:
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown architecture, activation or tensor type,
    /// [`MissingTensor`](crate::ErrorKind::MissingTensor) if a tensor is missing or not part of the architecture,
    /// [`BadFile`](crate::ErrorKind::BadFile) for a wrong shape, contradicting metadata, or an embedding that does
    /// not fit the vocabulary; [`Usage`](crate::ErrorKind::Usage) if the environment forces an unknown kernel.
    pub fn load(gguf: Arc<Gguf>) -> Result<Model, Error> {
        load::load(gguf, None)
    }

    /// As [`load`](Self::load), with an activation in place of the one that the file names or its architecture has.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_as(gguf: Arc<Gguf>, activation: Activation) -> Result<Model, Error> {
        load::load(gguf, Some(activation))
    }

    /// What the file says of the model's shape.
    pub fn hyperparameters(&self) -> &Hyperparameters {
        &self.hyperparameters
    }

    /// How it computes.
    pub fn definition(&self) -> Definition {
        self.definition
    }

    /// The file that the weights are in.
    pub fn gguf(&self) -> &Arc<Gguf> {
        &self.gguf
    }

    /// Builds a compact copy of the output head in memory, with which [`Session::next_token`] reads less and draws the
    /// same tokens, and returns its size in bytes. `None`, and nothing built, where it would take more than `budget`
    /// bytes, or the head is already quantised.
    ///
    /// # Errors
    /// The head cannot be read, or `threads` cannot be started.
    pub fn build_compact_head(
        &mut self,
        budget: u64,
        threads: usize,
    ) -> Result<Option<u64>, Error> {
        let head = self.head();
        let (n_vocab, n_embd) = head.shape();
        let bytes = CompactHead::bytes(self.kernel, n_vocab, n_embd);
        if bytes > budget || !head.is_float() {
            self.compact_head = None;
            return Ok(None);
        }
        if self.compact_head.is_none() {
            let pool = session::start_threads(threads)?;
            self.compact_head = Some(CompactHead::build(&self.compute(&pool), head)?);
        }
        Ok(Some(bytes))
    }

    /// The output head.
    fn head(&self) -> &Matrix {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The name of the kernel in use.
    pub fn kernel_name(&self) -> &'static str {
        self.kernel.name()
    }

    /// Uses another kernel than the one chosen at loading. Results do not depend on it.
    pub fn set_kernel(&mut self, kernel: Kernel) {
        self.kernel = kernel;
    }
}

impl fmt::Debug for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("path", &self.gguf.path())
            .field("hyperparameters", &self.hyperparameters)
            .field("kernel", &self.kernel_name())
            .finish_non_exhaustive()
    }
}
