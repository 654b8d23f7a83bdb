//! Q8_0: blocks of 32 int8 values with one F16 scale, for weights and for the activations beside them.

use half::f16;

use super::{max, nearest_int};
use crate::gguf::TensorType;

/// Values per block.
pub const BLOCK: usize = TensorType::Q8_0.block_len() as usize;
/// Bytes per block in the file: the F16 scale, then the values.
pub const BLOCK_BYTES: usize = TensorType::Q8_0.block_bytes() as usize;

/// Scale and values of one block of the file.
#[inline(always)]
pub(crate) fn split(block: &[u8; BLOCK_BYTES]) -> (f32, &[u8; BLOCK]) {
    let (d, q) = block.split_first_chunk::<2>().expect("BLOCK_BYTES > 2");
    let q = q.first_chunk().expect("BLOCK_BYTES is 2 + BLOCK");
    (f16::from_le_bytes(*d).to_f32(), q)
}

/// Dequantises one row; bytes and values beyond the shorter of the two are left alone.
pub fn dequantize_row(row: &[u8], out: &mut [f32]) {
    for (block, out) in row
        .as_chunks::<BLOCK_BYTES>()
        .0
        .iter()
        .zip(out.chunks_exact_mut(BLOCK))
    {
        let (d, q) = split(block);
        for (o, &q) in out.iter_mut().zip(q) {
            *o = d * f32::from(q as i8);
        }
    }
}

/// Quantises activations as the AVX2 path of ggml's `quantize_row_q8_0`: `d = max|x| / 127`, stored as F16 (and
/// returned widened in `scales`, one per block), values rounded half to even.
///
/// # Panics
/// If `codes` or `scales` is too short for `x`.
#[inline(always)]
pub fn quantize_row(x: &[f32], codes: &mut [i8], scales: &mut [f32]) {
    for (b, block) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
        let max = max(block, f32::abs).max(0.0);
        scales[b] = f16::from_f32(max / 127.0).to_f32();
        let inverse = if max != 0.0 { 127.0 / max } else { 0.0 };
        for (code, v) in codes[b * BLOCK..][..BLOCK].iter_mut().zip(block) {
            *code = nearest_int(v * inverse) as i8;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_within_half_a_step() {
        let x: Vec<f32> = (0..64)
            .map(|i| ((i * 37) % 64) as f32 / 9.0 - 3.0)
            .collect();
        let mut codes = vec![0i8; 64];
        let mut scales = vec![0f32; 2];
        quantize_row(&x, &mut codes, &mut scales);
        let mut bytes = Vec::new();
        for b in 0..2 {
            bytes.extend(f16::from_f32(scales[b]).to_le_bytes());
            bytes.extend(codes[b * 32..][..32].iter().map(|&c| c as u8));
        }
        let mut back = vec![0f32; 64];
        dequantize_row(&bytes, &mut back);
        for (i, (a, b)) in x.iter().zip(&back).enumerate() {
            assert!((a - b).abs() <= scales[i / 32] * 0.57, "{i}: {a} {b}");
        }
        assert!(codes.contains(&-127) || codes.contains(&127));
    }
}
