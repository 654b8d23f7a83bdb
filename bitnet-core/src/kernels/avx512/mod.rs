//! AVX-512 VNNI kernels for x86-64.

pub(super) mod float;
pub(super) mod i2_s;
pub(super) mod i7;
pub(super) mod i8;
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
