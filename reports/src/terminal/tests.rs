use serde_json::{Value, json};

use super::text::WIDTH;
use super::*;

/// The reference at fault, which the ledger excuses; a text was read.
fn excused_report() -> Value {
    let engine = |name: &str| json!({ "name": name, "build": {}, "settings": {} });
    let judgement = |nmse: f64, right: bool| {
        json!({
            "layer": 3, "tap": "ffn_act", "nmse": nmse, "limit": 1e-12, "right": right,
            "rounding": "none", "findings": [],
        })
    };
    let known = |tap: &str, layer: Option<usize>| {
        json!({
            "tap": tap, "layer": layer, "mode": "isolated", "reason": "the reference computes SiLU",
            "link": "https://example.org/issues/7", "expires": "2027-01-31", "state": "matched",
        })
    };
    json!({
        "schema": crate::model::SCHEMA,
        "created": "2026-08-01T12:00:00Z",
        "command": [],
        "verdict": {
            "status": "pass", "exit_code": 0, "reasons": [], "at_fault": "reference",
            "first_divergence": {
                "prompt": 0, "position": 4, "layer": 3, "tap": "ffn_act", "mode": "isolated",
                "element": 17, "reference": 0.75, "candidate": 1.0, "oracle": 1.0, "nmse": 0.5,
                "limit": 1e-12, "hint": "matches SiLU, the model says squared ReLU",
                "arbitration": {
                    "reference": judgement(0.5, false), "candidate": judgement(2e-15, true),
                },
            },
        },
        "model": {
            "path": "m.gguf", "size_bytes": 1, "sha256": "", "architecture": "bitnet", "n_layer": 4,
            "n_embd": 1, "n_ff": 1, "n_head": 1, "n_head_kv": 1, "n_vocab": 2, "n_ctx_train": 256,
            "tensor_types": {},
        },
        "engines": { "reference": engine("bitnet.cpp"), "candidate": engine("rust") },
        "environment": {
            "crossval_version": "0", "rustc": "", "profile": "", "target": "", "target_features": [],
            "os": "", "cpu_features": [], "cpus": 1,
        },
        "inputs": {
            "prompts": [], "n_predict": 0, "decode_steps": 8, "threads": 1, "modes": [],
            "profile": { "name": "standard", "isolated_nmse": {}, "cumulative_logits_nmse": 1e-3 },
        },
        "coverage": { "expected": 10, "compared": 10, "missing": [], "not_offered": {} },
        "taps": [],
        "logits": [],
        "noise_floor": { "description": "", "nmse": { "logits": 1.2e-4 } },
        "perplexity": {
            "source": "a.txt", "window": 256, "windows": 8, "tokens": 1016, "reference": 17.25031,
            "candidate": 17.25052, "difference": { "mean": 1.217e-5, "low": -3e-6, "high": 2.85e-5 },
            "kl_mean": 2.2e-6, "top1_agreement": 0.999,
        },
        "known": [known("ffn_act", Some(3)), known("generation", None)],
    })
}

fn plain(report: Value) -> String {
    let summary = summary(&serde_json::from_value(report).unwrap());
    let summary = anstream::adapter::strip_str(&summary).to_string();
    let wide = summary.lines().find(|line| line.chars().count() > WIDTH);
    assert_eq!(wide, None);
    summary
}

#[test]
fn a_pass_that_owes_to_the_ledger_says_so() {
    let want = "\
PASS with 2 known deviations  rust against bitnet.cpp: 10 of 10 rows compared
      element 17: reference 0.750000, candidate 1.00000, oracle 1.00000
      at fault: the reference (bitnet.cpp)
        reference: NMSE 5.0e-1 to the oracle at layer 3, ffn_act, limit 1.0e-12: wrong
        candidate: NMSE 2.0e-15 to the oracle at layer 3, ffn_act, limit 1.0e-12: right
      hint: matches SiLU, the model says squared ReLU
      known deviation matched: ffn_act, layer 3, isolated: the reference computes SiLU
      (https://example.org/issues/7, until 2027-01-31)
      known deviation matched: generation, isolated: the reference computes SiLU
      (https://example.org/issues/7, until 2027-01-31)

noise floor  logits, reference against itself: NMSE 1.2e-4

perplexity  reference 17.2503, candidate 17.2505, difference 1.22e-5 nats (-3.00e-6 to 2.85e-5),
      ratio 1.000012, KL 2.2e-6, same top-1 99.90%, 1,016 tokens scored in 8 windows
";
    assert_eq!(plain(excused_report()), want);
}

#[test]
fn what_is_null_is_not_said() {
    let mut report = excused_report();
    report["verdict"]["first_divergence"]["oracle"] = Value::Null;
    report["verdict"]["first_divergence"]["hint"] = Value::Null;
    report["verdict"]["first_divergence"]["arbitration"] = Value::Null;
    report["noise_floor"] = Value::Null;
    report["known"] = json!([]);
    for field in ["reference", "candidate", "difference", "kl_mean"] {
        report["perplexity"][field] = Value::Null;
    }
    let want = "\
PASS  rust against bitnet.cpp: 10 of 10 rows compared
      element 17: reference 0.750000, candidate 1.00000
      at fault: the reference (bitnet.cpp)

perplexity  same top-1 99.90%, 1,016 tokens scored in 8 windows
";
    assert_eq!(plain(report), want);
}

#[test]
fn a_ledger_out_of_date_is_a_failure() {
    let mut report = excused_report();
    report["verdict"]["status"] = "fail".into();
    report["known"][0]["state"] = "unmatched".into();
    report["known"][1]["state"] = "expired".into();
    let summary = plain(report);
    assert!(summary.starts_with("FAIL  rust"), "{summary}");
    for says in [
        "FAILED, did not occur: ffn_act",
        "FAILED, expired: generation",
    ] {
        assert!(summary.contains(says), "{summary}");
    }
}

#[test]
fn paragraphs_wrap_and_command_nothing() {
    let mut out = String::new();
    let text = format!("{} \u{1b}[2J {} end", "word ".repeat(30), "x".repeat(250));
    paragraph(&mut out, 2, &text).unwrap();
    assert!(!out.contains('\u{1b}'));
    assert!(
        out.lines().all(|line| line.chars().count() <= WIDTH),
        "{out}"
    );
    let letters = |text: &str| text.replace([' ', '\n'], "").replace('\u{fffd}', "\u{1b}");
    assert_eq!(letters(&out), letters(&text));
    let mut lines = out.lines();
    assert!(
        lines
            .next()
            .is_some_and(|line| line.starts_with("  word word"))
    );
    assert!(lines.all(|line| line.starts_with("      ")));
}

#[test]
fn what_ended_a_run_is_its_headline_and_a_mode_alone_has_no_columns_of_the_other() {
    let mut report = excused_report();
    let message = "mine died with SIGABRT while evaluating prompt 0, positions 0..5";
    report["verdict"] = json!({
        "status": "error", "exit_code": 30, "at_fault": "undetermined",
        "reasons": [message, "the file says nothing of its activation"],
    });
    report["engines"]["candidate"]["name"] = json!("exec:/opt/engines/mine --fast");
    report["engines"]["candidate"]["label"] = json!("mine");
    report["engines"]["candidate"]["failure"] = json!({
        "message": message, "during": "evaluating", "log_tail": ["loading", "out of luck"],
    });
    report["inputs"]["modes"] = json!(["cumulative"]);
    report["coverage"]["compared"] = json!(7);
    report["taps"] = json!([{
        "prompt": 0, "layer": null, "tap": "logits",
        "cumulative": {
            "rows": 7, "bit_equal": false, "nmse": 4.5e-6, "worst_position": 3, "non_finite": 0,
            "limit": 4e-3, "pass": true,
        },
    }]);
    report["known"] = json!([]);
    report["noise_floor"] = Value::Null;
    report["perplexity"] = Value::Null;
    let want = "\
ERROR  mine against bitnet.cpp: mine died with SIGABRT while evaluating prompt 0, positions 0..5
      its last words: out of luck
      7 of 10 rows compared until then
      cumulative mode only
      the file says nothing of its activation
      at fault: undetermined

 tap     cumulative NMSE   limit  in         
 logits           4.5e-6  4.0e-3  position 3 
";
    assert_eq!(plain(report), want);
}
