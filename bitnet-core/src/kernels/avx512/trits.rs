//! Trits by int8 dot products: four digits of a byte are looked up by VPERMI2B (VBMI), the fifth is what is left.

use std::arch::x86_64::*;

use super::dots_of_rows;
use super::i2_s::{add_group, by_tokens};
use crate::blocks::trits::{self, BLOCK, BLOCK_BYTES, DIGITS};
use crate::kernels::panels::{self, Dot, Panel, ROWS, Step, Tile, Tokens};
use crate::kernels::{PREFETCH, Rows};

/// Steps of a block.
const STEPS: usize = BLOCK / 4;

/// The worth of the highest digit.
const HIGHEST: u8 = 81;

/// The lower four digits as codes of 2 bits, the lowest digit in the highest bits, as in I2_S.
static CODES: [u8; 128] = {
    let mut codes = [0; 128];
    let mut i = 0;
    while i < HIGHEST {
        codes[i as usize] = (i % 3) << 6 | (i / 3 % 3) << 4 | (i / 9 % 3) << 2 | (i / 27);
        i += 1;
    }
    codes
};

/// See [`Kernel::trit_dots`](crate::kernels::Kernel::trit_dots).
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
pub(in crate::kernels) fn dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    // SAFETY: this function's own instruction set.
    unsafe { panels::dots::<Vbmi, BLOCK_BYTES, STEPS>(weights, codes, out) }
}

/// The sums of a row by one token, still to be added up.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn row_by_token(weights: Rows, row: usize, x: &[i8]) -> __m512i {
    let x = &x[..weights.columns];
    let row = weights.row(row, trits::row_bytes(weights.columns));
    let (blocks, _) = row.as_chunks::<BLOCK_BYTES>();
    let (tokens, rest) = x.as_chunks::<BLOCK>();
    // As in I2_S, codes are multiplied where they lie in their bytes, the highest digit with its worth, so the sums
    // are 64, 16, 4, 1 and 81 times too large. They hold: a lane takes less than 4 * 192 * 128 from 320 columns.
    let mut sums = [_mm512_setzero_si512(); DIGITS];
    for (block, x) in blocks.iter().zip(tokens) {
        // A prefetch may name any address.
        _mm_prefetch::<_MM_HINT_T1>(block.as_ptr().wrapping_add(PREFETCH).cast());
        // SAFETY: every digit has `BLOCK_BYTES` activations; no load needs alignment.
        add_block(&mut sums, block, |digit| unsafe {
            _mm512_loadu_si512(x.as_ptr().add(digit * BLOCK_BYTES).cast())
        });
    }
    if let Some(block) = blocks.get(tokens.len()) {
        add_block(&mut sums, block, |digit| {
            let Some(x) = rest.get(digit * BLOCK_BYTES..).filter(|x| !x.is_empty()) else {
                // A load of nothing is slow where nothing can be read.
                return _mm512_setzero_si512();
            };
            let mask = u64::MAX.checked_shr(BLOCK_BYTES.saturating_sub(x.len()) as u32);
            // SAFETY: what is loaded is left of the activations.
            unsafe { _mm512_maskz_loadu_epi8(mask.unwrap_or(0), x.as_ptr()) }
        });
    }
    let [g0, g1, g2, g3, highest] = sums;
    let high = _mm512_add_epi32(_mm512_srai_epi32::<6>(g0), _mm512_srai_epi32::<4>(g1));
    let low = _mm512_add_epi32(_mm512_srai_epi32::<2>(g2), g3);
    _mm512_add_epi32(_mm512_add_epi32(high, low), divide_by_highest(highest))
}

/// Adds the products of a block with the activations of every digit.
#[inline]
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
fn add_block(
    sums: &mut [__m512i; DIGITS],
    block: &[u8; BLOCK_BYTES],
    x: impl Fn(usize) -> __m512i,
) {
    // SAFETY: 64 bytes are readable; the load needs no alignment.
    let packed = unsafe { _mm512_loadu_si512(block.as_ptr().cast()) };
    let (codes, highest) = unpack(packed);
    let [groups @ .., last] = sums;
    for (group, sum) in groups.iter_mut().enumerate() {
        *sum = add_group(*sum, codes, group, x(group));
    }
    *last = _mm512_dpbusd_epi32(*last, highest, x(DIGITS - 1));
}

/// The lower four digits as codes of 2 bits, as in I2_S, and the highest times its worth.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn unpack(packed: __m512i) -> (__m512i, __m512i) {
    let worth = _mm512_set1_epi8(HIGHEST as i8);
    // What is too small for a subtraction becomes larger by it, so the smaller one is the remainder.
    let once = _mm512_min_epu8(packed, _mm512_sub_epi8(packed, worth));
    let lower = _mm512_min_epu8(once, _mm512_sub_epi8(once, worth));
    let (low, high) = CODES.split_at(64);
    // SAFETY: 64 bytes are readable each; the loads need no alignment.
    let (low, high) = unsafe {
        (
            _mm512_loadu_si512(low.as_ptr().cast()),
            _mm512_loadu_si512(high.as_ptr().cast()),
        )
    };
    (
        _mm512_permutex2var_epi8(low, lower, high),
        _mm512_sub_epi8(packed, lower),
    )
}

/// Divides multiples of [`HIGHEST`] by it.
#[inline]
#[target_feature(enable = "avx512f")]
fn divide_by_highest(v: __m512i) -> __m512i {
    // Modulo 2^32.
    const INVERSE: u32 = 0x7819_48b1;
    const { assert!(INVERSE.wrapping_mul(HIGHEST as u32) == 1) };
    _mm512_mullo_epi32(v, _mm512_set1_epi32(INVERSE as i32))
}

struct Vbmi;

impl Dot<BLOCK_BYTES, STEPS> for Vbmi {
    const PANELS: usize = 2;
    const TOKENS: usize = 12;
    const FEW: usize = 12;

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn token(weights: Rows, x: &[i8], out: &mut [i32]) {
        dots_of_rows!(&mut out[..weights.n], row => row_by_token(weights, row, x));
    }

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn unpack(rows: [&[u8; BLOCK_BYTES]; ROWS], steps: &mut [Step; STEPS]) {
        let mut bytes = [_mm512_setzero_si512(); ROWS];
        for (bytes, row) in bytes.iter_mut().zip(rows) {
            // SAFETY: 64 bytes are readable; the load needs no alignment.
            *bytes = unsafe { _mm512_loadu_si512(row.as_ptr().cast()) };
        }
        for (word, packed) in transpose(bytes).into_iter().enumerate() {
            let (codes, highest) = unpack(packed);
            let low_bits = _mm512_set1_epi8(3);
            let digits = [
                _mm512_srli_epi32::<6>(codes),
                _mm512_srli_epi32::<4>(codes),
                _mm512_srli_epi32::<2>(codes),
                codes,
                // 0, 81 or 162.
                _mm512_srli_epi32::<6>(highest),
            ];
            for (digit, codes) in digits.into_iter().enumerate() {
                let step = &mut steps[BLOCK_BYTES / 4 * digit + word];
                // SAFETY: a step has 64 bytes and is aligned to them.
                unsafe {
                    _mm512_store_si512(
                        step.0.as_mut_ptr().cast(),
                        _mm512_and_si512(codes, low_bits),
                    )
                };
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni,avx512vbmi")]
    unsafe fn multiply(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile) {
        // SAFETY: the caller's contract.
        unsafe { by_tokens(panels, n_steps, x, sums) }
    }
}

/// Word `i` of every row, for every `i`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose(rows: [__m512i; ROWS]) -> [__m512i; ROWS] {
    // Word `4l + i` of rows `4q..4q + 4` is lane `l` of `quads[q][i]`.
    let mut quads = [[_mm512_setzero_si512(); 4]; 4];
    for (quad, &[a, b, c, d]) in quads.iter_mut().zip(rows.as_chunks::<4>().0) {
        let low = [_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d)];
        let high = [_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d)];
        *quad = [
            _mm512_unpacklo_epi64(low[0], low[1]),
            _mm512_unpackhi_epi64(low[0], low[1]),
            _mm512_unpacklo_epi64(high[0], high[1]),
            _mm512_unpackhi_epi64(high[0], high[1]),
        ];
    }
    let mut words = [_mm512_setzero_si512(); ROWS];
    for i in 0..4 {
        let [a, b, c, d] = quads.map(|quad| quad[i]);
        let (ab_even, ab_odd) = (
            _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b),
        );
        let (cd_even, cd_odd) = (
            _mm512_shuffle_i32x4::<0b10_00_10_00>(c, d),
            _mm512_shuffle_i32x4::<0b11_01_11_01>(c, d),
        );
        words[i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_even, cd_even);
        words[4 + i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(ab_odd, cd_odd);
        words[8 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_even, cd_even);
        words[12 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(ab_odd, cd_odd);
    }
    words
}
