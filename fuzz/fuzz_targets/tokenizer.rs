//! A vocabulary and a text. The parts of the input: tokenizer, pre-tokenizer, tokens, their types, their scores, merges,
//! special IDs, flags, name of the model, text, token IDs.

#![no_main]

use std::path::Path;

use bitnet_core::tokenizer::{DecodeOptions, EncodeOptions, Tokenizer};
use bitnet_crossval_fuzz::{fields, parts};
use bitnet_model::gguf::{Array, Metadata, Value};
use libfuzzer_sys::fuzz_target;

/// Keys of token IDs.
const IDS: [&str; 10] = [
    "bos_token_id",
    "eos_token_id",
    "unknown_token_id",
    "eot_token_id",
    "eom_token_id",
    "cls_token_id",
    "seperator_token_id",
    "fim_pre_token_id",
    "prefix_token_id",
    "fim_pad_token_id",
];

fuzz_target!(|input: &[u8]| {
    let mut parts = parts(input);
    let mut part = || parts.next().unwrap_or_default();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut metadata = Metadata::new(Path::new("input"));
    let mut put = |key: &str, value: Value| {
        let _ = metadata.insert(&format!("tokenizer.ggml.{key}"), value);
    };
    put("model", text(part()).into());
    match part() {
        b"" => {}
        pre => put("pre", text(pre).into()),
    }
    put("tokens", Array::Str(fields(part()).collect()).into());
    match part() {
        b"" => {}
        types => {
            let types = types.iter().map(|&t| i32::from(t as i8)).collect();
            put("token_type", Array::I32(types).into());
        }
    }
    match part() {
        b"" => {}
        scores => {
            let scores = scores.iter().map(|&score| match score as i8 {
                i8::MIN => f32::NAN,
                i8::MAX => f32::INFINITY,
                score => f32::from(score) / 8.0,
            });
            put("scores", Array::F32(scores.collect()).into());
        }
    }
    put("merges", Array::Str(fields(part()).collect()).into());
    for id in part().chunks_exact(2) {
        put(IDS[usize::from(id[0]) % IDS.len()], u32::from(id[1]).into());
    }
    let flags = part().first().copied().unwrap_or(0);
    for (bit, key) in ["add_bos_token", "add_eos_token", "add_space_prefix"]
        .iter()
        .enumerate()
    {
        if flags >> (2 * bit) & 1 != 0 {
            put(key, (flags >> (2 * bit + 1) & 1 != 0).into());
        }
    }
    let name = text(part());
    metadata.insert("general.name", name).expect("a new key");
    let Ok(tokenizer) = Tokenizer::from_gguf(&metadata) else {
        return;
    };
    let n_vocab = tokenizer.n_vocab() as u32;
    let input = part();
    for parse_special in [false, true] {
        let options = EncodeOptions {
            add_special: parse_special,
            parse_special,
        };
        if let Ok(ids) = tokenizer.encode(input, options) {
            assert!(ids.iter().all(|&id| id < n_vocab));
            decode(&tokenizer, &ids);
        }
    }
    // Some outside the vocabulary.
    let ids: Vec<u32> = part().iter().map(|&id| id.into()).collect();
    decode(&tokenizer, &ids);
});

fn decode(tokenizer: &Tokenizer, ids: &[u32]) {
    for remove_special in [false, true] {
        let unparse_special = !remove_special;
        let options = DecodeOptions {
            remove_special,
            unparse_special,
        };
        tokenizer.decode(ids, options);
        let mut stream = tokenizer.stream(unparse_special);
        for &id in ids {
            stream.push(id);
        }
        stream.finish();
    }
}
