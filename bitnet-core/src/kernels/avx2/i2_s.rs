//! Ternary by int8 dot products.

use std::arch::x86_64::*;

use super::{Rows, add_up_i32};
use crate::blocks::i2_s::{BLOCK, BLOCK_BYTES};
use crate::kernels::PREFETCH;

/// Blocks whose products are added in 16-bit lanes before they are widened.
///
/// A lane takes two products from each of the four groups of a block. Codes are at most 3 and activations within
/// -128..=127, so a block adds at least 4 * 2 * 3 * -128 = -3072. Ten blocks stay within an i16; an eleventh could
/// wrap.
const FLUSH: usize = 10;

/// Tokens that share one unpacking of the weights: their accumulators fill the registers.
const TOKENS: usize = 8;

/// See [`Kernel::i2_s_dots`](crate::kernels::Kernel::i2_s_dots).
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    let columns = weights.columns;
    assert_eq!(columns % BLOCK, 0);
    let n_tokens = codes.len() / columns.max(1);
    assert!(out.len() >= n_tokens * weights.n);
    if n_tokens == 1 {
        return token(weights, codes, out);
    }
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

/// All rows by one token, in the order of memory.
#[target_feature(enable = "avx2")]
fn token(weights: Rows, x: &[i8], out: &mut [i32]) {
    let out = &mut out[..weights.n];
    let (fours, rest) = out.as_chunks_mut::<4>();
    let n_fours = fours.len();
    for (i, out) in fours.iter_mut().enumerate() {
        let mut sums = [_mm256_setzero_si256(); 4];
        for (r, sum) in sums.iter_mut().enumerate() {
            *sum = token_row(weights, 4 * i + r, x);
        }
        let [a, b, c, d] = sums;
        let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let sums = _mm_add_epi32(
            _mm256_castsi256_si128(sums),
            _mm256_extracti128_si256::<1>(sums),
        );
        // SAFETY: four i32 are writable; the store needs no alignment.
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
    }
    for (r, out) in rest.iter_mut().enumerate() {
        *out = add_up_i32(token_row(weights, 4 * n_fours + r, x));
    }
}

/// One row by one token, in eight sums.
#[inline]
#[target_feature(enable = "avx2")]
fn token_row(weights: Rows, r: usize, x: &[i8]) -> __m256i {
    let n_blocks = weights.columns / BLOCK;
    assert!(x.len() >= weights.columns);
    let row = weights.row(r, weights.columns / 4).as_ptr();
    let ones = _mm256_set1_epi16(1);
    let mut total = _mm256_setzero_si256();
    let mut b = 0;
    while b < n_blocks {
        let end = n_blocks.min(b + FLUSH);
        let mut sums = _mm256_setzero_si256();
        while b < end {
            // SAFETY: the row has `n_blocks` blocks, and so has `x`; no load needs alignment, and a prefetch may name
            // any address.
            unsafe {
                let packed = row.add(b * BLOCK_BYTES);
                _mm_prefetch::<_MM_HINT_T0>(packed.wrapping_add(PREFETCH).cast());
                sums = add_block(sums, unpack(packed), x.as_ptr().add(b * BLOCK));
            }
            b += 1;
        }
        total = _mm256_add_epi32(total, _mm256_madd_epi16(sums, ones));
    }
    total
}

/// All rows by `T` tokens; returns `T`.
#[inline]
#[target_feature(enable = "avx2")]
fn tile<const T: usize>(weights: Rows, codes: &[i8], out: &mut [i32]) -> usize {
    let columns = weights.columns;
    let (n_blocks, n_rows) = (columns / BLOCK, weights.n);
    assert!(codes.len() >= T * columns && out.len() >= T * n_rows);
    out[..T * n_rows].fill(0);
    let ones = _mm256_set1_epi16(1);
    // One chunk of the activations stays in the first-level cache while the rows pass by.
    for first in (0..n_blocks).step_by(FLUSH) {
        let n = FLUSH.min(n_blocks - first);
        for r in 0..n_rows {
            let row = weights.row(r, columns / 4);
            let mut sums = [_mm256_setzero_si256(); T];
            // SAFETY: `row` has `n_blocks` blocks and `codes` has `T` rows of as many, of which `first + n` is
            // within.
            unsafe {
                let row = row.as_ptr().add(first * BLOCK_BYTES);
                let x = codes.as_ptr().add(first * BLOCK);
                add_products(row, x, columns, n, &mut sums);
            }
            for (t, sum) in sums.into_iter().enumerate() {
                out[t * n_rows + r] += add_up_i32(_mm256_madd_epi16(sum, ones));
            }
        }
    }
    T
}

/// The four groups of 32 codes of a packed block.
///
/// # Safety
/// A block is readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn unpack(packed: *const u8) -> [__m256i; 4] {
    // SAFETY: the caller's contract; the load needs no alignment.
    let w = unsafe { _mm256_loadu_si256(packed.cast()) };
    let low_bits = _mm256_set1_epi8(3);
    [
        _mm256_and_si256(_mm256_srli_epi16::<6>(w), low_bits),
        _mm256_and_si256(_mm256_srli_epi16::<4>(w), low_bits),
        _mm256_and_si256(_mm256_srli_epi16::<2>(w), low_bits),
        _mm256_and_si256(w, low_bits),
    ]
}

/// `sum` and the products of a block of codes with activations, in 16-bit lanes.
///
/// # Safety
/// A block of activations is readable.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_block(sum: __m256i, w: [__m256i; 4], x: *const i8) -> __m256i {
    // SAFETY: the caller's contract; the loads need no alignment.
    let [p0, p1, p2, p3] = unsafe {
        let x = x.cast::<__m256i>();
        [
            _mm256_maddubs_epi16(w[0], _mm256_loadu_si256(x)),
            _mm256_maddubs_epi16(w[1], _mm256_loadu_si256(x.add(1))),
            _mm256_maddubs_epi16(w[2], _mm256_loadu_si256(x.add(2))),
            _mm256_maddubs_epi16(w[3], _mm256_loadu_si256(x.add(3))),
        ]
    };
    let p = _mm256_add_epi16(_mm256_add_epi16(p0, p1), _mm256_add_epi16(p2, p3));
    _mm256_add_epi16(sum, p)
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
    for b in 0..n {
        // SAFETY: the caller's contract; no load needs alignment.
        unsafe {
            let w = unpack(row.add(b * BLOCK_BYTES));
            for (t, sum) in sums.iter_mut().enumerate() {
                *sum = add_block(*sum, w, x.add(t * columns + b * BLOCK));
            }
        }
    }
}
