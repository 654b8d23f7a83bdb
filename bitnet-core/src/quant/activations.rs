//! What activations are turned into, to be multiplied with weights.

use crate::blocks::{i2_s, q6_k, q8_0};
use crate::kernels::{Kernel, Q8K, vectorize};

/// What a format of weights is multiplied with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Encoding {
    /// Floats as they are.
    F32,
    /// Floats, rounded to bf16.
    Bf16,
    /// Integers and scales.
    Codes(Codes),
}

/// How activations are quantised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Codes {
    /// One scale per token, by which values were multiplied.
    I8,
    /// One scale per 32 values.
    Q8_0,
    /// One scale per 256 values.
    Q8K,
}

impl Codes {
    /// Values that have a scale in common, in rows of `columns`.
    pub(crate) fn block_len(self, columns: usize) -> usize {
        match self {
            Codes::I8 => columns,
            Codes::Q8_0 => q8_0::BLOCK,
            Codes::Q8K => q6_k::BLOCK,
        }
    }

    /// Codes of a row of `columns`, those of zero included that fill up the last block of its weights.
    pub(crate) fn padded(self, columns: usize) -> usize {
        match self {
            Codes::I8 => columns.next_multiple_of(i2_s::BLOCK),
            Codes::Q8_0 | Codes::Q8K => columns,
        }
    }

    /// Quantises one token's activations; `sums` become those of each block's codes, but for [`Codes::Q8_0`].
    ///
    /// # Panics
    /// If a slice is too short for `x`.
    pub(crate) fn quantize_row(
        self,
        kernel: Kernel,
        x: &[f32],
        codes: &mut [i8],
        scales: &mut [f32],
        sums: &mut [i32],
    ) {
        match self {
            Codes::I8 => (scales[0], sums[0]) = kernel.quantize_i8(x, codes),
            Codes::Q8_0 => vectorize!(kernel, q8_0::quantize_row(x, codes, scales)),
            Codes::Q8K => vectorize!(kernel, {
                q6_k::quantize_row_q8_k(x, codes, scales);
                let blocks = codes.as_chunks::<{ q6_k::BLOCK }>().0;
                for (sum, block) in sums.iter_mut().zip(blocks) {
                    *sum = block.iter().map(|&code| i32::from(code)).sum();
                }
            }),
        }
    }
}

/// The activations of some tokens, encoded; what the encoding does not have is empty.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Activations<'a> {
    /// `[n_tokens][columns]`.
    pub floats: &'a [f32],
    /// `[n_tokens][padded columns]`.
    pub codes: &'a [i8],
    /// `[n_tokens][columns / block_len]`.
    pub scales: &'a [f32],
    /// Of the codes, for each scale.
    pub sums: &'a [i32],
}

impl<'a> Activations<'a> {
    /// Those that were encoded as [`Codes::Q8K`].
    pub(crate) fn q8_k(self) -> Q8K<'a> {
        let Activations {
            codes,
            scales,
            sums,
            ..
        } = self;
        Q8K {
            codes,
            scales,
            sums,
        }
    }
}
