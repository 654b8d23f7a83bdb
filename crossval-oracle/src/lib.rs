//! The oracle: a BitNet forward pass straight from the model's definition, to arbitrate between two engines.
//!
//! Scalar f64, exact integer dots, one stage at a time, each from given inputs ([`Inputs`]); nothing is rounded but
//! what the model's definition rounds: activations to int8 codes beside ternary weights, keys and values to the
//! cache's F16. With the engine it shares the GGUF container and what the file must hold (`bitnet-model`), and nothing
//! else: no hyperparameters, no arithmetic of stages, no decoding of blocks, no kernel. (Which rows a stage may start from
//! is in the table of taps, see [`needs`](inputs::needs).)
//!
//! | module | what |
//! |---|---|
//! | [`maths`] | norms, RoPE, softmax, activations, quantisers |
//! | [`weights`] | tensor formats, decoded weight by weight |
//! | this one | the stages of a layer |
//! | `answers` | right rows, with each rounding that an engine may do |
//! | [`bounds`] | what f32 arithmetic builds up in right engines |
//! | `codes` | codes in blocks, read wrongly |
//! | `mistakes`, `wrong` | the ways in which people get the stages wrong, and what comes of them |
//! | [`inputs`] | the values that stages start from |
//! | `hyper` | what a file's metadata say, and how its family computes |
//! | [`spread`] | how far apart right engines may be in the end |
//! | [`judge`] | is this row right, and if not, which mistake is it? |
//!
//! The embedding of the first token of a batch, from the file alone:
//! ```
//! use bitnet_model::Tap;
//! use crossval_oracle::{Batch, Oracle, inputs::Inputs, maths::Rounding};
//!
//! # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf"));
//! let oracle = Oracle::open(path)?;
//! let batch = Batch { first_position: 0, tokens: &[1, 403] };
//! let rows = oracle.stage((Tap::Embd, None), batch, 0..1, &Inputs::default(), Rounding::None)?;
//! assert_eq!(rows[0].len(), oracle.hyper().n_embd);
//! # Ok::<(), crossval_oracle::OracleError>(())
//! ```

mod answers;
pub mod bounds;
mod codes;
mod hyper;
pub mod inputs;
pub mod judge;
pub mod maths;
mod mistakes;
pub mod spread;
mod tiles;
pub mod weights;
mod wrong;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bitnet_model::activation::Source;
use bitnet_model::gguf::Gguf;
use bitnet_model::tap::{Tap, Width};
use bitnet_model::{Activation, layout};

pub use self::hyper::{Hyperparameters, architectures};
use self::inputs::{Inputs, TapAt, needs};
use self::maths::Rounding;
use self::weights::{Matrix, vector};

/// Why the oracle has no answer; the message names the file and what is wrong there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct OracleError(String);

impl OracleError {
    fn new(gguf: &Gguf, what: impl std::fmt::Display) -> OracleError {
        OracleError(format!("{}: {what}", gguf.path().display()))
    }
}

impl From<bitnet_model::Error> for OracleError {
    fn from(e: bitnet_model::Error) -> OracleError {
        OracleError(e.to_string())
    }
}

/// The tokens that are evaluated together, and where they stand.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Position of the first token.
    pub first_position: usize,
    /// Token IDs.
    pub tokens: &'a [u32],
}

impl Batch<'_> {
    /// Positions that are in the cache once the batch is: the width of a head's attention probabilities.
    pub fn n_kv(&self) -> usize {
        self.first_position.saturating_add(self.tokens.len())
    }

    /// The token at a position of the batch.
    pub fn token(&self, position: usize) -> Option<u32> {
        self.tokens
            .get(position.checked_sub(self.first_position)?)
            .copied()
    }
}

/// A model file, read by the oracle.
pub struct Oracle {
    gguf: Arc<Gguf>,
    hyper: Hyperparameters,
    /// Who says what the activation is, for the words of a ruling.
    activation: Source,
}

impl Oracle {
    /// Opens a model.
    ///
    /// # Errors
    /// If the file is no GGUF, or not of a model that the oracle knows.
    pub fn open(path: &Path) -> Result<Oracle, OracleError> {
        Oracle::new(Arc::new(Gguf::open(path)?))
    }

    /// As [`open`](Self::open), with an activation in place of the file's, if one is given.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_as(path: &Path, activation: Option<Activation>) -> Result<Oracle, OracleError> {
        Oracle::read(Arc::new(Gguf::open(path)?), activation)
    }

    /// Reads the model of an open file.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn new(gguf: Arc<Gguf>) -> Result<Oracle, OracleError> {
        Oracle::read(gguf, None)
    }

    fn read(gguf: Arc<Gguf>, activation: Option<Activation>) -> Result<Oracle, OracleError> {
        let shape = bitnet_model::Hyperparameters::read_as(&gguf, activation)?;
        layout::check(&gguf, &shape)?;
        let hyper = Hyperparameters::read(&gguf, activation)?;
        Ok(Oracle {
            gguf,
            hyper,
            activation: shape.activation.source,
        })
    }

    /// The hyperparameters.
    pub fn hyper(&self) -> &Hyperparameters {
        &self.hyper
    }

    /// What stands against an engine whose values match another activation, behind its name.
    fn on_the_activation(&self) -> String {
        let own = match self.hyper.relu2 {
            true => "ReLU²",
            false => "SiLU",
        };
        match self.activation {
            Source::File | Source::Architecture => format!(", the model says {own}"),
            Source::Assumed => {
                format!("; {own} is assumed, as the file does not name its activation")
            }
            Source::Override => format!(", --activation says {own}"),
        }
    }

    /// The file.
    pub fn gguf(&self) -> &Gguf {
        &self.gguf
    }

    /// Vocabulary size: rows of the embedding.
    pub fn n_vocab(&self) -> Result<usize, OracleError> {
        Ok(self.matrix("token_embd.weight")?.rows)
    }

    /// Heads that a row of a tap is made of; 0 if of none.
    pub fn heads(&self, tap: Tap) -> usize {
        match tap {
            Tap::Q | Tap::QNorm | Tap::QRope | Tap::AttnOut | Tap::AttnProbs => self.hyper.n_head,
            Tap::K | Tap::KNorm | Tap::V | Tap::KRope | Tap::KCache | Tap::VCache => {
                self.hyper.n_head_kv
            }
            _ => 0,
        }
    }

    /// Values in a row of a tap.
    ///
    /// # Errors
    /// If the embedding is missing.
    pub fn width(&self, tap: Tap, batch: Batch) -> Result<usize, OracleError> {
        let h = &self.hyper;
        Ok(match tap.width() {
            Width::Embd => h.n_embd,
            Width::Heads => h.n_head * h.head_dim,
            Width::KvHeads => h.n_head_kv * h.head_dim,
            Width::Probabilities => h.n_head * batch.n_kv(),
            Width::Ff => h.n_ff,
            Width::Vocab => self.n_vocab()?,
        })
    }

    /// What an engine may round before the stage; the first is what the oracle does of its own accord.
    ///
    /// # Errors
    /// If the stage's weights are missing.
    pub fn roundings(&self, (tap, layer): TapAt) -> Result<Vec<Rounding>, OracleError> {
        if matches!(tap, Tap::AttnProbs | Tap::AttnOut) {
            return Ok(vec![Rounding::None, Rounding::F16]);
        }
        let Some(name) = self.weight_name(tap, layer) else {
            return Ok(vec![Rounding::None]);
        };
        Ok(self.matrix(&name)?.roundings().to_vec())
    }

    /// The rows of a stage for some positions of a batch.
    ///
    /// # Errors
    /// If an input or a tensor is missing.
    pub fn stage(
        &self,
        at: TapAt,
        batch: Batch,
        positions: Range<usize>,
        inputs: &Inputs,
        rounding: Rounding,
    ) -> Result<Vec<Vec<f64>>, OracleError> {
        self.stage_in_part(at, batch, positions, inputs, rounding, None)
    }

    /// As [`stage`](Self::stage), of the elements `outputs` alone where those are given, in their order.
    fn stage_in_part(
        &self,
        at: TapAt,
        batch: Batch,
        positions: Range<usize>,
        inputs: &Inputs,
        rounding: Rounding,
        outputs: Option<&[usize]>,
    ) -> Result<Vec<Vec<f64>>, OracleError> {
        let (tap, layer) = at;
        if let Some(source) = self.product_input(tap)
            && let Some(weight) = self.weight_name(tap, layer)
        {
            let rows: Result<Vec<&[f64]>, _> = positions
                .map(|p| self.input(inputs, (source, layer), p))
                .collect();
            return self.product(&weight, &rows?, rounding, outputs);
        }
        positions
            .map(|position| {
                let row = self.row(at, batch, position, inputs, rounding)?;
                Ok(match outputs {
                    Some(outputs) => outputs.iter().map(|&i| row[i]).collect(),
                    None => row,
                })
            })
            .collect()
    }

    /// Computes what is missing of the inputs of a stage, from those of stages before it in its layer. Returns the
    /// stages that were computed. Values that are passed on are F32, as in engines, after `pass_on` has seen them.
    ///
    /// # Errors
    /// If the layer's own input is missing, or a tensor.
    fn supply(
        &self,
        at: TapAt,
        batch: Batch,
        positions: Range<usize>,
        inputs: &mut Inputs,
        rounding: &dyn Fn(TapAt) -> Result<Rounding, OracleError>,
        pass_on: &dyn Fn(Tap, usize, &mut [f64]),
    ) -> Result<Vec<TapAt>, OracleError> {
        let mut supplied = Vec::new();
        let needs = needs(at.0, at.1, self.hyper.n_layer, self.hyper.norms);
        for source in needs.iter().filter(|need| need.own).map(|need| need.at) {
            let start = match source.0.is_f16() {
                true => 0,
                false => positions.start,
            };
            let there = |p: usize| inputs.row(source, p).is_some();
            let Some(first) = (start..positions.end).find(|&p| !there(p)) else {
                continue;
            };
            if source.0 == Tap::LayerOut {
                return Err(self.missing(source, first));
            }
            let lacking = first..positions.end;
            let before = self.supply(source, batch, lacking.clone(), inputs, rounding, pass_on)?;
            supplied.extend(before);
            supplied.push(source);
            let rounding = rounding(source)?;
            let rows = self.stage(source, batch, lacking.clone(), inputs, rounding)?;
            for (position, mut row) in lacking.zip(rows) {
                pass_on(source.0, position, &mut row);
                let held = row.into_iter().map(|v| f64::from(v as f32));
                inputs.put(source, position, held.collect());
            }
        }
        Ok(supplied)
    }

    /// One row of a stage that is no matrix product.
    fn row(
        &self,
        (tap, layer): TapAt,
        batch: Batch,
        position: usize,
        inputs: &Inputs,
        rounding: Rounding,
    ) -> Result<Vec<f64>, OracleError> {
        let h = &self.hyper;
        let of = |tap| self.input(inputs, (tap, layer), position);
        let stream = |at| self.input(inputs, at, position);
        if let Some((source, gamma)) = self.norm_of((tap, layer)) {
            return self.norm(stream(source)?, gamma, layer);
        }
        Ok(match tap {
            Tap::Embd => {
                let table = self.matrix("token_embd.weight")?;
                let token = batch.token(position).filter(|&t| (t as usize) < table.rows);
                let token = token.ok_or_else(|| self.missing((tap, layer), position))?;
                table.row(token as usize)
            }
            Tap::QRope => {
                let query = self.normed_or(Tap::QNorm, Tap::Q);
                h.rope.rotate(of(query)?, position as f64)
            }
            Tap::KRope => {
                let key = self.normed_or(Tap::KNorm, Tap::K);
                h.rope.rotate(of(key)?, position as f64)
            }
            Tap::KCache => Rounding::F16.apply(of(Tap::KRope)?),
            Tap::VCache => Rounding::F16.apply(of(Tap::V)?),
            Tap::AttnProbs => {
                let query = rounding.apply(of(Tap::QRope)?);
                let keys = inputs.history((Tap::KCache, layer), position + 1);
                let keys = keys.ok_or_else(|| self.missing((Tap::KCache, layer), position))?;
                let scale = 1.0 / (h.head_dim as f64).sqrt();
                self.probabilities(&query, &keys, batch.n_kv(), scale, |head| {
                    head / (h.n_head / h.n_head_kv)
                })
            }
            Tap::AttnOut => {
                let probabilities = rounding.apply(of(Tap::AttnProbs)?);
                let values = inputs.history((Tap::VCache, layer), position + 1);
                let values = values.ok_or_else(|| self.missing((Tap::VCache, layer), position))?;
                self.attend(&probabilities, &values, |head| {
                    head / (h.n_head / h.n_head_kv)
                })
            }
            Tap::FfnInp => sum(stream(self.stream_before(layer))?, of(Tap::AttnProj)?),
            Tap::FfnAct => {
                let act = if h.relu2 { maths::relu2 } else { maths::silu };
                let gated = of(Tap::FfnGate)?.iter().zip(of(Tap::FfnUp)?);
                gated.map(|(&gate, up)| act(gate) * up).collect()
            }
            Tap::LayerOut => sum(of(Tap::FfnInp)?, of(Tap::FfnDown)?),
            Tap::Q
            | Tap::K
            | Tap::V
            | Tap::QNorm
            | Tap::KNorm
            | Tap::AttnNorm
            | Tap::AttnSubNorm
            | Tap::AttnProj
            | Tap::FfnNorm
            | Tap::FfnGate
            | Tap::FfnUp
            | Tap::FfnSubNorm
            | Tap::FfnDown
            | Tap::FinalNorm
            | Tap::Logits => return Err(self.missing((tap, layer), position)),
        })
    }

    /// The residual stream in front of a layer; of the output for `None`.
    fn stream_before(&self, layer: Option<usize>) -> TapAt {
        match layer.unwrap_or(self.hyper.n_layer) {
            0 => (Tap::Embd, None),
            layer => (Tap::LayerOut, Some(layer - 1)),
        }
    }

    /// The tap that a norm takes, and its weights.
    fn norm_of(&self, (tap, layer): TapAt) -> Option<(TapAt, &'static str)> {
        Some(match tap {
            Tap::AttnNorm => (self.stream_before(layer), "attn_norm"),
            Tap::QNorm => ((Tap::Q, layer), "attn_q_norm"),
            Tap::KNorm => ((Tap::K, layer), "attn_k_norm"),
            Tap::AttnSubNorm => ((Tap::AttnOut, layer), "attn_sub_norm"),
            Tap::FfnNorm => ((Tap::FfnInp, layer), "ffn_norm"),
            Tap::FfnSubNorm => ((Tap::FfnAct, layer), "ffn_sub_norm"),
            Tap::FinalNorm => (self.stream_before(None), "output_norm"),
            _ => return None,
        })
    }

    /// A norm's tap where the model has it, else that of what it would norm.
    fn normed_or(&self, normed: Tap, plain: Tap) -> Tap {
        match self.hyper.norms.contains(&normed) {
            true => normed,
            false => plain,
        }
    }

    /// The tap that a matrix product takes.
    fn product_input(&self, tap: Tap) -> Option<Tap> {
        Some(match tap {
            Tap::Q | Tap::K | Tap::V => Tap::AttnNorm,
            Tap::AttnProj => self.normed_or(Tap::AttnSubNorm, Tap::AttnOut),
            Tap::FfnGate | Tap::FfnUp => Tap::FfnNorm,
            Tap::FfnDown => self.normed_or(Tap::FfnSubNorm, Tap::FfnAct),
            Tap::Logits => Tap::FinalNorm,
            _ => return None,
        })
    }

    /// The matrix of a product.
    fn weight_name(&self, tap: Tap, layer: Option<usize>) -> Option<String> {
        let part = match tap {
            Tap::Q => "attn_q",
            Tap::K => "attn_k",
            Tap::V => "attn_v",
            Tap::AttnProj => "attn_output",
            Tap::FfnGate => "ffn_gate",
            Tap::FfnUp => "ffn_up",
            Tap::FfnDown => "ffn_down",
            Tap::Logits => {
                let untied = self.gguf.tensor("output.weight").is_some();
                let name = if untied { "output" } else { "token_embd" };
                return Some(format!("{name}.weight"));
            }
            _ => return None,
        };
        Some(format!("blk.{}.{part}.weight", layer?))
    }

    /// `weight . x * scale + bias` for each `x`, or the elements `outputs` of it.
    fn product(
        &self,
        weight: &str,
        x: &[&[f64]],
        rounding: Rounding,
        outputs: Option<&[usize]>,
    ) -> Result<Vec<Vec<f64>>, OracleError> {
        let matrix = self.matrix(weight)?;
        let all: Vec<usize>;
        let outputs = match outputs {
            Some(outputs) => outputs,
            None => {
                all = (0..matrix.rows).collect();
                &all
            }
        };
        if let Some(x) = x.iter().find(|x| x.len() != matrix.columns) {
            let (name, columns) = (matrix.name(), matrix.columns);
            let what = format!("tensor {name:?} takes {columns} values, not {}", x.len());
            return Err(OracleError::new(&self.gguf, what));
        }
        let mut out = vec![Vec::with_capacity(outputs.len()); x.len()];
        if matrix.is_ternary() {
            let weight_scale = matrix.ternary_scale();
            let x: Vec<(Vec<i64>, f64)> =
                x.iter().map(|x| maths::int8_codes(x, rounding)).collect();
            for &row in outputs {
                let mut weights = matrix.ternary_codes(row);
                weights.iter_mut().for_each(|code| *code -= 1);
                for ((codes, scale), out) in x.iter().zip(&mut out) {
                    let dot = maths::integer_dot(&weights, codes);
                    out.push(dot as f64 / scale * weight_scale);
                }
            }
        } else {
            let x: Vec<Vec<f64>> = x.iter().map(|x| rounding.apply(x)).collect();
            for &row in outputs {
                let weights = matrix.row(row);
                for (x, out) in x.iter().zip(&mut out) {
                    out.push(maths::dot(&weights, x));
                }
            }
        }
        for out in &mut out {
            self.scale_and_bias(weight, outputs, out)?;
        }
        Ok(out)
    }

    /// What follows a product where the file has it.
    fn scale_and_bias(
        &self,
        weight: &str,
        outputs: &[usize],
        out: &mut [f64],
    ) -> Result<(), OracleError> {
        let Some(base) = weight.strip_suffix(".weight") else {
            return Ok(());
        };
        if let Some(scale) = vector(&self.gguf, &format!("{base}.scale"))?
            && let [scale, ..] = scale[..]
        {
            out.iter_mut().for_each(|y| *y *= scale);
        }
        if let Some(bias) = vector(&self.gguf, &format!("{base}.bias"))? {
            let of_outputs = outputs.iter().filter_map(|&row| bias.get(row));
            out.iter_mut().zip(of_outputs).for_each(|(y, b)| *y += b);
        }
        Ok(())
    }

    /// Attention probabilities of every head, head-major, each row filled up with zeros to `n_kv`.
    fn probabilities(
        &self,
        query: &[f64],
        keys: &[&[f64]],
        n_kv: usize,
        scale: f64,
        kv_head: impl Fn(usize) -> usize,
    ) -> Vec<f64> {
        let dim = self.hyper.head_dim;
        let mut out = Vec::new();
        for (head, q) in query.chunks(dim).enumerate() {
            let start = kv_head(head) * dim;
            let scores = keys
                .iter()
                .map(|k| maths::dot(q, &k[start..start + dim]) * scale);
            let scores: Vec<f64> = scores.collect();
            out.extend(maths::softmax(&scores));
            out.resize((head + 1) * n_kv, 0.0);
        }
        out
    }

    /// Values weighted by probabilities, heads side by side.
    fn attend(
        &self,
        probabilities: &[f64],
        values: &[&[f64]],
        kv_head: impl Fn(usize) -> usize,
    ) -> Vec<f64> {
        let (dim, n_head) = (self.hyper.head_dim, self.hyper.n_head);
        let mut out = vec![0.0; n_head * dim];
        let heads = probabilities.chunks((probabilities.len() / n_head).max(1));
        for (head, (p, out)) in heads.zip(out.chunks_mut(dim)).enumerate() {
            let start = kv_head(head) * dim;
            for (p, value) in p.iter().zip(values) {
                let value = &value[start..start + dim];
                out.iter_mut().zip(value).for_each(|(o, v)| *o += p * v);
            }
        }
        out
    }

    /// Of a row, or of each head of it, by the number of weights.
    fn norm(&self, x: &[f64], part: &str, layer: Option<usize>) -> Result<Vec<f64>, OracleError> {
        let gamma = self.gamma(part, layer)?;
        let parts = x.chunks(gamma.len().max(1));
        let normed = parts.flat_map(|x| maths::rms_norm(x, &gamma, self.hyper.eps));
        Ok(normed.collect())
    }

    fn gamma(&self, part: &str, layer: Option<usize>) -> Result<Vec<f64>, OracleError> {
        let name = match layer {
            Some(layer) => format!("blk.{layer}.{part}.weight"),
            None => format!("{part}.weight"),
        };
        vector(&self.gguf, &name)?.ok_or_else(|| self.no_tensor(&name))
    }

    fn matrix(&self, name: &str) -> Result<Matrix<'_>, OracleError> {
        Matrix::open(&self.gguf, name)?.ok_or_else(|| self.no_tensor(name))
    }

    fn no_tensor(&self, name: &str) -> OracleError {
        OracleError::new(&self.gguf, format!("tensor {name:?} is missing"))
    }

    fn input<'a>(
        &self,
        inputs: &'a Inputs,
        at: TapAt,
        position: usize,
    ) -> Result<&'a [f64], OracleError> {
        let row = inputs.row(at, position);
        row.ok_or_else(|| self.missing(at, position))
    }

    fn missing(&self, (tap, layer): TapAt, position: usize) -> OracleError {
        let layer = layer.map_or(String::new(), |l| format!("layer {l}, "));
        OracleError(format!("no values of {layer}{tap} at position {position}"))
    }
}

fn sum(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}
