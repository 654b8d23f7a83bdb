//! The run held against a baseline.

use super::{Kind, State, Table};
use crate::model::{Gate, GateFigure, GateResult, GateSeries, Report};
use crate::number;

/// `tg64 at 2 threads (candidate over reference)`.
pub(crate) fn name(series: &GateSeries) -> String {
    format!(
        "{} at {} ({})",
        series.test,
        number::plural(series.threads as u64, "thread"),
        figure(series.figure)
    )
}

fn figure(figure: GateFigure) -> &'static str {
    match figure {
        GateFigure::Ratio => "candidate over reference",
        GateFigure::Absolute => "candidate alone",
    }
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
        result(series.result).0
    )
}

fn result(result: GateResult) -> (&'static str, State) {
    match result {
        GateResult::Pass => ("pass", State::Pass),
        GateResult::Improved => ("improved", State::Pass),
        GateResult::Regressed => ("regressed", State::Fail),
        GateResult::NotConfirmed => ("pass: the slowdown was not confirmed", State::Pass),
        GateResult::NotRepeated => ("not judged: slower, and not measured again", State::Plain),
        GateResult::TooFewSamples => ("not judged: too few samples", State::Plain),
        GateResult::NoBaseline => ("not judged: not in the baseline", State::Plain),
        GateResult::NotMeasured => ("not judged: not measured", State::Plain),
        GateResult::MachineChanged => ("not judged: the reference changed as well", State::Plain),
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
        let (text, state) = result(series.result);
        table.push(
            state,
            vec![
                series.test.clone(),
                series.threads.to_string(),
                figure(series.figure).to_owned(),
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
                text.to_owned(),
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
