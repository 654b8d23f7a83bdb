//! Engines of others: the examples in C and in Rust, whose forward passes share nothing with either engine, agree with
//! both.
#![cfg(unix)]

use std::sync::LazyLock;

use reports::model::{AtFault, Mode, Status};

use super::*;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A compiler on the example in C; `-Werror`, so that it stays clean for those who copy it.
fn compile(
    compiler: &str,
    flags: &[&str],
    source: &Path,
    program: &Path,
) -> std::io::Result<Output> {
    Command::new(compiler)
        .args(flags)
        .args(["-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-I"])
        .arg(Path::new(ROOT).join("crossval-protocol/include"))
        .arg(source)
        .arg("-o")
        .arg(program)
        .arg("-lm")
        .output()
}

/// The example in C with parts of its source replaced, as an engine.
pub(super) fn c_engine(scratch: &Scratch, changes: &[(&str, &str)]) -> String {
    let mut source =
        std::fs::read_to_string(Path::new(ROOT).join("examples/c/engine.c")).expect("the example");
    for (part, by) in changes {
        assert_eq!(source.matches(part).count(), 1, "{part}");
        source = source.replace(part, by);
    }
    let (file, program) = (scratch.path("engine.c"), scratch.path("engine"));
    std::fs::write(&file, source).expect("a source");
    let output = compile("cc", &["-std=c99"], &file, &program).expect("cc starts");
    assert!(output.status.success(), "{}", stderr(&output));
    format!("exec:{}", program.display())
}

/// Models that it runs: a synthetic one, and stories260K where it is there.
fn models(scratch: &Scratch) -> Vec<PathBuf> {
    let stories = shared("models/stories260K.gguf");
    [synth(scratch, "llama", &[])]
        .into_iter()
        .chain(stories)
        .collect()
}

/// A run against `reference` in which logits are all that is compared.
fn run_logits(model: &Path, reference: &str, candidate: &str) -> (i32, Report) {
    let engines = ["--reference", reference, "--candidate", candidate];
    let more = ["--profile", "logits", "--no-bench"];
    let (code, report, _) = run(model, &[&engines[..], &more].concat());
    (code, report)
}

fn assert_parity(model: &Path, reference: &str, candidate: &str) {
    let (code, report) = run_logits(model, reference, candidate);
    let reasons = &report.verdict.reasons;
    assert_eq!(
        (code, report.verdict.status),
        (0, Status::Pass),
        "{reasons:#?}"
    );
    assert_eq!(report.inputs.modes, [Mode::Cumulative]);
    let prompt = &report.inputs.prompts[0];
    let rows = prompt.tokens.len() + prompt.decode_tokens.len();
    let coverage = (report.coverage.expected, report.coverage.compared);
    assert_eq!(coverage, (rows as u64, rows as u64));
    let generation = report.generation.expect("a generation");
    assert_eq!(generation.candidate.len(), 32);
}

#[test]
fn the_example_in_c_agrees_with_the_rust_engine() {
    let scratch = Scratch::new();
    let engine = c_engine(&scratch, &[]);
    for model in models(&scratch) {
        assert_parity(&model, "rust", &engine);
    }
}

/// Names that JSON writes in another way.
#[test]
fn the_header_reads_any_path() {
    let scratch = Scratch::new();
    let engine = c_engine(&scratch, &[]);
    let model = scratch.path("a \"llama\",\u{1} \\{\u{e9}\u{1f999}}]\n.gguf");
    std::fs::rename(synth(&scratch, "llama", &[]), &model).expect("a name");
    assert_parity(&model, "rust", &engine);
}

#[cfg(feature = "reference")]
#[test]
fn the_example_in_c_agrees_with_the_reference() {
    let scratch = Scratch::new();
    let engine = c_engine(&scratch, &[]);
    for model in models(&scratch) {
        assert_parity(&model, "bitnet.cpp", &engine);
    }
}

/// Without the profile, a stage that nobody compared is no pass.
#[test]
fn logits_alone_are_not_enough_for_the_default_profile() {
    let scratch = Scratch::new();
    let engine = c_engine(&scratch, &[]);
    let model = synth(&scratch, "llama", &[]);
    let more = ["--reference", "rust", "--candidate", &engine, "--no-bench"];
    let (code, report, _) = run(&model, &more);
    assert_eq!((code, report.verdict.status), (20, Status::Incomplete));
    let says = "profile standard requires what is not offered: layer_out (by";
    let reasons = &report.verdict.reasons;
    assert!(reasons[0].starts_with(says), "{reasons:?}");
}

#[test]
fn one_changed_weight_shows() {
    let scratch = Scratch::new();
    let loaded = "    model->output = model->embedding;\n";
    let changed = format!("{loaded}    ((float *)model->output_norm)[7] *= -2;\n");
    let engine = c_engine(&scratch, &[(loaded, &changed)]);
    for model in models(&scratch) {
        let (code, report) = run_logits(&model, "rust", &engine);
        assert_eq!((code, report.verdict.status), (10, Status::Fail));
        let first = report.verdict.first_divergence.expect("a divergence");
        assert_eq!(first.tap, "logits");
    }
}

#[test]
fn the_example_in_c_refuses_what_it_cannot_run() {
    let scratch = Scratch::new();
    let engine = c_engine(&scratch, &[]);
    let llama = synth(&scratch, "llama", &[]);
    let cut = scratch.path("cut.gguf");
    let whole = std::fs::read(&llama).expect("the model");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("half a model");
    let (none, out) = (scratch.path("none.gguf"), scratch.path("out"));
    for (model, says) in [
        (cut.as_path(), "does not lie in the file"),
        (Path::new(TINY), "the architecture is not llama"),
        (&none, "No such file"),
    ] {
        let mut args = vec!["run", "--reference", &engine, "--candidate", &engine];
        args.extend(["--tokens", "1,2", "--model", model.to_str().expect("UTF-8")]);
        args.extend(["--out", out.to_str().expect("UTF-8")]);
        let output = crossval(&args);
        assert_eq!(exit_code(&output), 65, "{}", stderr(&output));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

#[test]
fn the_example_in_c_is_cpp_too() {
    let scratch = Scratch::new();
    let source = Path::new(ROOT).join("examples/c/engine.c");
    let program = scratch.path("engine");
    let flags = ["-x", "c++", "-std=c++17"];
    let Ok(output) = compile("c++", &flags, &source, &program) else {
        return skip("a C++ compiler is absent");
    };
    assert!(output.status.success(), "{}", stderr(&output));
    let engine = format!("exec:{}", program.display());
    for model in models(&scratch) {
        assert_parity(&model, "rust", &engine);
    }
}

/// The example in Rust, built as its author would: for a test, cargo builds no program of another crate.
pub(super) fn rust_engine() -> &'static str {
    static ENGINE: LazyLock<String> = LazyLock::new(|| {
        let output = Command::new(env!("CARGO"))
            .args(["build", "--package", "example-engine", "--frozen"])
            .args(["--message-format", "json-render-diagnostics"])
            .args(["--target-dir", concat!(env!("CARGO_TARGET_TMPDIR"), "/..")])
            .current_dir(ROOT)
            .output()
            .expect("cargo starts");
        assert!(output.status.success(), "{}", stderr(&output));
        let messages = String::from_utf8(output.stdout).expect("UTF-8");
        let program = messages.lines().find_map(|line| {
            let message: serde_json::Value = serde_json::from_str(line).expect("JSON");
            Some(message["executable"].as_str()?.to_owned())
        });
        program.expect("a program")
    });
    &ENGINE
}

/// Every row of every tap, in both modes.
fn assert_whole_parity(model: &Path, reference: &str) {
    let candidate = format!("exec:'{}'", rust_engine());
    let engines = ["--reference", reference, "--candidate", &candidate];
    let (code, report, _) = run(model, &[&engines[..], &["--no-bench"]].concat());
    let reasons = &report.verdict.reasons;
    assert_eq!(
        (code, report.verdict.status),
        (0, Status::Pass),
        "{reasons:#?}"
    );
    assert_eq!(report.inputs.modes, [Mode::Isolated, Mode::Cumulative]);
    let prompt = &report.inputs.prompts[0];
    let rows = prompt.tokens.len() + prompt.decode_tokens.len();
    let taps = 3 + 18 * report.model.n_layer;
    let coverage = (report.coverage.expected, report.coverage.compared);
    let all = (2 * rows * taps) as u64;
    assert_eq!(coverage, (all, all));
    let generation = report.generation.expect("a generation");
    assert_eq!(generation.candidate.len(), 32);
}

#[test]
fn the_example_in_rust_agrees_with_the_rust_engine() {
    let scratch = Scratch::new();
    for model in models(&scratch) {
        assert_whole_parity(&model, "rust");
    }
}

#[cfg(feature = "reference")]
#[test]
fn the_example_in_rust_agrees_with_the_reference() {
    let scratch = Scratch::new();
    for model in models(&scratch) {
        assert_whole_parity(&model, "bitnet.cpp");
    }
}

/// The engine runs in a folder in which the same path leads to another file.
#[test]
fn one_weight_that_only_the_example_in_rust_reads_shows() {
    let scratch = Scratch::new();
    let there = scratch.path("there");
    std::fs::create_dir(&there).expect("a folder");
    let start = format!("cd '{}' && exec '{}'", there.display(), rust_engine());
    let candidate = scratch.engine("engine", &start);
    for model in models(&scratch) {
        let (ours, theirs) = (scratch.path("model.gguf"), there.join("model.gguf"));
        let mut bytes = std::fs::read(&model).expect("the model");
        std::fs::write(&ours, &bytes).expect("a copy");
        let gguf = Gguf::open(&ours).expect("a model");
        let tensor = gguf.tensor("blk.1.ffn_up.weight").expect("a tensor");
        let weight = bytes[tensor.offset as usize..]
            .first_chunk_mut()
            .expect("F32");
        *weight = (f32::from_le_bytes(*weight) * -2.0).to_le_bytes();
        std::fs::write(theirs, &bytes).expect("another copy");

        let output = Command::new(env!("CARGO_BIN_EXE_crossval"))
            .args(["run", "--model", "model.gguf", "--reference", "rust"])
            .args(["--no-bench", "--out", "out", "--candidate", &candidate])
            .current_dir(scratch.path(""))
            .output()
            .expect("crossval starts");
        let verdict = read_report(&scratch.path("out"), &output).verdict;
        assert_eq!(
            (exit_code(&output), verdict.at_fault),
            (10, AtFault::Candidate)
        );
        let first = verdict.first_divergence.expect("a divergence");
        assert_eq!((first.tap.as_str(), first.layer), ("ffn_up", Some(1)));
    }
}

#[test]
fn the_example_in_rust_refuses_what_it_cannot_run() {
    let candidate = format!("exec:'{}'", rust_engine());
    let engines = ["--reference", &candidate, "--candidate", &candidate];
    let model = ["--model", TINY, "--tokens", "1,2"];
    let output = crossval(&[&["run"], &engines[..], &model].concat());
    assert_eq!(exit_code(&output), 65, "{}", stderr(&output));
    let says = "the architecture is not llama";
    assert!(stderr(&output).contains(says), "{}", stderr(&output));
}
