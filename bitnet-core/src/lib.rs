//! BitNet b1.58 inference engine: tokenizers, ternary kernels, model, sampling.
//!
//! Arithmetic follows BitNet.cpp where it defines the answer (int8 activations, exact ternary dot products,
//! F16 KV cache), with one rounding rule and one reduction order for every batch size and thread count.
//!
//! | module | what |
//! |---|---|
//! | [`model`] | weights, and sessions that evaluate tokens |
//! | [`tokenizer`] | SentencePiece, byte-level BPE and WordPiece, as llama.cpp reads them |
//! | [`sampling`] | greedy, and with temperature, top-k and top-p |
//! | [`quant`] | formats of weights, and of the activations beside them |
//! | [`blocks`] | how each format packs its numbers |
//! | [`kernels`] | products of rows for each instruction set, all with the same integers |
//! | [`pool`] | threads |
//! | [`gguf`], [`tap`] | of [`bitnet_model`] |
//!
//! ```
//! use std::sync::Arc;
//!
//! use bitnet_core::gguf::Gguf;
//! use bitnet_core::model::{Model, Session, SessionOptions};
//! use bitnet_core::sampling::Sampler;
//! use bitnet_core::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
//!
//! # fn main() -> Result<(), bitnet_core::Error> {
//! # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf"));
//! let gguf = Arc::new(Gguf::open(path)?);
//! let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
//! let model = Arc::new(Model::load(gguf)?);
//! let mut session = Session::new(model, SessionOptions { n_ctx: 64, threads: 1 })?;
//! let options = EncodeOptions { add_special: true, parse_special: false };
//! let prompt = tokenizer.encode("Once upon a time", options)?;
//! let generated = session.generate(&prompt, Sampler::greedy()).take(8);
//! let generated = generated.collect::<Result<Vec<u32>, _>>()?;
//! let text = tokenizer.decode(&generated, DecodeOptions::default());
//! println!("{}", String::from_utf8_lossy(&text));
//! # Ok(())
//! # }
//! ```

pub mod blocks;
pub mod kernels;
pub mod model;
pub mod pool;
pub mod quant;
pub mod sampling;
pub mod tokenizer;

// What an engine is given and gives.
pub use bitnet_model::{Error, ErrorKind, gguf, tap};
