//! AVX2 (and F16C) kernels for x86-64.

pub(super) mod blocks;
pub(super) mod float;
pub(super) mod i2_s;
pub(super) mod i8;
pub(super) mod packed;
pub(super) mod ternary_blocks;

use std::arch::x86_64::*;

use super::{LANES, Rows};

/// See [`Kernel::vectorize`](super::Kernel::vectorize).
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) fn vectorize<R>(f: impl FnOnce() -> R) -> R {
    f()
}

/// Adds eight lanes up pairwise, lane `l` with lane `l + half`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_up(v: __m256) -> f32 {
    let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
    _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
}

/// Sum of eight i32.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add_up_i32(v: __m256i) -> i32 {
    let v = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v));
    let v = _mm_add_epi32(v, _mm_shuffle_epi32::<0b01_00_11_10>(v));
    _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32::<0b10_11_00_01>(v)))
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_bytes(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_codes(codes: &[i8; 32]) -> __m256i {
    // SAFETY: 32 readable bytes; the load needs no alignment.
    unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_f32(x: &[f32; 8]) -> __m256 {
    // SAFETY: eight readable f32; the load needs no alignment.
    unsafe { _mm256_loadu_ps(x.as_ptr()) }
}
