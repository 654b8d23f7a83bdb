//! The gate: a run held against the runs before it.
//!
//! Parity is what the run's contents say, whatever its verdict does, and that no fewer rows were compared than before.
//! Speed is the *ratio* candidate over reference of interleaved pairs, in which the machine's noise cancels; and, where the
//! history has enough runs in the same environment, the candidate's own speed too.
//!
//! # Which runs count?
//! Those of the same model, engines and inputs, that ran against the same reference (version and build), were held to the
//! same limits, and, as far as speed goes, on the same kind of CPU ([`key`]). Where there are none, nothing is judged, and
//! what is other is said.
//!
//! # When is a series red?
//! The 95% bootstrap interval of the change (over this run's samples and the history's runs) excludes zero, *and* the
//! change exceeds the larger of a floor and three times the series' own noise. The change counts from the *best* level since
//! a change was last accepted, and the noise is that of successive runs: slowdowns that are small one by one are neither
//! forgotten nor taken for noise. What is red is measured again, once; only what is red twice counts.
//!
//! # Who changed?
//! A ratio may change because the reference does, and stay because both engines do. Their own speeds say so, and what the
//! machine can do at best says whether both are slower or it is.
//!
//! # What is not judged?
//! Fewer than five runs in the history, fewer than five pairs, a limit beyond three times the floor, a change that the
//! interval or the noise leaves open so far, a test that was not measured, a red one that cannot be measured again, a change
//! of the reference, or of both engines: that has an exit code of its own (21) and is never a pass.
//!
//! # What is accepted?
//! `--update` takes a run in unless something is wrong with it. A slowdown that comes at once, by more than twice what is
//! let through since the run before, is accepted: a level of its own begins. Any other is not, for it may have crept in over
//! runs that were each let through; nor is what could not be measured again, nor a test that was left out: those it accepts
//! only in a report that was held against a baseline before and says so.

mod again;
mod baseline;
mod change;
mod key;
mod series;
mod speeds;

use std::path::Path;

use reports::model::{
    Engines, Finding, Gate, GateChange, GateFigure, GateMeasurement, GateResult, GateSeries, Place,
    Report, Role, Source,
};
use reports::number;
use reports::outcome::Outcome;

pub use self::again::measure_again;
pub use self::baseline::Baseline;
use self::baseline::{Run, Subject};
use self::change::{MIN_RUNS, MIN_SAMPLES};
use self::series::{Judge, Suspect};
use self::speeds::speeds;
use crate::{evidence, verdict};

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
    /// Whether the run is to be taken into the baseline: what is surely faster is measured again too, for it may be a level
    /// to judge by from now on.
    pub update: bool,
}

/// Holds a report against a standard, and makes what comes of it part of the report and its verdict. What is red is
/// measured `again`.
pub fn apply(report: &mut Report, standard: Standard, again: &mut Again) {
    let Standard {
        path,
        baseline,
        max_regression,
        update,
    } = standard;
    let mut findings = report.findings().into_owned();
    findings.retain(|finding| finding.source != Source::Gate);
    findings.extend(evidence::unsaid(report, &findings));
    let said_before = report.gate.take().map_or(Vec::new(), |gate| gate.series);
    verdict::revise(&mut report.verdict, findings);
    let mut gate = Gate {
        baseline: path.display().to_string(),
        max_regression,
        baseline_rows: None,
        ungated_exit_code: report.verdict.exit_code,
        series: Vec::new(),
        reasons: Vec::new(),
        notes: Vec::new(),
        changed: Vec::new(),
    };
    let mut findings: Vec<Finding> = Vec::new();
    let mut unheld = None;
    if let Some(history) = baseline.and_then(|baseline| baseline.history(report)) {
        gate.baseline_rows = history.runs.iter().rev().find_map(|run| run.rows);
        findings.extend(fewer_rows(report.compared_rows(), gate.baseline_rows));
        let run = Run::of(report, &[]);
        let mut timed = [&run].into_iter().chain(&history.runs);
        let timed = timed.any(|run| !run.speeds.is_empty());
        match history.comparable(&run, timed) {
            Ok(runs) => {
                let judge = Judge {
                    report,
                    runs: &runs,
                    max_regression,
                };
                gate.series = judge.first();
                accept_by_name(&mut gate.series, &said_before, update);
                let why_not = repeat(&judge, &mut gate.series, update, again);
                accept_at_once(&judge, &mut gate.series, update);
                for series in &gate.series {
                    let Some(finding) = judged(series, why_not.as_deref(), update) else {
                        continue;
                    };
                    match series.accepted {
                        true => gate.notes.push(format!("accepted: {}", finding.text)),
                        false if update && is_yet_to_come(series) => {}
                        false => findings.push(finding),
                    }
                }
            }
            Err(changed) => {
                let what = match timed {
                    true => "no speed is held against",
                    false => "the run is not held against",
                };
                unheld = Some(format!(
                    "{what} the baseline {}, whose runs are other than this one ({}): --update adds it",
                    path.display(),
                    changed.join("; ")
                ));
                gate.changed = changed;
            }
        }
    } else {
        unheld = Some(no_history(path, baseline, report));
    }
    match unheld {
        Some(why) if update => gate.notes.push(why),
        Some(why) => findings.push(found(Outcome::NoBaseline, None, why)),
        None => {}
    }
    verdict::add(report, findings);
    let findings = report.verdict.findings.iter();
    let of_gate = findings.filter(|finding| finding.source == Source::Gate);
    gate.reasons = of_gate.map(|finding| finding.text.clone()).collect();
    report.gate = Some(gate);
}

/// Why the baseline does not take a report that was held against it with `update`; `None` if it does.
pub fn refusal(report: &Report) -> Option<&'static str> {
    let mut findings = report.verdict.findings.iter();
    let wrong = |f: &Finding| {
        let of_speed = f.source == Source::Gate && f.outcome != Outcome::Incomplete;
        f.outcome != Outcome::Pass && !of_speed
    };
    let mut series = report.gate.iter().flat_map(|gate| &gate.series);
    if findings.any(wrong) {
        Some("a run whose verdict is not a pass")
    } else if series.any(|s| wants_acceptance(s.result) && !s.accepted) {
        Some("a run of which a speed is not accepted")
    } else {
        None
    }
}

/// What a series is not taken in with unless it is accepted.
fn wants_acceptance(result: GateResult) -> bool {
    has_moved(result) || matches!(result, GateResult::NotRepeated | GateResult::NotMeasured)
}

/// Another speed than before, measured twice.
fn has_moved(result: GateResult) -> bool {
    matches!(
        result,
        GateResult::Regressed | GateResult::ReferenceChanged | GateResult::BothSlower
    )
}

/// What takes nothing but more runs in the baseline.
fn is_yet_to_come(series: &GateSeries) -> bool {
    let few = matches!(
        series.result,
        GateResult::TooFewSamples | GateResult::NoBaseline
    );
    few && series.threshold.is_none()
}

/// Accepts what is wrong with a series if the report was held against a baseline before and said so.
fn accept_by_name(series: &mut [GateSeries], said_before: &[GateSeries], update: bool) {
    let same = |a: &GateSeries, b: &GateSeries| {
        (&a.test, a.threads, a.figure) == (&b.test, b.threads, b.figure)
    };
    for series in series {
        let mut said = said_before.iter();
        let said = said.any(|before| same(before, series) && wants_acceptance(before.result));
        series.accepted = update && said && wants_acceptance(series.result);
    }
}

/// Accepts what is faster, than the present level too if that has yet to count, and slowdowns that have come at once.
fn accept_at_once(judge: &Judge, series: &mut [GateSeries], update: bool) {
    for series in series.iter_mut().filter(|_| update) {
        let twice = series.measurements.len() > 1;
        let faster = |m: &GateMeasurement| m.change > series.threshold;
        series.accepted |= twice
            && match series.result {
                GateResult::Improved => series.measurements.iter().all(faster),
                result => has_moved(result) && judge.came_at_once(series),
            };
    }
}

fn no_history(path: &Path, baseline: Option<&Baseline>, report: &Report) -> String {
    let path = path.display();
    let Some(baseline) = baseline else {
        return format!("there is no baseline {path}: --update writes one");
    };
    let nearest = match baseline.unlike_any(report).as_slice() {
        [] => String::new(),
        unlike => format!(" (the nearest is of {})", unlike.join(", ")),
    };
    format!(
        "the baseline {path} has no run of this model, these engines and these inputs{nearest}: --update adds this one"
    )
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
    update: bool,
    again: &mut Again,
) -> Option<String> {
    let suspect: Suspect = match update {
        true => |series| is_suspect(series) || series.result == GateResult::Improved,
        false => is_suspect,
    };
    let red = series.iter().filter(|s| suspect(s));
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

fn is_suspect(series: &GateSeries) -> bool {
    use GateResult::{BothSlower, NotRepeated, ReferenceChanged, Undecided};
    let suspect = matches!(
        series.result,
        NotRepeated | Undecided | ReferenceChanged | BothSlower
    );
    suspect && !series.accepted
}

/// What is wrong with a series, if anything is.
fn judged(series: &GateSeries, not_repeated: Option<&str>, update: bool) -> Option<Finding> {
    let name = series.name();
    let measurements = || series.measurements.iter();
    let through = || series.threshold.map(number::share).unwrap_or_default();
    let changes = || {
        let changes = measurements().filter_map(|m| m.from_best);
        let changes = changes.map(|c| number::share(-c.change));
        changes.collect::<Vec<_>>().join(", and again ")
    };
    let slower = || {
        format!(
            "{name} is slower than the baseline by {}; {} are let through",
            changes(),
            through()
        )
    };
    let (outcome, mut text) = match series.result {
        GateResult::Improved if series.accepted => (
            Outcome::Pass,
            format!("{name} is faster than the baseline by {}", gains(series)),
        ),
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
                "{name} is not judged: the runs in the baseline scatter by {}, so that no slowdown below {} could be told                  from it",
                series.noise.map(number::share).unwrap_or_default(),
                through()
            ),
        ),
        GateResult::NotMeasured => (
            Outcome::NoBaseline,
            format!("{name} is in the baseline, and was not measured"),
        ),
        GateResult::Undecided => {
            let interval = |c: GateChange| {
                let [change, low, high] = [c.change, c.low, c.high].map(number::change);
                format!("{change} ({low} to {high})")
            };
            let changes = measurements().filter_map(|m| m.from_best).map(interval);
            let changes = changes.collect::<Vec<_>>().join(", and again ");
            let why = format!(
                "{name} is not judged: a change of {changes} against the baseline is no surer than that"
            );
            (Outcome::NoBaseline, why)
        }
        GateResult::ReferenceChanged => (
            Outcome::NoBaseline,
            format!(
                "{name} changed because the reference did, and is not judged: {}",
                alone(series)
            ),
        ),
        GateResult::BothSlower => (
            Outcome::NoBaseline,
            format!(
                "both engines are slower than the baseline in {}, which their ratio hides; it is not judged: {}",
                series.at(),
                alone(series)
            ),
        ),
    };
    if update && wants_acceptance(series.result) && !series.accepted {
        text.push_str(match has_moved(series.result) {
            true => "; it may have come in steps that were let through",
            false => "; --update does not accept that of itself",
        });
        text.push_str(": `crossval gate --update` of a report that says so accepts it");
    }
    let place = Place {
        role: (series.figure == GateFigure::Absolute).then_some(Role::Candidate),
        test: Some(series.test.clone()),
        threads: Some(series.threads),
        ..Place::default()
    };
    Some(found(outcome, Some(place), text))
}

fn gains(series: &GateSeries) -> String {
    let gains = series.measurements.iter().filter_map(|m| m.from_best);
    let gains: Vec<String> = gains.map(|c| number::share(c.change)).collect();
    gains.join(", and again ")
}

/// `the reference by itself +15.0%, the candidate -0.10%, the machine +0.20%`.
fn alone(series: &GateSeries) -> String {
    let Some(alone) = series.alone else {
        return "the engines' own speeds before are not known".to_owned();
    };
    let machine = match alone.machine {
        Some(machine) => format!(", the machine's {}", number::change(machine)),
        None => ", and what the machine could do before is not known".to_owned(),
    };
    format!(
        "the reference's own speed {}, the candidate's {}{machine}",
        number::change(alone.reference),
        number::change(alone.candidate)
    )
}

#[cfg(test)]
mod tests;
