//! NEON kernels for aarch64 with dot products (FEAT_DotProd).

pub(super) mod blocks;
pub(super) mod float;
pub(super) mod i2_s;
pub(super) mod i8;
pub(super) mod packed;
pub(super) mod ternary_blocks;

use std::arch::aarch64::*;
use std::arch::asm;

use super::{LANES, Rows};

/// Adds to each 32-bit lane the products of four bytes of `a` and `b`. (The intrinsic, `vdotq_s32`, isn't stable.)
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.16b",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds to each 32-bit lane the products of four bytes of `a` and the four bytes of lane `LANE` of `b`.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn dot_lane<const LANE: usize>(mut sum: int32x4_t, a: int8x16_t, b: int8x16_t) -> int32x4_t {
    // SAFETY: reads and writes registers only.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {a:v}.16b, {b:v}.4b[{lane}]",
            sum = inout(vreg) sum,
            a = in(vreg) a,
            b = in(vreg) b,
            lane = const LANE,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// Adds four lanes up pairwise, lane `l` with lane `l + half`.
#[inline]
#[target_feature(enable = "neon")]
fn add_up(v: float32x4_t) -> f32 {
    let v = vadd_f32(vget_low_f32(v), vget_high_f32(v));
    vget_lane_f32::<0>(v) + vget_lane_f32::<1>(v)
}

#[inline]
#[target_feature(enable = "neon")]
fn load_bytes(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: sixteen readable bytes.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
fn load_codes(codes: &[i8; 16]) -> int8x16_t {
    // SAFETY: sixteen readable bytes.
    unsafe { vld1q_s8(codes.as_ptr()) }
}
