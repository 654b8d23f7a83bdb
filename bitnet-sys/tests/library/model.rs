use std::fs;
use std::sync::Arc;

use bitnet_sys::{Context, ContextOptions, Error, LoadOptions, Model};

use crate::{TEXT, asset, model};

#[test]
fn says_what_it_is() {
    let facts = bitnet_sys::library();
    assert!(bitnet_sys::available());
    assert!(!facts.vintage.is_empty() && !facts.revision.is_empty());
    assert!(
        facts.compiler.contains(char::is_numeric),
        "{}",
        facts.compiler
    );
    assert!(facts.c_flags.contains("-O3"), "{}", facts.c_flags);
    assert!(
        facts.cxx_flags.contains("-O3"),
        "optimised in the dev profile too: {}",
        facts.cxx_flags
    );
    assert!(
        facts.options.contains("GGML_LLAMAFILE=ON"),
        "{}",
        facts.options
    );
    assert!(
        facts.cpu_features.contains("AVX2 = "),
        "{}",
        facts.cpu_features
    );
}

#[test]
fn reads_the_model() {
    let model = model();
    let facts = model.facts();
    assert_eq!(facts.architecture, "bitnet-b1.58");
    assert_eq!((facts.n_vocab, facts.n_embd, facts.n_layer), (512, 128, 6));
    assert_eq!(
        (facts.n_ctx_train, facts.n_head, facts.n_head_kv),
        (256, Some(4), Some(2))
    );
    assert_eq!(
        (facts.bos, facts.eos, facts.add_bos, facts.add_eos),
        (Some(1), Some(2), true, false)
    );
    assert_eq!(model.metadata()["bitnet-b1.58.feed_forward_length"], "512");
    assert!(model.metadata()["general.name"].starts_with("tiny-bitnet"));
}

#[test]
fn tokenizes_there_and_back() {
    let vocab = Model::load(
        &asset(),
        LoadOptions {
            vocab_only: true,
            ..LoadOptions::default()
        },
    )
    .unwrap();
    let long = "x".repeat(5000);
    for text in [
        TEXT,
        "",
        " ",
        "\n\n",
        "naïve 日本語 \u{1F436}",
        "</s>",
        &long,
    ] {
        let tokens = vocab.tokenize(text, true, false).unwrap();
        assert_eq!(tokens[0], 1, "BOS first: {text:?}");
        let bytes = vocab.detokenize(&tokens, true, false).unwrap();
        // SPM puts a space before the text; not every version takes it off again.
        let back = String::from_utf8(bytes).unwrap();
        assert_eq!(back.trim_start_matches(' '), text.trim_start_matches(' '));

        let pieces: Vec<u8> = tokens[1..]
            .iter()
            .flat_map(|&t| vocab.token_to_piece(t, false).unwrap())
            .collect();
        let pieces = String::from_utf8(pieces).unwrap();
        assert_eq!(pieces.trim_start_matches(' '), text.trim_start_matches(' '));
    }
    assert_eq!(
        vocab.tokenize("</s>", false, true).unwrap(),
        [2],
        "control tokens are read where asked to"
    );
    assert!(vocab.is_eog(2).unwrap() && !vocab.is_eog(300).unwrap());
    assert_eq!(vocab.token_to_piece(2, true).unwrap(), b"</s>");
    assert!(matches!(
        vocab.token_to_piece(512, true),
        Err(Error::Token {
            token: 512,
            n_vocab: 512
        })
    ));
    assert!(matches!(
        vocab.detokenize(&[u32::MAX], false, false),
        Err(Error::Token { .. })
    ));
    assert!(matches!(
        Context::new(&Arc::new(vocab), ContextOptions::default()),
        Err(Error::VocabOnly)
    ));
}

#[test]
fn bad_files_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let whole = fs::read(asset()).unwrap();
    let cases: [(&str, Option<&[u8]>, &str); 4] = [
        ("missing.gguf", None, "No such file"),
        (
            "text.gguf",
            Some(b"this is not a model, it is a line of text"),
            "failed to load model from",
        ),
        ("empty.gguf", Some(b""), "failed to load model from"),
        (
            "truncated.gguf",
            Some(&whole[..whole.len() * 3 / 4]),
            "not within the file bounds",
        ),
    ];
    for (name, content, words) in cases {
        let path = dir.path().join(name);
        if let Some(content) = content {
            fs::write(&path, content).unwrap();
        }
        let error = Model::load(&path, LoadOptions::default()).unwrap_err();
        let message = error.to_string();
        assert!(
            message.contains(name) && message.contains(words),
            "{message}"
        );
    }
    let taken = bitnet_sys::take_log();
    assert!(
        taken
            .iter()
            .any(|line| line.text.contains("failed to load model")),
        "{taken:#?}"
    );
}
