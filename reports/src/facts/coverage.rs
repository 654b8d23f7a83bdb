//! What was to be compared, and what was.

use super::{Kind, State, Table};
use crate::model::{Coverage, Report};
use crate::number;

/// Whether everything that was to be compared was.
pub(super) fn complete(coverage: &Coverage) -> bool {
    coverage.compared == coverage.expected && coverage.missing.is_empty()
}

pub(super) fn table(report: &Report) -> Table {
    let coverage = &report.coverage;
    let mut table = Table::new(&[("", Kind::Text), ("", Kind::Code)]);
    let complete = if complete(coverage) {
        State::Plain
    } else {
        State::Fail
    };
    table.push(
        State::Plain,
        vec!["Rows expected".to_owned(), number::count(coverage.expected)],
    );
    table.push(
        complete,
        vec!["Rows compared".to_owned(), number::count(coverage.compared)],
    );
    if !coverage.vacuous.is_empty() {
        let rows = vec![
            "Zero in both engines".to_owned(),
            coverage.vacuous.join("; "),
        ];
        table.push(State::Fail, rows);
    }
    for (engine, taps) in &coverage.not_offered {
        table.push(
            State::Plain,
            vec![format!("Not offered by {engine}"), taps.join(" ")],
        );
    }
    for (engine, taps) in &coverage.not_offered_because {
        for (tap, reason) in taps {
            let why = format!("Why {engine} does not offer {tap}");
            table.push(State::Plain, vec![why, reason.clone()]);
        }
    }
    table
}
