//! Formats of weights: how the matrices of a file are decoded, and multiplied with activations.
//!
//! A type of weights is a line of [`TensorType`]'s table and a `WeightFormat` in a file of its own here, registered
//! in `FORMATS`. A type with kernels of its own shares the layout of its [`blocks`](crate::blocks) with them.

pub(crate) mod activations;
mod float;
pub(crate) mod i2_s;
mod packed;
mod q6_k;
mod q8_0;
mod tiled;
mod tq1_0;
mod tq2_0;

use std::fmt;

use self::activations::{Activations, Encoding};
use crate::gguf::{Float, TensorInfo, TensorType};
use crate::kernels::{Kernel, Rows};

/// How a type of weights is read and multiplied.
///
/// With [`dequantize_row`](Self::dequantize_row) alone a type is right; kernels of its own make it fast.
pub(crate) trait WeightFormat: fmt::Debug + Sync {
    /// The type in the file.
    fn ty(&self) -> TensorType;

    /// Decodes one row, as far as `out` goes; the scale of the whole tensor, if it has one, is still to be applied.
    fn dequantize_row(&self, row: &[u8], out: &mut [f32]);

    /// What its activations are turned into.
    fn encoding(&self) -> Encoding {
        Encoding::F32
    }

    /// `out[t][r] = row r . token t * scale`, for `out` of `[n_tokens][weights.n]` and the `scale` of the whole tensor,
    /// 1 where it has none.
    ///
    /// # Panics
    /// If a slice is too short.
    fn dots(&self, kernel: Kernel, weights: Rows, scale: f32, x: Activations, out: &mut [f32]) {
        let Rows { n, columns, .. } = weights;
        let mut decoded = vec![0f32; n * columns];
        for (r, decoded) in decoded.chunks_exact_mut(columns).enumerate() {
            self.dequantize_row(weights.row(r, self.row_bytes(columns)), decoded);
        }
        let decoded = Rows {
            data: bytemuck::cast_slice(&decoded),
            stride: size_of::<f32>() * columns,
            n,
            columns,
        };
        kernel.float_dots(Float::F32, decoded, x.floats, out);
        out.iter_mut().for_each(|v| *v *= scale);
    }

    /// Bytes of a row of `columns`, a multiple of the block.
    fn row_bytes(&self, columns: usize) -> usize {
        columns / self.ty().block_len() as usize * self.ty().block_bytes() as usize
    }

    /// The rows of a tensor whose weights do not lie row by row, which is what all else here is about; or why it has none.
    fn unpack(&self, _info: &TensorInfo, _data: &[u8]) -> Option<Result<Vec<u8>, String>> {
        None
    }
}

/// Every format that matrices of a file may have.
static FORMATS: [&dyn WeightFormat; 14] = [
    &float::Format(Float::F32),
    &float::Format(Float::F16),
    &float::Format(Float::Bf16),
    &q8_0::Format,
    &q6_k::Format,
    &tq1_0::Format,
    &tq2_0::Format,
    &i2_s::Format,
    &packed::Q1_0,
    &packed::Q2_0,
    &packed::Q2_0_128,
    &tiled::Format(TensorType::TL1),
    &tiled::Format(TensorType::TL2),
    &tiled::Format(TensorType::TL2_42),
];

/// The types that matrices may have.
pub fn types() -> impl Iterator<Item = TensorType> {
    FORMATS.iter().map(|format| format.ty())
}

/// Decodes a row of weights, as far as `out` goes; the scale of the whole tensor, if it has one, is still to be applied.
/// `None` if matrices may not have that type.
pub fn dequantize_row(ty: TensorType, row: &[u8], out: &mut [f32]) -> Option<()> {
    format(ty).map(|format| format.dequantize_row(row, out))
}

/// The rows of a tensor whose weights do not lie row by row, in the form of I2_S with the last block filled up, or why it
/// has none. `None` for a tensor that has them.
pub fn unpack(info: &TensorInfo, data: &[u8]) -> Option<Result<Vec<u8>, String>> {
    format(info.ty)?.unpack(info, data)
}

/// The format of a type; `None` if matrices may not have it.
pub(crate) fn format(ty: TensorType) -> Option<&'static dyn WeightFormat> {
    FORMATS.into_iter().find(|format| format.ty() == ty)
}

#[cfg(test)]
mod tests {
    use bitnet_model::random::Rng;
    use half::{bf16, f16};

    use super::*;
    use crate::blocks::q8_0::{BLOCK, BLOCK_BYTES};
    use crate::gguf::{Content, Layout};

    const COLUMNS: usize = 512;
    const ROWS: usize = 5;
    const TOKENS: usize = 3;

    fn write(float: Float, v: f32, bytes: &mut [u8]) {
        match float {
            Float::F32 => bytes[..4].copy_from_slice(&v.to_le_bytes()),
            Float::F16 => bytes[..2].copy_from_slice(&f16::from_f32(v).to_le_bytes()),
            Float::Bf16 => bytes[..2].copy_from_slice(&bf16::from_f32(v).to_le_bytes()),
        }
    }

    /// Any integers, floats of about 0.01.
    fn random_block(layout: Layout, rng: &mut Rng) -> Vec<u8> {
        let mut block: Vec<u8> = (0..layout.block_bytes)
            .map(|_| rng.next_u64() as u8)
            .collect();
        let mut float = || 0.005 + 0.015 * rng.unit() as f32;
        match layout.content {
            Content::Float(stored) => write(stored, float(), &mut block),
            Content::Scaled(scales) => {
                for &(stored, first) in scales {
                    write(stored, float(), &mut block[first..]);
                }
            }
            // No code of 3.
            Content::Ternary | Content::Tiled => {
                block.iter_mut().for_each(|b| *b &= !(*b << 1 & 0xaa))
            }
        }
        block
    }

    /// Activations are rounded to 8 bits at most: that makes small errors, another layout large ones.
    #[test]
    fn every_format_multiplies_by_what_it_decodes() {
        let mut rng = Rng::new(1, "formats");
        for format in FORMATS {
            // Rows in tiles are unpacked to those of I2_S.
            let ty = match format.ty().layout().unwrap().content {
                Content::Tiled => TensorType::I2_S,
                _ => format.ty(),
            };
            let layout = ty.layout().unwrap();
            let blocks = ROWS * COLUMNS / layout.block_len as usize;
            let data = (0..blocks).flat_map(|_| random_block(layout, &mut rng));
            let data: Vec<u8> = data.collect();
            let rows = Rows {
                data: &data,
                stride: format.row_bytes(COLUMNS),
                n: ROWS,
                columns: COLUMNS,
            };
            let scale = if layout.trailer_bytes > 0 { 3.0 } else { 1.0 };
            let x: Vec<f32> = (0..TOKENS * COLUMNS)
                .map(|_| rng.unit() as f32 * 2.0 - 1.0)
                .collect();
            let mut want = Vec::new();
            for x in x.chunks_exact(COLUMNS) {
                for r in 0..ROWS {
                    let mut weights = [0f32; COLUMNS];
                    format.dequantize_row(rows.row(r, rows.stride), &mut weights);
                    let products = weights.iter().zip(x);
                    let products = products.map(|(w, x)| f64::from(*w) * f64::from(*x));
                    want.push(products.sum::<f64>() * f64::from(scale));
                }
            }
            for kernel in Kernel::available() {
                let mut codes = vec![0; x.len()];
                let (mut scales, mut sums) = (vec![0.0; x.len()], vec![0; x.len()]);
                if let Encoding::Codes(encoding) = format.encoding() {
                    let per_token = COLUMNS / encoding.block_len(COLUMNS);
                    for (t, x) in x.chunks_exact(COLUMNS).enumerate() {
                        let codes = &mut codes[t * COLUMNS..][..COLUMNS];
                        let of_token = t * per_token..(t + 1) * per_token;
                        let scales = &mut scales[of_token.clone()];
                        encoding.quantize_row(kernel, x, codes, scales, &mut sums[of_token]);
                    }
                    scales.truncate(TOKENS * per_token);
                    sums.truncate(TOKENS * per_token);
                }
                let activations = Activations {
                    floats: &x,
                    codes: &codes,
                    scales: &scales,
                    sums: &sums,
                };
                let mut got = [0.0; TOKENS * ROWS];
                format.dots(kernel, rows, scale, activations, &mut got);
                let error = got
                    .iter()
                    .zip(&want)
                    .map(|(a, b)| (f64::from(*a) - b).powi(2));
                let nmse = error.sum::<f64>() / want.iter().map(|v| v * v).sum::<f64>();
                assert!(nmse < 1e-4, "{} {}: {nmse:e}", format.ty(), kernel.name());
            }
        }
    }

    #[derive(Debug)]
    struct WithoutKernel(&'static dyn WeightFormat);

    impl WeightFormat for WithoutKernel {
        fn ty(&self) -> TensorType {
            self.0.ty()
        }

        fn dequantize_row(&self, row: &[u8], out: &mut [f32]) {
            self.0.dequantize_row(row, out);
        }
    }

    #[test]
    fn a_format_needs_no_kernel_of_its_own() {
        let mut data = random_block(
            TensorType::Q8_0.layout().unwrap(),
            &mut Rng::new(2, "formats"),
        );
        data.extend_from_within(..);
        let rows = Rows {
            data: &data,
            stride: BLOCK_BYTES,
            n: 2,
            columns: BLOCK,
        };
        let mut x = [0.0; 3 * BLOCK];
        (x[1], x[32 + 5], x[64 + 31]) = (1.0, 2.0, -1.0);
        let activations = Activations {
            floats: &x,
            ..Activations::default()
        };
        let mut weights = [0.0; BLOCK];
        let mut got = [0.0; 6];
        let format = WithoutKernel(&q8_0::Format);
        format.dequantize_row(&data, &mut weights);
        assert_eq!(format.encoding(), Encoding::F32);
        format.dots(Kernel::available()[0], rows, 4.0, activations, &mut got);
        let want = [4.0 * weights[1], 8.0 * weights[5], -4.0 * weights[31]];
        assert_eq!(got, want.map(|v| [v; 2]).concat()[..]);
    }
}
