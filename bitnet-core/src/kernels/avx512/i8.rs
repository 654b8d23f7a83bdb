//! int8 by int16 dot products.

use std::arch::x86_64::*;

use super::Rows;
use crate::kernels::{PREFETCH, portable};

/// Elements of a step.
const STEP: usize = 64;

/// See [`Kernel::i8_dots`](crate::kernels::Kernel::i8_dots).
#[target_feature(enable = "avx2,avx512f,avx512bw,avx512vnni")]
pub(in crate::kernels) fn dots(weights: Rows, x: &[i16], out: &mut [i32]) {
    let x = &x[..weights.columns];
    let (steps, tail) = x.as_chunks::<STEP>();
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let row = weights.row(r, weights.columns);
        let mut sums = [_mm512_setzero_si512(); 2];
        for (i, x) in steps.iter().enumerate() {
            // SAFETY: the row has `STEP` bytes from `STEP * i`, and `x` as many elements; no load needs alignment, and
            // a prefetch may name any address.
            unsafe {
                let w = row.as_ptr().add(STEP * i);
                _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(PREFETCH).cast());
                for (half, sum) in sums.iter_mut().enumerate() {
                    let w = _mm512_cvtepi8_epi16(_mm256_loadu_si256(w.add(32 * half).cast()));
                    let x = _mm512_loadu_si512(x.as_ptr().add(32 * half).cast());
                    *sum = _mm512_dpwssd_epi32(*sum, w, x);
                }
            }
        }
        let sum = _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]));
        *out = sum + portable::i8_dot(&row[weights.columns - tail.len()..], tail);
    }
}
