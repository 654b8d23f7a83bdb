//! Causal attention over the F16 cache.

use bitnet_model::Hyperparameters;
use half::f16;
use half::slice::HalfFloatSliceExt;

use crate::kernels::elementwise::softmax;
use crate::kernels::{Float, Kernel, Rows, vectorize};
use crate::pool::Pool;

/// A thread's room for the rounded queries and the scores of the heads that share a key.
#[derive(Default)]
pub(super) struct Scratch {
    q: Vec<f32>,
    scores: Vec<f32>,
}

impl Scratch {
    /// Room for `n_ctx` positions, so that nothing is allocated while tokens flow.
    pub(super) fn reserve(&mut self, config: &Hyperparameters, n_ctx: usize) {
        self.q.reserve(config.group() * config.head_dim);
        self.scores.reserve(config.group() * n_ctx);
    }
}

/// The queries of an evaluation and the keys and values that they meet.
pub(super) struct Attention<'a> {
    pub config: &'a Hyperparameters,
    pub kernel: Kernel,
    /// Position of the first query.
    pub first: usize,
    /// `[n_tokens][n_head * head_dim]`, after RoPE.
    pub q: &'a [f32],
    /// `[positions][n_head_kv * head_dim]`.
    pub k: &'a [f16],
    /// As `k`.
    pub v: &'a [f16],
}

impl Attention<'_> {
    fn n_tokens(&self) -> usize {
        self.q.len() / self.config.q_dim()
    }

    /// The rows of `cache` that belong to the key/value head of query head `head`, up to position `n`.
    fn rows<'a>(&self, cache: &'a [f16], head: usize, n: usize) -> Rows<'a> {
        let head_dim = self.config.head_dim;
        let start = head / self.config.group() * head_dim;
        Rows {
            data: bytemuck::cast_slice(&cache[start..]),
            stride: self.config.kv_dim() * 2,
            n,
            columns: head_dim,
        }
    }

    /// Probabilities of `heads` heads from `head` (with one key/value head) for token `t`:
    /// `out` is `[heads][first + t + 1]`. The query is rounded to F16, as K is.
    fn probabilities(
        &self,
        t: usize,
        head: usize,
        heads: usize,
        q: &mut Vec<f32>,
        out: &mut [f32],
    ) {
        let Hyperparameters { head_dim, .. } = *self.config;
        let n = self.first + t + 1;
        let source = &self.q[t * self.config.q_dim() + head * head_dim..][..heads * head_dim];
        q.resize(source.len(), 0.0);
        let mut rounded = [f16::ZERO; 128];
        for (q, v) in q.chunks_mut(128).zip(source.chunks(128)) {
            let rounded = &mut rounded[..v.len()];
            rounded.convert_from_f32_slice(v);
            rounded.convert_to_f32_slice(q);
        }
        self.kernel
            .float_dots(Float::F16, self.rows(self.k, head, n), q, out);
        for scores in out.chunks_exact_mut(n) {
            vectorize!(self.kernel, softmax(scores, 1.0 / (head_dim as f32).sqrt()));
        }
    }

    /// `out` is `[n_tokens][n_head * head_dim]`.
    pub(super) fn run(&self, pool: &Pool, scratch: &mut [Scratch], out: &mut [f32]) {
        let Hyperparameters {
            n_head, head_dim, ..
        } = *self.config;
        // Heads with a common key share its conversion, unless there would be too little to share out.
        let groups = self.n_tokens() * self.config.n_head_kv;
        let heads = match groups >= 4 * pool.threads() {
            true => self.config.group(),
            false => 1,
        };
        pool.rows_with(out, heads * head_dim, scratch, |scratch, item, out| {
            let (t, head) = (item * heads / n_head, item * heads % n_head);
            let n = self.first + t + 1;
            scratch.scores.resize(heads * n, 0.0);
            let scores = &mut scratch.scores[..];
            self.probabilities(t, head, heads, &mut scratch.q, scores);
            let v = self.rows(self.v, head, n);
            self.kernel.f16_weighted_sums(v, scores, out);
        });
    }

    /// All probabilities: `out` is `[n_tokens][n_head][first + n_tokens]`, masked entries 0.
    pub(super) fn all_probabilities(&self, pool: &Pool, scratch: &mut [Scratch], out: &mut [f32]) {
        let n_head = self.config.n_head;
        let n_kv = self.first + self.n_tokens();
        pool.rows_with(out, n_kv, scratch, |scratch, item, out| {
            let (t, head) = (item / n_head, item % n_head);
            let (seen, masked) = out.split_at_mut(self.first + t + 1);
            self.probabilities(t, head, 1, &mut scratch.q, seen);
            masked.fill(0.0);
        });
    }

    /// The same outputs as [`run`](Self::run), from given probabilities.
    pub(super) fn apply(&self, pool: &Pool, probabilities: &[f32], out: &mut [f32]) {
        let Hyperparameters {
            n_head, head_dim, ..
        } = *self.config;
        let n_kv = self.first + self.n_tokens();
        pool.rows(out, head_dim, |item, out| {
            let (t, head) = (item / n_head, item % n_head);
            let p = &probabilities[item * n_kv..][..n_kv];
            // Masked positions count only if an observer gave them weight.
            let last = p.iter().rposition(|&p| p != 0.0).unwrap_or(0);
            let n = (last + 1).max(self.first + t + 1);
            let v = self.rows(self.v, head, n);
            self.kernel.f16_weighted_sums(v, &p[..n], out);
        });
    }
}
