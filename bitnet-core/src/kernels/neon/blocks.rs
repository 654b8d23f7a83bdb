//! Q8_0 and Q6_K dot products. The eight lanes of partial sums are two registers.

use std::arch::aarch64::*;

use super::{Rows, add_up, dot, load_bytes, load_codes};
use crate::blocks::{q6_k, q8_0};
use crate::kernels::block_dots;

/// See [`Kernel::q8_0_dots`](crate::kernels::Kernel::q8_0_dots).
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn q8_0_dots(weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
    block_dots(
        weights,
        codes,
        scales,
        out,
        |row: &[[u8; q8_0::BLOCK_BYTES]], x: &[[i8; q8_0::BLOCK]], scales| {
            let mut lanes = [vdupq_n_f32(0.0); 2];
            for ((block, x), x_scale) in row.iter().zip(x).zip(scales) {
                let (d, q) = q8_0::split(block);
                let halves = q.as_chunks().0.iter().zip(x.as_chunks().0);
                for (lanes, (w, x)) in lanes.iter_mut().zip(halves) {
                    let w = vreinterpretq_s8_u8(load_bytes(w));
                    let sums = dot(vdupq_n_s32(0), w, load_codes(x));
                    *lanes = add_scaled(*lanes, sums, d * x_scale);
                }
            }
            add_up(vaddq_f32(lanes[0], lanes[1]))
        },
    );
}

/// See [`Kernel::q6_k_dots`](crate::kernels::Kernel::q6_k_dots).
#[target_feature(enable = "neon,dotprod")]
pub(in crate::kernels) fn q6_k_dots(weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
    block_dots(
        weights,
        codes,
        scales,
        out,
        |row: &[[u8; q6_k::BLOCK_BYTES]], x: &[[i8; q6_k::BLOCK]], scales| {
            let mut lanes = [vdupq_n_f32(0.0); 2];
            for ((bytes, x), x_scale) in row.iter().zip(x).zip(scales) {
                let block = q6_k::Block::new(bytes);
                let sums = q6_k_block(&block, x);
                for (lanes, sums) in lanes.iter_mut().zip(sums) {
                    *lanes = add_scaled(*lanes, sums, x_scale * block.d);
                }
            }
            add_up(vaddq_f32(lanes[0], lanes[1]))
        },
    );
}

/// `lanes` and `sums` times `d`.
#[inline]
#[target_feature(enable = "neon")]
fn add_scaled(lanes: float32x4_t, sums: int32x4_t, d: f32) -> float32x4_t {
    vaddq_f32(lanes, vmulq_n_f32(vcvtq_f32_s32(sums), d))
}

/// Scaled sums of one super-block; lane `l` of the two registers takes elements `4l..4l + 4` of every 32.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn q6_k_block(block: &q6_k::Block, x: &[i8; 256]) -> [int32x4_t; 2] {
    let nibble = vdupq_n_u8(0xf);
    let pair = vdupq_n_u8(0x30);
    let offset = vdupq_n_s8(32);
    let mut sums = [vdupq_n_s32(0); 2];
    let (x, _) = x.as_chunks();
    let (low, _) = block.low.as_chunks();
    let (high, _) = block.high.as_chunks();
    for half in 0..2 {
        // Elements 0..16 of every 32, and 16..32.
        for (side, sums) in sums.iter_mut().enumerate() {
            let low0 = load_bytes(&low[4 * half + side]);
            let low1 = load_bytes(&low[4 * half + 2 + side]);
            let high = load_bytes(&high[2 * half + side]);
            let codes = [
                (low0, vshlq_n_u8::<4>(high)),
                (low1, vshlq_n_u8::<2>(high)),
                (vshrq_n_u8::<4>(low0), high),
                (vshrq_n_u8::<4>(low1), vshrq_n_u8::<2>(high)),
            ];
            for (quarter, (low, high)) in codes.into_iter().enumerate() {
                let code = vorrq_u8(vandq_u8(low, nibble), vandq_u8(high, pair));
                let w = vsubq_s8(vreinterpretq_s8_u8(code), offset);
                let group = 8 * half + 2 * quarter + side;
                let products = dot(vdupq_n_s32(0), w, load_codes(&x[group]));
                let scale = i32::from(block.scales[group] as i8);
                *sums = vmlaq_n_s32(*sums, products, scale);
            }
        }
    }
    sums
}
