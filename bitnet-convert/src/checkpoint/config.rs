//! What `config.json` says of a model, as keys of GGUF.

use std::path::Path;

use bitnet_model::gguf::Metadata;
use bitnet_model::{Activation, Architecture, Error};

use super::json::Json;

/// How the matrices of the layers are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Matrices {
    /// As they are.
    Plain,
    /// Their codes are multiplied by `weight_scale`; where there is none, they are master weights, made ternary by the mean of
    /// their magnitudes (`AutoBitLinear` of transformers, `BitLinear` of 1bitLLM's models).
    Multiplied,
    /// The product is divided by `weight_scale` (`BitLinear` of transformers).
    Divided,
}

/// What a checkpoint is.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) architecture: Architecture,
    pub(super) matrices: Matrices,
    pub(super) n_head: u32,
    pub(super) n_head_kv: u32,
    pub(super) head_dim: u32,
    pub(super) tied: bool,
    json: Json,
}

impl Config {
    /// # Errors
    /// The message names the key that is missing, or what it asks for that cannot be converted.
    pub(super) fn read(folder: &Path) -> Result<Config, Error> {
        let json = Json::read(&folder.join("config.json"))?;
        let refuse = |what: String| Error::unsupported(json.path(), what);
        let names = json.get("architectures").and_then(|names| names.as_array());
        let name = names.and_then(|names| names.first()?.as_str());
        let Some(name) = name else {
            return Err(json.missing("architectures"));
        };
        let (architecture, always_ternary) = match name {
            "BitNetForCausalLM" => (Architecture::BitnetB158, false),
            // Its layers quantise weights whenever they are used.
            "BitnetForCausalLM" => (Architecture::Bitnet, true),
            "LlamaForCausalLM" | "MistralForCausalLM" => (Architecture::Llama, false),
            "Qwen3ForCausalLM" => (Architecture::Qwen3, false),
            other => {
                let what = format!(
                    "architecture {other:?} is not supported (BitNetForCausalLM, BitnetForCausalLM, LlamaForCausalLM, \
                     MistralForCausalLM and Qwen3ForCausalLM are)"
                );
                return Err(refuse(what));
            }
        };
        let matrices = match json.inner("quantization_config")? {
            None if always_ternary => Matrices::Multiplied,
            None => Matrices::Plain,
            Some(quantization) => {
                let method = quantization.optional_str("quant_method")?.unwrap_or("none");
                if method != "bitnet" {
                    return Err(refuse(format!(
                        "quantization_config.quant_method {method:?} is not supported"
                    )));
                }
                match quantization
                    .optional_str("linear_class")?
                    .unwrap_or("bitlinear")
                {
                    "autobitlinear" => Matrices::Multiplied,
                    "bitlinear" => Matrices::Divided,
                    other => {
                        return Err(refuse(format!(
                            "quantization_config.linear_class {other:?} is not supported"
                        )));
                    }
                }
            }
        };
        let n_head = json.u32("num_attention_heads")?;
        let n_embd = json.u32("hidden_size")?;
        let head_dim = match json.optional_u32("head_dim")? {
            Some(dim) => dim,
            None if n_head > 0 && n_embd.is_multiple_of(n_head) => n_embd / n_head,
            None => {
                return Err(Error::bad_file(
                    json.path(),
                    format!("{n_head} heads do not divide {n_embd} values"),
                ));
            }
        };
        Ok(Config {
            architecture,
            matrices,
            n_head,
            n_head_kv: json.optional_u32("num_key_value_heads")?.unwrap_or(n_head),
            head_dim,
            // As transformers has it where a file does not say.
            tied: json.optional_bool("tie_word_embeddings")?.unwrap_or(false),
            json,
        })
    }

    /// Whether rows of queries and keys change places: llama.cpp rotates neighbours in `llama`, Hugging Face halves.
    pub(super) fn interleaves(&self) -> bool {
        self.architecture == Architecture::Llama
    }

    /// Writes the keys of the model's shape.
    ///
    /// # Errors
    /// A key is missing, or asks for what cannot be converted.
    pub(super) fn write(&self, name: &str, metadata: &mut Metadata) -> Result<(), Error> {
        let json = &self.json;
        let refuse = |what: String| Error::unsupported(json.path(), what);
        let arch = self.architecture.name();
        metadata.insert("general.architecture", arch)?;
        metadata.insert("general.name", name)?;
        let mut set = |key: &str, value: u32| metadata.insert(&format!("{arch}.{key}"), value);
        set("vocab_size", json.u32("vocab_size")?)?;
        set("context_length", json.u32("max_position_embeddings")?)?;
        set("embedding_length", json.u32("hidden_size")?)?;
        set("block_count", json.u32("num_hidden_layers")?)?;
        set("feed_forward_length", json.u32("intermediate_size")?)?;
        set("rope.dimension_count", self.head_dim)?;
        set("attention.head_count", self.n_head)?;
        set("attention.head_count_kv", self.n_head_kv)?;
        if json.u32("hidden_size")? != self.n_head * self.head_dim {
            set("attention.key_length", self.head_dim)?;
            set("attention.value_length", self.head_dim)?;
        }
        let eps = json
            .optional_f32("rms_norm_eps")?
            .ok_or_else(|| json.missing("rms_norm_eps"))?;
        metadata.insert(&format!("{arch}.attention.layer_norm_rms_epsilon"), eps)?;
        let act = json
            .optional_str("hidden_act")?
            .ok_or_else(|| json.missing("hidden_act"))?;
        let Some(activation) = Activation::named(act) else {
            return Err(refuse(format!("hidden_act {act:?} is not supported")));
        };
        metadata.insert(&format!("{arch}.hidden_activation"), activation.name())?;
        self.write_rope(metadata)
    }

    /// The base and the scaling, which newer files have in one object.
    fn write_rope(&self, metadata: &mut Metadata) -> Result<(), Error> {
        let json = &self.json;
        let arch = self.architecture.name();
        let parameters = json.inner("rope_parameters")?;
        let scaling = match json.inner("rope_scaling")? {
            None => parameters.clone(),
            scaling => scaling,
        };
        let of_parameters = parameters
            .map(|p| p.optional_f32("rope_theta"))
            .transpose()?;
        let base = json.optional_f32("rope_theta")?.or(of_parameters.flatten());
        // As transformers has it where a file does not say.
        let default = match self.architecture {
            Architecture::BitnetB158 => 500_000.0,
            _ => 10_000.0,
        };
        metadata.insert(&format!("{arch}.rope.freq_base"), base.unwrap_or(default))?;
        let Some(scaling) = scaling else {
            return Ok(());
        };
        let kind = scaling.optional_str("rope_type")?;
        let kind = kind.or(scaling.optional_str("type")?).unwrap_or("default");
        let key = |key: &str| format!("{arch}.rope.scaling.{key}");
        let factor = scaling.optional_f32("factor")?;
        match kind {
            "default" => Ok(()),
            "linear" | "yarn" => {
                let factor = factor.ok_or_else(|| scaling.missing("factor"))?;
                metadata.insert(&key("type"), kind)?;
                metadata.insert(&key("factor"), factor)?;
                match scaling.optional_u32("original_max_position_embeddings")? {
                    Some(n) => metadata.insert(&key("original_context_length"), n),
                    None => Ok(()),
                }
            }
            other => Err(Error::unsupported(
                json.path(),
                format!("RoPE scaling {other:?} is not supported"),
            )),
        }
    }

    /// The ID of a special token, of which there may be several: the first counts.
    ///
    /// # Errors
    /// It is no ID.
    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, Error> {
        let first = self.json.get(key).and_then(|ids| ids.as_array()?.first());
        match first.and_then(|id| id.as_u64()?.try_into().ok()) {
            Some(id) => Ok(Some(id)),
            None => self.json.optional_u32(key),
        }
    }
}
