//! Matrices whose codes have scale 1, and that of the matrix in a tensor of its own.

use std::io::{self, Write};

use bitnet_model::encode;
use bitnet_model::gguf::TensorType;
use bitnet_model::random::Rng;
use half::f16;

use super::packed::Packed;
use super::random::{TERNARY_NONZERO, fill_ternary};
use super::stress::write_scale;
use super::{Fill, Tensor, ternary_scale};

/// Weights per block of I2_S, in whose order codes are drawn.
const DRAWN: usize = 128;

/// A matrix of codes with its scale behind it; any other tensor as it is.
pub(super) fn with_scale(tensor: Tensor) -> Vec<Tensor> {
    let Fill::Matrix { input, output } = tensor.fill else {
        return vec![tensor];
    };
    let scale = ternary_scale(tensor.shape[0], input, output);
    let scale = match tensor.ty {
        TensorType::Q1_0 => scale * TERNARY_NONZERO.sqrt(),
        _ => scale,
    };
    let scale = Tensor {
        name: tensor.name.replace(".weight", ".scale"),
        shape: vec![1],
        ty: TensorType::F32,
        fill: Fill::Value(scale),
    };
    let matrix = Tensor {
        fill: Fill::Unit,
        ..tensor
    };
    vec![matrix, scale]
}

/// Writes `n` weights, whole blocks.
pub(super) fn write(ty: TensorType, n: u64, rng: &mut Rng, out: &mut dyn Write) -> io::Result<()> {
    let block = ty.block_len() as usize;
    let encode = match (encode::block(ty), Packed::of(ty)) {
        (Some(encode), _) => encode,
        (None, Some(packed)) => return packed.write_ones(n / block as u64, rng, out),
        (None, None) => {
            let mut codes = [0; DRAWN / 4];
            for _ in 0..n / DRAWN as u64 {
                fill_ternary(rng, &mut codes);
                out.write_all(&codes)?;
            }
            return write_scale(1.0, out);
        }
    };
    let mut left = n / block as u64;
    while left > 0 {
        let draws = block.div_ceil(DRAWN);
        let codes: Vec<u8> = (0..draws).flat_map(|_| draw(rng)).collect();
        for codes in codes.chunks(block).take(left as usize) {
            out.write_all(&encode(codes, f16::ONE))?;
            left -= 1;
        }
    }
    Ok(())
}

/// The codes of a block of I2_S: 0, 1, 2 for -1, 0, +1.
fn draw(rng: &mut Rng) -> [u8; DRAWN] {
    let mut packed = [0; DRAWN / 4];
    fill_ternary(rng, &mut packed);
    std::array::from_fn(|j| packed[j % 32] >> (6 - 2 * (j / 32)) & 3)
}

#[cfg(test)]
mod tests {
    use bitnet_core::quant::dequantize_row;

    use super::*;

    /// 768 weights, with the scale behind them.
    fn weights(ty: TensorType) -> Vec<f32> {
        let mut data = Vec::new();
        write(ty, 768, &mut Rng::new(1, "t"), &mut data).unwrap();
        let bytes = (768 / ty.block_len() * ty.block_bytes()) as usize;
        assert_eq!(data.len() as u64, ty.data_size(&[768]).unwrap());
        let mut weights = vec![0.0; 768];
        dequantize_row(ty, &data[..bytes], &mut weights).unwrap();
        weights
    }

    #[test]
    fn every_ternary_type_has_the_same_codes() {
        let codes = weights(TensorType::I2_S);
        assert!([-1.0, 0.0, 1.0].iter().all(|code| codes.contains(code)));
        for ty in [
            TensorType::TQ1_0,
            TensorType::TQ2_0,
            TensorType::Q2_0,
            TensorType::Q2_0_128,
        ] {
            assert_eq!(weights(ty), codes, "{ty}");
        }
        assert!(weights(TensorType::Q1_0).iter().all(|w| w.abs() == 1.0));
    }
}
