//! The `crossval` binary, from outside: what people and CI see of it.

mod activation;
mod adversity;
mod bad_input;
mod bench;
mod chat;
#[cfg(unix)]
mod check_worker;
mod convert;
mod diff;
mod dying_engine;
mod engines_of_others;
mod exec;
mod false_alarms;
mod faults;
mod flags;
mod formats;
mod gate;
mod generate;
mod graphs;
mod heads;
mod help;
mod hostile;
mod inspect;
mod known;
mod mainline;
mod matrix;
mod messages;
mod no_tokenizer;
mod norms;
mod parity;
mod perplexity;
mod profile;
mod python;
mod record;
#[cfg(feature = "reference")]
mod reported;
mod rope_scaling;
mod sandbox;
mod split;
mod stress;
mod tiles;
mod token_parity;
mod tokenize;
mod vocabularies;
mod weight_types;
mod wrong;

use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bitnet_core::gguf::{Gguf, Metadata, Writer};
use reports::Report;
use reports::model::Finding;

/// The bundled demo model.
const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny-bitnet.gguf");

/// A run that takes little time and needs no BitNet.cpp.
const SMALL_RUN: [&str; 7] = [
    "run",
    "--model",
    TINY,
    "--reference",
    "rust",
    "--n-predict",
    "4",
];

/// A folder that lives as long as the test.
struct Scratch(tempfile::TempDir);

impl Scratch {
    fn new() -> Scratch {
        Scratch(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A program that is a shell script.
    fn program(&self, name: &str, script: &str) -> PathBuf {
        let program = self.path(name);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("a script");
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, mode).expect("a mode");
        program
    }

    /// An engine that is one, by the name that the command line knows it by.
    fn engine(&self, name: &str, script: &str) -> String {
        format!("exec:{}", self.program(name, script).display())
    }
}

fn crossval<S: AsRef<std::ffi::OsStr>>(args: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crossval"))
        .args(args)
        .output()
        .expect("crossval starts")
}

fn exit_code(output: &Output) -> i32 {
    output.status.code().expect("crossval exits")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `crossval run` on a model, with its report.
fn run(model: &Path, more: &[&str]) -> (i32, Report, String) {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let mut args = vec!["run", "--model", model.to_str().expect("UTF-8")];
    args.extend(["--out", out.to_str().expect("UTF-8")]);
    args.extend(more);
    let output = crossval(&args);
    let report = read_report(&out, &output);
    (
        exit_code(&output),
        report,
        String::from_utf8_lossy(&output.stdout).into_owned(),
    )
}

/// What a run found, but for what is said of every model whose file does not name its activation, as the bundled one, and
/// for roundings that the layers grow, which depend on the tokens drawn and on NumPy's sums on this CPU.
fn findings(report: &Report) -> Vec<&Finding> {
    let by_chance = [
        "is assumed (--activation",
        "rounding, amplified over the layers",
    ];
    let all = report.verdict.findings.iter();
    all.filter(|f| !by_chance.iter().any(|says| f.text.contains(says)))
        .collect()
}

/// The report that a command wrote. Its JSON is checked against its schema, its exit code against the command's.
fn read_report(out: &Path, output: &Output) -> Report {
    let json = std::fs::read_to_string(out.join("report.json"))
        .unwrap_or_else(|e| panic!("no report ({e}): {}", stderr(output)));
    let value: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    let schema = jsonschema::validator_for(&Report::json_schema()).expect("a schema");
    let errors: Vec<String> = schema.iter_errors(&value).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "against the schema: {errors:?}");
    for file in ["report.html", "report.md"] {
        assert!(out.join(file).is_file(), "{file}");
    }
    let report: Report = serde_json::from_value(value).expect("a report");
    assert_eq!(i32::from(report.verdict.exit_code), exit_code(output));
    report
}

/// A synthetic model.
fn synth(scratch: &Scratch, arch: &str, more: &[&str]) -> PathBuf {
    let file = scratch.path(&format!("{arch}.gguf"));
    let mut args = vec!["synth", "--arch", arch, "--preset", "tiny"];
    if !more.contains(&"--seed") {
        args.extend(["--seed", "7"]);
    }
    args.extend(["-o", file.to_str().expect("UTF-8")]);
    args.extend(more);
    let output = crossval(&args);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    file
}

/// A copy of the bundled model, with the metadata that `edit` makes of its own.
fn tiny_with(to: &Path, edit: impl FnOnce(&Metadata) -> Metadata) {
    model_with(Path::new(TINY), to, edit);
}

/// A copy of a model, likewise.
fn model_with(from: &Path, to: &Path, edit: impl FnOnce(&Metadata) -> Metadata) {
    let gguf = Gguf::open(from).expect("a model");
    let mut writer = Writer::new(edit(gguf.metadata())).expect("a writer");
    for t in gguf.tensors() {
        writer.tensor(&t.name, &t.shape, t.ty).expect("a tensor");
    }
    let file = BufWriter::new(File::create(to).expect("a file"));
    let mut file = writer.begin(file).expect("a head");
    for t in gguf.tensors() {
        let data = gguf.data(t).expect("data");
        file.write_tensor(|out| out.write_all(data))
            .expect("written");
    }
    file.finish().expect("complete");
}

/// A file without tensors, where the metadata says that it comes from.
fn write_metadata(metadata: Metadata) -> PathBuf {
    let to = metadata.path().to_owned();
    let writer = Writer::new(metadata).expect("a writer");
    let writer = writer.begin(File::create(&to).expect("a file"));
    writer.expect("a head").finish().expect("written");
    to
}

/// A file of ../shared, which not every checkout has.
fn shared(path: &str) -> Option<PathBuf> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../shared/data")
        .join(path);
    if file.is_file() {
        return Some(file);
    }
    skip(&format!("../shared/data/{path} is absent"));
    None
}

/// Says so even where the test harness captures what tests print.
fn skip(why: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
