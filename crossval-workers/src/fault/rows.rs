//! Values of taps that went by.

use std::collections::HashMap;

use bitnet_model::tap::Tap;

/// Rows of taps, by tap, layer and position.
#[derive(Default)]
pub(super) struct Rows(HashMap<(Tap, Option<usize>, usize), Vec<f64>>);

impl Rows {
    pub(super) fn put(&mut self, tap: Tap, layer: Option<usize>, position: usize, row: Vec<f64>) {
        self.0.insert((tap, layer, position), row);
    }

    pub(super) fn get(&self, tap: Tap, layer: Option<usize>, position: usize) -> Option<&[f64]> {
        self.0.get(&(tap, layer, position)).map(Vec::as_slice)
    }

    /// Forgets all but the cache: what an evaluation leaves for the next.
    pub(super) fn keep_cache(&mut self) {
        self.0.retain(|(tap, ..), _| tap.is_f16());
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
