//! What a model's metadata says of its shape.

use bitnet_model::Activation;
use bitnet_model::gguf::Gguf;
use bitnet_model::tap::Tap;

use super::OracleError;
use super::maths::Rope;
use super::weights::vector;

/// How a model family computes, beyond what its files say.
struct Family {
    /// `general.architecture`.
    name: &'static str,
    /// ReLU² on the gate where the file names no function; else SiLU.
    relu2: bool,
    /// Norms that not every model has.
    norms: &'static [Tap],
    /// Rotation pairs the halves of a head; else neighbours.
    split_halves: bool,
}

/// Norms before the output and down projections.
const SUB_NORMS: &[Tap] = &[Tap::AttnSubNorm, Tap::FfnSubNorm];

const FAMILIES: [Family; 5] = [
    Family {
        name: "bitnet",
        relu2: false,
        norms: SUB_NORMS,
        split_halves: true,
    },
    Family {
        name: "bitnet-25",
        relu2: true,
        norms: SUB_NORMS,
        split_halves: true,
    },
    Family {
        name: "bitnet-b1.58",
        relu2: true,
        norms: SUB_NORMS,
        split_halves: true,
    },
    Family {
        name: "llama",
        relu2: false,
        norms: &[],
        split_halves: false,
    },
    Family {
        name: "qwen3",
        relu2: false,
        norms: &[Tap::QNorm, Tap::KNorm],
        split_halves: true,
    },
];

/// The architectures that the oracle knows.
pub fn architectures() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().map(|family| family.name)
}

/// The hyperparameters, read from the metadata.
#[derive(Clone, Debug)]
pub struct Hyperparameters {
    /// `general.architecture`.
    pub architecture: String,
    /// Layers.
    pub n_layer: usize,
    /// Width of the residual stream.
    pub n_embd: usize,
    /// Width of the feed-forward network.
    pub n_ff: usize,
    /// Query heads.
    pub n_head: usize,
    /// Key/value heads.
    pub n_head_kv: usize,
    /// Values per head.
    pub head_dim: usize,
    /// Context of the training, tokens.
    pub n_ctx_train: usize,
    /// Added to the mean square in norms.
    pub eps: f64,
    /// ReLU² on the gate; else SiLU.
    pub relu2: bool,
    /// Norms that not every model has, of those that this one has.
    pub norms: &'static [Tap],
    /// Rotation of queries and keys.
    pub rope: Rope,
}

impl Hyperparameters {
    /// With `activation` in place of the file's, if there is one.
    pub(super) fn read(
        gguf: &Gguf,
        activation: Option<Activation>,
    ) -> Result<Hyperparameters, OracleError> {
        let metadata = gguf.metadata();
        let architecture = metadata.str("general.architecture")?.to_owned();
        let family = FAMILIES.iter().find(|family| family.name == architecture);
        let family = family.ok_or_else(|| {
            let what = format!("architecture {architecture:?} is not known to the oracle");
            OracleError::new(gguf, what)
        })?;
        let key = |name: &str| format!("{architecture}.{name}");
        let size = |name: &str| Ok::<_, OracleError>(metadata.u32(&key(name))? as usize);
        let optional = |name: &str| -> Result<Option<usize>, OracleError> {
            Ok(metadata.optional::<u32>(&key(name))?.map(|n| n as usize))
        };
        let factor = |name: &str| -> Result<Option<f64>, OracleError> {
            Ok(metadata.optional::<f32>(&key(name))?.map(f64::from))
        };
        let (n_embd, n_head) = (
            size("embedding_length")?,
            size("attention.head_count")?.max(1),
        );
        let n_head_kv = optional("attention.head_count_kv")?
            .unwrap_or(n_head)
            .max(1);
        let head_dim = optional("attention.key_length")?.unwrap_or(n_embd / n_head);
        let scaling: Option<&str> = metadata.optional(&key("rope.scaling.type"))?;
        let stretch = match factor("rope.scaling.factor")? {
            Some(stretch) => Some(stretch),
            None => factor("rope.scale_linear")?,
        };
        let yarn = match scaling {
            Some("yarn") => {
                let context = optional("rope.scaling.original_context_length")?;
                let context = context.filter(|&tokens| tokens > 0);
                Some(match context {
                    Some(context) => context as f64,
                    None => size("context_length")? as f64,
                })
            }
            _ => None,
        };
        let rope = Rope {
            head_dim,
            dims: optional("rope.dimension_count")?.unwrap_or(head_dim),
            split_halves: family.split_halves,
            base: factor("rope.freq_base")?.unwrap_or(1e4),
            scale: match stretch {
                Some(stretch) if stretch != 0.0 && scaling != Some("none") => 1.0 / stretch,
                _ => 1.0,
            },
            factors: vector(gguf, "rope_freqs.weight")?,
            yarn,
            magnitude: factor("rope.scaling.attn_factor")?.unwrap_or(1.0),
        };
        let pairs = rope.dims / 2;
        let fits = head_dim > 0
            && n_head.is_multiple_of(n_head_kv)
            && rope.dims <= head_dim
            && rope.factors.as_ref().is_none_or(|f| f.len() >= pairs);
        if !fits {
            return Err(OracleError::new(
                gguf,
                "heads and rotation do not fit together",
            ));
        }
        Ok(Hyperparameters {
            n_layer: size("block_count")?,
            n_embd,
            n_ff: size("feed_forward_length")?,
            n_head,
            n_head_kv,
            head_dim,
            n_ctx_train: size("context_length")?,
            eps: f64::from(metadata.f32(&key("attention.layer_norm_rms_epsilon"))?),
            relu2: match activation {
                Some(given) => given == Activation::Relu2,
                None => relu2(gguf, &key("hidden_activation"))?.unwrap_or(family.relu2),
            },
            norms: family.norms,
            rope,
            architecture,
        })
    }
}

/// Whether the function that a file names is ReLU², and not SiLU; `None` if it names none.
fn relu2(gguf: &Gguf, key: &str) -> Result<Option<bool>, OracleError> {
    match gguf.metadata().optional(key)? {
        None => Ok(None),
        Some("relu2" | "relu_squared") => Ok(Some(true)),
        Some("silu" | "swish" | "swiglu") => Ok(Some(false)),
        Some(other) => {
            let what = format!("{key}: {other:?} is not known to the oracle");
            Err(OracleError::new(gguf, what))
        }
    }
}
