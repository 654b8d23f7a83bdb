//! Plain Rust, in the lane structure that the module above defines.

use std::ops::AddAssign;

use half::{bf16, f16};

use super::{Float, LANES, Q8K, QUANT_LANES, Rows, block_dots};
use crate::blocks::{i2_s, i7, last_scale, packed, q6_k, q8_0, trits};

pub(super) fn i2_s_dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    assert_eq!(weights.columns % i2_s::BLOCK, 0);
    integer_dots(weights, weights.columns / 4, codes, out, |row, x| {
        let (blocks, _) = row.as_chunks::<{ i2_s::BLOCK_BYTES }>();
        let (x, _) = x.as_chunks::<{ i2_s::BLOCK }>();
        blocks.iter().zip(x).map(|(b, x)| i2_s_block(b, x)).sum()
    });
}

/// `out[t][r] = dot(row r, codes of token t)`, for rows of `row_bytes`.
fn integer_dots(
    weights: Rows,
    row_bytes: usize,
    codes: &[i8],
    out: &mut [i32],
    dot: impl Fn(&[u8], &[i8]) -> i32,
) {
    let tokens = codes.chunks_exact(weights.columns);
    for (x, out) in tokens.zip(out.chunks_exact_mut(weights.n)) {
        for (r, out) in out.iter_mut().enumerate() {
            *out = dot(weights.row(r, row_bytes), x);
        }
    }
}

fn i2_s_block(block: &[u8; i2_s::BLOCK_BYTES], x: &[i8; i2_s::BLOCK]) -> i32 {
    let mut sum = 0;
    for group in 0..4 {
        let x = &x[group * 32..][..32];
        for (byte, x) in block.iter().zip(x) {
            sum += i32::from(byte >> (6 - 2 * group) & 3) * i32::from(*x);
        }
    }
    sum
}

pub(super) fn trit_dots(weights: Rows, codes: &[i8], out: &mut [i32]) {
    let row_bytes = trits::row_bytes(weights.columns);
    integer_dots(weights, row_bytes, codes, out, |row, x| {
        let (blocks, _) = row.as_chunks::<{ trits::BLOCK_BYTES }>();
        let x = x.chunks(trits::BLOCK);
        blocks.iter().zip(x).map(|(b, x)| trit_block(b, x)).sum()
    });
}

fn trit_block(block: &[u8; trits::BLOCK_BYTES], x: &[i8]) -> i32 {
    let mut sum = 0;
    for (digit, x) in x.chunks(trits::BLOCK_BYTES).enumerate() {
        for (byte, x) in block.iter().zip(x) {
            sum += i32::from(byte / 3u8.pow(digit as u32) % 3) * i32::from(*x);
        }
    }
    sum
}

pub(super) fn float_dots(ty: Float, weights: Rows, x: &[f32], out: &mut [f32]) {
    match ty {
        Float::F32 => dots_as(weights, x, out, f32::from_le_bytes),
        Float::F16 => dots_as(weights, x, out, |b| f16::from_le_bytes(b).to_f32()),
        Float::Bf16 => dots_as(weights, x, out, |b| bf16::from_le_bytes(b).to_f32()),
    }
}

fn dots_as<const BYTES: usize>(
    weights: Rows,
    x: &[f32],
    out: &mut [f32],
    decode: impl Fn([u8; BYTES]) -> f32,
) {
    for (x, out) in x
        .chunks_exact(weights.columns)
        .zip(out.chunks_exact_mut(weights.n))
    {
        for (r, out) in out.iter_mut().enumerate() {
            let (row, _) = weights.row(r, weights.columns * BYTES).as_chunks::<BYTES>();
            let mut lanes = [0f32; LANES];
            for (w, x) in row.chunks(LANES).zip(x.chunks(LANES)) {
                let mut products = [0f32; LANES];
                for ((p, w), x) in products.iter_mut().zip(w).zip(x) {
                    *p = decode(*w) * x;
                }
                for (lane, p) in lanes.iter_mut().zip(products) {
                    *lane += p;
                }
            }
            *out = add_up(&mut lanes);
        }
    }
}

/// Adds lanes pairwise, lane `l` with lane `l + half`.
#[inline(always)]
pub(super) fn add_up<T: Copy + AddAssign>(lanes: &mut [T]) -> T {
    let mut n = lanes.len();
    while n > 1 {
        n /= 2;
        for l in 0..n {
            lanes[l] += lanes[l + n];
        }
    }
    lanes[0]
}

pub(super) fn q8_0_dots(weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
    block_dots(
        weights,
        codes,
        scales,
        out,
        |row: &[[u8; q8_0::BLOCK_BYTES]], x: &[[i8; q8_0::BLOCK]], scales| {
            let mut lanes = [0f32; QUANT_LANES];
            for ((block, x), x_scale) in row.iter().zip(x).zip(scales) {
                let (d, q) = q8_0::split(block);
                let d = d * x_scale;
                for (l, lane) in lanes.iter_mut().enumerate() {
                    let sum: i32 = (4 * l..4 * l + 4)
                        .map(|i| i32::from(q[i] as i8) * i32::from(x[i]))
                        .sum();
                    *lane += d * sum as f32;
                }
            }
            add_up(&mut lanes)
        },
    );
}

pub(super) fn q6_k_dots(weights: Rows, codes: &[i8], scales: &[f32], out: &mut [f32]) {
    block_dots(
        weights,
        codes,
        scales,
        out,
        |row: &[[u8; q6_k::BLOCK_BYTES]], x: &[[i8; q6_k::BLOCK]], scales| {
            let mut lanes = [0f32; QUANT_LANES];
            for ((bytes, x), x_scale) in row.iter().zip(x).zip(scales) {
                let block = q6_k::Block::new(bytes);
                let mut sums = [0i32; QUANT_LANES];
                for (i, &x) in x.iter().enumerate() {
                    sums[i % 32 / 4] += block.scale(i) * block.value(i) * i32::from(x);
                }
                let d = x_scale * block.d;
                for (lane, sum) in lanes.iter_mut().zip(sums) {
                    *lane += d * sum as f32;
                }
            }
            add_up(&mut lanes)
        },
    );
}

/// Rows of blocks of 256 codes, 1 less than which is a weight before scaling, with a scale at the end.
pub(super) fn ternary_block_dots<const BYTES: usize>(
    weights: Rows,
    x: Q8K,
    out: &mut [f32],
    code: impl Fn(&[u8; BYTES], usize) -> u8,
) {
    block_dots(
        weights,
        x.codes,
        x.scales,
        out,
        |row: &[[u8; BYTES]], x: &[[i8; q6_k::BLOCK]], scales| {
            let mut sum = 0f32;
            for ((block, x), x_scale) in row.iter().zip(x).zip(scales) {
                let products = x.iter().enumerate();
                let products =
                    products.map(|(j, &x)| (i32::from(code(block, j)) - 1) * i32::from(x));
                let dot: i32 = products.sum();
                sum += x_scale * last_scale(block) * dot as f32;
            }
            sum
        },
    );
}

/// For each block of activations, the products of its codes are added up in the integers, and the sum is multiplied with
/// the scale; those of a block of weights are added up pairwise and multiplied with its scale, as in ggml's
/// `ggml_vec_dot_q1_0_q8_0_generic`, and blocks are added in order.
pub(super) fn packed_dots<const BITS: usize, const BYTES: usize>(
    weights: Rows,
    codes: &[i8],
    scales: &[f32],
    out: &mut [f32],
) {
    let (block, groups) = (packed::block(BITS, BYTES), packed::groups(BITS, BYTES));
    assert_eq!(weights.columns % block, 0);
    let codes = codes.chunks_exact(weights.columns);
    let tokens = codes.zip(scales.chunks_exact(weights.columns / q8_0::BLOCK));
    for ((x, scales), out) in tokens.zip(out.chunks_exact_mut(weights.n)) {
        for (r, out) in out.iter_mut().enumerate() {
            let row = weights.row(r, weights.columns / block * BYTES);
            let x = x.as_chunks::<{ q8_0::BLOCK }>().0.chunks_exact(groups);
            let x = x.zip(scales.chunks_exact(groups));
            *out = 0.0;
            for (bytes, (x, scales)) in row.as_chunks::<BYTES>().0.iter().zip(x) {
                let (d, bits) = packed::split(bytes);
                let mut sums = [0.0; 4];
                for (g, ((x, scale), sum)) in x.iter().zip(scales).zip(&mut sums).enumerate() {
                    let weight = |i| i32::from(packed::level::<BITS>(bits, i)) - 1;
                    let products = (q8_0::BLOCK * g..).zip(x);
                    let dot: i32 = products.map(|(i, &x)| weight(i) * i32::from(x)).sum();
                    *sum = scale * dot as f32;
                }
                *out += d * add_up(&mut sums[..groups]);
            }
        }
    }
}

pub(super) fn i7_dots(weights: Rows, [high, low]: [&[i8]; 2], out: &mut [i32]) {
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        let row = weights.row(r, i7::row_bytes(weights.columns));
        let blocks = row.as_chunks().0.iter();
        let values = blocks.flat_map(|block| (0..i7::BLOCK).map(|i| i7::value(block, i)));
        let x = high.iter().zip(low);
        let products = values
            .zip(x)
            .map(|(w, (&h, &l))| i32::from(w) * (256 * i32::from(h) + i32::from(l)));
        *out = products.sum();
    }
}

pub(super) fn i8_dots(weights: Rows, x: &[i16], out: &mut [i32]) {
    for (r, out) in out[..weights.n].iter_mut().enumerate() {
        *out = i8_dot(weights.row(r, weights.columns), x);
    }
}

/// One row, or what is left of it.
pub(super) fn i8_dot(row: &[u8], x: &[i16]) -> i32 {
    let products = row
        .iter()
        .zip(x)
        .map(|(&w, &x)| i32::from(w as i8) * i32::from(x));
    products.sum()
}

/// Column `c` of the weighted sums of F16 rows.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(super) fn f16_weighted_column(rows: Rows, c: usize, p: &[f32]) -> f32 {
    let mut sum = 0f32;
    for (r, p) in p.iter().enumerate() {
        let row = rows.row(r, rows.columns * 2);
        sum += p * f16::from_le_bytes([row[2 * c], row[2 * c + 1]]).to_f32();
    }
    sum
}

pub(super) fn f16_weighted_sums(rows: Rows, p: &[f32], out: &mut [f32]) {
    for (p, out) in p
        .chunks_exact(rows.n)
        .zip(out.chunks_exact_mut(rows.columns))
    {
        out.fill(0.0);
        for (r, p) in p.iter().enumerate() {
            let (row, _) = rows.row(r, rows.columns * 2).as_chunks::<2>();
            for (out, v) in out.iter_mut().zip(row) {
                *out += p * f16::from_le_bytes(*v).to_f32();
            }
        }
    }
}
