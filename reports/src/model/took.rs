//! How long a run took.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Mode, Source};

/// How long a run took, by the driver's clock, wall time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Took {
    /// All of it, seconds, until the report was there to be written.
    pub seconds: f64,
    /// Its parts, in the order in which they ended. Not all that is done is part of one.
    pub parts: Vec<TookPart>,
}

/// A part of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TookPart {
    /// What it looks into.
    pub part: Source,
    /// Index into `inputs.prompts`; null for what is about no one prompt.
    pub prompt: Option<usize>,
    /// The mode, of taps.
    pub mode: Option<Mode>,
    /// Seconds.
    pub seconds: f64,
}

impl Took {
    /// Seconds of a part: of a prompt and mode if they are given, else of all. `None` if it was not timed.
    pub fn of(&self, part: Source, prompt: Option<usize>, mode: Option<Mode>) -> Option<f64> {
        let parts = self.parts.iter().filter(|p| p.part == part);
        let parts = parts.filter(|p| prompt.is_none() || p.prompt == prompt);
        let parts = parts.filter(|p| mode.is_none() || p.mode == mode);
        parts.map(|p| p.seconds).reduce(|a, b| a + b)
    }
}
