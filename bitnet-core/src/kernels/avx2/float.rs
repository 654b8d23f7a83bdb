//! Dot products and weighted sums of floats.

use std::arch::x86_64::*;

use super::{LANES, Rows, add_up, load_f32};
use crate::kernels::{Float, portable};

/// An element type of the weights.
trait Load {
    const BYTES: usize;

    /// Eight elements, widened.
    ///
    /// # Safety
    /// `8 * BYTES` bytes from `data` are readable.
    unsafe fn load(data: *const u8) -> __m256;
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(data: *const u8) -> __m256 {
        // SAFETY: the caller's contract; the load needs no alignment.
        unsafe { _mm256_loadu_ps(data.cast()) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(data: *const u8) -> __m256 {
        // SAFETY: the caller's contract; the load needs no alignment.
        _mm256_cvtph_ps(unsafe { _mm_loadu_si128(data.cast()) })
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn load(data: *const u8) -> __m256 {
        // SAFETY: the caller's contract; the load needs no alignment.
        let half = unsafe { _mm_loadu_si128(data.cast()) };
        _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(half)))
    }
}

/// See [`Kernel::float_dots`](crate::kernels::Kernel::float_dots).
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn dots(ty: Float, weights: Rows, x: &[f32], out: &mut [f32]) {
    match ty {
        Float::F32 => dots_as::<F32>(weights, x, out),
        Float::F16 => dots_as::<F16>(weights, x, out),
        Float::Bf16 => dots_as::<Bf16>(weights, x, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
fn dots_as<L: Load>(weights: Rows, x: &[f32], out: &mut [f32]) {
    let columns = weights.columns;
    let n_tokens = x.len() / columns.max(1);
    assert!(out.len() >= n_tokens * weights.n);
    let mut r = 0;
    while r < weights.n {
        let mut t = 0;
        let rows = if n_tokens == 1 && weights.n - r >= 4 {
            4
        } else {
            1
        };
        while t < n_tokens {
            let x = &x[t * columns..];
            t += match (rows, n_tokens - t) {
                (4, _) => tile::<L, 4, 1>(weights, r, x, &mut out[t * weights.n + r..]),
                (_, 4..) => tile::<L, 1, 4>(weights, r, x, &mut out[t * weights.n + r..]),
                _ => tile::<L, 1, 1>(weights, r, x, &mut out[t * weights.n + r..]),
            };
        }
        r += rows;
    }
}

/// `R` rows from row `first` by `T` tokens; `out` is strided by `weights.n`. Returns `T`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn tile<L: Load, const R: usize, const T: usize>(
    weights: Rows,
    first: usize,
    x: &[f32],
    out: &mut [f32],
) -> usize {
    let columns = weights.columns;
    let whole = columns - columns % LANES;
    let rows: [&[u8]; R] = std::array::from_fn(|r| weights.row(first + r, columns * L::BYTES));
    let tokens: [&[f32]; T] = std::array::from_fn(|t| &x[t * columns..][..columns]);
    let mut low = [[_mm256_setzero_ps(); T]; R];
    let mut high = [[_mm256_setzero_ps(); T]; R];
    let mut c = 0;
    while c < whole {
        for r in 0..R {
            // SAFETY: every row has `columns * BYTES` bytes and `c + LANES <= columns`.
            let (w0, w1) = unsafe {
                let w = rows[r].as_ptr().add(c * L::BYTES);
                if T == 1 {
                    // The rows that come next: weights that are used once are limited by memory.
                    _mm_prefetch::<_MM_HINT_T0>(w.wrapping_add(R * weights.stride).cast());
                }
                (L::load(w), L::load(w.add(8 * L::BYTES)))
            };
            for t in 0..T {
                // SAFETY: every token has `columns` values and `c + LANES <= columns`.
                let (x0, x1) = unsafe {
                    let x = tokens[t].as_ptr().add(c);
                    (_mm256_loadu_ps(x), _mm256_loadu_ps(x.add(8)))
                };
                low[r][t] = _mm256_add_ps(low[r][t], _mm256_mul_ps(w0, x0));
                high[r][t] = _mm256_add_ps(high[r][t], _mm256_mul_ps(w1, x1));
            }
        }
        c += LANES;
    }
    if whole < columns {
        for r in 0..R {
            let mut w = [0u8; LANES * 4];
            let tail = &rows[r][whole * L::BYTES..];
            w[..tail.len()].copy_from_slice(tail);
            // SAFETY: `w` has room for `LANES` elements of any type.
            let (w0, w1) = unsafe { (L::load(w.as_ptr()), L::load(w.as_ptr().add(8 * L::BYTES))) };
            for t in 0..T {
                let mut x = [0f32; LANES];
                let tail = &tokens[t][whole..];
                x[..tail.len()].copy_from_slice(tail);
                let (x, _) = x.as_chunks::<8>();
                low[r][t] = _mm256_add_ps(low[r][t], _mm256_mul_ps(w0, load_f32(&x[0])));
                high[r][t] = _mm256_add_ps(high[r][t], _mm256_mul_ps(w1, load_f32(&x[1])));
            }
        }
    }
    for r in 0..R {
        for t in 0..T {
            out[t * weights.n + r] = add_up(_mm256_add_ps(low[r][t], high[r][t]));
        }
    }
    T
}

/// See [`Kernel::f16_weighted_sums`](crate::kernels::Kernel::f16_weighted_sums).
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn f16_weighted_sums(rows: Rows, p: &[f32], out: &mut [f32]) {
    for (p, out) in p
        .chunks_exact(rows.n)
        .zip(out.chunks_exact_mut(rows.columns))
    {
        let (wide, rest) = out.as_chunks_mut::<32>();
        let mut c = 0;
        for out in wide {
            sum_columns::<4>(rows, c, p, out);
            c += 32;
        }
        let (narrow, rest) = rest.as_chunks_mut::<8>();
        for out in narrow {
            sum_columns::<1>(rows, c, p, out);
            c += 8;
        }
        for out in rest {
            *out = portable::f16_weighted_column(rows, c, p);
            c += 1;
        }
    }
}

/// `8 * V` columns from column `c`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn sum_columns<const V: usize>(rows: Rows, c: usize, p: &[f32], out: &mut [f32]) {
    assert!(c + 8 * V <= rows.columns && out.len() >= 8 * V);
    let mut sums = [_mm256_setzero_ps(); V];
    for (r, &p) in p.iter().enumerate() {
        let row = rows.row(r, rows.columns * 2);
        let p = _mm256_set1_ps(p);
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the row has `columns` F16 and `c + 8 * V <= columns`.
            let v = unsafe { F16::load(row.as_ptr().add(2 * (c + 8 * i))) };
            *sum = _mm256_add_ps(*sum, _mm256_mul_ps(p, v));
        }
    }
    for (i, sum) in sums.into_iter().enumerate() {
        // SAFETY: `out` has `8 * V` values.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(8 * i), sum) };
    }
}
