//! 7-bit by int16 dot products: the int16 are two int8 each, for VPDPBUSD.

use std::arch::x86_64::*;

use super::dots_of_rows;
use crate::blocks::i7::{self, BLOCK, BLOCK_BYTES, LINE, OFFSET};
use crate::kernels::{PREFETCH, Rows};

/// See [`Kernel::i7_dots`](crate::kernels::Kernel::i7_dots).
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vl,avx512vnni")]
pub(in crate::kernels) fn dots(weights: Rows, x: [&[i8]; 2], out: &mut [i32]) {
    let n_blocks = weights.columns.div_ceil(BLOCK);
    let x = x.map(|x| &x.as_chunks::<BLOCK>().0[..n_blocks]);
    let offset = offset(x);
    let out = &mut out[..weights.n];
    dots_of_rows!(out, row => row_by_token(weights, row, x));
    for out in out {
        *out = out.wrapping_sub(offset);
    }
}

/// What the offset of the values adds to every row.
#[inline]
#[target_feature(enable = "avx512f,avx512vnni")]
fn offset(x: [&[[i8; BLOCK]]; 2]) -> i32 {
    let values = _mm512_set1_epi8(OFFSET);
    let mut sums = [_mm512_setzero_si512(); 2];
    for (sum, x) in sums.iter_mut().zip(x) {
        for x in x.as_flattened().as_chunks().0 {
            *sum = _mm512_dpbusd_epi32(*sum, values, load(x));
        }
    }
    _mm512_reduce_add_epi32(join(sums))
}

/// The sums of a row, with the offset, still to be added up.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vnni")]
fn row_by_token(weights: Rows, row: usize, [high, low]: [&[[i8; BLOCK]]; 2]) -> __m512i {
    let row = weights.row(row, i7::row_bytes(weights.columns));
    let low_bits = _mm512_set1_epi8(0x7f);
    // Of even and odd lines apart: an addition waits for the one before.
    let mut sums = [[_mm512_setzero_si512(); 2]; 2];
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    for ((block, high), low) in blocks.iter().zip(high).zip(low) {
        let x = [high.as_chunks::<LINE>().0, low.as_chunks::<LINE>().0];
        let mut add = |line: usize, values: __m512i| {
            let [high, low] = &mut sums[line % 2];
            *high = _mm512_dpbusd_epi32(*high, values, load(&x[0][line]));
            *low = _mm512_dpbusd_epi32(*low, values, load(&x[1][line]));
        };
        let lines = block.as_chunks::<LINE>().0;
        let mut last = _mm512_setzero_si512();
        for (i, line) in lines.iter().enumerate() {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().wrapping_add(PREFETCH).cast());
            let packed = load(line);
            add(i, _mm512_and_si512(packed, low_bits));
            let bit = _mm512_set1_epi8(1 << i);
            let shifted = _mm512_srl_epi16(packed, _mm_cvtsi32_si128(7 - i as i32));
            // `last | shifted & bit`
            last = _mm512_ternarylogic_epi32::<0xf8>(last, shifted, bit);
        }
        add(lines.len(), last);
    }
    _mm512_add_epi32(join(sums[0]), join(sums[1]))
}

/// Both halves' sums. What is lost in a lane is a multiple of 2^32, as it is in the result.
#[inline]
#[target_feature(enable = "avx512f")]
fn join([high, low]: [__m512i; 2]) -> __m512i {
    _mm512_add_epi32(_mm512_slli_epi32::<8>(high), low)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load<T: Copy>(bytes: &[T; 64]) -> __m512i {
    const { assert!(size_of::<T>() == 1) };
    // SAFETY: 64 bytes are readable; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}
