//! Two reports side by side: what got better, what got worse, what appeared and what vanished.
//!
//! What noise can move counts as changed only beyond it: a figure with a 95% interval where the intervals do not
//! overlap, an error where it moved by more than a factor of 2 or crossed its limit, a single reading of memory beyond
//! 5%, one of a load time beyond a factor of 2.

mod parity;
mod render;
mod settings;
mod speed;
mod view;

use serde::Serialize;

use crate::error::Error;
use crate::facts::{DATE, Facts, Level, Parity};
use crate::model::{Report, Status};

/// Two reports side by side, A before B.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// The run that is compared against.
    pub a: Run,
    /// The run that is judged.
    pub b: Run,
    /// What was not the same in both: model, inputs, engines, environment.
    pub settings: Vec<Setting>,
    /// What the runs say, subject by subject.
    pub subjects: Vec<Subject>,
}

/// One of the runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Run {
    /// When it started, RFC 3339, UTC.
    pub created: String,
    /// Its verdict in a line.
    pub headline: String,
    /// The same in a word.
    pub status: Status,
    /// Whether it is right, whether the tokens are the same, how fast it is, and on what: what it knows of that.
    pub answers: Vec<Answer>,
}

/// What a run says of what is asked first.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Answer {
    /// `Parity`, `Decode (tg64, 2 threads)`, …
    pub about: String,
    /// As people read it.
    pub text: String,
}

/// Something about the runs themselves that differs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Setting {
    /// `CPU`, `candidate, kernel`, …
    pub name: String,
    /// In A; null if it is not there.
    pub a: Option<String>,
    /// In B.
    pub b: Option<String>,
}

/// Figures of one kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Subject {
    /// `Taps`, `Speed`, …
    pub name: &'static str,
    /// Figures that both runs have.
    pub compared: u64,
    /// Those of them that did not change beyond noise.
    pub unchanged: u64,
    /// The rest, and figures that only one run has.
    pub changes: Vec<Change>,
}

/// A figure that changed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Change {
    /// What it is: `prompt 0, isolated, q_rope`.
    pub name: String,
    /// Its layer, from 0; null outside the layers.
    pub layer: Option<usize>,
    /// How it changed.
    pub direction: Direction,
    /// One run keeps the figure's limit and the other does not.
    pub crossed_limit: bool,
    /// In A; null where A has no such figure.
    pub a: Option<Reading>,
    /// In B.
    pub b: Option<Reading>,
}

/// How a figure changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// B is worse.
    Worse,
    /// Only A has it.
    Vanished,
    /// B is better.
    Better,
    /// Only B has it.
    Appeared,
    /// B is another, neither better nor worse.
    Changed,
}

/// A figure in one of the runs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reading {
    /// As people read it.
    pub text: String,
    /// The value, in the unit of the report's JSON; null if it is no number, or not finite.
    pub value: Option<f64>,
    /// Lower end of its 95% interval; null without one.
    pub low: Option<f64>,
    /// Upper end of the same.
    pub high: Option<f64>,
}

impl Comparison {
    /// Compares two reports.
    pub fn new(a: &Report, b: &Report) -> Comparison {
        let (parity_a, parity_b) = (Parity::new(a), Parity::new(b));
        let facts_a = Facts::new(a, &parity_a);
        let facts_b = Facts::new(b, &parity_b);
        let answers = |facts: &Facts| {
            let tiles = facts.tiles.iter();
            let tiles = tiles.map(|tile| (tile.title.as_str(), &tile.value));
            // The day of a run is no answer of it.
            let about = facts.about.iter().filter(|(name, _)| *name != DATE);
            let all = tiles.chain(about.map(|(name, value)| (*name, value)));
            let answer = |(about, text): (&str, &String)| Answer {
                about: about.to_owned(),
                text: text.clone(),
            };
            all.map(answer).collect()
        };
        let run = |report: &Report, facts: &Facts| Run {
            created: report.created.clone(),
            headline: facts.verdict.headline.clone(),
            status: report.verdict.status,
            answers: answers(facts),
        };
        let mut subjects = parity::subjects(a, b);
        subjects.extend(speed::subjects(a, b));
        subjects.retain(|subject| subject.compared > 0 || !subject.changes.is_empty());
        Comparison {
            a: run(a, &facts_a),
            b: run(b, &facts_b),
            settings: settings::differing(&facts_a, &facts_b),
            subjects,
        }
    }

    /// For a terminal of 100 columns, without colours.
    pub fn text(&self) -> String {
        render::text(self)
    }

    /// As GitHub's Markdown, short enough for a comment.
    pub fn markdown(&self) -> String {
        render::markdown(self)
    }

    /// As one self-contained HTML page.
    ///
    /// # Errors
    /// [`Error::Template`] would be a fault of this crate.
    pub fn html(&self) -> Result<String, Error> {
        render::html(self)
    }
}

impl Subject {
    fn new(name: &'static str) -> Subject {
        Subject {
            name,
            compared: 0,
            unchanged: 0,
            changes: Vec::new(),
        }
    }

    /// Takes a figure in and returns it if it changed; `judge` says how, where both runs have it.
    fn figure(
        &mut self,
        name: &str,
        layer: Option<usize>,
        (a, b): (Option<Reading>, Option<Reading>),
        judge: impl FnOnce(&Reading, &Reading) -> Option<Direction>,
    ) -> Option<&mut Change> {
        let direction = match (&a, &b) {
            (None, None) => return None,
            (Some(_), None) => Direction::Vanished,
            (None, Some(_)) => Direction::Appeared,
            (Some(a), Some(b)) => {
                self.compared += 1;
                match judge(a, b) {
                    Some(direction) => direction,
                    None => {
                        self.unchanged += 1;
                        return None;
                    }
                }
            }
        };
        self.changes.push(Change {
            name: name.to_owned(),
            layer,
            direction,
            crossed_limit: false,
            a,
            b,
        });
        self.changes.last_mut()
    }
}

impl Reading {
    fn text(text: impl Into<String>) -> Reading {
        Reading {
            text: text.into(),
            value: None,
            low: None,
            high: None,
        }
    }

    fn number(value: f64, format: impl Fn(f64) -> String) -> Reading {
        Reading {
            value: value.is_finite().then_some(value),
            ..Reading::text(format(value))
        }
    }

    fn interval(value: f64, low: f64, high: f64, format: impl Fn(f64) -> String) -> Reading {
        let text = format!("{} ({} to {})", format(value), format(low), format(high));
        Reading {
            low: low.is_finite().then_some(low),
            high: high.is_finite().then_some(high),
            ..Reading::number(value, |_| text.clone())
        }
    }

    /// `None` if it was not measured.
    fn level(level: Level) -> Option<Reading> {
        match level {
            Level::NotMeasured => None,
            Level::NotFinite => Some(Reading::text(level.text())),
            Level::Value(x) => Some(Reading::number(x, |_| level.text())),
        }
    }
}

/// How an error changed that was moved by more than a factor of 2. Not finite is worse than any number.
fn error_moved(a: &Reading, b: &Reading) -> Option<Direction> {
    match (a.value, b.value) {
        (Some(a), Some(b)) => factor_two(a, b),
        (Some(_), None) => Some(Direction::Worse),
        (None, Some(_)) => Some(Direction::Better),
        (None, None) => None,
    }
}

/// The same of a number, the less of which is better.
fn factor_two(a: f64, b: f64) -> Option<Direction> {
    if b > 2.0 * a {
        Some(Direction::Worse)
    } else if a > 2.0 * b {
        Some(Direction::Better)
    } else {
        None
    }
}

/// How something changed that has an order of goodness.
fn ordered<T: PartialOrd>(a: T, b: T) -> Option<Direction> {
    if b > a {
        Some(Direction::Better)
    } else if b < a {
        Some(Direction::Worse)
    } else {
        None
    }
}

/// Any difference, neither better nor worse.
fn differing(a: &Reading, b: &Reading) -> Option<Direction> {
    (a != b).then_some(Direction::Changed)
}

/// Every key of two lists, in the order of the second, those that only the first has behind.
fn keys<K: PartialEq + Clone>(a: &[K], b: &[K]) -> Vec<K> {
    let mut all = b.to_vec();
    all.extend(a.iter().filter(|key| !b.contains(key)).cloned());
    all
}
