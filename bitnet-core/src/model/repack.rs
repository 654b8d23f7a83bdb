//! Ternary weights repacked for decoding.
//!
//! Decoding is bound by memory, so where the kernel prefers [`trits`](crate::blocks::trits), ternary matrices are
//! repacked once some tokens have been decoded one at a time: a layer per token, so that none takes long. From then on
//! every product reads the copy, and the file's pages are given up: the process takes no more memory than before.

use std::sync::atomic::Ordering;

use memmap2::MmapMut;

use super::linear::{Compute, Matrix};
use super::{Layer, Model, pages};

/// Tokens decoded before: a few do not save the time that repacking takes.
const TOKENS: usize = 16;

impl Model {
    /// Repacks what is due, before a token is evaluated alone.
    pub(super) fn repack_for_decoding(&self, compute: &Compute) {
        if !compute.kernel.prefers_trits() {
            return;
        }
        let token = self.decoded.fetch_add(1, Ordering::Relaxed);
        let due = token.checked_sub(TOKENS).and_then(|i| self.layers.get(i));
        if let Some(layer) = due {
            layer.trits.get_or_init(|| layer.repack(compute));
        }
    }
}

impl Layer {
    /// The matrices that were repacked.
    pub(super) fn trits(&self) -> Option<&[u8]> {
        self.trits.get()?.as_deref()
    }

    fn repack(&self, compute: &Compute) -> Option<MmapMut> {
        let bytes = self.matrices().into_iter().filter_map(Matrix::trits_bytes);
        let mut map = pages::zeroed(bytes.sum())?;
        let mut start = 0;
        for matrix in self.matrices() {
            if let Some(bytes) = matrix.trits_bytes() {
                matrix.repack(compute, &mut map[start..start + bytes], start);
                start += bytes;
            }
        }
        Some(map)
    }

    fn matrices(&self) -> [&Matrix; 7] {
        let Layer {
            q,
            k,
            v,
            output,
            gate,
            up,
            down,
            ..
        } = self;
        [q, k, v, output, gate, up, down].map(|linear| &linear.weight)
    }
}
