//! Dot products of packed weights with Q8_0 activations, by SDOT.

use std::arch::aarch64::*;

use super::{Rows, dot, dot_lane, load_bytes, load_codes};
use crate::blocks::packed::{groups, split};
use crate::kernels::packed::{self, Dot, Panel, STEPS, Sums, Token};

/// See [`Kernel::packed_dots`](crate::kernels::Kernel::packed_dots).
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn dots<const BITS: usize, const BYTES: usize>(
    weights: Rows,
    codes: &[i8],
    scales: &[f32],
    out: &mut [f32],
) {
    // SAFETY: this function's own instruction set.
    unsafe { packed::dots::<Neon, BITS, BYTES>(weights, codes, scales, out) }
}

struct Neon;

impl Dot for Neon {
    const TOKENS: usize = 2;
    const FEW: usize = 2;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn sums(codes: &[[i8; 32]; 4]) -> [i32; 4] {
        let ones = vdupq_n_s8(1);
        let [a, b, c, d] = codes.each_ref().map(|codes| {
            let (halves, _) = codes.as_chunks();
            let sums = dot(vdupq_n_s32(0), ones, load_codes(&halves[0]));
            dot(sums, ones, load_codes(&halves[1]))
        });
        let sums = vpaddq_s32(vpaddq_s32(a, b), vpaddq_s32(c, d));
        let mut out = [0; 4];
        // SAFETY: four i32 are writable.
        unsafe { vst1q_s32(out.as_mut_ptr(), sums) };
        out
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn row<const BITS: usize, const BYTES: usize>(row: &[[u8; BYTES]], x: Token) -> f32 {
        let n = groups(BITS, BYTES);
        let mut sum = 0.0;
        for (b, bytes) in row.iter().enumerate() {
            let (x, (d, codes)) = (x.blocks(n * b, n), split(bytes));
            let mut sums = [vdupq_n_s32(0); 4];
            for (g, (sum, x)) in sums.iter_mut().zip(x.codes).enumerate() {
                let (halves, _) = x.as_chunks();
                for (half, x) in halves.iter().enumerate() {
                    let w = levels::<BITS>(&codes[2 * BITS * (2 * g + half)..][..2 * BITS]);
                    *sum = dot(*sum, w, load_codes(x));
                }
            }
            sum += d * total(sums, x);
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn multiply(panel: &Panel, groups: usize, x: &[Token], sums: &mut [Sums]) {
        match (x, sums) {
            ([a, b], [out_a, out_b]) => tile(panel, groups, [*a, *b], [out_a, out_b]),
            ([a], [out]) => tile(panel, groups, [*a], [out]),
            _ => unreachable!("one or two tokens"),
        }
    }
}

/// The levels of 16 weights.
#[inline]
#[target_feature(enable = "neon")]
fn levels<const BITS: usize>(codes: &[u8]) -> int8x16_t {
    if BITS == 1 {
        const NTH: [u8; 16] = [1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128];
        let bytes = vcombine_u8(vdup_n_u8(codes[0]), vdup_n_u8(codes[1]));
        let set = vtstq_u8(bytes, load_bytes(&NTH));
        return vreinterpretq_s8_u8(vandq_u8(set, vdupq_n_u8(2)));
    }
    const DOWN: [i8; 16] = [0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6, 0, -2, -4, -6];
    const SPREAD: [u8; 16] = [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3];
    let bits = codes
        .first_chunk()
        .map_or(0, |bits| u32::from_le_bytes(*bits));
    let bytes = vqtbl1q_u8(vreinterpretq_u8_u32(vdupq_n_u32(bits)), load_bytes(&SPREAD));
    let shifted = vshlq_u8(bytes, load_codes(&DOWN));
    vreinterpretq_s8_u8(vandq_u8(shifted, vdupq_n_u8(3)))
}

/// The products of a block, from the lanes of each of its two or four sums.
#[inline]
#[target_feature(enable = "neon")]
fn total([a, b, c, d]: [int32x4_t; 4], x: Token) -> f32 {
    let (ab, cd) = (vpaddq_s32(a, b), vpaddq_s32(c, d));
    if let (Some(scales), Some(minus)) = (x.scales.first_chunk::<4>(), x.minus.first_chunk::<4>()) {
        // SAFETY: four values each are readable.
        let (scales, minus) = unsafe { (vld1q_f32(scales.as_ptr()), vld1q_s32(minus.as_ptr())) };
        let sums = vaddq_s32(vpaddq_s32(ab, cd), minus);
        return super::add_up(vmulq_f32(scales, vcvtq_f32_s32(sums)));
    }
    let sums = vpaddq_s32(ab, ab);
    let first = x.scales[0] * (vgetq_lane_s32::<0>(sums) + x.minus[0]) as f32;
    first + x.scales[1] * (vgetq_lane_s32::<1>(sums) + x.minus[1]) as f32
}

#[inline]
#[target_feature(enable = "neon,dotprod")]
fn tile<const T: usize>(panel: &Panel, groups: usize, x: [Token; T], out: [&mut Sums; T]) {
    let group = |g: usize| {
        let mut sums = x.map(|x| [vdupq_n_s32(x.minus[g]); 4]);
        let (quarters, _) = panel.steps[STEPS * g..][..STEPS].as_chunks::<4>();
        for (i, steps) in quarters.iter().enumerate() {
            let codes = x.map(|x| load_codes(&x.codes[g].as_chunks().0[i]));
            for (quarter, [a, b, c, d]) in std::array::from_fn::<_, 4, _>(|s| {
                steps.each_ref().map(|step| {
                    let (quarters, _) = step.0.as_chunks();
                    vreinterpretq_s8_u8(load_bytes(&quarters[s]))
                })
            })
            .into_iter()
            .enumerate()
            {
                for (sums, codes) in sums.iter_mut().zip(codes) {
                    let sum = dot_lane::<1>(dot_lane::<0>(sums[quarter], a, codes), b, codes);
                    sums[quarter] = dot_lane::<3>(dot_lane::<2>(sum, c, codes), d, codes);
                }
            }
        }
        let mut products = [[vdupq_n_f32(0.0); 4]; T];
        for ((products, sums), x) in products.iter_mut().zip(sums).zip(&x) {
            for (product, sum) in products.iter_mut().zip(sums) {
                *product = vmulq_n_f32(vcvtq_f32_s32(sum), x.scales[g]);
            }
        }
        products
    };
    let add = |mut a: [[float32x4_t; 4]; T], b: [[float32x4_t; 4]; T]| {
        for (a, b) in a.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
            *a = vaddq_f32(*a, *b);
        }
        a
    };
    let products = match groups {
        2 => add(group(0), group(1)),
        _ => add(add(group(0), group(2)), add(group(1), group(3))),
    };
    let (scales, _) = panel.scales.as_chunks::<4>();
    for (out, products) in out.into_iter().zip(products) {
        let (out, _) = out.as_chunks_mut::<4>();
        for ((out, products), scales) in out.iter_mut().zip(products).zip(scales) {
            // SAFETY: four f32 each are readable, and those of `out` writable.
            unsafe {
                let products = vmulq_f32(vld1q_f32(scales.as_ptr()), products);
                vst1q_f32(
                    out.as_mut_ptr(),
                    vaddq_f32(vld1q_f32(out.as_ptr()), products),
                );
            }
        }
    }
}
