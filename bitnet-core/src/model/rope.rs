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
        let yarn = config.yarn_ctx.map(|n_ctx| Yarn::new(config, n_ctx));
        let magnitude = yarn.as_ref().map_or(1.0, |yarn| yarn.magnitude) * config.rope_magnitude;
        for position in first..first + n {
            let mut theta = position as f32;
            for pair in 0..self.pairs {
                let factor = factors.map_or(1.0, |factors| factors[pair]);
                let whole = theta / factor;
                let scaled = config.rope_scale * whole;
                let angle = match &yarn {
                    Some(yarn) => yarn.mix(pair, whole, scaled),
                    None => scaled,
                };
                self.table
                    .push((angle.cos() * magnitude, angle.sin() * magnitude));
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

/// YaRN (Peng et al. 2023) as `rope_yarn` and `ggml_rope_yarn_corr_dims` of ggml have it: fast pairs turn as in training,
/// slow ones by the scaled angle, and those between by a mean of both.
struct Yarn {
    /// The last pair that turns as in training, and the first that does not at all.
    ramp: [f32; 2],
    magnitude: f32,
}

impl Yarn {
    /// A pair that turns as often within the positions of the training is fast.
    const FAST: f32 = 32.0;
    /// One that turns no more often is slow.
    const SLOW: f32 = 1.0;

    fn new(config: &Hyperparameters, n_ctx: usize) -> Yarn {
        let n_dims = config.rope_dim as f32;
        let pair_of = |turns: f32| {
            let wavelength = n_ctx as f32 / (turns * 2.0 * std::f32::consts::PI);
            n_dims * wavelength.ln() / (2.0 * config.rope_base.ln())
        };
        Yarn {
            ramp: [
                pair_of(Self::FAST).floor().max(0.0),
                pair_of(Self::SLOW).ceil().min(n_dims - 1.0),
            ],
            magnitude: 1.0 + 0.1 * (1.0 / config.rope_scale).ln(),
        }
    }

    /// The angle of a pair, radians.
    fn mix(&self, pair: usize, whole: f32, scaled: f32) -> f32 {
        let [low, high] = self.ramp;
        let along = (pair as f32 - low) / (high - low).max(0.001);
        let share = 1.0 - along.clamp(0.0, 1.0);
        scaled * (1.0 - share) + whole * share
    }
}
