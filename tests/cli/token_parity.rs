//! Both tokenizers on the texts of a run, apart from the numbers.
#![cfg(unix)]

use bitnet_core::gguf::{Array, StringArray, Value};
use reports::model::{AtFault, Status, TokenParity};

use super::*;

/// An engine: a shell script that does this and then is the worker of the Rust engine, reading `input`.
fn script(scratch: &Scratch, name: &str, before: &str, input: &str) -> String {
    let worker = env!("CARGO_BIN_EXE_crossval");
    scratch.engine(name, &format!("{before}\n{input} '{worker}' worker rust"))
}

fn parity(report: &Report) -> &TokenParity {
    report.tokenizer.as_ref().expect("a section")
}

/// Runs where the model is `m.gguf`, so that an engine that changes its folder reads another file of that name.
fn run_in(folder: &Path, more: &[&str]) -> (i32, Report, String) {
    let mut args = vec!["run", "--model", "m.gguf", "--out", "out", "--no-bench"];
    args.extend(["--reference", "rust", "--n-predict", "2"]);
    args.extend(more);
    let output = Command::new(env!("CARGO_BIN_EXE_crossval"))
        .args(&args)
        .current_dir(folder)
        .output()
        .expect("crossval starts");
    let json = std::fs::read_to_string(folder.join("out/report.json"))
        .unwrap_or_else(|e| panic!("no report ({e}): {}", stderr(&output)));
    let report = serde_json::from_str(&json).expect("a report");
    let summary = String::from_utf8_lossy(&output.stdout).into_owned();
    (exit_code(&output), report, summary)
}

/// Exchanges the texts of `a` and of the token after it.
fn off_by_one(metadata: &Metadata, a: &str) -> Metadata {
    let mut edited = Metadata::new(metadata.path());
    for (key, value) in metadata.iter() {
        let mut value = value.clone();
        if key == "tokenizer.ggml.tokens"
            && let Value::Array(Array::Str(tokens)) = &mut value
        {
            let mut texts: Vec<Vec<u8>> = tokens.iter().map(<[u8]>::to_vec).collect();
            let at = texts.iter().position(|t| t == a.as_bytes()).expect("there");
            texts.swap(at, at + 1);
            *tokens = texts.iter().collect::<StringArray>();
        }
        edited.insert(key, value).expect("a new key");
    }
    edited
}

#[test]
fn a_tokenizer_that_is_off_fails_while_the_numbers_pass() {
    let scratch = Scratch::new();
    let other = scratch.path("other");
    std::fs::create_dir(&other).expect("a folder");
    tiny_with(&scratch.path("m.gguf"), Clone::clone);
    tiny_with(&other.join("m.gguf"), |m| off_by_one(m, "\u{2581}time"));
    let candidate = script(
        &scratch,
        "off",
        &format!("cd '{}'", other.display()),
        "exec",
    );
    let text = scratch.path("text.txt");
    std::fs::write(&text, "The dog and the cat. ".repeat(60)).expect("a text");
    let prompts = ["--prompt", "The dog", "--prompt", "Once upon a time there"];
    let flags = ["--candidate", &candidate, "--text", "text.txt"];
    let (code, report, summary) = run_in(&scratch.path(""), &[&prompts[..], &flags].concat());
    assert_eq!(
        (code, report.verdict.status),
        (10, Status::Fail),
        "{summary}"
    );
    assert_eq!(report.verdict.at_fault, AtFault::Undetermined);
    assert!(report.verdict.first_divergence.is_none());
    let [finding] = findings(&report)[..] else {
        panic!("{:?}", report.verdict.reasons)
    };
    let reason = &finding.text;
    let start = "the tokenizers of rust and off differ; the first: prompt 1, token ";
    assert!(reason.starts_with(start), "{reason}");
    assert!(reason.contains(" \" time\" in the reference"), "{reason}");
    // The numbers, for which both were fed the reference's IDs, are equal.
    assert_eq!(report.coverage.compared, report.coverage.expected);
    let gated = report
        .taps
        .iter()
        .flat_map(|t| [&t.isolated, &t.cumulative]);
    let gated: Vec<_> = gated.flatten().filter_map(|s| s.pass).collect();
    assert!(!gated.is_empty() && gated.iter().all(|&pass| pass));

    let parity = parity(&report);
    assert_eq!(parity.fed.as_deref(), Some("rust"));
    assert_eq!(parity.not_compared, None);
    let equal: Vec<_> = parity
        .texts
        .iter()
        .map(|t| (t.prompt, t.comparison.equal))
        .collect();
    assert_eq!(equal, [(Some(0), true), (Some(1), false), (None, true)]);
    let parts = &parity.texts[1].comparison;
    let first = parts.first_difference.expect("a difference");
    assert_eq!(parts.same_text, Some(false));
    for side in [&parts.reference, &parts.candidate] {
        assert!(side.around.iter().any(|t| t.index == first), "{side:?}");
        assert!(side.around.len() > 1, "{side:?}");
    }
    assert_eq!(parity.texts[2].source, "text.txt");
    let generated = &parity.generated;
    assert_eq!(generated.compared, Some(1000));
    assert_eq!(generated.different_pieces, Some(2));
    let different = generated.different.expect("a count");
    assert!((1..1000).contains(&different), "{different}");
    assert!(!generated.first.is_empty() && generated.first.iter().all(|t| !t.comparison.equal));
    assert!(summary.contains("tokenizers  2 of 3 texts, "), "{summary}");
    let html = std::fs::read_to_string(scratch.path("out/report.html")).expect("a page");
    assert!(html.contains("<section id=\"tokenizers\">"));
}

#[test]
fn tokenizers_that_agree() {
    let reference = if cfg!(feature = "reference") {
        "bitnet.cpp"
    } else {
        "rust"
    };
    let args = ["--reference", reference, "--no-bench", "--n-predict", "2"];
    let (code, report, summary) = run(Path::new(TINY), &args);
    assert_eq!(code, 0, "{:?}", report.verdict.reasons);
    let parity = parity(&report);
    assert!(parity.texts.len() == 1 && parity.texts[0].comparison.equal);
    let generated = &parity.generated;
    assert_eq!(
        (generated.compared, generated.different),
        (Some(1000), Some(0))
    );
    assert_eq!(generated.different_pieces, Some(0));
    assert!(summary.contains("tokenizers  1 of 1 text, 1,000 of 1,000 generated strings equal"));
}

#[test]
fn an_engine_without_a_tokenizer_is_not_compared() {
    let scratch = Scratch::new();
    let trace = scratch.path("run.safetensors");
    let trace = trace.to_str().expect("UTF-8");
    let record = ["record", "--model", TINY, "--engine", "rust", "-o", trace];
    assert_eq!(exit_code(&crossval(&record)), 0);
    let reference = format!("trace:{trace}");
    let (code, report, summary) = run(Path::new(TINY), &["--reference", &reference]);
    assert_eq!(code, 0, "{:?}", report.verdict.reasons);
    let parity = parity(&report);
    let why = format!("the reference ({reference}) has no tokenizer");
    assert_eq!(parity.not_compared, Some(why));
    assert_eq!(parity.fed.as_deref(), Some("rust"));
    assert!(parity.texts.is_empty());
    let generated = &parity.generated;
    assert_eq!((generated.compared, generated.different), (None, None));
    assert!(
        summary.contains("tokenizers  not compared: the reference"),
        "{summary}"
    );
}

#[test]
fn an_engine_that_dies_while_tokenizing_is_a_failure() {
    let scratch = Scratch::new();
    tiny_with(&scratch.path("m.gguf"), Clone::clone);
    let requests = scratch.path("requests");
    let tee = script(
        &scratch,
        "tee",
        "",
        &format!("tee '{}' |", requests.display()),
    );
    let run = |candidate: &str| {
        let flags = ["--candidate", candidate, "--mode", "cumulative"];
        run_in(&scratch.path(""), &flags)
    };
    assert_eq!(run(&tee).0, 0);
    // The strings are what comes last, and are some hundred kilobytes.
    let enough = std::fs::metadata(&requests).expect("requests").len() - 20_000;
    let head = format!("dd bs=1 count={enough} 2>/dev/null |");
    let (code, report, _) = run(&script(&scratch, "mortal", "", &head));
    assert_eq!((code, report.verdict.status), (30, Status::Error));
    let failure = report
        .engines
        .candidate
        .failure
        .as_ref()
        .expect("a failure");
    assert!(
        failure.during.starts_with("tokenizing string "),
        "{failure:?}"
    );
    assert_eq!(
        parity(&report).not_compared.as_deref(),
        Some("an engine failed")
    );
    assert_eq!(report.coverage.compared, report.coverage.expected);
}
