//! Codes in blocks with a scale each, read wrongly.
//!
//! A block is decoded by its [`format`](super::weights) with a scale of 1, which leaves its codes in their order; what an
//! engine makes of them that takes them for others follows from where each lies.

use bitnet_model::gguf::TensorType;
use half::{bf16, f16};

use super::mistakes::Mistake;

/// Where the codes and the scale of a block are.
pub(super) struct Codes {
    ty: TensorType,
    /// First byte of the scale.
    scale: usize,
    /// Groups of bytes, with the codes in each of their bytes.
    groups: &'static [(usize, usize)],
    /// Where the next weight is: in the same byte, else in the next byte of the group.
    together: bool,
    /// Between the weights of two codes that follow each other, in scales.
    step: f64,
}

const CODES: [Codes; 5] = [
    Codes {
        ty: TensorType::TQ1_0,
        scale: 52,
        groups: &[(32, 5), (16, 5), (4, 4)],
        together: false,
        step: 1.0,
    },
    Codes {
        ty: TensorType::TQ2_0,
        scale: 64,
        groups: &[(32, 4), (32, 4)],
        together: false,
        step: 1.0,
    },
    Codes {
        ty: TensorType::Q1_0,
        scale: 0,
        groups: &[(16, 8)],
        together: true,
        step: 2.0,
    },
    Codes {
        ty: TensorType::Q2_0,
        scale: 0,
        groups: &[(16, 4)],
        together: true,
        step: 1.0,
    },
    Codes {
        ty: TensorType::Q2_0_128,
        scale: 0,
        groups: &[(32, 4)],
        together: true,
        step: 1.0,
    },
];

impl Codes {
    /// Those of a type; `None` where weights are none.
    pub(super) fn of(ty: TensorType) -> Option<&'static Codes> {
        CODES.iter().find(|codes| codes.ty == ty)
    }

    /// The weights of a row of `blocks`, which `decode` reads rightly; `None` where a mistake is another's.
    pub(super) fn misread(
        &self,
        mistake: Mistake,
        blocks: &[&[u8]],
        decode: fn(&[u8]) -> Vec<f64>,
    ) -> Option<Vec<f64>> {
        let mut row = Vec::new();
        for (i, block) in blocks.iter().enumerate() {
            let mut of_one = block.to_vec();
            of_one
                .get_mut(self.scale..self.scale + 2)?
                .copy_from_slice(&f16::ONE.to_le_bytes());
            let weights = decode(&of_one);
            let bits = |of: &[u8]| Some([*of.get(self.scale)?, *of.get(self.scale + 1)?]);
            let mut scale = f64::from(f16::from_le_bytes(bits(block)?));
            // From 0 on.
            let code = |weight: f64| (weight + 1.0) / self.step;
            let ternary = self.step == 1.0;
            let weights: Vec<f64> = match mistake {
                Mistake::CodesShifted if ternary => {
                    let shifted = |w: &f64| if *w < 0.5 { w - 1.0 } else { *w };
                    // Codes 2 and 3, that is 1 and 2, are where they should be.
                    weights.iter().map(shifted).collect()
                }
                Mistake::SumNotSubtracted => weights.iter().map(|&w| code(w)).collect(),
                Mistake::TwoReadAsMinusOne if weights.contains(&2.0) => {
                    let signed = |w: &f64| if *w == 2.0 { -1.0 } else { *w };
                    weights.iter().map(signed).collect()
                }
                Mistake::BitOrder | Mistake::BlockOrder => {
                    let places = self.places(mistake == Mistake::BlockOrder);
                    places
                        .map(|at| weights.get(at).copied())
                        .collect::<Option<_>>()?
                }
                Mistake::WeightScaleLeftOut
                | Mistake::WeightScaleInverted
                | Mistake::BlockScaleOfTheNext
                | Mistake::BlockScaleBf16
                | Mistake::TwoReadAsMinusOne => weights,
                _ => return None,
            };
            match mistake {
                Mistake::WeightScaleLeftOut => scale = 1.0,
                Mistake::WeightScaleInverted => scale = 1.0 / scale,
                Mistake::BlockScaleOfTheNext => {
                    let next = blocks[(i + 1) % blocks.len()];
                    scale = f64::from(f16::from_le_bytes(bits(next)?));
                }
                Mistake::BlockScaleBf16 => {
                    scale = f64::from(bf16::from_le_bytes(bits(block)?));
                }
                _ => {}
            }
            row.extend(weights.into_iter().map(|w| scale * w));
        }
        Some(row)
    }

    /// Which weight of a block is read for each: in the other order of bytes, or in the reverse within them.
    fn places(&self, other_order: bool) -> impl Iterator<Item = usize> {
        let mut start = 0;
        self.groups.iter().flat_map(move |&(bytes, codes)| {
            let first = start;
            start += bytes * codes;
            (0..bytes * codes).map(move |i| {
                let at = match (self.together, other_order) {
                    (true, true) => i % bytes * codes + i / bytes,
                    (true, false) => i / codes * codes + (codes - 1 - i % codes),
                    (false, true) => i % codes * bytes + i / codes,
                    (false, false) => (codes - 1 - i / bytes) * bytes + i % bytes,
                };
                first + at
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_block_is_read_once() {
        for codes in &CODES {
            for other_order in [false, true] {
                let mut places: Vec<usize> = codes.places(other_order).collect();
                assert!(places.iter().enumerate().any(|(i, at)| i != *at));
                places.sort_unstable();
                assert!(places.into_iter().eq(0..codes.ty.block_len() as usize));
            }
        }
    }
}
