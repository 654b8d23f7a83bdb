//! Sample reports whose verdict is more than a pass or a failure: arbitrated, or excused.

use reports::model::*;

use crate::sample;

/// The reference computes another activation than the model says, and the oracle shows it.
pub fn reference_at_fault() -> Report {
    let mut report = sample::pass();
    report.verdict = Verdict {
        status: Status::Fail,
        exit_code: 10,
        reasons: vec![
            "6 taps beyond the limit; the first: layer 0, ffn_act of prompt 0 at position 0"
                .to_owned(),
        ],
        findings: Vec::new(),
        at_fault: AtFault::Reference,
        first_divergence: Some(Divergence {
            prompt: 0,
            position: 0,
            layer: Some(0),
            tap: "ffn_act".to_owned(),
            mode: Mode::Isolated,
            element: 301,
            reference: Some(0.731_058_6),
            candidate: Some(1.0),
            oracle: Some(1.000_000_01),
            nmse: Some(0.42),
            limit: 1e-12,
            hint: Some("the reference matches SiLU, the model says squared ReLU".to_owned()),
            arbitration: Some(Arbitration {
                reference: judgement(
                    Some(0.41),
                    &[
                        "matches SiLU, the model says squared ReLU",
                        "off by more than F16 rounding explains",
                    ],
                ),
                candidate: judgement(Some(2.1e-15), &[]),
            }),
            part: None,
        }),
    };
    for entry in &mut report.taps {
        if entry.tap == "ffn_act" {
            sample::set(entry.isolated.as_mut().unwrap(), 0.42);
        }
    }
    report.perplexity = Some(Perplexity {
        source: "texts/wiki.txt".to_owned(),
        window: 256,
        windows: 1,
        tokens: 127,
        reference: None,
        candidate: Some(17.250_31),
        difference: None,
        kl_mean: None,
        top1_agreement: 0.5,
        near_ties: None,
        worst_nmse: None,
    });
    report
}

/// Two differences that the ledger expects, and nothing else.
pub fn known() -> Report {
    let mut report = reference_at_fault();
    report.verdict.status = Status::Pass;
    report.verdict.exit_code = 0;
    report.verdict.reasons.clear();
    report.known = vec![
        deviation("ffn_act", None, Some(Mode::Isolated), KnownState::Matched),
        deviation("generation", None, None, KnownState::Matched),
    ];
    report.perplexity = Some(Perplexity {
        source: "texts/wiki.txt".to_owned(),
        window: 256,
        windows: 32,
        tokens: 4064,
        reference: Some(17.250_31),
        candidate: Some(17.250_52),
        difference: Some(PerplexityDifference {
            mean: 1.217e-5,
            low: Some(-3.1e-6),
            high: Some(2.85e-5),
        }),
        kl_mean: Some(2.2e-6),
        top1_agreement: 0.9995,
        near_ties: Some(0.0005),
        worst_nmse: Some(2.4e-4),
    });
    report
}

/// The ledger is out of date: one entry did not occur, one is past its day.
pub fn stale() -> Report {
    let mut report = sample::pass();
    report.verdict.status = Status::Fail;
    report.verdict.exit_code = 10;
    report.verdict.reasons = vec!["2 known deviations are out of date".to_owned()];
    report.verdict.at_fault = AtFault::Undetermined;
    report.known = vec![
        deviation("q_rope", Some(3), None, KnownState::Unmatched),
        deviation("logits", None, Some(Mode::Cumulative), KnownState::Expired),
        deviation("ffn_act", None, None, KnownState::Matched),
    ];
    // Not an address of the web: must not become a link.
    report.known[1].link = "javascript:alert(1)".to_owned();
    report
}

fn judgement(nmse: Option<f64>, findings: &[&str]) -> Judgement {
    Judgement {
        layer: Some(0),
        tap: "ffn_act".to_owned(),
        nmse,
        limit: 1e-12,
        right: findings.is_empty(),
        rounding: "none".to_owned(),
        findings: findings.iter().map(|&f| f.to_owned()).collect(),
    }
}

fn deviation(
    tap: &str,
    layer: Option<usize>,
    mode: Option<Mode>,
    state: KnownState,
) -> KnownDeviation {
    KnownDeviation {
        tap: tap.to_owned(),
        layer,
        mode,
        at_fault: Some(AtFault::Reference),
        ceiling: None,
        reason: "the reference reads the activation from the wrong key".to_owned(),
        link: format!("https://example.org/issues/{tap}?a=1&b=2"),
        expires: "2027-01-31".to_owned(),
        state,
        rows: 1,
        judged: 1,
        seed: None,
        refused: None,
        refused_to: None,
    }
}
