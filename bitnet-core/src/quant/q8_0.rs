//! Q8_0 weights, and activations in the same blocks beside them.

use super::WeightFormat;
use super::activations::{Activations, Codes, Encoding};
use crate::blocks::q8_0;
use crate::gguf::TensorType;
use crate::kernels::{Kernel, Rows};

/// Q8_0 weights.
#[derive(Debug)]
pub(crate) struct Format;

impl WeightFormat for Format {
    fn ty(&self) -> TensorType {
        TensorType::Q8_0
    }

    fn encoding(&self) -> Encoding {
        Encoding::Codes(Codes::Q8_0)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        q8_0::dequantize_row(row, out);
    }

    fn dots(&self, kernel: Kernel, weights: Rows, _: f32, x: Activations, out: &mut [f32]) {
        kernel.q8_0_dots(weights, x.codes, x.scales, out);
    }
}
