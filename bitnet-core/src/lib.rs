//! BitNet b1.58 inference engine: GGUF, tokenizers, ternary kernels, model, sampling.
//!
//! Arithmetic follows BitNet.cpp where it defines the answer (int8 activations, exact ternary dot products,
//! F16 KV cache), with one rounding rule and one reduction order for every batch size and thread count.

pub mod chat;
mod error;
pub mod gguf;
pub mod kernels;
pub mod model;
pub mod pool;
pub mod quant;
pub mod sampling;
pub mod tap;
pub mod tokenizer;

pub use error::{Error, ErrorKind};
