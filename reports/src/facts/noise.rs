//! The engines' own noise, beside the difference between them.

use super::parity::{Level, Parity, nmse};
use super::{Kind, State, Table};
use crate::model::{Mode, NoiseMeasurement, Report};
use crate::number;

/// One row per tap: the worst NMSE between the engines in cumulative mode, then one column per measurement of an
/// engine against itself. Empty if there is none.
pub(super) fn table(report: &Report, parity: &Parity<'_>) -> Table {
    let measurements = report
        .noise_floor
        .as_ref()
        .map_or(&[][..], |floor| &floor.measurements);
    let titles: Vec<String> = measurements
        .iter()
        .map(|m| format!("{}, {}", m.engine, m.varied))
        .collect();
    let mut columns = vec![
        ("Tap", Kind::Code),
        ("candidate against reference, cumulative", Kind::Number),
    ];
    columns.extend(titles.iter().map(|title| (title.as_str(), Kind::Number)));
    let mut table = Table::new(&columns);
    let mut taps = parity.taps.clone();
    for tap in measurements.iter().flat_map(|m| m.nmse.keys()) {
        if !taps.contains(&tap.as_str()) {
            taps.push(tap);
        }
    }
    taps.retain(|&tap| measurements.iter().any(|m| m.nmse.contains_key(tap)));
    for tap in taps {
        let between = parity
            .column(Mode::Cumulative, tap)
            .map(|cell| nmse(cell.stats))
            .fold(Level::NotMeasured, Level::max);
        let mut row = vec![tap.to_owned(), between.text()];
        row.extend(measurements.iter().map(|m| match m.nmse.get(tap) {
            None => number::NOT_MEASURED.to_owned(),
            Some(None) => number::NOT_FINITE.to_owned(),
            Some(&Some(x)) => number::error(x),
        }));
        let beyond = measurements
            .iter()
            .any(|m| tap == "logits" && beyond_limit(m));
        let state = if beyond { State::Fail } else { State::Plain };
        table.push(state, row);
    }
    table
}

/// Whether an engine differs from itself by more than it may, and nothing speaks for it; what is not finite does.
fn beyond_limit(measurement: &NoiseMeasurement) -> bool {
    if measurement.amplified.is_some() {
        return false;
    }
    let logits = measurement.nmse.get("logits");
    let limit = measurement.logits_limit;
    limit
        .zip(logits)
        .is_some_and(|(limit, nmse)| nmse.is_none_or(|nmse| nmse > limit))
}
