//! Dot products and weighted sums of floats.

use std::arch::aarch64::*;

use super::{LANES, Rows, add_up};
use crate::kernels::{Float, portable};

/// Registers of [`LANES`] partial sums.
const QUADS: usize = LANES / 4;

type Lanes = [float32x4_t; QUADS];

/// An element type of the weights.
trait Load {
    const BYTES: usize;

    /// Four elements, widened.
    ///
    /// # Safety
    /// `4 * BYTES` bytes from `data` are readable.
    unsafe fn load(data: *const u8) -> float32x4_t;
}

struct F32;
struct F16;
struct Bf16;

impl Load for F32 {
    const BYTES: usize = 4;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(data: *const u8) -> float32x4_t {
        // SAFETY: the caller's contract. Loaded as bytes: a pointer to f32 would have to be aligned.
        vreinterpretq_f32_u8(unsafe { vld1q_u8(data) })
    }
}

impl Load for F16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(data: *const u8) -> float32x4_t {
        // SAFETY: the caller's contract.
        vcvt_f32_f16(vreinterpret_f16_u8(unsafe { vld1_u8(data) }))
    }
}

impl Load for Bf16 {
    const BYTES: usize = 2;

    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(data: *const u8) -> float32x4_t {
        // SAFETY: the caller's contract.
        let half = vreinterpret_u16_u8(unsafe { vld1_u8(data) });
        vreinterpretq_f32_u32(vshll_n_u16::<16>(half))
    }
}

/// Sixteen elements.
///
/// # Safety
/// `LANES * BYTES` bytes from `data` are readable.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load<L: Load>(data: *const u8) -> Lanes {
    let mut lanes = [vdupq_n_f32(0.0); QUADS];
    for (i, lanes) in lanes.iter_mut().enumerate() {
        // SAFETY: the caller's contract.
        *lanes = unsafe { L::load(data.add(4 * i * L::BYTES)) };
    }
    lanes
}

#[inline]
#[target_feature(enable = "neon")]
fn add_products(sums: &mut Lanes, w: &Lanes, x: &Lanes) {
    for (sum, (w, x)) in sums.iter_mut().zip(w.iter().zip(x)) {
        *sum = vaddq_f32(*sum, vmulq_f32(*w, *x));
    }
}

/// See [`Kernel::float_dots`](crate::kernels::Kernel::float_dots).
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn dots(ty: Float, weights: Rows, x: &[f32], out: &mut [f32]) {
    match ty {
        Float::F32 => dots_as::<F32>(weights, x, out),
        Float::F16 => dots_as::<F16>(weights, x, out),
        Float::Bf16 => dots_as::<Bf16>(weights, x, out),
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn dots_as<L: Load>(weights: Rows, x: &[f32], out: &mut [f32]) {
    let columns = weights.columns;
    let n_tokens = x.len() / columns.max(1);
    assert!(out.len() >= n_tokens * weights.n);
    for r in 0..weights.n {
        let mut t = 0;
        while t < n_tokens {
            let x = &x[t * columns..];
            let out = &mut out[t * weights.n + r..];
            t += match n_tokens - t {
                4.. => tile::<L, 4>(weights, r, x, out),
                _ => tile::<L, 1>(weights, r, x, out),
            };
        }
    }
}

/// Row `r` by `T` tokens; `out` is strided by `weights.n`. Returns `T`.
#[inline]
#[target_feature(enable = "neon")]
fn tile<L: Load, const T: usize>(weights: Rows, r: usize, x: &[f32], out: &mut [f32]) -> usize {
    let columns = weights.columns;
    let whole = columns - columns % LANES;
    let row = weights.row(r, columns * L::BYTES);
    let tokens: [&[f32]; T] = std::array::from_fn(|t| &x[t * columns..][..columns]);
    let mut sums = [[vdupq_n_f32(0.0); QUADS]; T];
    for c in (0..whole).step_by(LANES) {
        // SAFETY: the row has `columns * BYTES` bytes and `c + LANES <= columns`.
        let w = unsafe { load::<L>(row.as_ptr().add(c * L::BYTES)) };
        for (sums, token) in sums.iter_mut().zip(tokens) {
            // SAFETY: every token has `columns` values and `c + LANES <= columns`.
            let x = unsafe { load::<F32>(token.as_ptr().add(c).cast()) };
            add_products(sums, &w, &x);
        }
    }
    if whole < columns {
        let mut w = [0u8; LANES * 4];
        let tail = &row[whole * L::BYTES..];
        w[..tail.len()].copy_from_slice(tail);
        // SAFETY: `w` has room for `LANES` elements of any type.
        let w = unsafe { load::<L>(w.as_ptr()) };
        for (sums, token) in sums.iter_mut().zip(tokens) {
            let mut x = [0f32; LANES];
            let tail = &token[whole..];
            x[..tail.len()].copy_from_slice(tail);
            // SAFETY: `x` has `LANES` values.
            let x = unsafe { load::<F32>(x.as_ptr().cast()) };
            add_products(sums, &w, &x);
        }
    }
    for (t, [a, b, c, d]) in sums.into_iter().enumerate() {
        let sums = vaddq_f32(vaddq_f32(a, c), vaddq_f32(b, d));
        out[t * weights.n] = add_up(sums);
    }
    T
}

/// See [`Kernel::f16_weighted_sums`](crate::kernels::Kernel::f16_weighted_sums).
#[target_feature(enable = "neon")]
pub(in crate::kernels) fn f16_weighted_sums(rows: Rows, p: &[f32], out: &mut [f32]) {
    for (p, out) in p
        .chunks_exact(rows.n)
        .zip(out.chunks_exact_mut(rows.columns))
    {
        let (wide, rest) = out.as_chunks_mut::<32>();
        let mut c = 0;
        for out in wide {
            sum_columns::<8>(rows, c, p, out);
            c += 32;
        }
        let (narrow, rest) = rest.as_chunks_mut::<4>();
        for out in narrow {
            sum_columns::<1>(rows, c, p, out);
            c += 4;
        }
        for out in rest {
            *out = portable::f16_weighted_column(rows, c, p);
            c += 1;
        }
    }
}

/// `4 * V` columns from column `c`.
#[inline]
#[target_feature(enable = "neon")]
fn sum_columns<const V: usize>(rows: Rows, c: usize, p: &[f32], out: &mut [f32]) {
    assert!(c + 4 * V <= rows.columns && out.len() >= 4 * V);
    let mut sums = [vdupq_n_f32(0.0); V];
    for (r, &p) in p.iter().enumerate() {
        let row = rows.row(r, rows.columns * 2);
        for (i, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the row has `columns` F16 and `c + 4 * V <= columns`.
            let v = unsafe { F16::load(row.as_ptr().add(2 * (c + 4 * i))) };
            *sum = vaddq_f32(*sum, vmulq_n_f32(v, p));
        }
    }
    for (i, sum) in sums.into_iter().enumerate() {
        // SAFETY: `out` has `4 * V` values.
        unsafe { vst1q_f32(out.as_mut_ptr().add(4 * i), sum) };
    }
}
