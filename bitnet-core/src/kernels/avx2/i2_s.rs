//! Ternary by int8 dot products.

use std::arch::x86_64::*;

use super::{Rows, add_up_i32, load_bytes, load_codes};
use crate::quant::i2_s::{BLOCK, BLOCK_BYTES};

/// Blocks whose products are added in 16-bit lanes before they are widened.
///
/// A lane takes two products from each of the four groups of a block. Codes are at most 2 and activations within
/// -128..=127, so a block adds at least 4 * 2 * 2 * -128 = -2048 and at most 4 * 2 * 2 * 127 = 2032. Sixteen blocks
/// stay within -32768..=32512, which an i16 holds exactly; a seventeenth could wrap.
const FLUSH: usize = 16;

/// Tokens that share one unpacking of the weights: their accumulators fill the registers.
const TOKENS: usize = 8;

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
    let n_blocks = weights.columns / BLOCK;
    let tokens: [&[[i8; BLOCK]]; T] = std::array::from_fn(|t| {
        codes[t * weights.columns..][..weights.columns]
            .as_chunks()
            .0
    });
    out[..T * weights.n].fill(0);
    if T == 1 {
        // Reads the weights in the order of memory.
        for r in 0..weights.n {
            for first in (0..n_blocks).step_by(FLUSH) {
                chunk(weights, r, first, &tokens, out);
            }
        }
    } else {
        // Keeps one chunk of the activations in the first-level cache while the rows pass by.
        for first in (0..n_blocks).step_by(FLUSH) {
            for r in 0..weights.n {
                chunk(weights, r, first, &tokens, out);
            }
        }
    }
    T
}

/// Adds the products of up to [`FLUSH`] blocks of row `r` with every token to `out[t][r]`.
#[inline]
#[target_feature(enable = "avx2")]
fn chunk<const T: usize>(
    weights: Rows,
    r: usize,
    first: usize,
    tokens: &[&[[i8; BLOCK]]; T],
    out: &mut [i32],
) {
    let low_bits = _mm256_set1_epi8(3);
    let ones = _mm256_set1_epi16(1);
    let (row, _) = weights
        .row(r, weights.columns / 4)
        .as_chunks::<BLOCK_BYTES>();
    let n = FLUSH.min(row.len() - first);
    let row = &row[first..][..n];
    let tokens: [&[[i8; BLOCK]]; T] = std::array::from_fn(|t| &tokens[t][first..][..n]);
    let mut sums = [_mm256_setzero_si256(); T];
    for (b, packed) in row.iter().enumerate() {
        let w = load_bytes(packed);
        let w0 = _mm256_and_si256(_mm256_srli_epi16::<6>(w), low_bits);
        let w1 = _mm256_and_si256(_mm256_srli_epi16::<4>(w), low_bits);
        let w2 = _mm256_and_si256(_mm256_srli_epi16::<2>(w), low_bits);
        let w3 = _mm256_and_si256(w, low_bits);
        for t in 0..T {
            let (x, _) = tokens[t][b].as_chunks::<32>();
            let p0 = _mm256_maddubs_epi16(w0, load_codes(&x[0]));
            let p1 = _mm256_maddubs_epi16(w1, load_codes(&x[1]));
            let p2 = _mm256_maddubs_epi16(w2, load_codes(&x[2]));
            let p3 = _mm256_maddubs_epi16(w3, load_codes(&x[3]));
            let p = _mm256_add_epi16(_mm256_add_epi16(p0, p1), _mm256_add_epi16(p2, p3));
            sums[t] = _mm256_add_epi16(sums[t], p);
        }
    }
    for (t, sum) in sums.into_iter().enumerate() {
        out[t * weights.n + r] += add_up_i32(_mm256_madd_epi16(sum, ones));
    }
}
