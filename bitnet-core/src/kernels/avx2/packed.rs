//! Dot products of packed weights with Q8_0 activations.

use std::arch::x86_64::*;

use super::{Rows, load_bytes, load_codes};
use crate::blocks::packed::{groups, split};
use crate::kernels::packed::{self, Dot, Panel, STEPS, Sums, Token};

/// See [`Kernel::packed_dots`](crate::kernels::Kernel::packed_dots).
#[target_feature(enable = "avx2,f16c")]
pub(in crate::kernels) fn dots<const BITS: usize, const BYTES: usize>(
    weights: Rows,
    codes: &[i8],
    scales: &[f32],
    out: &mut [f32],
) {
    // SAFETY: this function's own instruction set.
    unsafe { packed::dots::<Avx2, BITS, BYTES>(weights, codes, scales, out) }
}

struct Avx2;

impl Dot for Avx2 {
    const TOKENS: usize = 2;
    const FEW: usize = 2;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sums(codes: &[[i8; 32]; 4]) -> [i32; 4] {
        code_sums(codes)
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn row<const BITS: usize, const BYTES: usize>(row: &[[u8; BYTES]], x: Token) -> f32 {
        let n = groups(BITS, BYTES);
        let mut sum = 0.0;
        for (b, bytes) in row.iter().enumerate() {
            let (x, (_, codes)) = (x.blocks(n * b, n), split(bytes));
            let mut sums = [_mm256_setzero_si256(); 4];
            for (g, (sum, x)) in sums.iter_mut().zip(x.codes).enumerate() {
                let w = levels::<BITS>(&codes[4 * BITS * g..][..4 * BITS]);
                // At most 2 * 3 * 127 = 762: no saturation.
                let pairs = _mm256_maddubs_epi16(w, load_codes(x));
                *sum = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
            }
            sum += scale(bytes) * total(sums, x);
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn multiply(panel: &Panel, groups: usize, x: &[Token], sums: &mut [Sums]) {
        match (x, sums) {
            ([a, b], [out_a, out_b]) => tile(panel, groups, [*a, *b], [out_a, out_b]),
            ([a], [out]) => tile(panel, groups, [*a], [out]),
            _ => unreachable!("one or two tokens"),
        }
    }
}

/// The sums of blocks of activations' codes.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn code_sums(codes: &[[i8; 32]; 4]) -> [i32; 4] {
    let [a, b, c, d] = codes.each_ref().map(|codes| {
        // At most 2 * 127.
        let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), load_codes(codes));
        _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))
    });
    let sums = halves(_mm256_hadd_epi32(
        _mm256_hadd_epi32(a, b),
        _mm256_hadd_epi32(c, d),
    ));
    let mut out = [0; 4];
    // SAFETY: four i32 are writable; the store needs no alignment.
    unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), sums) };
    out
}

/// The scale of a block.
#[inline]
#[target_feature(enable = "f16c")]
pub(in crate::kernels) fn scale<const BYTES: usize>(block: &[u8; BYTES]) -> f32 {
    let bits = i32::from(u16::from_le_bytes([block[0], block[1]]));
    _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(bits)))
}

/// The levels of 32 weights.
#[inline]
#[target_feature(enable = "avx2")]
fn levels<const BITS: usize>(codes: &[u8]) -> __m256i {
    if BITS == 1 {
        let bits = codes
            .first_chunk()
            .map_or(0, |bits| i32::from_le_bytes(*bits));
        let nth = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let spread = _mm256_setr_epi8(
            0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, //
            2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3,
        );
        let bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread);
        let set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, nth), nth);
        return _mm256_and_si256(set, _mm256_set1_epi8(2));
    }
    let bits = codes
        .first_chunk()
        .map_or(0, |bits| i64::from_le_bytes(*bits));
    let w = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(bits));
    // Each byte at its own place, 6, 12 and 18 bits up.
    let w = _mm256_or_si256(w, _mm256_slli_epi32::<12>(w));
    let w = _mm256_or_si256(w, _mm256_slli_epi32::<6>(w));
    _mm256_and_si256(w, _mm256_set1_epi8(3))
}

/// The products of a block, from the lanes of each of its two or four sums.
#[inline]
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn total([a, b, c, d]: [__m256i; 4], x: Token) -> f32 {
    if let (Some(scales), Some(minus)) = (x.scales.first_chunk::<4>(), x.minus.first_chunk::<4>()) {
        let sums = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        // SAFETY: four values each are readable; the loads need no alignment.
        let (scales, minus) = unsafe {
            (
                _mm_loadu_ps(scales.as_ptr()),
                _mm_loadu_si128(minus.as_ptr().cast()),
            )
        };
        let products = _mm_mul_ps(scales, _mm_cvtepi32_ps(_mm_add_epi32(halves(sums), minus)));
        let pairs = _mm_add_ps(products, _mm_movehl_ps(products, products));
        return _mm_cvtss_f32(_mm_add_ss(pairs, _mm_movehdup_ps(pairs)));
    }
    let pairs = _mm256_hadd_epi32(a, b);
    let sums = halves(_mm256_hadd_epi32(pairs, pairs));
    let first = x.scales[0] * (_mm_cvtsi128_si32(sums) + x.minus[0]) as f32;
    first + x.scales[1] * (_mm_extract_epi32::<1>(sums) + x.minus[1]) as f32
}

#[inline]
#[target_feature(enable = "avx2")]
fn halves(v: __m256i) -> __m128i {
    _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256::<1>(v))
}

#[inline]
#[target_feature(enable = "avx2")]
fn tile<const T: usize>(panel: &Panel, groups: usize, x: [Token; T], out: [&mut Sums; T]) {
    let group = |g: usize| {
        let mut pairs = [[_mm256_setzero_si256(); 2]; T];
        for (s, step) in panel.steps[STEPS * g..][..STEPS].iter().enumerate() {
            let (w, _) = step.0.as_chunks();
            for (pairs, x) in pairs.iter_mut().zip(&x) {
                let x = _mm256_set1_epi32(four(&x.codes[g], s));
                for (pairs, w) in pairs.iter_mut().zip(w) {
                    // At most 8 * 2 * 3 * 127 = 6096 in all.
                    let products = _mm256_maddubs_epi16(load_bytes(w), x);
                    *pairs = _mm256_add_epi16(*pairs, products);
                }
            }
        }
        let mut products = [[_mm256_setzero_ps(); 2]; T];
        for ((products, pairs), x) in products.iter_mut().zip(pairs).zip(&x) {
            let (scale, minus) = (_mm256_set1_ps(x.scales[g]), _mm256_set1_epi32(x.minus[g]));
            for (products, pairs) in products.iter_mut().zip(pairs) {
                let sums = _mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
                let sums = _mm256_cvtepi32_ps(_mm256_add_epi32(sums, minus));
                *products = _mm256_mul_ps(scale, sums);
            }
        }
        products
    };
    let add = |mut a: [[__m256; 2]; T], b: [[__m256; 2]; T]| {
        for (a, b) in a.as_flattened_mut().iter_mut().zip(b.as_flattened()) {
            *a = _mm256_add_ps(*a, *b);
        }
        a
    };
    let products = match groups {
        2 => add(group(0), group(1)),
        _ => add(add(group(0), group(2)), add(group(1), group(3))),
    };
    let (scales, _) = panel.scales.as_chunks::<8>();
    for (out, products) in out.into_iter().zip(products) {
        let (out, _) = out.as_chunks_mut::<8>();
        for ((out, products), scales) in out.iter_mut().zip(products).zip(scales) {
            let products = _mm256_mul_ps(super::load_f32(scales), products);
            let sum = _mm256_add_ps(super::load_f32(out), products);
            // SAFETY: eight f32 are writable; the store needs no alignment.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
        }
    }
}

/// Four codes of step `s`.
#[inline]
pub(in crate::kernels) fn four(codes: &[i8; 32], s: usize) -> i32 {
    let (fours, _) = codes.as_chunks::<4>();
    i32::from_le_bytes(fours[s].map(|code| code as u8))
}
