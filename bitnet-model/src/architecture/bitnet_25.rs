//! `bitnet-25`: the first name of `bitnet-b1.58`, in files that are still about.

use super::{Activation, Family, Tap};

pub(super) const FAMILY: Family = Family {
    name: "bitnet-25",
    taps: &[Tap::AttnSubNorm, Tap::FfnSubNorm],
    own_head: true,
    activation: Activation::Relu2,
    other_activations: &[Activation::Silu],
};
