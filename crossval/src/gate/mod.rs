//! The gate: a run held against the runs before it.
//!
//! Parity is what the run's verdict says, and that no fewer rows were compared than before. Speed is the *ratio*
//! candidate over reference of interleaved pairs, in which the machine's noise cancels; and, where the history has
//! enough runs in the same environment, the candidate's own speed too, unless the reference's moved as well: then it is
//! the machine that changed.
//!
//! # When is a series red?
//! The 95% bootstrap interval of the change (over this run's samples and the history's runs) excludes zero, *and* the
//! change exceeds the larger of a floor and three times the series' own noise, which is the standard deviation of single
//! runs around their level over the history. What is red is measured again, once; only what is red twice counts.
//!
//! Fewer than five runs in the history, fewer than five pairs, a test that was not measured, or a red one that cannot be
//! measured again is not judged, which has an exit code of its own (21) and is never a pass.

mod again;
mod baseline;
mod change;
mod series;
mod speeds;

use std::path::Path;

use reports::model::{Gate, GateResult, GateSeries, Report};
use reports::number;
use reports::outcome::Outcome;

pub use self::again::measure_again;
pub use self::baseline::Baseline;
use self::baseline::{Subject, rows};
use self::change::{MIN_RUNS, MIN_SAMPLES};
use self::series::Judge;
use crate::verdict;

/// The slowdown that is let through where nothing else is asked for.
pub const MAX_REGRESSION: f64 = 0.05;

/// A test, and its threads.
pub type TestAt = (String, usize);

/// A report of some tests measured again; else why there is none.
pub type Again<'a> = dyn FnMut(&[TestAt]) -> Result<Report, String> + 'a;

/// Whether both reports belong to one history.
pub fn same_subject(a: &Report, b: &Report) -> bool {
    Subject::of(a).is_same(&Subject::of(b))
}

/// Holds a report against a baseline, and makes what comes of it part of the report and its verdict. `baseline` is `None`
/// if the file does not exist. What is red is measured `again`. Where the run is to be `accepted`, nothing is held
/// against it.
pub fn apply(
    report: &mut Report,
    (path, baseline): (&Path, Option<&Baseline>),
    (max_regression, accepted): (f64, bool),
    again: &mut Again,
) {
    let history = baseline.and_then(|baseline| baseline.history(report));
    let mut reasons: Vec<(Outcome, String)> = Vec::new();
    let mut series = Vec::new();
    let mut baseline_rows = None;
    if let Some(history) = history {
        let judge = Judge {
            report,
            history,
            max_regression,
        };
        series = judge.first();
        let why_not = match accepted {
            true => None,
            false => repeat(&judge, &mut series, again),
        };
        baseline_rows = history.runs.iter().rev().find_map(|run| run.rows);
        reasons.extend(fewer_rows(rows(report), baseline_rows));
        reasons.extend(series.iter().filter_map(|s| reason(s, why_not.as_deref())));
    } else {
        let path = path.display();
        let why = match baseline {
            None => format!("there is no baseline {path}: --update writes one"),
            Some(_) => format!(
                "the baseline {path} has no run of this model, these engines and these inputs: --update adds this one"
            ),
        };
        reasons.push((Outcome::NoBaseline, why));
    }
    if accepted {
        reasons.clear();
    }
    verdict::add(&mut report.verdict, &mut reasons);
    report.gate = Some(Gate {
        baseline: path.display().to_string(),
        max_regression,
        baseline_rows,
        series,
        reasons: reasons.into_iter().map(|(_, reason)| reason).collect(),
    });
}

fn fewer_rows(now: Option<u64>, before: Option<u64>) -> Option<(Outcome, String)> {
    let (now, before) = (now?, before?);
    let why = format!(
        "{} compared, {} in the baseline's latest run",
        number::plural(now, "row"),
        number::count(before)
    );
    (now < before).then_some((Outcome::Incomplete, why))
}

/// Measures what is red once more. Why that could not be done, if so.
fn repeat(judge: &Judge, series: &mut [GateSeries], again: &mut Again) -> Option<String> {
    let red = series
        .iter()
        .filter(|s| s.result == GateResult::NotRepeated);
    let mut tests: Vec<TestAt> = red.map(|s| (s.test.clone(), s.threads)).collect();
    tests.dedup();
    if tests.is_empty() {
        return None;
    }
    match again(&tests) {
        Ok(report) => {
            judge.again(series, &report);
            None
        }
        Err(why) => Some(why),
    }
}

/// What is wrong with a series, if anything is.
fn reason(series: &GateSeries, not_repeated: Option<&str>) -> Option<(Outcome, String)> {
    let name = series.name();
    let slower = || {
        let changes = series.measurements.iter().filter_map(|m| m.change);
        let changes = changes
            .map(|change| number::share(-change))
            .collect::<Vec<_>>();
        let through = series.threshold.map(number::share).unwrap_or_default();
        let changes = changes.join(", and again ");
        format!("{name} is slower than the baseline by {changes}; {through} are let through")
    };
    Some(match series.result {
        GateResult::Pass
        | GateResult::Improved
        | GateResult::NotConfirmed
        | GateResult::MachineChanged => return None,
        GateResult::Regressed => (Outcome::Performance, slower()),
        GateResult::NotRepeated => {
            let why = not_repeated.unwrap_or("it was not measured again");
            (
                Outcome::NoBaseline,
                format!("{}, and that is not confirmed: {why}", slower()),
            )
        }
        GateResult::TooFewSamples => {
            let samples = series.measurements.first().map_or(0, |m| m.samples);
            let why = format!(
                "{name} is not judged: {} in the baseline, {} in this run; {MIN_RUNS} and {MIN_SAMPLES} are needed",
                number::plural(series.runs as u64, "run"),
                number::plural(samples as u64, "pair"),
            );
            (Outcome::NoBaseline, why)
        }
        GateResult::NoBaseline => (
            Outcome::NoBaseline,
            format!("{name} is not judged: the baseline does not have it"),
        ),
        GateResult::NotMeasured => (
            Outcome::NoBaseline,
            format!("{name} is in the baseline, and was not measured"),
        ),
    })
}

#[cfg(test)]
mod tests;
