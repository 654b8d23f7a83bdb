//! TQ1_0 and TQ2_0 dot products by VPDPBUSD.

use std::arch::x86_64::*;

use super::i2_s::by_tokens;
use super::trits::transpose;
use super::{ROWS_AT_ONCE, add_up_rows};
use crate::blocks::{last_scale, tq1_0, tq2_0};
use crate::kernels::avx2::ternary_blocks::{add_in_order, last_scales, sixteen_scales};
use crate::kernels::panels::{Panel, ROWS, Step, Tile, Tokens};
use crate::kernels::ternary_blocks::{
    self, BLOCK, BlockDot, STEPS, TQ1_0_WORDS, TQ1_0_WORTHS, tq1_0_steps, tq2_0_steps,
};
use crate::kernels::{PREFETCH, Q8K, Rows};

/// See [`Kernel::tq1_0_dots`](crate::kernels::Kernel::tq1_0_dots).
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernels) fn tq1_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq1_0, { tq1_0::BLOCK_BYTES }>(weights, x, out) }
}

/// See [`Kernel::tq2_0_dots`](crate::kernels::Kernel::tq2_0_dots).
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernels) fn tq2_0_dots(weights: Rows, x: Q8K, out: &mut [f32]) {
    // SAFETY: this function's own instruction set.
    unsafe { ternary_blocks::dots::<Tq2_0, { tq2_0::BLOCK_BYTES }>(weights, x, out) }
}

/// All rows by one token. `lanes` are the sums of a block, still to be added up.
#[inline]
#[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
fn token<const BYTES: usize>(
    weights: Rows,
    x: Q8K,
    out: &mut [f32],
    lanes: impl Fn(&[u8; BYTES], &[i8; BLOCK]) -> __m512i,
) {
    let n_blocks = weights.columns / BLOCK;
    let (codes, rest_of_codes) = x.codes.as_chunks::<BLOCK>().0.as_chunks::<ROWS_AT_ONCE>();
    let (scales, rest_of_scales) = x.scales.as_chunks::<ROWS_AT_ONCE>();
    let (sums, rest_of_sums) = x.sums.as_chunks::<ROWS_AT_ONCE>();
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let row = weights.row(r, n_blocks * BYTES).as_chunks::<BYTES>().0;
        let (fours, rest) = row.as_chunks::<ROWS_AT_ONCE>();
        let mut total = 0f32;
        for (((blocks, codes), scales), sums) in fours.iter().zip(codes).zip(scales).zip(sums) {
            let mut four = [_mm512_setzero_si512(); ROWS_AT_ONCE];
            for ((four, block), x) in four.iter_mut().zip(blocks).zip(codes) {
                // A prefetch may name any address.
                _mm_prefetch::<_MM_HINT_T1>(block.as_ptr().wrapping_add(PREFETCH).cast());
                *four = lanes(block, x);
            }
            // SAFETY: four scales and sums are readable; no load needs alignment.
            let products = unsafe {
                let d = _mm_mul_ps(
                    _mm_loadu_ps(scales.as_ptr()),
                    last_scales(blocks.each_ref()),
                );
                let sums = _mm_sub_epi32(add_up_rows(four), _mm_loadu_si128(sums.as_ptr().cast()));
                _mm_mul_ps(d, _mm_cvtepi32_ps(sums))
            };
            total = add_in_order(total, products);
        }
        let x = rest_of_codes.iter().zip(rest_of_scales).zip(rest_of_sums);
        for (block, ((x, x_scale), x_sum)) in rest.iter().zip(x) {
            let sum = _mm512_reduce_add_epi32(lanes(block, x)) - x_sum;
            total += x_scale * last_scale(block) * sum as f32;
        }
        *out = total;
    }
}

struct Tq2_0;

impl BlockDot<{ tq2_0::BLOCK_BYTES }> for Tq2_0 {
    const PANELS: usize = 2;
    const TOKENS: usize = 12;
    const FEW: usize = 12;

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        let low_bits = _mm512_set1_epi8(3);
        token(weights, x, out, |block: &[u8; tq2_0::BLOCK_BYTES], x| {
            // SAFETY: 64 bytes are readable; the load needs no alignment.
            let w = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
            let groups = [
                w,
                _mm512_srli_epi16::<2>(w),
                _mm512_srli_epi16::<4>(w),
                _mm512_srli_epi16::<6>(w),
            ];
            let mut sums = _mm512_setzero_si512();
            for (group, w) in groups.into_iter().enumerate() {
                // SAFETY: both halves have 128 activations; no load needs alignment.
                let x = unsafe {
                    let x = x.as_ptr().add(32 * group);
                    _mm512_inserti64x4::<1>(
                        _mm512_castsi256_si512(_mm256_loadu_si256(x.cast())),
                        _mm256_loadu_si256(x.add(128).cast()),
                    )
                };
                sums = _mm512_dpbusd_epi32(sums, _mm512_and_si512(w, low_bits), x);
            }
            sums
        });
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn unpack(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        let low_bits = _mm512_set1_epi8(3);
        let mut bytes = [_mm512_setzero_si512(); ROWS];
        for (bytes, row) in bytes.iter_mut().zip(rows) {
            // SAFETY: 64 bytes are readable; the load needs no alignment.
            *bytes = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        }
        for (word, &packed) in transpose(bytes).iter().enumerate() {
            let groups = [
                packed,
                _mm512_srli_epi32::<2>(packed),
                _mm512_srli_epi32::<4>(packed),
                _mm512_srli_epi32::<6>(packed),
            ];
            for (&codes, step) in groups.iter().zip(&tq2_0_steps(word)) {
                store(_mm512_and_si512(codes, low_bits), &mut steps[*step]);
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn scales(rows: [&[u8; tq2_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        sixteen_scales(rows)
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, STEPS, x, sums) }
    }
}

struct Tq1_0;

impl BlockDot<{ tq1_0::BLOCK_BYTES }> for Tq1_0 {
    const PANELS: usize = 2;
    const TOKENS: usize = 12;
    const FEW: usize = 4;

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]) {
        let worths = TQ1_0_WORTHS.as_chunks::<32>().0;
        token(weights, x, out, |block: &[u8; tq1_0::BLOCK_BYTES], x| {
            // SAFETY: 32 and 16 bytes are readable; no load needs alignment.
            let (most, some) = unsafe {
                (
                    _mm512_broadcast_i64x4(_mm256_loadu_si256(block.as_ptr().cast())),
                    _mm512_broadcast_i32x4(_mm_loadu_si128(block.as_ptr().add(32).cast())),
                )
            };
            let few = i32::from_le_bytes([block[48], block[49], block[50], block[51]]);
            let bytes = [
                most,
                most,
                _mm512_mask_blend_epi64(0xf0, most, some),
                _mm512_mask_blend_epi64(0xc0, some, _mm512_set1_epi32(few)),
            ];
            let mut sums = _mm512_setzero_si512();
            let parts = bytes.iter().zip(worths).zip(x.as_chunks::<64>().0);
            for ((&bytes, worth), x) in parts {
                // SAFETY: 64 bytes are readable of each; no load needs alignment.
                let (worth, x) = unsafe {
                    (
                        _mm512_loadu_si512(worth.as_ptr().cast()),
                        _mm512_loadu_si512(x.as_ptr().cast()),
                    )
                };
                sums = _mm512_dpbusd_epi32(sums, first_digits(multiply(bytes, worth)), x);
            }
            sums
        });
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn unpack(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        let mut bytes = [_mm512_setzero_si512(); ROWS];
        for (bytes, row) in bytes.iter_mut().zip(rows) {
            // SAFETY: as many bytes as the mask has are readable; the load needs no alignment.
            *bytes = unsafe {
                _mm512_maskz_loadu_epi8((1 << tq1_0::BLOCK_BYTES) - 1, row.as_ptr().cast())
            };
        }
        for (word, &packed) in transpose(bytes)[..TQ1_0_WORDS].iter().enumerate() {
            let (first, apart, digits) = tq1_0_steps(word);
            let mut rest = packed;
            for digit in 0..digits {
                store(first_digits(rest), &mut steps[first + apart * digit]);
                rest = _mm512_add_epi8(rest, _mm512_add_epi8(rest, rest));
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn scales(rows: [&[u8; tq1_0::BLOCK_BYTES]; ROWS]) -> [f32; ROWS] {
        sixteen_scales(rows)
    }

    #[inline]
    #[target_feature(enable = "avx2,f16c,avx512f,avx512bw,avx512vl,avx512vnni")]
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, STEPS, x, sums) }
    }
}

/// Bytes times `worth`, per pair of bytes: what is above a byte falls away.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn multiply(bytes: __m512i, worth: __m512i) -> __m512i {
    let high = _mm512_set1_epi16(0xff00_u16 as i16);
    let even = _mm512_mullo_epi16(bytes, worth);
    let odd = _mm512_mullo_epi16(_mm512_and_si512(bytes, high), worth);
    _mm512_or_si512(_mm512_andnot_si512(high, even), odd)
}

/// What three times each byte carries: 1 from 86 on, 2 from 171.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn first_digits(bytes: __m512i) -> __m512i {
    let one = _mm512_set1_epi8(1);
    let carries = |least: u8| _mm512_cmpge_epu8_mask(bytes, _mm512_set1_epi8(least as i8));
    let digits = _mm512_maskz_mov_epi8(carries(86), one);
    _mm512_mask_add_epi8(digits, carries(171), digits, one)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store(codes: __m512i, step: &mut Step) {
    // SAFETY: a step has 64 bytes and is aligned to them.
    unsafe { _mm512_store_si512(step.0.as_mut_ptr().cast(), codes) };
}
