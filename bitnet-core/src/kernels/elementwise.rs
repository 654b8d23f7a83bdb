//! Norms, activations and softmax on one row, as ggml computes them up to the order of summation.
//!
//! All are inlined, so that `vectorize!` compiles them for the instructions of a kernel.

use super::portable::add_up;
use crate::blocks::max;

/// Root mean square norm, in place (`ggml_compute_forward_rms_norm_f32` and the multiplication by gamma): squares
/// rounded to f32, summed in f64.
///
/// # Panics
/// If the slices differ in length.
#[inline(always)]
pub fn rms_norm(x: &mut [f32], gamma: &[f32], eps: f32) {
    assert_eq!(x.len(), gamma.len());
    let mean = (sum_f64(x, |v| v * v) / x.len() as f64) as f32;
    let scale = 1.0 / (mean + eps).sqrt();
    for (v, g) in x.iter_mut().zip(gamma) {
        *v = *v * scale * g;
    }
}

/// Softmax of `scale * x`, in place (`ggml_compute_forward_soft_max_f32`): f64 sum, f32 reciprocal.
#[inline(always)]
pub fn softmax(x: &mut [f32], scale: f32) {
    for v in x.iter_mut() {
        *v *= scale;
    }
    let max = max(x, |v| v);
    for v in x.iter_mut() {
        *v = exp(*v - max);
    }
    let reciprocal = (1.0 / sum_f64(x, |v| v)) as f32;
    for v in x.iter_mut() {
        *v *= reciprocal;
    }
}

/// `gate = silu(gate) * up` with `silu(x) = x / (1 + exp(-x))`.
#[inline(always)]
pub fn silu_mul(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        *g = *g / (1.0 + exp(-*g)) * u;
    }
}

/// `gate = relu(gate)^2 * up`.
#[inline(always)]
pub fn relu2_mul(gate: &mut [f32], up: &[f32]) {
    for (g, u) in gate.iter_mut().zip(up) {
        // Not `max`, which would hide a NaN.
        let relu = if *g < 0.0 { 0.0 } else { *g };
        *g = relu * relu * u;
    }
}

/// Sum of `f(x)` in f64 lanes: as many as keep the adders busy, added up pairwise.
#[inline(always)]
fn sum_f64(x: &[f32], f: impl Fn(f32) -> f32) -> f64 {
    let mut lanes = [0f64; 32];
    let (chunks, tail) = x.as_chunks::<32>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane += f64::from(f(v));
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane += f64::from(f(v));
    }
    add_up(&mut lanes)
}

/// e^x, within 2 units in the last place, branch-free so that it vectorises; the same bits on every machine,
/// which a C library's `expf` is not.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    // ln 2 in two parts; the product of an exponent and the high part is exact.
    const LN2_HIGH: f32 = 0.693_145_75;
    const LN2_LOW: f32 = 1.428_606_8e-6;
    // Beyond these the result is 0 or infinite. Comparisons, not `clamp`, so that NaN stays NaN.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let exponent = shifted.to_bits() as i32 - MAGIC.to_bits() as i32;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [
        1.0 / 720.0,
        1.0 / 120.0,
        1.0 / 24.0,
        1.0 / 6.0,
        0.5,
        1.0,
        1.0,
    ] {
        p = p * r + c;
    }
    // 2^n in two factors, so that subnormal results come out.
    let half = exponent >> 1;
    p * power_of_two(half) * power_of_two(exponent - half)
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_against_f64() {
        let mut worst = 0f64;
        for i in -87_000..=88_700 {
            let x = i as f32 / 1000.0;
            let want = f64::from(x).exp();
            worst = worst.max(((f64::from(exp(x)) - want) / want).abs());
        }
        assert!(worst < 2.4e-7, "{worst:e}");
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(-104.0), 0.0);
        assert!(exp(-100.0) > 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    fn nmse(a: &[f32], r: &[f64]) -> f64 {
        let e: f64 = a
            .iter()
            .zip(r)
            .map(|(a, r)| (f64::from(*a) - r).powi(2))
            .sum();
        e / r.iter().map(|r| r * r).sum::<f64>()
    }

    fn sample(n: usize) -> Vec<f32> {
        (0..n)
            .map(|i| ((i * 7919) % 1009) as f32 / 101.0 - 5.0)
            .collect()
    }

    #[test]
    fn rows_against_f64() {
        let x = sample(203);
        let wide: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        let gamma: Vec<f32> = (0..203).map(|i| 0.02 + i as f32 * 1e-3).collect();

        let mut out = x.clone();
        rms_norm(&mut out, &gamma, 1e-5);
        let rms = (wide.iter().map(|v| v * v).sum::<f64>() / 203.0 + 1e-5).sqrt();
        let want: Vec<f64> = wide
            .iter()
            .zip(&gamma)
            .map(|(v, g)| v / rms * f64::from(*g))
            .collect();
        assert!(nmse(&out, &want) < 1e-13);

        let mut out = x.clone();
        softmax(&mut out, 0.5);
        let total: f64 = wide.iter().map(|v| (v * 0.5).exp()).sum();
        let want: Vec<f64> = wide.iter().map(|v| (v * 0.5).exp() / total).collect();
        assert!(nmse(&out, &want) < 1e-13);

        let up: Vec<f32> = x.iter().rev().copied().collect();
        let mut out = x.clone();
        silu_mul(&mut out, &up);
        let want: Vec<f64> = wide
            .iter()
            .zip(&up)
            .map(|(v, u)| v / (1.0 + (-v).exp()) * f64::from(*u))
            .collect();
        assert!(nmse(&out, &want) < 1e-13);

        let mut out = [-2.0, 3.0, f32::NAN];
        relu2_mul(&mut out, &[5.0, -2.0, 1.0]);
        assert_eq!(out[..2], [0.0, -18.0]);
        assert!(out[2].is_nan());
    }
}
