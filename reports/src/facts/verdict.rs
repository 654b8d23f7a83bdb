//! The verdict in words.

use serde::Serialize;

use super::gate::{judged, of_result};
use super::parity::{Cell, Parity, is_spoken_for};
use super::{Kind, State, Table, limit, mode_name, summary, text_or_not_measured};
use crate::model::{
    Arbitration, AtFault, Divergence, Engine, Engines, Finding, GateResult, GateSeries, Judgement,
    KnownState, Mode, PartBeyond, Report, Role, Source, Status,
};
use crate::number;
use crate::outcome::Outcome;

/// The verdict in words.
#[derive(Serialize)]
pub(crate) struct Verdict {
    /// `pass`, `fail`, `incomplete`, `error`.
    pub status: &'static str,
    pub headline: String,
    pub reasons: Vec<String>,
    pub divergence: Option<First>,
    /// Per mode: what the gates say.
    pub gates: Vec<String>,
}

/// The first divergence in words.
#[derive(Serialize)]
pub(crate) struct First {
    pub place: String,
    /// Name and value.
    pub values: Vec<(&'static str, String)>,
    pub error: String,
    pub hint: Option<String>,
    /// Each engine against the oracle; empty if that was not asked.
    pub arbitration: Table,
    /// What is wrong with an engine, one sentence each.
    pub findings: Vec<String>,
}

impl Verdict {
    pub(crate) fn new(report: &Report, parity: &Parity<'_>) -> Verdict {
        let verdict = &report.verdict;
        Verdict {
            status: verdict.status.name(),
            headline: headline(report),
            reasons: verdict.reasons.clone(),
            divergence: verdict
                .first_divergence
                .as_ref()
                .map(|d| First::new(d, report)),
            gates: parity
                .modes
                .iter()
                .filter_map(|&mode| gates(parity, mode))
                .collect(),
        }
    }
}

/// The run in one line: what was compared and what came of it; of timings alone, how fast the candidate is.
pub(crate) fn headline(report: &Report) -> String {
    let verdict = &report.verdict;
    let word = match verdict.status {
        Status::Pass => "Pass",
        Status::Fail => "Fail",
        Status::Incomplete => "Incomplete",
        Status::Error => "Error",
    };
    let reference = report.engines.reference.called();
    let candidate = report.engines.candidate.called();
    let fault = match at_fault(report) {
        Some(fault) => format!("; at fault: {fault}"),
        None => String::new(),
    };
    let speed = speed(report);
    let model = report.model.file_name();
    match report.not_compared {
        Some(_) => {
            let timed = || format!("{candidate} and {reference} timed on {model}");
            let result = summary::result(report).unwrap_or_else(timed);
            match verdict.status {
                Status::Pass => format!("{result}{fault}{speed}"),
                _ => format!("{word}: {result}{fault}{speed}"),
            }
        }
        None => format!(
            "{word}{}: {candidate} against {reference} on {model}, {} of {} compared{fault}{speed}",
            excused(report),
            number::count(report.coverage.compared),
            number::plural(report.coverage.expected, "row"),
        ),
    }
}

/// `; slower than the baseline in decode, tg64 at 2 threads (candidate over reference)`, or that the speed was not judged
/// where that is what is wrong.
fn speed(report: &Report) -> String {
    let Some(gate) = &report.gate else {
        return String::new();
    };
    let slower: Vec<_> = of_result(gate, GateResult::Regressed)
        .map(GateSeries::name)
        .collect();
    match slower.as_slice() {
        [] => {}
        [first, more @ ..] if more.len() > 2 => {
            let more = number::count(more.len() as u64);
            return format!("; slower than the baseline in {first} and {more} more");
        }
        few => return format!("; slower than the baseline in {}", few.join(" and ")),
    }
    if report.verdict.outcome() != Outcome::NoBaseline {
        return String::new();
    }
    let all = gate.series.len() as u64;
    match all - judged(gate) {
        n if n < all => format!(
            "; {} of {} not judged",
            number::count(n),
            number::plural(all, "speed")
        ),
        _ => "; the speed was not judged".to_owned(),
    }
}

/// `the candidate (rust)`, of every comparison; `None` if there is no fault.
pub(crate) fn at_fault(report: &Report) -> Option<String> {
    let further = report.further.iter().filter_map(|f| f.report.as_ref());
    let mut all: Vec<String> = Vec::new();
    for one in own_fault(report)
        .into_iter()
        .chain(further.filter_map(|r| at_fault(r)))
    {
        if !all.contains(&one) {
            all.push(one);
        }
    }
    (!all.is_empty()).then(|| all.join(", "))
}

/// Of the report's own two engines.
fn own_fault(report: &Report) -> Option<String> {
    let engine = |role| {
        let name = report.engines.engine(role).called();
        Some(format!("the {role} ({name})"))
    };
    let failed = || {
        let findings = report.findings();
        let mut own = findings.iter().filter(|f| f.source != Source::Reference);
        let parity =
            |f: &Finding| matches!(f.outcome, Outcome::Parity | Outcome::ParityAndPerformance);
        report.verdict.parity_failed() && own.any(parity)
    };
    match report.verdict.at_fault {
        AtFault::None if failed() => Some("neither engine".to_owned()),
        AtFault::None => None,
        AtFault::Candidate => engine(Role::Candidate),
        AtFault::Reference => engine(Role::Reference),
        AtFault::Both => Some("both engines".to_owned()),
        AtFault::Undetermined => Some("undetermined".to_owned()),
    }
}

/// ` with 2 known deviations`, if the run passed thanks to them.
pub(crate) fn excused(report: &Report) -> String {
    let matched = report
        .known
        .iter()
        .filter(|known| known.state == KnownState::Matched)
        .count();
    if report.verdict.status == Status::Pass && matched > 0 {
        format!(
            " with {}",
            number::plural(matched as u64, "known deviation")
        )
    } else {
        String::new()
    }
}

/// Both engines against the oracle, one row each, and what is wrong with which engine.
fn arbitration<'a>(
    arbitration: &'a Arbitration,
    engines: &Engines,
) -> (Table, Vec<(String, &'a str)>) {
    let mut table = Table::new(&[
        ("Engine", Kind::Text),
        ("NMSE", Kind::Number),
        ("Limit", Kind::Number),
        ("Stage", Kind::Text),
        ("Closest with rounding", Kind::Text),
        ("Result", Kind::Text),
    ]);
    let mut findings = Vec::new();
    for (role, engine) in engines.by_role() {
        let Judgement {
            layer,
            tap,
            nmse,
            limit: largest,
            right,
            rounding,
            findings: found,
        } = arbitration.judgement(role);
        let (state, result) = if *right {
            (State::Pass, "right")
        } else {
            (State::Fail, "wrong")
        };
        let name = format!("{role} ({})", engine.called());
        findings.extend(found.iter().map(|finding| (name.clone(), finding.as_str())));
        table.push(
            state,
            vec![
                name,
                nmse.map_or_else(|| number::NOT_FINITE.to_owned(), number::error),
                limit(Some(*largest)),
                stage(*layer, tap),
                rounding.clone(),
                result.to_owned(),
            ],
        );
    }
    (table, findings)
}

/// `layer 3, ffn_act`.
pub(crate) fn stage(layer: Option<usize>, tap: &str) -> String {
    layer.map_or_else(|| tap.to_owned(), |layer| format!("layer {layer}, {tap}"))
}

impl First {
    fn new(divergence: &Divergence, report: &Report) -> First {
        let mut place = Vec::new();
        if report.inputs.prompts.len() > 1 {
            place.push(format!("prompt {}", divergence.prompt));
        }
        place.push(format!("position {}", divergence.position));
        place.push(stage(divergence.layer, &divergence.tap));
        // Compared, so a null is a value that is not finite.
        let value = |x: Option<f64>| x.map_or(number::NOT_FINITE.to_owned(), number::value);
        let mut values = vec![
            ("element", divergence.element.to_string()),
            (Role::Reference.name(), value(divergence.reference)),
            (Role::Candidate.name(), value(divergence.candidate)),
        ];
        values.extend(divergence.oracle.map(|x| ("oracle", number::value(x))));
        let (arbitration, mut findings) = divergence
            .arbitration
            .as_ref()
            .map(|a| arbitration(a, &report.engines))
            .unwrap_or_default();
        // The hint is made of findings; those need not be said twice.
        let hint = divergence.hint.as_deref().unwrap_or_default();
        findings.retain(|(_, finding)| !hint.contains(finding));
        let times = match divergence.nmse {
            Some(nmse) if divergence.limit > 0.0 && nmse.is_finite() => format!(
                ", {} times the limit",
                number::significant(nmse / divergence.limit, 2)
            ),
            _ => String::new(),
        };
        First {
            place: format!("{} ({})", place.join(", "), mode_name(divergence.mode)),
            values,
            error: match &divergence.part {
                Some(part) => part_beyond(part),
                None => format!(
                    "NMSE of the row {}, limit {}{times}",
                    divergence
                        .nmse
                        .map_or_else(|| number::NOT_FINITE.to_owned(), number::error),
                    limit(Some(divergence.limit)),
                ),
            },
            hint: divergence.hint.as_ref().map(|hint| format!("Hint: {hint}")),
            arbitration,
            findings: findings
                .into_iter()
                .map(|(engine, finding)| format!("{engine}: {finding}"))
                .collect(),
        }
    }
}

/// `NMSE of head 3 1.4e-5, limit 1.0e-5, though the row is within its limit`.
fn part_beyond(part: &PartBeyond) -> String {
    let what = match (part.head, part.rows) {
        (Some(head), _) => format!("head {head}"),
        (None, 1) => "the element".to_owned(),
        (None, rows) => format!("the element's mean over {}", number::plural(rows, "row")),
    };
    format!(
        "NMSE of {what} {}, limit {}, though the row is within its limit",
        number::error(part.nmse),
        number::error(part.limit)
    )
}

/// `isolated: 2 of 21 gated taps exceed their limit: q_rope (30 of 30 layers), k_rope (30 of 30 layers)`.
fn gates(parity: &Parity<'_>, mode: Mode) -> Option<String> {
    let mut gated = 0;
    let mut by_rounding = 0;
    let mut failed = Vec::new();
    for &tap in &parity.taps {
        let cells: Vec<&Cell<'_>> = parity
            .column(mode, tap)
            .filter(|cell| cell.stats.pass.is_some())
            .collect();
        gated += u64::from(!cells.is_empty());
        by_rounding += u64::from(cells.iter().any(|cell| is_spoken_for(cell.stats)));
        let failing: Vec<_> = cells.iter().filter(|cell| cell.failed()).collect();
        if let Some(first) = failing.first() {
            failed.push(if first.layer.is_some() {
                format!("{tap} ({} of {} layers)", failing.len(), cells.len())
            } else {
                tap.to_owned()
            });
        }
    }
    if gated == 0 {
        return None;
    }
    let mode = mode_name(mode);
    Some(if failed.is_empty() && by_rounding > 0 {
        format!(
            "{mode}: every gated tap ({}) is within its limit but {}, beyond it by rounding alone",
            number::count(gated),
            number::count(by_rounding)
        )
    } else if failed.is_empty() {
        format!(
            "{mode}: every gated tap ({}) is within its limit",
            number::count(gated)
        )
    } else {
        format!(
            "{mode}: {} of {} beyond the limit: {}",
            failed.len(),
            number::plural(gated, "gated tap"),
            failed.join(", ")
        )
    })
}

/// How a worker failed, in one sentence.
pub(crate) fn failure(role: Role, engine: &Engine) -> Option<String> {
    let failure = engine.failure.as_ref()?;
    let mut end = Vec::new();
    end.extend(
        failure
            .signal
            .as_ref()
            .map(|signal| format!("signal {signal}")),
    );
    end.extend(failure.exit_code.map(|code| format!("exit code {code}")));
    if end.is_empty() {
        end.push(format!(
            "signal and exit code {}",
            text_or_not_measured(None)
        ));
    }
    Some(format!(
        "The {role} ({}) failed: {} ({}; during: {})",
        engine.called(),
        failure.message,
        end.join(", "),
        failure.during
    ))
}
