//! Weights as codes in blocks that have an F16 scale each, read digit by digit, rightly or not.

use bitnet_model::gguf::TensorType;
use half::{bf16, f16};

use super::mistake::Mistake;

/// How codes lie in the blocks of a type.
pub(super) struct Blocks {
    bytes: usize,
    /// Where the scale is.
    scale: usize,
    /// Where codes begin.
    first: usize,
    /// Bytes that belong together, and how many codes there are in each.
    runs: &'static [(usize, usize)],
    /// Whether neighbouring weights share a byte; else they are in neighbouring bytes of a run.
    neighbours: bool,
    base: Base,
}

#[derive(Clone, Copy, PartialEq)]
enum Base {
    /// -1 and 1.
    Two,
    /// -1, 0 and 1, as digits of a fraction of 256, the highest first.
    Three,
    /// -1, 0, 1 and 2.
    Four,
}

const TYPES: [(TensorType, Blocks); 5] = [
    (
        TensorType::TQ1_0,
        Blocks {
            bytes: 54,
            scale: 52,
            first: 0,
            runs: &[(32, 5), (16, 5), (4, 4)],
            neighbours: false,
            base: Base::Three,
        },
    ),
    (
        TensorType::TQ2_0,
        Blocks {
            bytes: 66,
            scale: 64,
            first: 0,
            runs: &[(32, 4), (32, 4)],
            neighbours: false,
            base: Base::Four,
        },
    ),
    (
        TensorType::Q1_0,
        Blocks {
            bytes: 18,
            scale: 0,
            first: 2,
            runs: &[(16, 8)],
            neighbours: true,
            base: Base::Two,
        },
    ),
    (
        TensorType::Q2_0,
        Blocks {
            bytes: 18,
            scale: 0,
            first: 2,
            runs: &[(16, 4)],
            neighbours: true,
            base: Base::Four,
        },
    ),
    (
        TensorType::Q2_0_128,
        Blocks {
            bytes: 34,
            scale: 0,
            first: 2,
            runs: &[(32, 4)],
            neighbours: true,
            base: Base::Four,
        },
    ),
];

impl Blocks {
    /// Those of a type; `None` if its weights are no such codes.
    pub(super) fn of(ty: TensorType) -> Option<&'static Blocks> {
        TYPES
            .iter()
            .find(|(of, _)| *of == ty)
            .map(|(_, blocks)| blocks)
    }

    /// The weights of a row, as an engine reads them that makes `mistake`.
    pub(super) fn row(&self, data: &[u8], mistake: Option<Mistake>) -> Vec<f64> {
        let blocks: Vec<&[u8]> = data.chunks_exact(self.bytes).collect();
        let places = self.places(mistake);
        let mut row = Vec::with_capacity(blocks.len() * places.len());
        for (i, block) in blocks.iter().enumerate() {
            let scale = match mistake {
                Some(Mistake::BlockScaleOfTheNext) => self.scale(blocks[(i + 1) % blocks.len()]),
                Some(Mistake::BlockScaleBf16) => {
                    bf16::from_le_bytes([block[self.scale], block[self.scale + 1]]).to_f64()
                }
                Some(Mistake::WeightScaleLeftOut) => 1.0,
                Some(Mistake::WeightScaleInverted) => 1.0 / self.scale(block),
                _ => self.scale(block),
            };
            let codes = &block[self.first..];
            row.extend(places.iter().map(|&(byte, digit)| {
                scale * self.weight(self.digit(codes[byte], digit), mistake)
            }));
        }
        row
    }

    /// Byte and digit of every weight of a block.
    fn places(&self, mistake: Option<Mistake>) -> Vec<(usize, usize)> {
        let neighbours = self.neighbours != (mistake == Some(Mistake::BlockOrder));
        let mut places = Vec::new();
        let mut first = 0;
        for &(bytes, digits) in self.runs {
            for i in 0..bytes * digits {
                let (byte, digit) = match neighbours {
                    true => (i / digits, i % digits),
                    false => (i % bytes, i / bytes),
                };
                let digit = match mistake {
                    Some(Mistake::BitOrder) => digits - 1 - digit,
                    _ => digit,
                };
                places.push((first + byte, digit));
            }
            first += bytes;
        }
        places
    }

    fn scale(&self, block: &[u8]) -> f64 {
        f16::from_le_bytes([block[self.scale], block[self.scale + 1]]).to_f64()
    }

    fn digit(&self, byte: u8, digit: usize) -> u8 {
        match self.base {
            Base::Two => byte >> digit & 1,
            Base::Three => {
                let rest = (0..digit).fold(byte, |rest, _| rest.wrapping_mul(3));
                ((u16::from(rest) * 3) >> 8) as u8
            }
            Base::Four => byte >> (2 * digit) & 3,
        }
    }

    /// What a code stands for.
    fn weight(&self, code: u8, mistake: Option<Mistake>) -> f64 {
        match (self.base, mistake) {
            (_, Some(Mistake::SumNotSubtracted)) => f64::from(code),
            (Base::Two, _) => 2.0 * f64::from(code) - 1.0,
            (_, Some(Mistake::CodesShifted)) => [-2.0, -1.0, 1.0, 2.0][usize::from(code)],
            (_, Some(Mistake::TwoReadAsMinusOne)) if code == 3 => -1.0,
            _ => f64::from(code) - 1.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_without_a_mistake_are_the_engines() {
        for (ty, blocks) in &TYPES {
            let block = ty.block_len() as usize;
            let codes: usize = blocks
                .runs
                .iter()
                .map(|(bytes, digits)| bytes * digits)
                .sum();
            assert_eq!((codes, blocks.bytes), (block, ty.block_bytes() as usize));
            let mut data: Vec<u8> = (0..3 * blocks.bytes).map(|i| (i * i % 251) as u8).collect();
            for (i, block) in data.chunks_exact_mut(blocks.bytes).enumerate() {
                let scale = f16::from_f32(0.5 + i as f32);
                block[blocks.scale..][..2].copy_from_slice(&scale.to_le_bytes());
            }
            let mut want = vec![0.0; 3 * block];
            bitnet_core::quant::dequantize_row(*ty, &data, &mut want).unwrap();
            let got = blocks.row(&data, None);
            assert!(
                got.iter().eq(want
                    .iter()
                    .map(|&w| f64::from(w))
                    .collect::<Vec<_>>()
                    .iter()),
                "{ty}"
            );
        }
    }

    #[test]
    fn a_block_read_wrongly() {
        let blocks = Blocks::of(TensorType::Q2_0).unwrap();
        // The second weight is 1, the fourth 2, all others 0; then a block of another scale.
        let mut data = [0b01_01_01_01; 36];
        data[2] = 0b11_01_10_01;
        data[..2].copy_from_slice(&f16::from_f32(0.25).to_le_bytes());
        data[18..20].copy_from_slice(&f16::from_f32(8.0).to_le_bytes());
        let off_zero = |mistake| {
            let row = blocks.row(&data, mistake).into_iter().enumerate();
            row.filter(|(_, w)| *w != 0.0).collect::<Vec<_>>()
        };
        assert_eq!(off_zero(None), [(1, 0.25), (3, 0.5)]);
        for (mistake, off) in [
            (Mistake::BitOrder, [(0, 0.5), (2, 0.25)]),
            (Mistake::BlockOrder, [(16, 0.25), (48, 0.5)]),
            (Mistake::TwoReadAsMinusOne, [(1, 0.25), (3, -0.25)]),
            (Mistake::BlockScaleOfTheNext, [(1, 8.0), (3, 16.0)]),
            (Mistake::WeightScaleLeftOut, [(1, 1.0), (3, 2.0)]),
            (Mistake::WeightScaleInverted, [(1, 4.0), (3, 8.0)]),
        ] {
            assert_eq!(off_zero(Some(mistake)), off, "{mistake:?}");
        }
        // The bits of 0.25 in F16 are those of 2^-23 in BF16.
        let as_bf16 = blocks.row(&data, Some(Mistake::BlockScaleBf16));
        assert_eq!(as_bf16[1], 2.0_f64.powi(-23));
        let shifted = blocks.row(&data, Some(Mistake::CodesShifted));
        assert_eq!(shifted[..4], [-0.25, 0.25, -0.25, 0.5]);
        let signs = Blocks::of(TensorType::Q1_0).unwrap();
        let stored = signs.row(&data[..18], Some(Mistake::SumNotSubtracted));
        assert_eq!(stored[..8], [0.25, 0.0, 0.0, 0.25, 0.25, 0.0, 0.25, 0.25]);
    }
}
