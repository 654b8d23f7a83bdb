//! Known deviations, as they were applied.

use super::{Kind, State, Table, mode_name};
use crate::model::{AtFault, KnownState, Report};

pub(super) fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Tap", Kind::Code),
        ("Layer", Kind::Number),
        ("Mode", Kind::Text),
        ("At fault", Kind::Text),
        ("Reason", Kind::Text),
        ("Link", Kind::Link),
        ("Expires", Kind::Text),
        ("State", Kind::Text),
    ]);
    for known in &report.known {
        let (state, text) = match known.state {
            KnownState::Matched => (State::Plain, "matched"),
            KnownState::Unmatched => (State::Fail, "failed: did not occur"),
            KnownState::Expired => (State::Fail, "failed: expired"),
            KnownState::Refused => (State::Fail, "failed: excuses less than it covers"),
        };
        table.push(
            state,
            vec![
                known.tap.clone(),
                known
                    .layer
                    .map_or_else(|| "any".to_owned(), |layer| layer.to_string()),
                known.mode.map_or("any", mode_name).to_owned(),
                match known.at_fault {
                    Some(AtFault::Reference) => "reference",
                    Some(AtFault::Candidate) => "candidate",
                    Some(AtFault::Both) => "both",
                    _ => "not said",
                }
                .to_owned(),
                known.reason.clone(),
                known.link.clone(),
                known.expires.clone(),
                text.to_owned(),
            ],
        );
    }
    table
}
