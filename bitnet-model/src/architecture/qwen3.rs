//! `qwen3`: Qwen3 and what is built like it (Bonsai, BitNet embeddings). Queries and keys are normed, head by head.

use super::{Activation, Family, Tap};

pub(super) const FAMILY: Family = Family {
    name: "qwen3",
    taps: &[Tap::QNorm, Tap::KNorm],
    own_head: true,
    activation: Activation::Silu,
    other_activations: &[],
};
