//! The report on a terminal.

use reports::model::Report;
use reports::terminal::{bench, gate, status, summary};

use crate::hostile::{ATTACK, hostile};
use crate::sample;

/// Without the colour of the first word, which is the only one.
fn uncolored(text: &str, report: &Report) -> String {
    let rest = text.strip_prefix(&status(report.verdict.status));
    let word = report.verdict.status.name().to_uppercase();
    word + rest.expect("the status in its colour")
}

#[test]
fn summaries() {
    for (name, report) in [
        ("fail", sample::fail()),
        ("died", sample::died()),
        ("gated", crate::gate::report()),
        ("known", crate::judged::known()),
    ] {
        let text = uncolored(&summary(&report), &report);
        insta::assert_snapshot!(format!("terminal_{name}"), text);
    }
}

#[test]
fn benchmarks() {
    let report = sample::timed();
    insta::assert_snapshot!("terminal_bench", bench(&report));
}

#[test]
fn nothing_in_a_report_commands_the_terminal() {
    assert!(ATTACK.contains('\u{1b}'));
    for (name, report) in sample::all() {
        let report = hostile(&report);
        for text in [
            uncolored(&summary(&report), &report),
            uncolored(&gate(&report, ATTACK), &report),
            bench(&report),
        ] {
            let command = text.chars().find(|c| c.is_control() && *c != '\n');
            assert_eq!(command, None, "{name}: {text:?}");
        }
    }
}
