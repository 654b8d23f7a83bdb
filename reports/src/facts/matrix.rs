//! Several references: what came of each, and who agrees with whom.

use super::{Kind, State, Table, at_fault};
use crate::model::{FurtherReference, Matrix, MatrixPair, Report, Status};
use crate::number;

/// One row per further reference.
pub(super) fn further(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Reference", Kind::Text),
        ("Status", Kind::Text),
        ("At fault", Kind::Text),
        ("Why", Kind::Text),
    ]);
    for FurtherReference {
        reference,
        report,
        not_compared,
    } in &report.further
    {
        let (state, cells) = match report {
            Some(report) => {
                let verdict = &report.verdict;
                let why = verdict.reasons.first().cloned().unwrap_or_default();
                let at_fault = at_fault(report).unwrap_or_default();
                let status = verdict.status.name().to_owned();
                (state(verdict.status), [status, at_fault, why])
            }
            None => {
                let why = not_compared.clone().unwrap_or_default();
                (State::Plain, ["not compared".into(), String::new(), why])
            }
        };
        table.push(state, [vec![reference.clone()], cells.to_vec()].concat());
    }
    table
}

/// One row and one column per engine: the NMSE of the worst row of logits, and the tokens that are equal.
pub(super) fn matrix(report: &Report) -> Table {
    let Some(Matrix { engines, pairs }) = &report.matrix else {
        return Table::new(&[]);
    };
    let columns = engines.iter().map(|name| (name.as_str(), Kind::Text));
    let columns: Vec<_> = [("", Kind::Text)].into_iter().chain(columns).collect();
    let mut table = Table::new(&columns);
    for row in engines {
        let cells = engines.iter().map(|column| {
            let of_both = |p: &&MatrixPair| {
                let names = (&p.a, &p.b);
                names == (row, column) || names == (column, row)
            };
            pairs.iter().find(of_both).map_or("–".to_owned(), cell)
        });
        let own = |p: &&MatrixPair| p.a == *row || p.b == *row;
        let mut statuses = pairs.iter().filter(own).map(|pair| pair.status);
        let state = match statuses.all(|status| status == Some(Status::Pass)) {
            true => State::Pass,
            false => State::Plain,
        };
        table.push(state, [row.clone()].into_iter().chain(cells).collect());
    }
    table
}

/// `agree: logits 1.6e-4, 32 of 32 tokens`.
fn cell(pair: &MatrixPair) -> String {
    if let Some(why) = &pair.not_compared {
        return format!("not compared: {why}");
    }
    let word = match pair.status {
        Some(Status::Pass) => "agree",
        Some(Status::Fail) => "differ",
        Some(Status::Incomplete) => "incomplete",
        Some(Status::Error) | None => "error",
    };
    let nmse = pair.logits_nmse;
    let nmse = nmse.map_or("logits unknown".to_owned(), |nmse| {
        format!("logits {}", number::error(nmse))
    });
    match pair.tokens_equal.zip(pair.tokens) {
        Some((equal, tokens)) => format!("{word}: {nmse}, {equal} of {tokens} tokens"),
        None => format!("{word}: {nmse}"),
    }
}

fn state(status: Status) -> State {
    match status {
        Status::Pass => State::Pass,
        Status::Incomplete => State::Plain,
        Status::Fail | Status::Error => State::Fail,
    }
}
