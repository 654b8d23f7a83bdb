//! Dot products of packed weights with Q8_0 activations, by VPDPBUSD.

use std::arch::x86_64::*;

use super::Rows;
use crate::blocks::packed::{groups, split};
use crate::kernels::avx2::packed::{code_sums, four, scale, total};
use crate::kernels::packed::{self, Dot, Panel, STEPS, Sums, Token};

/// See [`Kernel::packed_dots`](crate::kernels::Kernel::packed_dots).
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernels) fn dots<const BITS: usize, const BYTES: usize>(
    weights: Rows,
    codes: &[i8],
    scales: &[f32],
    out: &mut [f32],
) {
    // SAFETY: this function's own instruction set.
    unsafe { packed::dots::<Vnni, BITS, BYTES>(weights, codes, scales, out) }
}

struct Vnni;

impl Dot for Vnni {
    const TOKENS: usize = 8;
    const FEW: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sums(codes: &[[i8; 32]; 4]) -> [i32; 4] {
        code_sums(codes)
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn row<const BITS: usize, const BYTES: usize>(row: &[[u8; BYTES]], x: Token) -> f32 {
        let n = groups(BITS, BYTES);
        let mut sum = 0.0;
        for (b, bytes) in row.iter().enumerate() {
            let (x, (_, codes)) = (x.blocks(n * b, n), split(bytes));
            let mut sums = [_mm256_setzero_si256(); 4];
            let (of_two, _) = sums.as_chunks_mut::<2>();
            let (x_of_two, _) = x.codes.as_chunks::<2>();
            for (g, ([low, high], x)) in of_two.iter_mut().zip(x_of_two).enumerate() {
                let w = levels::<BITS>(&codes[8 * BITS * g..][..8 * BITS]);
                // SAFETY: 64 readable bytes; the load needs no alignment.
                let x = unsafe { _mm512_loadu_si512(x.as_ptr().cast()) };
                let sums = _mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x);
                *low = _mm512_castsi512_si256(sums);
                *high = _mm512_extracti64x4_epi64::<1>(sums);
            }
            sum += scale(bytes) * total(sums, x);
        }
        sum
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn multiply(panel: &Panel, groups: usize, x: &[Token], sums: &mut [Sums]) {
        match x.len() {
            1 => tile::<1>(panel, groups, x, sums),
            2 => tile::<2>(panel, groups, x, sums),
            3 => tile::<3>(panel, groups, x, sums),
            4 => tile::<4>(panel, groups, x, sums),
            5 => tile::<5>(panel, groups, x, sums),
            6 => tile::<6>(panel, groups, x, sums),
            7 => tile::<7>(panel, groups, x, sums),
            8 => tile::<8>(panel, groups, x, sums),
            _ => unreachable!("at most `TOKENS`"),
        }
    }
}

/// The levels of 64 weights.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn levels<const BITS: usize>(codes: &[u8]) -> __m512i {
    if BITS == 1 {
        let bits = codes
            .first_chunk()
            .map_or(0, |bits| u64::from_le_bytes(*bits));
        return _mm512_maskz_set1_epi8(bits, 2);
    }
    let bits = codes
        .first_chunk()
        .map_or(0, |bits| u128::from_le_bytes(*bits));
    // SAFETY: 16 readable bytes; the load needs no alignment.
    let bits = unsafe { _mm_loadu_si128((&raw const bits).cast()) };
    let w = _mm512_cvtepu8_epi32(bits);
    // Each byte at its own place, 6, 12 and 18 bits up.
    let w = _mm512_or_si512(w, _mm512_slli_epi32::<12>(w));
    let w = _mm512_or_si512(w, _mm512_slli_epi32::<6>(w));
    _mm512_and_si512(w, _mm512_set1_epi8(3))
}

#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn tile<const T: usize>(panel: &Panel, groups: usize, x: &[Token], out: &mut [Sums]) {
    let x = x.first_chunk::<T>().expect("`T` tokens");
    let group = |g: usize| {
        let codes = x.map(|x| &x.codes[g]);
        let mut sums = x.map(|x| _mm512_set1_epi32(x.minus[g]));
        for (s, step) in panel.steps[STEPS * g..][..STEPS].iter().enumerate() {
            // SAFETY: a step has 64 bytes and is aligned to them.
            let w = unsafe { _mm512_load_si512(step.0.as_ptr().cast()) };
            for (sum, codes) in sums.iter_mut().zip(codes) {
                *sum = _mm512_dpbusd_epi32(*sum, w, _mm512_set1_epi32(four(codes, s)));
            }
        }
        let mut products = [_mm512_setzero_ps(); T];
        for ((product, sum), x) in products.iter_mut().zip(sums).zip(x) {
            *product = _mm512_mul_ps(_mm512_set1_ps(x.scales[g]), _mm512_cvtepi32_ps(sum));
        }
        products
    };
    let add = |mut a: [__m512; T], b: [__m512; T]| {
        for (a, b) in a.iter_mut().zip(b) {
            *a = _mm512_add_ps(*a, b);
        }
        a
    };
    let products = match groups {
        2 => add(group(0), group(1)),
        _ => add(add(group(0), group(2)), add(group(1), group(3))),
    };
    // SAFETY: sixteen f32 each are readable and writable; neither loads nor stores need alignment.
    unsafe {
        let scales = _mm512_loadu_ps(panel.scales.as_ptr());
        for (out, products) in out.iter_mut().zip(products) {
            let sum = _mm512_loadu_ps(out.as_ptr());
            let sum = _mm512_add_ps(sum, _mm512_mul_ps(scales, products));
            _mm512_storeu_ps(out.as_mut_ptr(), sum);
        }
    }
}
