//! A comparison as text and tables.

use serde::Serialize;

use super::{Change, Comparison, Direction, Subject};
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
    pub settings: Table,
    /// A title and the changes, those for the worse first; subjects without changes are left out.
    pub subjects: Vec<(String, Table)>,
}

const DIRECTIONS: [(Direction, &str); 5] = [
    (Direction::Worse, "worse"),
    (Direction::Vanished, "vanished"),
    (Direction::Better, "better"),
    (Direction::Appeared, "appeared"),
    (Direction::Changed, "changed"),
];

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
            counts => format!("Of B against A: {counts}"),
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
            settings,
            subjects: subjects
                .iter()
                .filter(|subject| !subject.changes.is_empty())
                .map(|subject| (title_of(subject), table(subject)))
                .collect(),
        }
    }
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
        for (shown, more) in alike(subject, direction) {
            let mut name = shown.name.clone();
            if let Some(layer) = shown.layer {
                name += &format!(", layer {layer}");
            }
            if more > 0 {
                name += &format!(" and {}", number::plural(more, "more layer"));
            }
            let cell = |reading: &Option<super::Reading>| {
                let text = reading.as_ref().map(|reading| reading.text.clone());
                text.unwrap_or_else(|| number::NOT_MEASURED.to_owned())
            };
            table.push(
                state,
                vec![word.to_owned(), name, cell(&shown.a), cell(&shown.b)],
            );
        }
    }
    table
}

/// Of the changes in one direction, the most telling layer of each name, and how many more there are.
fn alike(subject: &Subject, direction: Direction) -> Vec<(&Change, u64)> {
    let mut found: Vec<(&Change, u64)> = Vec::new();
    let mut index = std::collections::HashMap::new();
    for change in &subject.changes {
        if change.direction != direction {
            continue;
        }
        let name = match change.layer {
            Some(_) => change.name.clone(),
            None => format!("{}\n{}", change.name, found.len()),
        };
        match index.get(&name) {
            None => {
                index.insert(name, found.len());
                found.push((change, 0));
            }
            Some(&at) => {
                let (shown, more) = &mut found[at];
                *more += 1;
                if telling(change) > telling(shown) {
                    *shown = change;
                }
            }
        }
    }
    found
}

/// The error in the run where it is the larger; infinite if it has no number.
fn telling(change: &Change) -> f64 {
    let readings = [&change.a, &change.b].into_iter().flatten();
    let errors = readings.map(|reading| reading.value.unwrap_or(f64::INFINITY));
    errors.fold(0.0, f64::max)
}
