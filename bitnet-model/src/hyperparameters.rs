//! What a model file says about its shape.

use serde::{Deserialize, Serialize};

use crate::activation::{Activation, Chosen};
use crate::architecture::Architecture;
use crate::error::Error;
use crate::foreign_keys;
use crate::gguf::{FromValue, Gguf, StringArray};
use crate::tap::{Tap, Width};

/// What a file says of its model's shape and of the constants in its computation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hyperparameters {
    /// Model family.
    pub architecture: Architecture,
    /// Layers.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads, a divisor of `n_head`.
    pub n_head_kv: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Vocabulary size.
    pub n_vocab: usize,
    /// Context length of the training, tokens.
    pub n_ctx_train: usize,
    /// Leading values of a head that rotate; even.
    pub rope_dim: usize,
    /// Base of the rotation frequencies.
    pub rope_base: f32,
    /// Factor on the angles (RoPE scaling, 1 without).
    pub rope_scale: f32,
    /// Positions that YaRN extends, whose factor is on the slow pairs alone; `None` for a factor on every angle.
    pub yarn_ctx: Option<usize>,
    /// Factor on what has rotated, beside that of YaRN.
    pub rope_magnitude: f32,
    /// Added to the mean square in RMS norms.
    pub rms_eps: f32,
    /// Function on the gate of the feed-forward network.
    pub activation: Chosen,
    /// The output head is the token embedding.
    pub tied_output: bool,
}

impl Hyperparameters {
    /// Values per token of all query heads.
    pub fn q_dim(&self) -> usize {
        self.n_head * self.head_dim
    }

    /// Values per token of all key (or value) heads.
    pub fn kv_dim(&self) -> usize {
        self.n_head_kv * self.head_dim
    }

    /// Query heads per key/value head.
    pub fn group(&self) -> usize {
        self.n_head / self.n_head_kv
    }

    /// Values in a row of a tap, in a batch after which `n_kv` positions are in the cache.
    pub fn width(&self, tap: Tap, n_kv: usize) -> usize {
        match tap.width() {
            Width::Embd => self.n_embd,
            Width::Heads => self.q_dim(),
            Width::KvHeads => self.kv_dim(),
            Width::Probabilities => self.n_head * n_kv,
            Width::Ff => self.n_ff,
            Width::Vocab => self.n_vocab,
        }
    }

    /// Reads the metadata; the defaults are llama.cpp's.
    ///
    /// # Errors
    /// As [`read_as`](Self::read_as).
    pub fn read(gguf: &Gguf) -> Result<Hyperparameters, Error> {
        Hyperparameters::read_as(gguf, None)
    }

    /// As [`read`](Self::read), with an activation in place of the file's.
    ///
    /// # Errors
    /// The message names the file and the key: [`Unsupported`](crate::ErrorKind::Unsupported) for an unknown
    /// architecture or what no engine here has, [`BadFile`](crate::ErrorKind::BadFile) for what is missing or
    /// contradicts itself.
    pub fn read_as(gguf: &Gguf, activation: Option<Activation>) -> Result<Hyperparameters, Error> {
        let metadata = gguf.metadata();
        let name = metadata.str("general.architecture")?;
        let architecture = Architecture::named(name).ok_or_else(|| {
            let known = Architecture::ALL.map(Architecture::name).join(", ");
            let what = format!("unknown architecture {name:?} (known: {known})");
            Error::unsupported(gguf.path(), what)
        })?;
        let keys = Keys { gguf, name };

        let n_embd = keys.size("embedding_length")?;
        let n_head = keys.size("attention.head_count")?;
        let n_head_kv = keys
            .optional_size("attention.head_count_kv")?
            .unwrap_or(n_head);
        if n_head % n_head_kv != 0 {
            let what = format!("{n_head} heads cannot share {n_head_kv} key/value heads");
            return Err(Error::bad_file(gguf.path(), what));
        }
        let head_dim = match keys.optional_size("attention.key_length")? {
            Some(dim) => dim,
            None if n_embd % n_head == 0 => n_embd / n_head,
            None => {
                let what = format!("{n_head} heads do not divide {n_embd} values");
                return Err(Error::bad_file(gguf.path(), what));
            }
        };
        let value_dim = keys.optional_size("attention.value_length")?;
        if value_dim.unwrap_or(head_dim) != head_dim {
            return Err(keys.refuse("attention.value_length", "other than the key length"));
        }
        let rope_dim = keys
            .optional_size("rope.dimension_count")?
            .unwrap_or(head_dim);
        if rope_dim > head_dim || rope_dim % 2 != 0 {
            let what = format!("{name}.rope.dimension_count: {rope_dim} of {head_dim}");
            return Err(Error::bad_file(gguf.path(), what));
        }
        let n_ctx_train = keys.size("context_length")?;
        foreign_keys::refuse(gguf, name, n_ctx_train)?;
        let (rope_scale, yarn_ctx) = keys.rope_scaling(n_ctx_train)?;
        let n_vocab = keys.n_vocab()?;

        Ok(Hyperparameters {
            architecture,
            n_layer: keys.size("block_count")?,
            n_embd,
            n_ff: keys.size("feed_forward_length")?,
            n_head,
            n_head_kv,
            head_dim,
            n_vocab,
            n_ctx_train,
            rope_dim,
            rope_base: keys
                .optional_positive("rope.freq_base")?
                .unwrap_or(10_000.0),
            rope_scale,
            yarn_ctx,
            rope_magnitude: keys
                .optional_positive("rope.scaling.attn_factor")?
                .unwrap_or(1.0),
            rms_eps: keys.positive(
                "attention.layer_norm_rms_epsilon",
                metadata.f32(&keys.key("attention.layer_norm_rms_epsilon"))?,
            )?,
            activation: Chosen::of(gguf, name, architecture.activation(), activation)?,
            tied_output: !architecture.may_have_own_head()
                || gguf.tensor("output.weight").is_none(),
        })
    }
}

/// The keys of one architecture.
struct Keys<'a> {
    gguf: &'a Gguf,
    name: &'a str,
}

impl<'a> Keys<'a> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    fn optional<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, Error> {
        self.gguf.metadata().optional(&self.key(key))
    }

    /// A count that must be there and not 0.
    fn size(&self, key: &str) -> Result<usize, Error> {
        let value = self.gguf.metadata().u32(&self.key(key))?;
        self.not_zero(key, value)
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, Error> {
        let value = self.optional(key)?;
        value.map(|value| self.not_zero(key, value)).transpose()
    }

    fn optional_size_or_zero(&self, key: &str) -> Result<u32, Error> {
        Ok(self.optional(key)?.unwrap_or(0))
    }

    fn not_zero(&self, key: &str, value: u32) -> Result<usize, Error> {
        if value == 0 {
            let what = format!("{} is 0", self.key(key));
            return Err(Error::bad_file(self.gguf.path(), what));
        }
        Ok(value as usize)
    }

    fn optional_positive(&self, key: &str) -> Result<Option<f32>, Error> {
        let value = self.optional(key)?;
        value.map(|value| self.positive(key, value)).transpose()
    }

    fn positive(&self, key: &str, value: f32) -> Result<f32, Error> {
        if value > 0.0 && value.is_finite() {
            return Ok(value);
        }
        let what = format!("{} is {value}, not a positive number", self.key(key));
        Err(Error::bad_file(self.gguf.path(), what))
    }

    fn refuse(&self, key: &str, what: &str) -> Error {
        let what = format!("{}: {what} is not supported", self.key(key));
        Error::unsupported(self.gguf.path(), what)
    }

    /// The factor on RoPE angles, and the positions that YaRN extends.
    fn rope_scaling(&self, n_ctx_train: usize) -> Result<(f32, Option<usize>), Error> {
        const TYPE: &str = "rope.scaling.type";
        let kind: &str = self.optional(TYPE)?.unwrap_or("linear");
        let mut key = "rope.scaling.factor";
        let mut factor: Option<f32> = self.optional(key)?;
        if factor.is_none() {
            key = "rope.scale_linear";
            factor = self.optional(key)?;
        }
        let scale = || match factor {
            None | Some(0.0) => Ok(1.0),
            // A subnormal factor has no finite inverse.
            Some(factor) => {
                self.positive(key, factor)?;
                self.positive(key, 1.0 / factor)
            }
        };
        match kind {
            "none" => Ok((1.0, None)),
            "linear" => Ok((scale()?, None)),
            "yarn" => {
                let scale = scale()?;
                // What llama.cpp makes of that has changed.
                if scale > 1.0 {
                    return Err(self.refuse(key, "YaRN by less than 1"));
                }
                let ctx = self.optional_size_or_zero("rope.scaling.original_context_length")?;
                let ctx = if ctx == 0 { n_ctx_train } else { ctx as usize };
                Ok((scale, Some(ctx)))
            }
            other => Err(self.refuse(TYPE, &format!("{other:?}"))),
        }
    }

    /// Tokens in the vocabulary; without one, the key; without that, rows of the embedding.
    fn n_vocab(&self) -> Result<usize, Error> {
        let tokens: Option<&StringArray> =
            self.gguf.metadata().optional("tokenizer.ggml.tokens")?;
        if let Some(tokens) = tokens {
            return Ok(tokens.len());
        }
        if let Some(n) = self.optional_size("vocab_size")? {
            return Ok(n);
        }
        let rows = self
            .gguf
            .tensor("token_embd.weight")
            .and_then(|tensor| tensor.shape.get(1))
            .and_then(|&rows| usize::try_from(rows).ok());
        Ok(rows.unwrap_or(0))
    }
}
