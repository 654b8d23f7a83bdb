//! Dot products and weighted sums of floats; a register holds all [`LANES`](super::LANES) partial sums.

use std::arch::x86_64::*;

use super::{LANES, Rows, add_up};
use crate::kernels::{Float, PREFETCH, portable};

/// Rows of so many bytes are read from memory, shorter ones (of the KV cache) mostly from caches.
const LONG: usize = 1024;

/// An element type of the weights.
trait Load {
    const BYTES: usize;

    /// Sixteen elements, widened.
    ///
    /// # Safety
    /// `16 * BYTES` bytes from `data` are readable.
    unsafe fn load(data: *const u8) -> __m512;
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(data: *const u8) -> __m512 {
        // SAFETY: the caller's contract; the load needs no alignment.
        unsafe { _mm512_loadu_ps(data.cast()) }
    }
}

impl Load for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(data: *const u8) -> __m512 {
        // SAFETY: the caller's contract; the load needs no alignment.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(data.cast()) })
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load(data: *const u8) -> __m512 {
        // SAFETY: the caller's contract; the load needs no alignment.
        let half = unsafe { _mm256_loadu_si256(data.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(half)))
    }
}

/// See [`Kernel::float_dots`](crate::kernels::Kernel::float_dots).
#[target_feature(enable = "avx2,avx512f")]
pub(in crate::kernels) fn dots(ty: Float, weights: Rows, x: &[f32], out: &mut [f32]) {
    match ty {
        Float::F32 => dots_as::<F32>(weights, x, out),
        Float::F16 => dots_as::<F16>(weights, x, out),
        Float::Bf16 => dots_as::<Bf16>(weights, x, out),
    }
}

#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn dots_as<L: Load>(weights: Rows, x: &[f32], out: &mut [f32]) {
    let columns = weights.columns;
    let n_tokens = x.len() / columns.max(1);
    assert!(out.len() >= n_tokens * weights.n);
    let mut r = 0;
    while r < weights.n {
        let mut t = 0;
        // Long rows that are used once come faster from memory one after the other.
        let alone = n_tokens == 1 && columns * L::BYTES >= LONG;
        let rows = if weights.n - r >= 4 && !alone { 4 } else { 1 };
        while t < n_tokens {
            let x = &x[t * columns..];
            let out = &mut out[t * weights.n + r..];
            t += match (rows, n_tokens - t) {
                (4, 4..) => tile::<L, 4, 4>(weights, r, x, out),
                (4, _) => tile::<L, 4, 1>(weights, r, x, out),
                (_, 4..) => tile::<L, 1, 4>(weights, r, x, out),
                _ => tile::<L, 1, 1>(weights, r, x, out),
            };
        }
        r += rows;
    }
}

/// `R` rows from row `first` by `T` tokens; `out` is strided by `weights.n`. Returns `T`.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
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
    let mut sums = [[_mm512_setzero_ps(); T]; R];
    let mut c = 0;
    while c < whole {
        let mut v = [_mm512_setzero_ps(); T];
        for t in 0..T {
            // SAFETY: every token has `columns` values and `c + LANES <= columns`.
            v[t] = unsafe { _mm512_loadu_ps(tokens[t].as_ptr().add(c)) };
        }
        for r in 0..R {
            // SAFETY: every row has `columns * BYTES` bytes and `c + LANES <= columns`; a prefetch may name any
            // address.
            let w = unsafe {
                let w = rows[r].as_ptr().add(c * L::BYTES);
                if R == 1 {
                    _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(PREFETCH).cast());
                }
                L::load(w)
            };
            for t in 0..T {
                sums[r][t] = _mm512_add_ps(sums[r][t], _mm512_mul_ps(w, v[t]));
            }
        }
        c += LANES;
    }
    if whole < columns {
        let n = columns - whole;
        let mask = (1u16 << n) - 1;
        for r in 0..R {
            let mut w = [0u8; LANES * 4];
            w[..n * L::BYTES].copy_from_slice(&rows[r][whole * L::BYTES..]);
            // SAFETY: `w` has room for `LANES` elements of any type.
            let w = unsafe { L::load(w.as_ptr()) };
            for t in 0..T {
                // SAFETY: `n` values are left; the others are not read.
                let x = unsafe { _mm512_maskz_loadu_ps(mask, tokens[t].as_ptr().add(whole)) };
                sums[r][t] = _mm512_add_ps(sums[r][t], _mm512_mul_ps(w, x));
            }
        }
    }
    if let Some(sums) = sums.as_flattened().first_chunk() {
        // Sixteen are four rows by four tokens.
        for (t, sums) in add_up_all(sums).into_iter().enumerate() {
            let out = &mut out[t * weights.n..][..4];
            // SAFETY: four f32 are writable; the store needs no alignment.
            unsafe { _mm_storeu_ps(out.as_mut_ptr(), sums) };
        }
        return T;
    }
    for r in 0..R {
        for t in 0..T {
            out[t * weights.n + r] = add_up(sums[r][t]);
        }
    }
    T
}

/// Every register's [`add_up`]: those of registers `t`, `4 + t`, `8 + t` and `12 + t` together.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_up_all(v: &[__m512; 16]) -> [__m128; 4] {
    // Lanes by quarters: the first with the third, the second with the fourth.
    let halves = |a, b| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
            _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
        )
    };
    // Then the two that are left, so that a quarter is a register of four.
    let quarters = |ab, cd| {
        _mm512_add_ps(
            _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
            _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
        )
    };
    let mut fours = [_mm512_setzero_ps(); 4];
    for (four, v) in fours.iter_mut().zip(v.as_chunks::<4>().0) {
        *four = quarters(halves(v[0], v[1]), halves(v[2], v[3]));
    }
    let pairs = |a, b| {
        let (a, b) = (_mm512_castps_pd(a), _mm512_castps_pd(b));
        _mm512_add_ps(
            _mm512_castpd_ps(_mm512_unpacklo_pd(a, b)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(a, b)),
        )
    };
    let (low, high) = (pairs(fours[0], fours[1]), pairs(fours[2], fours[3]));
    let sums = _mm512_add_ps(
        _mm512_shuffle_ps::<0b10_00_10_00>(low, high),
        _mm512_shuffle_ps::<0b11_01_11_01>(low, high),
    );
    [
        _mm512_extractf32x4_ps::<0>(sums),
        _mm512_extractf32x4_ps::<1>(sums),
        _mm512_extractf32x4_ps::<2>(sums),
        _mm512_extractf32x4_ps::<3>(sums),
    ]
}

/// See [`Kernel::f16_weighted_sums`](crate::kernels::Kernel::f16_weighted_sums).
#[target_feature(enable = "avx2,avx512f")]
pub(in crate::kernels) fn f16_weighted_sums(rows: Rows, p: &[f32], out: &mut [f32]) {
    let (n, columns) = (rows.n, rows.columns);
    let mut t = 0;
    let n_tokens = out.len() / columns.max(1);
    while t < n_tokens {
        let (p, out) = (&p[t * n..], &mut out[t * columns..]);
        t += match n_tokens - t {
            4.. => weighted_sums::<4, 4>(rows, p, out),
            _ => weighted_sums::<1, 8>(rows, p, out),
        };
    }
}

/// Of `T` tokens, `16 * V` columns at a time. Returns `T`.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn weighted_sums<const T: usize, const V: usize>(rows: Rows, p: &[f32], out: &mut [f32]) -> usize {
    let columns = rows.columns;
    let mut c = 0;
    while columns - c >= 16 * V {
        sum_columns::<T, V>(rows, c, p, out);
        c += 16 * V;
    }
    while columns - c >= 16 {
        sum_columns::<T, 1>(rows, c, p, out);
        c += 16;
    }
    for c in c..columns {
        for t in 0..T {
            let p = &p[t * rows.n..][..rows.n];
            out[t * columns + c] = portable::f16_weighted_column(rows, c, p);
        }
    }
    T
}

/// `16 * V` columns from column `c`, for `T` tokens.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum_columns<const T: usize, const V: usize>(rows: Rows, c: usize, p: &[f32], out: &mut [f32]) {
    let columns = rows.columns;
    assert!(c + 16 * V <= columns && out.len() >= T * columns && p.len() >= T * rows.n);
    let mut sums = [[_mm512_setzero_ps(); V]; T];
    for r in 0..rows.n {
        let row = rows.row(r, columns * 2);
        let mut v = [_mm512_setzero_ps(); V];
        for (i, v) in v.iter_mut().enumerate() {
            // SAFETY: the row has `columns` F16 and `c + 16 * V <= columns`.
            *v = unsafe { F16::load(row.as_ptr().add(2 * (c + 16 * i))) };
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            let p = _mm512_set1_ps(p[t * rows.n + r]);
            for (sum, v) in sums.iter_mut().zip(v) {
                *sum = _mm512_add_ps(*sum, _mm512_mul_ps(p, v));
            }
        }
    }
    for (t, sums) in sums.into_iter().enumerate() {
        for (i, sum) in sums.into_iter().enumerate() {
            // SAFETY: `out` has `columns` values for every token, and `c + 16 * V <= columns`.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr().add(t * columns + c + 16 * i), sum) };
        }
    }
}
