//! AVX-512 VNNI kernels for x86-64.

pub(super) mod float;
pub(super) mod i2_s;
pub(super) mod i7;
pub(super) mod i8;
pub(super) mod packed;
pub(super) mod ternary_blocks;
pub(super) mod trits;

use std::arch::x86_64::*;

use super::{LANES, Rows, avx2};

/// See [`Kernel::vectorize`](super::Kernel::vectorize).
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl")]
pub(super) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Adds sixteen lanes up pairwise, lane `l` with lane `l + half`.
#[inline]
#[target_feature(enable = "avx512f,avx2")]
fn add_up(v: __m512) -> f32 {
    let high = _mm512_extractf64x4_pd::<1>(_mm512_castps_pd(v));
    avx2::add_up(_mm256_add_ps(
        _mm512_castps512_ps256(v),
        _mm256_castpd_ps(high),
    ))
}

/// Rows whose lanes are added up together.
const ROWS_AT_ONCE: usize = 4;

/// `dots_of_rows!(out, row => sums)` sets `out[row]` to what the lanes of `sums` add up to. Not a function: what computes
/// the sums would be called, and not inlined.
macro_rules! dots_of_rows {
    ($out:expr, $row:ident => $sums:expr) => {
        let (groups, rest) = $out.as_chunks_mut::<{ super::ROWS_AT_ONCE }>();
        let mut first = 0;
        for out in groups {
            let mut four = [_mm512_setzero_si512(); super::ROWS_AT_ONCE];
            for (r, four) in four.iter_mut().enumerate() {
                let $row = first + r;
                *four = $sums;
            }
            // SAFETY: four i32 are writable; the store needs no alignment.
            unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), super::add_up_rows(four)) };
            first += super::ROWS_AT_ONCE;
        }
        for ($row, out) in (first..).zip(rest) {
            *out = _mm512_reduce_add_epi32($sums);
        }
    };
}
use dots_of_rows;

/// The sums of the lanes of four rows.
#[inline]
#[target_feature(enable = "avx2,avx512f")]
fn add_up_rows([a, b, c, d]: [__m512i; ROWS_AT_ONCE]) -> __m128i {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let abcd = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(
        _mm512_castsi512_si256(abcd),
        _mm512_extracti64x4_epi64::<1>(abcd),
    );
    _mm_add_epi32(
        _mm256_castsi256_si128(half),
        _mm256_extracti128_si256::<1>(half),
    )
}
