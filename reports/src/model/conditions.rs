//! The engines' logits under conditions other than those in which the taps are compared.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amplified, Role};

/// Both engines on tokens drawn at random: in batches of all sizes, across the context, asked for taps and not, in a fresh
/// worker and in one with a history. Each engine is compared with the other and with itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Conditions {
    /// Seed of the tokens and of the batch sizes.
    pub seed: u64,
    /// Why nothing was compared; null if something was.
    pub not_compared: Option<String>,
    /// What was compared.
    pub compared: Vec<Condition>,
    /// What was left out, in words; empty if nothing was.
    pub left_out: Vec<String>,
    /// Largest batch that was compared, tokens; null if none was.
    pub largest_batch: Option<usize>,
    /// Largest position that was compared, from 0.
    pub largest_position: Option<usize>,
    /// Largest context that was compared, tokens.
    pub largest_context: Option<usize>,
    /// Smallest context that was compared, tokens.
    pub smallest_context: Option<usize>,
    /// Evaluations of each engine in one worker, the longest history.
    pub evaluations: u64,
    /// Largest NMSE of a row between the engines; null if none was compared.
    pub limit: Option<f64>,
    /// What speaks for rows beyond that limit; null where nothing had to, or does.
    #[serde(default)]
    pub amplified: Option<Amplified>,
    /// Largest NMSE of a row of each engine against itself.
    pub own_limits: Option<OwnLimits>,
    /// What speaks for rows beyond those.
    #[serde(default)]
    pub own_amplified: OwnAmplified,
}

/// What speaks for rows of an engine that lie apart from its own otherwise; null where nothing had to, or does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OwnAmplified {
    /// Of the reference.
    pub reference: Option<Amplified>,
    /// Of the candidate.
    pub candidate: Option<Amplified>,
}

/// Limits on the NMSE of an engine's rows against its own. 0 means bit for bit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OwnLimits {
    /// Of the reference.
    pub reference: Own<f64>,
    /// Of the candidate.
    pub candidate: Own<f64>,
}

/// Something about an engine against itself, by what was varied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Own<T> {
    /// The same batches, asked in the same way: once more, or in another worker.
    pub repeated: T,
    /// The same position in other batches, asked in another way, or in another context.
    pub varied: T,
}

/// One condition: the size of the batch, where, how asked, in which context and worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Condition {
    /// Size of the batch, tokens: `1`, `2-8`, `9-32`, `33-128` or `above 128`; `above n_ubatch` where the engine cuts it.
    pub batch: String,
    /// Where in the context the batch starts.
    pub place: Stretch,
    /// How the logits are asked for.
    pub asked: Asked,
    /// `n_ctx`, tokens.
    pub context: usize,
    /// Whether the worker has a history.
    pub worker: History,
    /// Rows that were to be compared between the engines.
    pub expected: u64,
    /// Rows that were.
    pub rows: u64,
    /// Largest batch, tokens.
    pub largest_batch: usize,
    /// Largest position.
    pub largest_position: usize,
    /// NMSE of the worst row between the engines; null if not finite, or if none was compared.
    pub nmse: Option<f64>,
    /// Of the reference against itself, likewise.
    pub reference: Own<Option<f64>>,
    /// Of the candidate against itself, likewise.
    pub candidate: Own<Option<f64>>,
    /// Engines that generated another token than their own logits say.
    pub contradicted: Vec<Role>,
    /// Whether everything is within its limit, and every row is there.
    pub pass: bool,
}

impl Condition {
    /// An engine against itself.
    pub fn own(&self, role: Role) -> &Own<Option<f64>> {
        role.of(&self.reference, &self.candidate)
    }
}

/// A stretch of the context.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Stretch {
    /// Position 0.
    Start,
    /// In between.
    Middle,
    /// The last quarter.
    End,
}

impl Stretch {
    /// All, in order.
    pub const ALL: [Stretch; 3] = [Stretch::Start, Stretch::Middle, Stretch::End];
}

/// How logits are asked for.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// The tap `logits`: a row per token.
    Logits,
    /// The last token's logits, and no tap.
    LastLogits,
    /// The last token's logits beside other taps.
    BesideTaps,
    /// Every tap that is compared, and the last token's logits.
    AllTaps,
    /// The last token's logits, of an engine that was not told that it would be observed: what is timed.
    Unobserved,
    /// Not at all: a token is generated.
    Generated,
}

/// Whether a worker has done anything before.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum History {
    /// It has never been given values, and has done nothing but this.
    Fresh,
    /// The taps were compared in it.
    Used,
}

impl fmt::Display for Stretch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stretch::Start => "at position 0",
            Stretch::Middle => "amid the context",
            Stretch::End => "in the last quarter of the context",
        })
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Asked::Logits => "tapped logits",
            Asked::LastLogits => "last logits without taps",
            Asked::BesideTaps => "last logits beside taps",
            Asked::AllTaps => "all taps",
            Asked::Unobserved => "last logits, unobserved",
            Asked::Generated => "generated token",
        })
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            History::Fresh => "fresh worker",
            History::Used => "used worker",
        })
    }
}
