//! The weights of a file, row by row, with every scale applied.

use bitnet_core::quant;
use bitnet_model::Error;
use bitnet_model::gguf::{Gguf, TensorInfo, TensorType};

/// A tensor, and the scales that are not in its rows.
#[derive(Clone, Copy, Debug)]
pub struct Weights<'a> {
    gguf: &'a Gguf,
    /// The tensor.
    pub info: &'a TensorInfo,
    /// Behind the packed weights; 1 where the type has none.
    trailer: f32,
    /// Of a tensor `<name>.scale`, if there is one.
    pub beside: Option<f32>,
}

/// What the weights of a type can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Levels {
    /// -1, 0 and 1, or fewer, and a scale.
    Ternary,
    /// Floats.
    Float,
    /// More integers than that, and a scale.
    Integers,
}

impl Levels {
    /// Those of a type.
    pub fn of(ty: TensorType) -> Levels {
        match ty {
            TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::Q1_0 => Levels::Ternary,
            TensorType::Q2_0 | TensorType::Q2_0_128 => Levels::Ternary,
            ty if ty.is_ternary() => Levels::Ternary,
            ty if ty.is_float() => Levels::Float,
            _ => Levels::Integers,
        }
    }
}

/// The name of the tensor that holds a scale for the products of a matrix.
pub fn scale_beside(name: &str) -> Option<String> {
    Some(format!("{}.scale", name.strip_suffix(".weight")?))
}

impl<'a> Weights<'a> {
    /// A tensor of a file; `None` if its type cannot be read.
    ///
    /// # Errors
    /// The data cannot be read.
    pub fn new(gguf: &'a Gguf, info: &'a TensorInfo) -> Result<Option<Weights<'a>>, Error> {
        let Some(layout) = info.ty.layout() else {
            return Ok(None);
        };
        let beside = match scale_beside(&info.name).and_then(|name| gguf.tensor(&name)) {
            Some(scale) if scale.ty == TensorType::F32 => float(gguf.data(scale)?),
            _ => None,
        };
        let data = gguf.data(info)?;
        let trailer = data.len() - layout.trailer_bytes as usize;
        Ok(Some(Weights {
            gguf,
            info,
            trailer: float(&data[trailer..]).unwrap_or(1.0),
            beside,
        }))
    }

    /// The scale of the whole tensor, which is in none of its rows.
    pub fn scale(&self) -> f32 {
        self.trailer * self.beside.unwrap_or(1.0)
    }

    /// Values per row.
    pub fn columns(&self) -> usize {
        self.info.shape.first().map_or(1, |&n| n as usize)
    }

    /// Rows of all further dimensions.
    pub fn rows(&self) -> usize {
        self.info.n_elements() as usize / self.columns()
    }

    /// The bytes in the file.
    ///
    /// # Errors
    /// The data cannot be read.
    pub fn data(&self) -> Result<&'a [u8], Error> {
        self.gguf.data(self.info)
    }

    /// Hands every row to `each`, decoded, but for the scale of the whole tensor. What was read is let go.
    ///
    /// # Errors
    /// The data cannot be read.
    pub fn for_each_row(&self, mut each: impl FnMut(usize, &[f32])) -> Result<(), Error> {
        let data = self.data()?;
        let mut row = vec![0.0; self.columns()];
        let bytes = self.row_bytes();
        for r in 0..self.rows() {
            self.decode(&data[r * bytes..][..bytes], &mut row);
            each(r, &row);
        }
        self.gguf.release(self.info);
        Ok(())
    }

    fn row_bytes(&self) -> usize {
        let blocks = self.columns() / self.info.ty.block_len().max(1) as usize;
        blocks * self.info.ty.block_bytes() as usize
    }

    fn decode(&self, bytes: &[u8], row: &mut [f32]) {
        // Every type of the container that can be read is a type of weights.
        if quant::dequantize_row(self.info.ty, bytes, row).is_none() {
            row.fill(f32::NAN);
        }
    }
}

/// Hands the rows of two tensors of as many columns to `each`, as far as both have them.
///
/// # Errors
/// The data cannot be read.
pub fn for_each_pair(
    a: &Weights,
    b: &Weights,
    mut each: impl FnMut(usize, &[f32], &[f32]),
) -> Result<(), Error> {
    let (data, other) = (a.data()?, b.data()?);
    let (mut of_a, mut of_b) = (vec![0.0; a.columns()], vec![0.0; b.columns()]);
    let (bytes, other_bytes) = (a.row_bytes(), b.row_bytes());
    for r in 0..a.rows().min(b.rows()) {
        a.decode(&data[r * bytes..][..bytes], &mut of_a);
        b.decode(&other[r * other_bytes..][..other_bytes], &mut of_b);
        each(r, &of_a, &of_b);
    }
    a.gguf.release(a.info);
    b.gguf.release(b.info);
    Ok(())
}

fn float(bytes: &[u8]) -> Option<f32> {
    bytes.first_chunk().map(|bytes| f32::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_can_be_decoded() {
        for &ty in TensorType::KNOWN {
            let n = ty.block_len() as usize;
            let row = vec![0; ty.block_bytes() as usize];
            assert!(
                quant::dequantize_row(ty, &row, &mut vec![0.0; n]).is_some(),
                "{ty}"
            );
        }
    }
}
