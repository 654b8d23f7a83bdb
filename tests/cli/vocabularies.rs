//! Our tokenizers against BitNet.cpp's, on vocabularies trained for it, under every name and switch that decides.
#![cfg(feature = "reference")]

use std::fs::File;

use bitnet_core::gguf::{Array, Gguf, Metadata, Value, Writer};

use super::*;

/// All pre-tokenizers that both pins know.
const PRE_TOKENIZERS: [&str; 36] = [
    "default",
    "llama3",
    "llama-v3",
    "llama-bpe",
    "dbrx",
    "smaug-bpe",
    "chatglm-bpe",
    "qwen2",
    "stablelm2",
    "gpt-2",
    "phi-2",
    "mpt",
    "olmo",
    "jais",
    "jina-es",
    "jina-de",
    "jina-v1-en",
    "jina-v2-es",
    "jina-v2-de",
    "jina-v2-code",
    "starcoder",
    "refact",
    "command-r",
    "smollm",
    "codeshell",
    "exaone",
    "falcon",
    "falcon3",
    "deepseek-llm",
    "deepseek-coder",
    "bloom",
    "poro-chat",
    "gpt3-finnish",
    "viking",
    "tekken",
    "chameleon",
];

/// A vocabulary of `assets`, with other values for some keys, in `scratch`.
fn variant(scratch: &Scratch, vocabulary: &str, changes: &[(&str, Value)]) -> PathBuf {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let from = Gguf::open(&assets.join(vocabulary)).expect("a vocabulary");
    let to = scratch.path(vocabulary);
    let mut metadata = Metadata::new(&to);
    let unchanged = from.metadata().iter();
    for (key, value) in unchanged.filter(|(key, _)| changes.iter().all(|(other, _)| key != other)) {
        metadata.insert(key, value.clone()).expect("a new key");
    }
    for (key, value) in changes {
        metadata.insert(key, value.clone()).expect("a new key");
    }
    let out = File::create(&to).expect("a file");
    let writer = Writer::new(metadata).expect("a writer").begin(out);
    writer.expect("a head").finish().expect("written");
    to
}

/// Fuzzes both engines on a vocabulary; what they differ on, if anything.
fn differences(model: &Path, reference: &str, strings: u32, seed: u32) -> Option<String> {
    let (strings, seed) = (strings.to_string(), seed.to_string());
    let output = crossval(&[
        "tokenize",
        "--model",
        model.to_str().expect("UTF-8"),
        "--reference",
        reference,
        "--fuzz",
        &strings,
        "--seed",
        &seed,
    ]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (exit_code(&output) != 0).then(|| said.into_owned())
}

#[test]
fn every_pre_tokenizer_splits_alike() {
    for (seed, name) in (0..).zip(PRE_TOKENIZERS.iter().chain(&["falcon_e"])) {
        let scratch = Scratch::new();
        let changes = [("tokenizer.ggml.pre", Value::from(*name))];
        let model = variant(&scratch, "vocab-bpe.gguf", &changes);
        if let Some(said) = differences(&model, "bitnet.cpp", 250, seed) {
            panic!("{name}: {said}");
        }
    }
}

#[test]
fn every_family_and_switch_tokenizes_alike() {
    let set = |key: &'static str, value: bool| (key, Value::from(value));
    let scores = Value::Array(Array::F32(vec![0.0; 3000]));
    let cases: [(&str, Vec<(&str, Value)>); 12] = [
        ("vocab-bpe.gguf", vec![]),
        (
            "vocab-bpe.gguf",
            vec![
                set("tokenizer.ggml.add_bos_token", true),
                set("tokenizer.ggml.add_eos_token", true),
                set("tokenizer.ggml.add_space_prefix", true),
            ],
        ),
        // No merge at all.
        (
            "vocab-bpe.gguf",
            vec![(
                "tokenizer.ggml.merges",
                Value::Array(Array::Str(["x y"].into_iter().collect())),
            )],
        ),
        ("vocab-spm.gguf", vec![]),
        (
            "vocab-spm.gguf",
            vec![set("tokenizer.ggml.add_space_prefix", false)],
        ),
        (
            "vocab-spm.gguf",
            vec![
                set("tokenizer.ggml.add_bos_token", false),
                set("tokenizer.ggml.add_eos_token", true),
            ],
        ),
        // Special tokens swallow the white space behind them.
        (
            "vocab-spm.gguf",
            vec![("general.name", Value::from("a Phi-3 by name"))],
        ),
        // Ties everywhere: the leftmost goes first.
        ("vocab-spm.gguf", vec![("tokenizer.ggml.scores", scores)]),
        ("vocab-wpm.gguf", vec![]),
        (
            "vocab-wpm.gguf",
            vec![set("tokenizer.ggml.add_bos_token", false)],
        ),
        (
            "vocab-wpm.gguf",
            vec![set("tokenizer.ggml.add_space_prefix", true)],
        ),
        ("tiny-bitnet.gguf", vec![]),
    ];
    for (seed, (vocabulary, changes)) in (100..).zip(&cases) {
        let scratch = Scratch::new();
        let model = variant(&scratch, vocabulary, changes);
        if let Some(said) = differences(&model, "bitnet.cpp", 400, seed) {
            panic!(
                "{vocabulary} {:?}: {said}",
                changes.iter().map(|c| c.0).collect::<Vec<_>>()
            );
        }
    }
}

#[test]
fn the_second_pin_tokenizes_alike() {
    let Some(reference) = parity::second_pin() else {
        return;
    };
    for (seed, name) in (200..).zip(PRE_TOKENIZERS) {
        let scratch = Scratch::new();
        let changes = [("tokenizer.ggml.pre", Value::from(name))];
        let model = variant(&scratch, "vocab-bpe.gguf", &changes);
        if let Some(said) = differences(&model, reference, 60, seed) {
            panic!("{name}: {said}");
        }
    }
    for vocabulary in ["vocab-spm.gguf", "vocab-wpm.gguf"] {
        let scratch = Scratch::new();
        let model = variant(&scratch, vocabulary, &[]);
        if let Some(said) = differences(&model, reference, 400, 300) {
            panic!("{vocabulary}: {said}");
        }
    }
    // The one name that it does not know, while we do.
    let scratch = Scratch::new();
    let changes = [("tokenizer.ggml.pre", Value::from("falcon_e"))];
    let model = variant(&scratch, "vocab-bpe.gguf", &changes);
    let said = differences(&model, reference, 1, 0).expect("no such pre-tokenizer");
    assert!(
        said.contains("2024-11") && said.contains("falcon_e"),
        "{said}"
    );
}

/// Every assigned character, and some that are not, beside letters, digits, spaces and itself.
#[test]
fn every_character_has_the_same_class() {
    let scratch = Scratch::new();
    let mut text = String::new();
    let planes = (0..0x3_3480u32)
        .chain(0xE_0000..0xE_0200)
        .chain(0x10_FF00..0x11_0000);
    for c in planes.filter_map(char::from_u32) {
        text.extend(["x", "1", " "].map(|before| format!("{before}{c}")));
    }
    let file = scratch.path("text");
    std::fs::write(&file, text).expect("written");
    let classes = [
        ("vocab-bpe.gguf", "default"),
        ("vocab-bpe.gguf", "tekken"),
        ("vocab-bpe.gguf", "deepseek-llm"),
        ("vocab-wpm.gguf", "default"),
    ];
    for (vocabulary, name) in classes {
        let scratch = Scratch::new();
        let changes = [("tokenizer.ggml.pre", Value::from(name))];
        let model = variant(&scratch, vocabulary, &changes);
        let args = [
            "tokenize".as_ref(),
            "--model".as_ref(),
            model.as_os_str(),
            "--file".as_ref(),
            file.as_os_str(),
        ];
        let output = crossval(&args);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(exit_code(&output), 0, "{name}: {said}{}", stderr(&output));
        assert!(said.contains("equal"), "{said}");
    }
}
