//! Files of public reports, each with what is right to say of it. (`rope_scaling` has the one of YaRN.)

use reports::model::Status;

use super::*;

const TOKENS: [&str; 5] = ["--tokens", "1,5,9,33,7", "--n-predict", "4", "--no-bench"];

/// `crossval inspect --check`: its exit code, what it shows, and what it says last.
fn checked(model: &Path) -> (i32, String, String) {
    let model = model.to_str().expect("UTF-8");
    let output = crossval(&["inspect", "--check", model]);
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    (exit_code(&output), shown, stderr(&output))
}

/// A run that comes to no report.
fn refused(model: &Path, more: &[&str]) -> (i32, String) {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let (model, out) = (model.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let args = [&["run", "--model", model, "--out", out][..], &TOKENS, more].concat();
    let output = crossval(&args);
    (exit_code(&output), stderr(&output))
}

const TWO_CPP: [&str; 6] = [
    "--reference",
    "bitnet.cpp",
    "--candidate",
    "bitnet.cpp",
    "--mode",
    "cumulative",
];

/// The line of a check.
fn found<'a>(shown: &'a str, check: &str) -> &'a str {
    let line = shown
        .lines()
        .find(|line| line.starts_with(&format!(" {check} ")));
    line.unwrap_or_else(|| panic!("{check}: {shown}"))
}

#[test]
fn scales_that_are_nan() {
    let Some(model) = shared("reports/all_tq2_nan.gguf") else {
        return;
    };
    let nan = "tensor \"blk.0.ffn_down.weight\": 768 of 768 scales are not finite";
    let (code, shown, said) = checked(&model);
    assert_eq!(code, 65, "{said}");
    assert!(said.contains(nan) && found(&shown, "weights-bad").contains(nan));
    for engines in [&[][..], &TWO_CPP] {
        let (code, said) = refused(&model, engines);
        assert_eq!(code, 65, "{said}");
        assert!(said.contains(nan), "{said}");
    }
}

#[test]
fn a_type_without_isolated_limits_of_its_own() {
    let Some(model) = shared("reports/all_tq1.gguf") else {
        return;
    };
    let (code, shown, _) = checked(&model);
    assert_eq!(code, 0);
    for says in ["21 of TQ1_0", "no matrix is: they are TQ1_0"] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    for engines in [&[][..], &TWO_CPP] {
        let (code, _, shown) = run(&model, &[&TOKENS[..], engines].concat());
        assert_eq!(code, 0, "{shown}");
    }
    if mainline::built().is_some() {
        let engines = ["--candidate", mainline::NAME, "--mode", "cumulative"];
        let (code, _, shown) = run(&model, &[&TOKENS[..], &engines].concat());
        assert_eq!(code, 30, "{shown}");
        assert!(shown.contains("bitnet.cpp loads it"), "{shown}");
    }
}

#[test]
fn what_was_not_evaluated_does_not_run() {
    let Some(model) = shared("reports/type_tl1.gguf") else {
        return;
    };
    let (code, shown, _) = checked(&model);
    assert_eq!(code, 0, "{shown}");
    assert!(
        shown.contains("\nbitnet.cpp: loads it, and cannot run it: "),
        "{shown}"
    );
    assert!(!shown.contains("\nbitnet.cpp: runs it"), "{shown}");
}

#[test]
fn zeros_are_named_and_compare_nothing() {
    let Some(model) = shared("reports/zero_mlp.gguf") else {
        return;
    };
    let (code, shown, _) = checked(&model);
    assert_eq!(code, 0, "{shown}");
    assert!(
        found(&shown, "weights-zero").contains("4, see below"),
        "{shown}"
    );
    let (code, report, said) = run(&model, &TOKENS);
    assert_eq!(
        (code, report.verdict.status),
        (20, Status::Incomplete),
        "{said}"
    );
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains("rows that are all zero in both engines"),
        "{reasons}"
    );
    let coverage = &report.coverage;
    assert!(coverage.compared < coverage.expected, "{said}");
    let (_, zeros) = shown.split_once("\nweights-zero:\n").expect("a list");
    for name in zeros.lines().take(4).map(str::trim) {
        assert!(
            name.starts_with("blk.") && reasons.contains(name),
            "{name}: {reasons}"
        );
    }
}

/// It computes garbage, and the engines agree on it: BitNet.cpp differs from itself by more than it may, which the layers
/// make of its roundings.
#[test]
fn weights_packed_for_another_engine() {
    let Some(model) = shared("reports/arm_layout.gguf") else {
        return;
    };
    let (code, report, shown) = run(&model, &TOKENS);
    assert_eq!((code, report.verdict.status), (0, Status::Pass), "{shown}");
    let conditions = report.conditions.expect("conditions");
    assert!(conditions.compared.iter().all(|condition| condition.pass));
    let limits = conditions.own_limits.expect("limits");
    let strayed = conditions.compared.iter().any(|condition| {
        let varied = condition.reference.varied;
        varied.is_some_and(|nmse| nmse > limits.reference.varied)
    });
    assert_eq!(
        strayed,
        conditions.own_amplified.reference.is_some(),
        "{shown}"
    );
    let Some(text) = shared("text/austen.txt") else {
        return;
    };
    let text = ["--text", text.to_str().expect("UTF-8"), "--chunks", "2"];
    let (code, report, shown) = run(&model, &[&TOKENS[..], &text].concat());
    assert_eq!(code, 20, "{shown}");
    let reasons = report.verdict.reasons.join("\n");
    for says in ["worse than guessing", "64 codes"] {
        assert!(reasons.contains(says), "{says}: {reasons}");
    }
}

#[test]
fn what_can_be_read_is_shown_before_the_error() {
    let Some(model) = shared("reports/shape3b.gguf") else {
        return;
    };
    let why =
        "tensor \"blk.0.ffn_down.weight\": rows of 576 elements, but I2_S needs a multiple of 128";
    let (code, shown, said) = checked(&model);
    assert_eq!(code, 65);
    assert!(said.contains(why), "{said}");
    for says in ["general.architecture", "blk.0.ffn_down.weight", "576 x "] {
        assert!(shown.contains(says), "{says}: {shown}");
    }
    let (code, said) = refused(&model, &[]);
    assert_eq!(code, 65);
    assert!(said.contains(why), "{said}");
}

#[test]
fn a_model_in_two_parts() {
    let parts = [
        "reports/m-00001-of-00002.gguf",
        "reports/m-00002-of-00002.gguf",
    ];
    let [Some(first), Some(second)] = parts.map(shared) else {
        return;
    };
    assert_eq!(checked(&first).0, 0);
    let (code, _, shown) = run(&first, &TOKENS);
    assert_eq!(code, 0, "{shown}");
    let (code, said) = refused(&second, &[]);
    assert_eq!(code, 65);
    assert!(
        said.contains("part 2 of 2 of a model: give the first"),
        "{said}"
    );
}

#[test]
fn scales_that_one_engine_refuses() {
    let Some(model) = shared("reports/scale_tensors.gguf") else {
        return;
    };
    let words = "wrong number of tensors; expected 110, got 68";
    let (code, shown, _) = checked(&model);
    assert_eq!(code, 0);
    assert!(
        shown.contains("\nrust: runs it") && shown.contains(words),
        "{shown}"
    );
    let (code, report, shown) = run(&model, &TOKENS);
    assert_eq!(code, 30, "{shown}");
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains(words) && reasons.contains("rust loads it"),
        "{reasons}"
    );
}
