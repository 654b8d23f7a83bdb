//! Blocks of numbers in memory: how each format packs them, and how activations are rounded to go with it.
//!
//! Rounding follows ggml, so that integer dot products are the reference's to the bit.

use half::f16;

pub mod i2_s;
pub mod i7;
pub mod packed;
pub mod q6_k;
pub mod q8_0;
pub mod tq1_0;
pub mod tq2_0;
pub mod trits;

/// Round half to even, for `|x| < 2^22`; the addition pushes the fraction out of the significand.
#[inline(always)]
pub(crate) fn nearest_int(x: f32) -> i32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23
    ((x + MAGIC).to_bits() & 0x007f_ffff) as i32 - 0x0040_0000
}

/// `x * scale` rounded once, half to even, for products below 2^31.
///
/// ggml writes the product and the rounding apart, but gcc contracts them to a fused multiply-add: the product is
/// not rounded to f32 first, which would move codes near a half. In f64 the product is exact.
#[inline(always)]
fn nearest_product(x: f32, scale: f32) -> i32 {
    const MAGIC: f64 = 6_755_399_441_055_744.0; // 1.5 * 2^52
    (f64::from(x) * f64::from(scale) + MAGIC).to_bits() as i32
}

/// The F16 scale at the end of a block.
#[inline(always)]
pub(crate) fn last_scale<const BYTES: usize>(block: &[u8; BYTES]) -> f32 {
    f16::from_le_bytes([block[BYTES - 2], block[BYTES - 1]]).to_f32()
}

/// Dequantises one row of blocks of codes, 1 less than which is a weight before scaling, with [`last_scale`].
fn dequantize_ternary<const BYTES: usize>(
    row: &[u8],
    out: &mut [f32],
    code: impl Fn(&[u8; BYTES], usize) -> u8,
) {
    let blocks = row.as_chunks().0.iter();
    for (block, out) in blocks.zip(out.chunks_exact_mut(tq2_0::BLOCK)) {
        let d = last_scale(block);
        for (j, out) in out.iter_mut().enumerate() {
            *out = d * (f32::from(code(block, j)) - 1.0);
        }
    }
}

/// Largest `f(x)`; NaN is passed over.
#[inline(always)]
pub(crate) fn max(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; 32];
    let (chunks, tail) = x.as_chunks::<32>();
    for chunk in chunks {
        for (lane, &v) in lanes.iter_mut().zip(chunk) {
            *lane = lane.max(f(v));
        }
    }
    for (lane, &v) in lanes.iter_mut().zip(tail) {
        *lane = lane.max(f(v));
    }
    lanes.into_iter().fold(f32::NEG_INFINITY, f32::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_sees_the_tail() {
        let mut x = vec![1.0; 43];
        x[42] = -3.0;
        x[3] = f32::NAN;
        assert_eq!(max(&x, |v| v), 1.0);
        assert_eq!(max(&x, f32::abs), 3.0);
    }

    #[test]
    fn nearest_int_rounds_half_to_even() {
        for (x, want) in [
            (0.5, 0),
            (1.5, 2),
            (2.5, 2),
            (-0.5, 0),
            (-1.5, -2),
            (-2.5, -2),
            (126.5, 126),
            (127.49, 127),
            (-127.5, -128),
        ] {
            assert_eq!(nearest_int(x), want, "{x}");
        }
    }

    #[test]
    fn nearest_product_rounds_once() {
        // 0.1 * 5 is a little above a half; in f32 it is a half.
        assert_eq!((0.1_f32 * 5.0, nearest_int(0.1 * 5.0)), (0.5, 0));
        assert_eq!(
            (nearest_product(0.1, 5.0), nearest_product(-0.1, 5.0)),
            (1, -1)
        );
        for (x, want) in [(0.5, 0), (1.5, 2), (-2.5, -2), (126.5, 126), (-127.5, -128)] {
            assert_eq!(nearest_product(x, 1.0), want, "{x}");
        }
    }
}
