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

/// The codes 0, 1, 2 for -1, 0, +1 in four bits for two weights. What stands for none is 0, as in the tables of TL2's
/// kernels.
fn two(code: u8) -> [i64; 2] {
    let code = match code {
        0..9 => i64::from(code),
        _ => 4,
    };
    [code / 3, code % 3]
}

/// Those in four bits and a sign for three weights: 13 is that of zeros.
fn three(code: u8, negative: bool) -> [i64; 3] {
    let code = match (code, negative) {
        (0..14, false) => 13 + i64::from(code),
        (0..14, true) => 13 - i64::from(code),
        _ => 13,
    };
    [code / 9, code / 3 % 3, code % 3]
}

/// The codes of a row: 0, 1, 2 for -1, 0, +1.
pub(super) fn tl1(matrix: &Tiled, row: usize) -> Vec<i64> {
    let Tiles { bm, bk, bmm } = matrix.tiles;
    let by = 256 / bmm;
    let i = row % bm;
    let mut codes = Vec::with_capacity(matrix.columns);
    for column in (0..matrix.columns).step_by(4) {
        let k = column % bk;
        // Of bytes, which hold four columns each.
        let at = row / bm * bm * matrix.columns / 4
            + column / bk * bm * bk / 4
            + i / bmm * bmm * bk / 4
            + k / by * bmm * by / 4
            + i % bmm / 16 * 16 * by / 4
            + k % by / 4 * 16
            + i % 16;
        let byte = matrix.data[at];
        codes.extend([byte >> 4, byte & 15].into_iter().flat_map(two));
    }
    codes
}

/// As [`tl1`].
pub(super) fn tl2(matrix: &Tiled, row: usize) -> Vec<i64> {
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
    let twos = signs + matrix.rows * threes / 24;
    let mut codes = Vec::with_capacity(matrix.columns);
    for column in (0..threes).step_by(6) {
        let code = matrix.data[at(threes, bk, column, 6) + byte];
        let word = signs + at(threes, bk, column, 24) + 2 * (lane % 16);
        let word = u16::from_le_bytes([matrix.data[word], matrix.data[word + 1]]);
        let first = column % 24 / 3;
        let negative = |which: usize| word << (2 * which + lane / 16) & 0x8000 != 0;
        codes.extend(three(code >> 4, negative(first)));
        codes.extend(three(code & 15, negative(first + 1)));
    }
    for column in (0..matrix.columns - threes).step_by(4) {
        let code = matrix.data[twos + at(matrix.columns - threes, 32, column, 4) + byte];
        codes.extend([code >> 4, code & 15].into_iter().flat_map(two));
    }
    codes
}
