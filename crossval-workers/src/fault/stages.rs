//! The stages of a layer in f64, as an engine computes them that makes a mistake, or none.
//!
//! One code for both: a mistake that cannot be made at a place leaves the right row.

use bitnet_core::model::{Activation, Definition, RopeStyle};
use bitnet_model::Hyperparameters;
use bitnet_model::gguf::Gguf;
use bitnet_model::tap::Tap;
use half::{bf16, f16};

use super::InjectError;
use super::mistake::Mistake;
use super::rows::Rows;
use super::weights::{matrix, vector};

/// The taps that a stage starts from, and those that it starts from by mistake.
pub(super) fn sources(tap: Tap) -> impl Iterator<Item = Tap> {
    let by_mistake: &[Tap] = match tap {
        Tap::KCache => &[Tap::KNorm, Tap::K, Tap::V, Tap::KCache],
        Tap::VCache => &[Tap::KRope, Tap::VCache],
        Tap::AttnOut => &[Tap::QRope, Tap::KCache],
        Tap::FfnInp => &[Tap::AttnNorm],
        Tap::LayerOut => &[Tap::FfnNorm],
        _ => &[],
    };
    tap.sources().iter().chain(by_mistake).copied()
}

/// A stage of one evaluation.
#[derive(Clone, Copy)]
pub(super) struct Stage<'a> {
    pub gguf: &'a Gguf,
    pub config: &'a Hyperparameters,
    pub definition: Definition,
    /// What it starts from.
    pub inputs: &'a Rows,
    pub tap: Tap,
    pub layer: Option<usize>,
    /// Position of the first of `tokens`.
    pub first_position: usize,
    /// All that are evaluated together.
    pub tokens: &'a [u32],
    pub mistake: Option<Mistake>,
}

impl<'a> Stage<'a> {
    /// The rows at some positions.
    ///
    /// # Errors
    /// If an input or a tensor is missing.
    pub(super) fn rows(&self, positions: &[usize]) -> Result<Vec<Vec<f64>>, InjectError> {
        let mut rows = self.rows_by_kind(positions)?;
        let result = |v: f64| match self.mistake {
            Some(Mistake::ResultsF16) => to_f16(v),
            Some(Mistake::ResultsBf16) => to_bf16(v),
            Some(Mistake::ScaledByHalfAgain) => v * 1.5,
            Some(Mistake::ScaledByAHundredth) => v * 1.01,
            Some(Mistake::Negated) => -v,
            Some(Mistake::Zero) => 0.0,
            _ => v,
        };
        rows.iter_mut().flatten().for_each(|v| *v = result(*v));
        let share = match self.mistake {
            Some(Mistake::OffByRms) => 1.0,
            Some(Mistake::OffByAHundredthRms) => 0.01,
            _ => return Ok(rows),
        };
        for row in &mut rows {
            let square = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            row.iter_mut().for_each(|v| *v += share * square.sqrt());
        }
        Ok(rows)
    }

    fn rows_by_kind(&self, positions: &[usize]) -> Result<Vec<Vec<f64>>, InjectError> {
        let row = match self.tap {
            Tap::Q
            | Tap::K
            | Tap::V
            | Tap::AttnProj
            | Tap::FfnGate
            | Tap::FfnUp
            | Tap::FfnDown
            | Tap::Logits => return self.product(positions),
            Tap::Embd => Stage::embedding,
            Tap::AttnNorm
            | Tap::QNorm
            | Tap::KNorm
            | Tap::AttnSubNorm
            | Tap::FfnNorm
            | Tap::FfnSubNorm
            | Tap::FinalNorm => Stage::norm,
            Tap::QRope | Tap::KRope => Stage::rotation,
            Tap::KCache | Tap::VCache => Stage::cache,
            Tap::AttnProbs => Stage::probabilities,
            Tap::AttnOut => Stage::attention,
            Tap::FfnInp | Tap::LayerOut => Stage::residual,
            Tap::FfnAct => Stage::activation,
        };
        positions
            .iter()
            .map(|&position| row(self, position))
            .collect()
    }

    pub(super) fn makes(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    /// A row of the same layer.
    pub(super) fn input(&self, tap: Tap, position: usize) -> Result<&'a [f64], InjectError> {
        self.input_of(tap, self.layer, position)
    }

    /// The later of two taps, where the model has it.
    fn last_of(&self, later: Tap, earlier: Tap) -> Tap {
        match self.config.architecture.has(later) {
            true => later,
            false => earlier,
        }
    }

    /// A row of the residual stream in front of the layer; in front of the output without one.
    fn stream(&self, position: usize) -> Result<&'a [f64], InjectError> {
        match self.layer.unwrap_or(self.config.n_layer).checked_sub(1) {
            Some(before) => self.input_of(Tap::LayerOut, Some(before), position),
            None => self.input_of(Tap::Embd, None, position),
        }
    }

    fn input_of(
        &self,
        tap: Tap,
        layer: Option<usize>,
        position: usize,
    ) -> Result<&'a [f64], InjectError> {
        let row = self.inputs.get(tap, layer, position);
        row.ok_or_else(|| InjectError::Missing(format!("{tap} at position {position}")))
    }

    /// Keys or values of the first `n` positions.
    fn cached(&self, tap: Tap, n: usize) -> Result<Vec<&'a [f64]>, InjectError> {
        (0..n).map(|position| self.input(tap, position)).collect()
    }

    /// A layer beside this one, if there is another.
    pub(super) fn other_layer(&self) -> Option<usize> {
        let layer = self.layer?;
        Some(match layer + 1 < self.config.n_layer {
            true => layer + 1,
            false => layer.saturating_sub(1),
        })
    }

    fn embedding(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        let token = position
            .checked_sub(self.first_position)
            .and_then(|i| self.tokens.get(i))
            .ok_or_else(|| InjectError::Missing(format!("the token at position {position}")))?;
        let table = matrix(self.gguf, "token_embd.weight")?;
        let mut row = *token as usize;
        if self.makes(Mistake::NextTokensRow) {
            row = (row + 1) % table.rows;
        }
        let factor = match self.mistake {
            Some(Mistake::EmbeddingsScaled) => (self.config.n_embd as f64).sqrt(),
            _ => 1.0,
        };
        let row = table.row(row, self.mistake);
        Ok(row.into_iter().map(|v| v * factor).collect())
    }

    fn norm(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        let (x, own, other) = match self.tap {
            Tap::AttnNorm => (self.stream(position)?, "attn_norm", "ffn_norm"),
            Tap::QNorm => (self.input(Tap::Q, position)?, "attn_q_norm", "attn_k_norm"),
            Tap::KNorm => (self.input(Tap::K, position)?, "attn_k_norm", "attn_q_norm"),
            Tap::AttnSubNorm => {
                let x = self.input(Tap::AttnOut, position)?;
                (x, "attn_sub_norm", "attn_norm")
            }
            Tap::FfnNorm => (self.input(Tap::FfnInp, position)?, "ffn_norm", "attn_norm"),
            Tap::FfnSubNorm => {
                let x = self.input(Tap::FfnAct, position)?;
                (x, "ffn_sub_norm", "ffn_sub_norm")
            }
            _ => (self.stream(position)?, "output_norm", "output_norm"),
        };
        let (part, layer) = match self.mistake {
            Some(Mistake::OtherNormsGamma) => (other, self.layer),
            Some(Mistake::OtherLayersGamma) => (own, self.other_layer()),
            _ => (own, self.layer),
        };
        let width = match self.tap {
            Tap::QNorm | Tap::KNorm => self.config.head_dim,
            _ => x.len(),
        };
        let mut gamma = self.gamma(part, layer)?;
        if gamma.len() != width {
            gamma = self.gamma(own, self.layer)?;
        }
        let at_once = match self.mistake {
            Some(Mistake::NormOverTheRow) => x.len(),
            _ => width,
        };
        let gamma: Vec<f64> = gamma.iter().copied().cycle().take(at_once).collect();
        let eps = f64::from(self.config.rms_eps);
        let normed = x
            .chunks(at_once)
            .flat_map(|x| norm(x, &gamma, eps, self.mistake));
        Ok(normed.collect())
    }

    fn gamma(&self, part: &str, layer: Option<usize>) -> Result<Vec<f64>, InjectError> {
        let name = match layer {
            Some(layer) => format!("blk.{layer}.{part}.weight"),
            None => format!("{part}.weight"),
        };
        vector(self.gguf, &name)?.ok_or(InjectError::Missing(name))
    }

    fn rotation(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        let (plain, normed) = match self.tap {
            Tap::QRope => (Tap::Q, Tap::QNorm),
            _ => (Tap::K, Tap::KNorm),
        };
        let source = match self.makes(Mistake::RotatedBeforeNorm) {
            true => plain,
            false => self.last_of(normed, plain),
        };
        let mut row = self.input(source, position)?.to_vec();
        let factors = vector(self.gguf, "rope_freqs.weight")?;
        let position = position as f64;
        let turns = match self.mistake {
            Some(Mistake::PositionLate) => position + 1.0,
            Some(Mistake::PositionEarly) => position - 1.0,
            Some(Mistake::RopeInverse) => -position,
            Some(Mistake::RopeLeftOut) => 0.0,
            _ => position,
        };
        let dims = match self.mistake {
            Some(Mistake::RopeHalfTheDims) => self.config.rope_dim / 4 * 2,
            _ => self.config.rope_dim,
        };
        let base = match (self.mistake, f64::from(self.config.rope_base)) {
            (Some(Mistake::OtherRopeBase), 1e4) => 5e5,
            (Some(Mistake::OtherRopeBase), _) => 1e4,
            (_, base) => base,
        };
        let halves =
            self.makes(Mistake::OtherPairing) != (self.definition.rope_style == RopeStyle::Neox);
        let scaling = Scaling::of(self.config, self.mistake);
        for head in row.chunks_exact_mut(self.config.head_dim) {
            for pair in 0..dims / 2 {
                let stretch = factors.as_ref().map_or(1.0, |factors| factors[pair]);
                let step = base.powf(-((2 * pair) as f64) / dims as f64);
                let angle = match self.mistake {
                    Some(Mistake::F32Angles) => f64::from(turns as f32 * (step / stretch) as f32),
                    _ => turns * step / stretch,
                };
                let angle = angle * scaling.of_pair(pair);
                let (i, j) = match halves {
                    true => (pair, pair + dims / 2),
                    false => (2 * pair, 2 * pair + 1),
                };
                let (x, y) = (head[i] * scaling.magnitude, head[j] * scaling.magnitude);
                head[i] = x * angle.cos() - y * angle.sin();
                head[j] = x * angle.sin() + y * angle.cos();
            }
        }
        Ok(row)
    }

    fn cache(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        if self.makes(Mistake::EarlierRow)
            && let Some(row) = self.inputs.earlier(self.tap, self.layer, position)
        {
            return Ok(row.to_vec());
        }
        let source = match (self.tap, self.mistake) {
            (Tap::KCache, Some(Mistake::CachedBeforeRope)) => self.last_of(Tap::KNorm, Tap::K),
            (Tap::KCache, Some(Mistake::KeysForValues)) => Tap::V,
            (Tap::KCache, _) | (_, Some(Mistake::KeysForValues)) => Tap::KRope,
            _ => Tap::V,
        };
        // What the batch before put in is gone.
        let stale = self.makes(Mistake::StaleRow) && position > self.first_position;
        let row = self.input(source, position - usize::from(stale))?;
        let store = |&v: &f64| match self.mistake {
            Some(Mistake::CacheTruncated) => truncated_to_f16(v),
            Some(Mistake::CacheBf16) => to_f16(to_bf16(v)),
            _ => to_f16(v),
        };
        Ok(row.iter().map(store).collect())
    }

    /// The key/value head of a query head.
    fn kv_head(&self, head: usize) -> usize {
        match self.mistake {
            Some(Mistake::HeadsInTurn) => head % self.config.n_head_kv,
            Some(Mistake::FirstHeadForAll) => 0,
            _ => head / self.config.group(),
        }
    }

    /// A head's share of a key or value.
    fn of_head(&self, row: &'a [f64], head: usize) -> &'a [f64] {
        let dim = self.config.head_dim;
        &row[self.kv_head(head) * dim..][..dim]
    }

    /// Positions in the cache once the batch is in it.
    fn n_kv(&self) -> usize {
        self.first_position + self.tokens.len()
    }

    fn probabilities(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        let queries = self.input(Tap::QRope, position)?;
        let dim = self.config.head_dim;
        let seen = match self.mistake {
            // Some position is always seen.
            Some(Mistake::MaskHidesItself) => position.max(1),
            Some(Mistake::MaskShowsNext) => (position + 2).min(self.n_kv()),
            _ => position + 1,
        };
        let keys = self.cached(Tap::KCache, seen)?;
        let divisor = match self.mistake {
            Some(Mistake::ScoresUnscaled) => 1.0,
            Some(Mistake::ScoresOverDim) => dim as f64,
            _ => (dim as f64).sqrt(),
        };
        let power = |score: f64| match self.mistake {
            Some(Mistake::SoftmaxBaseTwo) => score.exp2(),
            _ => score.exp(),
        };
        let mut row = Vec::with_capacity(self.config.n_head * self.n_kv());
        let queries: Vec<f64> = queries.iter().map(|&v| self.held(v)).collect();
        for (head, query) in queries.chunks_exact(dim).enumerate() {
            let scores = keys
                .iter()
                .map(|key| dot(query, self.of_head(key, head)) / divisor);
            row.extend(softmax(scores.collect(), power));
            row.resize((head + 1) * self.n_kv(), 0.0);
        }
        Ok(row)
    }

    /// Attention that goes on into what a sequence before has left in the cache.
    fn attention_into_earlier(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        let dim = self.config.head_dim;
        let with_earlier = |tap| {
            let mut rows = self.cached(tap, position + 1)?;
            let behind = self.n_kv()..;
            rows.extend(behind.map_while(|at| self.inputs.earlier(tap, self.layer, at)));
            Ok::<_, InjectError>(rows)
        };
        let (keys, values) = (with_earlier(Tap::KCache)?, with_earlier(Tap::VCache)?);
        let queries = self.input(Tap::QRope, position)?;
        let mut row = Vec::with_capacity(self.config.q_dim());
        for (head, query) in queries.chunks_exact(dim).enumerate() {
            let scores = keys
                .iter()
                .map(|key| dot(query, self.of_head(key, head)) / (dim as f64).sqrt());
            let probabilities = softmax(scores.collect(), f64::exp);
            let mut out = vec![0.0; dim];
            for (probability, value) in probabilities.iter().zip(&values) {
                for (out, v) in out.iter_mut().zip(self.of_head(value, head)) {
                    *out += probability * v;
                }
            }
            row.extend(out);
        }
        Ok(row)
    }

    fn attention(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        if self.makes(Mistake::EarlierSequenceSeen)
            && self
                .inputs
                .earlier(Tap::KCache, self.layer, self.n_kv())
                .is_some()
        {
            return self.attention_into_earlier(position);
        }
        let probabilities = self.input(Tap::AttnProbs, position)?;
        let seen = match self.mistake {
            Some(Mistake::NewestValueLeftOut) => position,
            _ => position + 1,
        };
        let values = self.cached(Tap::VCache, seen)?;
        let mut row = vec![0.0; self.config.q_dim()];
        let heads = row.chunks_exact_mut(self.config.head_dim);
        let shares = probabilities.chunks_exact(self.n_kv());
        for (head, (out, probabilities)) in heads.zip(shares).enumerate() {
            for (probability, value) in probabilities.iter().zip(&values) {
                for (out, v) in out.iter_mut().zip(self.of_head(value, head)) {
                    *out += self.held(*probability) * v;
                }
            }
        }
        Ok(row)
    }

    /// An input of attention, as the stage computes with it.
    fn held(&self, v: f64) -> f64 {
        match self.mistake {
            Some(Mistake::F16Inputs) => to_f16(v),
            _ => v,
        }
    }

    fn residual(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        let (stream, branch, normed) = match self.tap {
            Tap::FfnInp => (self.stream(position)?, Tap::AttnProj, Tap::AttnNorm),
            _ => (
                self.input(Tap::FfnInp, position)?,
                Tap::FfnDown,
                Tap::FfnNorm,
            ),
        };
        let branch = self.input(branch, position)?;
        Ok(match self.mistake {
            Some(Mistake::ResidualDropped) => branch.to_vec(),
            Some(Mistake::BranchDropped) => stream.to_vec(),
            Some(Mistake::ResidualFromNorm) => sum(self.input(normed, position)?, branch),
            _ => sum(stream, branch),
        })
    }

    fn activation(&self, position: usize) -> Result<Vec<f64>, InjectError> {
        let (mut gate, mut up) = (Tap::FfnGate, Tap::FfnUp);
        if self.makes(Mistake::GateAndUpSwapped) {
            (gate, up) = (up, gate);
        }
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let relu = |x: f64| x.max(0.0);
        let gated = |x: f64| match (self.mistake, self.definition.activation) {
            (Some(Mistake::Silu), _) => silu(x),
            (Some(Mistake::Relu2), _) => relu(x) * relu(x),
            (Some(Mistake::Relu), _) => relu(x),
            (Some(Mistake::Gelu), _) => gelu(x),
            (_, Activation::Silu) => silu(x),
            (_, Activation::Relu2) => relu(x) * relu(x),
        };
        let pairs = self
            .input(gate, position)?
            .iter()
            .zip(self.input(up, position)?);
        let row = pairs.map(|(&gate, &up)| match self.mistake {
            Some(Mistake::UpLeftOut) => gated(gate),
            _ => gated(gate) * up,
        });
        Ok(row.collect())
    }
}

/// How a model stretches its rotation beyond the context of its training.
struct Scaling {
    /// Factor on the angles that are scaled.
    factor: f64,
    /// The pairs between which that sets in, of YaRN; else all are scaled.
    ramp: Option<(f64, f64)>,
    /// Factor on the values.
    magnitude: f64,
}

impl Scaling {
    fn of(config: &Hyperparameters, mistake: Option<Mistake>) -> Scaling {
        let factor = f64::from(config.rope_scale);
        let dims = config.rope_dim as f64;
        // Solved for the pair: context / (2 pi turns) = base^(2 pair / dims).
        let pair = |context: usize, turns: f64| {
            let length = context as f64 / (std::f64::consts::TAU * turns);
            dims * length.log(f64::from(config.rope_base)) / 2.0
        };
        let ramp = config.yarn_ctx.map(|context| {
            let begin = pair(context, 32.0).floor().max(0.0);
            (begin, pair(context, 1.0).ceil().min(dims - 1.0))
        });
        let of_yarn = match ramp {
            Some(_) => 1.0 + 0.1 * (1.0 / factor).ln(),
            None => 1.0,
        };
        let own = f64::from(config.rope_magnitude);
        let all = Scaling {
            factor,
            ramp,
            magnitude: own * of_yarn,
        };
        match mistake {
            Some(Mistake::RopeUnscaled) if factor != 1.0 => Scaling {
                factor: 1.0,
                ramp: None,
                magnitude: own,
            },
            Some(Mistake::YarnOnEveryPair) => Scaling {
                ramp: None,
                magnitude: own,
                ..all
            },
            Some(Mistake::RopeMagnitudeLeftOut | Mistake::RopeLeftOut) => Scaling {
                magnitude: 1.0,
                ..all
            },
            _ => all,
        }
    }

    fn of_pair(&self, pair: usize) -> f64 {
        let scaled = self.ramp.map_or(1.0, |(begin, end)| {
            ((pair as f64 - begin) / (end - begin).max(0.001)).clamp(0.0, 1.0)
        });
        1.0 - scaled * (1.0 - self.factor)
    }
}

fn norm(x: &[f64], gamma: &[f64], eps: f64, mistake: Option<Mistake>) -> Vec<f64> {
    if mistake == Some(Mistake::NormLeftOut) {
        return x.to_vec();
    }
    let n = x.len() as f64;
    let centre = match mistake {
        Some(Mistake::MeanSubtracted) => x.iter().sum::<f64>() / n,
        _ => 0.0,
    };
    let (inside, outside) = match mistake {
        Some(Mistake::EpsTenfold) => (10.0 * eps, 0.0),
        Some(Mistake::EpsLeftOut) => (0.0, 0.0),
        Some(Mistake::EpsOutsideRoot) => (0.0, eps),
        _ => (eps, 0.0),
    };
    let square = x.iter().map(|v| (v - centre).powi(2)).sum::<f64>() / n;
    let divisor = (square + inside).sqrt() + outside;
    let weight = |gamma: f64| match mistake {
        Some(Mistake::GammaLeftOut) => 1.0,
        Some(Mistake::GammaPlusOne) => 1.0 + gamma,
        _ => gamma,
    };
    let values = x.iter().zip(gamma);
    values
        .map(|(v, &gamma)| (v - centre) / divisor * weight(gamma))
        .collect()
}

fn softmax(scores: Vec<f64>, power: impl Fn(f64) -> f64) -> Vec<f64> {
    let highest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> = scores.iter().map(|s| power(s - highest)).collect();
    let total: f64 = powers.iter().sum();
    powers.iter().map(|power| power / total).collect()
}

/// The tanh form (Hendrycks and Gimpel 2016).
fn gelu(x: f64) -> f64 {
    let inner = std::f64::consts::FRAC_2_PI.sqrt() * (x + 0.044_715 * x * x * x);
    x / 2.0 * (1.0 + inner.tanh())
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

fn to_f16(v: f64) -> f64 {
    f16::from_f64(v).to_f64()
}

pub(super) fn to_bf16(v: f64) -> f64 {
    bf16::from_f64(v).to_f64()
}

fn truncated_to_f16(v: f64) -> f64 {
    let nearest = f16::from_f64(v);
    match nearest.to_f64().abs() > v.abs() {
        // The next one towards zero, whatever the sign.
        true => f16::from_bits(nearest.to_bits() - 1).to_f64(),
        false => nearest.to_f64(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_of_a_known_row() {
        // Mean 2, mean square 8; without the mean, 4.
        let (x, gamma) = ([0.0, 4.0], [1.0, 3.0]);
        let root = 8.0_f64.sqrt();
        for (mistake, eps, want) in [
            (None, 0.0, [0.0, 12.0 / root]),
            (None, 8.0, [0.0, 3.0]),
            (Some(Mistake::MeanSubtracted), 0.0, [-1.0, 3.0]),
            (Some(Mistake::NormLeftOut), 0.0, [0.0, 4.0]),
            (Some(Mistake::GammaLeftOut), 8.0, [0.0, 1.0]),
            (Some(Mistake::GammaPlusOne), 8.0, [0.0, 4.0]),
            (Some(Mistake::EpsTenfold), 0.8, [0.0, 3.0]),
            (Some(Mistake::EpsLeftOut), 8.0, [0.0, 12.0 / root]),
            (
                Some(Mistake::EpsOutsideRoot),
                2.0,
                [0.0, 12.0 / (root + 2.0)],
            ),
        ] {
            let got = norm(&x, &gamma, eps, mistake);
            for (got, want) in got.iter().zip(want) {
                approx::assert_abs_diff_eq!(*got, want, epsilon = 1e-15);
            }
        }
    }

    #[test]
    fn f16_towards_zero() {
        // Neighbours in F16 are 2^-10 apart.
        let step = 2.0_f64.powi(-10);
        for sign in [1.0, -1.0] {
            assert_eq!(truncated_to_f16(sign * (1.0 + 0.9 * step)), sign);
            assert_eq!(
                truncated_to_f16(sign * (1.0 + 1.1 * step)),
                sign * (1.0 + step)
            );
        }
    }
}
