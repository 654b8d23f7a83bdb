//! The gate: a run held against the runs before it.
//!
//! Parity is what the run's verdict says, and that no fewer rows were compared than before. Speed is the *ratio*
//! candidate over reference of interleaved pairs, in which the machine's noise cancels; and, where the history has
//! enough runs in the same environment, the candidate's own speed too, unless the ratio is not surely slower at all:
//! then it is the machine that is.
//!
//! # When is a series red?
//! The 95% bootstrap interval of the change (over this run's samples and the history's runs) excludes zero, *and* the
//! change exceeds the larger of a floor and three times the series' own noise, which is the standard deviation of single
//! runs around their level over the history (larger for short ones, by Student's t). What is red is measured again,
//! once; only what is red twice counts.
//!
//! Fewer than five runs in the history, fewer than five pairs, a history that scatters too much for anything to be red, a
//! test that was not measured, or a red one that cannot be measured again is not judged, which has an exit code of its
//! own (21) and is never a pass.

mod again;
mod baseline;
mod change;
mod series;
mod speeds;

use std::path::Path;

use reports::model::{
    Engines, Finding, Gate, GateFigure, GateResult, GateSeries, Place, Report, Role, Source,
};
use reports::number;
use reports::outcome::Outcome;

pub use self::again::measure_again;
pub use self::baseline::Baseline;
use self::baseline::Subject;
use self::change::{MIN_RUNS, MIN_SAMPLES};
use self::series::{Judge, Suspect};
use self::speeds::speeds;
use crate::verdict;

/// The slowdown that is let through where nothing else is asked for.
pub const MAX_REGRESSION: f64 = 0.05;

/// A test, and its threads.
pub type TestAt = (String, usize);

/// A report of some tests measured again; else why there is none.
pub type Again<'a> = dyn FnMut(&[TestAt]) -> Result<Report, String> + 'a;

/// Whether `other` measures `tests` of a report once more: the same model, engines and inputs, the same builds of all, on
/// the same machine.
pub fn repeats(other: &Report, report: &Report, tests: &[TestAt]) -> bool {
    let versions = |r: &Report| {
        let Engines {
            reference,
            candidate,
        } = &r.engines;
        (reference.version.clone(), candidate.version.clone())
    };
    Subject::of(other).is_same(&Subject::of(report))
        && other.environment == report.environment
        && versions(other) == versions(report)
        && other.created != report.created
        && tests
            .iter()
            .all(|test| speeds(other).iter().any(|speed| speed.at() == *test))
}

/// What a report is held against.
#[derive(Clone, Copy, Debug)]
pub struct Standard<'a> {
    /// The baseline's file.
    pub path: &'a Path,
    /// `None` if it does not exist.
    pub baseline: Option<&'a Baseline>,
    /// The slowdown that is let through.
    pub max_regression: f64,
    /// Whether the run is to be accepted: no speed is held against it, and what is surely faster is measured again too,
    /// for either may be a level to judge by from now on.
    pub accepted: bool,
}

/// Holds a report against a standard, and makes what comes of it part of the report and its verdict. What is red is
/// measured `again`.
pub fn apply(report: &mut Report, standard: Standard, again: &mut Again) {
    let Standard {
        path,
        baseline,
        max_regression,
        accepted,
    } = standard;
    let mut findings = report.findings().into_owned();
    findings.retain(|finding| finding.source != Source::Gate);
    report.gate = None;
    verdict::revise(&mut report.verdict, findings);
    let ungated_exit_code = report.verdict.exit_code;
    let history = baseline.and_then(|baseline| baseline.history(report));
    let mut findings: Vec<Finding> = Vec::new();
    let mut series = Vec::new();
    let mut baseline_rows = None;
    if let Some(history) = history {
        let judge = Judge {
            report,
            history,
            max_regression,
        };
        series = judge.first();
        let suspect: Suspect = match accepted {
            true => |result| matches!(result, GateResult::NotRepeated | GateResult::Improved),
            false => |result| result == GateResult::NotRepeated,
        };
        let why_not = repeat(&judge, &mut series, suspect, again);
        baseline_rows = history.runs.iter().rev().find_map(|run| run.rows);
        findings.extend(fewer_rows(report.compared_rows(), baseline_rows));
        findings.extend(series.iter().filter_map(|s| judged(s, why_not.as_deref())));
    } else {
        let path = path.display();
        let why = match baseline {
            None => format!("there is no baseline {path}: --update writes one"),
            Some(_) => format!(
                "the baseline {path} has no run of this model, these engines and these inputs: --update adds this one"
            ),
        };
        findings.push(found(Outcome::NoBaseline, None, why));
    }
    if accepted {
        findings.retain(|finding| finding.outcome == Outcome::Incomplete);
    }
    verdict::add(report, findings);
    let findings = report.verdict.findings.iter();
    let of_gate = findings.filter(|finding| finding.source == Source::Gate);
    let reasons = of_gate.map(|finding| finding.text.clone()).collect();
    report.gate = Some(Gate {
        baseline: path.display().to_string(),
        max_regression,
        baseline_rows,
        ungated_exit_code,
        series,
        reasons,
    });
}

fn found(outcome: Outcome, place: Option<Place>, text: String) -> Finding {
    Finding {
        outcome,
        source: Source::Gate,
        place,
        text,
    }
}

fn fewer_rows(now: Option<u64>, before: Option<u64>) -> Option<Finding> {
    let (now, before) = (now?, before?);
    let text = Gate::rows_sentence((now, before));
    (now < before).then(|| found(Outcome::Incomplete, None, text))
}

/// Measures what is suspect once more. Why that could not be done, if so.
fn repeat(
    judge: &Judge,
    series: &mut [GateSeries],
    suspect: Suspect,
    again: &mut Again,
) -> Option<String> {
    let red = series.iter().filter(|s| suspect(s.result));
    let mut tests: Vec<TestAt> = red.map(|s| (s.test.clone(), s.threads)).collect();
    tests.dedup();
    if tests.is_empty() {
        return None;
    }
    match again(&tests) {
        Ok(report) => {
            judge.again(series, suspect, &report);
            None
        }
        Err(why) => Some(why),
    }
}

/// What is wrong with a series, if anything is.
fn judged(series: &GateSeries, not_repeated: Option<&str>) -> Option<Finding> {
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
    let (outcome, text) = match series.result {
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
        GateResult::TooNoisy => (
            Outcome::NoBaseline,
            format!(
                "{name} is not judged: the runs in the baseline scatter by {}, so that no slowdown could be told from it",
                series.noise.map(number::share).unwrap_or_default()
            ),
        ),
        GateResult::NotMeasured => (
            Outcome::NoBaseline,
            format!("{name} is in the baseline, and was not measured"),
        ),
    };
    let place = Place {
        role: (series.figure == GateFigure::Absolute).then_some(Role::Candidate),
        test: Some(series.test.clone()),
        threads: Some(series.threads),
        ..Place::default()
    };
    Some(found(outcome, Some(place), text))
}

#[cfg(test)]
mod tests;
