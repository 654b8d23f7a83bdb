//! Tensors, decoded one weight at a time from the formats' definitions (ggml's `ggml-common.h`, BitNet.cpp's
//! `ggml-bitnet-mad.cpp`). Nothing of `bitnet-core`'s decoding is used: two readings of a format that agree are worth
//! more than one.

use bitnet_model::gguf::{Gguf, TensorInfo, TensorType};
use half::{bf16, f16};

use super::OracleError;

/// A matrix of the file; element `[row][column]` is at `row * columns + column`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    info: &'a TensorInfo,
    data: &'a [u8],
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
        let data = gguf.data(info)?;
        let matrix = Matrix {
            info,
            data,
            rows,
            columns,
        };
        let (block, bytes) = match info.ty {
            TensorType::F32 => (1, 4),
            TensorType::F16 | TensorType::BF16 => (1, 2),
            TensorType::Q8_0 => (32, 34),
            TensorType::Q6_K => (256, 210),
            TensorType::I2_S => (128, 32),
            TensorType::Unknown(_) => return Err(bad("has a type that the oracle does not know")),
        };
        let trailer = if matrix.is_ternary() { 4 } else { 0 };
        if !columns.is_multiple_of(block) || data.len() < rows * columns / block * bytes + trailer {
            return Err(bad("has data that do not hold its shape"));
        }
        Ok(Some(matrix))
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
        self.info.ty == TensorType::I2_S
    }

    /// The scale behind the ternary codes.
    pub fn ternary_scale(&self) -> f64 {
        f64::from(f32_at(self.data, self.rows * self.columns / 4))
    }

    /// The stored 2-bit codes of a row: 0, 1, 2 for -1, 0, +1.
    pub fn ternary_codes(&self, row: usize) -> Vec<i64> {
        let code = |column: usize| {
            let index = row * self.columns + column;
            let (block, j) = (index / 128, index % 128);
            let byte = self.data[block * 32 + j % 32];
            i64::from(byte >> (6 - 2 * (j / 32)) & 3)
        };
        (0..self.columns).map(code).collect()
    }

    /// The weights of a row.
    pub fn row(&self, row: usize) -> Vec<f64> {
        let start = row * self.columns;
        match self.info.ty {
            TensorType::I2_S => {
                let scale = self.ternary_scale();
                let codes = self.ternary_codes(row);
                codes.iter().map(|&c| (c - 1) as f64 * scale).collect()
            }
            TensorType::Q6_K => {
                let blocks = start / 256..(start + self.columns) / 256;
                blocks
                    .flat_map(|b| q6_k(&self.data[b * 210..][..210]))
                    .collect()
            }
            _ => (start..start + self.columns)
                .map(|i| self.element(i))
                .collect(),
        }
    }

    fn element(&self, i: usize) -> f64 {
        let pair = |at: usize| [self.data[at], self.data[at + 1]];
        match self.info.ty {
            TensorType::F32 => f64::from(f32_at(self.data, i * 4)),
            TensorType::F16 => f64::from(f16::from_le_bytes(pair(i * 2))),
            TensorType::BF16 => f64::from(bf16::from_le_bytes(pair(i * 2))),
            TensorType::Q8_0 => {
                let block = i / 32 * 34;
                let value = self.data[block + 2 + i % 32] as i8;
                f64::from(f16::from_le_bytes(pair(block))) * f64::from(value)
            }
            // Refused by `open`, or read by whole blocks.
            TensorType::I2_S | TensorType::Q6_K | TensorType::Unknown(_) => f64::NAN,
        }
    }
}

/// A one-dimensional F32 tensor; `None` if the file has none.
pub fn vector(gguf: &Gguf, name: &str) -> Result<Option<Vec<f64>>, OracleError> {
    let Some(info) = gguf.tensor(name) else {
        return Ok(None);
    };
    if info.ty != TensorType::F32 {
        let what = format!("tensor {name:?} has type {}, F32 is due", info.ty);
        return Err(OracleError::new(gguf, what));
    }
    let data = gguf.data(info)?;
    let values = (0..data.len() / 4).map(|i| f64::from(f32_at(data, i * 4)));
    Ok(Some(values.collect()))
}

fn f32_at(data: &[u8], at: usize) -> f32 {
    f32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
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
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Two readings of the format by two hands.
        #[test]
        fn q6_k_is_what_the_engine_reads(bytes in proptest::collection::vec(any::<u8>(), 210)) {
            let mut block = bytes;
            block[208..].copy_from_slice(&f16::from_f32(0.125).to_le_bytes());
            let mut want = [0f32; 256];
            bitnet_core::quant::q6_k::dequantize_row(&block, &mut want);
            let got = q6_k(&block);
            for (got, want) in got.iter().zip(want) {
                prop_assert_eq!(*got as f32, want);
            }
        }
    }
}
