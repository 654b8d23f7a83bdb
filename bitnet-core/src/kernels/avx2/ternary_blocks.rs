//! TQ1_0 and TQ2_0 dot products.

use std::arch::x86_64::*;

use super::{add_up_i32, load_bytes};
use crate::blocks::{last_scale, tq1_0, tq2_0};
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
        for ((&bytes, worth), x) in bytes.iter().zip(worths).zip(x.as_chunks::<32>().0) {
            // SAFETY: 32 bytes are readable of each; no load needs alignment.
            let (worth, x) = unsafe {
                (
                    _mm256_loadu_si256(worth.as_ptr().cast()),
                    _mm256_loadu_si256(x.as_ptr().cast()),
                )
            };
            let digits = first_digits(multiply(bytes, worth));
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
            for (&w, x) in groups.iter().zip(x.as_chunks::<32>().0) {
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
    let ones = _mm256_set1_epi16(1);
    let (codes, rest_of_codes) = x.codes.as_chunks::<BLOCK>().0.as_chunks::<BLOCKS>();
    let (scales, rest_of_scales) = x.scales.as_chunks::<BLOCKS>();
    let (sums, rest_of_sums) = x.sums.as_chunks::<BLOCKS>();
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let row = weights.row(r, n_blocks * BYTES).as_chunks::<BYTES>().0;
        let (fours, rest) = row.as_chunks::<BLOCKS>();
        let mut total = 0f32;
        for (((blocks, codes), scales), sums) in fours.iter().zip(codes).zip(scales).zip(sums) {
            let mut four = [_mm256_setzero_si256(); BLOCKS];
            for ((four, block), x) in four.iter_mut().zip(blocks).zip(codes) {
                // A prefetch may name any address.
                _mm_prefetch::<_MM_HINT_T0>(block.as_ptr().wrapping_add(PREFETCH).cast());
                *four = _mm256_madd_epi16(lanes(block, x), ones);
            }
            let [a, b, c, d] = four;
            let four = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
            let four = _mm_add_epi32(
                _mm256_castsi256_si128(four),
                _mm256_extracti128_si256::<1>(four),
            );
            // SAFETY: four scales and sums are readable; no load needs alignment.
            let products = unsafe {
                let d = _mm_mul_ps(
                    _mm_loadu_ps(scales.as_ptr()),
                    last_scales(blocks.each_ref()),
                );
                let sums = _mm_sub_epi32(four, _mm_loadu_si128(sums.as_ptr().cast()));
                _mm_mul_ps(d, _mm_cvtepi32_ps(sums))
            };
            total = add_in_order(total, products);
        }
        let x = rest_of_codes.iter().zip(rest_of_scales).zip(rest_of_sums);
        for (block, ((x, x_scale), x_sum)) in rest.iter().zip(x) {
            let sum = add_up_i32(_mm256_madd_epi16(lanes(block, x), ones)) - x_sum;
            total += x_scale * last_scale(block) * sum as f32;
        }
        *out = total;
    }
}

/// The scales at the ends of four blocks.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn last_scales<const BYTES: usize>(
    blocks: [&[u8; BYTES]; BLOCKS],
) -> __m128 {
    let [a, b, c, d] = blocks.map(|block| i16::from_le_bytes([block[BYTES - 2], block[BYTES - 1]]));
    _mm_cvtph_ps(_mm_setr_epi16(a, b, c, d, 0, 0, 0, 0))
}

/// See [`BlockDot::scales`].
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn sixteen_scales<const BYTES: usize>(
    rows: [&[u8; BYTES]; ROWS],
) -> [f32; ROWS] {
    let mut scales = [0.0; ROWS];
    let fours = scales.as_chunks_mut::<BLOCKS>().0.iter_mut();
    for (scales, rows) in fours.zip(rows.as_chunks().0) {
        // SAFETY: four floats are writable; the store needs no alignment.
        unsafe { _mm_storeu_ps(scales.as_mut_ptr(), last_scales(*rows)) };
    }
    scales
}

/// `sum` and then each of the four.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn add_in_order(sum: f32, v: __m128) -> f32 {
    let sum = _mm_add_ss(_mm_set_ss(sum), v);
    let sum = _mm_add_ss(sum, _mm_movehdup_ps(v));
    let high = _mm_movehl_ps(v, v);
    let sum = _mm_add_ss(sum, high);
    _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(high)))
}

/// Unpacks one block of TQ1_0 of each row. See [`BlockDot::unpack`].
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn tq1_0_unpack(
    rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS],
    steps: &mut [Step; STEPS],
) {
    let mut padded = [[0; 64]; ROWS];
    for (padded, row) in padded.iter_mut().zip(rows) {
        padded[..tq1_0::BLOCK_BYTES].copy_from_slice(row);
    }
    for half in 0..2 {
        let words = transpose(padded.each_ref().map(|row| &row.as_chunks().0[half]));
        let n = words.len().min(TQ1_0_WORDS - 8 * half);
        for (word, packed) in words[..n].iter().enumerate() {
            let (first, apart, digits) = tq1_0_steps(8 * half + word);
            for (side, &packed) in packed.iter().enumerate() {
                let mut rest = packed;
                for digit in 0..digits {
                    store(first_digits(rest), side, &mut steps[first + apart * digit]);
                    rest = _mm256_add_epi8(rest, _mm256_add_epi8(rest, rest));
                }
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
    for half in 0..2 {
        let words = transpose(rows.map(|row| &row.as_chunks().0[half]));
        for (word, packed) in words.iter().enumerate() {
            for (side, &packed) in packed.iter().enumerate() {
                let groups = [
                    packed,
                    _mm256_srli_epi16::<2>(packed),
                    _mm256_srli_epi16::<4>(packed),
                    _mm256_srli_epi16::<6>(packed),
                ];
                for (&codes, step) in groups.iter().zip(&tq2_0_steps(8 * half + word)) {
                    store(_mm256_and_si256(codes, low_bits), side, &mut steps[*step]);
                }
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
    let sides = [0, 8].map(|first| (fours(first), fours(first + 4)));
    for (side, (top, bottom)) in sides.iter().enumerate() {
        for i in 0..4 {
            words[i][side] = _mm256_permute2x128_si256::<0x20>(top[i], bottom[i]);
            words[i + 4][side] = _mm256_permute2x128_si256::<0x31>(top[i], bottom[i]);
        }
    }
    words
}

/// Bytes times `worth`, per pair of bytes: what is above a byte falls away.
#[inline]
#[target_feature(enable = "avx2")]
fn multiply(bytes: __m256i, worth: __m256i) -> __m256i {
    let high = _mm256_set1_epi16(0xff00_u16 as i16);
    let even = _mm256_mullo_epi16(bytes, worth);
    let odd = _mm256_mullo_epi16(_mm256_and_si256(bytes, high), worth);
    _mm256_or_si256(_mm256_andnot_si256(high, even), odd)
}

/// What three times each byte carries: 1 from 86 on, 2 from 171.
#[inline]
#[target_feature(enable = "avx2")]
fn first_digits(bytes: __m256i) -> __m256i {
    let one = _mm256_set1_epi8(1);
    let carry =
        |below: u8| _mm256_min_epu8(_mm256_subs_epu8(bytes, _mm256_set1_epi8(below as i8)), one);
    _mm256_add_epi8(carry(85), carry(170))
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(codes: __m256i, side: usize, step: &mut Step) {
    let (sides, _) = step.0.as_chunks_mut::<32>();
    // SAFETY: 32 bytes are writable; the store needs no alignment.
    unsafe { _mm256_storeu_si256(sides[side].as_mut_ptr().cast(), codes) };
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
    unsafe fn scales(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        sixteen_scales(rows)
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
    const FEW: usize = 8;

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
    unsafe fn scales(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        sixteen_scales(rows)
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
