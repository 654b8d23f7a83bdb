//! `bitnet-b1.58`: BitNet b1.58 2B4T. Newer converters also write it for the first releases, which have SiLU.

use super::{Activation, Family, Tap};

pub(super) const FAMILY: Family = Family {
    name: "bitnet-b1.58",
    taps: &[Tap::AttnSubNorm, Tap::FfnSubNorm],
    own_head: true,
    activation: Activation::Relu2,
    other_activations: &[Activation::Silu],
};
