//! BitNet b1.58 inference engine: GGUF, tokenizers, ternary kernels, model, sampling.
//!
//! Arithmetic follows BitNet.cpp where it defines the answer (int8 activations, exact ternary dot products,
//! F16 KV cache), with one rounding rule and one reduction order for every batch size and thread count.

pub mod blocks;
pub mod kernels;
pub mod model;
pub mod pool;
pub mod quant;
pub mod sampling;
pub mod tokenizer;

// What an engine is given and gives.
pub use bitnet_model::{Error, ErrorKind, gguf, tap};
