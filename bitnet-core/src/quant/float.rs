//! Weights that are floats.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::WeightFormat;
use super::activations::{Activations, Encoding};
use crate::gguf::{Float, TensorType};
use crate::kernels::{Kernel, Rows};

/// Floats of one kind.
#[derive(Debug)]
pub(crate) struct Format(pub Float);

impl WeightFormat for Format {
    fn ty(&self) -> TensorType {
        match self.0 {
            Float::F32 => TensorType::F32,
            Float::F16 => TensorType::F16,
            Float::Bf16 => TensorType::BF16,
        }
    }

    fn encoding(&self) -> Encoding {
        match self.0 {
            Float::Bf16 => Encoding::Bf16,
            Float::F32 | Float::F16 => Encoding::F32,
        }
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        match self.0 {
            Float::F32 => {
                for (out, v) in out.iter_mut().zip(row.as_chunks().0) {
                    *out = f32::from_le_bytes(*v);
                }
            }
            Float::F16 => {
                let values = row.as_chunks().0.iter();
                let row: Vec<f16> = values.map(|v| f16::from_le_bytes(*v)).collect();
                row.convert_to_f32_slice(out);
            }
            Float::Bf16 => {
                for (out, v) in out.iter_mut().zip(row.as_chunks().0) {
                    *out = bf16::from_le_bytes(*v).to_f32();
                }
            }
        }
    }

    fn dots(&self, kernel: Kernel, weights: Rows, _: f32, x: Activations, out: &mut [f32]) {
        kernel.float_dots(self.0, weights, x.floats, out);
    }
}
