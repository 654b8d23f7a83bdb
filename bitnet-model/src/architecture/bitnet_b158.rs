//! `bitnet-b1.58`: BitNet b1.58 2B4T.

use super::{Family, Tap};

pub(super) const FAMILY: Family = Family {
    name: "bitnet-b1.58",
    taps: &[Tap::AttnSubNorm, Tap::FfnSubNorm],
    own_head: true,
};
