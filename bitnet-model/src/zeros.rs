//! Blocks of which every weight is 0, whatever their scale.

use crate::gguf::TensorType;

/// Tells such blocks of a type that has integers and scales; `None` if none of its codes stands for 0.
pub(crate) fn of(ty: TensorType) -> Option<fn(&[u8]) -> bool> {
    match ty {
        TensorType::Q8_0 => Some(|block| block[2..].iter().all(|&code| code == 0)),
        TensorType::Q6_K => Some(six_bits),
        TensorType::TQ1_0 => Some(|block| {
            let (fives, fours) = block[..52].split_at(48);
            fives.iter().all(|&byte| digits_of_one(byte, 5))
                && fours.iter().all(|&byte| digits_of_one(byte, 4))
        }),
        TensorType::TQ2_0 => Some(|block| two_bits(&block[..64])),
        TensorType::Q2_0 | TensorType::Q2_0_128 => Some(|block| two_bits(&block[2..])),
        _ => None,
    }
}

/// Whether every code of two bits is 1, which stands for 0.
pub(crate) fn two_bits(codes: &[u8]) -> bool {
    codes.iter().all(|&codes| codes == 0b01_01_01_01)
}

/// Whether the first `n` ternary digits of a byte are 1, which stands for 0. The byte is their number as a share of 3^5,
/// in steps of 1/256: times 3, what leaves it on the left is the next digit.
fn digits_of_one(byte: u8, n: usize) -> bool {
    let mut rest = byte;
    (0..n).all(|_| {
        let digit = (u16::from(rest) * 3) >> 8;
        rest = rest.wrapping_mul(3);
        digit == 1
    })
}

/// Of 256 codes, 128 bytes hold four bits each and 64 two bits more; 32 stands for 0. Each 16 have a scale of their own.
fn six_bits(block: &[u8]) -> bool {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let scales = &rest[..16];
    (0..256).all(|i| {
        let (half, row, column) = (i / 128, i / 32 % 4, i % 32);
        let low = (low[64 * half + 32 * (row % 2) + column] >> (4 * (row / 2))) & 15;
        let high = (high[32 * half + column] >> (2 * row)) & 3;
        (low, high) == (0, 2) || scales[i / 16] == 0
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::gguf::Content;

    /// Codes of 0 beside scales that are not.
    pub(crate) fn block_of_zeros(ty: TensorType) -> Vec<u8> {
        let mut block = vec![1; ty.block_bytes() as usize];
        match ty {
            TensorType::Q8_0 => block[2..].fill(0),
            TensorType::Q6_K => {
                block[..128].fill(0);
                block[128..192].fill(0b10_10_10_10);
            }
            TensorType::TQ1_0 => {
                // 11111 and 1111 in base 3: 121/243 and 120/243, rounded up.
                block[..48].fill(128);
                block[48..52].fill(127);
            }
            TensorType::TQ2_0 => block[..64].fill(0x55),
            TensorType::Q2_0 | TensorType::Q2_0_128 => block[2..].fill(0x55),
            _ => {}
        }
        block
    }

    #[test]
    fn every_type_that_has_a_code_of_zero_tells_blocks_of_it() {
        for &ty in TensorType::KNOWN {
            let scaled = matches!(ty.layout().unwrap().content, Content::Scaled(_));
            // A bit for the sign, and nothing else.
            if !scaled || ty == TensorType::Q1_0 {
                assert!(of(ty).is_none(), "{ty}");
                continue;
            }
            let is_zero = of(ty).unwrap_or_else(|| panic!("{ty}"));
            let zeros = block_of_zeros(ty);
            assert!(is_zero(&zeros), "{ty}");
            let mut other = 0;
            for at in 0..zeros.len() {
                let mut block = zeros.clone();
                block[at] ^= 0b1100;
                other += usize::from(!is_zero(&block));
            }
            // All bytes but those of scales.
            let scales = match ty {
                TensorType::Q6_K => 18,
                _ => 2,
            };
            assert_eq!(other, zeros.len() - scales, "{ty}");
        }
    }

    #[test]
    fn a_scale_of_zero_makes_its_sixteen_weights_zero() {
        let mut block = block_of_zeros(TensorType::Q6_K);
        // Element 16, then element 208.
        block[16] = 3;
        assert!(!six_bits(&block));
        block[192 + 1] = 0;
        assert!(six_bits(&block));
        block[64 + 16] = 0x30;
        assert!(!six_bits(&block));
        block[192 + 13] = 0;
        assert!(six_bits(&block));
    }
}
