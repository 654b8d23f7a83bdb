//! Ternary weights in blocks that have a scale each.

use std::io::{self, Write};

use bitnet_model::encode::Encode;
use bitnet_model::random::Rng;
use half::f16;

use super::random::fill_ternary;

/// Weights per block.
const BLOCK: usize = 256;

/// Writes `n` weights, whole blocks, whose scales are `scale` with a spread of a tenth.
pub(super) fn write_blocks(
    encode: Encode,
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
        out.write_all(&encode(
            &codes,
            f16::from_f64(scale * (1.0 + 0.1 * deviate)),
        ))?;
    }
    Ok(())
}
