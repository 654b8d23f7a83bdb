//! `__metadata__`: where a trace comes from.

use std::collections::{BTreeMap, HashMap};

use bitnet_model::tap::Tap;
use crossval_protocol::{Hello, ModelFacts};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::FORMAT;

/// Where a trace comes from: the metadata of the file, one key per field.
#[derive(Clone, Debug, PartialEq)]
pub struct TraceInfo {
    /// When it was recorded, RFC 3339, UTC.
    pub created: String,
    /// The command line that recorded it.
    pub command: Vec<String>,
    /// The engine, as given on that command line.
    pub engine: String,
    /// What the engine said of itself.
    pub hello: Hello,
    /// The settings that it ran with.
    pub settings: BTreeMap<String, String>,
    /// Path of the model, as given.
    pub model_path: String,
    /// Size of the model file, bytes.
    pub model_size_bytes: u64,
    /// SHA-256 of the model file, hex.
    pub model_sha256: String,
    /// What the engine said of the model.
    pub model_facts: ModelFacts,
    /// Tokens of a prompt that were evaluated in one batch.
    pub n_ubatch: usize,
    /// Tokens that were to be generated from each prompt.
    pub n_predict: usize,
    /// The engine whose tokenizer made the IDs; null if IDs were given.
    pub tokenizer: Option<String>,
    /// The prompts.
    pub prompts: Vec<PromptInfo>,
    /// Taps in which two runs of the engine differed, by name.
    pub not_repeatable: Vec<String>,
    /// The machine that recorded, and its crossval, as a report's `environment` has them.
    pub environment: Map<String, Value>,
}

/// A prompt, beside its tensors.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PromptInfo {
    /// The text; null if token IDs were given.
    pub text: Option<String>,
    /// The text as the chat template rendered it; null without one.
    #[serde(default)]
    pub rendered: Option<String>,
    /// Where it came from: `--prompt`, `--tokens`, or the file's path.
    pub source: String,
    /// The engine against itself.
    pub noise: Vec<RecordedNoise>,
    /// NMSE of the logits before each generated token: evaluated one by one, and as part of the prompt. Null if not
    /// finite.
    pub generation_noise: Vec<Option<f64>>,
}

/// An engine against itself on one prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordedNoise {
    /// What was varied.
    pub varied: String,
    /// Worst NMSE of a row per tap, each run on its own values; null if not finite.
    pub nmse: BTreeMap<Tap, Option<f64>>,
}

/// A key of the metadata that is missing or makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("metadata key {key:?}: {what}")]
pub struct BadKey {
    /// The key.
    pub key: &'static str,
    /// What is wrong.
    pub what: String,
}

impl TraceInfo {
    /// As it stands in the file.
    ///
    /// # Errors
    /// Never for what a worker sent over the wire.
    pub fn to_metadata(&self) -> Result<HashMap<String, String>, serde_json::Error> {
        fn json(value: &impl Serialize) -> Result<String, serde_json::Error> {
            serde_json::to_string(value)
        }
        let entries = [
            ("format", FORMAT.to_owned()),
            ("created", self.created.clone()),
            ("command", json(&self.command)?),
            ("engine", self.engine.clone()),
            ("hello", json(&self.hello)?),
            ("settings", json(&self.settings)?),
            ("model_path", self.model_path.clone()),
            ("model_size_bytes", json(&self.model_size_bytes)?),
            ("model_sha256", self.model_sha256.clone()),
            ("model_facts", json(&self.model_facts)?),
            ("n_ubatch", json(&self.n_ubatch)?),
            ("n_predict", json(&self.n_predict)?),
            ("tokenizer", json(&self.tokenizer)?),
            ("prompts", json(&self.prompts)?),
            ("not_repeatable", json(&self.not_repeatable)?),
            ("environment", json(&self.environment)?),
        ];
        Ok(entries.map(|(k, v)| (k.to_owned(), v)).into())
    }

    /// Reads what [`TraceInfo::to_metadata`] wrote.
    ///
    /// # Errors
    /// The key that is missing or cannot be read.
    pub fn from_metadata(map: &HashMap<String, String>) -> Result<TraceInfo, BadKey> {
        let text = |key: &'static str| {
            map.get(key).ok_or_else(|| BadKey {
                key,
                what: "is missing".into(),
            })
        };
        fn parse<T: DeserializeOwned>(key: &'static str, json: &str) -> Result<T, BadKey> {
            serde_json::from_str(json).map_err(|e| BadKey {
                key,
                what: e.to_string(),
            })
        }
        macro_rules! json {
            ($key:literal) => {
                parse($key, text($key)?)?
            };
        }
        let format = text("format")?;
        if format != FORMAT {
            return Err(BadKey {
                key: "format",
                what: format!("{format:.60?} is not known, this crossval reads {FORMAT:?}"),
            });
        }
        Ok(TraceInfo {
            created: text("created")?.clone(),
            command: json!("command"),
            engine: text("engine")?.clone(),
            hello: json!("hello"),
            settings: json!("settings"),
            model_path: text("model_path")?.clone(),
            model_size_bytes: json!("model_size_bytes"),
            model_sha256: text("model_sha256")?.clone(),
            model_facts: json!("model_facts"),
            n_ubatch: json!("n_ubatch"),
            n_predict: json!("n_predict"),
            tokenizer: json!("tokenizer"),
            prompts: json!("prompts"),
            not_repeatable: json!("not_repeatable"),
            environment: json!("environment"),
        })
    }
}
