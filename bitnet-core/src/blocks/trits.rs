//! Ternary weights, five to a byte (1.6 bits each): the codes of an I2_S matrix repacked to be read faster.
//!
//! Byte `j` of a block of 320 weights holds weights `j`, `64 + j`, ... `256 + j` as the digits of a number to base 3,
//! the first of them the lowest. A row is padded with codes of 0.

use super::i2_s;
use crate::gguf::TensorType;

/// The type whose rows can be repacked.
pub(crate) const OF: TensorType = TensorType::I2_S;

/// Weights per block.
pub const BLOCK: usize = DIGITS * BLOCK_BYTES;
/// Bytes per block: a cache line.
pub const BLOCK_BYTES: usize = 64;
/// Weights per byte.
pub const DIGITS: usize = 5;

/// Weights whose bits lie side by side in I2_S: those of one group of a block.
const RUN: usize = i2_s::BLOCK_BYTES;

/// Bytes of a row.
pub fn row_bytes(columns: usize) -> usize {
    columns.div_ceil(BLOCK) * BLOCK_BYTES
}

/// Packs an I2_S row; `false` if one of its codes is 3, which has no place here.
///
/// # Panics
/// If the lengths are not those of rows of as many weights.
#[inline(always)]
pub fn pack_row(row: &[u8], packed: &mut [u8]) -> bool {
    let columns = 4 * row.len();
    assert_eq!(packed.len(), row_bytes(columns));
    let (blocks, rest) = row.as_chunks::<{ i2_s::BLOCK_BYTES }>();
    assert!(rest.is_empty());
    let mut undefined = [0; RUN];
    let (runs, _) = packed.as_chunks_mut::<RUN>();
    for (r, out) in runs.iter_mut().enumerate() {
        let first = r / 2 * BLOCK + r % 2 * RUN;
        *out = [0; RUN];
        for digit in (0..DIGITS).rev() {
            let column = first + digit * BLOCK_BYTES;
            let Some(block) = blocks.get(column / i2_s::BLOCK) else {
                continue;
            };
            // A shift that is known vectorises.
            match column % i2_s::BLOCK / RUN {
                0 => push::<6>(out, block, &mut undefined),
                1 => push::<4>(out, block, &mut undefined),
                2 => push::<2>(out, block, &mut undefined),
                _ => push::<0>(out, block, &mut undefined),
            }
        }
    }
    undefined == [0; RUN]
}

/// Appends a digit from `SHIFT` bits up in the bytes of a block.
#[inline(always)]
fn push<const SHIFT: u32>(out: &mut [u8; RUN], block: &[u8; RUN], undefined: &mut [u8; RUN]) {
    for ((out, byte), undefined) in out.iter_mut().zip(block).zip(undefined) {
        let code = byte >> SHIFT & 3;
        *undefined |= code & code >> 1;
        *out = out.wrapping_mul(3).wrapping_add(code);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_layout() {
        let mut values = [-1i8; 3 * i2_s::BLOCK];
        for (column, value) in [(0, 1), (64, 0), (257, 1), (319, 0), (320, 1), (383, 0)] {
            values[column] = value;
        }
        let row: Vec<u8> = values
            .as_chunks()
            .0
            .iter()
            .flat_map(i2_s::pack_block)
            .collect();
        let mut packed = vec![0xff; row_bytes(values.len())];
        assert!(pack_row(&row, &mut packed));
        let mut want = vec![0; 128];
        want[0] = 2 + 3;
        want[1] = 2 * 81;
        want[63] = 81;
        want[64] = 2;
        want[127] = 1;
        assert_eq!(packed, want);
    }

    #[test]
    fn a_code_that_stands_for_no_weight_is_refused() {
        let mut packed = [0; 2 * BLOCK_BYTES];
        let mut row = [0b10_10_10_10; 3 * i2_s::BLOCK_BYTES];
        assert!(pack_row(&row, &mut packed));
        row[95] = 0b10_10_10_11;
        assert!(!pack_row(&row, &mut packed));
    }
}
