//! Ternary weights in blocks that have a scale each.

use std::io::{self, Write};

use bitnet_model::gguf::TensorType;
use bitnet_model::random::Rng;
use half::f16;

use super::random::fill_ternary;

/// Weights per block.
const BLOCK: usize = 256;

/// Packs a block of codes 0, 1, 2 for -1, 0, +1, as ggml quantises ternary weights of one scale.
pub(super) type Pack = fn(&[u8], f16) -> Vec<u8>;

/// How a type packs its blocks; `None` if it has no such blocks.
pub(super) fn packing(ty: TensorType) -> Option<Pack> {
    match ty {
        TensorType::TQ1_0 => Some(tq1_0),
        TensorType::TQ2_0 => Some(tq2_0),
        _ => None,
    }
}

/// Writes `n` weights, whole blocks, whose scales are `scale` with a spread of a tenth.
pub(super) fn write_blocks(
    pack: Pack,
    n: u64,
    scale: f64,
    table: &[f32],
    rng: &mut Rng,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut drawn = [0; BLOCK / 4];
    for _ in 0..n / BLOCK as u64 {
        fill_ternary(rng, &mut drawn);
        let codes: [u8; BLOCK] = std::array::from_fn(|j| drawn[j / 4] >> (2 * (j % 4)) & 3);
        let deviate = f64::from(table[rng.below(table.len())]);
        out.write_all(&pack(&codes, f16::from_f64(scale * (1.0 + 0.1 * deviate))))?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_as_they_were_drawn() {
        let codes: [u8; BLOCK] = std::array::from_fn(|j| (j * j % 7 % 3) as u8);
        for ty in [TensorType::TQ1_0, TensorType::TQ2_0] {
            let block = packing(ty).unwrap()(&codes, f16::from_f32(0.5));
            assert_eq!(block.len() as u64, ty.block_bytes());
            let mut weights = [0.0; BLOCK];
            bitnet_core::quant::dequantize_row(ty, &block, &mut weights).unwrap();
            assert_eq!(weights, codes.map(|code| (f32::from(code) - 1.0) * 0.5));
        }
        assert!(packing(TensorType::I2_S).is_none());
    }
}
