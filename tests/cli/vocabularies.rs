//! Our tokenizers against BitNet.cpp's, on vocabularies trained for it, under every name and switch that decides.
#![cfg(feature = "reference")]

use bitnet_core::gguf::{Array, Gguf, Metadata, StringArray, Value};

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
    let unchanged = from.metadata().iter();
    let unchanged = unchanged.filter(|(key, _)| changes.iter().all(|(other, _)| key != other));
    let changes = changes.iter().map(|(key, value)| (*key, value));
    write(&scratch.path(vocabulary), unchanged.chain(changes))
}

/// A byte-level vocabulary in which any two of many bytes merge where the pre-tokenizer leaves them together, so that
/// all its cuts show.
fn pairs(scratch: &Scratch, pre: &str) -> PathBuf {
    let bytes: Vec<u8> = b" \n\r\t!\"'(,-.:/_`019abdelmrstvADELMRSTV"
        .iter()
        .copied()
        .chain(0x80..=0xBF)
        .chain(0xC2..=0xF4)
        .collect();
    // GPT-2's characters for bytes: those that print in Latin-1 for themselves, the others from U+0100 on.
    let mut others = (0x100..).filter_map(char::from_u32);
    let characters: Vec<char> = (0..=255u8)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xA1..=0xAC | 0xAE.. => char::from(byte),
            _ => others.next().expect("a character"),
        })
        .collect();
    let n = bytes.len() * bytes.len();
    // Ranks in no order that a text could share: 7919 is a prime that does not divide n.
    let pairs: Vec<[String; 2]> = (0..n)
        .map(|i| i * 7919 % n)
        .map(|i| [bytes[i / bytes.len()], bytes[i % bytes.len()]])
        .map(|pair| pair.map(|byte| characters[usize::from(byte)].to_string()))
        .collect();
    // The reference looks for the mask in Jina's vocabularies.
    let special = ["<mask>", "<|endoftext|>"].map(str::to_owned);
    let tokens: Vec<String> = characters
        .iter()
        .map(char::to_string)
        .chain(pairs.iter().map(|pair| pair.concat()))
        .chain(special)
        .collect();
    let mut types = vec![1; tokens.len() - 2];
    types.extend([3, 3]);
    let last = (tokens.len() - 1) as u32;
    let merges = pairs.iter().map(|pair| pair.join(" "));
    let entries: [(&str, Value); 8] = [
        ("general.architecture", "llama".into()),
        ("tokenizer.ggml.model", "gpt2".into()),
        ("tokenizer.ggml.pre", pre.into()),
        (
            "tokenizer.ggml.tokens",
            Array::Str(tokens.iter().collect()).into(),
        ),
        ("tokenizer.ggml.token_type", Array::I32(types).into()),
        ("tokenizer.ggml.merges", Array::Str(merges.collect()).into()),
        ("tokenizer.ggml.bos_token_id", last.into()),
        ("tokenizer.ggml.eos_token_id", last.into()),
    ];
    let file = scratch.path(&format!("{pre}.gguf"));
    write(&file, entries.iter().map(|(key, value)| (*key, value)))
}

/// A file of metadata alone.
fn write<'a>(to: &Path, entries: impl Iterator<Item = (&'a str, &'a Value)>) -> PathBuf {
    let mut metadata = Metadata::new(to);
    for (key, value) in entries {
        metadata.insert(key, value.clone()).expect("a new key");
    }
    write_metadata(metadata)
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
    let scratch = Scratch::new();
    for (seed, name) in (0..).zip(PRE_TOKENIZERS.iter().chain(&["falcon_e"])) {
        if let Some(said) = differences(&pairs(&scratch, name), "bitnet.cpp", 250, seed) {
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

/// Of two special tokens of one length that overlap, the one that `std::sort` puts first is cut out.
#[test]
fn overlapping_special_tokens_are_cut_out_in_the_same_order() {
    let assets = Path::new(env!("CARGO_MANIFEST_DIR")).join("assets");
    let from = Gguf::open(&assets.join("vocab-bpe.gguf")).expect("a vocabulary");
    let (tokens, types) = ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type");
    let old = from.metadata().required::<&StringArray>(tokens);
    let old = old.expect("tokens");
    let letters = [
        "qx", "qz", "xq", "zx", "zq", "xz", "qq", "xx", "zz", "xqz", "zqx", "qzx",
    ];
    let doubled = letters.map(|t| format!("{t}{}", letters[0]));
    let new = letters
        .iter()
        .map(|t| t.as_bytes())
        .chain(doubled.iter().map(|t| t.as_bytes()));
    let added: Vec<&[u8]> = new.filter(|t| old.iter().all(|o| o != *t)).collect();
    let known = from.metadata().required::<&[i32]>(types).expect("types");
    let mut kinds = known.to_vec();
    kinds.extend(added.iter().map(|_| 4));
    let all = old.iter().chain(added.iter().copied()).collect();
    let scratch = Scratch::new();
    let changes = [
        (tokens, Value::Array(Array::Str(all))),
        (types, Value::Array(Array::I32(kinds))),
    ];
    let model = variant(&scratch, "vocab-bpe.gguf", &changes);
    if let Some(said) = differences(&model, "bitnet.cpp", 1000, 400) {
        panic!("{said}");
    }
}

#[test]
fn the_second_pin_tokenizes_alike() {
    let Some(reference) = parity::second_pin() else {
        return;
    };
    let scratch = Scratch::new();
    for (seed, name) in (200..).zip(PRE_TOKENIZERS) {
        if let Some(said) = differences(&pairs(&scratch, name), reference, 60, seed) {
            panic!("{name}: {said}");
        }
    }
    for vocabulary in ["vocab-bpe.gguf", "vocab-spm.gguf", "vocab-wpm.gguf"] {
        let model = variant(&scratch, vocabulary, &[]);
        if let Some(said) = differences(&model, reference, 400, 300) {
            panic!("{vocabulary}: {said}");
        }
    }
    // The one name that it does not know, while we do.
    let model = pairs(&scratch, "falcon_e");
    let said = differences(&model, reference, 1, 0).expect("it cannot be loaded");
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
