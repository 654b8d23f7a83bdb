//! TL1 and TL2: ternary weights in the tiles of BitNet.cpp's kernels.

use bitnet_model::gguf::{TensorType, Tiles};

/// Codes 0, 1, 2 for -1, 0, +1 of a matrix, row by row.
pub(super) struct Codes {
    codes: Vec<u8>,
    rows: usize,
    columns: usize,
}

impl Codes {
    /// From blocks as of I2_S, of which one may go on into the next row.
    pub(super) fn new(blocks: &[u8], rows: usize, columns: usize) -> Codes {
        let mut codes = Vec::with_capacity(rows * columns);
        for block in blocks.chunks_exact(32) {
            for shift in [6, 4, 2, 0] {
                codes.extend(block.iter().map(|byte| byte >> shift & 3));
            }
        }
        Codes {
            codes,
            rows,
            columns,
        }
    }

    /// `n` codes side by side as a number to base 3.
    fn number(&self, row: usize, column: usize, n: usize) -> u8 {
        let codes = &self.codes[row * self.columns + column..][..n];
        codes.iter().fold(0, |number, code| 3 * number + code)
    }

    /// Two codes in the upper half of a byte, two in the lower.
    fn twos(&self, row: usize, column: usize) -> u8 {
        self.number(row, column, 2) << 4 | self.number(row, column + 2, 2)
    }

    /// A number of three codes, less that of zeros.
    fn three(&self, row: usize, column: usize) -> i8 {
        self.number(row, column, 3) as i8 - 13
    }

    /// The weights of a type in tiles, without padding and scale.
    pub(super) fn pack(&self, ty: TensorType, tiles: Tiles) -> Vec<u8> {
        match ty {
            TensorType::TL1 => self.tl1(tiles),
            _ => self.tl2(tiles),
        }
    }

    /// The first row and column of each group of columns in each strip of rows, in the order of the file.
    fn groups(&self, [from, to]: [usize; 2], tiles: Tiles, group: usize) -> Vec<[usize; 2]> {
        let Tiles { bm, bk, bmm } = tiles;
        let mut groups = Vec::new();
        for tile in (0..self.rows).step_by(bm) {
            for first in (from..to).step_by(bk) {
                for strip in (tile..tile + bm).step_by(bmm) {
                    groups.extend(
                        (first..first + bk)
                            .step_by(group)
                            .map(|column| [strip, column]),
                    );
                }
            }
        }
        groups
    }

    fn tl1(&self, tiles: Tiles) -> Vec<u8> {
        let group = 256 / tiles.bmm;
        let mut packed = Vec::with_capacity(self.rows * self.columns / 4);
        for [strip, first] in self.groups([0, self.columns], tiles, group) {
            for sixteen in (strip..strip + tiles.bmm).step_by(16) {
                for column in (first..first + group).step_by(4) {
                    packed.extend((sixteen..sixteen + 16).map(|row| self.twos(row, column)));
                }
            }
        }
        packed
    }

    fn tl2(&self, tiles: Tiles) -> Vec<u8> {
        // The second eight of 32 rows and the third change places.
        let rows = |strip: usize| {
            let eights = [0, 16, 8, 24].into_iter();
            eights.flat_map(move |eight| (0..8).map(move |i| strip + eight + i))
        };
        let threes = tiles.columns_in_threes(self.columns);
        let mut packed = Vec::new();
        for [strip, column] in self.groups([0, threes], tiles, 6) {
            let three = |row, column| self.three(row, column).unsigned_abs();
            packed.extend(rows(strip).map(|row| three(row, column) << 4 | three(row, column + 3)));
        }
        for [strip, column] in self.groups([0, threes], tiles, 24) {
            for row in strip..strip + 16 {
                let mut word = 0;
                for three in 0..8 {
                    for row in [row, row + 16] {
                        let negative = self.three(row, column + 3 * three) < 0;
                        word = word << 1 | u16::from(negative);
                    }
                }
                packed.extend(word.to_le_bytes());
            }
        }
        let of_twos = Tiles { bk: 32, ..tiles };
        for [strip, column] in self.groups([threes, self.columns], of_twos, 4) {
            packed.extend(rows(strip).map(|row| self.twos(row, column)));
        }
        packed
    }
}

#[cfg(test)]
mod tests {
    use bitnet_core::quant;
    use bitnet_model::gguf::TensorInfo;
    use bitnet_model::random::Rng;

    use super::*;
    use crate::random::fill_ternary;

    #[test]
    fn weights_are_read_as_they_were_drawn() {
        for (ty, seed) in [
            (TensorType::TL1, 1),
            (TensorType::TL2, 2),
            (TensorType::TL2_42, 3),
        ] {
            for [rows, columns] in [[1536, 1536], [1536, 4096], [1024, 4096], [3200, 8640]] {
                let mut blocks = vec![0; rows * columns / 4];
                fill_ternary(&mut Rng::new(seed, "tiles"), &mut blocks);
                let codes = Codes::new(&blocks, rows, columns);
                let shape = vec![columns as u64, rows as u64];
                let info = TensorInfo {
                    name: "w".to_owned(),
                    size: ty.data_size(&shape).unwrap(),
                    shape,
                    ty,
                    part: 0,
                    offset: 0,
                };
                let mut data = codes.pack(ty, info.tiling().unwrap().unwrap().tiles);
                data.resize(info.size as usize, 0);
                let unpacked = quant::unpack(&info, &data).unwrap().unwrap();
                if columns % 128 == 0 {
                    assert!(unpacked == blocks, "{ty}: {rows}x{columns}");
                }
                let bytes = unpacked.len() / rows;
                let mut weights = vec![0.0; columns.next_multiple_of(128)];
                for row in [0, 9, 31, rows - 1] {
                    let of_row = &unpacked[row * bytes..][..bytes];
                    quant::dequantize_row(ty, of_row, &mut weights).unwrap();
                    let want = (0..columns)
                        .map(|column| f32::from(codes.codes[row * columns + column]) - 1.0);
                    assert!(
                        want.eq(weights[..columns].iter().copied()),
                        "{ty}: {rows}x{columns}"
                    );
                }
            }
        }
    }

    /// Of any bytes; zeros at the end add nothing.
    fn digest(bytes: &[u8]) -> u64 {
        let terms = (1..).zip(bytes).map(|(i, byte): (u64, _)| {
            let i = i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (i ^ i >> 29).wrapping_mul(u64::from(*byte))
        });
        terms.fold(0, u64::wrapping_add)
    }

    /// What upstream's converter made of the same codes, in the tiles of `setup_env.py`: `preprocess_weights_tl1` and
    /// `preprocess_weights_tl2` of `utils/convert-hf-to-gguf-bitnet.py` in `bitnet-cpp-sys` 0.0.5.
    const UPSTREAMS: &[(TensorType, [usize; 2], u64)] = &[
        (TensorType::TL1, [1536, 4096], 0x8a77_fcf2_d95f_7792),
        (TensorType::TL1, [1536, 1536], 0xd095_7999_e21c_b1d0),
        (TensorType::TL1, [4096, 1536], 0x053f_a7ad_d693_def7),
        (TensorType::TL1, [3200, 8640], 0x204f_3f80_22f4_65c8),
        (TensorType::TL1, [3200, 3200], 0x8bd1_1cb7_e995_f06d),
        (TensorType::TL1, [8640, 3200], 0x8c51_8af7_5fcf_70d0),
        (TensorType::TL1, [1024, 4096], 0x8ac9_53e8_7d9f_d571),
        (TensorType::TL1, [4096, 4096], 0x4e96_b522_828d_ae79),
        (TensorType::TL2, [1536, 4096], 0x68d0_4362_0629_9c90),
        (TensorType::TL2, [1536, 1536], 0xf618_6b6a_7c45_5bfa),
        (TensorType::TL2, [4096, 1536], 0x091b_8cf7_9960_8bae),
        (TensorType::TL2, [3200, 8640], 0x9114_eae2_1743_e93e),
        (TensorType::TL2, [3200, 3200], 0x40ba_19dc_6f34_0aa2),
        (TensorType::TL2, [8640, 3200], 0xe12c_fcda_aa73_3a1d),
        (TensorType::TL2, [1024, 4096], 0x1156_c0f8_8df5_0649),
        (TensorType::TL2, [4096, 4096], 0xfd50_0f3f_5909_9446),
    ];

    #[test]
    fn bytes_are_those_of_upstreams_converter() {
        for &(ty, [rows, columns], want) in UPSTREAMS {
            let code = |i: usize| {
                let random = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33;
                (random % 3) as u8
            };
            let codes = Codes {
                codes: (0..rows * columns).map(code).collect(),
                rows,
                columns,
            };
            let tiling = ty.tiling(rows as u64, columns as u64).unwrap().unwrap();
            assert_eq!(
                digest(&codes.pack(ty, tiling.tiles)),
                want,
                "{ty}: {rows}x{columns}"
            );
        }
    }
}
