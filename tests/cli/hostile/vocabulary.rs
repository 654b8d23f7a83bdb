//! Sound GGUF files whose vocabulary is none.

use super::file::{File, array, counted, f32s, i32s, string, strings, u32};
use super::{Case, Says};

fn with(name: &'static str, says: Says, key: &'static str, value: Vec<u8>) -> Case {
    Case::of_model(name, says, move |f| {
        f.set(&format!("tokenizer.ggml.{key}"), value)
    })
}

/// As many tokens as the model has, but for the first.
fn tokens(first: &[&[u8]]) -> Vec<u8> {
    let rest: Vec<String> = (first.len()..512).map(|i| format!("t{i}")).collect();
    let rest = rest.iter().map(String::as_bytes);
    strings(first.iter().copied().chain(rest))
}

/// Byte-level BPE instead of SentencePiece.
fn bpe(f: &mut File, first: &[&[u8]]) {
    f.set("tokenizer.ggml.model", string(b"gpt2"));
    f.set("tokenizer.ggml.pre", string(b"llama-bpe"));
    f.set("tokenizer.ggml.tokens", tokens(first));
    f.set("tokenizer.ggml.token_type", i32s(&[1; 512]));
    f.set("tokenizer.ggml.merges", strings([&b"a b"[..]]));
}

pub(super) fn cases() -> Vec<Case> {
    let mut cases = tables();
    cases.extend(algorithms());
    cases
}

fn tables() -> Vec<Case> {
    vec![
        Case::of_model(
            "no tokens",
            &["\"tokenizer.ggml.tokens\" has 0 tokens"],
            |f| {
                f.set("tokenizer.ggml.tokens", strings([]));
                f.remove("tokenizer.ggml.scores");
                f.remove("tokenizer.ggml.token_type");
            },
        ),
        Case::of_model(
            "a token less",
            &["\"tokenizer.ggml.scores\" has 512 entries for 511 tokens"],
            |f| {
                let tokens: Vec<String> = (0..511).map(|i| format!("t{i}")).collect();
                let tokens = tokens.iter().map(String::as_bytes);
                f.set("tokenizer.ggml.tokens", strings(tokens));
            },
        ),
        Case::of_model(
            "tokens missing",
            &["\"tokenizer.ggml.tokens\" (array of string) is missing"],
            |f| {
                f.remove("tokenizer.ggml.tokens");
            },
        ),
        with(
            "tokens that are numbers",
            &["tokens\" has type array of uint32, not array of string"],
            "tokens",
            array(4, 0, &[]),
        ),
        with(
            "token twice",
            &["tokens 1 and 2 are both \"same\""],
            "tokens",
            tokens(&[b"x", b"same", b"same"]),
        ),
        with(
            "tokens that are one up to a NUL",
            &["tokens 0 and 1 are both \"a\""],
            "tokens",
            tokens(&[b"a\0b", b"a\0c"]),
        ),
        with(
            "a long token twice",
            &["tokens 0 and 1 are both \"aaa"],
            "tokens",
            tokens(&[&[b'a'; 1 << 20], &[b'a'; 1 << 20]]),
        ),
        Case::new(
            "a token of 2^63 bytes",
            &["takes 9223372036854775808 bytes"],
            |f| {
                let token = counted(1 << 63, b"a");
                f.set("tokenizer.ggml.tokens", array(8, 1, &token));
            },
        ),
        with(
            "a score too few",
            &["\"tokenizer.ggml.scores\" has 511 entries for 512 tokens"],
            "scores",
            f32s(&[0.0; 511]),
        ),
        with(
            "no scores",
            &["\"tokenizer.ggml.scores\" has 0 entries"],
            "scores",
            f32s(&[]),
        ),
        Case::of_model(
            "score that is no number",
            &["the score of token 3 is not a number"],
            |f| {
                let mut scores = [0.0; 512];
                scores[3] = f32::NAN;
                f.set("tokenizer.ggml.scores", f32s(&scores));
            },
        ),
        with(
            "scores that are whole",
            &["scores\" has type array of int32"],
            "scores",
            i32s(&[0; 512]),
        ),
        with(
            "a type too many",
            &["\"tokenizer.ggml.token_type\" has 513 entries"],
            "token_type",
            i32s(&[1; 513]),
        ),
        Case::of_model(
            "token of type 7",
            &["token 5 has the unknown type 7"],
            |f| {
                let mut types = [1; 512];
                types[5] = 7;
                f.set("tokenizer.ggml.token_type", i32s(&types));
            },
        ),
        with(
            "tokens of type -1",
            &["token 0 has the unknown type -1"],
            "token_type",
            i32s(&[-1; 512]),
        ),
        with(
            "byte tokens that are none",
            &["token 0 (\"<unk>\") is not a byte token"],
            "token_type",
            i32s(&[6; 512]),
        ),
        with(
            "BOS that is a text",
            &["bos_token_id\" has type string, not uint32"],
            "bos_token_id",
            string(b"<s>"),
        ),
    ]
}

fn algorithms() -> Vec<Case> {
    vec![
        // Each byte takes six in JSON.
        Case::of_model(
            "a chat template longer than a message",
            &["the answer is too long: frame of 18"],
            |f| f.set("tokenizer.chat_template", string(&[1; 3 << 20])),
        ),
        with(
            "unknown tokenizer",
            &["tokenizer \"t5\" is not supported"],
            "model",
            string(b"t5"),
        ),
        with(
            "tokenizer of no name",
            &["tokenizer \"\" is not supported"],
            "model",
            string(b""),
        ),
        Case::of_model(
            "unknown pre-tokenizer",
            &["pre-tokenizer \"gpt-9\" is not supported"],
            |f| {
                bpe(f, &[]);
                f.set("tokenizer.ggml.pre", string(b"gpt-9"));
            },
        ),
        Case::of_model(
            "merges missing",
            &["\"tokenizer.ggml.merges\" (array of string) is missing"],
            |f| {
                bpe(f, &[]);
                f.remove("tokenizer.ggml.merges");
            },
        ),
        Case::of_model(
            "merges that are numbers",
            &["merges\" has type array of int32"],
            |f| {
                bpe(f, &[]);
                f.set("tokenizer.ggml.merges", i32s(&[1]));
            },
        ),
        Case::of_model(
            "token that is not UTF-8",
            &["token 1 (\"\\xff\") is not UTF-8"],
            |f| {
                bpe(f, &[b"a", b"\xFF"]);
            },
        ),
        // Each character is spelt out with the whole text: 300 kB would become 30 GB.
        Case::of_model(
            "token of 100,000 characters that stand for no byte",
            &["token 0 (\"\\xe4\\xb8", "too many to spell out"],
            |f| {
                bpe(f, &["中".repeat(100_000).as_bytes()]);
            },
        ),
        Case::of_model(
            "BOS to be added, and none there",
            &["BOS is to be added to texts, but there is none"],
            |f| {
                bpe(f, &[]);
                f.set("tokenizer.ggml.pre", string(b"chatglm-bpe"));
                f.set("tokenizer.ggml.bos_token_id", u32(u32::MAX));
            },
        ),
        Case::of_model(
            "word pieces with byte tokens",
            &["is a byte token, which WordPiece has none of"],
            |f| {
                f.set("tokenizer.ggml.model", string(b"bert"));
            },
        ),
    ]
}
