//! The most likely tokens of both engines where their distributions differ most.

use serde::Serialize;

use super::output::modes;
use super::{Kind, State, Table, mode_name};
use crate::model::{LogitsAt, Mode, Report, TokenLogit};
use crate::number;

/// Positions shown per mode; the report's JSON has those of every prompt.
const SHOWN: usize = 6;

/// The worst positions of one mode.
#[derive(Serialize)]
pub(crate) struct WorstOfMode {
    pub mode: &'static str,
    pub positions: Vec<WorstPosition>,
    /// Positions that the report has beside those.
    pub left_out: usize,
}

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

/// The worst positions over all prompts, by mode, what a user gets first.
pub(super) fn positions(report: &Report) -> Vec<WorstOfMode> {
    [Mode::Cumulative, Mode::Isolated]
        .into_iter()
        .map(|mode| of_mode(report, mode))
        .filter(|of_mode| !of_mode.positions.is_empty())
        .collect()
}

fn of_mode(report: &Report, mode: Mode) -> WorstOfMode {
    let mut all: Vec<(usize, &LogitsAt)> = modes(report)
        .filter(|(_, of, _)| *of == mode)
        .flat_map(|(prompt, _, stats)| stats.worst.iter().map(move |at| (prompt, at)))
        .collect();
    let kl = |at: &LogitsAt| at.kl.unwrap_or(f64::INFINITY);
    all.sort_by(|a, b| kl(b.1).total_cmp(&kl(a.1)));
    let position = |&(prompt, at): &(usize, &LogitsAt)| WorstPosition {
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
    };
    WorstOfMode {
        mode: mode_name(mode),
        positions: all.iter().take(SHOWN).map(position).collect(),
        left_out: all.len().saturating_sub(SHOWN),
    }
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
