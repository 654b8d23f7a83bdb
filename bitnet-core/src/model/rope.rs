//! Rotary position embedding.

use bitnet_model::Hyperparameters;

use super::definition::RopeStyle;

/// Cosines and sines for the positions of one evaluation.
#[derive(Default)]
pub(super) struct Rope {
    /// `[n_tokens][rope_dim / 2]` of (cos, sin).
    table: Vec<(f32, f32)>,
    pairs: usize,
}

impl Rope {
    /// Computes the table for `n` positions from `first`.
    ///
    /// The angle is carried from pair to pair by an f32 multiplication, and divided by the frequency factor, as in
    /// `ggml_rope_cache_init`: its rounding is part of what models are run with.
    pub(super) fn prepare(
        &mut self,
        config: &Hyperparameters,
        factors: Option<&[f32]>,
        first: usize,
        n: usize,
    ) {
        self.pairs = config.rope_dim / 2;
        self.table.clear();
        let step = config.rope_base.powf(-2.0 / config.rope_dim as f32);
        for position in first..first + n {
            let mut theta = position as f32;
            for pair in 0..self.pairs {
                let factor = factors.map_or(1.0, |factors| factors[pair]);
                let angle = config.rope_scale * (theta / factor);
                self.table.push((angle.cos(), angle.sin()));
                theta *= step;
            }
        }
    }

    /// Rotates every head of token `t` of the evaluation.
    #[inline(always)]
    pub(super) fn rotate(
        &self,
        config: &Hyperparameters,
        style: RopeStyle,
        t: usize,
        heads: &mut [f32],
    ) {
        let table = &self.table[t * self.pairs..][..self.pairs];
        for head in heads.chunks_exact_mut(config.head_dim) {
            match style {
                RopeStyle::Neox => {
                    let (low, high) = head[..config.rope_dim].split_at_mut(self.pairs);
                    for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(table) {
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
                RopeStyle::Norm => {
                    for ([a, b], (cos, sin)) in head.as_chunks_mut().0.iter_mut().zip(table) {
                        (*a, *b) = (*a * cos - *b * sin, *a * sin + *b * cos);
                    }
                }
            }
        }
    }
}
