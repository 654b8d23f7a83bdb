//! What no weight should be.

use crate::Error;
use crate::gguf::{Gguf, TensorInfo, TensorType};

/// Looks through the weights of a file, which loading a model does not: one message for each tensor that holds values
/// or scales that are not finite, or, if ternary, codes 3, which stand for no weight. Tensors of unknown type are left
/// out.
///
/// # Errors
/// The data cannot be read.
pub fn check_weights(gguf: &Gguf) -> Result<Vec<String>, Error> {
    let mut findings = Vec::new();
    for info in gguf.tensors() {
        if !matches!(info.ty, TensorType::Unknown(_))
            && let Some(what) = finding(info, gguf.data(info)?)
        {
            findings.push(format!("tensor {:?}: {what}", info.name));
        }
    }
    Ok(findings)
}

fn finding(info: &TensorInfo, data: &[u8]) -> Option<String> {
    let n = info.n_elements();
    let count = |things: &str, of: u64, bad: usize| {
        (bad > 0).then(|| format!("{bad} of {of} {things} are not finite"))
    };
    match info.ty {
        TensorType::F32 => {
            let values = data.as_chunks().0.iter();
            let bad = values.filter(|v| !f32::from_le_bytes(**v).is_finite());
            count("values", n, bad.count())
        }
        TensorType::F16 => {
            let values = data.as_chunks().0.iter();
            count("values", n, values.filter(|v| !is_finite_f16(**v)).count())
        }
        TensorType::BF16 => {
            let values = data.as_chunks().0.iter();
            let bad = values.filter(|v| u16::from_le_bytes(**v) & 0x7F80 == 0x7F80);
            count("values", n, bad.count())
        }
        // An F16 scale in front of its block, and behind it.
        TensorType::Q8_0 => {
            let blocks = data.as_chunks::<34>().0;
            let bad = blocks.iter().filter(|b| !is_finite_f16([b[0], b[1]]));
            count("scales", blocks.len() as u64, bad.count())
        }
        TensorType::Q6_K => {
            let blocks = data.as_chunks::<210>().0;
            let bad = blocks.iter().filter(|b| !is_finite_f16([b[208], b[209]]));
            count("scales", blocks.len() as u64, bad.count())
        }
        TensorType::I2_S => {
            let (packed, trailer) = data.split_at_checked((n / 4) as usize)?;
            let undefined = undefined_codes(packed);
            if undefined > 0 {
                return Some(format!(
                    "{undefined} of {n} codes are 3, which stands for no weight"
                ));
            }
            let scale = f32::from_le_bytes(*trailer.first_chunk()?);
            (!scale.is_finite()).then(|| "its scale is not finite".to_owned())
        }
        TensorType::Unknown(_) => None,
    }
}

fn is_finite_f16(bytes: [u8; 2]) -> bool {
    u16::from_le_bytes(bytes) & 0x7C00 != 0x7C00
}

/// How many of the codes in packed rows are 3, which stands for no weight.
fn undefined_codes(packed: &[u8]) -> u64 {
    // A code is 3 where both of its bits are set.
    let both = |w: u64| w & (w >> 1) & 0x5555_5555_5555_5555;
    let (words, rest) = packed.as_chunks::<8>();
    let words = words.iter().map(|w| u64::from_le_bytes(*w));
    let rest = rest.iter().map(|&w| u64::from(w));
    words
        .chain(rest)
        .map(|w| u64::from(both(w).count_ones()))
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_stand_for_no_weight_are_counted() {
        assert_eq!(undefined_codes(&[0b10_01_00_10; 21]), 0);
        assert_eq!(undefined_codes(&[0b11_01_00_11; 21]), 42);
        // Neighbouring bits of two codes are no code.
        assert_eq!(undefined_codes(&[0b01_10_01_10; 9]), 0);
    }
}
