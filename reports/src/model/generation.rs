//! What the logits say of generated tokens.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Amplified, ElementAt, Role};

/// The tokens that one engine generated, evaluated again: all of them, whatever the other generated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GenerationCheck {
    /// The engine that generated them.
    pub role: Role,
    /// Tokens that were asked for.
    pub expected: usize,
    /// Tokens held against that engine's own logits.
    pub checked: usize,
    /// Those that are not the largest of them.
    pub contradicted: Vec<ContradictedToken>,
    /// NMSE of the worst row between that engine's logits as part of a prompt and one by one, where a token is the
    /// largest of one of them alone; null where none is.
    pub own_noise: Option<f64>,
    /// Rows of logits before these tokens that both engines can be asked for: all, but where one is a trace, which holds
    /// none behind tokens that the engine did not generate.
    pub comparable: usize,
    /// Rows in which they were compared.
    pub compared: usize,
    /// Those beyond the limit.
    pub beyond: Vec<RowBeyond>,
    /// What speaks for them; null where nothing had to, or does.
    #[serde(default)]
    pub amplified: Option<Amplified>,
}

/// A generated token that its engine's own logits contradict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ContradictedToken {
    /// Index of the generated token, from 0.
    pub index: usize,
    /// The token.
    pub token: u32,
    /// The token with the largest logit.
    pub largest: u32,
    /// How far its logit is above that of the token.
    pub margin: f64,
}

/// A row of logits in which the engines differ by more than the limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct RowBeyond {
    /// Index of the generated token that the row is before, from 0.
    pub index: usize,
    /// NMSE of the row; null if not finite.
    pub nmse: Option<f64>,
    /// The limit.
    pub limit: f64,
    /// Where the logits differ most.
    pub worst: ElementAt,
}
