//! The stages of a layer, done wrong: what an engine has that makes a [`Mistake`].

use bitnet_model::tap::Tap;
use half::f16;

use super::inputs::{Inputs, TapAt};
use super::maths::{self, Rope, Rounding};
use super::mistakes::{CACHES, Mistake, NORMS, PRODUCTS, RESIDUALS, ROTATIONS};
use super::weights::Matrix;
use super::{Batch, Oracle};

/// A stage at a position, and what is right there.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    /// The model.
    pub oracle: &'a Oracle,
    /// The stage.
    pub at: TapAt,
    /// The batch that it is evaluated in.
    pub batch: Batch<'a>,
    /// The row's position.
    pub position: usize,
    /// What it starts from.
    pub inputs: &'a Inputs,
    /// The oracle's row.
    pub right: &'a [f64],
}

impl Stage<'_> {
    /// The row that an engine gets that makes `mistake` here; `None` where it cannot be made.
    pub(super) fn done_wrong(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let right = || self.right.iter();
        let row = match mistake {
            Mistake::ResultsF16 => right().map(|&v| maths::to_f16(v)).collect(),
            Mistake::ResultsBf16 => right().map(|&v| maths::to_bf16(v)).collect(),
            Mistake::Negated => right().map(|v| -v).collect(),
            Mistake::Zero => vec![0.0; self.right.len()],
            _ => match self.at.0 {
                tap if NORMS.contains(&tap) => self.norm(mistake)?,
                tap if ROTATIONS.contains(&tap) => self.rotation(mistake)?,
                tap if CACHES.contains(&tap) => self.cache(mistake)?,
                tap if RESIDUALS.contains(&tap) => self.residual(mistake)?,
                Tap::AttnProbs | Tap::AttnOut => self.attention(mistake)?,
                Tap::FfnAct => self.activation(mistake)?,
                Tap::Embd => self.embedding(mistake)?,
                _ => self.product(mistake)?,
            },
        };
        (row.len() == self.right.len()).then_some(row)
    }

    fn row(&self, tap: Tap) -> Option<&[f64]> {
        self.inputs.row((tap, self.at.1), self.position)
    }

    fn stream(&self) -> Option<&[f64]> {
        let before = self.oracle.stream_before(self.at.1);
        self.inputs.row(before, self.position)
    }

    /// A layer beside this one.
    fn other_layer(&self) -> Option<usize> {
        let layer = self.at.1?;
        let next = layer + 1;
        if next < self.oracle.hyper.n_layer {
            Some(next)
        } else {
            layer.checked_sub(1)
        }
    }

    fn norm(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let (part, x, other) = match self.at.0 {
            Tap::AttnNorm => ("attn_norm", self.stream()?, Some("ffn_norm")),
            Tap::QNorm => ("attn_q_norm", self.row(Tap::Q)?, Some("attn_k_norm")),
            Tap::KNorm => ("attn_k_norm", self.row(Tap::K)?, Some("attn_q_norm")),
            Tap::FfnNorm => ("ffn_norm", self.row(Tap::FfnInp)?, Some("attn_norm")),
            Tap::AttnSubNorm => ("attn_sub_norm", self.row(Tap::AttnOut)?, Some("attn_norm")),
            Tap::FfnSubNorm => ("ffn_sub_norm", self.row(Tap::FfnAct)?, None),
            Tap::FinalNorm => ("output_norm", self.stream()?, None),
            _ => return None,
        };
        let layer = self.at.1;
        let gamma = |part, layer| self.oracle.gamma(part, layer).ok();
        let own = gamma(part, layer)?;
        let eps = self.oracle.hyper.eps;
        // A row, or a head of it.
        let parts = x.chunks(own.len().max(1));
        let normed = |gamma: &[f64], eps| {
            let normed = parts.clone().flat_map(|x| maths::rms_norm(x, gamma, eps));
            normed.collect::<Vec<f64>>()
        };
        Some(match mistake {
            Mistake::MeanSubtracted => {
                let centred = parts.flat_map(|x| {
                    let mean = x.iter().sum::<f64>() / x.len() as f64;
                    let centred: Vec<f64> = x.iter().map(|v| v - mean).collect();
                    maths::rms_norm(&centred, &own, eps)
                });
                centred.collect()
            }
            Mistake::NormLeftOut => x.to_vec(),
            Mistake::GammaLeftOut => normed(&vec![1.0; own.len()], eps),
            Mistake::GammaPlusOne => {
                let plus_one: Vec<f64> = own.iter().map(|g| g + 1.0).collect();
                normed(&plus_one, eps)
            }
            Mistake::OtherLayersGamma => normed(&gamma(part, Some(self.other_layer()?))?, eps),
            Mistake::OtherNormsGamma => normed(&gamma(other?, layer)?, eps),
            Mistake::NormOverTheRow if own.len() < x.len() => {
                let repeated: Vec<f64> = own.iter().copied().cycle().take(x.len()).collect();
                maths::rms_norm(x, &repeated, eps)
            }
            Mistake::EpsTenfold => normed(&own, 10.0 * eps),
            Mistake::EpsLeftOut => normed(&own, 0.0),
            Mistake::EpsOutsideRoot => {
                let outside = parts.flat_map(|x| {
                    let square = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
                    let rms = square.sqrt() + eps;
                    x.iter().zip(&own).map(move |(v, g)| v / rms * g)
                });
                outside.collect()
            }
            _ => return None,
        })
    }

    fn rotation(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let (normed, plain) = match self.at.0 {
            Tap::QRope => (Tap::QNorm, Tap::Q),
            _ => (Tap::KNorm, Tap::K),
        };
        let source = self.oracle.normed_or(normed, plain);
        let x = self.row(source)?;
        let own = &self.oracle.hyper.rope;
        let position = self.position as f64;
        Some(match mistake {
            Mistake::OtherPairing => Rope {
                split_halves: !own.split_halves,
                ..own.clone()
            }
            .rotate(x, position),
            Mistake::PositionLate => own.rotate(x, position + 1.0),
            Mistake::PositionEarly => own.rotate(x, position - 1.0),
            Mistake::OtherRopeBase => Rope {
                base: if own.base == 1e4 { 5e5 } else { 1e4 },
                ..own.clone()
            }
            .rotate(x, position),
            Mistake::RopeInverse => own.rotate(x, -position),
            Mistake::RopeLeftOut => x.to_vec(),
            Mistake::RopeHalfTheDims => Rope {
                dims: own.dims / 4 * 2,
                ..own.clone()
            }
            .rotate(x, position),
            Mistake::RotatedBeforeNorm if source == normed => {
                own.rotate(self.row(plain)?, position)
            }
            // Whoever knows nothing of YaRN knows nothing of its magnitude.
            Mistake::RopeUnscaled if own.scale != 1.0 => Rope {
                scale: 1.0,
                yarn: None,
                ..own.clone()
            }
            .rotate(x, position),
            Mistake::YarnOnEveryPair if own.yarn.is_some() => Rope {
                yarn: None,
                ..own.clone()
            }
            .rotate(x, position),
            Mistake::RopeMagnitudeLeftOut if own.factor() != 1.0 => Rope {
                magnitude: own.magnitude / own.factor(),
                ..own.clone()
            }
            .rotate(x, position),
            _ => return None,
        })
    }

    fn cache(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let (source, other) = match self.at.0 {
            Tap::KCache => (Tap::KRope, Tap::V),
            _ => (Tap::V, Tap::KRope),
        };
        let stored = |x: &[f64]| x.iter().map(|&v| maths::to_f16(v)).collect();
        Some(match mistake {
            Mistake::StaleRow => {
                let before = self.position.checked_sub(1)?;
                stored(self.inputs.row((source, self.at.1), before)?)
            }
            Mistake::CachedBeforeRope => {
                stored(self.row(self.oracle.normed_or(Tap::KNorm, Tap::K))?)
            }
            Mistake::KeysForValues => stored(self.row(other)?),
            Mistake::CacheBf16 => {
                let rounded = self.row(source)?.iter();
                let rounded: Vec<f64> = rounded.map(|&v| maths::to_bf16(v)).collect();
                stored(&rounded)
            }
            Mistake::CacheTruncated => {
                let truncate = |&v: &f64| {
                    let nearest = f16::from_f32(v as f32);
                    if f64::from(nearest).abs() <= v.abs() {
                        return f64::from(nearest);
                    }
                    f64::from(f16::from_bits(nearest.to_bits() - 1))
                };
                self.row(source)?.iter().map(truncate).collect()
            }
            _ => return None,
        })
    }

    fn attention(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let h = &self.oracle.hyper;
        let shared = h.n_head / h.n_head_kv;
        let in_groups = |head: usize| head / shared;
        let in_turn = |head: usize| head % h.n_head_kv;
        let (position, n_kv) = (self.position, self.batch.n_kv());
        if self.at.0 == Tap::AttnOut {
            let p = self.row(Tap::AttnProbs)?;
            let values = |end| self.inputs.history((Tap::VCache, self.at.1), end);
            return match mistake {
                Mistake::HeadsInTurn => {
                    Some(self.oracle.attend(p, &values(position + 1)?, in_turn))
                }
                Mistake::FirstHeadForAll => {
                    Some(self.oracle.attend(p, &values(position + 1)?, |_| 0))
                }
                Mistake::NewestValueLeftOut => {
                    Some(self.oracle.attend(p, &values(position)?, in_groups))
                }
                _ => None,
            };
        }
        let q = self.row(Tap::QRope)?;
        let scale = 1.0 / (h.head_dim as f64).sqrt();
        let probabilities = |end, scale, kv_head: &dyn Fn(usize) -> usize| {
            let keys = self.inputs.history((Tap::KCache, self.at.1), end)?;
            Some(self.oracle.probabilities(q, &keys, n_kv, scale, kv_head))
        };
        let seen = position + 1;
        match mistake {
            Mistake::MaskHidesItself if position > 0 => probabilities(position, scale, &in_groups),
            Mistake::MaskShowsNext if seen < n_kv => probabilities(seen + 1, scale, &in_groups),
            Mistake::ScoresUnscaled => probabilities(seen, 1.0, &in_groups),
            Mistake::ScoresOverDim => probabilities(seen, scale * scale, &in_groups),
            Mistake::SoftmaxBaseTwo => {
                probabilities(seen, scale * std::f64::consts::LN_2, &in_groups)
            }
            Mistake::HeadsInTurn => probabilities(seen, scale, &in_turn),
            Mistake::FirstHeadForAll => probabilities(seen, scale, &|_| 0),
            _ => None,
        }
    }

    fn residual(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let (stream, branch, normed) = match self.at.0 {
            Tap::FfnInp => (
                self.stream()?,
                self.row(Tap::AttnProj)?,
                self.row(Tap::AttnNorm),
            ),
            _ => (
                self.row(Tap::FfnInp)?,
                self.row(Tap::FfnDown)?,
                self.row(Tap::FfnNorm),
            ),
        };
        match mistake {
            Mistake::ResidualDropped => Some(branch.to_vec()),
            Mistake::BranchDropped => Some(stream.to_vec()),
            Mistake::ResidualFromNorm => Some(super::sum(normed?, branch)),
            _ => None,
        }
    }

    fn activation(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let (gate, up) = (self.row(Tap::FfnGate)?, self.row(Tap::FfnUp)?);
        let relu2 = self.oracle.hyper.relu2;
        let own = if relu2 { maths::relu2 } else { maths::silu };
        let gated = |act: fn(f64) -> f64| gate.iter().zip(up).map(|(&g, u)| act(g) * u).collect();
        Some(match mistake {
            Mistake::Silu if relu2 => gated(maths::silu),
            Mistake::Relu2 if !relu2 => gated(maths::relu2),
            Mistake::Relu => gated(|x| x.max(0.0)),
            Mistake::Gelu => gated(|x| {
                let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3));
                0.5 * x * (1.0 + inner.tanh())
            }),
            Mistake::UpLeftOut => gate.iter().map(|&g| own(g)).collect(),
            Mistake::GateAndUpSwapped => gate.iter().zip(up).map(|(g, &u)| g * own(u)).collect(),
            _ => return None,
        })
    }

    fn embedding(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let table = self.oracle.matrix("token_embd.weight").ok()?;
        let token = self.batch.token(self.position)? as usize;
        match mistake {
            Mistake::NextTokensRow => Some(table.row((token + 1) % table.rows)),
            Mistake::EmbeddingsScaled => {
                let root = (table.columns as f64).sqrt();
                Some(self.right.iter().map(|v| v * root).collect())
            }
            _ => None,
        }
    }

    fn product(&self, mistake: Mistake) -> Option<Vec<f64>> {
        let (tap, layer) = self.at;
        let oracle = self.oracle;
        let name = oracle.weight_name(tap, layer)?;
        let own = oracle.matrix(&name).ok()?;
        let x = self.row(oracle.product_input(tap)?)?;
        if x.len() != own.columns {
            return None;
        }
        let other = |name: &str| {
            let other = oracle.matrix(name).ok()?;
            if (other.rows, other.columns) != (own.rows, own.columns) {
                return None;
            }
            let rounding = other.roundings()[0];
            Some(oracle.product(name, &[x], rounding, None).ok()?.remove(0))
        };
        let mut out = match mistake {
            Mistake::OtherLayersWeights => {
                return other(&oracle.weight_name(tap, Some(self.other_layer()?))?);
            }
            Mistake::OtherMatrix => {
                let others = PRODUCTS.iter().filter(|&&t| t != tap);
                let mut others = others.filter_map(|&t| oracle.weight_name(t, layer));
                return others.find_map(|name| other(&name));
            }
            Mistake::TiedHead if name != "token_embd.weight" => return other("token_embd.weight"),
            Mistake::BiasLeftOut => {
                let bias = name.replace(".weight", ".bias");
                let bias = super::vector(&oracle.gguf, &bias).ok()??;
                return Some(self.right.iter().zip(bias).map(|(y, b)| y - b).collect());
            }
            Mistake::ScaleTensorLeftOut | Mistake::BiasScaled => {
                let part = |part: &str| {
                    let part = super::vector(&oracle.gguf, &name.replace(".weight", part));
                    part.ok().flatten()
                };
                let scale = *part(".scale")?.first()?;
                let bias = part(".bias");
                if mistake == Mistake::BiasScaled {
                    let pairs = self.right.iter().zip(bias?);
                    return Some(pairs.map(|(y, b)| y + b * (scale - 1.0)).collect());
                }
                let bias = bias.unwrap_or_else(|| vec![0.0; own.rows]);
                let pairs = self.right.iter().zip(bias);
                return Some(pairs.map(|(y, b)| (y - b) / scale + b).collect());
            }
            Mistake::Transposed if own.rows == own.columns => {
                let rows: Vec<Vec<f64>> = (0..own.rows).map(|r| own.row(r)).collect();
                let x = quantised(&own, x);
                let columns = 0..own.columns;
                columns
                    .map(|c| rows.iter().zip(&x).map(|(row, x)| row[c] * x).sum())
                    .collect()
            }
            _ if own.is_ternary() => ternary(mistake, &own, x)?,
            _ => in_blocks(mistake, &own, x)?,
        };
        let outputs: Vec<usize> = (0..out.len()).collect();
        oracle.scale_and_bias(&name, &outputs, &mut out).ok()?;
        Some(out)
    }
}

/// What the weights of a product are multiplied with.
fn quantised(matrix: &Matrix, x: &[f64]) -> Vec<f64> {
    if !matrix.is_ternary() {
        return matrix.roundings()[0].apply(x);
    }
    let (codes, scale) = maths::int8_codes(x, Rounding::None);
    codes.iter().map(|&c| c as f64 / scale).collect()
}

/// Products of rows of codes in blocks, or with activations in blocks, done wrong.
fn in_blocks(mistake: Mistake, matrix: &Matrix, x: &[f64]) -> Option<Vec<f64>> {
    let rounding = matrix.roundings()[0];
    let rows = 0..matrix.rows;
    let right = |x: &[f64]| {
        rows.clone()
            .map(|row| maths::dot(&matrix.row(row), x))
            .collect()
    };
    match mistake {
        Mistake::ActivationScalePerRow => {
            rounding.block()?;
            let (codes, scale) = maths::int8_codes(x, Rounding::None);
            let x: Vec<f64> = codes.iter().map(|&code| code as f64 / scale).collect();
            Some(right(&x))
        }
        Mistake::CodesTruncated => Some(right(&rounding.truncated(x)?)),
        _ => {
            let x = rounding.apply(x);
            let dot = |row| Some(maths::dot(&matrix.misread(row, mistake)?, &x));
            rows.map(dot).collect()
        }
    }
}

/// Products of ternary rows, done wrong.
fn ternary(mistake: Mistake, matrix: &Matrix, x: &[f64]) -> Option<Vec<f64>> {
    let (mut codes, mut scale) = maths::int8_codes(x, Rounding::None);
    let weight_scale = matrix.ternary_scale();
    let mut factor = weight_scale;
    match mistake {
        Mistake::WeightScaleLeftOut => factor = 1.0,
        Mistake::WeightScaleInverted => factor = 1.0 / weight_scale,
        Mistake::ActivationScale128 => {
            scale *= 128.0 / 127.0;
            let code = |v: &f64| (v * scale).round_ties_even().clamp(-128.0, 127.0) as i64;
            codes = x.iter().map(code).collect();
        }
        Mistake::CodesTruncated => codes = x.iter().map(|v| (v * scale) as i64).collect(),
        Mistake::HalvesTowardsZero => {
            let code = |v: &f64| ((v * scale).abs() - 0.5).ceil().copysign(*v) as i64;
            codes = x.iter().map(code).collect();
        }
        Mistake::HalvesUp => {
            codes = x.iter().map(|v| (v * scale + 0.5).floor() as i64).collect();
        }
        Mistake::ActivationsNotQuantised | Mistake::ActivationScalePerBlock => {
            let x: Vec<f64> = match mistake {
                Mistake::ActivationsNotQuantised => x.to_vec(),
                _ if x.len() <= 128 => return None,
                _ => x.chunks(128).flat_map(|x| quantised(matrix, x)).collect(),
            };
            let dot = |row| maths::dot(&matrix.row(row), &x);
            return Some((0..matrix.rows).map(dot).collect());
        }
        // Of whole blocks.
        Mistake::BlockOrder | Mistake::BitOrder if !matrix.columns.is_multiple_of(128) => {
            return None;
        }
        Mistake::CodesShifted
        | Mistake::SumNotSubtracted
        | Mistake::BlockOrder
        | Mistake::BitOrder
        | Mistake::SumsWrapAt16Bits => {}
        _ => return None,
    }
    let dot = |row| {
        let stored = matrix.ternary_codes(row);
        let block = |i: usize| i / 128 * 128;
        let weights: Vec<i64> = match mistake {
            Mistake::CodesShifted => stored
                .iter()
                .map(|&c| [-2, -1, 1, 2][c as usize & 3])
                .collect(),
            Mistake::SumNotSubtracted => stored,
            // Byte i / 4 holds weights i / 4, i / 4 + 32, …, from the highest bits on.
            Mistake::BlockOrder => (0..stored.len())
                .map(|i| stored[block(i) + i % 128 / 4 + 32 * (i % 4)] - 1)
                .collect(),
            Mistake::BitOrder => (0..stored.len())
                .map(|i| stored[block(i) + i % 32 + 32 * (3 - i % 128 / 32)] - 1)
                .collect(),
            _ => stored.iter().map(|c| c - 1).collect(),
        };
        let dot = maths::integer_dot(&weights, &codes);
        let dot = match mistake {
            Mistake::SumsWrapAt16Bits => i64::from(dot as i16),
            _ => dot,
        };
        dot as f64 / scale * factor
    };
    Some((0..matrix.rows).map(dot).collect())
}
