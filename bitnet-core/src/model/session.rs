//! A sequence of tokens being evaluated: its cache, its threads and its buffers.

use std::sync::Arc;

use bitnet_model::Hyperparameters;
use half::f16;

use super::Model;
use super::attention;
use super::head::Scores;
use super::linear::{Compute, Encoded};
use super::rope::Rope;
use crate::Error;
use crate::pool::Pool;
use crate::sampling::Sampler;
use crate::tap::Observer;

/// Tokens evaluated at once where no observer asks for more: enough to share every weight, few enough to stay in
/// the caches.
const CHUNK: usize = 128;

/// How a session is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionOptions {
    /// Positions in the KV cache, at least 1.
    pub n_ctx: usize,
    /// Threads, the caller's included, at least 1.
    pub threads: usize,
}

/// Which tokens' logits are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Logits {
    /// None.
    None,
    /// The last token's.
    Last,
    /// Every token's.
    All,
}

/// What an evaluation ends with.
#[derive(Clone, Copy)]
pub(super) enum Output {
    /// Logits of these tokens.
    Logits(Logits),
    /// The `k` most likely tokens that follow the last, in the scores if a compact head can tell them, else the last
    /// token's logits.
    Top(usize),
}

impl Output {
    /// The tokens that an output is computed for.
    pub(super) fn rows(self) -> Logits {
        match self {
            Output::Logits(logits) => logits,
            Output::Top(_) => Logits::Last,
        }
    }
}

/// How tokens were found; see [`Session::next_token`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadUse {
    /// Tokens drawn.
    pub tokens: u64,
    /// Of these, by the compact head; the rest by all logits.
    pub certified: u64,
    /// Logits that the compact head left to be computed, over all tokens.
    pub exact_rows: u64,
}

/// A pool of `threads` threads.
pub(super) fn start_threads(threads: usize) -> Result<Pool, Error> {
    Pool::new(threads).map_err(|e| Error::usage(format!("cannot start {threads} threads: {e}")))
}

/// Keys and values of one layer, `[positions][n_head_kv * head_dim]` each.
#[derive(Default)]
pub(super) struct LayerCache {
    pub k: Vec<f16>,
    pub v: Vec<f16>,
}

/// Activations, each `[n_tokens][width]`. They grow with the largest batch and are used again.
#[derive(Default)]
pub(super) struct Buffers {
    /// Residual stream.
    pub x: Vec<f32>,
    /// Normed residual stream, then a projection that is added to it.
    pub h: Vec<f32>,
    pub q: Vec<f32>,
    pub k: Vec<f32>,
    pub v: Vec<f32>,
    pub attn: Vec<f32>,
    pub gate: Vec<f32>,
    pub up: Vec<f32>,
    /// `[n_tokens][n_head][n_kv]`, with an observer only.
    pub probabilities: Vec<f32>,
    pub encoded: Encoded,
    pub rope: Rope,
}

/// One sequence of tokens on one model.
pub struct Session {
    pub(super) model: Arc<Model>,
    pub(super) pool: Pool,
    pub(super) n_ctx: usize,
    pub(super) position: usize,
    pub(super) cache: Vec<LayerCache>,
    pub(super) buffers: Buffers,
    /// One per thread.
    pub(super) scratch: Vec<attention::Scratch>,
    pub(super) logits: Vec<f32>,
    pub(super) scores: Scores,
    pub(super) head_use: HeadUse,
}

impl Session {
    /// An empty sequence.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if an option is 0, the cache does not fit into memory, or the threads
    /// cannot be started.
    pub fn new(model: Arc<Model>, options: SessionOptions) -> Result<Session, Error> {
        let SessionOptions { n_ctx, threads } = options;
        if n_ctx == 0 || threads == 0 {
            return Err(Error::usage("n_ctx and threads must be at least 1"));
        }
        let no_room = || Error::usage(format!("no memory for a context of {n_ctx} tokens"));
        let config = model.hyperparameters();
        let len = n_ctx.checked_mul(config.kv_dim()).ok_or_else(no_room)?;
        // Reserved, not written: memory is used as the sequence grows.
        let mut cache = Vec::new();
        for _ in 0..config.n_layer {
            let mut layer = LayerCache::default();
            layer.k.try_reserve_exact(len).map_err(|_| no_room())?;
            layer.v.try_reserve_exact(len).map_err(|_| no_room())?;
            cache.push(layer);
        }
        let pool = start_threads(threads)?;
        let mut scratch = Vec::new();
        for _ in 0..threads {
            let mut one = attention::Scratch::default();
            one.reserve(config, n_ctx);
            scratch.push(one);
        }
        Ok(Session {
            pool,
            n_ctx,
            position: 0,
            cache,
            buffers: Buffers::default(),
            scratch,
            logits: Vec::new(),
            scores: Scores::default(),
            head_use: HeadUse::default(),
            model,
        })
    }

    /// The model.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens evaluated so far: the position of the next one.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Positions in the KV cache.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.truncate(0);
    }

    /// Forgets all but the first `n` tokens.
    pub fn truncate(&mut self, n: usize) {
        self.position = self.position.min(n);
    }

    /// Evaluates `tokens` at the current position and returns `n_vocab` logits per token asked for, in order.
    /// The results are the same bits however the sequence is split into calls and whatever the thread count.
    ///
    /// An observer sees every tap once, with the rows of all `tokens` ([`Logits`](crate::tap::Tap::Logits): those
    /// asked for), and what it leaves there is what the evaluation goes on with.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if a token is not in the vocabulary or the context is too short,
    /// [`Observer`](crate::ErrorKind::Observer) if the observer stops. The position then stays where it was.
    pub fn eval(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        observer: Option<&mut dyn Observer>,
    ) -> Result<&[f32], Error> {
        self.eval_to(tokens, Output::Logits(logits), observer)?;
        Ok(&self.logits)
    }

    /// Evaluates `tokens` and draws the one that follows them: the one that `sampler` would draw from
    /// [`Logits::Last`]. With a [compact head](Model::build_compact_head), and a sampler that looks at the 64 most
    /// likely tokens at most, it is found without computing all logits.
    ///
    /// # Errors
    /// As [`eval`](Self::eval); no tokens are a [`Usage`](crate::ErrorKind::Usage) error.
    pub fn next_token(&mut self, tokens: &[u32], sampler: &mut Sampler) -> Result<u32, Error> {
        if tokens.is_empty() {
            return Err(Error::usage("generation needs a prompt"));
        }
        let k = sampler.reach().unwrap_or(usize::MAX);
        self.eval_to(tokens, Output::Top(k), None)?;
        if !self.logits.is_empty() {
            return Ok(sampler.sample(&self.logits));
        }
        let Scores {
            candidates, logits, ..
        } = &self.scores;
        Ok(sampler.sample_from(candidates.iter().copied().zip(logits.iter().copied())))
    }

    /// How the tokens of [`next_token`](Self::next_token) were found so far.
    pub fn head_use(&self) -> HeadUse {
        self.head_use
    }

    fn eval_to(
        &mut self,
        tokens: &[u32],
        output: Output,
        mut observer: Option<&mut dyn Observer>,
    ) -> Result<(), Error> {
        let n_vocab = self.model.hyperparameters().n_vocab;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= n_vocab) {
            let what = format!("token {token} is not in the vocabulary of {n_vocab}");
            return Err(Error::usage(what));
        }
        let start = self.position;
        if tokens.len() > self.n_ctx - start {
            let (n, n_ctx) = (tokens.len(), self.n_ctx);
            let what = format!("{n} tokens at position {start} exceed the context of {n_ctx}");
            return Err(Error::usage(what));
        }
        self.logits.clear();
        let chunk = match observer {
            Some(_) => tokens.len().max(1),
            None => CHUNK,
        };
        let last = tokens.len().div_ceil(chunk).saturating_sub(1);
        for (i, tokens) in tokens.chunks(chunk).enumerate() {
            let wanted = match output {
                Output::Logits(Logits::Last) | Output::Top(_) if i < last => {
                    Output::Logits(Logits::None)
                }
                wanted => wanted,
            };
            // Spelled out, since `as_deref_mut` keeps the outer lifetime of the trait object.
            let result = match &mut observer {
                Some(observer) => self.forward(tokens, wanted, Some(&mut **observer)),
                None => self.forward(tokens, wanted, None),
            };
            if let Err(error) = result {
                self.position = start;
                return Err(error);
            }
            self.position += tokens.len();
        }
        Ok(())
    }

    /// Evaluates `prompt` and then, token by token, what `sampler` draws. The iterator does not end by itself:
    /// when the context is full it yields the error. The last token it yielded is not yet evaluated.
    ///
    /// # Errors
    /// Those of [`eval`](Self::eval); the iterator ends after one. An empty prompt is a
    /// [`Usage`](crate::ErrorKind::Usage) error.
    pub fn generate<'a>(&'a mut self, prompt: &[u32], sampler: Sampler) -> Generate<'a> {
        Generate {
            session: self,
            pending: prompt.to_vec(),
            sampler,
            failed: false,
        }
    }
}

impl Buffers {
    /// Room for `n` tokens.
    pub(super) fn resize(&mut self, config: &Hyperparameters, n: usize) {
        let Hyperparameters { n_embd, n_ff, .. } = *config;
        for (buffer, width) in [
            (&mut self.x, n_embd),
            (&mut self.h, n_embd),
            (&mut self.q, config.q_dim()),
            (&mut self.k, config.kv_dim()),
            (&mut self.v, config.kv_dim()),
            (&mut self.attn, config.q_dim()),
            (&mut self.gate, n_ff),
            (&mut self.up, n_ff),
        ] {
            buffer.resize(n * width, 0.0);
        }
    }
}

impl Model {
    pub(super) fn compute<'a>(&'a self, pool: &'a Pool) -> Compute<'a> {
        Compute {
            gguf: &self.gguf,
            kernel: self.kernel,
            pool,
            trits: None,
        }
    }
}

/// Tokens as they are generated; see [`Session::generate`].
pub struct Generate<'a> {
    session: &'a mut Session,
    /// Not yet evaluated.
    pending: Vec<u32>,
    sampler: Sampler,
    failed: bool,
}

impl Iterator for Generate<'_> {
    type Item = Result<u32, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        match self.session.next_token(&self.pending, &mut self.sampler) {
            Ok(token) => {
                self.pending.clear();
                self.pending.push(token);
                Some(Ok(token))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}
