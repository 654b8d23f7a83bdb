//! The report's data model, `crossval.report/1`. Within /1 fields are only added; unknown is `null`, never 0.

mod bench;
mod conditions;
mod finding;
mod gate;
mod generation;
mod logits;
mod matrix;
mod role;
mod spot_check;
mod test;
mod tokenizer;
mod took;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

pub use self::bench::{
    Bench, BenchCompactHead, BenchKernel, BenchMemory, BenchQuantiser, BenchRatio, BenchRoofline,
    BenchRow, BenchTokens, InterToken, Measured, TimedPair, TokenWork,
};
pub use self::conditions::{
    Asked, Condition, Conditions, History, Own, OwnAmplified, OwnLimits, Stretch,
};
pub use self::finding::{Finding, Place, Source};
pub use self::gate::{
    Gate, GateAlone, GateChange, GateFigure, GateMeasurement, GateResult, GateSeries,
};
pub use self::generation::{ContradictedToken, GenerationCheck, RowBeyond};
pub use self::logits::{LogitsAt, LogitsResult, LogitsStats, TokenLogit, Top1Disagreement};
pub use self::matrix::{FurtherReference, Matrix, MatrixPair};
pub use self::role::Role;
pub use self::spot_check::{SpotCheck, SpotCheckRow, WrongStage};
pub use self::test::{Cache, Test};
pub use self::tokenizer::{
    GeneratedText, GeneratedTexts, PieceDifference, TokenAt, TokenComparison, TokenParity,
    TokenizedText, TokensOf,
};
pub use self::took::{Took, TookPart};

/// The value of [`Report::schema`].
pub const SCHEMA: &str = "crossval.report/1";

/// One cross-validation run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// Always `crossval.report/1`.
    pub schema: String,
    /// When the run started, RFC 3339, UTC.
    pub created: String,
    /// The command line that reproduces the run, program first.
    pub command: Vec<String>,
    /// What came of it.
    pub verdict: Verdict,
    /// The model file.
    pub model: Model,
    /// The two engines.
    pub engines: Engines,
    /// The machine and the build of crossval.
    pub environment: Environment,
    /// What was fed to the engines, and how they were compared.
    pub inputs: Inputs,
    /// What was to be compared, and what was.
    pub coverage: Coverage,
    /// The logits under conditions other than those in which the taps are compared; null in older reports, and where an
    /// engine failed first.
    #[serde(default)]
    pub conditions: Option<Conditions>,
    /// One entry per prompt, layer and tap, in the order of the forward pass.
    pub taps: Vec<TapResult>,
    /// One entry per prompt: the output distributions.
    pub logits: Vec<LogitsResult>,
    /// Greedy generation from the first prompt; null if none was asked for.
    pub generation: Option<Generation>,
    /// The reference against itself; null where it was not measured.
    pub noise_floor: Option<NoiseFloor>,
    /// Rows that the oracle judged whether or not the engines agree; null where it did not come to that.
    #[serde(default)]
    pub spot_check: Option<SpotCheck>,
    /// Timings; null with `--no-bench` or where an engine failed first.
    pub bench: Option<Bench>,
    /// Both engines on a text; null without `--text`.
    #[serde(default)]
    pub perplexity: Option<Perplexity>,
    /// Both tokenizers on the same texts; null only in older reports.
    #[serde(default)]
    pub tokenizer: Option<TokenParity>,
    /// The ledger of known deviations, as it was applied; empty without `--known`.
    #[serde(default)]
    pub known: Vec<KnownDeviation>,
    /// Why no values were compared, so that the verdict is not about parity; null in a run that compares them.
    #[serde(default)]
    pub not_compared: Option<String>,
    /// The run held against a baseline; null without one.
    #[serde(default)]
    pub gate: Option<Gate>,
    /// The candidate against further references, of which the verdict is too; empty with one.
    #[serde(default)]
    pub further: Vec<FurtherReference>,
    /// Who agrees with whom; null with one reference.
    #[serde(default)]
    pub matrix: Option<Matrix>,
    /// How long the run took; null in older reports.
    #[serde(default)]
    pub took: Option<Took>,
}

/// What came of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Verdict {
    /// The run in one word.
    pub status: Status,
    /// The process exit code that goes with it.
    pub exit_code: u8,
    /// Every reason for a status other than `pass`, most severe first.
    pub reasons: Vec<String>,
    /// The same as data, one finding per reason; empty in older reports.
    #[serde(default)]
    pub findings: Vec<Finding>,
    /// Which engine is wrong, of `engines`; of further references it stands in their comparisons.
    pub at_fault: AtFault,
    /// The earliest place where the engines differ by more than the limit; null if there is none.
    pub first_divergence: Option<Divergence>,
}

/// The run in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Everything was compared and lies within its limit.
    Pass,
    /// Something lies beyond its limit.
    Fail,
    /// Something that was to be compared was not.
    Incomplete,
    /// An engine failed, or the run could not be carried out.
    Error,
}

impl Status {
    /// Its name in the JSON.
    pub fn name(self) -> &'static str {
        match self {
            Status::Pass => "pass",
            Status::Fail => "fail",
            Status::Incomplete => "incomplete",
            Status::Error => "error",
        }
    }
}

/// Which engine is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AtFault {
    /// Neither: the engines agree, or differ by no more than the model's types allow.
    None,
    /// The candidate.
    Candidate,
    /// The reference.
    Reference,
    /// Both.
    Both,
    /// They differ and nothing arbitrated.
    Undetermined,
}

/// How the two engines were coupled while a value was taken.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Every stage of the candidate starts from the reference's inputs: an error shows where it is made.
    Isolated,
    /// The candidate runs on its own values: what a user gets.
    Cumulative,
}

/// The earliest place where the engines differ by more than the limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Divergence {
    /// Index into `inputs.prompts`.
    pub prompt: usize,
    /// Position in the sequence, from 0.
    pub position: usize,
    /// Layer, from 0; null outside the layers.
    pub layer: Option<usize>,
    /// Tap name.
    pub tap: String,
    /// The mode whose limit was exceeded.
    pub mode: Mode,
    /// Index of the worst element within the row.
    pub element: usize,
    /// The reference's value there; null if not finite.
    pub reference: Option<f64>,
    /// The candidate's value there; null if not finite.
    pub candidate: Option<f64>,
    /// The oracle's value there; null if it was not asked.
    pub oracle: Option<f64>,
    /// NMSE of the row; null if not finite.
    pub nmse: Option<f64>,
    /// The limit it exceeds.
    pub limit: f64,
    /// What the data shows about the cause; null if no hypothesis that was tested holds.
    pub hint: Option<String>,
    /// How far each engine is from the oracle there; null if the oracle was not asked.
    #[serde(default)]
    pub arbitration: Option<Arbitration>,
    /// The part that is beyond its own limit, where the row as a whole is within the row's; else null.
    #[serde(default)]
    pub part: Option<PartBeyond>,
}

/// A part of a row that is beyond its limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartBeyond {
    /// The head, from 0; null for the single element of the divergence.
    pub head: Option<usize>,
    /// Rows whose errors were averaged: 1 for the row of the divergence alone, else all up to it.
    pub rows: u64,
    /// Sum of its squared errors over the sum of the reference's squares there; over the part's share of the row's, if
    /// that is larger.
    pub nmse: f64,
    /// The limit it exceeds.
    pub limit: f64,
}

/// Both engines against the oracle: plain f64 arithmetic and exact integer sums, from the model's definition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Arbitration {
    /// The reference.
    pub reference: Judgement,
    /// The candidate.
    pub candidate: Judgement,
}

/// One stage of one engine against the oracle, which starts from the same inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Judgement {
    /// Layer of the stage, from 0; null outside the layers.
    pub layer: Option<usize>,
    /// Its tap name.
    pub tap: String,
    /// NMSE of the row against the oracle's; null if not finite.
    pub nmse: Option<f64>,
    /// Largest NMSE that counts as right.
    pub limit: f64,
    /// Whether it holds.
    pub right: bool,
    /// What rounding, of those that the model's types allow, the engine's row comes closest with: `none`,
    /// `activations rounded to F16`, …
    pub rounding: String,
    /// Every hypothesis about a mistake that the row bears out; empty if the engine is right.
    pub findings: Vec<String>,
}

/// The model file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Model {
    /// Path as given.
    pub path: String,
    /// Size in bytes.
    pub size_bytes: u64,
    /// SHA-256 of the file, hex.
    pub sha256: String,
    /// `general.name`, if the file has one.
    pub name: Option<String>,
    /// `general.architecture`.
    pub architecture: String,
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
    /// Context length that the model was trained for, tokens.
    pub n_ctx_train: usize,
    /// Tensors per type name (`I2_S`, `F32`, …).
    pub tensor_types: BTreeMap<String, usize>,
    /// Where the scales of the layers' matrices are, in words, by type; empty in older reports.
    #[serde(default)]
    pub weight_scales: BTreeMap<String, String>,
    /// Function on the gate of the feed-forward network; null in older reports, and where nobody here knows the model.
    #[serde(default)]
    pub activation: Option<Activation>,
}

/// The activation that a model was taken to have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Activation {
    /// `silu` or `relu2`.
    pub function: String,
    /// Who says so.
    pub source: ActivationSource,
}

/// Who says what the activation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ActivationSource {
    /// The file, by `<arch>.hidden_activation`.
    File,
    /// The architecture, of which there is no other.
    Architecture,
    /// Nobody: the architecture's usual one, where files of its name exist with another.
    Assumed,
    /// The command line, by `--activation`.
    Override,
}

/// The two engines.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Engines {
    /// The engine that is compared against.
    pub reference: Engine,
    /// The engine under test.
    pub candidate: Engine,
}

/// One engine, as it ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Engine {
    /// As given on the command line: `rust`, `bitnet.cpp`, `bitnet.cpp@2024-11`, …
    pub name: String,
    /// What it is called in a sentence, if not by its name: an engine from outside as it calls itself, or as its command
    /// without folders.
    #[serde(default)]
    pub label: Option<String>,
    /// Version or source revision, as the engine states it.
    pub version: Option<String>,
    /// What the engine says about its build: compiler, flags, CPU features, kernel, …
    pub build: BTreeMap<String, String>,
    /// Explicit settings: threads, n_ctx, n_ubatch, flash attention, KV cache type, …
    pub settings: BTreeMap<String, String>,
    /// Time to load the model, milliseconds.
    pub load_ms: Option<f64>,
    /// Largest resident set of the worker, bytes.
    pub peak_rss_bytes: Option<u64>,
    /// CPU time of the worker, seconds.
    pub cpu_seconds: Option<f64>,
    /// How the worker failed; null if it did not.
    pub failure: Option<EngineFailure>,
    /// Values that a deliberate fault changed; null without one.
    #[serde(default)]
    pub changed_values: Option<u64>,
    /// What the engine says that it can do; null in older reports.
    #[serde(default)]
    pub abilities: Option<Abilities>,
}

/// What an engine says that it can do, whatever the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Abilities {
    /// `general.architecture` values that it runs.
    pub architectures: Vec<String>,
    /// Tensor types that it runs.
    pub tensor_types: Vec<String>,
    /// Taps that it offers, of the architectures that have them.
    pub taps: Vec<String>,
    /// Whether it goes on with values that it is given, as a candidate in isolated mode must.
    pub takes_values: bool,
    /// Whether it has a tokenizer.
    pub tokenizer: bool,
}

impl Engine {
    /// What it is called in a sentence.
    pub fn called(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }
}

/// How a worker failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct EngineFailure {
    /// One sentence: `died with SIGSEGV while evaluating prompt 3, positions 0..512`.
    pub message: String,
    /// Name of the signal that ended the worker, if one did.
    pub signal: Option<String>,
    /// Its exit code, if it exited.
    pub exit_code: Option<i32>,
    /// What it was doing.
    pub during: String,
    /// The last lines that it logged.
    pub log_tail: Vec<String>,
    /// Whether it did not crash, but refused the model file.
    #[serde(default)]
    pub refused_model: bool,
}

/// The machine and the build of crossval.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Environment {
    /// Version of crossval.
    pub crossval_version: String,
    /// Git revision that it was built from (`-dirty` appended if so); null outside a checkout.
    pub git_revision: Option<String>,
    /// `rustc --version` of the build.
    pub rustc: String,
    /// Build profile.
    pub profile: String,
    /// Target triple.
    pub target: String,
    /// Target features enabled at compile time.
    pub target_features: Vec<String>,
    /// Operating system and kernel.
    pub os: String,
    /// CPU model name.
    pub cpu: Option<String>,
    /// What the CPU says of itself beside its name, which says little in a virtual machine: `AuthenticAMD, family 26,
    /// model 2, stepping 1`, on Arm `implementer 0x41, part 0xd40`. Null where it says nothing, and in older reports.
    #[serde(default)]
    pub cpu_id: Option<String>,
    /// CPU features that matter to the kernels, found at run time.
    pub cpu_features: Vec<String>,
    /// Logical CPUs available to the process.
    pub cpus: usize,
    /// Physical memory, bytes.
    pub memory_bytes: Option<u64>,
}

/// What was fed to the engines, and how they were compared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Inputs {
    /// The prompts.
    pub prompts: Vec<Prompt>,
    /// Engine whose tokenizer made the IDs; null if IDs were given.
    pub tokenizer: Option<String>,
    /// Tokens to generate.
    pub n_predict: usize,
    /// Teacher-forced one-token decode steps compared after each prompt.
    pub decode_steps: usize,
    /// Threads per engine.
    pub threads: usize,
    /// Modes that were compared.
    pub modes: Vec<Mode>,
    /// The tolerance profile, as used.
    pub profile: Profile,
    /// The activation given with `--activation`; null without.
    #[serde(default)]
    pub activation: Option<String>,
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Prompt {
    /// The text; null if token IDs were given.
    pub text: Option<String>,
    /// The text as the model's chat template renders it, which is what was tokenized; null without `--chat`.
    #[serde(default)]
    pub rendered: Option<String>,
    /// Where it came from: `--prompt`, `--tokens`, or the file's path.
    pub source: String,
    /// Token IDs fed to both engines.
    pub tokens: Vec<u32>,
    /// Token IDs of the teacher-forced decode steps.
    pub decode_tokens: Vec<u32>,
    /// SHA-256 over `tokens` then `decode_tokens` as little-endian u32, hex.
    pub sha256: String,
}

/// The limits that were applied.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Profile {
    /// `standard`, `strict`, or the path of a file.
    pub name: String,
    /// Largest NMSE of a row per tap name, isolated mode. 0 means bit for bit.
    pub isolated_nmse: BTreeMap<String, f64>,
    /// Largest NMSE of a row of logits, cumulative mode; null where no values were compared.
    pub cumulative_logits_nmse: Option<f64>,
}

/// What was to be compared, and what was. The unit is one row: (mode, prompt, position, layer, tap).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Coverage {
    /// Rows that were to be compared.
    pub expected: u64,
    /// Rows that were.
    pub compared: u64,
    /// The rest, by name, consecutive positions folded:
    /// `isolated, prompt 0, layer 3, attn_probs, positions 5..8`.
    pub missing: Vec<String>,
    /// Taps that an engine does not offer, by engine name. They are not expected.
    pub not_offered: BTreeMap<String, Vec<String>>,
    /// Why not, by engine name and tap, of engines that say so: `no node is called kq_soft_max-0`.
    #[serde(default)]
    pub not_offered_because: BTreeMap<String, BTreeMap<String, String>>,
    /// Rows with a value that is NaN or infinite in either engine, by name, consecutive positions folded. Nothing
    /// can be said about them.
    #[serde(default)]
    pub not_finite: Vec<String>,
    /// Rows that are all zero in both engines, by name, consecutive positions folded. They are expected and do not count
    /// as compared: whatever computes them, 0 is 0.
    #[serde(default)]
    pub vacuous: Vec<String>,
}

/// One tap of one layer over one prompt (prefill and decode steps).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TapResult {
    /// Index into `inputs.prompts`.
    pub prompt: usize,
    /// Layer, from 0; null outside the layers.
    pub layer: Option<usize>,
    /// Tap name.
    pub tap: String,
    /// Added error: every stage starts from the reference's inputs. Null if the mode was not run.
    pub isolated: Option<TapStats>,
    /// Inherited and added error. Null if the mode was not run.
    pub cumulative: Option<TapStats>,
}

impl TapResult {
    /// The modes that were run.
    pub fn modes(&self) -> impl Iterator<Item = (Mode, &TapStats)> {
        let isolated = self.isolated.iter().map(|stats| (Mode::Isolated, stats));
        let cumulative = self.cumulative.iter();
        isolated.chain(cumulative.map(|stats| (Mode::Cumulative, stats)))
    }
}

/// How far two engines lie apart at one tap.
///
/// NMSE of a row is `sum((candidate - reference)^2) / sum(reference^2)`; 0 if both are all zero,
/// null (infinite) if only the reference is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TapStats {
    /// Rows compared.
    pub rows: u64,
    /// Every value has the same bits (the sign of zero aside).
    pub bit_equal: bool,
    /// NMSE of the worst row; null if infinite or not a number.
    pub nmse: Option<f64>,
    /// Position of that row.
    pub worst_position: usize,
    /// NMSE of the worst row of the prefill; null if there is none.
    pub nmse_prefill: Option<f64>,
    /// NMSE of the worst row of the decode steps; null if there is none.
    pub nmse_decode: Option<f64>,
    /// NMSE over all rows together.
    pub nmse_aggregate: Option<f64>,
    /// Smallest cosine similarity of a row.
    pub cosine: Option<f64>,
    /// Largest absolute difference.
    pub max_abs: Option<f64>,
    /// Where that is.
    pub max_abs_at: Option<ElementAt>,
    /// Values that are NaN or infinite, in either engine.
    pub non_finite: u64,
    /// Share of int8 activation codes that differ; null where the tap feeds no int8 quantiser.
    #[serde(default)]
    pub code_flip_rate: Option<f64>,
    /// Largest absolute difference in steps of that quantiser; null likewise.
    #[serde(default)]
    pub max_quantiser_steps: Option<f64>,
    /// The limit on the worst row's NMSE; null where this mode does not gate the tap.
    pub limit: Option<f64>,
    /// Largest error of a head as a share of its limit, above 1 if beyond; null where the tap has no heads, this mode does
    /// not gate it, or no row with finite values differs.
    #[serde(default)]
    pub head_share: Option<f64>,
    /// The same of single elements.
    #[serde(default)]
    pub element_share: Option<f64>,
    /// What the engines round in the rows beyond a limit, in each of which the oracle finds both right; null where there
    /// are none of that kind.
    #[serde(default)]
    pub allowed: Option<AllowedRoundings>,
    /// What speaks for the rows of logits beyond a limit in cumulative mode; null where nothing had to.
    #[serde(default)]
    pub amplified: Option<Amplified>,
    /// Whether every limit holds, but for rows that are `allowed` or `amplified`; null where this mode does not gate the
    /// tap.
    pub pass: Option<bool>,
}

/// Roundings that the model's types allow, by which two engines differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AllowedRoundings {
    /// Rows beyond a limit.
    pub rows: u64,
    /// How many of them the oracle has judged: all, or a sample.
    pub judged: u64,
    /// What the reference rounds: `none`, `int8 codes rounded half away from zero`, …
    pub reference: String,
    /// What the candidate rounds.
    pub candidate: String,
}

/// Rows of logits beyond their limit, each engine having gone its own way, that are no fault: a rounding that one engine
/// does and the other does not has grown over the layers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Amplified {
    /// Rows beyond the limit; under other conditions, those of them that the oracle was asked about, the worst first.
    pub rows: u64,
    /// The largest NMSE of those; null if not finite.
    pub nmse: Option<f64>,
    /// Stages of both engines that the oracle has judged in those rows and before them, all of them right.
    pub stages: u64,
    /// What each rounding that the model's types allow makes of the logits, by the oracle: of the same tokens, and
    /// where those are few of others behind them.
    pub roundings: Vec<RoundingSpread>,
    /// How far apart two right engines may be by that: four times the largest of those, NMSE; null if unknown.
    pub limit: Option<f64>,
}

impl Amplified {
    /// Whether that is no more than roundings make of the logits of two right engines.
    pub fn within(&self) -> bool {
        self.nmse.is_some_and(|nmse| self.covers(nmse))
    }

    /// The same of another row of the model, by its NMSE.
    pub fn covers(&self, nmse: f64) -> bool {
        self.limit.is_some_and(|limit| nmse <= limit)
    }
}

/// What one rounding makes of the logits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RoundingSpread {
    /// The rounding, in words.
    pub rounding: String,
    /// The largest NMSE of a row with it against the same row without; null if not finite.
    pub nmse: Option<f64>,
}

/// One element of a tap and what both engines have there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ElementAt {
    /// Position in the sequence.
    pub position: usize,
    /// Index within the row.
    pub element: usize,
    /// The reference's value; null if not finite.
    pub reference: Option<f64>,
    /// The candidate's value; null if not finite.
    pub candidate: Option<f64>,
}

/// Greedy generation of both engines from one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Generation {
    /// Index into `inputs.prompts`.
    pub prompt: usize,
    /// The reference's token IDs.
    pub reference: Vec<u32>,
    /// The candidate's token IDs.
    pub candidate: Vec<u32>,
    /// The reference's text; null without a tokenizer.
    pub reference_text: Option<String>,
    /// The candidate's text, by the same tokenizer.
    pub candidate_text: Option<String>,
    /// Where they first differ; null if they do not.
    pub first_mismatch: Option<GenerationMismatch>,
    /// The same from every further prompt.
    #[serde(default)]
    pub further: Vec<Generation>,
    /// What the logits say of the tokens of the reference, then of those of the candidate; empty in older reports.
    #[serde(default)]
    pub checks: Vec<GenerationCheck>,
}

/// Where two generations part. Tokens after it are not compared with each other: the engines then read different text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GenerationMismatch {
    /// Index of the generated token, from 0.
    pub index: usize,
    /// The reference's token; null if it had stopped.
    pub reference: Option<u32>,
    /// The candidate's token; null if it had stopped.
    pub candidate: Option<u32>,
    /// The reference's logit of its own token less that of the candidate's; null if not measured.
    pub margin: Option<f64>,
    /// Largest difference between the engines' logits there; null if not measured.
    pub max_logit_difference: Option<f64>,
    /// The row of logits is within its limit, and its largest difference is at least half the margin: not a failure.
    pub near_tie: bool,
}

/// The reference against itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoiseFloor {
    /// How it was provoked.
    pub description: String,
    /// Worst NMSE of a row per tap name, each run on its own values (as in cumulative mode). Limits follow from it.
    pub nmse: BTreeMap<String, f64>,
    /// Every engine and every way in which it was made to differ from itself.
    #[serde(default)]
    pub measurements: Vec<NoiseMeasurement>,
}

/// One engine against itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct NoiseMeasurement {
    /// `reference` or `candidate`.
    pub engine: String,
    /// What was varied: `threads 1 and 2`, `8 tokens one by one and as part of the prompt`.
    pub varied: String,
    /// Worst NMSE of a row per tap name; null if not finite.
    pub nmse: BTreeMap<String, Option<f64>>,
    /// Largest NMSE of a row of logits that the engine may show; null in older reports.
    #[serde(default)]
    pub logits_limit: Option<f64>,
    /// What speaks for rows of logits beyond that; null where nothing had to, or does.
    #[serde(default)]
    pub amplified: Option<Amplified>,
}

/// Perplexity of both engines on the same tokens, `exp` of the mean negative log-likelihood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Perplexity {
    /// Path of the text.
    pub source: String,
    /// Tokens per window. Windows do not overlap, and the second half of each is scored.
    pub window: usize,
    /// Windows evaluated.
    pub windows: usize,
    /// Tokens scored.
    pub tokens: usize,
    /// The reference's perplexity; null if not finite.
    pub reference: Option<f64>,
    /// The candidate's perplexity; null if not finite.
    pub candidate: Option<f64>,
    /// Mean over tokens of the candidate's negative log-likelihood less the reference's, nats; null if not finite.
    /// The ratio of the perplexities is `exp` of it.
    pub difference: Option<PerplexityDifference>,
    /// Mean of KL(reference || candidate) over the scored positions, nats; null if not finite.
    pub kl_mean: Option<f64>,
    /// Share of the scored positions with the same most likely token.
    pub top1_agreement: f64,
    /// Share of the scored positions with another most likely token, yet a row of logits within its limit; null in older
    /// reports.
    #[serde(default)]
    pub near_ties: Option<f64>,
    /// NMSE of the worst row of logits; null if not finite, and in older reports.
    #[serde(default)]
    pub worst_nmse: Option<f64>,
}

/// A mean with its bootstrap interval, resampled by windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PerplexityDifference {
    /// The mean.
    pub mean: f64,
    /// Lower end of its 95% interval; null with fewer than two windows.
    pub low: Option<f64>,
    /// Upper end of the same.
    pub high: Option<f64>,
}

/// One entry of the ledger of known deviations.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct KnownDeviation {
    /// Tap name, or `generation`.
    pub tap: String,
    /// Layer; null for every layer.
    pub layer: Option<usize>,
    /// Mode; null for both.
    pub mode: Option<Mode>,
    /// The engine at fault, which alone is excused. Null in reports from before it was asked for.
    #[serde(default)]
    pub at_fault: Option<AtFault>,
    /// The largest NMSE that is excused; null for any.
    #[serde(default)]
    pub ceiling: Option<f64>,
    /// Why it is expected.
    pub reason: String,
    /// Where it is tracked.
    pub link: String,
    /// Last day on which it counts, ISO 8601.
    pub expires: String,
    /// What came of it.
    pub state: KnownState,
    /// Rows over their limit that it covers.
    #[serde(default)]
    pub rows: u64,
    /// Of these, those of which the oracle said who is at fault.
    #[serde(default)]
    pub judged: u64,
    /// What those were drawn with; null if all were judged.
    #[serde(default)]
    pub seed: Option<u64>,
    /// Why it does not excuse all that it covers; null if it does.
    #[serde(default)]
    pub refused: Option<String>,
    /// An engine that it does not excuse and that is at fault all the same.
    #[serde(default)]
    pub refused_to: Option<Role>,
}

/// What came of a known deviation in this run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KnownState {
    /// It occurred, and is not held against the run.
    Matched,
    /// It did not occur: the entry is out of date, which fails the run.
    Unmatched,
    /// It is past its day, and no longer excuses anything, which fails the run.
    Expired,
    /// It occurred, but is larger than its ceiling or not the fault of who is named, which fails the run.
    Refused,
}

impl Verdict {
    /// Whether the engines differ by more than they may, whatever else is wrong.
    pub fn parity_failed(&self) -> bool {
        matches!(
            self.outcome(),
            Outcome::Parity | Outcome::ParityAndPerformance
        )
    }
}

impl Model {
    /// The file's name, or the whole path where that has none.
    pub fn file_name(&self) -> &str {
        let path = self.path.as_str();
        path.rsplit(['/', '\\'])
            .next()
            .filter(|name| !name.is_empty())
            .unwrap_or(path)
    }
}

impl Report {
    /// Rows that were compared; `None` if none were to be.
    pub fn compared_rows(&self) -> Option<u64> {
        let compares = self.not_compared.is_none();
        compares.then_some(self.coverage.compared)
    }

    /// The report's JSON Schema.
    pub fn json_schema() -> serde_json::Value {
        schemars::schema_for!(Report).to_value()
    }
}
