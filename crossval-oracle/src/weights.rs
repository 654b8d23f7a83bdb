//! Tensors, decoded one weight at a time from the formats' definitions (ggml's `ggml-common.h`, BitNet.cpp's
//! `ggml-bitnet-mad.cpp`). Nothing of `bitnet-core`'s decoding is used, and none of its geometry: two readings of a
//! format that agree are worth more than one. All that is known of a type is its entry in `FORMATS`.

use bitnet_model::gguf::{Gguf, TensorInfo, TensorType, Tiles};
use half::{bf16, f16};

use super::OracleError;
use super::codes::Codes;
use super::maths::Rounding;
use super::mistakes::Mistake;
use super::tiles::{self, Tiled};

/// A type of weights.
struct Format {
    ty: TensorType,
    /// Weights per block.
    block: usize,
    /// Bytes per block; 0 where only a whole matrix has a size.
    bytes: usize,
    decode: Decode,
    /// Whether the weights are codes, with one scale for the tensor behind them: an F32.
    ternary: bool,
    /// What an engine may round in a product; the first is what the oracle does of its own accord.
    roundings: &'static [Rounding],
}

/// How weights are decoded.
#[derive(Clone, Copy)]
enum Decode {
    /// The weights of whole blocks; beside a scale for the tensor, before it.
    Blocks(fn(&[u8]) -> Vec<f64>),
    /// The codes of a row of a matrix: 0, 1, 2 for -1, 0, +1.
    Tiles(fn(&Tiled, usize) -> Vec<i64>),
}

/// Beside int8 activations.
const BESIDE_CODES: &[Rounding] = &[
    Rounding::None,
    Rounding::ProductToF32,
    Rounding::HalvesAway,
    Rounding::HalvesAwayInF32,
];

/// Beside weights in blocks of 256, as ggml multiplies them.
const BESIDE_BLOCKS_OF_256: &[Rounding] =
    &[Rounding::Q8K, Rounding::Q8KProductToF32, Rounding::None];

const FORMATS: [Format; 14] = [
    Format {
        ty: TensorType::F32,
        block: 1,
        bytes: 4,
        decode: Decode::Blocks(|data| each(data, |v| f64::from(f32::from_le_bytes(v)))),
        ternary: false,
        roundings: &[Rounding::None],
    },
    Format {
        ty: TensorType::F16,
        block: 1,
        bytes: 2,
        decode: Decode::Blocks(|data| each(data, |v| f64::from(f16::from_le_bytes(v)))),
        ternary: false,
        roundings: &[Rounding::None, Rounding::F16],
    },
    Format {
        ty: TensorType::BF16,
        block: 1,
        bytes: 2,
        decode: Decode::Blocks(|data| each(data, |v| f64::from(bf16::from_le_bytes(v)))),
        ternary: false,
        roundings: &[Rounding::Bf16, Rounding::None],
    },
    Format {
        ty: TensorType::Q8_0,
        block: 32,
        bytes: 34,
        decode: Decode::Blocks(|data| data.chunks_exact(34).flat_map(q8_0).collect()),
        ternary: false,
        roundings: &[Rounding::Q8_0, Rounding::None],
    },
    Format {
        ty: TensorType::Q6_K,
        block: 256,
        bytes: 210,
        decode: Decode::Blocks(|data| data.chunks_exact(210).flat_map(q6_k).collect()),
        ternary: false,
        roundings: BESIDE_BLOCKS_OF_256,
    },
    Format {
        ty: TensorType::TQ1_0,
        block: 256,
        bytes: 54,
        decode: Decode::Blocks(|data| data.chunks_exact(54).flat_map(tq1_0).collect()),
        ternary: false,
        roundings: BESIDE_BLOCKS_OF_256,
    },
    Format {
        ty: TensorType::TQ2_0,
        block: 256,
        bytes: 66,
        decode: Decode::Blocks(|data| data.chunks_exact(66).flat_map(tq2_0).collect()),
        ternary: false,
        roundings: BESIDE_BLOCKS_OF_256,
    },
    Format {
        ty: TensorType::I2_S,
        block: 128,
        bytes: 32,
        decode: Decode::Blocks(|data| i2_s(data).map(|code| f64::from(code) - 1.0).collect()),
        ternary: true,
        roundings: BESIDE_CODES,
    },
    Format {
        ty: TensorType::Q1_0,
        block: 128,
        bytes: 18,
        decode: Decode::Blocks(|data| data.chunks_exact(18).flat_map(q1_0).collect()),
        ternary: false,
        roundings: &[Rounding::Q8_0, Rounding::None],
    },
    Format {
        ty: TensorType::Q2_0,
        block: 64,
        bytes: 18,
        decode: Decode::Blocks(|data| data.chunks_exact(18).flat_map(q2_0).collect()),
        ternary: false,
        roundings: &[Rounding::Q8_0, Rounding::None],
    },
    Format {
        ty: TensorType::Q2_0_128,
        block: 128,
        bytes: 34,
        decode: Decode::Blocks(|data| data.chunks_exact(34).flat_map(q2_0).collect()),
        ternary: false,
        roundings: &[Rounding::Q8_0, Rounding::None],
    },
    Format {
        ty: TensorType::TL1,
        block: 4,
        bytes: 1,
        decode: Decode::Tiles(tiles::tl1),
        ternary: true,
        roundings: BESIDE_CODES,
    },
    Format {
        ty: TensorType::TL2,
        block: 1,
        bytes: 0,
        decode: Decode::Tiles(tiles::tl2),
        ternary: true,
        roundings: BESIDE_CODES,
    },
    Format {
        ty: TensorType::TL2_42,
        block: 1,
        bytes: 0,
        decode: Decode::Tiles(tiles::tl2),
        ternary: true,
        roundings: BESIDE_CODES,
    },
];

/// The types that matrices may have.
pub fn types() -> impl Iterator<Item = TensorType> {
    FORMATS.iter().map(|format| format.ty)
}

/// A matrix of the file; element `[row][column]` is at `row * columns + column`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    info: &'a TensorInfo,
    format: &'static Format,
    data: &'a [u8],
    /// Sizes of its tiles, where it has any.
    tiles: Option<Tiles>,
    /// Outputs.
    pub rows: usize,
    /// Inputs.
    pub columns: usize,
}

impl<'a> Matrix<'a> {
    /// The two-dimensional tensor of that name; `None` if the file has none.
    pub fn open(gguf: &'a Gguf, name: &str) -> Result<Option<Matrix<'a>>, OracleError> {
        let Some(info) = gguf.tensor(name) else {
            return Ok(None);
        };
        let bad = |what: &str| OracleError::new(gguf, format!("tensor {name:?} {what}"));
        let [columns, rows] = info.shape[..] else {
            return Err(bad("is not a matrix"));
        };
        let (Ok(columns), Ok(rows)) = (usize::try_from(columns), usize::try_from(rows)) else {
            return Err(bad("is too large"));
        };
        let format = FORMATS.iter().find(|format| format.ty == info.ty);
        let format = format.ok_or_else(|| bad("has a type that the oracle does not know"))?;
        let data = gguf.data(info)?;
        let tiles = match info.tiling() {
            Some(tiling) => Some(
                tiling
                    .map_err(|why| bad(&format!("is not decoded: {why}")))?
                    .tiles,
            ),
            None => None,
        };
        let trailer = if format.ternary { 4 } else { 0 };
        if !columns.is_multiple_of(format.block)
            || data.len() < rows * columns / format.block * format.bytes + trailer
        {
            return Err(bad("has data that do not hold its shape"));
        }
        Ok(Some(Matrix {
            info,
            format,
            data,
            tiles,
            rows,
            columns,
        }))
    }

    /// Its type.
    pub fn ty(&self) -> TensorType {
        self.info.ty
    }

    /// Its name.
    pub fn name(&self) -> &'a str {
        &self.info.name
    }

    /// Whether the weights are codes with one scale for the tensor.
    pub fn is_ternary(&self) -> bool {
        self.format.ternary
    }

    /// What an engine may round in a product with it; the first is what the oracle does of its own accord.
    pub fn roundings(&self) -> &'static [Rounding] {
        self.format.roundings
    }

    /// The scale behind the ternary codes.
    pub fn ternary_scale(&self) -> f64 {
        // 32 bytes, as the container holds them to.
        f64::from(f32_at(self.data, self.data.len() - 32))
    }

    /// The codes of a ternary row: 0, 1, 2 for -1, 0, +1.
    pub fn ternary_codes(&self, row: usize) -> Vec<i64> {
        match (self.format.decode, self.tiles) {
            (Decode::Tiles(codes), Some(tiles)) => {
                let (data, rows, columns) = (self.data, self.rows, self.columns);
                let matrix = Tiled {
                    data,
                    rows,
                    columns,
                    tiles,
                };
                codes(&matrix, row)
            }
            _ => i2_s(self.bytes(row)).map(i64::from).collect(),
        }
    }

    /// The weights of a row.
    pub fn row(&self, row: usize) -> Vec<f64> {
        match self.format.decode {
            Decode::Blocks(decode) if !self.format.ternary => decode(self.bytes(row)),
            _ => {
                let (codes, scale) = (self.ternary_codes(row), self.ternary_scale());
                codes
                    .iter()
                    .map(|&code| (code - 1) as f64 * scale)
                    .collect()
            }
        }
    }

    /// The weights of a row, as an engine reads them that makes a mistake; `None` where that cannot be made.
    pub(super) fn misread(&self, row: usize, mistake: Mistake) -> Option<Vec<f64>> {
        let (codes, Decode::Blocks(decode)) = (Codes::of(self.info.ty)?, self.format.decode) else {
            return None;
        };
        let blocks: Vec<&[u8]> = self.bytes(row).chunks(self.format.bytes).collect();
        codes.misread(mistake, &blocks, decode)
    }

    fn row_bytes(&self) -> usize {
        self.columns / self.format.block * self.format.bytes
    }

    fn bytes(&self, row: usize) -> &'a [u8] {
        let n = self.row_bytes();
        &self.data[row * n..][..n]
    }
}

/// A one-dimensional tensor of floats; `None` if the file has none.
pub fn vector(gguf: &Gguf, name: &str) -> Result<Option<Vec<f64>>, OracleError> {
    let Some(info) = gguf.tensor(name) else {
        return Ok(None);
    };
    let format = FORMATS
        .iter()
        .find(|f| f.ty == info.ty && f.block == 1 && !f.ternary);
    let format = format.ok_or_else(|| {
        let what = format!("tensor {name:?} has type {}, a float is due", info.ty);
        OracleError::new(gguf, what)
    })?;
    let data = gguf.data(info)?;
    Ok(match format.decode {
        Decode::Blocks(decode) => Some(decode(data)),
        Decode::Tiles(_) => None,
    })
}

fn f32_at(data: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

/// Values that lie side by side.
fn each<const N: usize>(data: &[u8], value: fn([u8; N]) -> f64) -> Vec<f64> {
    data.as_chunks().0.iter().map(|v| value(*v)).collect()
}

/// One block: an F16 scale, then 32 int8.
fn q8_0(block: &[u8]) -> impl Iterator<Item = f64> {
    let d = f64::from(f16::from_le_bytes([block[0], block[1]]));
    block[2..].iter().map(move |&v| d * f64::from(v as i8))
}

/// One block: an F16 scale, then bits, the first the lowest of their byte: 1 for the scale, 0 for its negative.
fn q1_0(block: &[u8]) -> Vec<f64> {
    let d = f64::from(f16::from_le_bytes([block[0], block[1]]));
    let eight = |&byte: &u8| (0..8).map(move |bit| if byte & 1 << bit == 0 { -d } else { d });
    block[2..].iter().flat_map(eight).collect()
}

/// One block of either length: an F16 scale, then four codes to a byte, the first the lowest, for -1, 0, 1 and 2 times the
/// scale.
fn q2_0(block: &[u8]) -> Vec<f64> {
    let d = f64::from(f16::from_le_bytes([block[0], block[1]]));
    let times = [-1.0, 0.0, 1.0, 2.0];
    let four = |&byte: &u8| [0, 2, 4, 6].map(|bit| d * times[usize::from(byte >> bit) % 4]);
    block[2..].iter().flat_map(four).collect()
}

/// The codes of whole blocks of 128: weight `j` is in byte `j % 32`, the first 32 in the highest two bits.
fn i2_s(data: &[u8]) -> impl Iterator<Item = u8> {
    data.chunks_exact(32)
        .flat_map(|block| (0..128).map(|j| block[j % 32] >> (6 - 2 * (j / 32)) & 3))
}

/// One block, in the order in which ggml's `dequantize_row_tq1_0` writes it: digit by digit of 32 bytes, of 16, of 4. Digits
/// to base 3 of a byte as a fraction of 256.
fn tq1_0(block: &[u8]) -> Vec<f64> {
    let d = f64::from(f16::from_le_bytes([block[52], block[53]]));
    let runs = [(&block[..32], 5), (&block[32..48], 5), (&block[48..52], 4)];
    let mut out = Vec::with_capacity(256);
    for (bytes, digits) in runs {
        for digit in 1..=digits {
            let floor = |q: u8, digit: u32| 3_u32.pow(digit) * u32::from(q) / 256;
            let trit = |q: u8| floor(q, digit) - 3 * floor(q, digit - 1);
            out.extend(bytes.iter().map(|&q| d * (f64::from(trit(q)) - 1.0)));
        }
    }
    out
}

/// One block: twice 32 bytes, each of four codes for -1, 0, +1, +2, the first 32 weights in the lowest bits; then the F16
/// scale.
fn tq2_0(block: &[u8]) -> Vec<f64> {
    let (codes, d) = block.split_at(64);
    let d = f64::from(f16::from_le_bytes([d[0], d[1]]));
    let mut out = Vec::with_capacity(256);
    for half in codes.chunks(32) {
        for bits in [0, 2, 4, 6] {
            let weight = |byte: &u8| d * (f64::from(byte >> bits & 3) - 1.0);
            out.extend(half.iter().map(weight));
        }
    }
    out
}

/// One super-block, in the order in which ggml's `dequantize_row_q6_K` writes it.
fn q6_k(block: &[u8]) -> [f64; 256] {
    let d = f64::from(f16::from_le_bytes([block[208], block[209]]));
    let mut out = [0.0; 256];
    for half in 0..2 {
        let low = &block[64 * half..];
        let high = &block[128 + 32 * half..];
        let scales = &block[192 + 8 * half..];
        let out = &mut out[128 * half..];
        for l in 0..32 {
            let bits = |nibble: u8, shift: u32| {
                f64::from(i16::from(nibble & 15 | (high[l] >> shift & 3) << 4) - 32)
            };
            let scale = |quarter: usize| d * f64::from(scales[l / 16 + 2 * quarter] as i8);
            out[l] = scale(0) * bits(low[l], 0);
            out[l + 32] = scale(1) * bits(low[l + 32], 2);
            out[l + 64] = scale(2) * bits(low[l] >> 4, 4);
            out[l + 96] = scale(3) * bits(low[l + 32] >> 4, 6);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use bitnet_model::random::Rng;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_engine_and_the_oracle_know_the_same_types_and_geometry() {
        assert!(types().eq(bitnet_core::quant::types()));
        for format in FORMATS {
            let (block, bytes) = (format.ty.block_len(), format.ty.block_bytes());
            assert_eq!((format.block as u64, format.bytes as u64), (block, bytes));
            assert_eq!(format.ternary, format.ty.is_ternary());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4))]
        /// The same of formats in tiles: shapes of every configuration, with a rest in twos and without, rows that are no
        /// whole blocks of I2_S, codes of every kind that stands for weights.
        #[test]
        fn matrices_in_tiles_are_what_the_engine_reads(seed in any::<u64>()) {
            let mut rng = Rng::new(seed, "tiles");
            for ty in [TensorType::TL1, TensorType::TL2, TensorType::TL2_42] {
                for shape in [[1536, 1536], [1024, 4096], [3200, 8640]] {
                    let [rows, columns] = shape;
                    let info = TensorInfo {
                        name: "w".to_owned(),
                        shape: vec![columns, rows],
                        ty,
                        part: 0,
                        offset: 0,
                        size: ty.data_size(&[columns, rows]).unwrap(),
                    };
                    let tiles = info.tiling().unwrap().unwrap().tiles;
                    let threes = rows * match ty {
                        TensorType::TL1 => 0,
                        _ => tiles.columns_in_threes(columns as usize) as u64,
                    };
                    let byte = |at: u64| match (at < threes / 6, at < threes / 6 + threes / 24) {
                        (true, _) => (rng.below(14) << 4 | rng.below(14)) as u8,
                        (false, true) => rng.below(256) as u8,
                        (false, false) => (rng.below(9) << 4 | rng.below(9)) as u8,
                    };
                    let data: Vec<u8> = (0..info.size).map(byte).collect();
                    let format = FORMATS.iter().find(|format| format.ty == ty).unwrap();
                    let (rows, columns) = (rows as usize, columns as usize);
                    let matrix = Matrix {
                        info: &info,
                        format,
                        data: &data,
                        tiles: Some(tiles),
                        rows,
                        columns,
                    };
                    let unpacked = bitnet_core::quant::unpack(&info, &data).unwrap().unwrap();
                    let bytes = unpacked.len() / rows;
                    for row in [0, 1, 7, 8, 15, 16, 17, 24, 31, 32, 63, 64, rows / 2 + 9, rows - 1] {
                        let mut want = vec![0.0; columns.next_multiple_of(128)];
                        let of_row = &unpacked[row * bytes..][..bytes];
                        bitnet_core::quant::dequantize_row(ty, of_row, &mut want).unwrap();
                        let got = matrix.ternary_codes(row);
                        let got = got.iter().map(|&code| (code - 1) as f32);
                        prop_assert!(got.eq(want[..columns].iter().copied()), "{} {}", ty, row);
                    }
                }
            }
        }
    }

    proptest! {
        /// Two readings of the formats by two hands.
        #[test]
        fn rows_are_what_the_engine_reads(
            bytes in proptest::collection::vec(any::<u8>(), 2 * 3 * 4 * 210)
        ) {
            for format in FORMATS {
                let Decode::Blocks(decode) = format.decode else {
                    continue;
                };
                let data = &bytes[..bytes.len() / format.bytes * format.bytes];
                let mut want = vec![0f32; data.len() / format.bytes * format.block];
                bitnet_core::quant::dequantize_row(format.ty, data, &mut want);
                let got = decode(data);
                prop_assert_eq!(got.len(), want.len());
                for (got, want) in got.iter().zip(want) {
                    // Products of few bits, which are exact in f32 too; NaN is like NaN.
                    let same = *got as f32 == want || got.is_nan() && want.is_nan();
                    prop_assert!(same, "{}: {} {}", format.ty, got, want);
                }
            }
        }
    }
}
