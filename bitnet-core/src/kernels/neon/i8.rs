//! int8 by int16 dot products.

use std::arch::aarch64::*;

use super::{Rows, load_bytes};
use crate::kernels::portable;

/// Elements of a step.
const STEP: usize = 16;

/// See [`Kernel::i8_dots`](crate::kernels::Kernel::i8_dots).
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn dots(weights: Rows, x: &[i16], out: &mut [i32]) {
    let x = &x[..weights.columns];
    let (steps, tail) = x.as_chunks::<STEP>();
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let row = weights.row(r, weights.columns);
        let mut sums = [vdupq_n_s32(0); 2];
        for (w, x) in row.as_chunks::<STEP>().0.iter().zip(steps) {
            let w = vreinterpretq_s8_u8(load_bytes(w));
            // SAFETY: sixteen elements are readable.
            let x = unsafe { [vld1q_s16(x.as_ptr()), vld1q_s16(x.as_ptr().add(8))] };
            for (w, x) in [vmovl_s8(vget_low_s8(w)), vmovl_high_s8(w)]
                .into_iter()
                .zip(x)
            {
                sums[0] = vmlal_s16(sums[0], vget_low_s16(w), vget_low_s16(x));
                sums[1] = vmlal_high_s16(sums[1], w, x);
            }
        }
        let sum = vaddvq_s32(vaddq_s32(sums[0], sums[1]));
        *out = sum + portable::i8_dot(&row[weights.columns - tail.len()..], tail);
    }
}
