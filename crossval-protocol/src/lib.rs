//! The worker protocol, version 2: how the driver talks to an engine in a child process.
//!
//! Whatever speaks it can be compared: `crossval run --candidate exec:COMMAND` starts the program and arguments of
//! `COMMAND`, split as a shell does it, in the driver's working directory. `examples/` in the source tree has whole
//! workers to copy: in Rust (`examples/rust`, a [`Backend`] behind [`serve`], which needs no other crate of ours), in C
//! (`examples/c`; C and C++ include `crossval-protocol/include/crossval_protocol.h`) and in Python (`examples/python`).
//! `crossval check-worker exec:COMMAND` says whether a worker keeps to it.
//!
//! A worker reads requests from its standard input and writes responses to its standard output. (Workers of
//! this crate keep that descriptor to themselves and point descriptor 1 at standard error, since C++ libraries
//! print there.) Whatever a worker writes to standard error is its log, whose last lines are in the report should
//! it fail. Text among the frames ends the run, with the text and this advice.
//!
//! # Frames
//! ```text
//! u32  length of the header, little-endian, at most 16 MiB
//! u32  length of the payload, little-endian, at most 64 MiB
//! ...  header: one JSON object, UTF-8, with a field "type"
//! ...  payload: raw little-endian values; empty where a message has none
//! ```
//! `type` is the name of a [`Request`] or [`Response`] in snake case; the message's fields stand beside it:
//! `{"type":"load","model":"tiny.gguf"}`, `{"type":"evaluated"}`. Readers ignore fields that they do not know.
//! What is optional may be null or left out. Positions and counts are whole numbers, times are wall-clock milliseconds.
//! JSON holds no NaN or infinity; payloads may.
//!
//! Token IDs are always payload, never JSON: each a u32, little-endian.
//!
//! # Versions
//! [`Hello::protocol`] says which version a worker speaks; the driver refuses every one but its own ([`VERSION`]) and
//! then does not look at the rest of the hello. What changed:
//! - **2**: token IDs travel as payload everywhere. [`Request::Eval`], [`Request::Generate`] and
//!   [`Response::Generated`] have no field `tokens` any more, [`Request::Judge`] has `n_tokens` in its place and the IDs
//!   in front of its other values. The messages of the tokenizer are as they were.
//! - **1**: the first.
//!
//! # Conversation
//! The worker speaks first: [`Response::Hello`], within 30 s of its start, so before it loads anything that takes long;
//! every other answer may take as long as `--timeout` says. Then the driver sends a [`Request`] and waits for its one
//! response, so that there is never more than one request in the pipe. [`Response::Error`] in its place refuses
//! the request, and the worker is ready for the next; a refused [`Request::Eval`] leaves the sequence in any state,
//! and what follows starts again from position 0.
//!
//! A run goes: [`Request::Load`], [`Request::Tokenize`] where the worker has a tokenizer, [`Request::Configure`],
//! then [`Request::Generate`] and [`Request::Eval`] in any number and order, with [`Request::Detokenize`] between
//! them; [`Request::Usage`]; [`Request::Quit`]. `Configure` may come again, with other settings. `Quit`, or the end
//! of standard input, ends the worker: it has 10 s to exit, with status 0. Another end is the engine's failure in the
//! report. One that is in the midst of a request when nobody waits for its answer any more is killed after 100 ms.
//!
//! Where only tokenizers are compared (`crossval tokenize`), [`Request::LoadVocab`] takes the place of `Load`, and
//! `Tokenize`, `Detokenize` and `Pieces` are all that follows, in any number and order.
//!
//! # Evaluation
//! A worker holds one sequence and its KV cache. [`Request::Eval`] appends a batch to it: `first_position` is how
//! many tokens the sequence holds, or 0, which empties it first. Anything else is [`ErrorKind::Usage`], and so are
//! more than `n_ctx` positions and unknown token IDs. The tokens are one batch, however many the engine could take.
//!
//! For every tap in `taps` the worker sends its values as soon as they are computed, of *all* tokens of the batch
//! (`logits` too), then one [`Response::Evaluated`]. Taps that were not asked for are not sent; the order of `taps`
//! says nothing. `embd` comes before the layers, one layer before the next, `final_norm` and `logits` after them;
//! within a layer the order is free. Values go out in pieces of [`rows_per_frame`] rows, the last one shorter:
//! the driver compares pieces of equal [`TapHeader`], so both engines must cut alike.
//!
//! With `overwrite`, the worker waits after each piece for [`Request::Overwrite`], whose payload has the shape and
//! type of the piece, or [`Request::Keep`], and computes everything that follows from the values then in force. So
//! `k_cache` and `v_cache` replace what is in the cache, `attn_probs` what the values are weighted with, `ffn_inp`
//! and `layer_out` the residual stream. Offer only taps for which this holds, or say `"overwrite": false`: then
//! the engine is compared in cumulative mode alone.
//!
//! # Values
//! A logits-only worker is a start: it offers `logits` and no other tap, says `"overwrite": false`, and is compared with
//! `--profile logits`, in cumulative mode.
//!
//! Rows are tokens; [`Tap`](bitnet_model::tap::Tap) gives the width of each tap and what it holds. Values are F32, or F16
//! for `k_cache` and `v_cache`, whose rows are those of the batch, not the whole cache. A row of heads holds them
//! one after the other. Rows of another width than the model's, of layers that it does not have or of positions that are
//! not in the batch break the protocol. A row of `attn_probs` holds, head after head, the probabilities of positions
//! `0 .. first_position + tokens of the batch`, 0 where the mask hides one; so its width grows with the sequence.
//!
//! Text to and from a tokenizer is a payload of bytes, UTF-8 or not.
//!
//! An engine that does not have a tap's values at hand leaves the tap out of its hello: it is then reported as not
//! offered, which a profile may or may not allow.
//!
//! # Judging
//! An engine whose hello says `judges` answers [`Request::Judge`]: it computes one row of one stage from the inputs
//! given, and says how far the rows of other engines are from it. It answers [`Request::Spread`], too: what the roundings
//! that the model allows make of its logits. Of the engines of this crate, that is `oracle`; no other needs it.
//!
//! # Graphs
//! An engine whose hello says `graphs` answers [`Request::Graphs`]: what its library evaluates for the loaded model, node
//! by node, and what it takes each for. What it cannot find there it does not offer for this model. Of the engines of
//! this crate, that is `bitnet.cpp`; no other needs it.
//!
//! # In Rust
//! | module | what |
//! |---|---|
//! | this one | messages and frames |
//! | `serve` | [`Backend`], an engine as the serve loop sees it, and [`serve()`] |
//! | `graph` | [`Graphs`], of engines that have some |
//! | [`facts`] | what a GGUF file says of its weights: most of [`ModelFacts`] |
//! | [`transcript`] | a conversation, message by message |
//! | [`formats`] | how weights lie in a file: I2_S and the others |
//! | [`chat`] | what passes between the driver and the process that renders chat templates |
//!
//! A whole engine (a real one is in `examples/rust/`), which offers its logits and finds every token as likely as any other:
//! ```
//! use std::collections::BTreeMap;
//! use std::path::Path;
//!
//! use bitnet_model::{Hyperparameters, Tap, gguf::Gguf};
//! use crossval_protocol::*;
//!
//! struct Uniform {
//!     n_vocab: usize,
//! }
//!
//! impl Backend for Uniform {
//!     fn hello(&self) -> Hello {
//!         Hello {
//!             protocol: VERSION,
//!             engine: "uniform".to_owned(),
//!             version: None,
//!             build: BTreeMap::new(),
//!             architectures: vec!["llama".to_owned()],
//!             taps: vec![Tap::Logits],
//!             overwrite: false,
//!             dtypes: vec!["F32".to_owned()],
//!             tokenizer: false,
//!             judges: false,
//!             graphs: false,
//!         }
//!     }
//!
//!     fn load(&mut self, model: &Path) -> Result<ModelFacts, Refusal> {
//!         let gguf = Gguf::open(model)?;
//!         let facts = facts::model(&gguf, &Hyperparameters::read(&gguf)?);
//!         self.n_vocab = facts.n_vocab;
//!         Ok(facts)
//!     }
//!
//!     fn configure(&mut self, _: Settings) -> Result<BTreeMap<String, String>, Refusal> {
//!         Ok(BTreeMap::new())
//!     }
//!
//!     fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal> {
//!         if request.taps.contains(&Tap::Logits) {
//!             let logits = TapHeader {
//!                 tap: Tap::Logits,
//!                 layer: None,
//!                 first_position: request.first_position,
//!                 rows: request.tokens.len(),
//!                 width: self.n_vocab,
//!             };
//!             let mut values = vec![0; logits.rows * logits.row_bytes()];
//!             let sent = taps.send(logits, &mut values, request.overwrite);
//!             sent.map_err(|e| Refusal::new(ErrorKind::Internal, e))?;
//!         }
//!         Ok(vec![0.0; if request.last_logits { self.n_vocab } else { 0 }])
//!     }
//!
//!     fn prefill(&mut self, _: &[u32]) -> Result<u32, Refusal> {
//!         Ok(0)
//!     }
//!
//!     fn decode(&mut self, _: u32) -> Result<u32, Refusal> {
//!         Ok(0)
//!     }
//! }
//!
//! // Its `main` is `serve(&mut Uniform { n_vocab: 0 }, BTreeMap::new())`; here the driver is a buffer.
//! let mut requests = Vec::new();
//! write_frame(&mut requests, &Request::Quit, &[])?;
//! let input = std::io::Cursor::new(requests);
//! serve_over(&mut Uniform { n_vocab: 0 }, input, std::io::sink())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod chat;
pub mod facts;
#[doc = include_str!("../docs/formats.md")]
pub mod formats {}
mod frame;
mod graph;
mod message;
mod serve;
#[cfg(test)]
mod tests;
#[doc = include_str!("../docs/transcript.md")]
pub mod transcript {}

pub use bitnet_model;

pub use self::frame::{
    FrameError, MAX_HEADER, MAX_PAYLOAD, MAX_TEXT, read_frame, read_hello, rows_per_frame,
    token_bytes, tokens_from_bytes, write_frame,
};
pub use self::graph::{Graph, GraphNode, GraphSource, Graphs, TakenFor};
pub use self::message::*;
pub use self::serve::{Backend, DriverGone, Refusal, TapStream, serve, serve_over};
