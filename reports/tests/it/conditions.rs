//! The logits under other conditions, as every writer shows them.

use reports::model::*;
use reports::outcome::Outcome;

use crate::sample;

fn condition(asked: Asked, worker: History, nmse: f64, pass: bool) -> Condition {
    let own = Own {
        repeated: Some(0.0),
        varied: Some(2e-6),
    };
    Condition {
        batch: "2-8".to_owned(),
        place: Stretch::Middle,
        asked,
        context: 256,
        worker,
        expected: 5,
        rows: 5,
        largest_batch: 5,
        largest_position: 104,
        nmse: Some(nmse),
        reference: own,
        candidate: own,
        contradicted: Vec::new(),
        pass,
    }
}

fn with_conditions() -> Report {
    let mut report = sample::pass();
    report.conditions = Some(Conditions {
        seed: 7,
        compared: vec![
            condition(Asked::Logits, History::Fresh, 3e-6, true),
            condition(Asked::Logits, History::Used, 4e-6, true),
            condition(Asked::Unobserved, History::Used, 0.5, false),
        ],
        left_out: vec!["positions from 256 to 4095".to_owned()],
        largest_batch: Some(5),
        largest_position: Some(104),
        largest_context: Some(256),
        smallest_context: Some(64),
        evaluations: 120,
        limit: Some(1e-3),
        ..Conditions::default()
    });
    report
}

#[test]
fn what_was_covered_and_left_out_stands_everywhere() {
    let report = with_conditions();
    let terminal = reports::terminal::summary(&report).replace("\n      ", " ");
    let covered = "batches up to 5, positions up to 104, contexts 64 to 256, 120 evaluations in one \
                   worker; left out (--thorough): positions from 256 to 4095";
    assert!(terminal.contains(covered), "{terminal}");
    let html = reports::html::render(&report).expect("a page");
    let markdown = reports::markdown::render(&report);
    for text in [&html, &markdown] {
        assert!(text.contains("positions from 256 to 4095"));
        // Of two workers, the worst.
        assert!(text.contains("4.0e-6") && !text.contains("3.0e-6"));
        assert!(text.contains("last logits, unobserved"));
    }
}

#[test]
fn a_run_says_why_it_compared_none() {
    let mut report = with_conditions();
    let conditions = Conditions {
        not_compared: Some("a trace cannot be asked".to_owned()),
        ..Conditions::default()
    };
    report.conditions = Some(conditions);
    let terminal = reports::terminal::summary(&report);
    assert!(terminal.contains("conditions  not compared: a trace cannot be asked"));
    let junit = reports::junit::render(&report).expect("XML");
    assert!(junit.contains("skipped message=\"not compared: a trace cannot be asked\""));
}

#[test]
fn the_case_fails_for_what_was_found_and_not_for_what_is_excused() {
    let mut report = with_conditions();
    let cases = |report: &Report| reports::junit::render(report).expect("XML");
    assert!(!cases(&report).contains("<failure"));
    report.verdict.findings.push(Finding {
        outcome: Outcome::Parity,
        source: Source::Conditions,
        place: Some(Role::Candidate.into()),
        text: "the candidate's logits are not its own".to_owned(),
    });
    let cases = cases(&report);
    let failure = cases.lines().find(|line| line.contains("<failure"));
    assert!(
        failure.is_some_and(|line| line.contains("logits are not its own")),
        "{cases}"
    );
}
