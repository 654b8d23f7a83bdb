//! Matrix products, with the quantisation of the activations that goes with the weights' type.

use bitnet_core::blocks::{q6_k, q8_0};
use bitnet_model::gguf::TensorType;
use bitnet_model::tap::Tap;

use super::InjectError;
use super::mistake::Mistake;
use super::stages::{Stage, dot, to_bf16};
use super::weights::{Matrix, matrix, vector};

/// The matrices of a layer.
const TENSORS: [(Tap, &str); 7] = [
    (Tap::Q, "attn_q"),
    (Tap::K, "attn_k"),
    (Tap::V, "attn_v"),
    (Tap::AttnProj, "attn_output"),
    (Tap::FfnGate, "ffn_gate"),
    (Tap::FfnUp, "ffn_up"),
    (Tap::FfnDown, "ffn_down"),
];

/// The types whose activations are rounded to Q8_0.
const BESIDE_Q8_0: [TensorType; 4] = [
    TensorType::Q8_0,
    TensorType::Q1_0,
    TensorType::Q2_0,
    TensorType::Q2_0_128,
];

/// The types whose activations are rounded to Q8_K.
const BESIDE_Q8_K: [TensorType; 3] = [TensorType::Q6_K, TensorType::TQ1_0, TensorType::TQ2_0];

/// Activations as a product takes them; its sums are still to be divided.
struct Activations {
    values: Vec<f64>,
    divisor: f64,
}

impl Stage<'_> {
    /// The rows of a matrix product: `weight . x * scale + bias` for each position.
    pub(super) fn product(&self, positions: &[usize]) -> Result<Vec<Vec<f64>>, InjectError> {
        let tensor = self.tensor()?;
        let matrix = matrix(self.gguf, &format!("{tensor}.weight"))?;
        let inputs = positions.iter().map(|&position| {
            let x = self.input(self.product_source(), position)?;
            Ok(activations(matrix.ty, x, self.mistake))
        });
        let inputs: Vec<Activations> = inputs.collect::<Result<_, InjectError>>()?;
        let weight_scale = match self.mistake {
            Some(Mistake::WeightScaleLeftOut) => 1.0,
            Some(Mistake::WeightScaleInverted) => 1.0 / matrix.scale(),
            _ => matrix.scale(),
        };
        let scale = vector(self.gguf, &format!("{tensor}.scale"))?;
        let scale = scale.and_then(|scale| scale.first().copied());
        let scale = match self.makes(Mistake::ScaleTensorLeftOut) {
            true => 1.0,
            false => scale.unwrap_or(1.0),
        };
        let mut bias = vector(self.gguf, &format!("{tensor}.bias"))?;
        if self.makes(Mistake::BiasLeftOut) {
            bias = None;
        }
        let square = matrix.rows == matrix.columns;
        let transposed = (square && self.makes(Mistake::Transposed)).then(|| {
            let rows = 0..matrix.rows;
            rows.map(|row| matrix.row(row, None)).collect::<Vec<_>>()
        });
        let mut out = vec![Vec::with_capacity(matrix.rows); positions.len()];
        for row in 0..matrix.rows {
            let mut weights = match &transposed {
                Some(rows) => rows.iter().map(|weights| weights[row]).collect(),
                None => matrix.row(row, self.mistake),
            };
            if self.makes(Mistake::FlippedBit) && row == matrix.rows / 2 {
                flip(&matrix, &mut weights, matrix.columns / 3);
            }
            let mut bias = bias.as_ref().map_or(0.0, |bias| bias[row]);
            if self.makes(Mistake::BiasScaled) {
                bias *= scale;
            }
            for (x, out) in inputs.iter().zip(&mut out) {
                let mut sum = dot(&weights, &x.values);
                if self.makes(Mistake::SumsWrapAt16Bits) && matrix.is_ternary() {
                    sum = f64::from(sum as i64 as i16);
                }
                out.push(sum / x.divisor * weight_scale * scale + bias);
            }
        }
        Ok(out)
    }

    fn product_source(&self) -> Tap {
        match (self.tap, self.config.architecture.has(Tap::AttnSubNorm)) {
            (Tap::Q | Tap::K | Tap::V, _) => Tap::AttnNorm,
            (Tap::AttnProj, true) => Tap::AttnSubNorm,
            (Tap::AttnProj, false) => Tap::AttnOut,
            (Tap::FfnGate | Tap::FfnUp, _) => Tap::FfnNorm,
            (Tap::FfnDown, true) => Tap::FfnSubNorm,
            (Tap::FfnDown, false) => Tap::FfnAct,
            _ => Tap::FinalNorm,
        }
    }

    /// The name of the product's tensors, without what follows the last dot.
    fn tensor(&self) -> Result<String, InjectError> {
        let name = |layer: Option<usize>, tensor: &str| match layer {
            Some(layer) => format!("blk.{layer}.{tensor}"),
            None => tensor.to_owned(),
        };
        let own = TENSORS.iter().find(|(tap, _)| *tap == self.tap);
        let own = match own {
            Some((_, tensor)) => tensor,
            None if self.config.tied_output || self.makes(Mistake::TiedHead) => "token_embd",
            None => "output",
        };
        match self.mistake {
            Some(Mistake::OtherLayersWeights) => Ok(name(self.other_layer(), own)),
            Some(Mistake::OtherMatrix) => {
                let shape = |tensor: &str| {
                    let info = self.gguf.tensor(&format!("{tensor}.weight"));
                    info.map(|info| &info.shape)
                };
                let own = name(self.layer, own);
                let others = TENSORS.iter().map(|(_, tensor)| name(self.layer, tensor));
                let mut others = others.filter(|other| *other != own);
                let other = others.find(|other| shape(other) == shape(&own));
                Ok(other.unwrap_or(own))
            }
            _ => Ok(name(self.layer, own)),
        }
    }
}

/// The low bit of a ternary code, or the sign.
fn flip(matrix: &Matrix, weights: &mut [f64], at: usize) {
    let unit = match matrix.ty {
        TensorType::I2_S => 1.0,
        TensorType::TQ1_0 | TensorType::TQ2_0 | TensorType::Q2_0 | TensorType::Q2_0_128 => {
            let block = matrix.ty.block_len() as usize;
            let block = &weights[at / block * block..][..block];
            let sizes = block.iter().map(|w| w.abs()).filter(|size| *size > 0.0);
            match sizes.reduce(f64::min) {
                Some(scale) => scale,
                None => return,
            }
        }
        _ => {
            weights[at] = -weights[at];
            return;
        }
    };
    let code = (weights[at] / unit + 1.0) as u8;
    weights[at] = (f64::from(code ^ 1) - 1.0) * unit;
}

fn activations(ty: TensorType, x: &[f64], mistake: Option<Mistake>) -> Activations {
    let as_they_are = |values| Activations {
        values,
        divisor: 1.0,
    };
    match (ty, mistake) {
        (TensorType::I2_S, Some(Mistake::ActivationsNotQuantised)) => as_they_are(x.to_vec()),
        (TensorType::I2_S, Some(Mistake::ActivationScalePerBlock)) => {
            let blocks = x.chunks(128).map(|block| int8(block, mistake));
            let values = blocks.flat_map(|b| b.values.into_iter().map(move |v| v / b.divisor));
            as_they_are(values.collect())
        }
        (TensorType::I2_S, _) => int8(x, mistake),
        (TensorType::BF16, _) => as_they_are(x.iter().map(|&v| to_bf16(v)).collect()),
        (ty, Some(Mistake::ActivationScalePerRow)) if in_blocks(ty).is_some() => int8(x, None),
        (ty, mistake) if let Some((block, quantize)) = in_blocks(ty) => {
            as_they_are(rounded(x, block, quantize, mistake))
        }
        _ => as_they_are(x.to_vec()),
    }
}

/// Codes from -127 to 127, with one f32 scale for the row.
fn int8(x: &[f64], mistake: Option<Mistake>) -> Activations {
    let largest = x.iter().fold(1e-5_f64, |largest, v| largest.max(v.abs()));
    let scale = f64::from((127.0 / largest) as f32);
    let scale = match mistake {
        Some(Mistake::ActivationScale128) => scale * 128.0 / 127.0,
        _ => scale,
    };
    let code = |v: &f64| match mistake {
        Some(Mistake::CodesTruncated) => (v * scale).trunc(),
        Some(Mistake::HalvesTowardsZero) => ((v * scale).abs() - 0.5).ceil().copysign(*v),
        Some(Mistake::HalvesAway) => (v * scale).round(),
        _ => (v * scale).round_ties_even(),
    };
    Activations {
        values: x.iter().map(|v| code(v).clamp(-128.0, 127.0)).collect(),
        divisor: scale,
    }
}

/// Codes and scales of whole blocks.
type Quantize = fn(&[f32], &mut [i8], &mut [f32]);

/// The blocks that activations are rounded in beside a type, and by what; `None` if they are not.
fn in_blocks(ty: TensorType) -> Option<(usize, Quantize)> {
    if BESIDE_Q8_0.contains(&ty) {
        return Some((q8_0::BLOCK, q8_0::quantize_row));
    }
    let beside_q8_k = BESIDE_Q8_K.contains(&ty);
    beside_q8_k.then_some((q6_k::BLOCK, q6_k::quantize_row_q8_k as Quantize))
}

/// Quantised and back, in whole blocks.
fn rounded(x: &[f64], block: usize, quantize: Quantize, mistake: Option<Mistake>) -> Vec<f64> {
    let x: Vec<f32> = x.iter().map(|&v| v as f32).collect();
    let (mut codes, mut scales) = (vec![0; x.len()], vec![0.0; x.len() / block]);
    quantize(&x, &mut codes, &mut scales);
    if mistake == Some(Mistake::CodesTruncated) {
        let blocks = x.chunks(block).zip(&scales);
        let truncated = blocks.flat_map(|(x, scale)| {
            let largest = x
                .iter()
                .fold(f32::MIN_POSITIVE, |largest, v| largest.max(v.abs()));
            let code = move |v: &f32| (f64::from(*v) * f64::from(127.0 / largest)).trunc();
            x.iter().map(move |v| code(v) * f64::from(scale.abs()))
        });
        return truncated.collect();
    }
    let codes = codes.into_iter().enumerate();
    codes
        .map(|(i, code)| f64::from(code) * f64::from(scales[i / block]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_a_known_row() {
        // Codes before rounding: -127, 63.5, 0.5, -31.75.
        let x = [-2.0, 1.0, 1.0 / 127.0, -0.5];
        for (mistake, codes) in [
            (None, [-127.0, 64.0, 0.0, -32.0]),
            (Some(Mistake::CodesTruncated), [-127.0, 63.0, 0.0, -31.0]),
            (
                Some(Mistake::ActivationScale128),
                [-128.0, 64.0, 1.0, -32.0],
            ),
        ] {
            let got = int8(&x, mistake);
            assert_eq!(got.values, codes, "{mistake:?}");
        }
        let halves = [-127.0, 0.5, 1.5, -2.5, -3.5, 7.0];
        let towards = int8(&halves, Some(Mistake::HalvesTowardsZero)).values;
        assert_eq!(towards, [-127.0, 0.0, 1.0, -2.0, -3.0, 7.0]);
        let away = int8(&halves, Some(Mistake::HalvesAway)).values;
        assert_eq!(away, [-127.0, 1.0, 2.0, -3.0, -4.0, 7.0]);
    }

    #[test]
    fn blocks_are_quantised_and_back() {
        let x: Vec<f64> = (0..512).map(|i| f64::from(i % 101 - 50) / 8.0).collect();
        let step = 6.25 / 127.0;
        for ty in [&BESIDE_Q8_0[..], &BESIDE_Q8_K].concat() {
            let got = activations(ty, &x, None);
            assert_eq!((got.values.len(), got.divisor), (512, 1.0));
            assert!(got.values != x);
            for (got, want) in got.values.iter().zip(&x) {
                // Half a step, and what the F16 scale of Q8_0 is off by.
                assert!((got - want).abs() <= 0.57 * step, "{ty}: {got} {want}");
            }
            let truncated = activations(ty, &x, Some(Mistake::CodesTruncated)).values;
            for (got, want) in truncated.iter().zip(&x) {
                assert!(got.abs() <= want.abs() + 0.1 * step, "{ty}: {got} {want}");
            }
            let by_row = activations(ty, &x, Some(Mistake::ActivationScalePerRow));
            assert_eq!(by_row.values, int8(&x, None).values);
        }
    }
}
