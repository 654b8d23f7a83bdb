//! The worst of some rows.

use reports::number;

use super::finite;

/// The largest NMSE of some rows; NaN is the largest. `None` without any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Worst(pub(crate) Option<f64>);

impl Worst {
    /// Whether it is the worst so far.
    pub(crate) fn add(&mut self, nmse: f64) -> bool {
        let worse = self.0.is_none_or(|worst| nmse.is_nan() || nmse > worst);
        if worse {
            self.0 = Some(nmse);
        }
        worse
    }

    pub(crate) fn exceeds(self, limit: f64) -> bool {
        self.0.is_some_and(|nmse| nmse.is_nan() || nmse > limit)
    }

    /// For sorting: what is not a number comes last.
    pub(crate) fn rank(self) -> f64 {
        match self.0 {
            None => 0.0,
            Some(nmse) if nmse.is_nan() => f64::INFINITY,
            Some(nmse) => nmse,
        }
    }

    pub(crate) fn text(self) -> String {
        let nmse = self.0.and_then(finite);
        nmse.map_or(number::NOT_FINITE.to_owned(), number::error)
    }
}
