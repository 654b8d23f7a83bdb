//! TQ2_0: ternary weights of 2 bits, one F16 scale for 256, and Q8_K activations beside them
//! ([`quantize_row_q8_k`](super::q6_k::quantize_row_q8_k)).
//!
//! Layout (ggml's `block_tq2_0`): 128 weights in 32 bytes, twice; weight `j` of a half sits in byte `j % 32`, bits
//! `2 * (j / 32)`, as code 0, 1, 2 for -1, 0, +1. A code of 3 is +2.

use half::f16;

use crate::gguf::TensorType;

/// Weights per block. A row is a whole number of blocks.
pub const BLOCK: usize = TensorType::TQ2_0.block_len() as usize;
/// Bytes per block: the codes, then the F16 scale.
pub const BLOCK_BYTES: usize = TensorType::TQ2_0.block_bytes() as usize;

/// Packs one block of values (-1, 0, +1, +2) with its scale.
pub fn pack_block(values: &[i8; BLOCK], scale: f16) -> [u8; BLOCK_BYTES] {
    let mut packed = [0; BLOCK_BYTES];
    for (j, &v) in values.iter().enumerate() {
        debug_assert!((-1..=2).contains(&v));
        packed[j / 128 * 32 + j % 32] |= ((v + 1) as u8) << (2 * (j % 128 / 32));
    }
    packed[BLOCK_BYTES - 2..].copy_from_slice(&scale.to_le_bytes());
    packed
}

/// The code of weight `j`, 0 to 3.
#[inline(always)]
pub(crate) fn code(block: &[u8; BLOCK_BYTES], j: usize) -> u8 {
    block[j / 128 * 32 + j % 32] >> (2 * (j % 128 / 32)) & 3
}

/// Dequantises one row; bytes and values beyond the shorter of the two are left alone.
pub fn dequantize_row(row: &[u8], out: &mut [f32]) {
    super::dequantize_ternary(row, out, code);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_layout() {
        let mut values = [0; BLOCK];
        for (j, value) in [(0, 1), (33, -1), (96, 2), (127, 1), (128, -1), (255, 1)] {
            values[j] = value;
        }
        let packed = pack_block(&values, f16::from_f32(0.5));
        assert_eq!(packed[0], 0b11_01_01_10);
        assert_eq!(packed[1], 0b01_01_00_01);
        assert_eq!(packed[31], 0b10_01_01_01);
        assert_eq!(packed[32], 0b01_01_01_00);
        assert_eq!(packed[63], 0b10_01_01_01);
        assert_eq!(packed[64..], [0x00, 0x38]);
        let mut out = [0.0; BLOCK];
        dequantize_row(&packed, &mut out);
        assert_eq!(out, values.map(|v| 0.5 * f32::from(v)));
    }
}
