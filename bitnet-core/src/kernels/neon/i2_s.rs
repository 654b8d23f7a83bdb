//! Ternary by int8 dot products by SDOT, which adds four products to each 32-bit lane, exactly.

use std::arch::aarch64::*;

use super::{Rows, dot, dot_lane, load_bytes, load_codes};
use crate::blocks::i2_s::{BLOCK, BLOCK_BYTES};
use crate::kernels::panels::{self, Dot, I2_S_STEPS, Panel, ROWS, Step, Tile, Tokens};

/// See [`Kernel::i2_s_dots`](crate::kernels::Kernel::i2_s_dots).
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    // SAFETY: this function's own instruction set.
    unsafe { panels::dots::<Neon, BLOCK_BYTES, I2_S_STEPS>(weights, codes, out) }
}

/// All rows by one token, in the order of memory.
#[target_feature(enable = "neon,dotprod")]
fn token(weights: Rows, x: &[i8], out: &mut [i32]) {
    assert_eq!(weights.columns % BLOCK, 0);
    let n_blocks = weights.columns / BLOCK;
    let (x, _) = x.as_chunks::<BLOCK>();
    assert!(x.len() >= n_blocks);
    let [high_bits, middle_bits, low_bits] = [0x30, 0x0c, 0x03].map(|bits| vdupq_n_u8(bits));
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let (row, _) = weights
            .row(r, n_blocks * BLOCK_BYTES)
            .as_chunks::<BLOCK_BYTES>();
        // Codes are multiplied where they lie in their bytes, so the sums of groups 1 and 2 are 16 and 4 times too
        // large. They hold: a lane takes at most 2 * 4 * 48 * 128 from a block, no more per column than the 3 * 128
        // that the result has to hold as well.
        let zero = vdupq_n_s32(0);
        let (mut high, mut middle, mut low) = (zero, zero, zero);
        for (block, x) in row.iter().zip(x) {
            let (x, _) = x.as_chunks();
            for (half, packed) in block.as_chunks().0.iter().enumerate() {
                let w = load_bytes(packed);
                let codes = [
                    vshrq_n_u8::<6>(w),
                    vandq_u8(w, high_bits),
                    vandq_u8(w, middle_bits),
                    vandq_u8(w, low_bits),
                ]
                .map(|codes| vreinterpretq_s8_u8(codes));
                low = dot(low, codes[0], load_codes(&x[half]));
                high = dot(high, codes[1], load_codes(&x[2 + half]));
                middle = dot(middle, codes[2], load_codes(&x[4 + half]));
                low = dot(low, codes[3], load_codes(&x[6 + half]));
            }
        }
        let sums = vaddq_s32(vshrq_n_s32::<4>(high), vshrq_n_s32::<2>(middle));
        *out = vaddvq_s32(vaddq_s32(sums, low));
    }
}

struct Neon;

impl Dot<BLOCK_BYTES, I2_S_STEPS> for Neon {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 1;

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn token(weights: Rows, x: &[i8], out: &mut [i32]) {
        token(weights, x, out);
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn unpack(rows: [&[u8; BLOCK_BYTES]; ROWS], steps: &mut [Step; I2_S_STEPS]) {
        for (quarter, rows) in rows.as_chunks::<4>().0.iter().enumerate() {
            for half in 0..2 {
                let words = transpose(rows.map(|row| load_bytes(&row.as_chunks().0[half])));
                for (word, codes) in words.into_iter().enumerate() {
                    store_groups(codes, 4 * half + word, quarter, steps);
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "neon,dotprod")]
    unsafe fn multiply(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, n_steps, x, sums) }
    }
}

/// Word `i` of four rows, for every `i`.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn transpose(rows: [uint8x16_t; 4]) -> [uint8x16_t; 4] {
    let [a, b, c, d] = rows.map(|row| vreinterpretq_u32_u8(row));
    let pairs = |a, b| {
        [
            vreinterpretq_u64_u32(vtrn1q_u32(a, b)),
            vreinterpretq_u64_u32(vtrn2q_u32(a, b)),
        ]
    };
    let ([ab_even, ab_odd], [cd_even, cd_odd]) = (pairs(a, b), pairs(c, d));
    [
        vtrn1q_u64(ab_even, cd_even),
        vtrn1q_u64(ab_odd, cd_odd),
        vtrn2q_u64(ab_even, cd_even),
        vtrn2q_u64(ab_odd, cd_odd),
    ]
    .map(|words| vreinterpretq_u8_u64(words))
}

/// # Safety
/// As [`Dot::multiply`].
#[target_feature(enable = "neon,dotprod")]
pub(super) unsafe fn by_tokens(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile) {
    for panel in panels {
        // SAFETY: the caller's contract.
        unsafe {
            match x.n {
                1 => tile::<1>(panel, n_steps, x, sums),
                2 => tile::<2>(panel, n_steps, x, sums),
                3 => tile::<3>(panel, n_steps, x, sums),
                4 => tile::<4>(panel, n_steps, x, sums),
                5 => tile::<5>(panel, n_steps, x, sums),
                6 => tile::<6>(panel, n_steps, x, sums),
                _ => unreachable!("at most `TOKENS`"),
            }
        }
    }
}

/// # Safety
/// As [`Dot::multiply`], with `T` tokens.
#[target_feature(enable = "neon,dotprod")]
unsafe fn tile<const T: usize>(panel: &Panel, n_steps: usize, x: Tokens, out: &mut Tile) {
    let mut sums = [[vdupq_n_s32(0); 4]; T];
    for (i, steps) in panel[..n_steps].as_chunks::<4>().0.iter().enumerate() {
        let mut tokens = [vdupq_n_s8(0); T];
        for (t, token) in tokens.iter_mut().enumerate() {
            // SAFETY: every token has four activations per step.
            *token = unsafe { vld1q_s8(x.first.add(t * x.stride + 16 * i)) };
        }
        add_step::<0, T>(&steps[0], &tokens, &mut sums);
        add_step::<1, T>(&steps[1], &tokens, &mut sums);
        add_step::<2, T>(&steps[2], &tokens, &mut sums);
        add_step::<3, T>(&steps[3], &tokens, &mut sums);
    }
    for ([out, _], sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
            // SAFETY: four i32 are writable.
            unsafe { vst1q_s32(out.as_mut_ptr(), sum) };
        }
    }
}

/// Adds the products of one step, whose activations are lane `LANE` of the tokens.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn add_step<const LANE: usize, const T: usize>(
    step: &Step,
    tokens: &[int8x16_t; T],
    sums: &mut [[int32x4_t; 4]; T],
) {
    for (quarter, codes) in step.0.as_chunks().0.iter().enumerate() {
        let codes = vreinterpretq_s8_u8(load_bytes(codes));
        for (sums, token) in sums.iter_mut().zip(tokens) {
            sums[quarter] = dot_lane::<LANE>(sums[quarter], codes, *token);
        }
    }
}

/// Unpacks the words `word` of four rows to their quarter of one step per group.
#[inline]
#[target_feature(enable = "neon")]
fn store_groups(words: uint8x16_t, word: usize, quarter: usize, steps: &mut [Step; I2_S_STEPS]) {
    let low_bits = vdupq_n_u8(3);
    let groups = [
        vshrq_n_u8::<6>(words),
        vandq_u8(vshrq_n_u8::<4>(words), low_bits),
        vandq_u8(vshrq_n_u8::<2>(words), low_bits),
        vandq_u8(words, low_bits),
    ];
    for (group, codes) in groups.into_iter().enumerate() {
        let step = &mut steps[8 * group + word].0[16 * quarter..][..16];
        // SAFETY: sixteen bytes are writable.
        unsafe { vst1q_u8(step.as_mut_ptr(), codes) };
    }
}
