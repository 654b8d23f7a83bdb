//! From logits to tokens.

use bitnet_model::random::Rng;
use serde::{Deserialize, Serialize};

/// The most likely token; of several, the lowest. NaN is never chosen; 0 if there is nothing else.
pub fn greedy(logits: &[f32]) -> u32 {
    greedy_of((0..).zip(logits.iter().copied()))
}

/// As [`greedy`], of tokens in ascending order.
fn greedy_of(candidates: impl Iterator<Item = (u32, f32)>) -> u32 {
    let mut best = 0;
    let mut max = f32::NEG_INFINITY;
    for (token, logit) in candidates {
        if logit > max {
            (best, max) = (token, logit);
        }
    }
    best
}

/// How tokens are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SamplerOptions {
    /// Divides the logits; 0 is greedy.
    pub temperature: f32,
    /// Draw from this many most likely tokens; 0 is all.
    pub top_k: usize,
    /// Draw from the fewest most likely tokens whose probabilities add up to this; 1 is all.
    pub top_p: f32,
    /// Seed of the generator.
    pub seed: u64,
}

impl Default for SamplerOptions {
    /// Greedy.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            seed: 0,
        }
    }
}

/// Draws tokens; the same seed and logits give the same tokens.
#[derive(Clone, Debug)]
pub struct Sampler {
    options: SamplerOptions,
    rng: Rng,
    candidates: Vec<(f64, u32)>,
}

impl Sampler {
    /// A sampler at the start of its seed's sequence.
    pub fn new(options: SamplerOptions) -> Self {
        Self {
            options,
            rng: Rng::new(options.seed, "sampling"),
            candidates: Vec::new(),
        }
    }

    /// The most likely token, always.
    pub fn greedy() -> Self {
        Self::new(SamplerOptions::default())
    }

    /// How many of the most likely tokens can matter to a draw; `None` if all can.
    pub fn reach(&self) -> Option<usize> {
        match self.options {
            _ if self.is_greedy() => Some(1),
            SamplerOptions { top_k: 0, .. } => None,
            SamplerOptions { top_k, .. } => Some(top_k),
        }
    }

    fn is_greedy(&self) -> bool {
        let temperature = self.options.temperature;
        temperature.is_nan() || temperature <= 0.0
    }

    /// Draws a token: top-k, then temperature, then top-p.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        self.sample_from((0..).zip(logits.iter().copied()))
    }

    /// As [`sample`](Self::sample), from some of the tokens, in ascending order: at least the most likely ones that
    /// are within [`reach`](Self::reach).
    pub fn sample_from(&mut self, tokens: impl Iterator<Item = (u32, f32)> + Clone) -> u32 {
        let SamplerOptions {
            temperature,
            top_k,
            top_p,
            ..
        } = self.options;
        if self.is_greedy() {
            return greedy_of(tokens);
        }
        let candidates = &mut self.candidates;
        candidates.clear();
        let finite = tokens.clone().filter(|(_, logit)| logit.is_finite());
        candidates.extend(finite.map(|(token, logit)| (f64::from(logit), token)));
        // Most likely first; of equals, the lowest token.
        let order = |a: &(f64, u32), b: &(f64, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        if (1..candidates.len()).contains(&top_k) {
            candidates.select_nth_unstable_by(top_k - 1, order);
            candidates.truncate(top_k);
        }
        candidates.sort_unstable_by(order);
        let Some(&(max, likeliest)) = candidates.first() else {
            return greedy_of(tokens);
        };
        let mut total = 0.0;
        for (weight, _) in candidates.iter_mut() {
            *weight = ((*weight - max) / f64::from(temperature)).exp();
            total += *weight;
        }
        let mut kept = 0.0;
        let enough = total * f64::from(top_p);
        let n = candidates.iter().position(|(weight, _)| {
            kept += weight;
            kept >= enough
        });
        candidates.truncate(n.map_or(candidates.len(), |n| n + 1));
        let kept: f64 = candidates.iter().map(|(weight, _)| weight).sum();
        let mut draw = self.rng.unit() * kept;
        for &(weight, token) in candidates.iter() {
            draw -= weight;
            if draw < 0.0 {
                return token;
            }
        }
        likeliest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, f32::NAN, 3.0, 2.0];

    fn draw(options: SamplerOptions, n: usize) -> Vec<u32> {
        let mut sampler = Sampler::new(options);
        (0..n).map(|_| sampler.sample(&LOGITS)).collect()
    }

    #[test]
    fn greedy_takes_the_lowest_of_equals() {
        assert_eq!(greedy(&LOGITS), 1);
        assert_eq!(greedy(&[f32::NAN]), 0);
        assert_eq!(draw(SamplerOptions::default(), 3), [1, 1, 1]);
    }

    #[test]
    fn the_seed_decides() {
        let options = SamplerOptions {
            temperature: 1.0,
            seed: 7,
            ..SamplerOptions::default()
        };
        assert_eq!(draw(options, 50), draw(options, 50));
        assert_ne!(
            draw(options, 50),
            draw(SamplerOptions { seed: 8, ..options }, 50)
        );
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let options = SamplerOptions {
            temperature: 2.0,
            seed: 1,
            ..SamplerOptions::default()
        };
        let drawn = draw(options, 20_000);
        let weights = LOGITS.map(|l| {
            if l.is_nan() {
                0.0
            } else {
                (f64::from(l) / 2.0).exp()
            }
        });
        let total: f64 = weights.iter().sum();
        for (token, weight) in (0u32..).zip(weights) {
            let share = drawn.iter().filter(|&&t| t == token).count() as f64 / 20_000.0;
            assert!((share - weight / total).abs() < 0.015, "{token}: {share}");
        }
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let base = SamplerOptions {
            temperature: 1.0,
            ..SamplerOptions::default()
        };
        let top_k = draw(SamplerOptions { top_k: 2, ..base }, 200);
        assert!(top_k.iter().all(|t| [1, 3].contains(t)) && top_k.contains(&3));
        // Tokens 1 and 3 have 0.41 each, 4 has 0.15: two are not enough for 0.85.
        let top_p = draw(
            SamplerOptions {
                top_p: 0.85,
                ..base
            },
            400,
        );
        assert!(top_p.iter().all(|t| [1, 3, 4].contains(t)) && top_p.contains(&4));
        let one = draw(SamplerOptions { top_p: 0.0, ..base }, 20);
        assert!(one.iter().all(|&t| t == 1));
    }
}
