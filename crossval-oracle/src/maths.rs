//! The arithmetic of the stages, in f64, as in the papers: no tables, no blocking, no order of summation that matters.

use half::{bf16, f16};

/// `x / sqrt(mean(x^2) + eps) * gamma` (RMSNorm, Zhang and Sennrich 2019).
pub fn rms_norm(x: &[f64], gamma: &[f64], eps: f64) -> Vec<f64> {
    let mean = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
    let rms = (mean + eps).sqrt();
    x.iter().zip(gamma).map(|(v, g)| v / rms * g).collect()
}

/// Rotary position embedding (Su et al. 2021).
#[derive(Clone, Debug)]
pub struct Rope {
    /// Values per head.
    pub head_dim: usize,
    /// Leading values of a head that rotate.
    pub dims: usize,
    /// Element `i` turns with `i + dims / 2`; else `2i` with `2i + 1`.
    pub split_halves: bool,
    /// Base of the frequencies.
    pub base: f64,
    /// Factor on the angles.
    pub scale: f64,
    /// Divisor of each pair's angle.
    pub factors: Option<Vec<f64>>,
    /// Context of the training, tokens, where YaRN extends it: `scale` is then that of slow pairs.
    pub yarn: Option<f64>,
    /// Factor on the values that turn, beside YaRN's.
    pub magnitude: f64,
}

impl Rope {
    /// What a pair turns by per position, before the model's factors.
    pub fn frequency(&self, pair: usize) -> f64 {
        self.base.powf(-2.0 * pair as f64 / self.dims as f64)
    }

    /// The angle of a pair without any scaling, radians.
    pub fn unscaled(&self, pair: usize, position: f64) -> f64 {
        let factor = self.factors.as_ref().map_or(1.0, |f| f[pair]);
        position * self.frequency(pair) / factor
    }

    /// The angle of a pair, radians.
    pub fn angle(&self, pair: usize, position: f64) -> f64 {
        let kept = self.yarn.map_or(0.0, |context| self.kept(pair, context));
        self.unscaled(pair, position) * (self.scale + (1.0 - self.scale) * kept)
    }

    /// How much of a pair's own angle YaRN keeps (Peng et al. 2023, over pairs as their code has it): all of a pair that
    /// turns 32 times within the context or more, nothing of one that turns once or less.
    fn kept(&self, pair: usize, context: f64) -> f64 {
        // That turns so many times; no whole number.
        let pair_with = |turns: f64| {
            let per_turn = context / (turns * std::f64::consts::TAU);
            self.dims as f64 / 2.0 * per_turn.ln() / self.base.ln()
        };
        let all = pair_with(32.0).floor().max(0.0);
        let nothing = pair_with(1.0).ceil().min(self.dims as f64 - 1.0);
        let between = (pair as f64 - all) / (nothing - all).max(1e-3);
        1.0 - between.clamp(0.0, 1.0)
    }

    /// What the values that turn are multiplied by: YaRN makes them larger as the context grows.
    pub fn factor(&self) -> f64 {
        match self.yarn {
            Some(_) => self.magnitude * (1.0 - self.scale.ln() / 10.0),
            None => self.magnitude,
        }
    }

    /// The elements of a head that turn together.
    pub fn pair(&self, pair: usize) -> (usize, usize) {
        match self.split_halves {
            true => (pair, pair + self.dims / 2),
            false => (2 * pair, 2 * pair + 1),
        }
    }

    /// Rotates every head of a row.
    pub fn rotate(&self, x: &[f64], position: f64) -> Vec<f64> {
        let mut out = x.to_vec();
        let factor = self.factor();
        for head in out.chunks_mut(self.head_dim) {
            for pair in 0..self.dims / 2 {
                let (a, b) = self.pair(pair);
                let (sin, cos) = self.angle(pair, position).sin_cos();
                let (sin, cos) = (factor * sin, factor * cos);
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
        out
    }
}

/// Sum of products.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Sum of integer products, exact.
pub fn integer_dot(a: &[i64], b: &[i64]) -> i64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Normalised exponentials.
pub fn softmax(scores: &[f64]) -> Vec<f64> {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).collect()
}

/// `x / (1 + exp(-x))`.
pub fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// `max(0, x)^2`.
pub fn relu2(x: f64) -> f64 {
    x.max(0.0).powi(2)
}

/// An activation row as int8 codes, with the scale that they were multiplied by: `127 / max(1e-5, max|x|)`, stored in
/// f32, codes rounded half to even (BitNet b1.58, Ma et al. 2024; BitNet.cpp's `quantize_row_i8_s`), or as `rounding` has
/// it.
pub fn int8_codes(x: &[f64], rounding: Rounding) -> (Vec<i64>, f64) {
    let scale = int8_scale(x);
    let product = |v: &f64| match rounding {
        Rounding::ProductToF32 | Rounding::HalvesAwayInF32 => f64::from((v * scale) as f32),
        _ => v * scale,
    };
    let rounded = |product: f64| match rounding {
        Rounding::HalvesAway | Rounding::HalvesAwayInF32 => product.round(),
        _ => product.round_ties_even(),
    };
    let codes = x.iter().map(|v| rounded(product(v)) as i64);
    (codes.map(|c| c.clamp(-128, 127)).collect(), scale)
}

/// The scale of [`int8_codes`].
pub fn int8_scale(x: &[f64]) -> f64 {
    let max = x.iter().fold(1e-5_f64, |max, v| max.max(v.abs()));
    f64::from((127.0 / max) as f32)
}

/// What an engine may round before it computes a stage, since the types of the model allow it: all of these are
/// implementations of the same model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// As they are.
    None,
    /// Activations (queries, probabilities) to F16, beside weights or a cache in F16.
    F16,
    /// Activations to BF16, beside weights in BF16.
    Bf16,
    /// Activations to Q8_0, beside weights in Q8_0.
    Q8_0,
    /// Activations to Q8_K, beside weights in blocks of 256.
    Q8K,
    /// The same, times their scale to f32, and only then to an integer: without a fused multiply-add.
    Q8KProductToF32,
    /// Activations times their int8 scale to f32, and only then to an integer: without a fused multiply-add.
    ProductToF32,
    /// Activations times their int8 scale to an integer, halves away from zero.
    HalvesAway,
    /// The same, through f32: BitNet.cpp since 2026-07.
    HalvesAwayInF32,
    /// Not the inputs, but the angles of RoPE, as far as f32 arithmetic does.
    Angles,
    /// Not the inputs, but sums of their squares or products, as far as f32 arithmetic does.
    Sums,
}

impl Rounding {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Rounding::None => "none",
            Rounding::F16 => "inputs rounded to F16",
            Rounding::Bf16 => "inputs rounded to BF16",
            Rounding::Q8_0 => "inputs rounded to Q8_0",
            Rounding::Q8K => "inputs rounded to Q8_K",
            Rounding::Q8KProductToF32 => "inputs rounded to Q8_K, their codes twice, through f32",
            Rounding::ProductToF32 => "int8 codes rounded twice, through f32",
            Rounding::HalvesAway => "int8 codes rounded half away from zero",
            Rounding::HalvesAwayInF32 => "int8 codes rounded half away from zero, through f32",
            Rounding::Angles => "angles in f32",
            Rounding::Sums => "sums in f32",
        }
    }

    /// The values that the stage then computes with. How int8 codes, angles and sums are rounded concerns no values.
    pub fn apply(self, x: &[f64]) -> Vec<f64> {
        match self {
            Rounding::None
            | Rounding::ProductToF32
            | Rounding::HalvesAway
            | Rounding::HalvesAwayInF32
            | Rounding::Angles
            | Rounding::Sums => x.to_vec(),
            Rounding::F16 => x.iter().map(|&v| to_f16(v)).collect(),
            Rounding::Bf16 => x.iter().map(|&v| to_bf16(v)).collect(),
            Rounding::Q8_0 => x.chunks(32).flat_map(q8_0).collect(),
            Rounding::Q8K => x.chunks(256).flat_map(|x| q8_k(x, |v| v)).collect(),
            Rounding::Q8KProductToF32 => {
                let through_f32 = |v| f64::from(v as f32);
                x.chunks(256).flat_map(|x| q8_k(x, through_f32)).collect()
            }
        }
    }

    /// Values that share a scale; `None` if none do.
    pub(super) fn block(self) -> Option<usize> {
        match self {
            Rounding::Q8_0 => Some(32),
            Rounding::Q8K | Rounding::Q8KProductToF32 => Some(256),
            _ => None,
        }
    }

    /// What [`apply`](Self::apply) gives if codes are truncated, not rounded; `None` where values share no scale.
    pub(super) fn truncated(self, x: &[f64]) -> Option<Vec<f64>> {
        let step = |largest: f32| match self {
            Rounding::Q8_0 => f64::from(f16::from_f32(largest / 127.0)),
            _ => f64::from(1.0 / (127.0 / largest)),
        };
        let blocks = x.chunks(self.block()?).flat_map(|x| {
            let largest = x.iter().fold(0.0_f64, |max, v| max.max(v.abs())) as f32;
            let per_step = f64::from(127.0 / largest);
            let code = move |v: &f64| {
                if *v == 0.0 {
                    0.0
                } else {
                    (v * per_step).trunc()
                }
            };
            x.iter().map(move |v| code(v) * step(largest))
        });
        Some(blocks.collect())
    }
}

/// The nearest F16 of what an engine holds in F32. (From F64, `half` drops the last 32 bits before it rounds, and with them
/// what tells a tie from a value beside it.)
pub fn to_f16(x: f64) -> f64 {
    f64::from(f16::from_f32(x as f32))
}

/// The nearest BF16, likewise.
pub fn to_bf16(x: f64) -> f64 {
    f64::from(bf16::from_f32(x as f32))
}

/// ggml's `block_q8_0`: one F16 scale per 32 values.
fn q8_0(x: &[f64]) -> Vec<f64> {
    let max = x.iter().fold(0.0_f64, |max, v| max.max(v.abs())) as f32;
    let d = f64::from(f16::from_f32(max / 127.0));
    let inverse = if max == 0.0 { 0.0 } else { 127.0 / max };
    let code = |v: f64| f64::from((v as f32 * inverse).round_ties_even());
    x.iter().map(|&v| code(v) * d).collect()
}

/// ggml's `block_q8_K`: one f32 scale per 256 values, by the value of largest magnitude; what `product` makes of values
/// times the scale is rounded.
fn q8_k(x: &[f64], product: impl Fn(f64) -> f64) -> Vec<f64> {
    let extreme = x
        .iter()
        .fold(0.0_f64, |e, &v| if v.abs() > e.abs() { v } else { e });
    if extreme == 0.0 {
        return x.to_vec();
    }
    let scale = -127.0 / extreme as f32;
    let d = f64::from(1.0 / scale);
    let code = |v: f64| product(v * f64::from(scale)).round_ties_even().min(127.0);
    x.iter().map(|&v| code(v) * d).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norm_of_a_known_row() {
        // mean square (9 + 16) / 2 = 12.5
        let got = rms_norm(&[3.0, 4.0], &[1.0, 2.0], 0.0);
        let rms = 12.5_f64.sqrt();
        assert_eq!(got, [3.0 / rms, 8.0 / rms]);
    }

    #[test]
    fn a_quarter_turn() {
        let rope = |split_halves| Rope {
            head_dim: 4,
            dims: 4,
            split_halves,
            base: 1.0,
            scale: std::f64::consts::FRAC_PI_2,
            factors: None,
            yarn: None,
            magnitude: 1.0,
        };
        // (a, b) turns to (-b, a).
        for (split_halves, want) in [
            (true, [-3.0, -4.0, 1.0, 2.0]),
            (false, [-2.0, 1.0, -4.0, 3.0]),
        ] {
            let got = rope(split_halves).rotate(&[1.0, 2.0, 3.0, 4.0], 1.0);
            for (got, want) in got.iter().zip(want) {
                approx::assert_abs_diff_eq!(*got, want, epsilon = 1e-15);
            }
        }
    }

    /// As transformers computes it for a context of 128 that is extended fourfold.
    #[test]
    fn yarn_of_a_known_rope() {
        let rope = Rope {
            head_dim: 16,
            dims: 16,
            split_halves: true,
            base: 100.0,
            scale: 0.25,
            factors: None,
            yarn: Some(128.0),
            magnitude: 3.0,
        };
        // Of 8 pairs, pair 5.2 turns once within the context; none turns 32 times, pair -0.8 would.
        for (pair, kept) in [(0, 1.0), (3, 0.5), (6, 0.0), (7, 0.0)] {
            let own = 100_f64.powf(-(pair as f64) / 8.0);
            let want = 7.0 * own * (kept + (1.0 - kept) / 4.0);
            approx::assert_relative_eq!(rope.angle(pair, 7.0), want, max_relative = 1e-14);
        }
        let grown = 3.0 * (1.0 + 0.1 * 4_f64.ln());
        let row: Vec<f64> = (0..16).map(f64::from).collect();
        let turned = rope.rotate(&row, 9.0);
        let size = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>().sqrt();
        approx::assert_relative_eq!(size(&turned), grown * size(&row), max_relative = 1e-14);
    }

    #[test]
    fn codes_of_a_known_row() {
        // In f32 a half, and less than one before that.
        let near = |half: f32| f64::from(half / 63.5);
        let x = [-2.0, 1.0, 0.0, 0.5, near(1.5), near(2.5), near(-2.5)];
        for (rounding, want) in [
            (Rounding::None, [-127, 64, 0, 32, 1, 2, -2]),
            (Rounding::ProductToF32, [-127, 64, 0, 32, 2, 2, -2]),
            (Rounding::HalvesAway, [-127, 64, 0, 32, 1, 2, -2]),
            (Rounding::HalvesAwayInF32, [-127, 64, 0, 32, 2, 3, -3]),
        ] {
            let (codes, scale) = int8_codes(&x, rounding);
            assert_eq!((codes.as_slice(), scale), (&want[..], 63.5), "{rounding:?}");
        }
        // Halves that are exact.
        let x = [-127.0, 0.5, 1.5, -0.5, -2.5];
        assert_eq!(int8_codes(&x, Rounding::None).0, [-127, 0, 2, 0, -2]);
        assert_eq!(int8_codes(&x, Rounding::HalvesAway).0, [-127, 1, 2, -1, -3]);
    }

    #[test]
    fn a_value_just_above_a_tie_is_rounded_up() {
        let above =
            |bits: i32| f64::from(f32::from_bits((1.0 + 0.5_f32.powi(bits + 1)).to_bits() + 1));
        assert_eq!(to_f16(above(10)), 1.0 + 0.5_f64.powi(10));
        assert_eq!(to_bf16(above(7)), 1.0 + 0.5_f64.powi(7));
        assert_eq!(Rounding::Bf16.apply(&[above(7)]), [1.0 + 0.5_f64.powi(7)]);
        // A tie itself goes to even.
        assert_eq!(to_bf16(1.0 + 0.5_f64.powi(8)), 1.0);
    }

    #[test]
    fn roundings_are_those_of_the_engine() {
        let x: Vec<f32> = (0..512)
            .map(|i| ((i * 37 % 101) as f32 - 50.0) / 7.0)
            .collect();
        let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let (mut codes, mut scales) = (vec![0; 512], vec![0.0; 16]);
        bitnet_core::blocks::q8_0::quantize_row(&x, &mut codes, &mut scales);
        let want: Vec<f64> = (0..512)
            .map(|i| f64::from(codes[i]) * f64::from(scales[i / 32]))
            .collect();
        assert_eq!(Rounding::Q8_0.apply(&wide), want);
        bitnet_core::blocks::q6_k::quantize_row_q8_k(&x, &mut codes, &mut scales);
        let want: Vec<f64> = (0..512)
            .map(|i| f64::from(codes[i]) * f64::from(scales[i / 256]))
            .collect();
        assert_eq!(Rounding::Q8K.apply(&wide), want);
    }

    #[test]
    fn codes_of_q8_k_are_rounded_once_or_twice() {
        // Times -127 not quite a half, which f32 makes of them.
        let near = |half: f32| f64::from(half / 127.0);
        let x = [-1.0, near(1.5), near(2.5), near(3.5)];
        let d = f64::from(1.0_f32 / 127.0);
        for (rounding, codes) in [
            (Rounding::Q8K, [-127.0, 1.0, 2.0, 3.0]),
            (Rounding::Q8KProductToF32, [-127.0, 2.0, 2.0, 4.0]),
        ] {
            assert_eq!(
                rounding.apply(&x),
                codes.map(|code| code * d),
                "{rounding:?}"
            );
        }
    }
}
