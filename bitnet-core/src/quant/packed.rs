//! Q1_0 and Q2_0 weights, and Q8_0 activations beside them.

use super::WeightFormat;
use super::activations::{Activations, Codes, Encoding};
use crate::blocks::packed;
use crate::gguf::TensorType;
use crate::kernels::{Kernel, Rows};

/// A type of [packed](crate::blocks::packed) weights.
#[derive(Debug)]
pub(crate) struct Format<const BITS: usize, const BYTES: usize>(pub TensorType);

/// Q1_0 weights.
pub(crate) const Q1_0: Format<1, 18> = Format(TensorType::Q1_0);
/// Q2_0 weights.
pub(crate) const Q2_0: Format<2, 18> = Format(TensorType::Q2_0);
/// Q2_0 weights in blocks of 128.
pub(crate) const Q2_0_128: Format<2, 34> = Format(TensorType::Q2_0_128);

impl<const BITS: usize, const BYTES: usize> WeightFormat for Format<BITS, BYTES> {
    fn ty(&self) -> TensorType {
        self.0
    }

    fn encoding(&self) -> Encoding {
        Encoding::Codes(Codes::Q8_0)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        packed::dequantize_row::<BITS, BYTES>(row, out);
    }

    fn dots(&self, kernel: Kernel, weights: Rows, _: f32, x: Activations, out: &mut [f32]) {
        kernel.packed_dots::<BITS, BYTES>(weights, x.codes, x.scales, out);
    }
}
