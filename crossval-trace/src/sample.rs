//! A small trace, for tests: what it holds is made up, its form is right.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use bitnet_model::tap::Tap;
use crossval_protocol::{Hello, ModelFacts};
use safetensors::tensor::{Dtype, TensorView, serialize};

use super::{PromptInfo, RecordedNoise, TraceInfo};

/// Size of the vocabulary.
pub const N_VOCAB: usize = 7;
/// Its prompt.
pub const PROMPT: [u32; 6] = [1, 5, 2, 6, 0, 3];
/// Tokens generated from it.
pub const GENERATED: [u32; 3] = [4, 4, 1];
/// Decode steps.
pub const STEPS: usize = 2;
/// Positions of the prompt and its steps.
pub const POSITIONS: usize = PROMPT.len() + STEPS;
/// Taps recorded.
pub const TAPS: [Tap; 4] = [Tap::Embd, Tap::KCache, Tap::AttnProbs, Tap::Logits];

/// Tensors by name: type, shape, bytes.
pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Where it comes from.
pub fn info() -> TraceInfo {
    TraceInfo {
        created: "2026-01-02T03:04:05Z".into(),
        command: vec!["crossval".into(), "record".into()],
        engine: "bitnet.cpp".into(),
        hello: Hello {
            // An older trace is a trace still: a worker's version is no part of what it holds.
            protocol: 1,
            engine: "bitnet.cpp".into(),
            version: Some("r1".into()),
            build: BTreeMap::new(),
            architectures: vec!["bitnet".into()],
            taps: Tap::ALL.to_vec(),
            overwrite: false,
            dtypes: Vec::new(),
            tokenizer: true,
            judges: false,
            graphs: false,
        },
        settings: [("threads".to_owned(), "1".to_owned())].into(),
        model_path: "m.gguf".into(),
        model_size_bytes: 12,
        model_sha256: "0f".repeat(32),
        model_facts: ModelFacts {
            architecture: "bitnet".into(),
            name: None,
            n_layer: 2,
            n_embd: 3,
            n_ff: 4,
            n_head: 2,
            n_head_kv: 1,
            head_dim: None,
            n_vocab: N_VOCAB,
            n_ctx_train: 64,
            activation: None,
            taps: TAPS.to_vec(),
            tensor_types: BTreeMap::new(),
            weight_types: BTreeMap::new(),
            vocab: None,
            work: None,
        },
        n_ubatch: 4,
        n_predict: 3,
        tokenizer: Some("bitnet.cpp".into()),
        prompts: vec![PromptInfo {
            text: Some("a \"prompt\"\n".into()),
            rendered: None,
            source: "--prompt".into(),
            noise: vec![RecordedNoise {
                varied: "threads 1 and 2".into(),
                nmse: [(Tap::Embd, Some(0.1 + 0.2)), (Tap::Logits, None)].into(),
            }],
            generation_noise: vec![Some(1.1e-7), None, Some(0.0)],
        }],
        not_repeatable: Vec::new(),
        environment: [("os".to_owned(), "os".into())].into_iter().collect(),
    }
}

/// What it holds.
pub fn tensors() -> Tensors {
    let mut tensors = Tensors::new();
    let mut add = |name: &str, dtype: Dtype, shape: &[usize]| {
        let n: usize = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        let salt = name.len();
        let bytes = (0..n).map(|i| (i * 31 + salt) as u8).collect();
        tensors.insert(name.to_owned(), (dtype, shape.to_vec(), bytes));
    };
    add("prompt0.generated_logits", Dtype::F32, &[3, N_VOCAB]);
    add("prompt0.embd", Dtype::F32, &[POSITIONS, 3]);
    add("prompt0.logits", Dtype::F32, &[POSITIONS, N_VOCAB]);
    for layer in 0..2 {
        let name = |tap: &str| format!("prompt0.layer0{layer}.{tap}");
        add(&name("k_cache"), Dtype::F16, &[POSITIONS, 5]);
        add(&name("attn_probs"), Dtype::F32, &[POSITIONS, 2, POSITIONS]);
    }
    for (name, ids) in [
        ("tokens", &PROMPT[..]),
        ("decode_tokens", &GENERATED[..STEPS]),
        ("generated", &GENERATED),
    ] {
        let bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        tensors.insert(
            format!("prompt0.{name}"),
            (Dtype::U32, vec![ids.len()], bytes),
        );
    }
    tensors
}

/// A file of them.
pub fn bytes_of(tensors: &Tensors, metadata: HashMap<String, String>) -> Vec<u8> {
    let views = tensors.iter().map(|(name, (dtype, shape, bytes))| {
        (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap())
    });
    serialize(views, Some(metadata)).unwrap()
}

/// As a file in a folder.
pub fn write(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("run.safetensors");
    std::fs::write(&path, bytes).unwrap();
    path
}

/// A trace of one prompt, evaluated in batches of 4.
pub fn sample(folder: &Path) -> PathBuf {
    write(folder, &bytes_of(&tensors(), info().to_metadata().unwrap()))
}
