//! The run held against a baseline.

use super::speed::threads_cell;
use super::{Kind, State, Table, coverage};
use crate::model::{Gate, GateChange, GateFigure, GateMeasurement, GateResult, GateSeries, Report};
use crate::number;

/// Whether the baseline has no run to hold this one against. Where the run is to be the baseline there is none either, and
/// the gate has nothing to say.
pub(super) fn no_baseline(gate: &Gate) -> bool {
    gate.series.is_empty() && gate.baseline_rows.is_none() && !gate.reasons.is_empty()
}

/// Series that could be judged.
pub(super) fn judged(gate: &Gate) -> u64 {
    use GateResult::{Improved, NotConfirmed, Pass, Regressed};
    let results = gate.series.iter().map(|series| series.result);
    results
        .filter(|result| matches!(result, Pass | Improved | Regressed | NotConfirmed))
        .count() as u64
}

pub(super) fn of_result(gate: &Gate, result: GateResult) -> impl Iterator<Item = &GateSeries> {
    let series = gate.series.iter();
    series.filter(move |series| series.result == result)
}

/// The rows that this run compared and that the baseline's latest did; `None` if either compared none, or if the run
/// is to be the baseline.
pub(crate) fn rows(report: &Report) -> Option<(u64, u64)> {
    let gate = report.gate.as_ref()?;
    let (now, before) = (report.compared_rows()?, gate.baseline_rows?);
    (now >= before || !gate.reasons.is_empty()).then_some((now, before))
}

/// The same, if everything that was to be compared was and yet less than before.
pub(super) fn shrunk(report: &Report) -> Option<(u64, u64)> {
    rows(report).filter(|(now, before)| now < before && coverage::complete(&report.coverage))
}

/// The change that a measurement is judged by: from the best accepted level; in older reports from the level.
pub(crate) fn judged_by(m: &GateMeasurement) -> Option<GateChange> {
    let from_level = || {
        Some(GateChange {
            change: m.change?,
            low: m.low?,
            high: m.high?,
        })
    };
    m.from_best.or_else(from_level)
}

/// `1.70x`, or `1.70x, best 1.74x`, as `format` writes them.
fn level(series: &GateSeries, format: impl Fn(f64) -> String) -> Option<String> {
    let level = format(series.baseline?);
    let best = series.best.map(format).filter(|best| *best != level);
    Some(match best {
        Some(best) => format!("{level}, best {best}"),
        None => level,
    })
}

/// `-8.10% (-9.20% to -6.90%)`, of the last measurement.
pub(super) fn change(series: &GateSeries) -> String {
    match series.measurements.last().and_then(judged_by) {
        Some(GateChange { change, low, high }) => format!(
            "{} ({} to {})",
            number::change(change),
            number::change(low),
            number::change(high)
        ),
        None => number::NOT_MEASURED.to_owned(),
    }
}

/// `-8.10% (-9.20% to -6.90%), threshold 5.00%: regressed`.
pub(crate) fn sentence(series: &GateSeries) -> String {
    format!(
        "{}, threshold {}: {}",
        change(series),
        number::or_not_measured(series.threshold, number::share),
        series.result.name()
    )
}

fn state(result: GateResult) -> State {
    match result {
        GateResult::Pass | GateResult::Improved | GateResult::NotConfirmed => State::Pass,
        GateResult::Regressed => State::Fail,
        _ => State::Plain,
    }
}

/// One row per series that is wanted; empty without a baseline.
pub(super) fn table(report: &Report, wanted: impl Fn(&GateSeries) -> bool) -> Table {
    let mut table = Table::new(&[
        ("Test", Kind::Code),
        ("Threads", Kind::Number),
        ("Speed", Kind::Text),
        ("Baseline", Kind::Number),
        ("Runs", Kind::Number),
        ("Noise", Kind::Number),
        ("This run", Kind::Number),
        ("Change (95% interval)", Kind::Number),
        ("Threshold", Kind::Number),
        ("Result", Kind::Text),
    ]);
    let series = report.gate.iter().flat_map(|gate| &gate.series);
    for series in series.filter(|series| wanted(series)) {
        let speed = |x: f64| match series.figure {
            GateFigure::Ratio => number::times(x),
            GateFigure::Absolute => format!("{}/s", number::significant(x, 3)),
        };
        let values: Vec<_> = series.measurements.iter().map(|m| speed(m.value)).collect();
        table.push(
            state(series.result),
            vec![
                series.test.clone(),
                threads_cell(report, series.threads),
                series.figure.name().to_owned(),
                level(series, speed).unwrap_or(number::NOT_MEASURED.to_owned()),
                number::count(series.runs as u64),
                number::or_not_measured(series.noise, number::share),
                match values.as_slice() {
                    [] => number::NOT_MEASURED.to_owned(),
                    all => all.join(", again "),
                },
                change(series),
                number::or_not_measured(series.threshold, number::share),
                series.result.name().to_owned(),
            ],
        );
    }
    table
}

/// What the baseline is, how a run is held against it, and what the gate says beside the series.
pub(super) fn notes(gate: &Gate) -> Vec<String> {
    let mut notes = vec![format!(
        "Held against {}; a slowdown of {} or of 3 times the series' own noise is let through, whichever is larger. \
         Slowdowns count from the best level since a change was last accepted.",
        gate.baseline,
        number::share(gate.max_regression)
    )];
    notes.extend(
        gate.changed
            .iter()
            .map(|changed| format!("Other than in every run of the baseline: {changed}.")),
    );
    notes.extend(gate.notes.iter().map(|note| format!("Note: {note}.")));
    if let Some(rows) = gate.baseline_rows {
        notes.push(format!(
            "The baseline's latest run of this model, these engines and these inputs compared {}.",
            number::plural(rows, "row")
        ));
    }
    notes
}
