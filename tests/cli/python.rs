//! The example worker: an implementation that shares nothing with either engine agrees with both.
#![cfg(unix)]

use reports::model::{AtFault, Mode, Status};

use super::wrong::{doctored, example, exec, interpreter, run_doctored};
use super::*;

fn worker(scratch: &Scratch) -> Option<String> {
    exec(scratch, &example("worker.py"))
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
fn tokens_other_than_the_logits_say_are_no_near_tie() {
    let run = run_doctored(&[("int(logits[-1].argmax())", "int(logits[-1].argmin())")]);
    let Some((code, report)) = run else { return };
    assert_eq!(code, 10, "{:#?}", report.verdict);
    let mismatch = report.generation.and_then(|g| g.first_mismatch);
    let mismatch = mismatch.expect("a mismatch");
    assert!(!mismatch.near_tie && mismatch.margin > mismatch.max_logit_difference);
}

#[test]
fn a_token_out_of_range_is_blamed_on_who_said_it() {
    let run = run_doctored(&[("np.array(generated,", "np.array([100000000],")]);
    let Some((code, report)) = run else { return };
    assert_eq!(code, 30);
    assert!(report.engines.reference.failure.is_none());
    let failure = report.engines.candidate.failure.expect("a failure");
    assert!(
        failure
            .message
            .contains("token 100000000 of a vocabulary of 512")
    );
}

#[test]
fn a_token_that_is_cut_short_breaks_the_protocol() {
    let cut = "np.array(generated, \"<u4\").tobytes()";
    let run = run_doctored(&[(cut, &format!("{cut}[:-1]"))]);
    let Some((code, report)) = run else { return };
    assert_eq!(code, 30);
    let failure = report.engines.candidate.failure.expect("a failure");
    let says = "broke the protocol: 127 bytes of token IDs, while generating from prompt 0";
    assert!(failure.message.contains(says), "{}", failure.message);
}

#[test]
fn an_engine_does_not_choose_what_it_is_compared_in() {
    // It offers one tap, and claims that the model has no other.
    let Some((code, report)) =
        run_doctored(&[("taps=TAPS, overwrite", "taps=TAPS[:1], overwrite")])
    else {
        return;
    };
    assert_eq!(code, 20, "{:#?}", report.verdict);
    assert!(
        report
            .verdict
            .reasons
            .iter()
            .any(|r| r.contains("layer_out (by numpy), logits (by numpy)"))
    );
    // It claims that ternary weights are F16, and is off by what F16 would allow.
    let run = run_doctored(&[
        (
            "weight_types=weight_types)",
            "weight_types={t: [\"F16\"] for t in weight_types})",
        ),
        (
            "up = tap(\"ffn_up\", i, apply(w[\"ffn_up\"], h))",
            "up = tap(\"ffn_up\", i, apply(w[\"ffn_up\"], h) * f32(1.0005))",
        ),
    ]);
    let Some((code, report)) = run else { return };
    assert_eq!((code, report.verdict.at_fault), (30, AtFault::Candidate));
    assert!(report.verdict.reasons[0].contains("in F16, where the file has I2_S"));
    let first = report.verdict.first_divergence.expect("a divergence");
    assert_eq!((first.tap.as_str(), first.layer), ("ffn_up", Some(0)));
    assert!(
        first
            .hint
            .expect("a hint")
            .contains("constant factor 1.0005")
    );
}

#[test]
fn a_tap_sent_twice_breaks_the_protocol() {
    let twice = "h = tap(\"ffn_act\", i, tap(\"ffn_act\", i, self.activate(gate, up)))";
    let run = run_doctored(&[("h = tap(\"ffn_act\", i, self.activate(gate, up))", twice)]);
    let Some((code, report)) = run else { return };
    assert_eq!(code, 30);
    let failure = report.engines.candidate.failure.expect("a failure");
    assert!(
        failure.message.contains("layer 0, ffn_act") && failure.message.contains("second time"),
        "{}",
        failure.message
    );
}

#[test]
fn values_that_are_not_finite_are_named() {
    let run = run_doctored(&[(
        "np.maximum(gate, 0) ** 2 * up",
        "np.maximum(gate, 0) ** 2 * up / 0",
    )]);
    let Some((code, report)) = run else { return };
    assert_eq!((code, report.verdict.status), (10, Status::Fail));
    assert!(report.coverage.not_finite[0].contains("layer 0, ffn_act"));
    let hint = report.verdict.first_divergence.and_then(|d| d.hint);
    assert!(hint.expect("a hint").contains("values that are not finite"));
}

#[test]
fn a_difference_that_does_not_come_back_is_not_judged() {
    // Wrong once, in the first pass that takes values.
    let run = run_doctored(&[
        (
            "(np.maximum(gate, 0) ** 2 * up).astype(f32)",
            "(np.maximum(gate, 0) ** 2 * up * self.once()).astype(f32)",
        ),
        (
            "    def activate(self, gate, up):",
            "    overwriting, spoilt = False, 0\n\n    def once(self):\n        \
             Session.spoilt += Session.overwriting\n        \
             return 1.5 if Session.overwriting and Session.spoilt == 3 else 1\n\n    \
             def activate(self, gate, up):",
        ),
        (
            "        logits = self.session.evaluate(tokens, tap)",
            "        Session.overwriting = overwrite\n        logits = self.session.evaluate(tokens, tap)",
        ),
    ]);
    let Some((code, report)) = run else { return };
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Undetermined));
    let first = report.verdict.first_divergence.expect("a divergence");
    assert_eq!((first.tap.as_str(), first.layer), ("ffn_act", Some(2)));
    assert!(
        first
            .hint
            .expect("a hint")
            .contains("other rows when they were asked again")
    );
}

/// A reference that computes SiLU where the model says squared ReLU.
#[test]
fn a_reference_with_the_wrong_activation_is_at_fault() {
    let scratch = Scratch::new();
    let Some(wrong) = doctored(
        &scratch,
        &[("if self.model.arch == \"bitnet\":", "if True:")],
    ) else {
        return;
    };
    let (code, report, _) = run(Path::new(TINY), &["--reference", &wrong, "--no-bench"]);
    assert_eq!(
        (code, report.verdict.at_fault),
        (10, AtFault::Reference),
        "{:#?}",
        report.verdict
    );
    let first = report.verdict.first_divergence.expect("a divergence");
    assert_eq!((first.tap.as_str(), first.layer), ("ffn_act", Some(0)));
    let hint = first.hint.expect("a hint");
    assert!(hint.contains("matches SiLU"), "{hint}");
}

#[test]
fn reads_a_trace() {
    let Some(interpreter) = interpreter() else {
        return;
    };
    let header = r#"{"__metadata__":{"engine":"rust"},
        "prompt0.layer03.q":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#;
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend([1.5f32, -2.0].map(f32::to_le_bytes).as_flattened());
    let scratch = Scratch::new();
    let trace = scratch.path("trace.safetensors");
    std::fs::write(&trace, bytes).expect("a trace");
    for (tensor, says) in [
        (None, "engine: rust\nprompt0.layer03.q  F32 [1, 2]\n"),
        (Some("prompt0.layer03.q"), "[[ 1.5 -2. ]]\n"),
    ] {
        let mut command = Command::new(&interpreter);
        command.arg(example("read_trace.py")).arg(&trace);
        let output = command.args(tensor).output().expect("python starts");
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), says);
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
    let worker = example("worker.py");
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
