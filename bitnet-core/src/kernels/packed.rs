//! Dot products of [packed](crate::blocks::packed) weights with Q8_0 activations, of few tokens and of many.
//!
//! Levels are not below zero, as the instructions want them, and by one too large: the sum of a block's activations comes
//! off. For many tokens the levels of [`ROWS`] rows are unpacked as in [`panels`](super::panels), so that a lane holds the
//! sum of a row; of one block at a time, whose scales are applied before the next.

use super::Rows;
use super::panels::{ROWS, Step};
use crate::blocks::{packed, q8_0};

/// Weights of a row in a step.
const COLUMNS: usize = 4;

/// Steps of a block of activations.
pub(super) const STEPS: usize = q8_0::BLOCK / COLUMNS;

/// Most blocks of activations beside a block of weights.
pub(super) const GROUPS: usize = 4;

/// Most tokens that are multiplied together.
const TOKENS: usize = 8;

/// The results of a panel, for one token.
pub(super) type Sums = [f32; ROWS];

/// A block of every row of a panel.
pub(super) struct Panel {
    /// Of each block of activations, one after the other.
    pub steps: [Step; GROUPS * STEPS],
    /// The blocks' scales.
    pub scales: Sums,
}

/// The activations of a token.
#[derive(Clone, Copy)]
pub(super) struct Token<'a> {
    pub codes: &'a [[i8; q8_0::BLOCK]],
    /// Of each block.
    pub scales: &'a [f32],
    /// The sum of each block's codes, negative.
    pub minus: &'a [i32],
}

impl<'a> Token<'a> {
    /// Blocks `first..first + n`.
    #[inline(always)]
    pub(super) fn blocks(&self, first: usize, n: usize) -> Token<'a> {
        Token {
            codes: &self.codes[first..first + n],
            scales: &self.scales[first..first + n],
            minus: &self.minus[first..first + n],
        }
    }
}

/// What an instruction set brings.
pub(super) trait Dot {
    /// Most tokens that are multiplied together; their sums fill the registers.
    const TOKENS: usize;

    /// Tokens up to which it is faster to take one after the other than to unpack rows.
    const FEW: usize;

    /// The sums of blocks of activations' codes.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn sums(codes: &[[i8; q8_0::BLOCK]; 4]) -> [i32; 4];

    /// A row by a token.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn row<const BITS: usize, const BYTES: usize>(row: &[[u8; BYTES]], x: Token) -> f32;

    /// Adds the products of a panel with up to [`TOKENS`](Self::TOKENS) tokens, of `groups` blocks of activations each: two
    /// or four.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn multiply(panel: &Panel, groups: usize, x: &[Token], sums: &mut [Sums]);
}

/// See [`Kernel::packed_dots`](super::Kernel::packed_dots). Inlined, to be compiled for the caller's instruction set.
///
/// # Safety
/// The machine has the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn dots<D: Dot, const BITS: usize, const BYTES: usize>(
    weights: Rows,
    codes: &[i8],
    scales: &[f32],
    out: &mut [f32],
) {
    const { assert!(D::TOKENS <= TOKENS && packed::groups(BITS, BYTES) <= GROUPS) };
    let columns = weights.columns;
    assert_eq!(columns % packed::block(BITS, BYTES), 0);
    let n_blocks = columns / packed::block(BITS, BYTES);
    let row_groups = columns / q8_0::BLOCK;
    let n_tokens = codes.len() / columns.max(1);
    let out = &mut out[..n_tokens * weights.n];
    let (codes, _) = codes.as_chunks::<{ q8_0::BLOCK }>();
    let mut minus = vec![0; codes.len()];
    let (fours, rest) = codes.as_chunks::<4>();
    for (minus, codes) in minus.as_chunks_mut::<4>().0.iter_mut().zip(fours) {
        // SAFETY: the caller's contract.
        *minus = unsafe { D::sums(codes) }.map(|sum| -sum);
    }
    for (minus, codes) in minus[4 * fours.len()..].iter_mut().zip(rest) {
        *minus = -codes.iter().map(|&code| i32::from(code)).sum::<i32>();
    }
    let token = |t: usize| {
        let all = Token {
            codes,
            scales,
            minus: &minus,
        };
        all.blocks(t * row_groups, row_groups)
    };
    let blocks = |row| weights.row(row, n_blocks * BYTES).as_chunks::<BYTES>().0;
    if n_tokens <= D::FEW {
        for t in 0..n_tokens {
            let x = token(t);
            for (r, out) in out[t * weights.n..][..weights.n].iter_mut().enumerate() {
                // SAFETY: the caller's contract.
                *out = unsafe { D::row::<BITS, BYTES>(blocks(r), x) };
            }
        }
        return;
    }
    let mut panel = Panel {
        steps: [Step([0; COLUMNS * ROWS]); GROUPS * STEPS],
        scales: [0.0; ROWS],
    };
    let groups = packed::groups(BITS, BYTES);
    let mut sums = vec![[0.0; ROWS]; n_tokens];
    for row in (0..weights.n).step_by(ROWS) {
        let n_rows = (weights.n - row).min(ROWS);
        // Behind the last row, that row again.
        let rows: [_; ROWS] = std::array::from_fn(|r| blocks((row + r).min(weights.n - 1)));
        sums.fill([0.0; ROWS]);
        for b in 0..n_blocks {
            unpack::<BITS, BYTES>(rows.map(|row| &row[b]), &mut panel);
            for first in (0..n_tokens).step_by(D::TOKENS) {
                let n = D::TOKENS.min(n_tokens - first);
                let none = Token {
                    codes: &[],
                    scales: &[],
                    minus: &[],
                };
                let mut x = [none; TOKENS];
                for (t, x) in x[..n].iter_mut().enumerate() {
                    *x = token(first + t).blocks(b * groups, groups);
                }
                // SAFETY: the caller's contract.
                unsafe { D::multiply(&panel, groups, &x[..n], &mut sums[first..first + n]) };
            }
        }
        for (out, sums) in out.chunks_exact_mut(weights.n).zip(&sums) {
            out[row..row + n_rows].copy_from_slice(&sums[..n_rows]);
        }
    }
}

/// The levels of [`COLUMNS`] codes.
const fn levels<const BITS: usize>() -> [[u8; COLUMNS]; 256] {
    let mut table = [[0; COLUMNS]; 256];
    let mut codes = 0;
    while codes < 1 << (BITS * COLUMNS) {
        let mut i = 0;
        while i < COLUMNS {
            let code = (codes >> (BITS * i)) as u8 & ((1 << BITS) - 1);
            table[codes][i] = if BITS == 1 { 2 * code } else { code };
            i += 1;
        }
        codes += 1;
    }
    table
}

#[inline(always)]
fn unpack<const BITS: usize, const BYTES: usize>(rows: [&[u8; BYTES]; ROWS], panel: &mut Panel) {
    for (r, bytes) in rows.into_iter().enumerate() {
        let (d, codes) = packed::split(bytes);
        panel.scales[r] = d;
        let per_byte = 8 / (BITS * COLUMNS);
        for (steps, byte) in panel.steps.chunks_exact_mut(per_byte).zip(codes) {
            for (i, step) in steps.iter_mut().enumerate() {
                let codes = byte >> (BITS * COLUMNS * i % 8);
                let codes = codes & (((1 << (BITS * COLUMNS)) - 1) as u8);
                let levels = const { &levels::<BITS>() }[usize::from(codes)];
                step.0[COLUMNS * r..][..COLUMNS].copy_from_slice(&levels);
            }
        }
    }
}
