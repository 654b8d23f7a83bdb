//! The negative control: with one deliberate error in our engine, the run fails and names the place.
#![cfg(feature = "reference")]

use reports::model::{Mode, Status};

use super::*;

struct Case {
    fault: &'static str,
    layer: Option<usize>,
    tap: &'static str,
}

fn assert_detected(model: &Path, cases: &[Case]) {
    for case in cases {
        let args = ["--fault", case.fault, "--no-bench", "--n-predict", "8"];
        let (code, report, _) = run(model, &args);
        assert_eq!(
            (code, report.verdict.status),
            (10, Status::Fail),
            "{}",
            case.fault
        );
        let first = report.verdict.first_divergence.expect("a divergence");
        assert_eq!(
            (first.tap.as_str(), first.layer, first.mode),
            (case.tap, case.layer, Mode::Isolated),
            "{}",
            case.fault
        );
        assert!(
            first.nmse.is_some_and(|nmse| nmse > first.limit),
            "{first:?}"
        );
        // In isolated mode the error shows where it is made, and nowhere after.
        let elsewhere = report.taps.iter().filter(|t| {
            t.tap != case.tap && t.isolated.as_ref().is_some_and(|s| s.pass == Some(false))
        });
        let elsewhere: Vec<&str> = elsewhere.map(|t| t.tap.as_str()).collect();
        assert!(
            elsewhere
                .iter()
                .all(|tap| case.fault == "rope-pairing" && *tap == "k_rope"),
            "{}: {elsewhere:?}",
            case.fault
        );
    }
}

#[test]
fn ternary_model() {
    assert_detected(
        Path::new(TINY),
        &[
            Case {
                fault: "rope-pairing",
                layer: Some(0),
                tap: "q_rope",
            },
            Case {
                fault: "skip-attn-sub-norm:2",
                layer: Some(2),
                tap: "attn_sub_norm",
            },
            Case {
                fault: "skip-ffn-sub-norm:5",
                layer: Some(5),
                tap: "ffn_sub_norm",
            },
            Case {
                fault: "weight-scale:3:ffn_down:1.01",
                layer: Some(3),
                tap: "ffn_down",
            },
            Case {
                fault: "weight-scale:1:attn_q:1.5",
                layer: Some(1),
                tap: "q",
            },
            Case {
                fault: "activation:4",
                layer: Some(4),
                tap: "ffn_act",
            },
        ],
    );
}

#[test]
fn float_model() {
    let scratch = Scratch::new();
    let model = synth(&scratch, "llama", &[]);
    assert_detected(
        &model,
        &[
            Case {
                fault: "rope-pairing",
                layer: Some(0),
                tap: "q_rope",
            },
            Case {
                fault: "weight-scale:1:attn_output:1.001",
                layer: Some(1),
                tap: "attn_proj",
            },
            Case {
                fault: "activation:0",
                layer: Some(0),
                tap: "ffn_act",
            },
        ],
    );
}

#[test]
fn cumulative_mode_alone_sees_it_too() {
    let args = [
        "--fault",
        "rope-pairing",
        "--no-bench",
        "--mode",
        "cumulative",
    ];
    let (code, report, _) = run(Path::new(TINY), &args);
    assert_eq!(code, 10);
    let first = report.verdict.first_divergence.expect("a divergence");
    assert_eq!(
        (first.tap.as_str(), first.mode),
        ("logits", Mode::Cumulative)
    );
}
