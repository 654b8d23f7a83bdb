//! Output distributions in the report.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Mode;

/// The output distributions over one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogitsResult {
    /// Index into `inputs.prompts`.
    pub prompt: usize,
    /// Final norm taken from the reference. Null if the mode was not run.
    pub isolated: Option<LogitsStats>,
    /// Each engine on its own. Null if the mode was not run.
    pub cumulative: Option<LogitsStats>,
}

impl LogitsResult {
    /// The modes that were run.
    pub fn modes(&self) -> impl Iterator<Item = (Mode, &LogitsStats)> {
        let isolated = self.isolated.iter().map(|stats| (Mode::Isolated, stats));
        let cumulative = self.cumulative.iter();
        isolated.chain(cumulative.map(|stats| (Mode::Cumulative, stats)))
    }
}

/// How far two output distributions lie apart.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogitsStats {
    /// Positions compared.
    pub positions: u64,
    /// Mean of KL(reference || candidate), nats.
    pub kl_mean: Option<f64>,
    /// 95th percentile of the same.
    pub kl_p95: Option<f64>,
    /// 99th percentile of the same.
    pub kl_p99: Option<f64>,
    /// Largest of the same.
    pub kl_max: Option<f64>,
    /// Position of the largest.
    pub kl_max_position: usize,
    /// KL by position, from position 0.
    pub kl: Vec<Option<f64>>,
    /// Share of positions with the same most likely token.
    pub top1_agreement: f64,
    /// Mean share of the reference's five most likely tokens that are among the candidate's.
    pub top5_agreement: f64,
    /// Where the most likely token differs.
    pub top1_disagreements: Vec<Top1Disagreement>,
    /// The positions with the largest KL, worst first, at most five; those at which it is 0 are left out.
    #[serde(default)]
    pub worst: Vec<LogitsAt>,
}

/// The most likely tokens of both engines at one position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct LogitsAt {
    /// Position in the sequence.
    pub position: usize,
    /// KL(reference || candidate) there, nats; null if not finite.
    pub kl: Option<f64>,
    /// The most likely tokens differ, yet the row of logits is within its limit.
    pub near_tie: bool,
    /// The reference's five most likely tokens, most likely first.
    pub reference: Vec<TokenLogit>,
    /// The candidate's.
    pub candidate: Vec<TokenLogit>,
}

/// A token that an engine deems likely.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenLogit {
    /// Its ID.
    pub token: u32,
    /// Its text; null without a tokenizer, and where it is no UTF-8 by itself.
    pub text: Option<String>,
    /// Its logit; null if not finite.
    pub logit: Option<f64>,
    /// Its probability, the softmax of the row; null if not finite.
    pub probability: Option<f64>,
}

/// A position at which the most likely token differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Top1Disagreement {
    /// Position in the sequence.
    pub position: usize,
    /// The reference's most likely token.
    pub reference: u32,
    /// The candidate's most likely token.
    pub candidate: u32,
    /// Rank of the reference's token in the candidate, from 1.
    pub rank: usize,
    /// The reference's logit of its own token less that of the candidate's; null if not finite.
    pub margin: Option<f64>,
    /// The row of logits is within its limit: the engines differ in the order of near equals only.
    /// (That the margin is below twice the largest difference says nothing: it holds for every disagreement.)
    pub near_tie: bool,
}
