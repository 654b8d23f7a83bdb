//! LLaMA with F32 weights, written from the model's definition: plain loops, sums in f64. Every intermediate result is
//! shown to an observer and goes on as it comes back.

use std::path::Path;

use bytemuck::Pod;
use crossval_protocol::bitnet_model::gguf::{Gguf, TensorType};
use crossval_protocol::bitnet_model::{Architecture, Hyperparameters, Tap, layout};
use crossval_protocol::{ErrorKind, ModelFacts, Refusal, TapHeader, facts};
use half::f16;

/// What it runs.
pub const ARCHITECTURE: Architecture = Architecture::Llama;

type Result<T> = std::result::Result<T, Refusal>;

/// Sees the values of a tap, of all tokens of a batch, and may replace them.
pub type Observer<'a> = dyn FnMut(TapHeader, &mut [u8]) -> Result<()> + 'a;

/// A request that does not fit the model or the moment.
pub fn usage(message: impl ToString) -> Refusal {
    Refusal::new(ErrorKind::Usage, message)
}

/// The weights. Matrices are row-major, a row for each output.
pub struct Model {
    shape: Hyperparameters,
    embedding: Vec<f32>,
    layers: Vec<Layer>,
    output_norm: Vec<f32>,
    /// The embedding, if the file has no other.
    output: Option<Vec<f32>>,
}

struct Layer {
    attn_norm: Vec<f32>,
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    attn_output: Vec<f32>,
    ffn_norm: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    down: Vec<f32>,
}

impl Model {
    /// Reads a GGUF file.
    pub fn load(path: &Path) -> Result<(Model, ModelFacts)> {
        let gguf = Gguf::open(path)?;
        let shape = Hyperparameters::read(&gguf)?;
        layout::check(&gguf, &shape)?;
        let refuse = |what: &str| {
            let message = format!("{}: {what}", path.display());
            Refusal::new(ErrorKind::BadModel, message)
        };
        if shape.architecture != ARCHITECTURE {
            return Err(refuse(&format!("the architecture is not {ARCHITECTURE}")));
        }
        if shape.yarn_ctx.is_some() || shape.rope_magnitude != 1.0 {
            return Err(refuse(
                "it scales RoPE otherwise than by a factor on the angles",
            ));
        }
        // The layout allows more: biases, scales, factors of RoPE.
        let known = 2 + usize::from(!shape.tied_output) + 9 * shape.n_layer;
        if gguf.tensors().len() != known {
            return Err(refuse("there are tensors that this engine does not apply"));
        }
        if let Some(tensor) = gguf.tensors().iter().find(|t| t.ty != TensorType::F32) {
            let (name, ty) = (&tensor.name, tensor.ty);
            return Err(refuse(&format!("tensor {name:?} is {ty}, not F32")));
        }
        let tensor = |name: &str| -> Result<Vec<f32>> {
            let name = format!("{name}.weight");
            let info = gguf.tensor(&name).ok_or_else(|| refuse(&name))?;
            let values = gguf.data(info)?.as_chunks().0.iter();
            Ok(values.map(|&bytes| f32::from_le_bytes(bytes)).collect())
        };
        let layer = |i| -> Result<Layer> {
            let tensor = |name| tensor(&format!("blk.{i}.{name}"));
            Ok(Layer {
                attn_norm: tensor("attn_norm")?,
                q: tensor("attn_q")?,
                k: tensor("attn_k")?,
                v: tensor("attn_v")?,
                attn_output: tensor("attn_output")?,
                ffn_norm: tensor("ffn_norm")?,
                gate: tensor("ffn_gate")?,
                up: tensor("ffn_up")?,
                down: tensor("ffn_down")?,
            })
        };
        let facts = facts::model(&gguf, &shape);
        let model = Model {
            embedding: tensor("token_embd")?,
            layers: (0..shape.n_layer).map(layer).collect::<Result<_>>()?,
            output_norm: tensor("output_norm")?,
            output: (!shape.tied_output).then(|| tensor("output")).transpose()?,
            shape,
        };
        Ok((model, facts))
    }

    /// RMS norm of every row.
    fn norm(&self, x: &[f32], gamma: &[f32]) -> Vec<f32> {
        let rows = x.chunks_exact(gamma.len());
        rows.flat_map(|row| {
            let squares: f64 = row.iter().map(|&v| f64::from(v).powi(2)).sum();
            let mean = squares / gamma.len() as f64;
            let root = (mean + f64::from(self.shape.rms_eps)).sqrt();
            let normed = row.iter().zip(gamma);
            normed.map(move |(&v, &g)| (f64::from(v) / root * f64::from(g)) as f32)
        })
        .collect()
    }

    /// RoPE: turns the values `2i` and `2i + 1` of each head by position * base^(-2i / rope_dim), angles carried from
    /// pair to pair in f32, as ggml does.
    fn rotate(&self, x: &mut [f32], row_width: usize, first_position: usize) {
        let shape = &self.shape;
        let factor = shape.rope_base.powf(-2.0 / shape.rope_dim as f32);
        for (position, row) in (first_position..).zip(x.chunks_exact_mut(row_width)) {
            for head in row.chunks_exact_mut(shape.head_dim) {
                let mut angle = position as f32;
                for [low, high] in head[..shape.rope_dim].as_chunks_mut().0 {
                    let (sin, cos) = f64::from(angle * shape.rope_scale).sin_cos();
                    let (x, y) = (f64::from(*low), f64::from(*high));
                    *low = (x * cos - y * sin) as f32;
                    *high = (x * sin + y * cos) as f32;
                    angle *= factor;
                }
            }
        }
    }

    /// Rows of `[n_head, positions]`, 0 where a token does not look. The query is rounded to F16, as the keys are.
    fn probabilities(&self, q: &[f32], keys: &[f16], first_position: usize) -> Vec<f32> {
        let (shape, dim, kv_dim) = (&self.shape, self.shape.head_dim, self.shape.kv_dim());
        let n_kv = keys.len() / kv_dim;
        let mut out = vec![0.0; q.len() / dim * n_kv];
        let rows = out.chunks_exact_mut(n_kv);
        for (i, (q, row)) in q.chunks_exact(dim).zip(rows).enumerate() {
            let (token, head) = (i / shape.n_head, i % shape.n_head);
            let q: Vec<f64> = q.iter().map(|&v| f16::from_f32(v).to_f64()).collect();
            let seen = keys.chunks_exact(kv_dim).take(first_position + token + 1);
            let scores: Vec<f64> = seen
                .map(|key| {
                    let key = &key[head / shape.group() * dim..][..dim];
                    let products = q.iter().zip(key).map(|(q, k)| q * k.to_f64());
                    products.sum::<f64>() / (dim as f64).sqrt()
                })
                .collect();
            let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let total: f64 = scores.iter().map(|s| (s - max).exp()).sum();
            for (p, score) in row.iter_mut().zip(scores) {
                *p = ((score - max).exp() / total) as f32;
            }
        }
        out
    }

    /// For each head of each token, the values in the cache, weighted.
    fn attend(&self, probabilities: &[f32], values: &[f16]) -> Vec<f32> {
        let (shape, dim, kv_dim) = (&self.shape, self.shape.head_dim, self.shape.kv_dim());
        let rows = probabilities.chunks_exact(values.len() / kv_dim);
        rows.enumerate()
            .flat_map(|(i, row)| {
                let first = i % shape.n_head / shape.group() * dim;
                (first..first + dim).map(move |at| {
                    let weighted = row.iter().zip(values.chunks_exact(kv_dim));
                    let products = weighted.map(|(&p, v)| f64::from(p) * v[at].to_f64());
                    products.sum::<f64>() as f32
                })
            })
            .collect()
    }
}

/// Every row of `x` times the matrix.
fn multiply(matrix: &[f32], x: &[f32], columns: usize) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| {
        let products = a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b));
        products.sum::<f64>() as f32
    };
    let rows = x.chunks_exact(columns);
    rows.flat_map(|row| matrix.chunks_exact(columns).map(move |w| dot(w, row)))
        .collect()
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

/// A batch on its way through the model.
struct Batch<'a, 'o> {
    first_position: usize,
    rows: usize,
    /// Where it is; `None` outside the layers.
    layer: Option<usize>,
    observer: &'a mut Observer<'o>,
}

impl Batch<'_, '_> {
    fn show<T: Pod>(&mut self, tap: Tap, values: &mut [T]) -> Result<()> {
        let header = TapHeader {
            tap,
            layer: self.layer,
            first_position: self.first_position,
            rows: self.rows,
            width: values.len() / self.rows,
        };
        (self.observer)(header, bytemuck::cast_slice_mut(values))
    }
}

/// Keys and values of a layer's positions.
#[derive(Default)]
struct Cache {
    keys: Vec<f16>,
    values: Vec<f16>,
}

/// A sequence.
pub struct Session {
    model: Model,
    caches: Vec<Cache>,
    position: usize,
    n_ctx: usize,
}

impl Session {
    /// Without room for any token, until [`Session::clear`].
    pub fn new(model: Model) -> Session {
        Session {
            caches: model.layers.iter().map(|_| Cache::default()).collect(),
            model,
            position: 0,
            n_ctx: 0,
        }
    }

    /// Empties the sequence and makes room for `n_ctx` tokens.
    pub fn clear(&mut self, n_ctx: usize) {
        (self.position, self.n_ctx) = (0, n_ctx);
    }

    /// How many tokens the sequence holds.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Appends tokens as [`Session::eval`] does. Returns the most likely next one, of equals the first.
    pub fn next_token(&mut self, first: usize, tokens: &[u32]) -> Result<u32> {
        let logits = self.eval(first, tokens, &mut |_, _| Ok(()))?;
        let best = (0..logits.len()).reduce(|a, b| if logits[b] > logits[a] { b } else { a });
        best.map(|id| id as u32)
            .ok_or_else(|| usage("the vocabulary is empty"))
    }

    /// Appends a batch to the sequence; `first` is its position, 0 empties the sequence first. Returns the last token's
    /// logits.
    pub fn eval(
        &mut self,
        first: usize,
        tokens: &[u32],
        observer: &mut Observer,
    ) -> Result<Vec<f32>> {
        let model = &self.model;
        let (n_embd, n_vocab) = (model.shape.n_embd, model.shape.n_vocab);
        let (q_dim, kv_dim) = (model.shape.q_dim(), model.shape.kv_dim());
        if (first != 0 && first != self.position) || tokens.len() > self.n_ctx - first {
            let (n, at, n_ctx) = (tokens.len(), self.position, self.n_ctx);
            return Err(usage(format!(
                "{n} tokens for position {first}, the sequence is at {at} of {n_ctx}"
            )));
        }
        if let Some(id) = tokens.iter().find(|&&id| id as usize >= n_vocab) {
            return Err(usage(format!("token {id} of a vocabulary of {n_vocab}")));
        }
        let mut batch = Batch {
            first_position: first,
            rows: tokens.len(),
            layer: None,
            observer,
        };
        let rows = tokens.iter().map(|&id| id as usize * n_embd);
        let rows = rows.flat_map(|start| &model.embedding[start..][..n_embd]);
        let mut x: Vec<f32> = rows.copied().collect();
        batch.show(Tap::Embd, &mut x)?;
        for (i, (w, cache)) in model.layers.iter().zip(&mut self.caches).enumerate() {
            batch.layer = Some(i);
            let mut h = model.norm(&x, &w.attn_norm);
            batch.show(Tap::AttnNorm, &mut h)?;
            let [mut q, mut k, mut v] = [&w.q, &w.k, &w.v].map(|w| multiply(w, &h, n_embd));
            batch.show(Tap::Q, &mut q)?;
            batch.show(Tap::K, &mut k)?;
            batch.show(Tap::V, &mut v)?;
            model.rotate(&mut q, q_dim, first);
            batch.show(Tap::QRope, &mut q)?;
            model.rotate(&mut k, kv_dim, first);
            batch.show(Tap::KRope, &mut k)?;
            for (tap, cached, rows) in [
                (Tap::KCache, &mut cache.keys, &k),
                (Tap::VCache, &mut cache.values, &v),
            ] {
                cached.truncate(first * kv_dim);
                cached.extend(rows.iter().map(|&v| f16::from_f32(v)));
                batch.show(tap, &mut cached[first * kv_dim..])?;
            }
            let mut probabilities = model.probabilities(&q, &cache.keys, first);
            batch.show(Tap::AttnProbs, &mut probabilities)?;
            let mut h = model.attend(&probabilities, &cache.values);
            batch.show(Tap::AttnOut, &mut h)?;
            let mut h = multiply(&w.attn_output, &h, q_dim);
            batch.show(Tap::AttnProj, &mut h)?;
            add(&mut x, &h);
            batch.show(Tap::FfnInp, &mut x)?;
            let mut h = model.norm(&x, &w.ffn_norm);
            batch.show(Tap::FfnNorm, &mut h)?;
            let [mut gate, mut up] = [&w.gate, &w.up].map(|w| multiply(w, &h, n_embd));
            batch.show(Tap::FfnGate, &mut gate)?;
            batch.show(Tap::FfnUp, &mut up)?;
            for (gate, &up) in gate.iter_mut().zip(&up) {
                let g = f64::from(*gate);
                *gate = (g / (1.0 + (-g).exp()) * f64::from(up)) as f32;
            }
            batch.show(Tap::FfnAct, &mut gate)?;
            let mut h = multiply(&w.down, &gate, model.shape.n_ff);
            batch.show(Tap::FfnDown, &mut h)?;
            add(&mut x, &h);
            batch.show(Tap::LayerOut, &mut x)?;
        }
        batch.layer = None;
        let mut h = model.norm(&x, &model.output_norm);
        batch.show(Tap::FinalNorm, &mut h)?;
        let head = model.output.as_ref().unwrap_or(&model.embedding);
        let mut logits = multiply(head, &h, n_embd);
        batch.show(Tap::Logits, &mut logits)?;
        self.position = first + tokens.len();
        Ok(logits.split_off(logits.len() - n_vocab))
    }
}
