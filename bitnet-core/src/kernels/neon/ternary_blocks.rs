//! TQ1_0 and TQ2_0 dot products by SDOT.

use std::arch::aarch64::*;

use super::i2_s::{by_tokens, transpose};
use super::{Rows, dot, load_bytes, load_codes};
use crate::blocks::{last_scale, tq1_0, tq2_0};
use crate::kernels::Q8K;
use crate::kernels::panels::{Panel, ROWS, Step, Tile, Tokens};
use crate::kernels::ternary_blocks::{
    self, BLOCK, BlockDot, STEPS, TQ1_0_WORDS, tq1_0_steps, tq2_0_steps,
};

/// See [`Kernel::tq1_0_dots`](crate::kernels::Kernel::tq1_0_dots).
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn tq1_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq1_0, { tq1_0::BLOCK_BYTES }>(weights, x, out) }
}

/// See [`Kernel::tq2_0_dots`](crate::kernels::Kernel::tq2_0_dots).
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn tq2_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq2_0, { tq2_0::BLOCK_BYTES }>(weights, x, out) }
}

/// All rows by one token. `lanes` are the sums of a block, still to be added up.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn token<const BYTES: usize>(
    weights: Rows,
    x: Q8K,
    out: &mut [f32],
    lanes: impl Fn(&[u8; BYTES], &[i8; BLOCK]) -> int32x4_t,
) {
    let n_blocks = weights.columns / BLOCK;
    let (codes, _) = x.codes.as_chunks::<BLOCK>();
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let (row, _) = weights.row(r, n_blocks * BYTES).as_chunks::<BYTES>();
        *out = 0.0;
        for (b, (block, codes)) in row.iter().zip(codes).enumerate() {
            let sum = vaddvq_s32(lanes(block, codes)) - x.sums[b];
            *out += x.scales[b] * last_scale(block) * sum as f32;
        }
    }
}

struct Tq2_0;

impl BlockDot<{ tq2_0::BLOCK_BYTES }> for Tq2_0 {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 1;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        token(weights, x, out, |block: &[u8; tq2_0::BLOCK_BYTES], x| {
            let mut sums = [vdupq_n_s32(0); 2];
            let (x, _) = x.as_chunks();
            for (part, packed) in block.as_chunks().0.iter().enumerate() {
                // Bytes 16 to 31 of a half go with activations 16 to 31 of every 32.
                let first = part / 2 * 8 + part % 2;
                for (group, codes) in groups(load_bytes(packed)).into_iter().enumerate() {
                    let (w, x) = (
                        vreinterpretq_s8_u8(codes),
                        load_codes(&x[first + 2 * group]),
                    );
                    sums[group % 2] = dot(sums[group % 2], w, x);
                }
            }
            vaddq_s32(sums[0], sums[1])
        });
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        for (quarter, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
            for part in 0..4 {
                let words = transpose(
                    rows.each_ref()
                        .map(|row| load_bytes(&row.as_chunks().0[part])),
                );
                for (word, packed) in words.into_iter().enumerate() {
                    let codes = groups(packed).into_iter();
                    for (codes, step) in codes.zip(tq2_0_steps(4 * part + word)) {
                        store(codes, quarter, &mut steps[step]);
                    }
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        rows.map(last_scale)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, STEPS, x, sums) }
    }
}

struct Tq1_0;

impl BlockDot<{ tq1_0::BLOCK_BYTES }> for Tq1_0 {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 1;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        let last_worths = [1, 3, 9, 27].map(|worth| [worth; 4]);
        let last_worths = load_bytes(last_worths.as_flattened().first_chunk().expect("sixteen"));
        token(weights, x, out, |block: &[u8; tq1_0::BLOCK_BYTES], x| {
            let mut sums = [vdupq_n_s32(0); 2];
            let (x, _) = x.as_chunks();
            let (parts, _) = block.as_chunks();
            // Two parts whose digits lie 32 apart, and one whose digits lie 16 apart.
            for (part, first, apart) in [(0, 0, 2), (1, 1, 2), (2, 10, 1)] {
                let mut rest = load_bytes(&parts[part]);
                for digit in 0..5 {
                    let w = vreinterpretq_s8_u8(first_digits(rest));
                    sums[digit % 2] =
                        dot(sums[digit % 2], w, load_codes(&x[first + apart * digit]));
                    rest = vmulq_u8(rest, vdupq_n_u8(3));
                }
            }
            let few = u32::from_le_bytes([block[48], block[49], block[50], block[51]]);
            let last = vmulq_u8(vreinterpretq_u8_u32(vdupq_n_u32(few)), last_worths);
            let w = vreinterpretq_s8_u8(first_digits(last));
            vaddq_s32(dot(sums[0], w, load_codes(&x[15])), sums[1])
        });
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        let padded = rows.map(|row| {
            let mut padded = [0; 64];
            padded[..tq1_0::BLOCK_BYTES].copy_from_slice(row);
            padded
        });
        for (quarter, rows) in padded.as_chunks::<4>().0.iter().enumerate() {
            let parts = (0..4).flat_map(|part| {
                transpose(
                    rows.each_ref()
                        .map(|row| load_bytes(&row.as_chunks().0[part])),
                )
            });
            for (word, mut rest) in parts.take(TQ1_0_WORDS).enumerate() {
                let (first, apart, digits) = tq1_0_steps(word);
                for digit in 0..digits {
                    store(
                        first_digits(rest),
                        quarter,
                        &mut steps[first + apart * digit],
                    );
                    rest = vmulq_u8(rest, vdupq_n_u8(3));
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn scales(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        rows.map(last_scale)
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, STEPS, x, sums) }
    }
}

/// The four codes of every byte, the lowest bits first.
#[inline]
#[target_feature(enable = "neon")]
fn groups(packed: uint8x16_t) -> [uint8x16_t; 4] {
    let low_bits = vdupq_n_u8(3);
    [
        vandq_u8(packed, low_bits),
        vandq_u8(vshrq_n_u8::<2>(packed), low_bits),
        vandq_u8(vshrq_n_u8::<4>(packed), low_bits),
        vshrq_n_u8::<6>(packed),
    ]
}

/// What three times each byte carries, halved twice on the way: `floor(3 * q / 256)`.
#[inline]
#[target_feature(enable = "neon")]
fn first_digits(bytes: uint8x16_t) -> uint8x16_t {
    vshrq_n_u8::<6>(vhaddq_u8(bytes, vshrq_n_u8::<1>(bytes)))
}

#[inline]
#[target_feature(enable = "neon")]
fn store(codes: uint8x16_t, quarter: usize, step: &mut Step) {
    let (quarters, _) = step.0.as_chunks_mut::<16>();
    // SAFETY: sixteen bytes are writable.
    unsafe { vst1q_u8(quarters[quarter].as_mut_ptr(), codes) };
}
