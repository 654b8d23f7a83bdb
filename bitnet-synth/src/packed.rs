//! Matrices of codes in blocks that have a scale each.

use std::io::{self, Write};

use bitnet_model::gguf::TensorType;
use bitnet_model::random::Rng;
use half::f16;

use super::random::{TERNARY_NONZERO, fill_ternary};

/// A type of blocks: an F16 scale, then codes.
#[derive(Clone, Copy)]
pub(super) struct Packed {
    bytes: usize,
    /// Mean square of the weights, in units of the scale.
    square: f64,
    fill: fn(&mut Rng, &mut [u8]),
}

impl Packed {
    /// `None` for types that are not made of such blocks.
    pub(super) fn of(ty: TensorType) -> Option<Packed> {
        let (square, fill): (_, fn(&mut Rng, &mut [u8])) = match ty {
            TensorType::Q1_0 => (1.0, |rng, signs| {
                signs.fill_with(|| rng.next_u64() as u8);
            }),
            TensorType::Q2_0 | TensorType::Q2_0_128 => (TERNARY_NONZERO, fill_ternary),
            _ => return None,
        };
        Some(Packed {
            bytes: ty.block_bytes() as usize,
            square,
            fill,
        })
    }

    /// Writes `n` blocks of weights of the given standard deviation. No two scales need be equal, and none is far from the
    /// others.
    pub(super) fn write(
        self,
        sigma: f64,
        n: u64,
        rng: &mut Rng,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mean = sigma / self.square.sqrt();
        let scale = |rng: &mut Rng| f16::from_f64(mean * (0.75 + 0.5 * rng.unit()));
        self.write_blocks(scale, n, rng, out)
    }

    /// Writes `n` blocks of scale 1.
    pub(super) fn write_ones(self, n: u64, rng: &mut Rng, out: &mut dyn Write) -> io::Result<()> {
        self.write_blocks(|_| f16::ONE, n, rng, out)
    }

    fn write_blocks(
        self,
        scale: impl Fn(&mut Rng) -> f16,
        n: u64,
        rng: &mut Rng,
        out: &mut dyn Write,
    ) -> io::Result<()> {
        let mut block = vec![0; self.bytes];
        for _ in 0..n {
            let (d, codes) = block.split_at_mut(size_of::<f16>());
            d.copy_from_slice(&scale(rng).to_le_bytes());
            (self.fill)(rng, codes);
            out.write_all(&block)?;
        }
        Ok(())
    }
}
