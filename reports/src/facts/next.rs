//! What to do next, as far as the report's data say.

use super::checks::{contradict, sentences};
use super::conditions::reasons as reasons_of_conditions;
use super::gate::{change, no_baseline, of_result, shrunk};
use super::output::generations_of;
use super::verdict::stage;
use super::{limit, mode_name};
use crate::model::{
    AtFault, Divergence, Engine, Gate, GateResult, GateSeries, KnownState, Report, Role, Status,
};
use crate::number;

/// One sentence per step, in the order in which they are best taken; none after a pass.
pub(super) fn steps(report: &Report) -> Vec<String> {
    if report.verdict.status == Status::Pass {
        return Vec::new();
    }
    let mut steps: Vec<String> = report
        .engines
        .by_role()
        .into_iter()
        .filter_map(failed)
        .collect();
    // Rows are missing because of it.
    if steps.is_empty() {
        steps.extend(missing(report));
    }
    steps.extend(
        report
            .verdict
            .first_divergence
            .as_ref()
            .map(|first| divergence(first, report)),
    );
    steps.extend(
        report
            .coverage
            .not_finite
            .first()
            .map(|first| format!("Look for the source of NaN or infinity; the first: {first}.")),
    );
    let contradicting = generations_of(report).filter(|g| contradict(g));
    steps.extend(contradicting.map(|generation| {
        format!(
            "Find out how tokens are picked from the logits, from prompt {} on: {}",
            generation.prompt,
            sentences(generation).join(" ")
        )
    }));
    // Where values diverge, generations part because of it.
    if report.verdict.first_divergence.is_none() {
        steps.extend(generations_of(report).filter_map(|generation| {
            let mismatch = generation.first_mismatch.as_ref()?;
            (!mismatch.near_tie).then(|| {
                format!(
                    "Look at token {} of the generation from prompt {}, where the engines part by more than a near tie.",
                    mismatch.index, generation.prompt
                )
            })
        }));
    }
    steps.extend(reasons_of_conditions(report).first().map(|first| {
        format!("Look for what the engine does otherwise under the condition named: {first}.")
    }));
    steps.extend(
        report
            .tokenizer
            .as_ref()
            .and_then(|tokens| tokens.first_difference())
            .map(|difference| format!("Compare the tokenizers: {difference}.")),
    );
    let reproduced = report.bench.iter().flat_map(|b| &b.tokens_reproduced);
    steps.extend(reproduced.filter(|(_, same)| !**same).map(|(engine, _)| {
        format!(
            "Take no speed of the {engine} for granted: it generated other tokens while timed than without timing."
        )
    }));
    steps.extend(shrunk(report).map(|rows| {
        format!(
            "Find out which rows are no longer compared: {}.",
            Gate::rows_sentence(rows)
        )
    }));
    steps.extend(report.gate.iter().flat_map(gated));
    steps.extend(report.known.iter().filter_map(|known| {
        let entry = format!("the known deviation of {}", stage(known.layer, &known.tap));
        match known.state {
            KnownState::Matched => None,
            KnownState::Unmatched => Some(format!("Remove {entry}: it did not occur.")),
            KnownState::Refused => Some(format!(
                "Look at what {entry} covers and does not excuse: {}.",
                known.refused.as_deref().unwrap_or("the verdict says it")
            )),
            KnownState::Expired => Some(format!(
                "Fix or renew {entry}: it counted until {}.",
                known.expires
            )),
        }
    }));
    // What has no step of its own.
    if steps.is_empty() {
        let reasons = report.verdict.reasons.iter();
        steps.extend(reasons.map(|reason| format!("See to what the verdict names: {reason}.")));
    }
    steps
}

fn failed((role, engine): (Role, &Engine)) -> Option<String> {
    let failure = engine.failure.as_ref()?;
    let log = match failure.log_tail.len() as u64 {
        0 => "it logged nothing".to_owned(),
        n => format!(
            "the report has the last {} that it logged",
            number::plural(n, "line")
        ),
    };
    Some(format!(
        "Find out why the {role} ({}) failed (during: {}); {log}.",
        engine.called(),
        failure.during
    ))
}

fn missing(report: &Report) -> Option<String> {
    let coverage = &report.coverage;
    let first = coverage.missing.first()?;
    Some(format!(
        "Find out why {} of {} were not compared; the first: {first}.",
        number::count(coverage.expected.saturating_sub(coverage.compared)),
        number::plural(coverage.expected, "row"),
    ))
}

fn divergence(first: &Divergence, report: &Report) -> String {
    let at = |layer, tap: &str| {
        format!(
            "{} (prompt {}, position {}, {})",
            stage(layer, tap),
            first.prompt,
            first.position,
            mode_name(first.mode)
        )
    };
    let place = at(first.layer, &first.tap);
    // The oracle may name another stage than the one that shows the error.
    let wrong = |role| {
        let judged = first.arbitration.as_ref().map(|a| a.judgement(role));
        let place = match judged.filter(|judged| !judged.right) {
            Some(judged) => at(judged.layer, &judged.tap),
            None => place.clone(),
        };
        format!(
            "Look at {place} in the {role} ({}), which is at fault there.",
            report.engines.engine(role).called()
        )
    };
    match report.verdict.at_fault {
        AtFault::Candidate => wrong(Role::Candidate),
        AtFault::Reference => wrong(Role::Reference),
        AtFault::Both => format!("Look at {place} in both engines: both are at fault there."),
        AtFault::None => format!(
            "Look at the limit of {place}, {}: neither engine is at fault there.",
            limit(Some(first.limit))
        ),
        AtFault::Undetermined => format!(
            "Find out which engine is wrong in {place}: {}.",
            match first.arbitration {
                Some(_) => "the oracle does not settle it",
                None => "the oracle was not asked",
            }
        ),
    }
}

/// Every slowdown by itself; what was not judged by its reason.
fn gated(gate: &Gate) -> Vec<String> {
    let mut steps = Vec::new();
    if no_baseline(gate) {
        steps.push(format!(
            "Record a baseline: the same command with --update adds this run to {}.",
            gate.baseline
        ));
    }
    if !gate.changed.is_empty() {
        steps.push(format!(
            "Record runs like this one: the same command with --update adds one to {}, and five are a history.",
            gate.baseline
        ));
    }
    for series in of_result(gate, GateResult::Regressed) {
        steps.push(format!(
            "Find out what slowed down {}: {} against the baseline, threshold {}.",
            series.name(),
            change(series),
            number::or_not_measured(series.threshold, number::share),
        ));
    }
    for (result, what) in [
        (
            GateResult::NotRepeated,
            "Measure again what was slower and could not be measured a second time",
        ),
        (
            GateResult::TooFewSamples,
            "Collect more samples, in this run or the baseline",
        ),
        (GateResult::NoBaseline, "Add to the baseline"),
        (
            GateResult::NotMeasured,
            "Time what the baseline has and this run does not",
        ),
        (
            GateResult::Undecided,
            "Measure again, with more pairs or on a quieter machine",
        ),
        (
            GateResult::TooNoisy,
            "Measure on a quieter machine, or let more through (--max-regression)",
        ),
        (
            GateResult::ReferenceChanged,
            "Find out what changed in the reference, or accept the new ratio (--update)",
        ),
        (
            GateResult::BothSlower,
            "Find out what slowed down both engines, or the machine",
        ),
    ] {
        let names: Vec<_> = of_result(gate, result).map(GateSeries::name).collect();
        if !names.is_empty() {
            steps.push(format!("{what}: {}.", names.join("; ")));
        }
    }
    steps
}
