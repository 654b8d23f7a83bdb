//! A model's tensors, decoded row by row.

use std::borrow::Cow;

use bitnet_core::blocks::i2_s;
use bitnet_core::quant;
use bitnet_model::Error;
use bitnet_model::gguf::{Gguf, TRAILER, TensorType};

use super::InjectError;
use super::blocks::Blocks;
use super::mistake::Mistake;

/// A matrix of the file.
pub(super) struct Matrix<'a> {
    pub ty: TensorType,
    data: Cow<'a, [u8]>,
    /// Of a ternary matrix.
    scale: Option<f32>,
    pub rows: usize,
    pub columns: usize,
}

/// The matrix of that name.
///
/// # Errors
/// If the file has none.
pub(super) fn matrix<'a>(gguf: &'a Gguf, name: &str) -> Result<Matrix<'a>, InjectError> {
    let missing = || InjectError::Missing(format!("the matrix {name}"));
    let info = gguf.tensor(name).ok_or_else(missing)?;
    let [columns, rows] = info.shape[..] else {
        return Err(missing());
    };
    let data = gguf.data(info)?;
    let (ty, rows_in_order) = match quant::unpack(info, data) {
        Some(rows) => (
            TensorType::I2_S,
            Cow::Owned(rows.map_err(InjectError::Missing)?),
        ),
        None => (info.ty, Cow::Borrowed(data)),
    };
    let trailer = data.len().checked_sub(TRAILER as usize);
    let scale = trailer.and_then(|at| data[at..].first_chunk());
    Ok(Matrix {
        ty,
        data: rows_in_order,
        scale: scale
            .filter(|_| info.ty.is_ternary())
            .map(|scale| f32::from_le_bytes(*scale)),
        rows: rows as usize,
        columns: columns as usize,
    })
}

/// The vector of that name, of floats; `None` if the file has none.
pub(super) fn vector(gguf: &Gguf, name: &str) -> Result<Option<Vec<f64>>, Error> {
    let Some(info) = gguf.tensor(name) else {
        return Ok(None);
    };
    let mut values = vec![0.0; info.n_elements() as usize];
    // Models have no vectors that the engine does not read.
    let _ = quant::dequantize_row(info.ty, gguf.data(info)?, &mut values);
    Ok(Some(values.into_iter().map(f64::from).collect()))
}

impl Matrix<'_> {
    pub(super) fn is_ternary(&self) -> bool {
        self.ty == TensorType::I2_S
    }

    /// What every weight of [`row`](Self::row) is still to be multiplied with.
    pub(super) fn scale(&self) -> f64 {
        self.scale.map_or(1.0, f64::from)
    }

    /// The weights of a row: of a ternary matrix without its scale, as an engine reads them that makes `mistake`.
    pub(super) fn row(&self, row: usize, mistake: Option<Mistake>) -> Vec<f64> {
        let blocks = self.columns.div_ceil(self.ty.block_len() as usize);
        let bytes = blocks * self.ty.block_bytes() as usize;
        let data = &self.data[row * bytes..][..bytes];
        if self.is_ternary() {
            let (blocks, _) = data.as_chunks();
            let weights = blocks.iter().flat_map(|b| ternary(b, mistake));
            return weights.take(self.columns).collect();
        }
        if let Some(blocks) = Blocks::of(self.ty) {
            return blocks.row(data, mistake);
        }
        let mut weights = vec![0.0; self.columns];
        // Models have no matrices that the engine does not read.
        let _ = quant::dequantize_row(self.ty, data, &mut weights);
        weights.into_iter().map(f64::from).collect()
    }
}

/// One block: weight `j` is in byte `j % 32`, the first 32 in the highest two bits.
fn ternary(block: &[u8; i2_s::BLOCK_BYTES], mistake: Option<Mistake>) -> [f64; i2_s::BLOCK] {
    std::array::from_fn(|j| {
        let (byte, quarter) = match mistake {
            Some(Mistake::BlockOrder) => (j / 4, j % 4),
            Some(Mistake::BitOrder) => (j % 32, 3 - j / 32),
            _ => (j % 32, j / 32),
        };
        let code = block[byte] >> (6 - 2 * quarter) & 3;
        match mistake {
            Some(Mistake::CodesShifted) => [-2.0, -1.0, 1.0, 2.0][usize::from(code)],
            Some(Mistake::SumNotSubtracted) => f64::from(code),
            _ => f64::from(code) - 1.0,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the format's documentation has it, not as the engine's packer does.
    #[test]
    fn codes_of_a_block_read_rightly_and_wrongly() {
        let mut block = [0b01_01_01_01; i2_s::BLOCK_BYTES];
        block[1] = 0b10_01_00_01;
        let off_zero = |mistake| {
            let weights = ternary(&block, mistake);
            let off = weights.into_iter().enumerate().filter(|(_, w)| *w != 0.0);
            off.collect::<Vec<_>>()
        };
        assert_eq!(off_zero(None), [(1, 1.0), (65, -1.0)]);
        assert_eq!(off_zero(Some(Mistake::BlockOrder)), [(4, 1.0), (6, -1.0)]);
        assert_eq!(off_zero(Some(Mistake::BitOrder)), [(33, -1.0), (97, 1.0)]);
        let shifted = ternary(&block, Some(Mistake::CodesShifted));
        assert_eq!((shifted[0], shifted[1], shifted[65]), (-1.0, 1.0, -2.0));
        let stored = ternary(&block, Some(Mistake::SumNotSubtracted));
        assert_eq!((stored[0], stored[1], stored[65]), (1.0, 2.0, 0.0));
    }
}
