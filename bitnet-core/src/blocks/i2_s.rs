//! I2_S: ternary weights, 2 bits each, one scale per tensor; and the int8 activations that go with them.
//!
//! Layout (x86 builds of BitNet.cpp, `ggml-bitnet-mad.cpp`): 128 weights in 32 bytes; weight `j` of a block sits
//! in byte `j % 32`, bits `6 - 2 * (j / 32)`, as code 0, 1, 2 for -1, 0, +1. The f32 scale lies directly behind
//! the packed rows, and the tensor takes `n / 4 + 32` bytes.

use super::{max, nearest_product};
use crate::gguf::TensorType;

/// Weights per block. A row is a whole number of blocks.
pub const BLOCK: usize = TensorType::I2_S.block_len() as usize;
/// Bytes per block.
pub const BLOCK_BYTES: usize = TensorType::I2_S.block_bytes() as usize;

/// Packs one block of ternary values (-1, 0, +1).
pub fn pack_block(values: &[i8; BLOCK]) -> [u8; BLOCK_BYTES] {
    let mut packed = [0; BLOCK_BYTES];
    for (j, &v) in values.iter().enumerate() {
        debug_assert!((-1..=1).contains(&v));
        packed[j % 32] |= ((v + 1) as u8) << (6 - 2 * (j / 32));
    }
    packed
}

/// Decodes one row to -1, 0, +1, as far as `out` goes; a code of 3, which stands for no weight, becomes 2.
pub fn dequantize_row(row: &[u8], out: &mut [f32]) {
    let blocks = row.as_chunks::<BLOCK_BYTES>().0;
    for (block, out) in blocks.iter().zip(out.chunks_exact_mut(BLOCK)) {
        for (j, out) in out.iter_mut().enumerate() {
            let code = block[j % 32] >> (6 - 2 * (j / 32)) & 3;
            *out = f32::from(code) - 1.0;
        }
    }
}

/// Quantises one token's activations to int8: `scale = 127 / max(1e-5, max|x|)`, codes rounded half to even.
/// Returns the scale and the sum of the codes.
///
/// # Panics
/// If `codes` is shorter than `x`.
#[inline(always)]
pub fn quantize_row(x: &[f32], codes: &mut [i8]) -> (f32, i32) {
    let scale = (127.0 / f64::from(max(x, f32::abs)).max(1e-5)) as f32;
    let codes = &mut codes[..x.len()];
    let mut sum = 0;
    for (code, &v) in codes.iter_mut().zip(x) {
        let q = nearest_product(v, scale).clamp(-128, 127);
        sum += q;
        *code = q as i8;
    }
    (scale, sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_layout() {
        let mut values = [0i8; BLOCK];
        values[0] = 1;
        values[33] = -1;
        values[127] = 1;
        let packed = pack_block(&values);
        assert_eq!(packed[0], 0b10_01_01_01);
        assert_eq!(packed[1], 0b01_00_01_01);
        assert_eq!(packed[2], 0b01_01_01_01);
        assert_eq!(packed[31], 0b01_01_01_10);
    }

    #[test]
    fn activations() {
        let mut codes = [0i8; 4];
        let (scale, sum) = quantize_row(&[-2.0, 1.0, 0.0, 0.5], &mut codes);
        assert_eq!(scale, 63.5);
        assert_eq!(codes, [-127, 64, 0, 32]); // 63.5 and 31.75
        assert_eq!(sum, -31);
        let (scale, sum) = quantize_row(&[0.0; 4], &mut codes);
        assert_eq!((scale, sum, codes), ((127.0f64 / 1e-5) as f32, 0, [0; 4]));
    }
}
