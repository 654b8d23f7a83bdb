//! Traces: everything that a later comparison needs from an engine, in one file.
//!
//! `crossval record` writes one; the engine `trace:FILE` answers from it, on a machine that may have neither
//! the engine nor its C++. The engine itself is in `crossval-workers`.
//!
//! | module | what |
//! |---|---|
//! | `read` | [`Trace`]: opens a file and checks that it holds what it says |
//! | `write` | [`TraceWriter`]: values as they come, to a file of a known layout |
//! | `info` | [`TraceInfo`]: who recorded what, how |
//!
//! ```no_run
//! use crossval_trace::Trace;
//!
//! let trace = Trace::open("run.safetensors".as_ref())?;
//! println!("{}: {}", trace.info().engine, trace.contents());
//! for prompt in trace.prompts() {
//!     for (layer, tap) in trace.sites() {
//!         let (shape, bytes) = trace.tap_rows(prompt, (layer, tap), 0..1)?;
//!         println!("{tap} of layer {layer:?}, first position: {shape:?}, {} bytes", bytes.len());
//!     }
//! }
//! # Ok::<(), crossval_trace::TraceError>(())
//! ```
//!
//! # Format, version 1
//! A trace is a [safetensors](https://huggingface.co/docs/safetensors) file: little-endian, row-major. Readers
//! ignore tensors and keys that they do not know; within version 1 things are only added.
//!
//! ## Tensors
//! `P` counts prompts from 0, `LL` layers from 00. *positions* are those of the prompt and of its teacher-forced
//! decode steps.
//!
//! | name | type | shape |
//! |---|---|---|
//! | `promptP.tokens` | U32 | `[n_prompt]`: token IDs of the prompt |
//! | `promptP.decode_tokens` | U32 | `[n_steps]`: those of the decode steps, the first of `generated` |
//! | `promptP.generated` | U32 | `[n_generated]`: generated greedily, past end-of-text tokens |
//! | `promptP.generated_logits` | F32 | `[n_generated, n_vocab]`: row `i` is what `generated[i]` is the largest of, from one-token steps without taps |
//! | `promptP.TAP` | F32 | `[positions, width]`: `embd`, `final_norm`, `logits` |
//! | `promptP.layerLL.TAP` | F32 | `[positions, width]`: a tap of a layer |
//! | `promptP.layerLL.k_cache`, `.v_cache` | F16 | `[positions, width]` |
//! | `promptP.layerLL.attn_probs` | F32 | `[positions, n_head, positions]`: later positions are 0 |
//!
//! Taps and their widths are those of [`Tap`]; every tap that the model has and the engine offers
//! is there, for every layer. They were taken while the prompt was evaluated in batches of `n_ubatch` tokens and
//! the decode steps one by one.
//!
//! ## `__metadata__`
//! See [`TraceInfo`]: one key per field, and `format`, which is [`FORMAT`]. Strings stand as they are, everything
//! else as JSON.

mod info;
mod read;
#[cfg(any(test, feature = "sample"))]
pub mod sample;
#[cfg(test)]
mod tests;
mod write;

use bitnet_model::tap::Tap;

pub use self::info::{PromptInfo, RecordedNoise, TraceInfo};
pub use self::read::{RecordedPrompt, Trace, TraceError};
pub use self::write::TraceWriter;

/// Value of the key `format`.
pub const FORMAT: &str = "crossval.trace/1";

/// The name of a tap's tensor.
pub fn tap_tensor(prompt: usize, layer: Option<usize>, tap: Tap) -> String {
    match layer {
        Some(layer) => format!("prompt{prompt}.layer{layer:02}.{tap}"),
        None => format!("prompt{prompt}.{tap}"),
    }
}

/// The name of a prompt's own tensor: [`TOKENS`] and the like.
pub fn prompt_tensor(prompt: usize, what: &str) -> String {
    format!("prompt{prompt}.{what}")
}

/// Token IDs of the prompt.
pub const TOKENS: &str = "tokens";
/// Those of the decode steps.
pub const DECODE_TOKENS: &str = "decode_tokens";
/// Those that were generated.
pub const GENERATED: &str = "generated";
/// What those are the largest of.
pub const GENERATED_LOGITS: &str = "generated_logits";
