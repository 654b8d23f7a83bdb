//! `crossval tokenize`: two tokenizers side by side.

use std::io::Write;
use std::process::Stdio;

use bitnet_core::gguf::{Array, Gguf, Metadata, Value};

use super::*;

const TOKENS: &str = "tokenizer.ggml.tokens";

/// The vocabulary of a model in a file without tensors; `edit` may change the list of tokens.
fn vocabulary_of(model: &Path, to: &Path, edit: impl Fn(&mut Vec<Vec<u8>>)) {
    let gguf = Gguf::open(model).expect("a model");
    let mut metadata = Metadata::new(to);
    for (key, value) in gguf.metadata().iter() {
        let value = match value {
            Value::Array(Array::Str(tokens)) if key == TOKENS => {
                let mut tokens: Vec<Vec<u8>> = tokens.iter().map(<[u8]>::to_vec).collect();
                edit(&mut tokens);
                Value::Array(Array::Str(tokens.iter().collect()))
            }
            other => other.clone(),
        };
        metadata.insert(key, value).expect("a new key");
    }
    std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
    write_metadata(metadata);
}

/// An engine that loads the file of the same name in a folder of its own, where two tokens have changed places.
fn swapped(scratch: &Scratch, model: &Path) -> (PathBuf, String) {
    let (here, there) = (
        scratch.path("here/vocab.gguf"),
        scratch.path("there/vocab.gguf"),
    );
    vocabulary_of(model, &here, |_| {});
    vocabulary_of(model, &there, |tokens| {
        let find = |text: &str| {
            tokens
                .iter()
                .position(|t| t == text.as_bytes())
                .expect("a token")
        };
        let (x, y) = (find("x"), find("y"));
        tokens.swap(x, y);
    });
    let script = format!(
        "cd '{}' && exec '{}' worker rust",
        scratch.path("there").display(),
        env!("CARGO_BIN_EXE_crossval")
    );
    (here, scratch.engine("swapped", &script))
}

/// `crossval tokenize` in the folder of the model; exit code, standard output, standard error.
fn tokenize(model: &Path, more: &[&str], input: &[u8]) -> (i32, String, String) {
    let name = model.file_name().expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_crossval"))
        .current_dir(model.parent().expect("a folder"))
        .args(["tokenize".as_ref(), "--model".as_ref(), name])
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("crossval starts");
    // Usage errors come before the text is read.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    let output = child.wait_with_output().expect("crossval ends");
    let stdout = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    (exit_code(&output), stdout, stderr(&output))
}

fn json(out: &str) -> serde_json::Value {
    serde_json::from_str(out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

/// IDs of one engine.
fn ids(model: &Path, engine: &str, more: &[&str], text: &str) -> Vec<u32> {
    let mut args = vec!["--engine", engine, "--ids"];
    args.extend(more);
    let (code, out, errors) = tokenize(model, &args, text.as_bytes());
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
}

#[test]
fn special_tokens_are_added_and_parsed_unless_told_otherwise() {
    let model = Path::new(TINY);
    let all = ids(model, "rust", &[], "a</s>");
    assert_eq!((all[0], all.last()), (1, Some(&2)));
    assert_eq!(ids(model, "rust", &["--no-bos"], "a</s>"), all[1..]);
    let spelt = ids(model, "rust", &["--no-parse-special"], "a</s>");
    assert!(spelt.len() > all.len() && !spelt.contains(&2), "{spelt:?}");
}

#[test]
fn one_engine_alone() {
    let model = Path::new(TINY);
    let (code, out, _) = tokenize(model, &["--engine", "rust", "--json"], b"Once");
    assert_eq!((code, out.as_str()), (0, "{\"rust\":[1,403]}\n"));
    let (code, out, _) = tokenize(model, &["--engine", "rust", "--text", "Once"], b"");
    assert_eq!(code, 0);
    assert!(out.contains("403  \" Once\""), "{out}");
    assert!(out.ends_with("rust: 2 tokens from 4 bytes\n"), "{out}");
}

#[test]
fn a_difference_is_shown_with_its_context() {
    let scratch = Scratch::new();
    let (model, engine) = swapped(&scratch, Path::new(TINY));
    let text = "a fox, a box";
    let args = ["--reference", &engine, "--text", text];
    let (code, out, errors) = tokenize(&model, &args, b"");
    assert_eq!(code, 10, "{errors}");
    let marked: Vec<&str> = out.lines().filter(|l| l.contains("<- first")).collect();
    assert_eq!(marked.len(), 1, "{out}");
    assert_eq!(marked[0].matches("\"x\"").count(), 2, "{out}");
    assert!(
        out.contains("at byte 4 of the text\n  after  \"a fo\"\n  before \"x, a box\""),
        "{out}"
    );
    assert!(out.contains("become different texts"), "{out}");
    assert!(
        out.lines()
            .last()
            .expect("a line")
            .starts_with("different: rust"),
        "{out}"
    );

    let (code, out, _) = tokenize(&model, &[&args[..], &["--json"]].concat(), b"");
    let value = json(&out);
    assert_eq!((code, &value["equal"]), (10, &false.into()));
    let tokens = |engine: &str| value[engine].as_array().expect("tokens").clone();
    let (ours, theirs) = (tokens("rust"), tokens(&engine));
    let first = ours.iter().zip(&theirs).position(|(a, b)| a != b);
    assert_eq!(value["first_difference"], first.expect("a difference"));

    let (code, out, _) = tokenize(&model, &[&args[..], &["--ids"]].concat(), b"");
    assert_eq!((code, out.lines().count()), (10, 2), "{out}");

    let long = "a fog ".repeat(2000) + text;
    let args = ["--reference", engine.as_str(), "--file", "-"];
    let (code, out, _) = tokenize(&model, &args, long.as_bytes());
    assert_eq!(code, 10);
    assert!(out.contains("at byte 12004 of the text"), "{out}");
    assert!(out.lines().count() < 40, "{out}");
}

#[test]
fn fuzzing_finds_a_difference_and_shrinks_it() {
    let scratch = Scratch::new();
    let (model, engine) = swapped(&scratch, Path::new(TINY));
    let args = ["--reference", &engine, "--fuzz", "300", "--seed", "5"];
    let (code, out, errors) = tokenize(&model, &[&args[..], &["--json"]].concat(), b"");
    assert_eq!(code, 10, "{errors}");
    let value = json(&out);
    assert_eq!(
        (&value["strings"], &value["equal"]),
        (&300.into(), &false.into())
    );
    assert_eq!(value["pieces"]["different"], 2);
    let mismatches = value["mismatches"].as_array().expect("mismatches");
    assert_eq!(mismatches.len(), 5);
    assert!(value["different"].as_u64() > Some(5));
    // One of the letters is enough; a token that contains it may take its neighbours.
    for mismatch in mismatches {
        let text = mismatch["text"].as_str().expect("a text");
        assert!(text.len() <= 4 && text.contains(['x', 'y']), "{mismatch}");
        assert_ne!(mismatch["rust"], mismatch[&engine]);
    }
    let (again, same, _) = tokenize(&model, &[&args[..], &["--json"]].concat(), b"");
    assert_eq!((again, same), (code, out));

    // What is printed shows the difference again.
    let (_, out, _) = tokenize(&model, &args, b"");
    let line = out
        .lines()
        .find(|l| l.contains("| crossval tokenize"))
        .expect("a line");
    let line = line.replace(
        "| crossval",
        &format!("| '{}'", env!("CARGO_BIN_EXE_crossval")),
    );
    let mut shell = Command::new("sh");
    let output = shell
        .current_dir(model.parent().expect("a folder"))
        .args(["-c", &line])
        .output()
        .expect("a shell");
    assert_eq!(exit_code(&output), 10, "{line}: {}", stderr(&output));
}

#[test]
fn an_engine_that_dies_is_an_error_that_names_the_string() {
    let scratch = Scratch::new();
    let engine = super::dying_engine::mortal(&scratch, 20_000);
    let args = ["--reference", &engine, "--fuzz", "5000", "--seed", "1"];
    let (code, out, errors) = tokenize(Path::new(TINY), &args, b"");
    assert_eq!((code, out.as_str()), (30, ""));
    assert!(errors.contains("died with SIGSEGV"), "{errors}");
    assert!(errors.contains(" of seed 1: \""), "{errors}");
}

#[test]
fn what_cannot_be_done_is_refused() {
    let scratch = Scratch::new();
    let no_model = scratch.path("none.gguf");
    std::fs::write(&no_model, "no model at all, but long enough for a header").expect("a file");
    let tiny = Path::new(TINY);
    for (model, args, code, says) in [
        (tiny, &["--engine", "rust", "--fuzz", "5"][..], 64, "--fuzz"),
        (
            tiny,
            &["--engine", "rust", "--reference", "rust"],
            64,
            "--reference",
        ),
        (tiny, &["--engine", "oracle"], 64, "oracle has no tokenizer"),
        (tiny, &["--engine", "java"], 64, "java"),
        (tiny, &["--reference", "rust"], 64, "both rust"),
        (tiny, &["--text", "a", "--file", "b"], 64, "--file"),
        (tiny, &["--text", "a", "--ids", "--json"], 64, "--json"),
        (tiny, &["--text", "a", "--reps", "2"], 64, "--reps"),
        (tiny, &["--reps", "2"], 64, "--file"),
        (tiny, &["--fuzz", "0"], 64, "--fuzz"),
        (tiny, &["--text", "a", "--seed", "1"], 64, "--seed"),
        (tiny, &["--seed", "1"], 64, "--fuzz"),
        (
            tiny,
            &["--engine", "rust", "--file", "/no/text"],
            65,
            "/no/text",
        ),
        (
            tiny,
            &["--reference", "bitnet.cpp@nowhere"],
            30,
            "cargo xtask reference nowhere",
        ),
        (tiny, &["--engine", "exec:/bin/true"], 30, "/bin/true"),
        (&no_model, &["--engine", "rust"], 65, "none.gguf"),
    ] {
        let (got, _, errors) = tokenize(model, args, b"text");
        assert_eq!(got, code, "{args:?}: {errors}");
        assert!(errors.contains(says), "{args:?}: {errors}");
    }
    let args = [
        "tokenize",
        "--model",
        "/no/such.gguf",
        "--text",
        "a",
        "--engine",
        "rust",
    ];
    let output = crossval(&args);
    assert_eq!(exit_code(&output), 65);
    assert!(
        stderr(&output).contains("/no/such.gguf"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn vocabularies_of_different_sizes_are_not_compared() {
    let scratch = Scratch::new();
    let (model, engine) = swapped(&scratch, Path::new(TINY));
    let other = synth(&scratch, "bitnet", &["--vocab", "300", "--layers", "1"]);
    vocabulary_of(&other, &scratch.path("there/vocab.gguf"), |_| {});
    let (code, _, errors) = tokenize(&model, &["--reference", &engine], b"text");
    assert_eq!(code, 65);
    assert!(errors.contains("300 tokens in swapped"), "{errors}");
}

#[cfg(feature = "reference")]
mod against_the_reference {
    use super::*;

    /// Byte-level BPE, without tensors.
    fn bpe(scratch: &Scratch) -> PathBuf {
        let model = synth(scratch, "bitnet", &["--vocab", "33000", "--layers", "1"]);
        let vocabulary = scratch.path("bpe.gguf");
        vocabulary_of(&model, &vocabulary, |_| {});
        vocabulary
    }

    fn fuzz(model: &Path, strings: u64, more: &[&str]) -> serde_json::Value {
        let count = strings.to_string();
        let args = [&["--json", "--seed", "11", "--fuzz", &count], more].concat();
        let (code, out, errors) = tokenize(model, &args, b"");
        assert_eq!(code, 0, "{}: {out}{errors}", model.display());
        let value = json(&out);
        assert_eq!(
            (&value["strings"], &value["different"]),
            (&strings.into(), &0.into())
        );
        assert_eq!(value["pieces"]["different"], 0);
        assert!(value["tokens"].as_u64() > Some(10 * strings), "{value}");
        value
    }

    #[test]
    fn the_same_tokens() {
        let model = Path::new(TINY);
        let text = "Once upon a time, there was a caf\u{e9}.\n";
        let (code, out, errors) = tokenize(model, &["--json"], text.as_bytes());
        assert_eq!(code, 0, "{errors}");
        let tokens = ids(model, "rust", &[], text);
        assert_eq!(tokens, ids(model, "bitnet.cpp", &[], text));
        let list = tokens.iter().map(u32::to_string).collect::<Vec<_>>();
        let list = list.join(",");
        assert_eq!(
            out,
            format!("{{\"rust\":[{list}],\"bitnet.cpp\":[{list}],\"equal\":true}}\n")
        );
        let (code, out, _) = tokenize(model, &["--ids", "--text", text], b"");
        assert_eq!((code, out), (0, format!("{tokens:?}\n")));
        let (code, out, _) = tokenize(model, &["--file", "-", "--reps", "2"], text.as_bytes());
        assert_eq!(code, 0);
        let row = out.lines().find(|l| l.contains("403")).expect("a row");
        assert_eq!(row.matches("\" Once\"").count(), 2, "{row}");
        assert!(
            out.contains("equal: ") && out.contains(" times as fast"),
            "{out}"
        );
    }

    #[test]
    fn a_vocabulary_is_enough() {
        let scratch = Scratch::new();
        let vocabulary = scratch.path("vocab.gguf");
        vocabulary_of(Path::new(TINY), &vocabulary, |_| {});
        let (code, out, errors) = tokenize(&vocabulary, &["--ids"], b"Once upon a time");
        assert_eq!(code, 0, "{errors}");
        let (_, of_model, _) = tokenize(Path::new(TINY), &["--ids"], b"Once upon a time");
        assert_eq!(out, of_model);
    }

    #[test]
    fn a_text_that_both_refuse_is_no_difference() {
        let scratch = Scratch::new();
        let model = bpe(&scratch);
        let text = b"caf\xe9 au lait";
        let (code, out, errors) = tokenize(&model, &[], text);
        assert_eq!(code, 0, "{errors}");
        assert!(
            out.ends_with("equal: both engines refuse the text, of 12 bytes\n"),
            "{out}"
        );
        let (code, out, _) = tokenize(&model, &["--json"], text);
        let value = json(&out);
        assert_eq!((code, &value["equal"]), (0, &true.into()));
        assert!(value["rust"].is_null() && value["refused"]["bitnet.cpp"].is_string());
        let (code, _, errors) = tokenize(&model, &["--engine", "rust"], text);
        assert_eq!(code, 65);
        assert!(errors.contains("refuses the text"), "{errors}");
        // SentencePiece falls back to bytes.
        let (code, out, _) = tokenize(Path::new(TINY), &["--json"], text);
        assert_eq!((code, json(&out)["rust"].is_array()), (0, true));
    }

    #[test]
    fn random_strings() {
        let scratch = Scratch::new();
        let spm = fuzz(Path::new(TINY), 2000, &[]);
        assert_eq!(spm["refused_by_both"], 0);
        let bpe = fuzz(&bpe(&scratch), 2000, &[]);
        assert!(bpe["refused_by_both"].as_u64() > Some(20), "{bpe}");
    }

    #[test]
    fn random_strings_with_real_vocabularies() {
        for name in ["llama-spm", "phi-3", "gpt-2", "falcon", "llama-bpe"] {
            let Some(model) = shared(&format!("vocab/ggml-vocab-{name}.gguf")) else {
                return;
            };
            let mut corpus = model.clone().into_os_string();
            corpus.push(".inp");
            fuzz(&model, 500, &["--file", corpus.to_str().expect("UTF-8")]);
        }
    }
}
