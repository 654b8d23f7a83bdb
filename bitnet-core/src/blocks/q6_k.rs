//! Q6_K weights (super-blocks of 256 6-bit values, 16 int8 sub-scales, one F16 scale) and the Q8_K activations
//! that ggml multiplies them with.

use half::f16;

use super::nearest_product;
use crate::gguf::TensorType;

/// Values per super-block.
pub const BLOCK: usize = TensorType::Q6_K.block_len() as usize;
/// Bytes per super-block: 128 of low nibbles, 64 of high bit pairs, 16 sub-scales, the F16 scale.
pub const BLOCK_BYTES: usize = TensorType::Q6_K.block_bytes() as usize;

/// One super-block of the file, taken apart.
pub(crate) struct Block<'a> {
    /// Low nibbles.
    pub low: &'a [u8],
    /// High bit pairs.
    pub high: &'a [u8],
    /// Sub-scales, one per 16 values, int8.
    pub scales: &'a [u8],
    /// The super-block's scale.
    pub d: f32,
}

impl<'a> Block<'a> {
    #[inline(always)]
    pub(crate) fn new(bytes: &'a [u8; BLOCK_BYTES]) -> Self {
        Self {
            low: &bytes[..128],
            high: &bytes[128..192],
            scales: &bytes[192..208],
            d: f16::from_le_bytes([bytes[208], bytes[209]]).to_f32(),
        }
    }

    /// The value at `index`, -32..=31, before scaling.
    #[inline(always)]
    pub(crate) fn value(&self, index: usize) -> i32 {
        let (half, quarter, l) = (index / 128, index % 128 / 32, index % 32);
        let low = self.low[half * 64 + (quarter % 2) * 32 + l] >> (4 * (quarter / 2));
        let high = self.high[half * 32 + l] >> (2 * quarter);
        i32::from(low & 0xf | (high & 3) << 4) - 32
    }

    /// The sub-scale of the value at `index`.
    #[inline(always)]
    pub(crate) fn scale(&self, index: usize) -> i32 {
        i32::from(self.scales[index / 16] as i8)
    }
}

/// Dequantises one row; bytes and values beyond the shorter of the two are left alone.
pub fn dequantize_row(row: &[u8], out: &mut [f32]) {
    for (bytes, out) in row
        .as_chunks::<BLOCK_BYTES>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(BLOCK))
    {
        let block = Block::new(bytes);
        for (i, o) in out.iter_mut().enumerate() {
            *o = block.d * block.scale(i) as f32 * block.value(i) as f32;
        }
    }
}

/// Quantises activations to Q8_K: per 256 values, `scale = -127 / x[argmax |x|]`, stored inverted in `scales`.
///
/// # Panics
/// If `codes` or `scales` is too short for `x`.
#[inline(always)]
pub fn quantize_row_q8_k(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    for (b, block) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
        let codes = &mut codes[b * BLOCK..][..BLOCK];
        // The first of several equal maxima decides the sign.
        let extreme = block.iter().fold(
            0f32,
            |extreme, &v| {
                if v.abs() > extreme.abs() { v } else { extreme }
            },
        );
        if extreme == 0.0 {
            scales[b] = 0.0;
            codes.fill(0);
            continue;
        }
        let scale = -127.0 / extreme;
        for (code, v) in codes.iter_mut().zip(block) {
            *code = nearest_product(*v, scale).min(127) as i8;
        }
        scales[b] = 1.0 / scale;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layout() {
        let mut bytes = [0u8; BLOCK_BYTES];
        bytes[0] = 0xa5; // low nibbles of values 0 and 64
        bytes[128] = 0b00_01_00_11; // high pairs of values 0, 32, 64, 96
        bytes[192] = 2; // sub-scale of values 0..16
        bytes[192 + 4] = 0xff; // of 64..80: -1
        bytes[208..].copy_from_slice(&f16::from_f32(0.5).to_le_bytes());
        let mut out = [0f32; BLOCK];
        dequantize_row(&bytes, &mut out);
        assert_eq!(out[0], 0.5 * 2.0 * f32::from(0x35i8 - 32));
        assert_eq!(out[64], -0.5 * f32::from(0x1ai8 - 32));
        assert_eq!(out[1], 0.5 * 2.0 * -32.0);
    }

    #[test]
    fn activations_take_the_sign_of_the_extreme() {
        let mut x = [0f32; BLOCK];
        x[5] = -2.0;
        x[9] = 2.0;
        x[10] = 1.0;
        let (mut codes, mut scales) = ([0i8; BLOCK], [0f32; 1]);
        quantize_row_q8_k(&x, &mut codes, &mut scales);
        assert_eq!((codes[5], codes[9], codes[10]), (-127, 127, 64));
        assert!((scales[0] - 2.0 / 127.0).abs() < 1e-8);
    }
}
