//! Rows of codes and floats as bytes of a file.

use bitnet_model::gguf::{Float, TensorType};
use half::{bf16, f16};

/// Appends a row of codes -1, 0 and 1, as every engine here reads I2_S (`quantize_i2_s` of BitNet.cpp on x86): a byte has
/// codes of four groups of 32, the first in the highest bits.
pub(crate) fn i2_s(codes: &[i8], out: &mut Vec<u8>) {
    for block in codes.chunks_exact(128) {
        out.extend((0..32).map(|j| {
            let code = |group: usize| (block[32 * group + j] + 1) as u8;
            code(0) << 6 | code(1) << 4 | code(2) << 2 | code(3)
        }));
    }
}

/// Appends a row of codes in blocks of 256 with their scales, as ggml has TQ1_0: five digits to base 3 in a byte, the first
/// the highest, of 32 bytes and then of 16; four in 4 bytes. A byte is the number as a fraction of 256 instead of 243,
/// rounded up.
pub(crate) fn tq1_0(codes: &[i8], scales: &[f16], out: &mut Vec<u8>) {
    for (block, scale) in codes.chunks_exact(256).zip(scales) {
        for (codes, bytes) in [
            (&block[..160], 32),
            (&block[160..240], 16),
            (&block[240..], 4),
        ] {
            out.extend((0..bytes).map(|byte| {
                let digit = |i: usize| codes.get(byte + bytes * i).map_or(0, |c| (c + 1) as u16);
                let number = (0..5).fold(0, |number, i| 3 * number + digit(i));
                (number * 256).div_ceil(243) as u8
            }));
        }
        out.extend(scale.to_le_bytes());
    }
}

/// Likewise, as ggml has TQ2_0: four codes in a byte, the first in the lowest bits, of twice 32 bytes.
pub(crate) fn tq2_0(codes: &[i8], scales: &[f16], out: &mut Vec<u8>) {
    for (block, scale) in codes.chunks_exact(256).zip(scales) {
        for half in block.chunks_exact(128) {
            out.extend((0..32).map(|j| {
                let code = |l: usize| ((half[32 * l + j] + 1) as u8) << (2 * l);
                code(0) | code(1) | code(2) | code(3)
            }));
        }
        out.extend(scale.to_le_bytes());
    }
}

/// Appends floats; `None` if one of them is finite and gets infinite.
pub(crate) fn floats(row: &[f32], float: Float, out: &mut Vec<u8>) -> Option<()> {
    for &v in row {
        let rounded = match float {
            Float::F32 => {
                out.extend(v.to_le_bytes());
                v
            }
            Float::F16 => {
                let v = f16::from_f32(v);
                out.extend(v.to_le_bytes());
                v.to_f32()
            }
            Float::Bf16 => {
                let v = bf16::from_f32(v);
                out.extend(v.to_le_bytes());
                v.to_f32()
            }
        };
        if rounded.is_infinite() && v.is_finite() {
            return None;
        }
    }
    Some(())
}

/// The type's float, if its elements are floats.
pub(crate) fn float(ty: TensorType) -> Option<Float> {
    match ty {
        TensorType::F32 => Some(Float::F32),
        TensorType::F16 => Some(Float::F16),
        TensorType::BF16 => Some(Float::Bf16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_they_were_written() {
        let codes: Vec<i8> = (0..512).map(|j: i32| (j * j % 7 % 3 - 1) as i8).collect();
        let scales = [f16::from_f32(0.5), f16::from_f32(3.0)];
        let mut read = [0.0; 512];
        for (ty, encode) in [
            (TensorType::TQ1_0, tq1_0 as fn(&[i8], &[f16], &mut Vec<u8>)),
            (TensorType::TQ2_0, tq2_0),
        ] {
            let mut bytes = Vec::new();
            encode(&codes, &scales, &mut bytes);
            bitnet_core::quant::dequantize_row(ty, &bytes, &mut read).unwrap();
            for (i, (v, code)) in read.iter().zip(&codes).enumerate() {
                assert_eq!(*v, f32::from(*code) * scales[i / 256].to_f32(), "{ty} {i}");
            }
        }
        let mut bytes = Vec::new();
        i2_s(&codes, &mut bytes);
        bitnet_core::quant::dequantize_row(TensorType::I2_S, &bytes, &mut read).unwrap();
        assert!(
            read.iter()
                .zip(&codes)
                .all(|(v, code)| *v == f32::from(*code))
        );
    }

    #[test]
    fn floats_that_get_infinite_are_noticed() {
        let row = [1.0, 65504.0, f32::INFINITY, f32::NAN];
        assert_eq!(floats(&row, Float::F16, &mut Vec::new()), Some(()));
        assert_eq!(floats(&[7e4], Float::F16, &mut Vec::new()), None);
        assert_eq!(floats(&[7e4], Float::Bf16, &mut Vec::new()), Some(()));
    }
}
