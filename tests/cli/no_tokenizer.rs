//! Models without a tokenizer run where token IDs are given.

use super::*;

/// The bundled model without its vocabulary; `kind` is what `tokenizer.ggml.model` says, if it is there.
fn without_vocabulary(scratch: &Scratch, kind: Option<&str>) -> PathBuf {
    let file = scratch.path("model.gguf");
    tiny_with(&file, |metadata| {
        let mut edited = Metadata::new(metadata.path());
        let others = metadata.iter();
        for (key, value) in others.filter(|(key, _)| !key.starts_with("tokenizer.")) {
            edited.insert(key, value.clone()).expect("a new key");
        }
        if let Some(kind) = kind {
            edited
                .insert("tokenizer.ggml.model", kind)
                .expect("a new key");
        }
        edited
    });
    file
}

#[test]
fn token_ids_are_enough() {
    let tokens = [
        "--tokens",
        "1,5,9,33,7",
        "--candidate",
        "rust",
        "--n-predict",
        "8",
    ];
    for (kind, reference) in [
        (Some("no_vocab"), "bitnet.cpp"),
        (Some("none"), "oracle"),
        // llama.cpp wants the key.
        (None, "oracle"),
    ] {
        let scratch = Scratch::new();
        let model = without_vocabulary(&scratch, kind);
        let (code, report, shown) =
            run(&model, &[&tokens[..], &["--reference", reference]].concat());
        assert_eq!(code, 0, "{kind:?}: {shown}");
        let tokenizer = report.tokenizer.expect("what was not compared");
        let why = tokenizer.not_compared.expect("why");
        assert!(why.contains("no tokenizer"), "{kind:?}: {why}");
    }
}

#[test]
fn a_text_without_a_tokenizer_says_what_to_give() {
    let scratch = Scratch::new();
    let model = without_vocabulary(&scratch, Some("no_vocab"));
    let model = model.to_str().expect("UTF-8");
    let trace = scratch.path("model.trace");
    let record = [
        "record",
        "--engine",
        "rust",
        "-o",
        trace.to_str().expect("UTF-8"),
    ];
    for args in [
        &["run", "--candidate", "rust"][..],
        &["run", "--candidate", "rust", "--prompt", "Once"],
        &[&record[..], &["--prompt", "Once"]].concat(),
    ] {
        let output = crossval(&[args, &["--model", model]].concat());
        let said = stderr(&output);
        assert!(
            said.contains("no tokenizer") && said.contains("--tokens"),
            "{said}"
        );
        assert_eq!(exit_code(&output), 64, "{said}");
    }
}
