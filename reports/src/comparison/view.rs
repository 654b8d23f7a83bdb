//! A comparison as text and tables.

use std::cmp::Ordering::Equal;
use std::collections::HashMap;

use serde::Serialize;

use super::parity::TAPS;
use super::{Answer, Change, Comparison, Direction, Reading, Subject, keys};
use crate::facts::{Kind, State, Table};
use crate::number;

/// What every rendering lays out.
#[derive(Serialize)]
pub(super) struct View {
    pub title: String,
    /// `A` and `B`, and what each run is.
    pub runs: [(&'static str, String); 2],
    /// What changed, in numbers.
    pub summary: String,
    /// One row per question that either run answers.
    pub glance: Table,
    pub settings: Table,
    /// A title and the changes, those for the worse first; subjects without changes are left out.
    pub subjects: Vec<(String, Table)>,
}

const DIRECTIONS: [(Direction, &str); 5] = [
    (Direction::Worse, "worse"),
    (Direction::Better, "better"),
    (Direction::Changed, "changed"),
    (Direction::Vanished, "vanished"),
    (Direction::Appeared, "appeared"),
];
/// Rows of taps that vanished or appeared, beyond which those of one prompt and mode share a row.
const ALIKE: usize = 8;

impl View {
    pub(super) fn new(comparison: &Comparison) -> View {
        let subjects = &comparison.subjects;
        let changed = |direction| {
            let changes = subjects.iter().flat_map(|subject| &subject.changes);
            changes
                .filter(|change| change.direction == direction)
                .count() as u64
        };
        let counts = counts(changed);
        let unchanged = subjects.iter().map(|subject| subject.unchanged).sum();
        let title = match counts.as_str() {
            "" => "Nothing changed".to_owned(),
            counts => format!("B against A: {counts}"),
        };
        let mut settings = Table::new(&[("", Kind::Text), ("A", Kind::Code), ("B", Kind::Code)]);
        for setting in &comparison.settings {
            let cell = |value: &Option<String>| value.clone().unwrap_or_default();
            settings.push(
                State::Plain,
                vec![setting.name.clone(), cell(&setting.a), cell(&setting.b)],
            );
        }
        View {
            title,
            runs: [("A", &comparison.a), ("B", &comparison.b)]
                .map(|(name, run)| (name, format!("{}, {}", run.created, run.headline))),
            summary: format!(
                "{} did not change beyond noise.",
                number::plural(unchanged, "figure")
            ),
            glance: glance(comparison),
            settings,
            subjects: subjects
                .iter()
                .filter(|subject| !subject.changes.is_empty())
                .map(|subject| (title_of(subject), table(subject)))
                .collect(),
        }
    }
}

/// What both runs say first, side by side.
fn glance(comparison: &Comparison) -> Table {
    let (a, b) = (&comparison.a.answers, &comparison.b.answers);
    let about = |answers: &[Answer]| answers.iter().map(|x| x.about.clone()).collect::<Vec<_>>();
    let mut table = Table::new(&[("", Kind::Text), ("A", Kind::Text), ("B", Kind::Text)]);
    for name in keys(&about(a), &about(b)) {
        let cell = |answers: &[Answer]| {
            let answer = answers.iter().find(|answer| answer.about == name);
            answer.map_or(number::NOT_MEASURED.to_owned(), |answer| {
                answer.text.clone()
            })
        };
        table.push(State::Plain, vec![name.clone(), cell(a), cell(b)]);
    }
    table
}

/// `2 worse, 1 better`.
fn counts(changed: impl Fn(Direction) -> u64) -> String {
    let counts = DIRECTIONS.iter().filter_map(|&(direction, word)| {
        let n = changed(direction);
        (n > 0).then(|| format!("{} {word}", number::count(n)))
    });
    counts.collect::<Vec<_>>().join(", ")
}

fn title_of(subject: &Subject) -> String {
    let of = |direction| {
        let changes = subject.changes.iter();
        changes
            .filter(|change| change.direction == direction)
            .count() as u64
    };
    format!(
        "{}: {}, {} unchanged",
        subject.name,
        counts(of),
        number::count(subject.unchanged)
    )
}

/// One row per change; the layers of a tap that changed alike share one.
fn table(subject: &Subject) -> Table {
    let mut table = Table::new(&[
        ("Change", Kind::Text),
        ("Of", Kind::Text),
        ("A", Kind::Number),
        ("B", Kind::Number),
    ]);
    for (direction, word) in DIRECTIONS {
        let state = match direction {
            Direction::Worse | Direction::Vanished => State::Fail,
            Direction::Better => State::Pass,
            Direction::Appeared | Direction::Changed => State::Plain,
        };
        let mut rows = alike(subject, direction);
        if subject.name == TAPS {
            rows.sort_by(|a, b| {
                telling(b.shown)
                    .partial_cmp(&telling(a.shown))
                    .unwrap_or(Equal)
            });
        }
        for Alike { shown, more } in rows {
            let mut name = shown.name.clone();
            if let Some(layer) = shown.layer {
                name += &format!(", layer {layer}");
            }
            if more > 0 {
                name += &format!(" and {} more", number::count(more));
            }
            let cell = |reading: &Option<Reading>| {
                let text = reading.as_ref().map(|reading| reading.text.clone());
                text.unwrap_or_else(|| number::NOT_MEASURED.to_owned())
            };
            let word = match (shown.crossed_limit, direction) {
                (true, Direction::Worse) => "worse, beyond its limit",
                (true, _) => "better, within its limit",
                (false, _) => word,
            };
            table.push(
                state,
                vec![word.to_owned(), name, cell(&shown.a), cell(&shown.b)],
            );
        }
    }
    table
}

/// Changes that share a row.
struct Alike<'a> {
    /// The most telling of them.
    shown: &'a Change,
    /// How many there are beside it.
    more: u64,
}

/// The changes in one direction, those of the same name but of several layers together.
fn alike(subject: &Subject, direction: Direction) -> Vec<Alike<'_>> {
    let all = subject.changes.iter();
    let all: Vec<_> = all.filter(|change| change.direction == direction).collect();
    let rows = together(&all, |change| &change.name);
    let one_sided = matches!(direction, Direction::Vanished | Direction::Appeared);
    if one_sided && rows.len() > ALIKE && subject.name == TAPS {
        return together(&all, |change| {
            let of = change.name.rsplit_once(", ");
            of.map_or(change.name.as_str(), |(prompt_and_mode, _)| prompt_and_mode)
        });
    }
    rows
}

fn together<'a>(changes: &[&'a Change], key: impl Fn(&'a Change) -> &'a str) -> Vec<Alike<'a>> {
    let mut rows: Vec<Alike<'a>> = Vec::new();
    let mut row_of = HashMap::new();
    for &change in changes {
        let at = *row_of.entry(key(change)).or_insert(rows.len());
        match rows.get_mut(at) {
            None => rows.push(Alike {
                shown: change,
                more: 0,
            }),
            Some(row) => {
                row.more += 1;
                if telling(change) > telling(row.shown) {
                    row.shown = change;
                }
            }
        }
    }
    rows
}

/// What is shown first: what crossed its limit, then the error in the run where it is the larger; infinite if it has no
/// number.
fn telling(change: &Change) -> (bool, f64) {
    let readings = [&change.a, &change.b].into_iter().flatten();
    let errors = readings.map(|reading| reading.value.unwrap_or(f64::INFINITY));
    (change.crossed_limit, errors.fold(0.0, f64::max))
}
