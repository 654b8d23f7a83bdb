//! TQ1_0 weights, and Q8_K activations beside them.

use super::WeightFormat;
use super::activations::{Activations, Codes, Encoding};
use crate::blocks::tq1_0;
use crate::gguf::TensorType;
use crate::kernels::{Kernel, Rows};

/// TQ1_0 weights.
#[derive(Debug)]
pub(crate) struct Format;

impl WeightFormat for Format {
    fn ty(&self) -> TensorType {
        TensorType::TQ1_0
    }

    fn encoding(&self) -> Encoding {
        Encoding::Codes(Codes::Q8K)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        tq1_0::dequantize_row(row, out);
    }

    fn dots(&self, kernel: Kernel, weights: Rows, _: f32, x: Activations, out: &mut [f32]) {
        kernel.tq1_0_dots(weights, x.q8_k(), out);
    }
}
