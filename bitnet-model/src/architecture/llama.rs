//! `llama`: LLaMA and what is built like it (Llama3-8B-1.58, Falcon3 1.58bit). No sub-norms.

use super::{Activation, Family};

pub(super) const FAMILY: Family = Family {
    name: "llama",
    taps: &[],
    own_head: true,
    activation: Activation::Silu,
    other_activations: &[],
};
