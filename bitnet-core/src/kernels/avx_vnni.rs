//! I2_S, TQ1_0 and TQ2_0 kernels for x86-64 with AVX-VNNI (VPDPBUSD on 256 bits). All else is as with AVX2.

use std::arch::x86_64::*;

use super::avx2::ternary_blocks::{
    sixteen_scales, tq1_0_token, tq1_0_unpack, tq2_0_token, tq2_0_unpack,
};
use super::avx2::{add_up_i32, load_bytes as load};
use super::panels::{self, Dot, I2_S_STEPS, Panel, ROWS, Step, Tile, Tokens};
use super::ternary_blocks::{self, BlockDot, STEPS};
use super::{PREFETCH, Q8K, Rows};
use crate::blocks::i2_s::{BLOCK, BLOCK_BYTES};
use crate::blocks::{tq1_0, tq2_0};

/// See [`Kernel::i2_s_dots`](super::Kernel::i2_s_dots).
#[target_feature(enable = "avx2,avxvnni")]
pub(super) fn dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    // SAFETY: this function's own instruction set.
    unsafe { panels::dots::<AvxVnni, BLOCK_BYTES, I2_S_STEPS>(weights, codes, out) }
}

/// All rows by one token, in the order of memory.
#[target_feature(enable = "avx2,avxvnni")]
fn token(weights: Rows, x: &[i8], out: &mut [i32]) {
    assert_eq!(weights.columns % BLOCK, 0);
    let n_blocks = weights.columns / BLOCK;
    assert!(x.len() >= weights.columns);
    let zero = _mm256_setzero_si256();
    let [high_bits, middle_bits, low_bits] = [0x30, 0x0c, 0x03].map(|bits| _mm256_set1_epi8(bits));
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let row = weights.row(r, n_blocks * BLOCK_BYTES).as_ptr();
        // Codes are multiplied where they lie in their bytes, groups 0 and 1 both at bits 4 and 5, so the sums are 16,
        // 4 and 1 times too large. They hold: a lane takes at most 2 * 4 * 48 * 128 from a block, no more per column
        // than the 3 * 128 that the result has to hold as well.
        let (mut high, mut middle, mut low) = (zero, zero, zero);
        for b in 0..n_blocks {
            // SAFETY: the row has `n_blocks` blocks, and so has `x`; no load needs alignment, and a prefetch may name
            // any address.
            unsafe {
                let packed = row.add(b * BLOCK_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(PREFETCH).cast());
                let w = _mm256_loadu_si256(packed.cast());
                let w0 = _mm256_and_si256(_mm256_srli_epi16::<2>(w), high_bits);
                let x = x.as_ptr().add(b * BLOCK).cast::<__m256i>();
                high = _mm256_dpbusd_avx_epi32(high, w0, _mm256_loadu_si256(x));
                let w1 = _mm256_and_si256(w, high_bits);
                high = _mm256_dpbusd_avx_epi32(high, w1, _mm256_loadu_si256(x.add(1)));
                let w2 = _mm256_and_si256(w, middle_bits);
                middle = _mm256_dpbusd_avx_epi32(middle, w2, _mm256_loadu_si256(x.add(2)));
                let w3 = _mm256_and_si256(w, low_bits);
                low = _mm256_dpbusd_avx_epi32(low, w3, _mm256_loadu_si256(x.add(3)));
            }
        }
        let sums = _mm256_add_epi32(_mm256_srai_epi32::<4>(high), _mm256_srai_epi32::<2>(middle));
        *out = add_up_i32(_mm256_add_epi32(sums, low));
    }
}

struct AvxVnni;

impl Dot<BLOCK_BYTES, I2_S_STEPS> for AvxVnni {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 8;

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn token(weights: Rows, x: &[i8], out: &mut [i32]) {
        token(weights, x, out);
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn unpack(rows: [&[u8; BLOCK_BYTES]; ROWS], steps: &mut [Step; I2_S_STEPS]) {
        // Words `i` and `i + 4` of four rows.
        let transposed = |first: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|r| load(rows[first + r]));
            let low = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
            let high = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
            [
                _mm256_unpacklo_epi64(low[0], low[1]),
                _mm256_unpackhi_epi64(low[0], low[1]),
                _mm256_unpacklo_epi64(high[0], high[1]),
                _mm256_unpackhi_epi64(high[0], high[1]),
            ]
        };
        for half in 0..2 {
            let (top, bottom) = (transposed(8 * half), transposed(8 * half + 4));
            for i in 0..4 {
                let near = _mm256_permute2x128_si256::<0x20>(top[i], bottom[i]);
                let far = _mm256_permute2x128_si256::<0x31>(top[i], bottom[i]);
                store_groups(near, i, half, steps);
                store_groups(far, i + 4, half, steps);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,avxvnni")]
    unsafe fn multiply(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, n_steps, x, sums) }
    }
}

/// # Safety
/// As [`Dot::multiply`].
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn by_tokens(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile) {
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
#[target_feature(enable = "avx2,avxvnni")]
unsafe fn tile<const T: usize>(panel: &Panel, n_steps: usize, x: Tokens, out: &mut Tile) {
    let mut sums = [[_mm256_setzero_si256(); 2]; T];
    for (s, step) in panel[..n_steps].iter().enumerate() {
        let (codes, _) = step.0.as_chunks();
        let w = [load(&codes[0]), load(&codes[1])];
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: every token has four activations per step.
            let x = unsafe {
                x.first
                    .add(t * x.stride + 4 * s)
                    .cast::<i32>()
                    .read_unaligned()
            };
            let x = _mm256_set1_epi32(x);
            for (sum, w) in sums.iter_mut().zip(w) {
                *sum = _mm256_dpbusd_avx_epi32(*sum, w, x);
            }
        }
    }
    for ([out, _], sums) in out.iter_mut().zip(sums) {
        for (out, sum) in out.as_chunks_mut::<8>().0.iter_mut().zip(sums) {
            // SAFETY: eight i32 are writable; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), sum) };
        }
    }
}

/// Unpacks the words `word` of eight rows to their half of one step per group.
#[inline]
#[target_feature(enable = "avx2")]
fn store_groups(words: __m256i, word: usize, half: usize, steps: &mut [Step; I2_S_STEPS]) {
    let low_bits = _mm256_set1_epi8(3);
    let groups = [
        _mm256_srli_epi32::<6>(words),
        _mm256_srli_epi32::<4>(words),
        _mm256_srli_epi32::<2>(words),
        words,
    ];
    for (group, codes) in groups.into_iter().enumerate() {
        let step = &mut steps[8 * group + word].0[32 * half..][..32];
        // SAFETY: 32 bytes are writable; the store needs no alignment.
        unsafe {
            _mm256_storeu_si256(step.as_mut_ptr().cast(), _mm256_and_si256(codes, low_bits));
        }
    }
}

/// See [`Kernel::tq1_0_dots`](super::Kernel::tq1_0_dots).
#[target_feature(enable = "avx2,f16c,avxvnni")]
pub(super) fn tq1_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq1_0, { tq1_0::BLOCK_BYTES }>(weights, x, out) }
}

struct Tq1_0;

impl BlockDot<{ tq1_0::BLOCK_BYTES }> for Tq1_0 {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        tq1_0_token(weights, x, out);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn unpack(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        tq1_0_unpack(rows, steps);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn scales(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        sixteen_scales(rows)
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, STEPS, x, sums) }
    }
}

/// See [`Kernel::tq2_0_dots`](super::Kernel::tq2_0_dots).
#[target_feature(enable = "avx2,f16c,avxvnni")]
pub(super) fn tq2_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq2_0, { tq2_0::BLOCK_BYTES }>(weights, x, out) }
}

struct Tq2_0;

impl BlockDot<{ tq2_0::BLOCK_BYTES }> for Tq2_0 {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 8;

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        tq2_0_token(weights, x, out);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn unpack(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        tq2_0_unpack(rows, steps);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn scales(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        sixteen_scales(rows)
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avxvnni")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, STEPS, x, sums) }
    }
}
