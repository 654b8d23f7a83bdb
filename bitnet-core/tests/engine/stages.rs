//! Every tap, recomputed in f64 from the taps before it and the weights as they were before encoding.

use std::collections::HashMap;
use std::sync::Arc;

use bitnet_core::gguf::TensorType;
use bitnet_core::model::{Activation, Definition, RopeStyle};
use bitnet_core::tap::Tap;
use bitnet_model::Hyperparameters;

use crate::synthetic::{N_LAYER, SPECS, Spec, Synthetic};
use crate::{Seen, record};

const TOKENS: [u32; 9] = [3, 1, 4, 1, 5, 9, 2, 6, 5];

struct Stages<'a> {
    config: &'a Hyperparameters,
    definition: Definition,
    spec: &'a Spec,
    weights: HashMap<String, Vec<f64>>,
    seen: Vec<Seen>,
    layer: Option<usize>,
}

impl Stages<'_> {
    fn seen(&self, tap: Tap, layer: Option<usize>) -> Vec<f64> {
        let found = self.seen.iter().find(|s| s.tap == tap && s.layer == layer);
        let values = &found.unwrap_or_else(|| panic!("no {tap} {layer:?}")).values;
        values.iter().map(|&v| f64::from(v)).collect()
    }

    fn tap(&self, tap: Tap) -> Vec<f64> {
        self.seen(tap, self.layer)
    }

    fn weight(&self, part: &str) -> Option<&[f64]> {
        let name = match self.layer {
            Some(layer) => format!("blk.{layer}.{part}"),
            None => part.to_owned(),
        };
        self.weights.get(&name).map(Vec::as_slice)
    }

    fn check(&self, tap: Tap, want: &[f64], limit: f64) {
        let got = self.tap(tap);
        assert_eq!(got.len(), want.len(), "{tap}");
        let error: f64 = got.iter().zip(want).map(|(a, b)| (a - b).powi(2)).sum();
        let nmse = error / want.iter().map(|v| v * v).sum::<f64>();
        let (layer, name) = (self.layer, self.spec.architecture);
        assert!(
            nmse <= limit,
            "{name} {tap} {layer:?}: NMSE {nmse:e} > {limit:e}"
        );
    }

    fn norm(&self, x: &[f64], gamma: &str) -> Vec<f64> {
        let gamma = self.weight(gamma).unwrap();
        let eps = f64::from(self.config.rms_eps);
        let rows = x.chunks(gamma.len()).flat_map(|row| {
            let mean = row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64;
            row.iter()
                .zip(gamma)
                .map(move |(v, g)| v / (mean + eps).sqrt() * g)
        });
        rows.collect()
    }

    /// `x` through a matrix with its scale and bias; activations are rounded to int8 codes beside I2_S only.
    fn linear(&self, x: &[f64], columns: usize, part: &str, ty: TensorType) -> Vec<f64> {
        let weight = self.weight(&format!("{part}.weight")).unwrap();
        let scale = self.weight(&format!("{part}.scale")).map_or(1.0, |s| s[0]);
        let bias = self.weight(&format!("{part}.bias"));
        let mut out = Vec::new();
        for row in x.chunks(columns) {
            let mut row = row.to_vec();
            if ty == TensorType::I2_S {
                let max = row.iter().fold(1e-5f64, |max, v| max.max(v.abs()));
                let scale = (127.0 / max) as f32;
                for v in &mut row {
                    *v = (f64::from(*v as f32) * f64::from(scale)).round_ties_even()
                        / f64::from(scale);
                }
            }
            for (r, w) in weight.chunks(columns).enumerate() {
                let dot: f64 = w.iter().zip(&row).map(|(w, x)| w * x).sum();
                out.push(dot * scale + bias.map_or(0.0, |bias| bias[r]));
            }
        }
        out
    }

    fn rotate(&self, x: &[f64]) -> Vec<f64> {
        let Hyperparameters {
            head_dim,
            rope_base,
            rope_scale,
            yarn_ctx,
            rope_magnitude,
            ..
        } = *self.config;
        let half = head_dim / 2;
        // The pair that turns so many times in the training's context.
        let pair_of = |n_ctx: usize, turns: f64| {
            let length = n_ctx as f64 / (2.0 * std::f64::consts::PI * turns);
            half as f64 * length.ln() / f64::from(rope_base).ln()
        };
        let (scale, mut magnitude) = (f64::from(rope_scale), f64::from(rope_magnitude));
        if yarn_ctx.is_some() {
            magnitude *= 1.0 - 0.1 * scale.ln();
        }
        let scaled = |pair: usize| {
            let Some(n_ctx) = yarn_ctx else {
                return scale;
            };
            let first = pair_of(n_ctx, 32.0).floor().max(0.0);
            let last = pair_of(n_ctx, 1.0).ceil();
            let along = ((pair as f64 - first) / (last - first)).clamp(0.0, 1.0);
            1.0 + along * (scale - 1.0)
        };
        let factors = self.weights.get("rope_freqs.weight");
        let mut out = x.to_vec();
        let width = x.len() / TOKENS.len();
        for (i, head) in out.chunks_mut(head_dim).enumerate() {
            let position = (i * head_dim / width) as f64;
            for pair in 0..half {
                let factor = factors.map_or(1.0, |factors| factors[pair]);
                let frequency = f64::from(rope_base).powf(-(pair as f64) / half as f64);
                let (sin, cos) = (position * frequency / factor * scaled(pair)).sin_cos();
                let (sin, cos) = (magnitude * sin, magnitude * cos);
                let (a, b) = match self.definition.rope_style {
                    RopeStyle::Neox => (pair, pair + half),
                    RopeStyle::Norm => (2 * pair, 2 * pair + 1),
                };
                (head[a], head[b]) = (head[a] * cos - head[b] * sin, head[a] * sin + head[b] * cos);
            }
        }
        out
    }

    fn attention(&self) {
        let config = self.config;
        let (n, dim, kv_dim) = (TOKENS.len(), config.head_dim, config.kv_dim());
        let (q, k, v) = (
            self.tap(Tap::QRope),
            self.tap(Tap::KCache),
            self.tap(Tap::VCache),
        );
        let at = |t: usize, head: usize| t * kv_dim + head / config.group() * dim;
        let (mut probabilities, mut out) = (Vec::new(), Vec::new());
        let seen = self.tap(Tap::AttnProbs);
        for t in 0..n {
            for head in 0..config.n_head {
                let q = &q[(t * config.n_head + head) * dim..][..dim];
                let mut p: Vec<f64> = (0..=t)
                    .map(|s| {
                        let k = &k[at(s, head)..][..dim];
                        let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                        (dot / (dim as f64).sqrt()).exp()
                    })
                    .collect();
                let total: f64 = p.iter().sum();
                p.iter_mut().for_each(|p| *p /= total);
                p.resize(n, 0.0);
                let given = &seen[(t * config.n_head + head) * n..][..n];
                for d in 0..dim {
                    out.push((0..n).map(|s| given[s] * v[at(s, head) + d]).sum());
                }
                probabilities.extend(p);
            }
        }
        // The query is rounded to F16 here, not in f64.
        self.check(Tap::AttnProbs, &probabilities, 1e-6);
        self.check(Tap::AttnOut, &out, 1e-13);
    }
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// What rounding of the activations allows.
fn limit(ty: TensorType) -> f64 {
    match ty {
        TensorType::BF16 => 1e-5,
        TensorType::Q8_0 | TensorType::Q6_K | TensorType::TQ1_0 | TensorType::TQ2_0 => 1e-4,
        TensorType::Q1_0 | TensorType::Q2_0 | TensorType::Q2_0_128 => 1e-4,
        _ => 2e-13,
    }
}

#[test]
fn every_stage_follows_from_the_one_before() {
    for spec in &SPECS {
        let synthetic = Synthetic::new(spec);
        let model = Arc::new(synthetic.load().unwrap());
        let config = model.hyperparameters();
        let (n_embd, n_ff) = (config.n_embd, config.n_ff);
        let (seen, _) = record(&model, &TOKENS, |_, _, _| ());
        let mut s = Stages {
            config,
            definition: model.definition(),
            spec,
            weights: synthetic.values(),
            seen,
            layer: None,
        };
        let table = &s.weights["token_embd.weight"];
        let rows = TOKENS
            .iter()
            .flat_map(|&t| table[t as usize * n_embd..][..n_embd].to_vec());
        s.check(Tap::Embd, &rows.collect::<Vec<_>>(), 1e-14);

        let mut x = s.tap(Tap::Embd);
        let (ty, sub) = (spec.matrices, config.architecture.has(Tap::AttnSubNorm));
        for layer in 0..N_LAYER {
            s.layer = Some(layer);
            s.check(Tap::AttnNorm, &s.norm(&x, "attn_norm.weight"), 1e-13);
            let h = s.tap(Tap::AttnNorm);
            for (tap, part) in [(Tap::Q, "attn_q"), (Tap::K, "attn_k"), (Tap::V, "attn_v")] {
                let ty = spec.type_of(part);
                s.check(tap, &s.linear(&h, n_embd, part, ty), limit(ty));
            }
            let (mut q, mut k) = (s.tap(Tap::Q), s.tap(Tap::K));
            if config.architecture.has(Tap::QNorm) {
                s.check(Tap::QNorm, &s.norm(&q, "attn_q_norm.weight"), 1e-13);
                s.check(Tap::KNorm, &s.norm(&k, "attn_k_norm.weight"), 1e-13);
                (q, k) = (s.tap(Tap::QNorm), s.tap(Tap::KNorm));
            }
            s.check(Tap::QRope, &s.rotate(&q), 1e-12);
            s.check(Tap::KRope, &s.rotate(&k), 1e-12);
            let f16 = |x: Vec<f64>| -> Vec<f64> {
                x.iter()
                    .map(|&v| f64::from(half::f16::from_f64(v)))
                    .collect()
            };
            s.check(Tap::KCache, &f16(s.tap(Tap::KRope)), 0.0);
            s.check(Tap::VCache, &f16(s.tap(Tap::V)), 0.0);
            s.attention();
            let mut h = s.tap(Tap::AttnOut);
            if sub {
                s.check(Tap::AttnSubNorm, &s.norm(&h, "attn_sub_norm.weight"), 1e-13);
                h = s.tap(Tap::AttnSubNorm);
            }
            let want = s.linear(&h, config.q_dim(), "attn_output", ty);
            s.check(Tap::AttnProj, &want, limit(ty));
            s.check(Tap::FfnInp, &add(&x, &s.tap(Tap::AttnProj)), 1e-14);
            x = s.tap(Tap::FfnInp);
            s.check(Tap::FfnNorm, &s.norm(&x, "ffn_norm.weight"), 1e-13);
            let h = s.tap(Tap::FfnNorm);
            s.check(
                Tap::FfnGate,
                &s.linear(&h, n_embd, "ffn_gate", ty),
                limit(ty),
            );
            s.check(Tap::FfnUp, &s.linear(&h, n_embd, "ffn_up", ty), limit(ty));
            let act = |g: &f64| match s.definition.activation {
                Activation::Silu => g / (1.0 + (-g).exp()),
                Activation::Relu2 => g.max(0.0).powi(2),
            };
            let (gate, up) = (s.tap(Tap::FfnGate), s.tap(Tap::FfnUp));
            let want: Vec<f64> = gate.iter().zip(&up).map(|(g, u)| act(g) * u).collect();
            s.check(Tap::FfnAct, &want, 1e-13);
            let mut h = s.tap(Tap::FfnAct);
            if sub {
                s.check(Tap::FfnSubNorm, &s.norm(&h, "ffn_sub_norm.weight"), 1e-13);
                h = s.tap(Tap::FfnSubNorm);
            }
            s.check(Tap::FfnDown, &s.linear(&h, n_ff, "ffn_down", ty), limit(ty));
            s.check(Tap::LayerOut, &add(&x, &s.tap(Tap::FfnDown)), 1e-14);
            x = s.tap(Tap::LayerOut);
        }
        s.layer = None;
        s.check(Tap::FinalNorm, &s.norm(&x, "output_norm.weight"), 1e-13);
        let head = match config.tied_output {
            true => "token_embd",
            false => "output",
        };
        let want = s.linear(&s.tap(Tap::FinalNorm), n_embd, head, spec.embedding);
        s.check(Tap::Logits, &want, limit(spec.embedding));
    }
}
