use std::io::Write as _;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;
use crate::ErrorKind;
use crate::gguf::{Array, Gguf, Value};

const BARE: EncodeOptions = EncodeOptions {
    add_special: false,
    parse_special: false,
};

fn strings<S: AsRef<[u8]>>(list: impl IntoIterator<Item = S>) -> Value {
    Value::Array(Array::Str(list.into_iter().collect()))
}

/// Pieces, scores and types of a small SentencePiece vocabulary with every byte.
fn spm(edit: impl FnOnce(&mut Metadata)) -> Result<Tokenizer, Error> {
    let mut tokens: Vec<(String, f32, i32)> = vec![
        ("<unk>".into(), 0.0, 2),
        ("<s>".into(), 0.0, 3),
        ("</s>".into(), 0.0, 3),
    ];
    tokens.extend((0..=255u8).map(|b| (format!("<0x{b:02X}>"), 0.0, 6)));
    let text = ["▁", "a", "b", "c", "ab", "bc", "abc", "▁a", "▁ab"];
    let scores = [-9.0, -9.0, -9.0, -9.0, -2.0, -1.0, -3.0, -4.0, -5.0];
    tokens.extend(
        text.iter()
            .zip(scores)
            .map(|(t, s)| ((*t).to_owned(), s, 1)),
    );
    tokens.push(("<user>".into(), 0.0, 4));
    let mut m = Metadata::new(Path::new("spm.gguf"));
    m.insert("tokenizer.ggml.model", "llama")?;
    m.insert(
        "tokenizer.ggml.tokens",
        strings(tokens.iter().map(|t| &t.0)),
    )?;
    let scores = tokens.iter().map(|t| t.1).collect();
    m.insert("tokenizer.ggml.scores", Array::F32(scores))?;
    let types = tokens.iter().map(|t| t.2).collect();
    m.insert("tokenizer.ggml.token_type", Array::I32(types))?;
    edit(&mut m);
    Tokenizer::from_gguf(&m)
}

/// A byte-level vocabulary: all bytes, then `merged`, then `extra` with its types.
fn bpe(
    merges: &[&str],
    extra: &[(&str, i32)],
    edit: impl FnOnce(&mut Metadata),
) -> Result<Tokenizer, Error> {
    let mut tokens: Vec<String> = (0..=255)
        .map(|b| byte_level::byte_to_char(b).to_string())
        .collect();
    tokens.extend(merges.iter().map(|m| m.replace(' ', "")));
    let mut types = vec![1; tokens.len()];
    tokens.extend(extra.iter().map(|e| e.0.to_owned()));
    types.extend(extra.iter().map(|e| e.1));
    let mut m = Metadata::new(Path::new("bpe.gguf"));
    m.insert("tokenizer.ggml.model", "gpt2")?;
    m.insert("tokenizer.ggml.tokens", strings(tokens))?;
    m.insert("tokenizer.ggml.token_type", Array::I32(types))?;
    m.insert("tokenizer.ggml.merges", strings(merges))?;
    edit(&mut m);
    Tokenizer::from_gguf(&m)
}

fn pieces(t: &Tokenizer, ids: &[u32]) -> Vec<String> {
    let piece = |&id| String::from_utf8_lossy(t.piece(id).unwrap()).into_owned();
    ids.iter().map(piece).collect()
}

#[test]
fn spm_merges_by_score_then_from_the_left() {
    let t = spm(|_| ()).unwrap();
    let encode = |text: &str| pieces(&t, &t.encode(text, BARE).unwrap());
    // bc (-1) goes before ab (-2), and then a+bc makes abc; the prefix space finds ▁abc nowhere.
    assert_eq!(encode("abc"), [" ", "abc"]);
    assert_eq!(encode("ab"), [" ab"]);
    assert_eq!(encode("aab"), [" a", "ab"]);
    assert_eq!(encode("é"), [" ", "\u{FFFD}", "\u{FFFD}"]);
    assert_eq!(encode(""), [""; 0]);
    assert_eq!(t.encode("é", BARE).unwrap()[1..], [3 + 0xC3, 3 + 0xA9]);
}

#[test]
fn spm_special_tokens() {
    let t = spm(|_| ()).unwrap();
    let all = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    assert_eq!((t.bos(), t.eos(), t.eot()), (Some(1), Some(2), None));
    assert_eq!(t.encode("", all).unwrap(), [1]);
    // User-defined tokens count always, control tokens only on request; a space goes in after each.
    assert_eq!(
        pieces(&t, &t.encode("ab<user>ab", BARE).unwrap()),
        [" ab", "<user>", " ab"]
    );
    assert_eq!(
        pieces(&t, &t.encode("ab</s>ab", all).unwrap()),
        ["<s>", " ab", "</s>", " ab"]
    );
    assert!(!t.encode("ab</s>ab", BARE).unwrap().contains(&2));
    assert!(t.is_eog(2) && !t.is_eog(1));

    let t = spm(|m| {
        m.insert("tokenizer.ggml.add_bos_token", false).unwrap();
        m.insert("tokenizer.ggml.add_eos_token", true).unwrap();
        m.insert("tokenizer.ggml.add_space_prefix", false).unwrap();
    });
    let t = t.unwrap();
    assert_eq!(pieces(&t, &t.encode("abc", all).unwrap()), ["abc", "</s>"]);
}

#[test]
fn spm_strips_after_specials_of_phi_3() {
    let phi = spm(|m| m.insert("general.name", "Phi-3 mini").unwrap()).unwrap();
    let plain = spm(|_| ()).unwrap();
    assert_eq!(
        pieces(&phi, &phi.encode("<user>  ab", BARE).unwrap()),
        ["<user>", " ab"]
    );
    let spaced = plain.encode("<user>  ab", BARE).unwrap();
    assert_eq!(pieces(&plain, &spaced), ["<user>", " ", " ", " ab"]);
}

#[test]
fn bpe_merges_by_rank() {
    let t = bpe(&["b c", "a b", "Ġ a", "ab c"], &[], |_| ()).unwrap();
    let encode = |text: &str| pieces(&t, &t.encode(text, BARE).unwrap());
    // "b c" goes first, and nothing merges a with bc: abc is a token, but not reachable by merges.
    assert_eq!(encode("abc"), ["a", "bc"]);
    // From the left among equals, and rank 1 before rank 2.
    assert_eq!(encode("x abab a"), ["x", " ", "ab", "ab", " a"]);
    let whole = bpe(&["b c", "a b", "Ġ a", "ab c"], &[], |m| {
        m.insert("tokenizer.ggml.pre", "llama-bpe").unwrap();
        m.insert("tokenizer.ggml.bos_token_id", 0u32).unwrap();
    });
    let whole = whole.unwrap();
    assert_eq!(pieces(&whole, &whole.encode("abc", BARE).unwrap()), ["abc"]);
    assert!(whole.adds_bos() && !t.adds_bos());
}

#[test]
fn bpe_finds_the_ends_of_generation() {
    let extra = [
        ("<|eot_id|>", 4),
        ("<|eom_id|>", 1),
        ("<|file_sep|>", 3),
        ("<|x|>", 3),
    ];
    let t = bpe(&[], &extra, |_| ()).unwrap();
    assert_eq!(t.eot(), Some(256));
    let eog: Vec<u32> = (0..t.n_vocab() as u32).filter(|&id| t.is_eog(id)).collect();
    // 11 is llama.cpp's default EOS.
    assert_eq!(eog, [11, 256, 257, 258]);
    // What looks like a control token is one, whatever its type in the file.
    assert!(t.is_control(256) && t.is_control(257));
    assert!(t.encode("<|eot_id|>", BARE).unwrap().len() > 1);
    let options = EncodeOptions {
        parse_special: true,
        ..BARE
    };
    assert_eq!(
        t.encode("a<|eot_id|>", options).unwrap(),
        [u32::from(b'a'), 256]
    );
}

#[test]
fn faults_are_named() {
    let tokens = |list: &[&str]| {
        let mut m = Metadata::new(Path::new("x.gguf"));
        m.insert("tokenizer.ggml.model", "llama").unwrap();
        m.insert("tokenizer.ggml.tokens", strings(list)).unwrap();
        m
    };
    let mut short = tokens(&["<unk>", "<s>", "</s>"]);
    short
        .insert("tokenizer.ggml.scores", Array::F32(vec![0.0; 2]))
        .unwrap();
    let mut byte = tokens(&["<unk>", "<s>", "wrong"]);
    byte.insert("tokenizer.ggml.token_type", Array::I32(vec![2, 3, 6]))
        .unwrap();
    let mut t5 = Metadata::new(Path::new("x.gguf"));
    t5.insert("tokenizer.ggml.model", "t5").unwrap();
    let cases: [(Result<Tokenizer, Error>, ErrorKind, &str); 7] = [
        (
            Tokenizer::from_gguf(&Metadata::default()),
            ErrorKind::BadFile,
            "tokenizer.ggml.model",
        ),
        (Tokenizer::from_gguf(&t5), ErrorKind::Unsupported, "\"t5\""),
        (
            bpe(&[], &[], |m| {
                m.insert("tokenizer.ggml.pre", "gpt-4o").unwrap()
            }),
            ErrorKind::Unsupported,
            "\"gpt-4o\"",
        ),
        (
            Tokenizer::from_gguf(&tokens(&["a", "b", "a"])),
            ErrorKind::BadFile,
            "tokens 0 and 2",
        ),
        (
            Tokenizer::from_gguf(&short),
            ErrorKind::BadFile,
            "2 entries for 3 tokens",
        ),
        (
            Tokenizer::from_gguf(&byte),
            ErrorKind::BadFile,
            "token 2 (\"wrong\")",
        ),
        (
            Tokenizer::from_gguf(&tokens(&["a"])),
            ErrorKind::BadFile,
            "BOS is to be added",
        ),
    ];
    for (result, kind, needle) in cases {
        let e = result.expect_err(needle);
        assert_eq!(e.kind(), kind, "{e}");
        assert!(e.to_string().contains(needle), "{e}");
    }
}

/// Every name that [`Pretokenizer::by_name`] knows.
const PRE_TOKENIZERS: [&str; 37] = [
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
    "falcon_e",
    "deepseek-llm",
    "deepseek-coder",
    "bloom",
    "poro-chat",
    "gpt3-finnish",
    "viking",
    "tekken",
    "chameleon",
];

fn streamed(t: &Tokenizer, ids: &[u32]) -> String {
    let mut stream = t.stream(true);
    let text: String = ids.iter().map(|&id| stream.push(id)).collect();
    text + &stream.finish()
}

proptest! {
    #[test]
    fn text_survives(text in "(\\PC|[ab \n\t\u{3000}']){0,40}") {
        let merges = ["a b", "Ġ a", "Ġa b", "Ã ©", "' t"];
        for name in PRE_TOKENIZERS {
            let t = bpe(&merges, &[], |m| {
                m.insert("tokenizer.ggml.pre", name).unwrap();
                m.insert("tokenizer.ggml.bos_token_id", 0u32).unwrap();
            });
            let t = t.unwrap();
            prop_assert_eq!(streamed(&t, &t.encode(&text, BARE).unwrap()), &text[..], "{}", name);
        }
        let t = spm(|_| ()).unwrap();
        // SentencePiece writes a real U+2581 as a space.
        let want = text.replace('\u{2581}', " ");
        prop_assert_eq!(t.decode(&t.encode(&text, BARE).unwrap(), DecodeOptions::default()), want.as_bytes());
    }

    /// Whatever the IDs, what streams out is the text of all pieces, in whole characters.
    #[test]
    fn streams_never_break_a_character(ids in prop::collection::vec(0..300u32, 0..40)) {
        let t = spm(|_| ()).unwrap();
        let pieces: Vec<u8> = ids.iter().flat_map(|&id| t.piece(id).unwrap_or_default()).copied().collect();
        prop_assert_eq!(streamed(&t, &ids), String::from_utf8_lossy(&pieces));
    }
}

#[test]
fn streams_hold_back_what_is_incomplete() {
    let t = bpe(&[], &[], |_| ()).unwrap();
    let mut stream = t.stream(false);
    let emitted: Vec<String> = "é€"
        .bytes()
        .chain([0xE2, 0x82, b'a', 0xF0, 0x9F])
        .map(|b| {
            // Tokens of a byte-level vocabulary of single bytes.
            stream.push(u32::from(b))
        })
        .collect();
    assert_eq!(emitted, ["", "é", "", "", "€", "", "", "\u{FFFD}a", "", ""]);
    assert_eq!(stream.finish(), "\u{FFFD}");
}

/// A small WordPiece vocabulary.
fn wpm(edit: impl FnOnce(&mut Metadata)) -> Result<Tokenizer, Error> {
    let tokens = [
        "[UNK]", "[CLS]", "[SEP]", "▁un", "▁", "afford", "able", "▁a", "▁unaff", "!", "▁!", "▁中",
        "▁e", "t", "[MASK]",
    ];
    let mut m = Metadata::new(Path::new("wpm.gguf"));
    m.insert("tokenizer.ggml.model", "bert")?;
    m.insert("tokenizer.ggml.tokens", strings(tokens))?;
    let types = tokens.map(|t| if t.starts_with('[') { 3 } else { 1 });
    m.insert("tokenizer.ggml.token_type", Array::I32(types.to_vec()))?;
    m.insert("tokenizer.ggml.unknown_token_id", 0u32)?;
    m.insert("tokenizer.ggml.seperator_token_id", 2u32)?;
    edit(&mut m);
    Tokenizer::from_gguf(&m)
}

#[test]
fn wpm_takes_the_longest_from_the_left() {
    let t = wpm(|m| m.insert("tokenizer.ggml.cls_token_id", 1u32).unwrap()).unwrap();
    let encode = |text: &str| pieces(&t, &t.encode(text, BARE).unwrap());
    // The longest first piece wins, even where a shorter one would let the rest fit.
    assert_eq!(encode("unaffordable"), ["[UNK]"]);
    assert_eq!(encode("unable A"), [" un", "able", " a"]);
    assert_eq!(
        encode("Ét!中\u{200D}\u{0} é\t"),
        [" e", "t", " !", " 中", " e"]
    );
    let all = EncodeOptions {
        add_special: true,
        parse_special: true,
    };
    assert_eq!(t.encode("", all).unwrap(), [1, 2]);
    assert_eq!(t.encode("a[MASK]a", all).unwrap(), [1, 7, 14, 7, 2]);
    assert_eq!(
        t.encode(b"a\xFF", all).unwrap_err().kind(),
        ErrorKind::Usage
    );
    // Spaces are cleaned up, and none is taken from the front.
    assert_eq!(t.decode(&[7, 10, 14], DecodeOptions::default()), b" a!");
    assert_eq!(
        t.decode(
            &[7, 10, 14],
            DecodeOptions {
                unparse_special: true,
                ..DecodeOptions::default()
            }
        ),
        b" a![MASK]"
    );
    let missing = wpm(|_| ()).unwrap_err();
    assert!(missing.to_string().contains("cls_token_id"), "{missing}");
}

#[test]
fn detokenization_strips_one_space_of_the_first_token_only() {
    let t = spm(|_| ()).unwrap();
    let id = |text: &str| t.encode(text, BARE).unwrap();
    let plain = DecodeOptions::default();
    let ab = id("ab");
    assert_eq!(t.decode(&ab, plain), b"ab");
    // BOS, written or not, uses the chance up.
    let with_bos = [&[1], &ab[..]].concat();
    assert_eq!(t.decode(&with_bos, plain), b" ab");
    let remove = DecodeOptions {
        remove_special: true,
        unparse_special: true,
    };
    assert_eq!(t.decode(&with_bos, remove), b" ab");
    assert_eq!(
        t.decode(
            &with_bos,
            DecodeOptions {
                remove_special: false,
                ..remove
            }
        ),
        b"<s> ab"
    );
}

#[test]
fn what_the_reference_throws_at_is_an_error() {
    let t = bpe(&[], &[], |_| ()).unwrap();
    let e = t.encode(b"ab\x80", BARE).unwrap_err();
    assert_eq!(
        (e.kind(), e.to_string().as_str()),
        (ErrorKind::Usage, "the text is not UTF-8 at byte 2")
    );
    assert_eq!(t.encode(b"a\xC0\x80", BARE).unwrap(), [97, 0]);
    let mut m = Metadata::new(Path::new("x.gguf"));
    m.insert("tokenizer.ggml.model", "llama").unwrap();
    m.insert(
        "tokenizer.ggml.tokens",
        strings(["<unk>", "<s>", "</s>", "a"]),
    )
    .unwrap();
    let t = Tokenizer::from_gguf(&m).unwrap();
    let e = t.encode("a", BARE).unwrap_err();
    assert!(e.to_string().contains("0xE2"), "{e}");
}

/// `../shared` beside the repository; says so and gives `None` where it is absent.
fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data")
        .join(path);
    if !path.exists() {
        // Past the test harness, which captures what tests print.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {} is absent", path.display());
        return None;
    }
    Some(path)
}

/// llama.cpp's own test vectors.
#[test]
fn reference_vectors() {
    for name in ["llama-spm", "llama-bpe", "gpt-2", "phi-3", "falcon"] {
        let Some(path) = shared(&format!("vocab/ggml-vocab-{name}.gguf")) else {
            return;
        };
        let gguf = Gguf::open(&path).unwrap();
        let t = Tokenizer::from_gguf(gguf.metadata()).unwrap();
        let read =
            |ext: &str| std::fs::read_to_string(format!("{}.{ext}", path.display())).unwrap();
        let (inp, out) = (read("inp"), read("out"));
        let mut cases: Vec<&str> = inp.split("\n__ggml_vocab_test__\n").collect();
        // The last case has a separator behind it, too.
        assert_eq!(cases.pop(), Some(""));
        let want: Vec<Vec<u32>> = out
            .lines()
            .map(|l| l.split_whitespace().map(|id| id.parse().unwrap()).collect())
            .collect();
        assert_eq!((cases.len(), want.len()), (46, 46), "{name}");
        for (i, (text, want)) in cases.iter().zip(&want).enumerate() {
            assert_eq!(
                &t.encode(text, BARE).unwrap(),
                want,
                "{name}, case {i}: {text:?}"
            );
        }
    }
}

#[test]
fn a_novel_survives() {
    let Some(path) = shared("text/austen.txt") else {
        return;
    };
    let text = std::fs::read_to_string(path).unwrap();
    let text: String = text.chars().take(200_000).collect();
    let models = [
        "vocab/ggml-vocab-llama-bpe",
        "vocab/ggml-vocab-llama-spm",
        "models/stories260K",
        "models/tiny-bitnet",
    ];
    for model in models {
        let Some(path) = shared(&format!("{model}.gguf")) else {
            return;
        };
        let t = Tokenizer::from_gguf(Gguf::open(&path).unwrap().metadata()).unwrap();
        let ids = t.encode(&text, BARE).unwrap();
        // Past the space that SentencePiece puts in front.
        assert!(streamed(&t, &ids).trim_start() == text, "{model}");
    }
}
