//! The worker protocol, version 2: how the driver talks to an engine in a child process.
//!
//! Whatever speaks it can be compared: `crossval run --candidate exec:COMMAND` starts the program and arguments of
//! `COMMAND`, split as a shell does it, in the driver's working directory. `examples/` in the source tree has whole
//! workers to copy: in Rust (`examples/rust`, a [`Backend`] behind [`serve`], which needs no other crate of ours), in C
//! (`examples/c`; C and C++ include `crossval-protocol/include/crossval_protocol.h`) and in Python (`examples/python`).
//!
//! A worker reads requests from its standard input and writes responses to its standard output. (Workers of
//! this crate keep that descriptor to themselves and point descriptor 1 at standard error, since C++ libraries
//! print there.) Whatever a worker writes to standard error is its log, whose last lines are in the report should
//! it fail.
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
//! The worker speaks first: [`Response::Hello`]. Then the driver sends a [`Request`] and waits for its one
//! response, so that there is never more than one request in the pipe. [`Response::Error`] in its place refuses
//! the request, and the worker is ready for the next; a refused [`Request::Eval`] leaves the sequence in any state,
//! and what follows starts again from position 0.
//!
//! A run goes: [`Request::Load`], [`Request::Tokenize`] where the worker has a tokenizer, [`Request::Configure`],
//! then [`Request::Generate`] and [`Request::Eval`] in any number and order, with [`Request::Detokenize`] between
//! them; [`Request::Usage`]; [`Request::Quit`]. `Configure` may come again, with other settings. `Quit`, or the end
//! of standard input, ends the worker: it has 100 ms to exit before it is killed.
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
//! Rows are tokens; [`Tap`] gives the width of each tap and what it holds. Values are F32, or F16
//! for `k_cache` and `v_cache`, whose rows are those of the batch, not the whole cache. A row of heads holds them
//! one after the other. A row of `attn_probs` holds, head after head, the probabilities of positions
//! `0 .. first_position + tokens of the batch`, 0 where the mask hides one; so its width grows with the sequence.
//!
//! Text to and from a tokenizer is a payload of bytes, UTF-8 or not.
//!
//! An engine that does not have a tap's values at hand leaves the tap out of its hello: it is then reported as not
//! offered, which a profile may or may not allow.
//!
//! # Judging
//! An engine whose hello says `judges` answers [`Request::Judge`]: it computes one row of one stage from the inputs
//! given, and says how far the rows of other engines are from it. Of the engines of this crate, that is `oracle`;
//! no other needs it.
//!
//! # In Rust
//! | module | what |
//! |---|---|
//! | this one | messages and frames |
//! | `serve` | [`Backend`], an engine as the serve loop sees it, and [`serve()`] |
//! | [`facts`] | what a GGUF file says of its weights: most of [`ModelFacts`] |
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
mod serve;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use bitnet_model::tap::Tap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use bitnet_model;

pub use self::serve::{Backend, DriverGone, Refusal, TapStream, serve, serve_over};

/// The version spoken here.
pub const VERSION: u32 = 2;

/// Largest header, bytes.
pub const MAX_HEADER: usize = 16 << 20;

/// Largest payload, bytes.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Longest text of [`Request::Tokenize`], bytes: its tokens, of four bytes each, fit a payload even where there are twice
/// as many of them.
pub const MAX_TEXT: usize = MAX_PAYLOAD / 8;

/// Payloads up to this many bytes are written together with their header.
const SMALL_PAYLOAD: usize = 4 << 10;

/// Read lengths are trusted up to this many bytes.
const TRUSTED_LENGTH: usize = 64 << 10;

/// Pieces of a tap aim at this many bytes.
const TAP_FRAME_BYTES: usize = 4 << 20;

/// Rows of a tap that go into one frame, given the bytes of a row: as many as fit 4 MiB, at least one.
pub fn rows_per_frame(row_bytes: usize) -> usize {
    (TAP_FRAME_BYTES / row_bytes.max(1)).max(1)
}

/// Driver to worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Load a model file. Answer: [`Response::Loaded`].
    Load {
        /// The GGUF file, as given to the driver; relative to the working directory.
        model: PathBuf,
    },
    /// Load the vocabulary alone, also of a file without tensors. Answer: [`Response::VocabLoaded`].
    LoadVocab {
        /// As in [`Request::Load`].
        model: PathBuf,
    },
    /// Look through the weights of the loaded model for what no file should hold, which loading need not do. Sent to
    /// the engines of this crate only. Answer: [`Response::WeightsChecked`].
    CheckWeights,
    /// Time the matrix products of the loaded model by themselves, on one thread. Sent to the engines of this repository
    /// only. Answer: [`Response::KernelsTimed`].
    TimeKernels,
    /// Make ready to evaluate, with an empty KV cache. Answer: [`Response::Configured`].
    Configure(Settings),
    /// Text, the payload, to token IDs. Answer: [`Response::Tokens`]; [`Response::Error`] for a text that the
    /// tokenizer cannot read.
    Tokenize {
        /// Add BOS and the like where the model's metadata says so.
        add_special: bool,
        /// Read special tokens in the text as such.
        parse_special: bool,
    },
    /// Token IDs, the payload, to text. Answer: [`Response::Text`].
    Detokenize {
        /// Leave out BOS and the like where [`Request::Tokenize`] adds them.
        remove_special: bool,
        /// Write control tokens out by their names.
        unparse_special: bool,
    },
    /// Token IDs, the payload, to the text of each by itself. Answer: [`Response::Pieces`].
    Pieces,
    /// Evaluate token IDs, the payload, in one batch: at least one, at most `n_ubatch`. Answer: taps, then
    /// [`Response::Evaluated`].
    Eval {
        /// The sequence; 0 for now.
        seq_id: u32,
        /// Position of the first token; 0 clears the sequence first.
        first_position: usize,
        /// Taps to send.
        taps: Vec<Tap>,
        /// Wait for a replacement of each piece sent.
        overwrite: bool,
        /// Return the last token's logits, `n_vocab` F32, as the payload of [`Response::Evaluated`].
        last_logits: bool,
    },
    /// During [`Request::Eval`]: go on with the payload's values.
    Overwrite,
    /// During [`Request::Eval`]: go on with the worker's own values.
    Keep,
    /// Clear the sequence, then generate greedily from a prompt, past end-of-text tokens. Ties go to the lowest ID.
    /// The payload is the prompt's token IDs, as many as fit the context: the worker cuts it into batches itself.
    /// This is what is timed. Answer: [`Response::Generated`].
    Generate {
        /// Tokens to generate, exactly; with 0, the prompt is evaluated all the same.
        n_predict: usize,
    },
    /// Is this row right? Answer: [`Response::Judged`].
    Judge(JudgeRequest),
    /// What has been used since the worker started. Answer: [`Response::Usage`].
    Usage,
    /// End the worker. No answer.
    Quit,
}

/// A batch to evaluate: the fields of [`Request::Eval`] and its payload.
#[derive(Clone, Copy, Debug)]
pub struct EvalRequest<'a> {
    /// Position of the first token; 0 clears the sequence first.
    pub first_position: usize,
    /// Token IDs of the batch.
    pub tokens: &'a [u32],
    /// Taps to send.
    pub taps: &'a [Tap],
    /// Wait for a replacement of each piece sent.
    pub overwrite: bool,
    /// Return the last token's logits.
    pub last_logits: bool,
}

/// A row of a stage as engines have it, and what they computed it from.
///
/// The payload holds the token IDs of the batch, the inputs in the order of `inputs`, and then `rows` rows of the tap.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeRequest {
    /// The stage.
    pub tap: Tap,
    /// Its layer, from 0; null outside the layers.
    pub layer: Option<usize>,
    /// Position of the first token of the batch that the stage was evaluated in.
    pub first_position: usize,
    /// Tokens of the batch.
    pub n_tokens: usize,
    /// The row's position.
    pub position: usize,
    /// What the inputs are: the stage's own, at the row's position; keys and values from position 0 on.
    pub inputs: Vec<TapHeader>,
    /// Rows to be judged.
    pub rows: usize,
    /// The element whose right value is wanted.
    pub element: usize,
    /// Largest NMSE that counts as right.
    pub limit: f64,
}

/// What a worker has used so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Largest resident set, bytes.
    pub peak_rss_bytes: Option<u64>,
    /// CPU time, user and system, seconds.
    pub cpu_seconds: Option<f64>,
    /// Values that a deliberate fault has changed; null without one.
    #[serde(default)]
    pub changed_values: Option<u64>,
    /// How the compact head was used; null without one.
    #[serde(default)]
    pub compact_head: Option<CompactHeadUse>,
}

/// What a compact copy of the output head costs and how often it did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompactHeadUse {
    /// Size of the copy.
    pub bytes: u64,
    /// Tokens generated since the engine was configured.
    pub tokens: u64,
    /// Of these, those found without all logits.
    pub certified: u64,
    /// Logits computed for those, from the head itself.
    pub exact_rows: u64,
}

/// A matrix product by itself, with weights that come from memory and not from a cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KernelTime {
    /// The kernel's name.
    pub kernel: String,
    /// Type name of the weights.
    pub weights: String,
    /// Rows of the matrix.
    pub rows: usize,
    /// Columns of the matrix.
    pub columns: usize,
    /// Tokens at once.
    pub tokens: usize,
    /// Multiply-accumulates of one product.
    pub macs: u64,
    /// Bytes of weights that one product reads.
    pub weight_bytes: u64,
    /// Times of one product, milliseconds.
    pub ms: Vec<f64>,
}

/// What became of a row that was judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowJudgement {
    /// NMSE against the judge's row; null if not finite.
    pub nmse: Option<f64>,
    /// Whether it is within the limit.
    pub right: bool,
    /// The rounding, of those that the model's types allow, with which it comes closest.
    pub rounding: String,
    /// What the data shows about a wrong row, each a clause whose subject is the engine.
    pub findings: Vec<String>,
}

/// How an engine is to run. All of it is explicit and recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// Size of the KV cache, tokens: positions `0..n_ctx`.
    pub n_ctx: usize,
    /// Largest batch that is evaluated at once, tokens.
    pub n_ubatch: usize,
    /// Threads.
    pub threads: usize,
    /// Whether an [`Request::Eval`] may ask for taps. Without, nothing may slow the engine down.
    pub observe: bool,
    /// Largest compact copy of the output head that the engine may build so as to generate the same tokens from less
    /// memory traffic, bytes; 0 for none.
    #[serde(default)]
    pub compact_head_budget: u64,
}

/// Worker to driver.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// The first frame of a worker.
    Hello(Hello),
    /// A model is loaded.
    Loaded {
        /// What it is.
        facts: Box<ModelFacts>,
        /// How long loading took, milliseconds.
        load_ms: f64,
    },
    /// A vocabulary is loaded.
    VocabLoaded {
        /// What it is.
        facts: VocabFacts,
        /// How long loading took, milliseconds.
        load_ms: f64,
    },
    /// The weights were looked through.
    WeightsChecked {
        /// One finding per tensor at fault.
        findings: Vec<String>,
    },
    /// The products were timed.
    KernelsTimed {
        /// One entry per shape and number of tokens.
        products: Vec<KernelTime>,
    },
    /// The engine is ready to evaluate.
    Configured {
        /// Every setting that it runs with, for the report; what differs from what was asked for shows here.
        settings: BTreeMap<String, String>,
    },
    /// The payload holds token IDs.
    Tokens {
        /// How long the tokenizer took, reading and writing the pipe apart, milliseconds.
        #[serde(default)]
        ms: Option<f64>,
    },
    /// The payload holds text; it may end within a character.
    Text,
    /// The payload holds, one after the other, what each token adds to a text that others precede; of a control token,
    /// its name.
    Pieces {
        /// Bytes of each, in the order of the request.
        lengths: Vec<usize>,
    },
    /// A piece of a tap; the payload holds `rows * width` values.
    Tap(TapHeader),
    /// An evaluation is complete.
    Evaluated,
    /// Tokens were generated; the payload holds their IDs.
    Generated {
        /// Time for the prompt, until the first token is known, milliseconds.
        prefill_ms: f64,
        /// Time for each further token, milliseconds: `n_predict - 1` of them.
        decode_ms: Vec<f64>,
    },
    /// What the worker has used so far.
    Usage(Usage),
    /// What a judge says.
    Judged {
        /// The right value of the element asked for; null if there is none.
        value: Option<f64>,
        /// One entry per row.
        rows: Vec<RowJudgement>,
    },
    /// The request failed.
    Error {
        /// What kind of failure.
        kind: ErrorKind,
        /// One sentence that names the thing.
        message: String,
    },
}

/// Who the worker is and what it can do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Must be [`VERSION`].
    pub protocol: u32,
    /// Name of the engine; free text, as is `version`.
    pub engine: String,
    /// Version or source revision.
    pub version: Option<String>,
    /// Facts about the build: compiler, flags, CPU features, kernel, …
    #[serde(default)]
    pub build: BTreeMap<String, String>,
    /// `general.architecture` values that it runs.
    pub architectures: Vec<String>,
    /// Taps that it offers, for the architectures that have them.
    pub taps: Vec<Tap>,
    /// Whether [`Request::Eval`] may ask to overwrite.
    pub overwrite: bool,
    /// Tensor types that it runs.
    pub dtypes: Vec<String>,
    /// Whether it answers [`Request::LoadVocab`], [`Request::Tokenize`], [`Request::Detokenize`] and
    /// [`Request::Pieces`]. If neither engine does, prompts are
    /// given as token IDs.
    pub tokenizer: bool,
    /// Whether it answers [`Request::Judge`].
    #[serde(default)]
    pub judges: bool,
}

/// What a loaded model is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelFacts {
    /// `general.architecture`.
    pub architecture: String,
    /// `general.name`.
    pub name: Option<String>,
    /// Layers.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Vocabulary size.
    pub n_vocab: usize,
    /// Context length that the model was trained for.
    pub n_ctx_train: usize,
    /// Taps that the model has.
    pub taps: Vec<Tap>,
    /// Tensors per type name.
    #[serde(default)]
    pub tensor_types: BTreeMap<String, usize>,
    /// Type names (`F16`, `I2_S`, …) of the weights behind each tap that is a matrix product: `q k v attn_proj
    /// ffn_gate ffn_up ffn_down logits`. The limits follow from them, so a candidate must give them all.
    #[serde(default)]
    pub weight_types: BTreeMap<Tap, Vec<String>>,
    /// Its vocabulary, of engines that have a tokenizer.
    #[serde(default)]
    pub vocab: Option<VocabFacts>,
    /// What one token costs, for the share of the roofline that an engine reaches.
    #[serde(default)]
    pub work: Option<TokenWork>,
}

/// What one token costs an engine that reads every weight once and multiplies every ternary one once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenWork {
    /// Bytes of the matrices that a decode step reads.
    pub weight_bytes: u64,
    /// Multiply-accumulates with ternary weights; null if there are none.
    pub ternary_macs: Option<u64>,
}

/// What a vocabulary is. Texts are as in the file, with invalid UTF-8 replaced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VocabFacts {
    /// Number of tokens.
    pub n_vocab: usize,
    /// `tokenizer.ggml.model`: `llama`, `gpt2`, `bert`, …
    pub tokenizer: String,
    /// `tokenizer.ggml.pre`.
    pub pre: Option<String>,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
    /// The text of the token that begins a sequence.
    pub bos: Option<String>,
    /// The text of the token that ends one.
    pub eos: Option<String>,
    /// Whether [`Request::Tokenize`] puts BOS in front if asked to add special tokens.
    #[serde(default)]
    pub add_bos: bool,
    /// Texts of the control and user-defined tokens, in the order of their IDs.
    #[serde(default)]
    pub special: Vec<String>,
}

/// What a piece of a tap is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapHeader {
    /// Which tap.
    pub tap: Tap,
    /// Layer, from 0; null outside the layers.
    pub layer: Option<usize>,
    /// Position of the first row.
    pub first_position: usize,
    /// Rows in the payload.
    pub rows: usize,
    /// Values per row.
    pub width: usize,
}

impl TapHeader {
    /// Bytes of one row.
    pub fn row_bytes(&self) -> usize {
        self.width * self.value_bytes()
    }

    /// Bytes of all rows; `None` if there are none, or more than can be.
    pub fn payload_bytes(&self) -> Option<usize> {
        let values = self.rows.checked_mul(self.width).filter(|&n| n > 0)?;
        values.checked_mul(self.value_bytes())
    }

    fn value_bytes(&self) -> usize {
        if self.tap.is_f16() { 2 } else { 4 }
    }
}

/// How text becomes tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add BOS and the like where the model's metadata says so.
    pub add_special: bool,
    /// Read special tokens in the text as such.
    pub parse_special: bool,
}

/// How tokens become text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leave out BOS and the like where [`EncodeOptions::add_special`] adds them.
    pub remove_special: bool,
    /// Write control tokens out by their names.
    pub unparse_special: bool,
}

/// Kinds of failure that a worker reports. While a model is loaded and prompts are tokenized they end the run with
/// exit code 65, 64 or 30; later, any of them is the engine's failure in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The model file is missing, damaged, or holds what the engine cannot run.
    BadModel,
    /// The request does not fit the model: token out of range, context exceeded.
    Usage,
    /// Anything else.
    Internal,
}

/// Token IDs as they stand in a payload.
pub fn token_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Token IDs from a payload; `None` if it ends within one.
pub fn tokens_from_bytes(payload: &[u8]) -> Option<Vec<u32>> {
    match payload.as_chunks() {
        (ids, []) => Some(ids.iter().map(|&id| u32::from_le_bytes(id)).collect()),
        _ => None,
    }
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the pipe between frames.
    #[error("the pipe was closed")]
    Closed,
    /// The pipe broke, or was closed within a frame.
    #[error("the pipe broke: {0}")]
    Io(#[from] io::Error),
    /// A length beyond the cap.
    #[error("a frame announces {announced} bytes of {part}, more than {cap}")]
    TooLarge {
        /// `header` or `payload`.
        part: &'static str,
        /// Announced length.
        announced: usize,
        /// Largest allowed.
        cap: usize,
    },
    /// The header is not a message of this protocol.
    #[error("unreadable frame header {header:?}: {source}")]
    Header {
        /// Start of the header.
        header: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A hello of another version than [`VERSION`].
    #[error("a hello of version {0} of the protocol, not {VERSION}")]
    Version(u32),
}

/// Write one frame and flush.
///
/// # Errors
/// Whatever writing to `out` returns; a frame over the caps is `InvalidInput`.
pub fn write_frame<T: Serialize>(
    out: &mut impl Write,
    message: &T,
    payload: &[u8],
) -> io::Result<()> {
    let header = serde_json::to_vec(message)?;
    if header.len() > MAX_HEADER || payload.len() > MAX_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "frame of {} + {} bytes is over the cap",
                header.len(),
                payload.len()
            ),
        ));
    }
    let mut head = Vec::with_capacity(8 + header.len() + SMALL_PAYLOAD);
    head.extend_from_slice(&(header.len() as u32).to_le_bytes());
    head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    head.extend_from_slice(&header);
    // Every write may wake the other side.
    if payload.len() <= SMALL_PAYLOAD {
        head.extend_from_slice(payload);
        out.write_all(&head)?;
    } else {
        out.write_all(&head)?;
        out.write_all(payload)?;
    }
    out.flush()
}

/// Read the first frame of a worker, as [`read_frame`] does.
///
/// # Errors
/// [`FrameError::Version`], whatever else a hello of another version holds; those of [`read_frame`].
pub fn read_hello(input: &mut impl Read, payload: &mut Vec<u8>) -> Result<Response, FrameError> {
    #[derive(Deserialize)]
    struct Spoken {
        protocol: u32,
    }
    let header = read_parts(input, payload)?;
    match serde_json::from_slice(&header) {
        Ok(Spoken { protocol }) if protocol != VERSION => Err(FrameError::Version(protocol)),
        _ => parse(&header),
    }
}

/// Read one frame; the payload goes into `payload`, whose former content is dropped.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the stream; the others as they say.
pub fn read_frame<T: DeserializeOwned>(
    input: &mut impl Read,
    payload: &mut Vec<u8>,
) -> Result<T, FrameError> {
    parse(&read_parts(input, payload)?)
}

/// Reads the payload of a frame into `payload`; returns its header.
fn read_parts(input: &mut impl Read, payload: &mut Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let mut lengths = [0; 8];
    read_exact_or_closed(input, &mut lengths)?;
    let [header_len, payload_len] = [0, 4].map(|at| {
        u32::from_le_bytes([
            lengths[at],
            lengths[at + 1],
            lengths[at + 2],
            lengths[at + 3],
        ]) as usize
    });
    for (part, announced, cap) in [
        ("header", header_len, MAX_HEADER),
        ("payload", payload_len, MAX_PAYLOAD),
    ] {
        if announced > cap {
            return Err(FrameError::TooLarge {
                part,
                announced,
                cap,
            });
        }
    }
    let mut header = Vec::new();
    read_into(input, &mut header, header_len)?;
    read_into(input, payload, payload_len)?;
    Ok(header)
}

fn parse<T: DeserializeOwned>(header: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(header).map_err(|source| FrameError::Header {
        header: String::from_utf8_lossy(&header[..header.len().min(120)]).into_owned(),
        source,
    })
}

/// Grows `buffer` only as bytes arrive, so that a lying length costs next to no memory.
fn read_into(input: &mut impl Read, buffer: &mut Vec<u8>, len: usize) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(len.min(TRUSTED_LENGTH));
    let got = input.by_ref().take(len as u64).read_to_end(buffer)?;
    if got == len {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn read_exact_or_closed(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tap_header() -> Response {
        Response::Tap(TapHeader {
            tap: Tap::KCache,
            layer: Some(3),
            first_position: 5,
            rows: 2,
            width: 4,
        })
    }

    #[test]
    fn frames_round_trip_and_then_close() {
        let mut wire = Vec::new();
        write_frame(&mut wire, &tap_header(), &[1, 2, 3]).unwrap();
        write_frame(&mut wire, &Response::Evaluated, &[]).unwrap();
        let (mut input, mut payload) = (wire.as_slice(), Vec::new());
        let first: Response = read_frame(&mut input, &mut payload).unwrap();
        assert_eq!((first, payload.as_slice()), (tap_header(), &[1, 2, 3][..]));
        let second: Response = read_frame(&mut input, &mut payload).unwrap();
        assert_eq!((second, payload.len()), (Response::Evaluated, 0));
        assert!(matches!(
            read_frame::<Response>(&mut input, &mut payload),
            Err(FrameError::Closed)
        ));
    }

    #[test]
    fn payloads_are_whole_however_they_are_written() {
        for len in [0, SMALL_PAYLOAD, SMALL_PAYLOAD + 1, TRUSTED_LENGTH + 1] {
            let (mut wire, sent) = (Vec::new(), vec![7; len]);
            write_frame(&mut wire, &Response::Text, &sent).unwrap();
            let mut payload = vec![1];
            let _: Response = read_frame(&mut wire.as_slice(), &mut payload).unwrap();
            assert!(payload == sent, "{len} bytes");
        }
    }

    /// What a later version adds, such as taps that are unknown here, is not what its hello fails for.
    #[test]
    fn of_another_version_only_that_is_read() {
        let read = |message| {
            let mut wire = Vec::new();
            write_frame(&mut wire, &message, &[]).unwrap();
            read_hello(&mut wire.as_slice(), &mut Vec::new())
        };
        let hello = |version| {
            serde_json::json!({
                "type": "hello", "protocol": version, "engine": "mine", "version": null, "architectures": [],
                "taps": ["router"], "overwrite": false, "dtypes": [], "tokenizer": false,
            })
        };
        assert!(matches!(read(hello(3)), Err(FrameError::Version(3))));
        assert!(matches!(
            read(hello(VERSION)),
            Err(FrameError::Header { .. })
        ));
        let mut ours = hello(VERSION);
        ours["taps"] = serde_json::json!(["logits"]);
        assert!(matches!(read(ours), Ok(Response::Hello(_))));
        let other = serde_json::json!({"type": "evaluated"});
        assert!(matches!(read(other), Ok(Response::Evaluated)));
    }

    #[test]
    fn token_ids_are_whole_little_endian_words() {
        let bytes = token_bytes(&[1, 0x0102_0304]);
        assert_eq!(bytes, [1, 0, 0, 0, 4, 3, 2, 1]);
        assert_eq!(tokens_from_bytes(&bytes), Some(vec![1, 0x0102_0304]));
        assert_eq!(tokens_from_bytes(&bytes[..7]), None);
    }

    #[test]
    fn header_is_flat_json_with_a_type() {
        let json = serde_json::to_value(tap_header()).unwrap();
        assert_eq!(json["type"], "tap");
        assert_eq!(json["tap"], "k_cache");
        assert_eq!(json["layer"], 3);
    }

    /// One encoding of token IDs on the wire: no header has any.
    #[test]
    fn headers_hold_no_token_ids() {
        let eval = Request::Eval {
            seq_id: 0,
            first_position: 3,
            taps: vec![Tap::Logits],
            overwrite: false,
            last_logits: true,
        };
        let expected = r#"{"type":"eval","seq_id":0,"first_position":3,"taps":["logits"],"overwrite":false,"last_logits":true}"#;
        assert_eq!(serde_json::to_string(&eval).unwrap(), expected);
        let generate = Request::Generate { n_predict: 2 };
        let expected = r#"{"type":"generate","n_predict":2}"#;
        assert_eq!(serde_json::to_string(&generate).unwrap(), expected);
        let judge = Request::Judge(JudgeRequest {
            tap: Tap::Q,
            layer: Some(1),
            first_position: 0,
            n_tokens: 2,
            position: 1,
            inputs: Vec::new(),
            rows: 1,
            element: 5,
            limit: 0.5,
        });
        let expected = r#"{"type":"judge","tap":"q","layer":1,"first_position":0,"n_tokens":2,"position":1,"inputs":[],"rows":1,"element":5,"limit":0.5}"#;
        assert_eq!(serde_json::to_string(&judge).unwrap(), expected);
        let generated = Response::Generated {
            prefill_ms: 1.5,
            decode_ms: vec![0.5],
        };
        let expected = r#"{"type":"generated","prefill_ms":1.5,"decode_ms":[0.5]}"#;
        assert_eq!(serde_json::to_string(&generated).unwrap(), expected);
    }

    #[test]
    fn a_tap_header_that_lies_has_no_size() {
        let header = |rows, width| TapHeader {
            tap: Tap::Q,
            layer: None,
            first_position: 0,
            rows,
            width,
        };
        assert_eq!(header(2, 3).payload_bytes(), Some(24));
        for (rows, width) in [(0, 3), (2, 0), (usize::MAX, 2), (1, usize::MAX / 2)] {
            assert_eq!(header(rows, width).payload_bytes(), None);
        }
    }

    #[test]
    fn lengths_beyond_the_cap_are_refused_before_reading() {
        let mut wire = vec![0xff; 8];
        wire.extend_from_slice(b"{}");
        let error = read_frame::<Response>(&mut wire.as_slice(), &mut Vec::new()).unwrap_err();
        assert!(matches!(error, FrameError::TooLarge { part: "header", .. }));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read_frame::<Response>(&mut bytes.as_slice(), &mut Vec::new());
        }

        #[test]
        fn a_cut_frame_is_an_error(cut in 1_usize..60) {
            let mut wire = Vec::new();
            write_frame(&mut wire, &tap_header(), &[7; 16]).unwrap();
            let cut = cut.min(wire.len() - 1);
            let error = read_frame::<Response>(&mut &wire[..cut], &mut Vec::new()).unwrap_err();
            prop_assert!(matches!(error, FrameError::Io(_)));
        }
    }
}
