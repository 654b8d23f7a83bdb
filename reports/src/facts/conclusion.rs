//! What the run comes to: which engine has which advantage, and one sentence on both.

use serde::Serialize;

use super::coverage;
use super::gate::{judged, no_baseline, of_result, shrunk};
use super::movers::{few, surely_faster};
use super::name_of;
use super::parity::{gated, is_spoken_for};
use super::speed::{measured, memory_threads, threads, threads_on};
use crate::model::{
    AtFault, Gate, GateResult, KnownState, Measured, Report, Role, Source, Status, TimedPair,
};
use crate::number;
use crate::outcome::Outcome;

/// What one engine surely does better than the other, a sentence each.
#[derive(Serialize)]
pub(crate) struct Advantages {
    pub engine: String,
    pub sentences: Vec<String>,
    /// Whether there is anything to compare at all.
    pub measured: bool,
}

/// The reference's and the candidate's. Only what an interval supports: a ratio that leaves out 1, figures whose
/// intervals do not overlap; for memory, of which there is one reading each, all thread counts agreeing.
pub(super) fn advantages(report: &Report) -> [Advantages; 2] {
    let pairs = report.timed_pairs();
    let memory = memory(report);
    let measured = memory.is_some() || pairs.iter().any(|pair| compared(pair).is_some());
    Role::BOTH.map(|role| {
        let faster = pairs.iter().filter_map(|pair| {
            let (winner, figures) = compared(pair)?;
            (winner == Some(role)).then(|| {
                format!(
                    "Faster in {} at {}: {figures}.",
                    pair.test,
                    threads_on(report, pair.threads)
                )
            })
        });
        let mut sentences: Vec<String> = faster.collect();
        let less = memory.iter().filter(|(winner, _)| *winner == Some(role));
        sentences.extend(less.map(|(_, figures)| {
            format!("Less peak memory in timed runs, by one reading each: {figures}.")
        }));
        Advantages {
            engine: name_of(report, role),
            sentences,
            measured,
        }
    })
}

/// The engine that is surely faster in a test, if one is, and the figures; `None` if there is nothing to compare.
fn compared(pair: &TimedPair) -> Option<(Option<Role>, String)> {
    if let Some(ratio) = pair.ratio {
        let figures = format!(
            "candidate over reference {} ({} to {})",
            number::times(ratio.median),
            number::times(ratio.low),
            number::times(ratio.high)
        );
        return Some((surely_faster(pair), figures));
    }
    let (reference, format) = measured(pair.reference?)?;
    let (candidate, other) = measured(pair.candidate?)?;
    let per_second = pair.reference?.tps.is_some();
    if per_second != pair.candidate?.tps.is_some() {
        return None;
    }
    let faster = |a: &Measured, b: &Measured| {
        if per_second {
            a.low > b.high
        } else {
            a.high < b.low
        }
    };
    let winner = if few(pair) {
        None
    } else if faster(candidate, reference) {
        Some(Role::Candidate)
    } else {
        faster(reference, candidate).then_some(Role::Reference)
    };
    let figure = |m: &Measured, format| {
        let (median, interval) = m.written(format);
        format!("{median} ({interval})")
    };
    Some((
        winner,
        format!(
            "candidate {}, reference {}",
            figure(candidate, other),
            figure(reference, format)
        ),
    ))
}

/// The engine that takes less memory at every thread count, if one does, and the figures.
pub(super) fn memory(report: &Report) -> Option<(Option<Role>, String)> {
    let mut winners = Vec::new();
    let mut figures = Vec::new();
    for n in memory_threads(report) {
        let [Some(reference), Some(candidate)] = report.timed_memory(n) else {
            continue;
        };
        winners.push(match candidate.cmp(&reference) {
            std::cmp::Ordering::Less => Some(Role::Candidate),
            std::cmp::Ordering::Equal => None,
            std::cmp::Ordering::Greater => Some(Role::Reference),
        });
        figures.push(format!(
            "candidate {}, reference {} at {}",
            number::bytes(candidate as f64),
            number::bytes(reference as f64),
            threads(n)
        ));
    }
    let first = *winners.first()?;
    let agreeing = winners.iter().all(|winner| *winner == first);
    Some((first.filter(|_| agreeing), figures.join("; ")))
}

/// The verdict and the gate in one sentence.
pub(super) fn conclusion(report: &Report) -> String {
    let candidate = report.engines.candidate.called();
    let reference = report.engines.reference.called();
    let model = report.model.file_name();
    let parity = match (&report.not_compared, report.verdict.status) {
        (_, Status::Error) => {
            format!("{candidate} could not be held against {reference} on {model}")
        }
        (Some(_), _) => format!(
            "{candidate} and {reference} were timed on {model} and their values not compared"
        ),
        (None, Status::Incomplete) if incomplete(report) => format!(
            "{candidate} was not compared with {reference} on {model} in everything that was to be compared"
        ),
        (None, Status::Fail) if report.verdict.outcome() != Outcome::Performance => {
            let fault = match report.verdict.at_fault {
                AtFault::None => "",
                AtFault::Candidate => ", at fault: the candidate",
                AtFault::Reference => ", at fault: the reference",
                AtFault::Both => ", at fault: both",
                AtFault::Undetermined => ", at fault: undetermined",
            };
            format!("{candidate} does not pass against {reference} on {model}{fault}")
        }
        (None, Status::Pass | Status::Fail | Status::Incomplete) => {
            let beyond = gated(report).filter(|s| is_spoken_for(s)).count() as u64;
            let within = match (gated(report).next(), beyond) {
                (None, _) => String::new(),
                (Some(_), 0) => " within every limit".to_owned(),
                (Some(_), n) => {
                    let exceeded = number::plural(n, "limit");
                    format!(" within every limit but {exceeded}, exceeded by rounding alone")
                }
            };
            let known = report.known.iter();
            let matched = known.filter(|known| known.state == KnownState::Matched);
            let apart = match matched.count() as u64 {
                0 => String::new(),
                n => format!(", {} apart", number::plural(n, "known deviation")),
            };
            let fewer = match shrunk(report) {
                Some(rows) => format!(
                    ", but on fewer rows than before ({})",
                    Gate::rows_sentence(rows)
                ),
                None => String::new(),
            };
            format!("{candidate} agrees with {reference} on {model}{within}{apart}{fewer}")
        }
    };
    format!("{parity}; {}.", gate(report))
}

/// Whether an incomplete run left out anything of what it was to compare itself: a speed that was not judged is none of
/// that, and neither are rows that only the baseline has.
fn incomplete(report: &Report) -> bool {
    let only_gate = match report.verdict.outcome() {
        Outcome::NoBaseline => true,
        _ => {
            let findings = report.findings();
            shrunk(report).is_some() && findings.iter().all(|f| f.source == Source::Gate)
        }
    };
    !(only_gate && coverage::complete(&report.coverage))
}

fn gate(report: &Report) -> String {
    let Some(gate) = &report.gate else {
        return "no speed was held against a baseline".to_owned();
    };
    if no_baseline(gate) {
        return format!(
            "the speed was not judged, as {} has no baseline of this model, these engines and these inputs",
            gate.baseline
        );
    }
    if !gate.changed.is_empty() {
        return format!(
            "the speed was not judged, as {} has no run like this one ({})",
            gate.baseline,
            gate.changed.join("; ")
        );
    }
    if gate.series.is_empty() {
        return "no speed was held against the baseline".to_owned();
    }
    let all = gate.series.len() as u64;
    let of_all = number::plural(all, "speed");
    let judged = judged(gate);
    if judged == 0 {
        return format!(
            "the speed was not judged, as none of {of_all} could be held against the baseline"
        );
    }
    let slower = match of_result(gate, GateResult::Regressed).count() as u64 {
        0 => format!("none of {of_all} is surely slower than the baseline"),
        n => format!("{} of {of_all} slower than the baseline", number::count(n)),
    };
    match all - judged {
        0 => slower,
        n => format!("{slower}, {} not judged", number::count(n)),
    }
}
