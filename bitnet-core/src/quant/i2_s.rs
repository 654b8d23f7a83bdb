//! I2_S weights, in the file's blocks or repacked as [trits](crate::blocks::trits), and int8 activations beside them.

use super::WeightFormat;
use super::activations::{Activations, Codes, Encoding};
use crate::blocks::i2_s;
use crate::gguf::TensorType;
use crate::kernels::{Kernel, Rows, vectorize};

/// I2_S weights.
#[derive(Debug)]
pub(crate) struct Format;

impl WeightFormat for Format {
    fn ty(&self) -> TensorType {
        TensorType::I2_S
    }

    fn encoding(&self) -> Encoding {
        Encoding::Codes(Codes::I8)
    }

    fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
        i2_s::dequantize_row(row, out);
    }

    fn dots(&self, kernel: Kernel, weights: Rows, scale: f32, x: Activations, out: &mut [f32]) {
        kernel.i2_s_dots(weights, x.codes, bytemuck::cast_slice_mut(out));
        finish(kernel, scale, x, out);
    }
}

/// As [`WeightFormat::dots`], of rows that were repacked as [trits](crate::blocks::trits).
pub(crate) fn trit_dots(
    kernel: Kernel,
    weights: Rows,
    scale: f32,
    x: Activations,
    out: &mut [f32],
) {
    kernel.trit_dots(weights, x.codes, bytemuck::cast_slice_mut(out));
    finish(kernel, scale, x, out);
}

/// Makes products of exact dot products of codes, whose bits `out` holds, an i32 each. The codes are 0..=2, so the sum
/// of the activations comes off. This order of f32 operations is the reference's
/// (`ggml_compute_forward_mul_mat_one_chunk`).
fn finish(kernel: Kernel, scale: f32, x: Activations, out: &mut [f32]) {
    let rows = out.len() / x.sums.len();
    let tokens = x.sums.iter().zip(x.scales);
    for (out, (&sum, &x_scale)) in out.chunks_exact_mut(rows).zip(tokens) {
        let sum = sum as f32;
        vectorize!(kernel, {
            for out in out {
                let dot = out.to_bits() as i32;
                *out = (dot as f32 - sum) / x_scale * scale;
            }
        });
    }
}
