//! TQ1_0: ternary weights, five to a byte, one F16 scale for 256, and Q8_K activations beside them
//! ([`quantize_row_q8_k`](super::q6_k::quantize_row_q8_k)).
//!
//! Layout (ggml's `block_tq1_0`): weights are digits to base 3, 0, 1, 2 for -1, 0, +1, of fractions: byte `q` stands for
//! `q / 256`, so that three times the byte carries the first digit into bit 8 and leaves the others. Runs of 160, 80
//! and 16 weights lie in 32, 16 and 4 bytes; weight `j` of a run is digit `j / bytes` of byte `j % bytes`.

use half::f16;

use crate::gguf::TensorType;

/// Weights per block. A row is a whole number of blocks.
pub const BLOCK: usize = TensorType::TQ1_0.block_len() as usize;
/// Bytes per block: the digits, then the F16 scale.
pub const BLOCK_BYTES: usize = TensorType::TQ1_0.block_bytes() as usize;

/// First byte and bytes of the run of weight `j`, and the weight's index in the run.
const fn run(j: usize) -> (usize, usize, usize) {
    match j {
        0..160 => (0, 32, j),
        160..240 => (32, 16, j - 160),
        _ => (48, 4, j - 240),
    }
}

/// Packs one block of ternary values (-1, 0, +1) with its scale.
pub fn pack_block(values: &[i8; BLOCK], scale: f16) -> [u8; BLOCK_BYTES] {
    let mut numbers = [0u16; BLOCK_BYTES - 2];
    for (j, &v) in values.iter().enumerate() {
        debug_assert!((-1..=1).contains(&v));
        let (first, bytes, i) = run(j);
        let worth = 3u16.pow(4 - (i / bytes) as u32);
        numbers[first + i % bytes] += (v + 1) as u16 * worth;
    }
    let mut packed = [0; BLOCK_BYTES];
    for (packed, number) in packed.iter_mut().zip(numbers) {
        // The least fraction that has these digits.
        *packed = (number * 256).div_ceil(243) as u8;
    }
    packed[BLOCK_BYTES - 2..].copy_from_slice(&scale.to_le_bytes());
    packed
}

/// What multiplies a byte so that the digit of weight `j` comes first.
pub(crate) const fn worth(j: usize) -> u8 {
    const WORTH: [u8; 5] = [1, 3, 9, 27, 81];
    let (_, bytes, i) = run(j);
    WORTH[i / bytes]
}

/// The code of weight `j`, 0 to 2.
#[inline(always)]
pub(crate) fn code(block: &[u8; BLOCK_BYTES], j: usize) -> u8 {
    let (first, bytes, i) = run(j);
    let rest = block[first + i % bytes].wrapping_mul(worth(j));
    ((u16::from(rest) * 3) >> 8) as u8
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
        let mut values = [-1; BLOCK];
        for (j, value) in [
            (0, 1),
            (32, 0),
            (159, 1),
            (160, 0),
            (239, 1),
            (240, 0),
            (255, 1),
        ] {
            values[j] = value;
        }
        let packed = pack_block(&values, f16::from_f32(0.5));
        let mut want = [0; BLOCK_BYTES];
        // Fractions of 243, rounded up to fractions of 256.
        want[0] = (2 * 81 + 27) * 256 / 243 + 1;
        want[31] = 2 * 256 / 243 + 1;
        want[32] = 81 * 256 / 243 + 1;
        want[47] = 2 * 256 / 243 + 1;
        want[48] = 81 * 256 / 243 + 1;
        want[51] = 2 * 3 * 256 / 243 + 1;
        want[53] = 0x38;
        assert_eq!(packed.map(u32::from), want);
        let mut out = [0.0; BLOCK];
        dequantize_row(&packed, &mut out);
        assert_eq!(out, values.map(|v| 0.5 * f32::from(v)));
    }

    #[test]
    fn every_byte_has_digits() {
        for byte in 0..=255 {
            let block = [byte; BLOCK_BYTES];
            let rest = |digit: u32| u32::from(byte) * 3u32.pow(digit) % 256;
            for digit in 0..5 {
                let want = (3 * rest(digit) / 256) as u8;
                assert_eq!(code(&block, 32 * digit as usize), want);
                assert_eq!(code(&block, 160 + 16 * digit as usize), want);
            }
        }
    }
}
