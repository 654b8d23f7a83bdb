//! Ternary by int8 dot products.

use std::arch::x86_64::*;

use super::{Rows, add_up_i32};
use crate::quant::i2_s::{BLOCK, BLOCK_BYTES};

/// Blocks whose products are added in 16-bit lanes before they are widened.
///
/// A lane takes two products from each of the four groups of a block. Codes are at most 2 and activations within
/// -128..=127, so a block adds at least 4 * 2 * 2 * -128 = -2048 and at most 4 * 2 * 2 * 127 = 2032. Sixteen blocks
/// stay within -32768..=32512, which an i16 holds exactly; a seventeenth could wrap.
const FLUSH: usize = 16;

/// Tokens that share one unpacking of the weights: their accumulators fill the registers.
const TOKENS: usize = 8;

/// How far ahead weights that are used once are fetched, bytes: reading them is limited by memory.
const PREFETCH: usize = 4096;

/// See [`Kernel::i2_s_dots`](crate::kernels::Kernel::i2_s_dots).
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    let columns = weights.columns;
    assert_eq!(columns % BLOCK, 0);
    let n_tokens = codes.len() / columns.max(1);
    assert!(out.len() >= n_tokens * weights.n);
    let mut t = 0;
    while t < n_tokens {
        let x = &codes[t * columns..];
        let out = &mut out[t * weights.n..];
        t += match n_tokens - t {
            TOKENS.. => tile::<TOKENS>(weights, x, out),
            4.. => tile::<4>(weights, x, out),
            2.. => tile::<2>(weights, x, out),
            _ => tile::<1>(weights, x, out),
        };
    }
}

/// All rows by `T` tokens; returns `T`.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const T: usize>(weights: Rows, codes: &[i8], out: &mut [i32]) -> usize {
    let columns = weights.columns;
    let (n_blocks, n_rows) = (columns / BLOCK, weights.n);
    assert!(codes.len() >= T * columns && out.len() >= T * n_rows);
    out[..T * n_rows].fill(0);
    // One token: the weights are read in the order of memory. Several: one chunk of the activations stays in the
    // first-level cache while the rows pass by.
    let span = if T == 1 { n_blocks } else { FLUSH };
    for start in (0..n_blocks).step_by(span) {
        for r in 0..n_rows {
            let row = weights.row(r, columns / 4);
            for first in (start..n_blocks.min(start + span)).step_by(FLUSH) {
                let n = FLUSH.min(n_blocks - first);
                let mut sums = [_mm256_setzero_si256(); T];
                // SAFETY: `row` has `n_blocks` blocks and `codes` has `T` rows of as many, of which `first + n` is
                // within.
                unsafe {
                    let row = row.as_ptr().add(first * BLOCK_BYTES);
                    let x = codes.as_ptr().add(first * BLOCK);
                    add_products(row, x, columns, n, &mut sums);
                }
                let ones = _mm256_set1_epi16(1);
                for (t, sum) in sums.into_iter().enumerate() {
                    out[t * n_rows + r] += add_up_i32(_mm256_madd_epi16(sum, ones));
                }
            }
        }
    }
    T
}

/// Adds the products of `n` blocks with every token in 16-bit lanes; `n` is at most [`FLUSH`].
///
/// # Safety
/// `n` blocks from `row`, and as many of activations from each of `x + t * columns`, are readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_products<const T: usize>(
    row: *const u8,
    x: *const i8,
    columns: usize,
    n: usize,
    sums: &mut [__m256i; T],
) {
    let low_bits = _mm256_set1_epi8(3);
    for b in 0..n {
        // SAFETY: the caller's contract; no load needs alignment.
        unsafe {
            if T == 1 {
                _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(b * BLOCK_BYTES + PREFETCH).cast());
            }
            let w = _mm256_loadu_si256(row.add(b * BLOCK_BYTES).cast());
            let w0 = _mm256_and_si256(_mm256_srli_epi16::<6>(w), low_bits);
            let w1 = _mm256_and_si256(_mm256_srli_epi16::<4>(w), low_bits);
            let w2 = _mm256_and_si256(_mm256_srli_epi16::<2>(w), low_bits);
            let w3 = _mm256_and_si256(w, low_bits);
            for (t, sum) in sums.iter_mut().enumerate() {
                let x = x.add(t * columns + b * BLOCK).cast::<__m256i>();
                let p0 = _mm256_maddubs_epi16(w0, _mm256_loadu_si256(x));
                let p1 = _mm256_maddubs_epi16(w1, _mm256_loadu_si256(x.add(1)));
                let p2 = _mm256_maddubs_epi16(w2, _mm256_loadu_si256(x.add(2)));
                let p3 = _mm256_maddubs_epi16(w3, _mm256_loadu_si256(x.add(3)));
                let p = _mm256_add_epi16(_mm256_add_epi16(p0, p1), _mm256_add_epi16(p2, p3));
                *sum = _mm256_add_epi16(*sum, p);
            }
        }
    }
}
