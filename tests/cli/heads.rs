//! Heads that do not divide the residual stream between them, and heads that are normed one by one.
#![cfg(feature = "reference")]

use reports::model::AtFault;

use super::*;

fn assert_passes(model: &Path, engines: [&str; 2]) {
    let [reference, candidate] = engines;
    let args = ["--reference", reference, "--candidate", candidate];
    let more = ["--no-bench", "--n-predict", "8"];
    let (code, report, _) = run(model, &[&args[..], &more].concat());
    assert_eq!(code, 0, "{engines:?}: {:#?}", report.verdict.reasons);
    assert!(report.coverage.missing.is_empty(), "{engines:?}");
    assert!(report.coverage.not_offered.values().all(Vec::is_empty));
}

/// As Falcon3 has them: 8 heads of 256 values beside a stream of 2048.
#[test]
fn of_256_values() {
    let scratch = Scratch::new();
    let wide = ["--head-dim", "256", "--heads", "3", "--kv-heads", "1"];
    for ty in ["f32", "i2_s"] {
        // Rows of 128 in I2_S: 768 is a multiple.
        let model = synth(&scratch, "llama", &[&wide[..], &["--type", ty]].concat());
        assert_passes(&model, ["bitnet.cpp", "rust"]);
        if ty == "f32" && mainline::built().is_some() {
            assert_passes(&model, [mainline::NAME, "rust"]);
        }
    }
}

const NORMED: [&str; 6] = ["--head-dim", "64", "--heads", "6", "--layers", "2"];

#[test]
fn that_are_normed() {
    let scratch = Scratch::new();
    let model = synth(
        &scratch,
        "qwen3",
        &[&NORMED[..], &["--type", "i2_s"]].concat(),
    );
    assert_passes(&model, ["oracle", "rust"]);
    assert_passes(&model, ["rust", "oracle"]);
    if mainline::built().is_none() {
        return;
    }
    for ty in ["f32", "f16"] {
        let model = synth(&scratch, "qwen3", &[&NORMED[..], &["--type", ty]].concat());
        assert_passes(&model, [mainline::NAME, "rust"]);
        assert_passes(&model, ["rust", mainline::NAME]);
        let model = model.to_str().expect("UTF-8");
        let output = crossval(&["doctor", "--graph", model, "--reference", mainline::NAME]);
        let listed = String::from_utf8_lossy(&output.stdout).into_owned();
        let all = "every node was understood, every tap was found";
        assert!(listed.contains(all), "{listed}");
    }
}

#[test]
fn what_engines_get_wrong_of_that_is_named() {
    let scratch = Scratch::new();
    let model = synth(&scratch, "qwen3", &NORMED);
    for (fault, says) in [
        ("norm-over-the-row:q_norm:0", "norms the whole row"),
        ("norm-left-out:k_norm:1", "leaves out the norm"),
        ("other-norms-gamma:q_norm:1", "the weights of another norm"),
        (
            "rotated-before-norm:k_rope:0",
            "rotates what comes before the norm",
        ),
    ] {
        let args = ["--reference", "oracle", "--fault", fault, "--no-bench"];
        let (code, report, _) = run(&model, &[&args[..], &["--n-predict", "4"]].concat());
        let verdict = report.verdict;
        assert_eq!(
            (code, verdict.at_fault),
            (10, AtFault::Candidate),
            "{fault}"
        );
        let first = verdict.first_divergence.expect("a divergence");
        assert!(fault.contains(&format!(":{}:", first.tap)), "{fault}");
        let hint = first.hint;
        assert!(hint.as_ref().is_some_and(|h| h.contains(says)), "{hint:?}");
    }
}
