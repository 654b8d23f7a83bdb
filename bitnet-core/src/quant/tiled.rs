//! TL1 and TL2 weights: ternary, in the order in which BitNet.cpp's kernels read them. They are brought into the form of
//! [I2_S](super::i2_s) when a model is loaded, and multiplied as such: those kernels sum up the same codes of activations,
//! exactly, and scale the sums by the same operations. Layout: [`Tiling`](crate::gguf::Tiling).

use super::WeightFormat;
use super::activations::{Activations, Codes, Encoding};
use super::i2_s;
use crate::blocks::i2_s::{BLOCK, BLOCK_BYTES};
use crate::gguf::{TensorInfo, TensorType, Tiles};
use crate::kernels::{Kernel, Rows};

/// Weights of this type, unpacked.
#[derive(Debug)]
pub(crate) struct Format(pub TensorType);

impl WeightFormat for Format {
    fn ty(&self) -> TensorType {
        self.0
    }

    fn encoding(&self) -> Encoding {
        Encoding::Codes(Codes::I8)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        i2_s::Format.dequantize_row(row, out);
    }

    fn dots(&self, kernel: Kernel, weights: Rows, scale: f32, x: Activations, out: &mut [f32]) {
        i2_s::Format.dots(kernel, weights, scale, x, out);
    }

    fn row_bytes(&self, columns: usize) -> usize {
        columns.div_ceil(BLOCK) * BLOCK_BYTES
    }

    fn unpack(&self, info: &TensorInfo, data: &[u8]) -> Option<Result<Vec<u8>, String>> {
        Some(unpack(info, data))
    }
}

/// Rows as in I2_S, whose last block is filled up.
fn unpack(info: &TensorInfo, data: &[u8]) -> Result<Vec<u8>, String> {
    let tiling = match info.tiling() {
        Some(tiling) => tiling?,
        None => return Err(format!("{} has no tiles", info.ty)),
    };
    let [columns, rows] = info.shape[..] else {
        return Err(format!("{} is for matrices", info.ty));
    };
    let (rows, columns) = (rows as usize, columns as usize);
    let short = || "its data do not hold its shape".to_owned();
    let codes = info.nibbles(data).ok_or_else(short)?;
    let undefined: usize = codes.iter().map(|codes| codes.undefined()).sum();
    if undefined > 0 {
        return Err(format!("{undefined} of its codes stand for no weights"));
    }
    let mut out = Unpacked::new(rows, columns);
    match codes[..] {
        [twos] => tl1(twos.bytes, tiling.tiles, &mut out),
        [threes, twos] => {
            let signs = &data[threes.bytes.len()..][..threes.bytes.len() / 4];
            tl2(threes.bytes, signs, twos.bytes, tiling.tiles, &mut out);
        }
        _ => return Err(short()),
    }
    Ok(out.bytes)
}

/// Codes as in I2_S.
struct Unpacked {
    rows: usize,
    columns: usize,
    row_bytes: usize,
    bytes: Vec<u8>,
}

impl Unpacked {
    fn new(rows: usize, columns: usize) -> Unpacked {
        let row_bytes = columns.div_ceil(BLOCK) * BLOCK_BYTES;
        Unpacked {
            rows,
            columns,
            row_bytes,
            bytes: vec![0; rows * row_bytes],
        }
    }

    /// Puts codes 0, 1, 2 side by side.
    #[inline(always)]
    fn put<const N: usize>(&mut self, row: usize, column: usize, codes: [u8; N]) {
        let out = &mut self.bytes[row * self.row_bytes..][..self.row_bytes];
        for (column, code) in (column..).zip(codes) {
            let (block, j) = (column / BLOCK, column % BLOCK);
            out[block * BLOCK_BYTES + j % 32] |= code << (6 - 2 * (j / 32));
        }
    }
}

/// Codes of two weights.
const TWOS: [[u8; 2]; 16] = digits();
/// Codes of three weights, if their sum is not negative. The sum is that of digits -1, 0, 1, so 13 more is of digits 0 to 2.
const THREES: [[u8; 3]; 16] = {
    let mut threes = [[1; 3]; 16];
    let mut value = 0;
    while value < 14 {
        let digits = value as u8 + 13;
        threes[value] = [digits / 9, digits / 3 % 3, digits % 3];
        value += 1;
    }
    threes
};

const fn digits() -> [[u8; 2]; 16] {
    let mut twos = [[1; 2]; 16];
    let mut code = 0;
    while code < 9 {
        twos[code] = [code as u8 / 3, code as u8 % 3];
        code += 1;
    }
    twos
}

/// Two codes of two weights.
fn twos(byte: u8) -> [u8; 4] {
    let [a, b] = TWOS[usize::from(byte >> 4)];
    let [c, d] = TWOS[usize::from(byte & 15)];
    [a, b, c, d]
}

fn tl1(data: &[u8], Tiles { bm, bk, bmm }: Tiles, out: &mut Unpacked) {
    let group = 256 / bmm;
    let mut bytes = data.iter();
    for tile in (0..out.rows).step_by(bm) {
        for tile_column in (0..out.columns).step_by(bk) {
            for strip in (tile..tile + bm).step_by(bmm) {
                for first in (tile_column..tile_column + bk).step_by(group) {
                    for row in (strip..strip + bmm).step_by(16) {
                        for column in (first..first + group).step_by(4) {
                            for (row, &byte) in (row..row + 16).zip(&mut bytes) {
                                out.put(row, column, twos(byte));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Rows of a strip in the order of their bytes.
const ROWS_OF_32: [usize; 4] = [0, 16, 8, 24];

fn tl2(threes: &[u8], signs: &[u8], pairs: &[u8], tiles: Tiles, out: &mut Unpacked) {
    let Tiles { bm, bk, bmm } = tiles;
    let in_threes = tiles.columns_in_threes(out.columns);
    let groups = |columns: std::ops::Range<usize>, bk: usize, group: usize| {
        let (rows, bm) = (out.rows, bm);
        (0..rows).step_by(bm).flat_map(move |tile| {
            columns.clone().step_by(bk).flat_map(move |tile_column| {
                (tile..tile + bm).step_by(bmm).flat_map(move |strip| {
                    let columns = (tile_column..tile_column + bk).step_by(group);
                    columns.map(move |column| (strip, column))
                })
            })
        })
    };
    let of_threes = groups(0..in_threes, bk, 6);
    let of_pairs = groups(in_threes..out.columns, 32, 4);
    let rows = || ROWS_OF_32.iter().flat_map(|&eight| eight..eight + 8);
    let (signs, _) = signs.as_chunks::<32>();
    for (i, ((strip, column), bytes)) in of_threes.zip(threes.chunks_exact(32)).enumerate() {
        let signs = &signs[i / 4];
        for (row, byte) in rows().zip(bytes) {
            let word = 2 * (row % 16);
            let word = u16::from_le_bytes([signs[word], signs[word + 1]]);
            for (three, code) in [byte >> 4, byte & 15].into_iter().enumerate() {
                let bit = 15 - (2 * (2 * (i % 4) + three) + row / 16);
                let mut codes = THREES[usize::from(code)];
                if word >> bit & 1 == 1 {
                    codes = codes.map(|code| 2 - code);
                }
                out.put(strip + row, column + 3 * three, codes);
            }
        }
    }
    for ((strip, column), bytes) in of_pairs.zip(pairs.chunks_exact(32)) {
        for (row, &byte) in rows().zip(bytes) {
            out.put(strip + row, column, twos(byte));
        }
    }
}
