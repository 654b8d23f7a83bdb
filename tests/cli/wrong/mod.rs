//! Engines that are wrong: the example worker with one mutation each, and what a run makes of them.
#![cfg(unix)]

mod amplified;
mod arithmetic;
mod blame;
mod conditions;
mod elements;
mod generation;
mod models;
mod noise;
mod roundings;
mod times;

use reports::model::Role;

use super::*;

pub(super) fn example(name: &str) -> PathBuf {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python");
    examples.join(name)
}

/// The interpreter of the environment that `cargo xtask setup` makes.
pub(super) fn interpreter() -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_BIN_EXE_crossval"))
        .ancestors()
        .map(|dir| dir.join("python/bin/python"))
        .find(|interpreter| interpreter.is_file());
    if found.is_none() {
        skip("the Python environment is absent (cargo xtask setup)");
    }
    found
}

/// `exec:` and a script that runs a worker.
pub(super) fn exec(scratch: &Scratch, program: &Path) -> Option<String> {
    let interpreter = interpreter()?;
    let script = format!("exec '{}' '{}'", interpreter.display(), program.display());
    Some(scratch.engine("worker", &script))
}

/// The example with parts of its source replaced: an engine that errs, or lies.
pub(super) fn doctored(scratch: &Scratch, changes: &[(&str, &str)]) -> Option<String> {
    let mut source = std::fs::read_to_string(example("worker.py")).expect("the worker");
    for (part, by) in changes {
        assert!(source.contains(part), "{part}");
        source = source.replace(part, by);
    }
    let program = scratch.path("doctored.py");
    std::fs::write(&program, source).expect("a worker");
    exec(scratch, &program)
}

/// A run of a doctored candidate against the Rust engine.
pub(super) fn run_doctored(changes: &[(&str, &str)]) -> Option<(i32, Report)> {
    run_doctored_as(Role::Candidate, changes, &["--no-bench"])
}

/// A run of a doctored engine in a role, with the Rust engine in the other, and more flags.
pub(super) fn run_doctored_as(
    role: Role,
    changes: &[(&str, &str)],
    more: &[&str],
) -> Option<(i32, Report)> {
    let scratch = Scratch::new();
    let doctored = doctored(&scratch, changes)?;
    let (reference, candidate) = match role {
        Role::Reference => (doctored.as_str(), "rust"),
        Role::Candidate => ("rust", doctored.as_str()),
    };
    let engines = ["--reference", reference, "--candidate", candidate];
    let (code, report, _) = run(Path::new(TINY), &[&engines[..], more].concat());
    Some((code, report))
}
