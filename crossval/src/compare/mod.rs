//! How far two engines lie apart: statistics per tap, per output distribution, and coverage.

pub mod coverage;
pub mod logits;
pub mod site;
pub mod tap;
pub(crate) mod worst;

/// `None` for what JSON cannot hold: unknown is null, never a number.
pub(crate) fn finite(x: f64) -> Option<f64> {
    x.is_finite().then_some(x)
}
