//! Q8_0 and Q6_K dot products.

use std::arch::x86_64::*;

use super::{Rows, add_up, load_bytes, load_codes};
use crate::blocks::{q6_k, q8_0};
use crate::kernels::block_dots;

/// See [`Kernel::q8_0_dots`](crate::kernels::Kernel::q8_0_dots).
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn q8_0_dots(weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
    let ones = _mm256_set1_epi16(1);
    block_dots(
        weights,
        codes,
        scales,
        out,
        |row: &[[u8; q8_0::BLOCK_BYTES]], x: &[[i8; q8_0::BLOCK]], scales| {
            let mut lanes = _mm256_setzero_ps();
            for ((block, x), x_scale) in row.iter().zip(x).zip(scales) {
                let (d, q) = q8_0::split(block);
                let w = load_bytes(q);
                // |w| times x with the sign of w. |w| <= 128 and |x| <= 127, so a pair is at most
                // 2 * 128 * 127 = 32512: no saturation; and -x does not wrap.
                let pairs =
                    _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(load_codes(x), w));
                let sums = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, ones));
                let d = _mm256_set1_ps(d * x_scale);
                lanes = _mm256_add_ps(lanes, _mm256_mul_ps(d, sums));
            }
            add_up(lanes)
        },
    );
}

/// See [`Kernel::q6_k_dots`](crate::kernels::Kernel::q6_k_dots).
#[target_feature(enable = "avx2")]
pub(in crate::kernels) fn q6_k_dots(weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
    block_dots(
        weights,
        codes,
        scales,
        out,
        |row: &[[u8; q6_k::BLOCK_BYTES]], x: &[[i8; q6_k::BLOCK]], scales| {
            let mut lanes = _mm256_setzero_ps();
            for ((bytes, x), x_scale) in row.iter().zip(x).zip(scales) {
                let block = q6_k::Block::new(bytes);
                let sums = _mm256_cvtepi32_ps(q6_k_block(&block, x));
                let d = _mm256_set1_ps(x_scale * block.d);
                lanes = _mm256_add_ps(lanes, _mm256_mul_ps(d, sums));
            }
            add_up(lanes)
        },
    );
}

/// Scaled sums of one super-block; lane `l` takes elements `4l..4l + 4` of every 32.
#[inline]
#[target_feature(enable = "avx2")]
fn q6_k_block(block: &q6_k::Block, x: &[i8; q6_k::BLOCK]) -> __m256i {
    let nibble = _mm256_set1_epi8(0xf);
    let pair = _mm256_set1_epi8(0x30);
    let offset = _mm256_set1_epi8(32);
    let mut sums = _mm256_setzero_si256();
    let (x, _) = x.as_chunks::<32>();
    let (low, _) = block.low.as_chunks::<32>();
    let (high, _) = block.high.as_chunks::<32>();
    for half in 0..2 {
        let (low0, low1) = (load_bytes(&low[2 * half]), load_bytes(&low[2 * half + 1]));
        let high = load_bytes(&high[half]);
        let codes = [
            (low0, _mm256_slli_epi16::<4>(high)),
            (low1, _mm256_slli_epi16::<2>(high)),
            (_mm256_srli_epi16::<4>(low0), high),
            (_mm256_srli_epi16::<4>(low1), _mm256_srli_epi16::<2>(high)),
        ];
        for (quarter, (low, high)) in codes.into_iter().enumerate() {
            let w = _mm256_or_si256(_mm256_and_si256(low, nibble), _mm256_and_si256(high, pair));
            let x = load_codes(&x[4 * half + quarter]);
            // (code - 32) * x as the difference of two unsigned by signed products: at most 2 * 63 * 128 = 16128
            // each, so neither they nor the difference leave 16 bits.
            let pairs =
                _mm256_sub_epi16(_mm256_maddubs_epi16(w, x), _mm256_maddubs_epi16(offset, x));
            let scale = 8 * half + 2 * quarter;
            let scales = _mm256_set_m128i(
                _mm_set1_epi16(i16::from(block.scales[scale + 1] as i8)),
                _mm_set1_epi16(i16::from(block.scales[scale] as i8)),
            );
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, scales));
        }
    }
    sums
}
