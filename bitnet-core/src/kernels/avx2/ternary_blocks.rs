//! TQ1_0 and TQ2_0 dot products.

use std::arch::x86_64::*;

use super::load_bytes;
use crate::blocks::{tq1_0, tq2_0};
use crate::kernels::panels::{Panel, ROWS, Step, Tile, Tokens};
use crate::kernels::ternary_blocks::{
    self, BLOCK, BlockDot, STEPS, TQ1_0_WORDS, TQ1_0_WORTHS, tq1_0_steps, tq2_0_steps,
};
use crate::kernels::{PREFETCH, Q8K, Rows};

/// See [`Kernel::tq1_0_dots`](crate::kernels::Kernel::tq1_0_dots).
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn tq1_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq1_0, { tq1_0::BLOCK_BYTES }>(weights, x, out) }
}

/// See [`Kernel::tq2_0_dots`](crate::kernels::Kernel::tq2_0_dots).
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn tq2_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq2_0, { tq2_0::BLOCK_BYTES }>(weights, x, out) }
}

/// Rows of TQ1_0 by one token.
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn tq1_0_token(weights: Rows, x: Q8K, out: &mut [f32]) {
    let (worths, _) = TQ1_0_WORTHS.as_chunks::<16>();
    token(weights, x, out, |block: &[u8; tq1_0::BLOCK_BYTES], x| {
        let most = load_bytes(block.first_chunk().expect("a block is longer"));
        // SAFETY: 16 bytes are readable; the load needs no alignment.
        let some = unsafe { _mm_loadu_si128(block.as_ptr().add(32).cast()) };
        let few = i32::from_le_bytes([block[48], block[49], block[50], block[51]]);
        let some_twice = _mm256_set_m128i(some, some);
        let last = _mm256_set_m128i(_mm_set1_epi32(few), some);
        let bytes = [most, most, most, most, most, some_twice, some_twice, last];
        let mut sums = _mm256_setzero_si256();
        for ((bytes, worth), x) in bytes.into_iter().zip(worths).zip(x.as_chunks::<32>().0) {
            // SAFETY: 32 bytes are readable of each; no load needs alignment.
            let (worth, x) = unsafe {
                (
                    _mm256_loadu_si256(worth.as_ptr().cast()),
                    _mm256_loadu_si256(x.as_ptr().cast()),
                )
            };
            let digits = digits(bytes, worth);
            sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(digits, x));
        }
        sums
    });
}

/// Rows of TQ2_0 by one token.
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn tq2_0_token(weights: Rows, x: Q8K, out: &mut [f32]) {
    let low_bits = _mm256_set1_epi8(3);
    token(weights, x, out, |block: &[u8; tq2_0::BLOCK_BYTES], x| {
        let mut sums = _mm256_setzero_si256();
        let halves = block.as_chunks().0.iter().zip(x.as_chunks::<128>().0);
        for (packed, x) in halves {
            let w = load_bytes(packed);
            let groups = [
                w,
                _mm256_srli_epi16::<2>(w),
                _mm256_srli_epi16::<4>(w),
                _mm256_srli_epi16::<6>(w),
            ];
            for (w, x) in groups.into_iter().zip(x.as_chunks::<32>().0) {
                // SAFETY: 32 bytes are readable; the load needs no alignment.
                let x = unsafe { _mm256_loadu_si256(x.as_ptr().cast()) };
                let codes = _mm256_and_si256(w, low_bits);
                sums = _mm256_add_epi16(sums, _mm256_maddubs_epi16(codes, x));
            }
        }
        sums
    });
}

/// Blocks that are added up together.
const BLOCKS: usize = 4;

/// All rows by one token. `lanes` are the sums of a block in 16 bits, still to be added up: a lane has at most
/// 16 * 3 * 128.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn token<const BYTES: usize>(
    weights: Rows,
    x: Q8K,
    out: &mut [f32],
    lanes: impl Fn(&[u8; BYTES], &[i8; BLOCK]) -> __m256i,
) {
    let n_blocks = weights.columns / BLOCK;
    let (codes, _) = x.codes.as_chunks::<BLOCK>();
    let ones = _mm256_set1_epi16(1);
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let (row, _) = weights.row(r, n_blocks * BYTES).as_chunks::<BYTES>();
        *out = 0.0;
        for first in (0..n_blocks).step_by(BLOCKS) {
            let n = BLOCKS.min(n_blocks - first);
            let mut four = [_mm256_setzero_si256(); BLOCKS];
            let mut scales = [0u16; 8];
            let (mut x_scales, mut x_sums) = ([0f32; BLOCKS], [0i32; BLOCKS]);
            for (i, (four, block)) in four.iter_mut().zip(&row[first..][..n]).enumerate() {
                // A prefetch may name any address.
                _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(PREFETCH).cast());
                *four = _mm256_madd_epi16(lanes(block, &codes[first + i]), ones);
                scales[i] = u16::from_le_bytes([block[BYTES - 2], block[BYTES - 1]]);
                x_scales[i] = x.scales[first + i];
                x_sums[i] = x.sums[first + i];
            }
            let [a, b, c, d] = four;
            let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let sums = _mm_add_epi32(
                _mm256_castsi256_si128(sums),
                _mm256_extracti128_si256::<1>(sums),
            );
            // SAFETY: four scales and sums are readable, and eight halves; no load needs alignment.
            let products: [f32; BLOCKS] = unsafe {
                let x_sums = _mm_loadu_si128(x_sums.as_ptr().cast());
                let scales = _mm_cvtph_ps(_mm_loadu_si128(scales.as_ptr().cast()));
                let scales = _mm_mul_ps(_mm_loadu_ps(x_scales.as_ptr()), scales);
                let sums = _mm_cvtepi32_ps(_mm_sub_epi32(sums, x_sums));
                std::mem::transmute(_mm_mul_ps(scales, sums))
            };
            products[..n].iter().for_each(|product| *out += product);
        }
    }
}

/// Unpacks one block of TQ1_0 of each row. See [`BlockDot::unpack`].
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn tq1_0_unpack(
    rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS],
    steps: &mut [Step; STEPS],
) {
    let [one, two] = [86, 171].map(|least: u8| _mm256_set1_epi8(least as i8));
    let padded = rows.map(|row| {
        let mut padded = [0; 64];
        padded[..tq1_0::BLOCK_BYTES].copy_from_slice(row);
        padded
    });
    let words =
        (0..2).flat_map(|half| transpose(padded.each_ref().map(|row| &row.as_chunks().0[half])));
    for (word, packed) in words.take(TQ1_0_WORDS).enumerate() {
        let (first, apart, digits) = tq1_0_steps(word);
        for (half, mut rest) in packed.into_iter().enumerate() {
            for digit in 0..digits {
                // Three times a byte carries 1 from 86 on, and 2 from 171. A comparison that holds is -1.
                let [one, two] =
                    [one, two].map(|least| _mm256_cmpeq_epi8(_mm256_max_epu8(rest, least), rest));
                let code = _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(one, two));
                store(code, half, &mut steps[first + apart * digit]);
                rest = _mm256_add_epi8(rest, _mm256_add_epi8(rest, rest));
            }
        }
    }
}

/// Unpacks one block of TQ2_0 of each row. See [`BlockDot::unpack`].
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn tq2_0_unpack(
    rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS],
    steps: &mut [Step; STEPS],
) {
    let low_bits = _mm256_set1_epi8(3);
    let words = (0..2).flat_map(|half| transpose(rows.map(|row| &row.as_chunks().0[half])));
    for (word, packed) in words.enumerate() {
        for (half, packed) in packed.into_iter().enumerate() {
            let groups = [
                packed,
                _mm256_srli_epi16::<2>(packed),
                _mm256_srli_epi16::<4>(packed),
                _mm256_srli_epi16::<6>(packed),
            ];
            for (codes, step) in groups.into_iter().zip(tq2_0_steps(word)) {
                store(_mm256_and_si256(codes, low_bits), half, &mut steps[step]);
            }
        }
    }
}

/// Word `i` of every row, for every `i`: of rows 0 to 7, and of the others.
#[inline]
#[target_feature(enable = "avx2")]
fn transpose(rows: [&[u8; 32]; ROWS]) -> [[__m256i; 2]; 8] {
    // Words `i` and `i + 4` of four rows.
    let fours = |first: usize| {
        let [a, b, c, d] = [0, 1, 2, 3].map(|r| load_bytes(rows[first + r]));
        let low = [_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d)];
        let high = [_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d)];
        [
            _mm256_unpacklo_epi64(low[0], low[1]),
            _mm256_unpackhi_epi64(low[0], low[1]),
            _mm256_unpacklo_epi64(high[0], high[1]),
            _mm256_unpackhi_epi64(high[0], high[1]),
        ]
    };
    let mut words = [[_mm256_setzero_si256(); 2]; 8];
    for half in 0..2 {
        let (top, bottom) = (fours(8 * half), fours(8 * half + 4));
        for i in 0..4 {
            words[i][half] = _mm256_permute2x128_si256::<0x20>(top[i], bottom[i]);
            words[i + 4][half] = _mm256_permute2x128_si256::<0x31>(top[i], bottom[i]);
        }
    }
    words
}

/// A digit of each byte: the one that bytes times `worth`, per pair of bytes, have first.
#[inline]
#[target_feature(enable = "avx2")]
fn digits(bytes: __m256i, worth: __m256i) -> __m256i {
    let three = _mm256_set1_epi16(3);
    // In the high byte of a lane, what is above a byte falls away, and the digit comes out above the lane.
    let digit = |byte| _mm256_mulhi_epu16(_mm256_mullo_epi16(byte, worth), three);
    let even = digit(_mm256_slli_epi16::<8>(bytes));
    let odd = digit(_mm256_and_si256(
        bytes,
        _mm256_set1_epi16(0xff00_u16 as i16),
    ));
    _mm256_or_si256(even, _mm256_slli_epi16::<8>(odd))
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(codes: __m256i, half: usize, step: &mut Step) {
    let (halves, _) = step.0.as_chunks_mut::<32>();
    // SAFETY: 32 bytes are writable; the store needs no alignment.
    unsafe { _mm256_storeu_si256(halves[half].as_mut_ptr().cast(), codes) };
}

struct Tq1_0;

impl BlockDot<{ tq1_0::BLOCK_BYTES }> for Tq1_0 {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        tq1_0_token(weights, x, out);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn unpack(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        tq1_0_unpack(rows, steps);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, x, sums) }
    }
}

struct Tq2_0;

impl BlockDot<{ tq2_0::BLOCK_BYTES }> for Tq2_0 {
    const PANELS: usize = 1;
    const TOKENS: usize = 6;
    const FEW: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        tq2_0_token(weights, x, out);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn unpack(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        tq2_0_unpack(rows, steps);
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, x, sums) }
    }
}

/// # Safety
/// As [`BlockDot::multiply`].
#[target_feature(enable = "avx2")]
unsafe fn by_tokens(panels: &[Panel], x: Tokens, sums: &mut Tile) {
    for panel in panels {
        // SAFETY: the caller's contract.
        unsafe {
            match x.n {
                1 => tile::<1>(panel, x, sums),
                2 => tile::<2>(panel, x, sums),
                3 => tile::<3>(panel, x, sums),
                4 => tile::<4>(panel, x, sums),
                5 => tile::<5>(panel, x, sums),
                6 => tile::<6>(panel, x, sums),
                _ => unreachable!("at most `TOKENS`"),
            }
        }
    }
}

/// Steps whose products are added in 16-bit lanes before they are widened: a lane takes two products of each, at most
/// 2 * 3 * 128.
const FLUSH: usize = 32;

/// # Safety
/// As [`BlockDot::multiply`], with `T` tokens.
#[target_feature(enable = "avx2")]
unsafe fn tile<const T: usize>(panel: &Panel, x: Tokens, out: &mut Tile) {
    const { assert!(STEPS.is_multiple_of(FLUSH) && FLUSH * 2 * 3 * 128 <= i16::MAX as usize) };
    let ones = _mm256_set1_epi16(1);
    let mut totals = [[_mm256_setzero_si256(); 2]; T];
    for first in (0..STEPS).step_by(FLUSH) {
        let mut sums = [[_mm256_setzero_si256(); 2]; T];
        for (s, step) in (first..).zip(&panel[first..][..FLUSH]) {
            let (codes, _) = step.0.as_chunks();
            let w = [load_bytes(&codes[0]), load_bytes(&codes[1])];
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
                    *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(w, x));
                }
            }
        }
        for (totals, sums) in totals.iter_mut().zip(sums) {
            for (total, sum) in totals.iter_mut().zip(sums) {
                *total = _mm256_add_epi32(*total, _mm256_madd_epi16(sum, ones));
            }
        }
    }
    for ([out, _], totals) in out.iter_mut().zip(totals) {
        for (out, total) in out.as_chunks_mut::<8>().0.iter_mut().zip(totals) {
            // SAFETY: eight i32 are writable; the store needs no alignment.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), total) };
        }
    }
}
