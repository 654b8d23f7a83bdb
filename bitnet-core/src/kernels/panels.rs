//! Ternary by int8 dot products of many tokens, for instructions that add four products to a 32-bit lane
//! (VPDPBUSD, SDOT).
//!
//! The codes of [`ROWS`] rows are unpacked into a panel: four columns of every row, then the next four. One
//! instruction multiplies them with four activations of a token, repeated in every lane; a lane holds the sum of a
//! row, so nothing is ever added up across lanes. A panel is unpacked once per call and stays in the first-level
//! cache while the tokens pass by.

use super::Rows;
use crate::blocks::i2_s;

/// Rows of a panel.
pub(super) const ROWS: usize = 16;

/// Columns of a step.
const COLUMNS: usize = 4;

/// Steps of a block of I2_S.
pub(super) const I2_S_STEPS: usize = i2_s::BLOCK / COLUMNS;

/// Most steps in a panel. Two panels and the activations of twelve tokens fit a first-level cache of 32 KiB.
const SPAN: usize = 160;

/// Most panels that are multiplied together.
pub(super) const PANELS: usize = 2;

/// Most tokens that are multiplied together.
pub(super) const TOKENS: usize = 12;

/// The codes of four columns of every row, one per byte; row `r` has bytes `4 * r..4 * r + 4`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Step(pub [u8; COLUMNS * ROWS]);

impl Step {
    pub const ZERO: Step = Step([0; COLUMNS * ROWS]);
}

/// Up to [`SPAN`] steps of [`ROWS`] rows.
pub(super) type Panel = [Step; SPAN];

/// The sums of the rows of a panel, for one token.
pub(super) type Sums = [i32; ROWS];

/// The sums of [`PANELS`] panels or fewer, for up to [`TOKENS`] tokens.
pub(super) type Tile = [[Sums; PANELS]; TOKENS];

/// Activations of tokens that are multiplied together.
#[derive(Clone, Copy)]
pub(super) struct Tokens {
    /// The first token's, at the first column of the panel.
    pub first: *const i8,
    /// From one token to the next.
    pub stride: usize,
    /// Tokens.
    pub n: usize,
}

/// What an instruction set brings for rows of blocks of `BYTES` bytes, which are unpacked to `STEPS` steps.
pub(super) trait Dot<const BYTES: usize, const STEPS: usize> {
    /// Most panels, and most tokens, that are multiplied together; their sums fill the registers.
    const PANELS: usize;
    const TOKENS: usize;

    /// Tokens, at least one, up to which it is faster to take one after the other, the rows staying in a cache, than to
    /// unpack them.
    const FEW: usize;

    /// All rows by one token, in the order of memory: several side by side come slower from it.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn token(weights: Rows, x: &[i8], out: &mut [i32]);

    /// Unpacks one block of each row. The code of column `c` goes to step `c / COLUMNS`.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn unpack(rows: [&[u8; BYTES]; ROWS], steps: &mut [Step; STEPS]);

    /// Sums of the products of the first `n_steps` steps, a multiple of four, of every panel with every token.
    ///
    /// # Safety
    /// The machine has the instructions; every token has `COLUMNS * n_steps` activations.
    unsafe fn multiply(panels: &[Panel], n_steps: usize, x: Tokens, sums: &mut Tile);
}

/// Dot products of codes with int8 activations, exact; as [`Kernel::i2_s_dots`](super::Kernel::i2_s_dots). Inlined, to
/// be compiled for the caller's instruction set.
///
/// # Safety
/// The machine has the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn dots<D: Dot<BYTES, STEPS>, const BYTES: usize, const STEPS: usize>(
    weights: Rows,
    x: &[i8],
    out: &mut [i32],
) {
    const { assert!(D::PANELS <= PANELS && D::TOKENS <= TOKENS && STEPS <= SPAN) };
    let columns = weights.columns;
    assert_eq!(columns % i2_s::BLOCK, 0);
    let n_blocks = columns.div_ceil(STEPS * COLUMNS);
    let n_tokens = x.len() / columns.max(1);
    let out = &mut out[..n_tokens * weights.n];
    if n_tokens <= D::FEW {
        for t in 0..n_tokens {
            let out = &mut out[t * weights.n..][..weights.n];
            // SAFETY: the caller's contract.
            unsafe { D::token(weights, &x[t * columns..][..columns], out) };
        }
        return;
    }
    out.fill(0);
    let mut panels = [[Step::ZERO; SPAN]; PANELS];
    let mut sums = [[[0; ROWS]; PANELS]; TOKENS];
    // Spans, and groups of tokens, of like sizes: none is much too small to be worth its overhead.
    let span = even(n_blocks, SPAN / STEPS);
    let group = even(n_tokens, D::TOKENS);
    for row in (0..weights.n).step_by(D::PANELS * ROWS) {
        let n_rows = (weights.n - row).min(D::PANELS * ROWS);
        for block in (0..n_blocks).step_by(span) {
            let n = span.min(n_blocks - block);
            let column = block * STEPS * COLUMNS;
            // The last block may reach beyond the row.
            let n_steps = (n * STEPS).min((columns - column) / COLUMNS);
            let panels = &mut panels[..n_rows.div_ceil(ROWS)];
            for (p, panel) in panels.iter_mut().enumerate() {
                // SAFETY: the caller's contract.
                unsafe { unpack::<D, BYTES, STEPS>(weights, row + p * ROWS, block, n, panel) };
            }
            for token in (0..n_tokens).step_by(group) {
                let n_group = group.min(n_tokens - token);
                let last = (token + n_group - 1) * columns;
                assert!(last + column + n_steps * COLUMNS <= x.len());
                let tokens = Tokens {
                    first: x[token * columns + column..].as_ptr(),
                    stride: columns,
                    n: n_group,
                };
                // SAFETY: the caller's contract; the activations of the last token have just been checked.
                unsafe { D::multiply(panels, n_steps, tokens, &mut sums) };
                for (t, sums) in sums[..n_group].iter().enumerate() {
                    let out = &mut out[(token + t) * weights.n + row..][..n_rows];
                    let (whole, rest) = out.as_chunks_mut::<ROWS>();
                    for (out, sums) in whole.iter_mut().zip(sums) {
                        add(out, sums);
                    }
                    if !rest.is_empty() {
                        add(rest, &sums[whole.len()]);
                    }
                }
            }
        }
    }
}

/// Unpacks `n` blocks, from block `first`, of the rows from `row`; behind the last row, that row again.
///
/// # Safety
/// The machine has the instructions of `D`.
#[inline(always)]
unsafe fn unpack<D: Dot<BYTES, STEPS>, const BYTES: usize, const STEPS: usize>(
    weights: Rows,
    row: usize,
    first: usize,
    n: usize,
    panel: &mut Panel,
) {
    let mut rows = [&[][..]; ROWS];
    for (r, bytes) in rows.iter_mut().enumerate() {
        let row = weights.row((row + r).min(weights.n - 1), (first + n) * BYTES);
        *bytes = &row[first * BYTES..];
    }
    let (steps, _) = panel.as_chunks_mut::<STEPS>();
    for (b, steps) in steps[..n].iter_mut().enumerate() {
        let mut blocks = [&[0; BYTES]; ROWS];
        for (block, row) in blocks.iter_mut().zip(rows) {
            *block = &row.as_chunks().0[b];
        }
        // SAFETY: the caller's contract.
        unsafe { D::unpack(blocks, steps) };
    }
}

/// The largest size up to `most` that parts of `n` can have if they are to be alike; at least one.
pub(super) fn even(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

#[inline(always)]
fn add(out: &mut [i32], sums: &[i32]) {
    for (out, sum) in out.iter_mut().zip(sums) {
        *out += sum;
    }
}
