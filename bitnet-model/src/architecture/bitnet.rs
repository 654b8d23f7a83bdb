//! `bitnet`: BitNet b1.58 as 1bitLLM released it. llama.cpp never looks for an output matrix of its own.

use super::{Activation, Family, Tap};

pub(super) const FAMILY: Family = Family {
    name: "bitnet",
    taps: &[Tap::AttnSubNorm, Tap::FfnSubNorm],
    own_head: false,
    activation: Activation::Silu,
    other_activations: &[],
};
