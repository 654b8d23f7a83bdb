//! TL1 and TL2: where a weight is, by the indices of the arrays that upstream's converter cuts a matrix into
//! (`utils/convert-hf-to-gguf-bitnet.py`).

use bitnet_model::gguf::Tiles;

/// A matrix in tiles.
#[derive(Clone, Copy)]
pub(super) struct Tiled<'a> {
    pub data: &'a [u8],
    pub columns: usize,
    pub rows: usize,
    pub tiles: Tiles,
}

/// A code of two weights, or of three: which of them from the left; 0, 1, 2 for -1, 0, +1. What stands for none is 0, as in
/// the tables of TL2's kernels.
fn digit(code: u8, weights: u32, which: usize) -> i64 {
    let of = 3_i64.pow(weights);
    let code = i64::from(code);
    match code < of {
        true => code / 3_i64.pow(weights - 1 - which as u32) % 3,
        false => 1,
    }
}

fn nibble(byte: u8, low: bool) -> u8 {
    if low { byte & 15 } else { byte >> 4 }
}

/// Code `column` of row `row`.
pub(super) fn tl1(matrix: &Tiled, row: usize, column: usize) -> i64 {
    let Tiles { bm, bk, bmm } = matrix.tiles;
    let by = 256 / bmm;
    let (i, k) = (row % bm, column % bk);
    // Of bytes, which hold four columns each.
    let at = row / bm * bm * matrix.columns / 4
        + column / bk * bm * bk / 4
        + i / bmm * bmm * bk / 4
        + k / by * bmm * by / 4
        + i % bmm / 16 * 16 * by / 4
        + k % by / 4 * 16
        + i % 16;
    digit(nibble(matrix.data[at], column % 4 >= 2), 2, column % 2)
}

/// As [`tl1`].
pub(super) fn tl2(matrix: &Tiled, row: usize, column: usize) -> i64 {
    let Tiles { bm, bk, .. } = matrix.tiles;
    let threes = matrix.columns - matrix.columns % bk;
    // The second eight of 32 rows and the third change places.
    let (strip, lane) = (row % bm / 32, row % 32);
    let byte = [0, 16, 8, 24][lane / 8] + lane % 8;
    // The tile, its strip, and a group of columns in it that takes 32 bytes for 32 rows.
    let at = |all: usize, tile: usize, column: usize, group: usize| {
        let before = row / bm * bm * all + column / tile * bm * tile + strip * 32 * tile;
        (before / 32 + column % tile) / group * 32
    };
    let signs = matrix.rows * threes / 6;
    if column < threes {
        let code = matrix.data[at(threes, bk, column, 6) + byte];
        let code = nibble(code, column % 6 >= 3);
        let word = signs + at(threes, bk, column, 24) + 2 * (lane % 16);
        let word = u16::from_le_bytes([matrix.data[word], matrix.data[word + 1]]);
        let negative = word << (2 * (column % 24 / 3) + lane / 16) & 0x8000 != 0;
        // 13 is one of each.
        return match (code <= 13, negative) {
            (true, false) => digit(13 + code, 3, column % 3),
            (true, true) => digit(13 - code, 3, column % 3),
            (false, _) => 1,
        };
    }
    let pairs = signs + matrix.rows * threes / 24;
    let column = column - threes;
    let code = matrix.data[pairs + at(matrix.columns - threes, 32, column, 4) + byte];
    digit(nibble(code, column % 4 >= 2), 2, column % 2)
}
