//! The most likely tokens of both engines where their distributions differ most.

use serde::Serialize;

use super::output::modes;
use super::{Kind, State, Table, mode_name};
use crate::model::{LogitsAt, Report, TokenLogit};
use crate::number;

/// Positions shown per mode; the report's JSON has those of every prompt.
const SHOWN: usize = 6;

/// One position.
#[derive(Serialize)]
pub(crate) struct WorstPosition {
    /// `prompt 0, position 7, cumulative: KL 4.0e-5 nats`.
    pub title: String,
    /// Only the order of near equals differs.
    pub near_tie: bool,
    /// Token by token, both engines side by side.
    pub tokens: Table,
}

/// The worst positions of each mode, what a user gets first, and how many are left out.
pub(super) fn positions(report: &Report) -> (Vec<WorstPosition>, usize) {
    let mut all: Vec<_> = modes(report)
        .flat_map(|(prompt, mode, stats)| stats.worst.iter().map(move |at| (prompt, mode, at)))
        .collect();
    let kl = |at: &LogitsAt| at.kl.unwrap_or(f64::INFINITY);
    all.sort_by(|a, b| b.1.cmp(&a.1).then(kl(b.2).total_cmp(&kl(a.2))));
    let found = all.len();
    let mut taken = (None, 0);
    all.retain(|&(_, mode, _)| {
        taken = if taken.0 == Some(mode) {
            (taken.0, taken.1 + 1)
        } else {
            (Some(mode), 1)
        };
        taken.1 <= SHOWN
    });
    let left_out = found - all.len();
    let shown = all.into_iter().map(|(prompt, mode, at)| WorstPosition {
        title: format!(
            "prompt {prompt}, position {}, {}: KL {}",
            at.position,
            mode_name(mode),
            at.kl.map_or(number::NOT_FINITE.to_owned(), |kl| format!(
                "{} nats",
                number::error(kl)
            ))
        ),
        near_tie: at.near_tie,
        tokens: tokens(at),
    });
    (shown.collect(), left_out)
}

fn tokens(at: &LogitsAt) -> Table {
    let mut table = Table::new(&[
        ("Rank", Kind::Number),
        ("Reference", Kind::Code),
        ("Logit", Kind::Number),
        ("Probability", Kind::Number),
        ("Candidate", Kind::Code),
        ("Logit", Kind::Number),
        ("Probability", Kind::Number),
    ]);
    for rank in 0..at.reference.len().max(at.candidate.len()) {
        let mut cells = vec![(rank + 1).to_string()];
        cells.extend(token(at.reference.get(rank)));
        cells.extend(token(at.candidate.get(rank)));
        table.push(State::Plain, cells);
    }
    table
}

/// `77 " a"`, its logit and its probability.
fn token(token: Option<&TokenLogit>) -> [String; 3] {
    let Some(token) = token else {
        return Default::default();
    };
    let finite = |x: Option<f64>, format: fn(f64) -> String| {
        x.map_or_else(|| number::NOT_FINITE.to_owned(), format)
    };
    let name = match &token.text {
        Some(text) => format!("{} \"{}\"", token.token, text.escape_debug()),
        None => token.token.to_string(),
    };
    [
        name,
        finite(token.logit, |x| number::significant(x, 5)),
        finite(token.probability, number::share),
    ]
}
