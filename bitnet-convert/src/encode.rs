//! Rows of codes and floats as bytes of a file.

use bitnet_model::encode;
use bitnet_model::gguf::{Float, TensorType};
use half::{bf16, f16};

/// Appends a row of codes -1, 0 and 1 in blocks of that type, under this scale, if it has blocks with scales; `None` if its
/// blocks are no ternary codes.
pub(crate) fn codes(row: &[i8], ty: TensorType, scale: f16, out: &mut Vec<u8>) -> Option<()> {
    let unsigned: Vec<u8> = row.iter().map(|code| (code + 1) as u8).collect();
    let blocks = unsigned.chunks_exact(ty.block_len().max(1) as usize);
    match encode::block(ty) {
        Some(encode) => blocks.for_each(|block| out.extend(encode(block, scale))),
        None if ty == TensorType::I2_S => blocks.for_each(|block| out.extend(encode::i2_s(block))),
        None => return None,
    }
    Some(())
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
        let row: Vec<i8> = (0..512).map(|j: i32| (j * j % 7 % 3 - 1) as i8).collect();
        let mut types = 0;
        for &ty in TensorType::KNOWN {
            let (mut bytes, mut read) = (Vec::new(), [0.0; 512]);
            if codes(&row, ty, f16::from_f32(0.5), &mut bytes).is_none() {
                continue;
            }
            let scale = if ty == TensorType::I2_S { 1.0 } else { 0.5 };
            bitnet_core::quant::dequantize_row(ty, &bytes, &mut read).unwrap();
            assert!(
                read.iter()
                    .zip(&row)
                    .all(|(v, code)| *v == f32::from(*code) * scale),
                "{ty}"
            );
            types += 1;
        }
        assert_eq!(types, 5);
    }

    #[test]
    fn floats_that_get_infinite_are_noticed() {
        let row = [1.0, 65504.0, f32::INFINITY, f32::NAN];
        assert_eq!(floats(&row, Float::F16, &mut Vec::new()), Some(()));
        assert_eq!(floats(&[7e4], Float::F16, &mut Vec::new()), None);
        assert_eq!(floats(&[7e4], Float::Bf16, &mut Vec::new()), Some(()));
    }
}
