//! Messages: what driver and worker say to each other, and of what.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bitnet_model::activation::Chosen;
use bitnet_model::tap::Tap;
use serde::{Deserialize, Serialize};

use crate::Graphs;

/// The version spoken here.
pub const VERSION: u32 = 2;

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
    /// Say what the library evaluates for the loaded model, and which taps are not in it. Sent to engines whose
    /// [`Hello::graphs`] says so. Answer: [`Response::Graphs`].
    Graphs,
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
    /// How far apart may engines be in their logits that are right? The payload is a sequence's token IDs, from position
    /// 0 on. Answer: [`Response::Spread`].
    Spread {
        /// Position of the first row of logits that is wanted; those up to the end are.
        first_position: usize,
    },
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
    /// Position of the first token of the batch that the stage was evaluated in, or of one before it: where the
    /// embeddings are to be computed, all tokens are given.
    pub first_position: usize,
    /// Tokens up to the end of the batch.
    pub n_tokens: usize,
    /// The row's position.
    pub position: usize,
    /// What the inputs are: the stage's own, at the row's position; keys and values from position 0 on. What is missing
    /// of those is computed from inputs of the stages before it in the same layer; of the keys' and values' from
    /// position 0 on.
    pub inputs: Vec<TapHeader>,
    /// Rows to be judged.
    pub rows: usize,
    /// The element whose right value is wanted.
    pub element: usize,
    /// Largest NMSE that counts as right, of the row and of each of its heads.
    pub limit: f64,
    /// Largest squared error of an element that counts as right, as a share of its own square or of the row's mean
    /// square, whichever is larger; null for any.
    #[serde(default)]
    pub element_limit: Option<f64>,
    /// Elements to look at; empty for all.
    #[serde(default)]
    pub outputs: Vec<usize>,
    /// Whether to say what is wrong with a wrong row, which takes many times as long as finding it wrong.
    #[serde(default = "explained")]
    pub explain: bool,
}

fn explained() -> bool {
    true
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

/// One token's activations, quantised by themselves, as products with ternary weights take them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QuantiserTime {
    /// The kernel's name.
    pub kernel: String,
    /// Activations: columns of the matrices.
    pub columns: usize,
    /// Times for one token, milliseconds.
    pub ms: Vec<f64>,
}

/// Parts of an engine, each by itself on one thread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KernelTimes {
    /// One entry per shape and number of tokens.
    pub products: Vec<KernelTime>,
    /// One entry per number of columns.
    #[serde(default)]
    pub quantisers: Vec<QuantiserTime>,
}

/// What became of a row that was judged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RowJudgement {
    /// NMSE against the judge's row; null if not finite.
    pub nmse: Option<f64>,
    /// The limit that it was held against, if not the request's.
    #[serde(default)]
    pub limit: Option<f64>,
    /// Whether it is within the limit.
    pub right: bool,
    /// The rounding, of those that the model's types allow, with which it comes closest.
    pub rounding: String,
    /// What the data shows about a wrong row, each a clause whose subject is the engine.
    pub findings: Vec<String>,
}

/// What one rounding that an engine may do makes of the logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundingSpread {
    /// The rounding, in words.
    pub rounding: String,
    /// The largest NMSE of a row of logits with it against the same row without; null if not finite.
    pub nmse: Option<f64>,
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
        /// Tensors, biases aside, whose every weight is 0.
        #[serde(default)]
        zero: Vec<String>,
    },
    /// The kernels were timed.
    KernelsTimed(KernelTimes),
    /// What the library evaluates.
    Graphs(Graphs),
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
    /// What a judge says of roundings.
    Spread {
        /// One entry per rounding.
        roundings: Vec<RoundingSpread>,
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
    /// Name of the engine; free text, as is `version`. Messages call the engine by it, without folders in front, if it
    /// has at most 40 characters and is not the name of another engine.
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
    /// Whether it answers [`Request::Judge`] and [`Request::Spread`].
    #[serde(default)]
    pub judges: bool,
    /// Whether it answers [`Request::Graphs`].
    #[serde(default)]
    pub graphs: bool,
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
    /// Values per head; null where they are `n_embd / n_head`.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Vocabulary size.
    pub n_vocab: usize,
    /// Context length that the model was trained for.
    pub n_ctx_train: usize,
    /// Function on the gate of the feed-forward network; null where the engine does not say.
    #[serde(default)]
    pub activation: Option<Chosen>,
    /// Taps that the model has.
    pub taps: Vec<Tap>,
    /// Tensors per type name.
    #[serde(default)]
    pub tensor_types: BTreeMap<String, usize>,
    /// Type names (`F16`, `I2_S`, …) of the weights behind each tap that is a matrix product: `q k v attn_proj
    /// ffn_gate ffn_up ffn_down logits`. May be left out, in part or wholly: limits follow from what the model's file
    /// says, read by an engine of this repository, and where none reads it from the profile's defaults. What is given
    /// must be so.
    #[serde(default)]
    pub weight_types: BTreeMap<Tap, Vec<String>>,
    /// Its vocabulary, of engines that have a tokenizer.
    #[serde(default)]
    pub vocab: Option<VocabFacts>,
    /// What one token costs, for the share of the roofline that an engine reaches.
    #[serde(default)]
    pub work: Option<TokenWork>,
}

impl ModelFacts {
    /// Values per head.
    pub fn head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.n_embd / self.n_head.max(1))
    }
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
