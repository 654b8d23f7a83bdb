//! The weights of a file, row by row, with every scale applied.

use std::io::{self, Write};
use std::path::Path;

use bitnet_core::quant;
use bitnet_model::gguf::{Gguf, Metadata, TensorInfo, TensorType};
use bitnet_model::{Error, Hyperparameters};

/// A model's keys and weights, whichever files they are in, by the names that GGUF has for them.
pub trait Model {
    /// The file or folder that it is in.
    fn path(&self) -> &Path;

    /// The keys.
    fn metadata(&self) -> &Metadata;

    /// Every tensor.
    fn tensors(&self) -> &[TensorInfo];

    /// The weights of one of them; `None` if its type cannot be read.
    ///
    /// # Errors
    /// The data cannot be read.
    fn weights<'a>(&'a self, info: &'a TensorInfo) -> Result<Option<Weights<'a>>, Error>;

    /// Its shape.
    ///
    /// # Errors
    /// As [`Hyperparameters::read`].
    fn hyperparameters(&self) -> Result<Hyperparameters, Error>;

    /// The tensor of that name.
    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensors().iter().find(|info| info.name == name)
    }

    /// Bytes of all tensors.
    fn size(&self) -> u64 {
        self.tensors().iter().map(|info| info.size).sum()
    }
}

/// Rows as they lie in a file.
pub(crate) trait Rows {
    /// Decodes row `r`, but for the scale of the whole tensor.
    fn decode(&self, r: usize, out: &mut [f32]);

    /// Takes what was read out of this process's memory.
    fn release(&self);

    /// What lies in the file, where that is what a GGUF file has.
    fn bytes(&self) -> Option<&[u8]>;
}

/// Bytes that are read before they are let go.
const AT_ONCE: usize = 16 << 20;

/// A tensor, and the scales that are not in its rows.
pub struct Weights<'a> {
    /// The tensor.
    pub info: &'a TensorInfo,
    /// Behind the packed weights; 1 where the type has none.
    pub trailer: f32,
    /// Of a tensor `<name>.scale`, if there is one.
    pub beside: Option<f32>,
    /// What the weights can be.
    pub levels: Levels,
    rows: Box<dyn Rows + 'a>,
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
    /// With the levels that their type has.
    pub(crate) fn new(info: &'a TensorInfo, trailer: f32, rows: impl Rows + 'a) -> Weights<'a> {
        Weights {
            info,
            trailer,
            beside: None,
            levels: Levels::of(info.ty),
            rows: Box::new(rows),
        }
    }

    /// Whether they lie as in a GGUF file.
    pub(crate) fn are_of_gguf(&self) -> bool {
        self.rows.bytes().is_some()
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

    /// Whether both lie in their files byte by byte alike, and mean the same.
    pub fn is_copy_of(&self, other: &Weights) -> bool {
        let same = |a: &TensorInfo, b: &TensorInfo| a.ty == b.ty && a.shape == b.shape;
        let (Some(a), Some(b)) = (self.rows.bytes(), other.rows.bytes()) else {
            return false;
        };
        if !same(self.info, other.info) || self.beside != other.beside || a.len() != b.len() {
            return false;
        }
        a.chunks(AT_ONCE).zip(b.chunks(AT_ONCE)).all(|(a, b)| {
            let equal = a == b;
            self.rows.release();
            other.rows.release();
            equal
        })
    }

    /// Copies what lies in the file, where that is what a GGUF file has.
    pub(crate) fn copy_to(&self, out: &mut dyn Write) -> Option<io::Result<()>> {
        let bytes = self.rows.bytes()?;
        let mut copied = Ok(());
        for piece in bytes.chunks(AT_ONCE) {
            copied = copied.and_then(|()| out.write_all(piece));
            self.rows.release();
        }
        Some(copied)
    }

    /// Hands every row to `each`, decoded, but for the scale of the whole tensor. What was read is let go.
    pub fn for_each_row(&self, mut each: impl FnMut(usize, &[f32])) {
        let mut row = vec![0.0; self.columns()];
        for r in 0..self.rows() {
            self.rows.decode(r, &mut row);
            each(r, &row);
            self.let_go(r);
        }
        self.rows.release();
    }

    /// Lets go of what was read up to row `r`, now and then.
    fn let_go(&self, r: usize) {
        let rows = (AT_ONCE / size_of::<f32>() / self.columns()).max(1);
        if (r + 1).is_multiple_of(rows) {
            self.rows.release();
        }
    }

    /// Mean of the magnitudes, but for the scale of the whole tensor.
    pub fn mean_magnitude(&self) -> f64 {
        let mut sum = 0.0;
        self.for_each_row(|_, row| sum += row.iter().map(|v| f64::from(v.abs())).sum::<f64>());
        sum / self.info.n_elements() as f64
    }
}

/// A weight made ternary, -1, 0 or 1, by the steps of `WeightQuant` in transformers.
pub(crate) fn ternary(v: f32, unit: f32) -> f32 {
    (v * (1.0 / unit)).round_ties_even().clamp(-1.0, 1.0)
}

/// Hands the rows of two tensors of as many columns to `each`, as far as both have them.
pub fn for_each_pair(a: &Weights, b: &Weights, mut each: impl FnMut(usize, &[f32], &[f32])) {
    let (mut of_a, mut of_b) = (vec![0.0; a.columns()], vec![0.0; b.columns()]);
    for r in 0..a.rows().min(b.rows()) {
        a.rows.decode(r, &mut of_a);
        b.rows.decode(r, &mut of_b);
        each(r, &of_a, &of_b);
        a.let_go(r);
        b.let_go(r);
    }
    a.rows.release();
    b.rows.release();
}

impl Model for Gguf {
    fn path(&self) -> &Path {
        self.path()
    }

    fn metadata(&self) -> &Metadata {
        self.metadata()
    }

    fn tensors(&self) -> &[TensorInfo] {
        self.tensors()
    }

    fn weights<'a>(&'a self, info: &'a TensorInfo) -> Result<Option<Weights<'a>>, Error> {
        let Some(layout) = info.ty.layout() else {
            return Ok(None);
        };
        let beside = match scale_beside(&info.name).and_then(|name| self.tensor(&name)) {
            Some(scale) if scale.ty == TensorType::F32 && scale.n_elements() == 1 => {
                float(self.data(scale)?)
            }
            _ => None,
        };
        let data = self.data(info)?;
        let trailer = data.len() - layout.trailer_bytes as usize;
        let trailer = float(&data[trailer..]).unwrap_or(1.0);
        if let Some(unpacked) = quant::unpack(info, data) {
            let named = |what| {
                let what = format!("tensor {:?}: {what}", info.name);
                Error::unsupported(self.path(), what)
            };
            let data = unpacked.map_err(named)?;
            let rows = Unpacked {
                info,
                row_bytes: data.len() / info.shape.get(1).map_or(1, |&n| n as usize),
                data,
            };
            return Ok(Some(Weights {
                beside,
                ..Weights::new(info, trailer, rows)
            }));
        }
        let rows = OfGguf {
            gguf: self,
            info,
            data,
        };
        Ok(Some(Weights {
            beside,
            ..Weights::new(info, trailer, rows)
        }))
    }

    fn hyperparameters(&self) -> Result<Hyperparameters, Error> {
        Hyperparameters::read(self)
    }

    fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.tensor(name)
    }
}

struct OfGguf<'a> {
    gguf: &'a Gguf,
    info: &'a TensorInfo,
    data: &'a [u8],
}

impl Rows for OfGguf<'_> {
    fn decode(&self, r: usize, out: &mut [f32]) {
        let ty = self.info.ty;
        let bytes = out.len() / ty.block_len().max(1) as usize * ty.block_bytes() as usize;
        // Every type of the container that can be read is a type of weights.
        if quant::dequantize_row(ty, &self.data[r * bytes..][..bytes], out).is_none() {
            out.fill(f32::NAN);
        }
    }

    fn release(&self) {
        self.gguf.release(self.info);
    }

    fn bytes(&self) -> Option<&[u8]> {
        Some(self.data)
    }
}

/// Rows that lay in tiles.
struct Unpacked<'a> {
    info: &'a TensorInfo,
    data: Vec<u8>,
    row_bytes: usize,
}

impl Rows for Unpacked<'_> {
    fn decode(&self, r: usize, out: &mut [f32]) {
        let row = &self.data[r * self.row_bytes..][..self.row_bytes];
        if quant::dequantize_row(self.info.ty, row, out).is_none() {
            out.fill(f32::NAN);
        }
    }

    fn release(&self) {}

    fn bytes(&self) -> Option<&[u8]> {
        None
    }
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
