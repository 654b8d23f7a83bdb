//! Products of ternary blocks that have a scale each (TQ1_0, TQ2_0) with Q8_K activations of many tokens, in
//! [panels](super::panels) of one block of every row.
//!
//! A panel holds codes, which are 1 more than the weights: the sum of the activations comes off.

use super::panels::{PANELS, Panel, ROWS, Step, TOKENS, Tile, Tokens, even};
use super::{Q8K, Rows};
use crate::blocks::q6_k;

/// Weights of a block.
pub(super) const BLOCK: usize = q6_k::BLOCK;

/// Steps of a block.
pub(super) const STEPS: usize = BLOCK / 4;

/// What an instruction set brings for rows of blocks of `BYTES` bytes, the last two of which are the scale.
pub(super) trait BlockDot<const BYTES: usize> {
    /// Most panels, and most tokens, that are multiplied together; their sums fill the registers.
    const PANELS: usize;
    const TOKENS: usize;

    /// Tokens up to which it is faster to take one after the other, the rows staying in a cache, than to unpack them.
    const FEW: usize;

    /// All rows by one token, in the order of memory.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn token(weights: Rows, x: Q8K, out: &mut [f32]);

    /// Unpacks one block of each row. The code of column `c` goes to step `c / 4`.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn unpack(rows: [&[u8; BYTES]; ROWS], steps: &mut [Step; STEPS]);

    /// The scale of one block of each row.
    ///
    /// # Safety
    /// The machine has the instructions.
    unsafe fn scales(rows: [&[u8; BYTES]; ROWS]) -> [f32; ROWS];

    /// Sums of the products of the first [`STEPS`] steps of every panel with every token.
    ///
    /// # Safety
    /// The machine has the instructions; every token has [`BLOCK`] activations.
    unsafe fn multiply(panels: &[Panel], x: Tokens, sums: &mut Tile);
}

/// As [`Kernel::tq2_0_dots`](super::Kernel::tq2_0_dots). Inlined, to be compiled for the caller's instruction set.
///
/// # Safety
/// The machine has the instructions of `D`.
#[inline(always)]
pub(super) unsafe fn dots<D: BlockDot<BYTES>, const BYTES: usize>(
    weights: Rows,
    x: Q8K,
    out: &mut [f32],
) {
    const { assert!(D::PANELS <= PANELS && D::TOKENS <= TOKENS) };
    let columns = weights.columns;
    assert_eq!(columns % BLOCK, 0);
    let n_blocks = columns / BLOCK;
    let n_tokens = x.codes.len() / columns.max(1);
    let out = &mut out[..n_tokens * weights.n];
    if n_tokens <= D::FEW {
        for t in 0..n_tokens {
            let x = Q8K {
                codes: &x.codes[t * columns..][..columns],
                scales: &x.scales[t * n_blocks..][..n_blocks],
                sums: &x.sums[t * n_blocks..][..n_blocks],
            };
            // SAFETY: the caller's contract.
            unsafe { D::token(weights, x, &mut out[t * weights.n..][..weights.n]) };
        }
        return;
    }
    out.fill(0.0);
    let mut panels: [Panel; PANELS] = [[Step::ZERO; _]; _];
    let mut sums: Tile = [[[0; ROWS]; PANELS]; TOKENS];
    let group = even(n_tokens, D::TOKENS);
    for row in (0..weights.n).step_by(D::PANELS * ROWS) {
        let n_rows = (weights.n - row).min(D::PANELS * ROWS);
        let panels = &mut panels[..n_rows.div_ceil(ROWS)];
        let mut rows = [[&[][..]; ROWS]; PANELS];
        for (r, row_blocks) in rows.as_flattened_mut().iter_mut().enumerate() {
            // Behind the last row, that row again.
            let row = (row + r).min(weights.n - 1);
            *row_blocks = weights.row(row, n_blocks * BYTES).as_chunks::<BYTES>().0;
        }
        for block in 0..n_blocks {
            let mut scales = [[0f32; ROWS]; PANELS];
            for ((panel, scales), rows) in panels.iter_mut().zip(&mut scales).zip(&rows) {
                let mut blocks = [&[0; BYTES]; ROWS];
                for (block_of_row, row) in blocks.iter_mut().zip(rows) {
                    *block_of_row = &row[block];
                }
                let steps = panel.first_chunk_mut().expect("a panel is longer");
                // SAFETY: the caller's contract.
                unsafe {
                    D::unpack(blocks, steps);
                    *scales = D::scales(blocks);
                }
            }
            for token in (0..n_tokens).step_by(group) {
                let n_group = group.min(n_tokens - token);
                let column = block * BLOCK;
                assert!((token + n_group - 1) * columns + column + BLOCK <= x.codes.len());
                let tokens = Tokens {
                    first: x.codes[token * columns + column..].as_ptr(),
                    stride: columns,
                    n: n_group,
                };
                // SAFETY: the caller's contract; the activations of the last token have just been checked.
                unsafe { D::multiply(panels, tokens, &mut sums) };
                for (t, sums) in (token..).zip(&sums[..n_group]) {
                    let out = &mut out[t * weights.n + row..][..n_rows];
                    let (x_scale, x_sum) =
                        (x.scales[t * n_blocks + block], x.sums[t * n_blocks + block]);
                    let add = |out: &mut [f32], p: usize| {
                        for ((out, sum), scale) in out.iter_mut().zip(&sums[p]).zip(&scales[p]) {
                            *out += x_scale * scale * (sum - x_sum) as f32;
                        }
                    };
                    let (whole, rest) = out.as_chunks_mut::<ROWS>();
                    let n_whole = whole.len();
                    for (p, out) in whole.iter_mut().enumerate() {
                        add(out, p);
                    }
                    if !rest.is_empty() {
                        add(rest, n_whole);
                    }
                }
            }
        }
    }
}

/// The steps that the four bytes of a word of a TQ2_0 block are unpacked to, one per code in the bytes.
#[inline(always)]
pub(super) fn tq2_0_steps(word: usize) -> [usize; 4] {
    let first = word / 8 * 32 + word % 8;
    [first, first + 8, first + 16, first + 24]
}

/// The steps that the four bytes of a word of a TQ1_0 block are unpacked to, one per digit: the first, how far apart, how
/// many.
#[inline(always)]
pub(super) fn tq1_0_steps(word: usize) -> (usize, usize, usize) {
    match word {
        0..8 => (word, 8, 5),
        8..12 => (40 + word - 8, 4, 5),
        _ => (60, 1, 4),
    }
}

/// What multiplies the bytes of a TQ1_0 block so that the digit of weight `2 * i`, and of the next, comes first.
#[cfg(target_arch = "x86_64")]
pub(super) static TQ1_0_WORTHS: [u16; BLOCK / 2] = {
    let mut worths = [0; BLOCK / 2];
    let mut i = 0;
    while i < worths.len() {
        worths[i] = crate::blocks::tq1_0::worth(2 * i) as u16;
        i += 1;
    }
    worths
};

/// Words of a TQ1_0 block.
pub(super) const TQ1_0_WORDS: usize = 13;
