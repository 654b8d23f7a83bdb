//! Values of taps that went by.

use std::collections::HashMap;

use bitnet_model::tap::Tap;

type At = (Tap, Option<usize>, usize);

/// Rows of taps, by tap, layer and position.
#[derive(Default)]
pub(super) struct Rows {
    now: HashMap<At, Vec<f64>>,
    /// The cache of sequences before: the first row that was at each position.
    earlier: HashMap<At, Vec<f64>>,
}

impl Rows {
    pub(super) fn put(&mut self, tap: Tap, layer: Option<usize>, position: usize, row: Vec<f64>) {
        self.now.insert((tap, layer, position), row);
    }

    pub(super) fn get(&self, tap: Tap, layer: Option<usize>, position: usize) -> Option<&[f64]> {
        self.now.get(&(tap, layer, position)).map(Vec::as_slice)
    }

    /// A row of the cache, from a sequence before.
    pub(super) fn earlier(
        &self,
        tap: Tap,
        layer: Option<usize>,
        position: usize,
    ) -> Option<&[f64]> {
        let row = self.earlier.get(&(tap, layer, position));
        row.map(Vec::as_slice)
    }

    /// Forgets all but the cache: what an evaluation leaves for the next.
    pub(super) fn keep_cache(&mut self) {
        self.now.retain(|(tap, ..), _| tap.is_f16());
    }

    /// Begins another sequence.
    pub(super) fn begin_sequence(&mut self) {
        for (at, row) in self.now.drain().filter(|((tap, ..), _)| tap.is_f16()) {
            self.earlier.entry(at).or_insert(row);
        }
    }
}
