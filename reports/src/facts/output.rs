//! Logits and generation.

use serde::Serialize;

use super::{Kind, State, Table, checks, mode_name, name_of};
use crate::model::{Generation, LogitsStats, Mode, Report, Role, Top1Disagreement};
use crate::number;

/// Disagreements listed; the report's JSON has all of them.
const DISAGREEMENTS: usize = 50;

pub(super) fn modes(report: &Report) -> impl Iterator<Item = (usize, Mode, &LogitsStats)> {
    report.logits.iter().flat_map(|entry| {
        let modes = entry.modes();
        modes.map(move |(mode, stats)| (entry.prompt, mode, stats))
    })
}

pub(super) fn logits(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Prompt", Kind::Number),
        ("Mode", Kind::Text),
        ("Positions", Kind::Number),
        ("KL mean (nats)", Kind::Number),
        ("KL p95", Kind::Number),
        ("KL p99", Kind::Number),
        ("KL max", Kind::Number),
        ("at position", Kind::Number),
        ("Same top-1", Kind::Number),
        ("Same top-5", Kind::Number),
    ]);
    for (prompt, mode, stats) in modes(report) {
        let kl = |x| number::or_not_measured(x, number::error);
        table.push(
            State::Plain,
            vec![
                prompt.to_string(),
                mode_name(mode).to_owned(),
                number::count(stats.positions),
                kl(stats.kl_mean),
                kl(stats.kl_p95),
                kl(stats.kl_p99),
                kl(stats.kl_max),
                if stats.kl_max.is_some() {
                    stats.kl_max_position.to_string()
                } else {
                    number::NOT_MEASURED.to_owned()
                },
                number::share(stats.top1_agreement),
                number::share(stats.top5_agreement),
            ],
        );
    }
    table
}

/// The positions with another most likely token, widest margin first.
pub(super) fn disagreements(report: &Report) -> Table {
    let mut found: Vec<_> = modes(report)
        .flat_map(|(prompt, mode, stats)| {
            stats
                .top1_disagreements
                .iter()
                .map(move |d| (prompt, mode, d))
        })
        .collect();
    let margin = |d: &Top1Disagreement| d.margin.unwrap_or(f64::INFINITY);
    found.sort_by(|a, b| margin(b.2).total_cmp(&margin(a.2)));
    let mut table = Table::new(&[
        ("Prompt", Kind::Number),
        ("Mode", Kind::Text),
        ("Position", Kind::Number),
        ("Reference token", Kind::Number),
        ("Candidate token", Kind::Number),
        ("Reference's rank in candidate", Kind::Number),
        ("Margin", Kind::Number),
        ("Near tie", Kind::Text),
    ]);
    let left = found.len().saturating_sub(DISAGREEMENTS);
    for (prompt, mode, d) in found.into_iter().take(DISAGREEMENTS) {
        table.push(
            State::Plain,
            vec![
                prompt.to_string(),
                mode_name(mode).to_owned(),
                d.position.to_string(),
                d.reference.to_string(),
                d.candidate.to_string(),
                d.rank.to_string(),
                d.margin
                    .map_or(number::NOT_FINITE.to_owned(), |m| number::significant(m, 3)),
                if d.near_tie { "yes" } else { "no" }.to_owned(),
            ],
        );
    }
    if left > 0 {
        let mut cells = vec![String::new(); table.columns.len()];
        cells[1] = format!("{} more in report.json", number::count(left as u64));
        table.push(State::Plain, cells);
    }
    table
}

/// KL by position of one prompt.
pub(crate) struct LogitsCurve<'a> {
    pub prompt: usize,
    /// Per mode that was run.
    pub kl: Vec<(Mode, &'a [Option<f64>])>,
}

pub(super) fn curves(report: &Report) -> Vec<LogitsCurve<'_>> {
    report
        .logits
        .iter()
        .map(|entry| LogitsCurve {
            prompt: entry.prompt,
            kl: [
                (Mode::Isolated, &entry.isolated),
                (Mode::Cumulative, &entry.cumulative),
            ]
            .into_iter()
            .filter_map(|(mode, stats)| Some((mode, stats.as_ref()?.kl.as_slice())))
            .filter(|(_, kl)| !kl.is_empty())
            .collect(),
        })
        .filter(|curve| !curve.kl.is_empty())
        .collect()
}

/// Greedy generation from one prompt.
#[derive(Serialize)]
pub(crate) struct Generated {
    pub prompt: usize,
    pub sentence: String,
    pub state: State,
    /// Whether an engine generated what its own logits do not say, which no known deviation excuses.
    pub contradicts: bool,
    pub sides: Vec<GeneratedSide>,
}

/// What one engine generated: the common start, then what differs.
#[derive(Serialize)]
pub(crate) struct GeneratedSide {
    pub engine: String,
    pub text: Option<(String, String)>,
    pub same_ids: String,
    /// The token at the first difference.
    pub differing_id: Option<u32>,
    pub later_ids: String,
}

pub(super) fn generations(report: &Report) -> Vec<Generated> {
    generations_of(report)
        .map(|generation| generated(generation, report))
        .collect()
}

/// The generation of every prompt.
pub(crate) fn generations_of(report: &Report) -> impl Iterator<Item = &Generation> {
    let mut stack: Vec<&Generation> = report.generation.iter().collect();
    std::iter::from_fn(move || {
        let generation = stack.pop()?;
        stack.extend(generation.further.iter().rev());
        Some(generation)
    })
}

fn generated(generation: &Generation, report: &Report) -> Generated {
    let (reference, candidate) = (&generation.reference, &generation.candidate);
    let common = reference
        .iter()
        .zip(candidate)
        .take_while(|(a, b)| a == b)
        .count();
    let (mut sentence, mut state) = match &generation.first_mismatch {
        None if reference == candidate => (
            format!(
                "Both engines generated the same {}.",
                number::plural(reference.len() as u64, "token")
            ),
            State::Pass,
        ),
        None => (
            format!("The tokens differ from index {common}, yet no mismatch was recorded."),
            State::Fail,
        ),
        Some(m) => {
            let token =
                |t: Option<u32>| t.map_or_else(|| "stopped".to_owned(), |id| format!("token {id}"));
            let measured = |x| number::or_not_measured(x, |x| number::significant(x, 3));
            let later = reference
                .len()
                .max(candidate.len())
                .saturating_sub(m.index + 1);
            (
                format!(
                    "First difference at index {}: reference {}, candidate {}; margin {}, largest logit \
                     difference {}: {}. {} after it {}.",
                    m.index,
                    token(m.reference),
                    token(m.candidate),
                    measured(m.margin),
                    measured(m.max_logit_difference),
                    if m.near_tie {
                        "a near tie"
                    } else {
                        "not a near tie"
                    },
                    number::plural(later as u64, "token"),
                    match generation.checks.is_empty() {
                        true => "not compared",
                        false => "judged by the logits alone",
                    },
                ),
                if m.near_tie {
                    State::Plain
                } else {
                    State::Fail
                },
            )
        }
    };
    let contradicts = checks::contradict(generation);
    if contradicts || checks::beyond(generation, report) {
        state = State::Fail;
    }
    for said in checks::sentences(generation) {
        sentence.push(' ');
        sentence.push_str(&said);
    }
    let texts = generation
        .reference_text
        .as_deref()
        .zip(generation.candidate_text.as_deref());
    let split = texts.map_or(0, |(a, b)| {
        let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
        same.map(|(c, _)| c.len_utf8()).sum()
    });
    let side = |engine: &str, ids: &[u32], text: Option<&str>| GeneratedSide {
        engine: engine.to_owned(),
        text: text.map(|text| {
            let split = if texts.is_some() { split } else { text.len() };
            let (same, rest) = text.split_at(split);
            (same.to_owned(), rest.to_owned())
        }),
        same_ids: join(&ids[..common]),
        differing_id: ids.get(common).copied(),
        later_ids: join(ids.get(common + 1..).unwrap_or_default()),
    };
    Generated {
        prompt: generation.prompt,
        sentence,
        state,
        contradicts,
        sides: vec![
            side(
                &name_of(report, Role::Reference),
                reference,
                generation.reference_text.as_deref(),
            ),
            side(
                &name_of(report, Role::Candidate),
                candidate,
                generation.candidate_text.as_deref(),
            ),
        ],
    }
}

/// Token IDs with blanks between.
pub(super) fn join(ids: &[u32]) -> String {
    ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
}

impl GeneratedSide {
    /// The whole text, if there is one.
    pub(crate) fn whole_text(&self) -> Option<String> {
        self.text
            .as_ref()
            .map(|(same, rest)| format!("{same}{rest}"))
    }
}
