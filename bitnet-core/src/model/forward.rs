//! The forward pass.

use bitnet_model::{Hyperparameters, Tap};
use half::f16;
use half::slice::HalfFloatSliceExt;

use super::attention::{self, Attention};
use super::definition::Activation;
use super::head::MAX_TOP;
use super::linear::{Compute, Input, Linear};
use super::session::{Buffers, LayerCache, Logits, Output, Session};
use super::{Layer, Model};
use crate::Error;
use crate::kernels::elementwise::{relu2_mul, rms_norm, silu_mul};
use crate::kernels::vectorize;
use crate::tap::{Observer, TapData, TapView};

/// Hands taps to the observer, if there is one.
struct Taps<'a, 'o> {
    observer: Option<&'a mut (dyn Observer + 'o)>,
    layer: Option<usize>,
    first: usize,
    n_tokens: usize,
}

impl Taps<'_, '_> {
    fn observed(&self) -> bool {
        self.observer.is_some()
    }

    fn see(&mut self, tap: Tap, data: &mut [f32]) -> Result<(), Error> {
        self.hand_over(tap, self.first, data.len(), TapData::F32(data))
    }

    fn see_cache(&mut self, tap: Tap, data: &mut [f16]) -> Result<(), Error> {
        self.hand_over(tap, self.first, data.len(), TapData::F16(data))
    }

    fn hand_over(
        &mut self,
        tap: Tap,
        first_position: usize,
        len: usize,
        data: TapData,
    ) -> Result<(), Error> {
        let Some(observer) = &mut self.observer else {
            return Ok(());
        };
        let layer = self.layer.filter(|_| tap.per_layer());
        let n_tokens = self.first + self.n_tokens - first_position;
        let view = TapView {
            tap,
            layer,
            first_position,
            n_tokens,
            width: len / n_tokens,
            data,
        };
        observer.tap(view).map_err(Error::observer)
    }
}

impl Session {
    /// Evaluates one batch at the current position, and what `output` asks for.
    pub(super) fn forward(
        &mut self,
        tokens: &[u32],
        output: Output,
        observer: Option<&mut dyn Observer>,
    ) -> Result<(), Error> {
        let logits = output.rows();
        let model = &*self.model;
        let Model {
            hyperparameters: config,
            gguf,
            ..
        } = model;
        let Hyperparameters {
            n_embd, n_vocab, ..
        } = *config;
        let buffers = &mut self.buffers;
        let mut n = tokens.len();
        if n == 1 {
            model.repack_for_decoding(&model.compute(&self.pool));
        }
        let mut taps = Taps {
            observer,
            layer: None,
            first: self.position,
            n_tokens: n,
        };
        buffers.resize(config, n);
        for (row, &token) in buffers.x.chunks_exact_mut(n_embd).zip(tokens) {
            model.embedding.row(gguf, token as usize, row)?;
        }
        taps.see(Tap::Embd, &mut buffers.x)?;
        let factors = model.rope_factors.as_deref();
        buffers.rope.prepare(config, factors, self.position, n);

        for (i, (layer, cache)) in model.layers.iter().zip(&mut self.cache).enumerate() {
            taps.layer = Some(i);
            // Nothing but keys and values depends on the last layer's other rows.
            let rows = match logits {
                _ if taps.observed() || i + 1 < config.n_layer => Logits::All,
                rows => rows,
            };
            let mut pass = Pass {
                model,
                layer,
                compute: Compute {
                    trits: layer.trits(),
                    ..model.compute(&self.pool)
                },
                buffers: &mut *buffers,
                cache,
                scratch: &mut self.scratch,
                first: self.position,
                n,
                skipped: 0,
            };
            pass.project(rows, &mut taps)?;
            if rows == Logits::None {
                return Ok(());
            }
            pass.attend(&mut taps)?;
            pass.feed_forward(&mut taps)?;
            n -= pass.skipped;
        }

        let Buffers { x, encoded, .. } = &mut *buffers;
        let x = &mut x[..n * n_embd];
        norm(&model.compute(&self.pool), x, &model.output_norm, config);
        taps.see(Tap::FinalNorm, x)?;
        let x = match logits {
            Logits::None => return Ok(()),
            Logits::Last => &x[(n - 1) * n_embd..],
            Logits::All => &*x,
        };
        let head = model.head();
        let compute = model.compute(&self.pool);
        let mut input = Input::new(x, n_embd, encoded);
        if let Output::Top(k) = output {
            self.head_use.tokens += 1;
            if let Some(compact) = &model.compact_head
                && k <= MAX_TOP
                && compact.score(&compute, head, &mut input, k, &mut self.scores)?
            {
                self.head_use.certified += 1;
                self.head_use.exact_rows += self.scores.candidates.len() as u64;
                return Ok(());
            }
        }
        let start = self.logits.len();
        let rows = x.len() / n_embd;
        self.logits.resize(start + rows * n_vocab, 0.0);
        let out = &mut self.logits[start..];
        head.apply(&compute, &mut input, out)?;
        let first = taps.first + taps.n_tokens - rows;
        let len = out.len();
        taps.hand_over(Tap::Logits, first, len, TapData::F32(out))
    }
}

/// One layer on one batch.
struct Pass<'a> {
    model: &'a Model,
    layer: &'a Layer,
    compute: Compute<'a>,
    buffers: &'a mut Buffers,
    cache: &'a mut LayerCache,
    scratch: &'a mut [attention::Scratch],
    /// Position of the batch's first token.
    first: usize,
    /// Tokens of the batch.
    n: usize,
    /// Leading rows of which only keys and values are computed; the rest are moved to the front.
    skipped: usize,
}

impl Pass<'_> {
    /// From the residual stream to rotated queries, and to keys and values in the cache.
    fn project(&mut self, rows: Logits, taps: &mut Taps) -> Result<(), Error> {
        let Self {
            layer,
            compute,
            buffers,
            ..
        } = self;
        let config = &self.model.hyperparameters;
        let (n_embd, q_dim, kv_dim) = (config.n_embd, config.q_dim(), config.kv_dim());
        let Buffers {
            x,
            h,
            q,
            k,
            v,
            encoded,
            rope,
            ..
        } = &mut **buffers;

        let all = &mut h[..self.n * n_embd];
        norm_of(compute, x, all, &layer.attn_norm, config);
        taps.see(Tap::AttnNorm, all)?;
        let mut input = Input::new(all, n_embd, encoded);
        let (k_of, v_of) = ((&layer.k, &mut k[..]), (&layer.v, &mut v[..]));
        match rows {
            Logits::All => {
                let products = [(&layer.q, &mut q[..]), k_of, v_of];
                Linear::apply_all(compute, &mut input, products)?;
            }
            Logits::Last => {
                Linear::apply_all(compute, &mut input, [k_of, v_of])?;
                self.skipped = self.n - 1;
                let last = self.skipped * n_embd..self.n * n_embd;
                let mut input = Input::new(&h[last.clone()], n_embd, encoded);
                layer.q.apply(compute, &mut input, q)?;
                x.copy_within(last, 0);
            }
            Logits::None => {
                Linear::apply_all(compute, &mut input, [k_of, v_of])?;
                self.skipped = self.n;
            }
        }
        let q = &mut q[..(self.n - self.skipped) * q_dim];
        taps.see(Tap::Q, q)?;
        taps.see(Tap::K, k)?;
        taps.see(Tap::V, v)?;
        if let Some(gamma) = &layer.q_norm {
            norm(compute, q, gamma, config);
            taps.see(Tap::QNorm, q)?;
        }
        if let Some(gamma) = &layer.k_norm {
            norm(compute, k, gamma, config);
            taps.see(Tap::KNorm, k)?;
        }

        let skipped = self.skipped;
        let style = self.model.definition.rope_style;
        let kernel = compute.kernel;
        compute.pool.rows(q, q_dim, |t, heads| {
            vectorize!(kernel, rope.rotate(config, style, skipped + t, heads))
        });
        taps.see(Tap::QRope, q)?;
        compute.pool.rows(k, kv_dim, |t, heads| {
            vectorize!(kernel, rope.rotate(config, style, t, heads))
        });
        taps.see(Tap::KRope, k)?;
        for (cache, rows, tap) in [
            (&mut self.cache.k, &*k, Tap::KCache),
            (&mut self.cache.v, &*v, Tap::VCache),
        ] {
            cache.resize(self.first * kv_dim + rows.len(), f16::ZERO);
            cache[self.first * kv_dim..].convert_from_f32_slice(rows);
            taps.see_cache(tap, &mut cache[self.first * kv_dim..])?;
        }
        Ok(())
    }

    /// Attention and its residual.
    fn attend(&mut self, taps: &mut Taps) -> Result<(), Error> {
        let Self { layer, compute, .. } = self;
        let config = &self.model.hyperparameters;
        let (n_embd, q_dim) = (config.n_embd, config.q_dim());
        let n = self.n - self.skipped;
        let first = self.first + self.skipped;
        let Buffers {
            x,
            h,
            q,
            attn,
            probabilities,
            encoded,
            ..
        } = &mut *self.buffers;
        let attention = Attention {
            config,
            kernel: compute.kernel,
            first,
            q: &q[..n * q_dim],
            k: &self.cache.k,
            v: &self.cache.v,
        };
        let attn = &mut attn[..n * q_dim];
        if taps.observed() {
            probabilities.resize(n * config.n_head * (first + n), 0.0);
            attention.all_probabilities(compute.pool, self.scratch, probabilities);
            taps.see(Tap::AttnProbs, probabilities)?;
            attention.apply(compute.pool, probabilities, attn);
        } else {
            attention.run(compute.pool, self.scratch, attn);
        }
        taps.see(Tap::AttnOut, attn)?;
        if let Some(gamma) = &layer.attn_sub_norm {
            norm(compute, attn, gamma, config);
            taps.see(Tap::AttnSubNorm, attn)?;
        }
        let h = &mut h[..n * n_embd];
        layer
            .output
            .apply(compute, &mut Input::new(attn, q_dim, encoded), h)?;
        taps.see(Tap::AttnProj, h)?;
        let x = &mut x[..n * n_embd];
        add(compute, x, h, n_embd);
        taps.see(Tap::FfnInp, x)
    }

    /// The feed-forward network and its residual.
    fn feed_forward(&mut self, taps: &mut Taps) -> Result<(), Error> {
        let Self { layer, compute, .. } = self;
        let config = &self.model.hyperparameters;
        let Hyperparameters { n_embd, n_ff, .. } = *config;
        let n = self.n - self.skipped;
        let Buffers {
            x,
            h,
            gate,
            up,
            encoded,
            ..
        } = &mut *self.buffers;
        let (x, h) = (&mut x[..n * n_embd], &mut h[..n * n_embd]);
        let (gate, up) = (&mut gate[..n * n_ff], &mut up[..n * n_ff]);

        norm_of(compute, x, h, &layer.ffn_norm, config);
        taps.see(Tap::FfnNorm, h)?;
        let mut input = Input::new(h, n_embd, encoded);
        let products = [(&layer.gate, &mut *gate), (&layer.up, &mut *up)];
        Linear::apply_all(compute, &mut input, products)?;
        taps.see(Tap::FfnGate, gate)?;
        taps.see(Tap::FfnUp, up)?;
        let kernel = compute.kernel;
        compute.pool.rows(gate, n_ff, |t, gate| {
            let up = &up[t * n_ff..][..n_ff];
            vectorize!(
                kernel,
                match self.model.definition.activation {
                    Activation::Silu => silu_mul(gate, up),
                    Activation::Relu2 => relu2_mul(gate, up),
                }
            );
        });
        taps.see(Tap::FfnAct, gate)?;
        if let Some(gamma) = &layer.ffn_sub_norm {
            norm(compute, gate, gamma, config);
            taps.see(Tap::FfnSubNorm, gate)?;
        }
        layer
            .down
            .apply(compute, &mut Input::new(gate, n_ff, encoded), h)?;
        taps.see(Tap::FfnDown, h)?;
        add(compute, x, h, n_embd);
        taps.see(Tap::LayerOut, x)
    }
}

/// RMS norm of every `gamma.len()` values of `x`: a row, or a head.
fn norm(compute: &Compute, x: &mut [f32], gamma: &[f32], config: &Hyperparameters) {
    let kernel = compute.kernel;
    compute.pool.rows(x, gamma.len(), |_, row| {
        vectorize!(kernel, rms_norm(row, gamma, config.rms_eps));
    });
}

/// RMS norm of every row of `x`, into `out`.
fn norm_of(compute: &Compute, x: &[f32], out: &mut [f32], gamma: &[f32], config: &Hyperparameters) {
    let kernel = compute.kernel;
    let width = gamma.len();
    compute.pool.rows(out, width, |t, row| {
        row.copy_from_slice(&x[t * width..][..width]);
        vectorize!(kernel, rms_norm(row, gamma, config.rms_eps));
    });
}

/// `x += y`, rows of `width`.
fn add(compute: &Compute, x: &mut [f32], y: &[f32], width: usize) {
    let kernel = compute.kernel;
    compute.pool.rows(x, width, |t, row| {
        vectorize!(kernel, {
            for (x, y) in row.iter_mut().zip(&y[t * width..]) {
                *x += y;
            }
        });
    });
}
