//! Rows that the oracle judged, whether or not the engines agree.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Judgement;

/// A sample of rows, each stage of which the oracle computed from the engine's own values.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct SpotCheck {
    /// What the sample was drawn with.
    pub seed: u64,
    /// The rows.
    pub rows: Vec<SpotCheckRow>,
    /// Positions of all prompts and their decode steps, of which they are a part.
    pub of_rows: usize,
    /// Stages that were judged, of both engines and all rows. In large models some outputs of a product stand for all.
    pub stages: u64,
    /// Those that were found wrong, by engine and row in the order of the forward pass.
    pub wrong: Vec<WrongStage>,
    /// Why rows were not judged; null if they were.
    pub not_judged: Option<String>,
}

/// A row of every tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SpotCheckRow {
    /// Index into `inputs.prompts`.
    pub prompt: usize,
    /// Position in the sequence, from 0.
    pub position: usize,
}

/// A stage of an engine that is not what its own inputs make.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct WrongStage {
    /// `reference` or `candidate`.
    pub engine: String,
    /// Index into `inputs.prompts`.
    pub prompt: usize,
    /// Position in the sequence, from 0.
    pub position: usize,
    /// What the oracle says.
    pub judgement: Judgement,
}
