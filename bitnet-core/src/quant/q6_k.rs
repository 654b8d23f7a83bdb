//! Q6_K weights, and Q8_K activations beside them.

use super::WeightFormat;
use super::activations::{Activations, Codes, Encoding};
use crate::blocks::q6_k;
use crate::gguf::TensorType;
use crate::kernels::{Kernel, Rows};

/// Q6_K weights.
#[derive(Debug)]
pub(crate) struct Format;

impl WeightFormat for Format {
    fn ty(&self) -> TensorType {
        TensorType::Q6_K
    }

    fn encoding(&self) -> Encoding {
        Encoding::Codes(Codes::Q8K)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        q6_k::dequantize_row(row, out);
    }

    fn dots(&self, kernel: Kernel, weights: Rows, _: f32, x: Activations, out: &mut [f32]) {
        kernel.q6_k_dots(weights, x.codes, x.scales, out);
    }
}
