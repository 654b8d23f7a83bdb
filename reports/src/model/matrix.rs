//! A run against several references.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Report, Status};

/// The candidate against one more reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FurtherReference {
    /// Its name.
    pub reference: String,
    /// The comparison; null if there is none.
    pub report: Option<Box<Report>>,
    /// Why there is none; null if there is.
    pub not_compared: Option<String>,
}

/// Who agrees with whom, of all engines of a run and the oracle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Matrix {
    /// Their names: the candidate, the references as given, the oracle if it was asked.
    pub engines: Vec<String>,
    /// Every two of them once, in the order of `engines`.
    pub pairs: Vec<MatrixPair>,
}

/// Two engines, each on its own on the same tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct MatrixPair {
    /// Name of one; as a reference it would be this one.
    pub a: String,
    /// Name of the other.
    pub b: String,
    /// What came of it; null if they were not compared.
    pub status: Option<Status>,
    /// NMSE of the worst row of logits; null if it is unknown or not finite.
    pub logits_nmse: Option<f64>,
    /// Its limit.
    pub limit: Option<f64>,
    /// Generated tokens up to the first that differs, of all prompts.
    pub tokens_equal: Option<usize>,
    /// Generated tokens.
    pub tokens: Option<usize>,
    /// Why they were not compared; null if they were.
    pub not_compared: Option<String>,
}
