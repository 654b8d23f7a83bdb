//! Codes of ternary weights as blocks of a file.

use half::f16;

use crate::gguf::TensorType;

/// Packs a block of codes 0, 1, 2 for -1, 0, +1, as many as the type has in one, under a scale, as ggml quantises ternary
/// weights of one scale.
pub type Encode = fn(&[u8], f16) -> Vec<u8>;

/// How a type packs its blocks; `None` if its blocks are no ternary codes under an F16 scale.
pub fn block(ty: TensorType) -> Option<Encode> {
    match ty {
        TensorType::TQ1_0 => Some(tq1_0),
        TensorType::TQ2_0 => Some(tq2_0),
        TensorType::Q2_0 | TensorType::Q2_0_128 => Some(q2_0),
        _ => None,
    }
}

/// A block of 128 such codes in I2_S, as every engine here reads it (`quantize_i2_s` of BitNet.cpp on x86): a byte has codes of
/// four groups of 32, the first in the highest bits.
pub fn i2_s(codes: &[u8]) -> [u8; 32] {
    std::array::from_fn(|j| {
        (0..4)
            .map(|group| codes[32 * group + j] << (6 - 2 * group))
            .sum()
    })
}

/// Five digits to base 3 in a byte, the first the highest, of 32 bytes and then of 16; four in 4 bytes. A byte is the
/// number as a fraction of 256 instead of 243, rounded up.
fn tq1_0(codes: &[u8], scale: f16) -> Vec<u8> {
    let runs = [
        (&codes[..160], 32),
        (&codes[160..240], 16),
        (&codes[240..], 4),
    ];
    let mut packed = Vec::with_capacity(54);
    for (codes, bytes) in runs {
        packed.extend((0..bytes).map(|byte| {
            let digit = |i: usize| {
                codes
                    .get(byte + bytes * i)
                    .map_or(0, |&code| u16::from(code))
            };
            let number = (0..5).fold(0, |number, i| 3 * number + digit(i));
            (number * 256).div_ceil(243) as u8
        }));
    }
    packed.extend(scale.to_le_bytes());
    packed
}

/// Four codes in a byte, the first in the lowest bits, of twice 32 bytes.
fn tq2_0(codes: &[u8], scale: f16) -> Vec<u8> {
    let mut packed = Vec::with_capacity(66);
    for half in codes.chunks(128) {
        let byte = |m: usize| (0..4).map(|l| half[32 * l + m] << (2 * l)).sum::<u8>();
        packed.extend((0..32).map(byte));
    }
    packed.extend(scale.to_le_bytes());
    packed
}

/// A block of Q2_0, of either length: the scale, then four codes to a byte, the first in the lowest bits.
fn q2_0(codes: &[u8], scale: f16) -> Vec<u8> {
    let byte = |codes: &[u8]| codes.iter().rev().fold(0, |byte, code| byte << 2 | code);
    let codes = codes.chunks(4).map(byte);
    scale.to_le_bytes().into_iter().chain(codes).collect()
}
