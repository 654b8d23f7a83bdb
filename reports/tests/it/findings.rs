//! What a verdict rests on, as data.

use reports::model::*;
use reports::outcome::Outcome;
use serde_json::json;

use crate::{gate, sample};

/// What the reasons of a report without findings are taken for.
fn found(
    exit_code: u8,
    reasons: &[&str],
    gate: Option<(u8, &str)>,
) -> Vec<(Outcome, Source, String)> {
    let mut report = sample::pass();
    report.verdict.exit_code = exit_code;
    report.verdict.reasons = reasons.iter().map(|&reason| reason.to_owned()).collect();
    report.gate = gate.map(|(ungated_exit_code, reason)| Gate {
        ungated_exit_code,
        reasons: vec![reason.to_owned()],
        ..gate::gate()
    });
    let findings = report.findings().into_owned().into_iter();
    findings.map(|f| (f.outcome, f.source, f.text)).collect()
}

#[test]
fn a_report_without_findings_counts_by_its_reasons_and_exit_codes() {
    use Outcome::{Incomplete, Parity};
    let unknown = |outcome, text: &str| (outcome, Source::Unknown, text.to_owned());
    assert_eq!(found(0, &[], None), []);
    assert_eq!(
        found(20, &["rows", "taps"], None),
        [unknown(Incomplete, "rows"), unknown(Incomplete, "taps")]
    );
    assert_eq!(
        found(20, &["fewer", "taps"], Some((10, "fewer"))),
        [
            (Incomplete, Source::Gate, "fewer".to_owned()),
            unknown(Parity, "taps")
        ]
    );
    // Whatever it leaves out, a failure is not forgotten.
    assert_eq!(
        found(10, &[], None),
        [unknown(Parity, "exit code 10, without a reason")]
    );
}

#[test]
fn the_outcome_is_the_worst_of_the_findings() {
    let mut report = sample::fail();
    assert_eq!(report.findings().len(), 2);
    assert_eq!(report.verdict.outcome(), Outcome::Parity);
    report.verdict.findings[1].outcome = Outcome::Performance;
    assert_eq!(report.verdict.outcome(), Outcome::ParityAndPerformance);
    report.verdict.findings.clear();
    assert_eq!(report.verdict.outcome(), Outcome::Parity);
}

#[test]
fn a_place_says_only_what_is_known() {
    let finding = json!({
        "outcome": "no_baseline",
        "source": "model_file",
        "place": { "role": "candidate" },
        "text": "t",
    });
    let mut finding: Finding = serde_json::from_value(finding).unwrap();
    assert_eq!(finding.outcome.exit_code(), 21);
    assert_eq!(finding.place.take(), Some(Role::Candidate.into()));
    let written = serde_json::to_value(&finding).unwrap();
    assert_eq!(written["place"], json!(null));
}
