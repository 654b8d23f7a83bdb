//! The example worker: an implementation that shares nothing with either engine agrees with both.
#![cfg(unix)]

use std::os::unix::fs::PermissionsExt;

use reports::model::{Mode, Status};

use super::*;

/// `exec:` and a script that runs a Python program in the environment of `cargo xtask setup`.
fn python(scratch: &Scratch, program: &str) -> Option<String> {
    let interpreter = Path::new(env!("CARGO_BIN_EXE_crossval"))
        .ancestors()
        .map(|dir| dir.join("python/bin/python"))
        .find(|interpreter| interpreter.is_file());
    let Some(interpreter) = interpreter else {
        skip("the Python environment is absent (cargo xtask setup)");
        return None;
    };
    let script = scratch.path("worker");
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(program);
    let text = format!(
        "#!/bin/sh\nexec '{}' '{}'\n",
        interpreter.display(),
        program.display()
    );
    std::fs::write(&script, text).expect("a script");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("a mode");
    Some(format!("exec:{}", script.display()))
}

fn worker(scratch: &Scratch) -> Option<String> {
    python(scratch, "examples/python/worker.py")
}

/// A pass in which every row of every tap was compared in both modes.
fn assert_parity(model: &Path, engines: &[&str]) {
    let mut args = vec!["--no-bench"];
    args.extend(engines);
    let (code, report, _) = run(model, &args);
    assert_eq!(
        (code, report.verdict.status),
        (0, Status::Pass),
        "{engines:?}: {:#?}",
        report.verdict.reasons
    );
    assert_eq!(report.inputs.modes, [Mode::Isolated, Mode::Cumulative]);
    let prompt = &report.inputs.prompts[0];
    let rows = prompt.tokens.len() + prompt.decode_tokens.len();
    let taps = 3 + 20 * report.model.n_layer;
    assert_eq!(report.coverage.expected, (2 * rows * taps) as u64);
    assert_eq!(report.coverage.compared, report.coverage.expected);
    let generation = report.generation.expect("a generation");
    assert_eq!(generation.candidate.len(), 32);
}

#[test]
fn agrees_with_the_rust_engine() {
    let scratch = Scratch::new();
    let Some(worker) = worker(&scratch) else {
        return;
    };
    let tiny = Path::new(TINY);
    assert_parity(tiny, &["--reference", "rust", "--candidate", &worker]);
    assert_parity(tiny, &["--reference", &worker, "--candidate", "rust"]);
}

#[cfg(feature = "reference")]
#[test]
fn agrees_with_the_reference() {
    let scratch = Scratch::new();
    let Some(worker) = worker(&scratch) else {
        return;
    };
    assert_parity(Path::new(TINY), &["--candidate", &worker]);
    for arch in ["bitnet", "bitnet-25"] {
        let model = synth(&scratch, arch, &[]);
        assert_parity(&model, &["--candidate", &worker]);
    }
}

#[test]
fn refuses_what_it_cannot_run() {
    let scratch = Scratch::new();
    let Some(worker) = worker(&scratch) else {
        return;
    };
    let cut = scratch.path("cut.gguf");
    let whole = std::fs::read(TINY).expect("the model");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("half a model");
    let out = scratch.path("out");
    let llama = synth(&scratch, "llama", &[]);
    for (model, says) in [(&cut, "cut.gguf"), (&llama, "architecture 'llama'")] {
        let output = crossval(&[
            "run".as_ref(),
            "--reference".as_ref(),
            worker.as_ref(),
            "--candidate".as_ref(),
            worker.as_ref(),
            "--model".as_ref(),
            model.as_os_str(),
            "--tokens".as_ref(),
            "1,2".as_ref(),
            "--out".as_ref(),
            out.as_os_str(),
        ]);
        assert_eq!(exit_code(&output), 65);
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}

#[test]
fn says_that_numpy_is_missing() {
    let worker = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python/worker.py");
    // -S: without site-packages.
    let output = Command::new("python3").arg("-S").arg(worker).output();
    let Ok(output) = output else {
        skip("python3 is absent");
        return;
    };
    assert_eq!(exit_code(&output), 1);
    let stderr = stderr(&output);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.contains("numpy is missing"), "{stderr}");
}
