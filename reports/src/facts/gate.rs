//! The run held against a baseline.

use super::{Kind, State, Table, coverage};
use crate::model::{Gate, GateFigure, GateResult, GateSeries, Report};
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

/// `-8.10% (-9.20% to -6.90%)`, of the last measurement.
pub(super) fn change(series: &GateSeries) -> String {
    let last = series.measurements.last();
    let Some((m, change)) = last.and_then(|m| Some((m, m.change?))) else {
        return number::NOT_MEASURED.to_owned();
    };
    match m.low.zip(m.high) {
        Some((low, high)) => format!(
            "{} ({} to {})",
            number::change(change),
            number::change(low),
            number::change(high)
        ),
        None => format!(
            "{} (interval {})",
            number::change(change),
            number::NOT_MEASURED
        ),
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
                series.threads.to_string(),
                series.figure.name().to_owned(),
                series
                    .baseline
                    .map_or_else(|| number::NOT_MEASURED.to_owned(), speed),
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

/// What the baseline is, and what the gate finds wrong beside the series.
pub(super) fn notes(gate: &Gate) -> Vec<String> {
    let mut notes = vec![format!(
        "Held against {}; a slowdown of {} or of 3 times the series' own noise is let through, whichever is larger.",
        gate.baseline,
        number::share(gate.max_regression)
    )];
    if let Some(rows) = gate.baseline_rows {
        notes.push(format!(
            "The baseline's latest run of this model, these engines and these inputs compared {}.",
            number::plural(rows, "row")
        ));
    }
    notes
}
