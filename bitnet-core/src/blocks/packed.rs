//! Weights of one or two bits in blocks, an F16 scale and then the codes, the first in the lowest bits: Q1_0 and Q2_0,
//! the latter in blocks of 64 or 128. Activations beside them are in blocks of [`q8_0`](super::q8_0).
//!
//! A block has `BYTES` bytes with codes of `BITS` bits. A weight is `d * (level - 1)`, where the level of a bit is 0 or 2,
//! and that of two bits what they say, 0 to 3.

use half::f16;

use super::q8_0;

/// Bytes of the scale.
const SCALE: usize = 2;

/// Weights per block.
pub const fn block(bits: usize, bytes: usize) -> usize {
    8 * (bytes - SCALE) / bits
}

/// Blocks of activations beside a block.
pub(crate) const fn groups(bits: usize, bytes: usize) -> usize {
    block(bits, bytes) / q8_0::BLOCK
}

/// Scale and codes of one block.
#[inline(always)]
pub(crate) fn split<const BYTES: usize>(block: &[u8; BYTES]) -> (f32, &[u8]) {
    let (d, codes) = block.split_at(SCALE);
    (f16::from_le_bytes([d[0], d[1]]).to_f32(), codes)
}

/// The level of weight `i`.
#[inline(always)]
pub(crate) fn level<const BITS: usize>(codes: &[u8], i: usize) -> u8 {
    let code = codes[BITS * i / 8] >> (BITS * i % 8);
    match BITS {
        1 => (code & 1) << 1,
        _ => code & 3,
    }
}

/// Dequantises one row; bytes and values beyond the shorter of the two are left alone.
pub fn dequantize_row<const BITS: usize, const BYTES: usize>(row: &[u8], out: &mut [f32]) {
    let blocks = row.as_chunks::<BYTES>().0;
    for (bytes, out) in blocks.iter().zip(out.chunks_exact_mut(block(BITS, BYTES))) {
        let (d, codes) = split(bytes);
        for (i, out) in out.iter_mut().enumerate() {
            *out = d * (f32::from(level::<BITS>(codes, i)) - 1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn q1_0_layout() {
        let mut bytes = [0; 18];
        bytes[..2].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        bytes[2] = 0b1000_0001;
        bytes[17] = 0b0100_0000;
        let mut out = [0.0; 128];
        dequantize_row::<1, 18>(&bytes, &mut out);
        let mut want = [-0.5; 128];
        (want[0], want[7], want[126]) = (0.5, 0.5, 0.5);
        assert_eq!(out, want);
    }

    #[test]
    fn q2_0_layout_in_blocks_of_both_lengths() {
        let d = f16::from_f32(0.25).to_le_bytes();
        let codes = |last: usize| {
            let mut codes = vec![0b01_01_01_01; last];
            codes[0] = 0b11_10_01_00;
            [&d[..], &codes, &[0b00_01_01_01]].concat()
        };
        let want = |n: usize| {
            let mut want = vec![0.0; n];
            want[..4].copy_from_slice(&[-0.25, 0.0, 0.25, 0.5]);
            want[n - 1] = -0.25;
            want
        };
        let mut out = [f32::NAN; 64];
        dequantize_row::<2, 18>(&codes(15), &mut out);
        assert_eq!(out[..], want(64));
        let mut out = [f32::NAN; 128];
        dequantize_row::<2, 34>(&codes(31), &mut out);
        assert_eq!(out[..], want(128));
    }
}
