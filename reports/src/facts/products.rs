//! Matrix products and the quantisers before them.

use super::parity::{Cell, Level, Parity, largest, nmse};
use super::{Kind, State, Table, limit, tap_group};
use crate::model::{Mode, Report};
use crate::number;

/// Taps that are matrix products, one row each: whether the engines have the same bits, and how far they part.
pub(super) fn products(parity: &Parity<'_>) -> Table {
    let mut table = Table::new(&[
        ("Product", Kind::Code),
        ("Equal bits, isolated", Kind::Text),
        ("NMSE, isolated", Kind::Number),
        ("Limit", Kind::Number),
        ("NMSE, cumulative", Kind::Number),
    ]);
    let product = |tap: &&&str| tap_group(tap) == "projections" || **tap == "logits";
    for &tap in parity.taps.iter().filter(product) {
        let isolated: Vec<&Cell<'_>> = parity.column(Mode::Isolated, tap).collect();
        let worst = |mode| {
            let levels = parity.column(mode, tap).map(|cell| nmse(cell.stats));
            levels.fold(Level::NotMeasured, Level::max).text()
        };
        let equal = isolated
            .iter()
            .filter(|cell| cell.stats.bit_equal && cell.stats.rows > 0)
            .count();
        let measured = isolated.iter().any(|cell| cell.stats.rows > 0);
        let text = match isolated.as_slice() {
            _ if !measured => number::NOT_MEASURED.to_owned(),
            [only] if only.layer.is_none() => if equal == 1 { "yes" } else { "no" }.to_owned(),
            all if equal == all.len() => "in every layer".to_owned(),
            _ if equal == 0 => "in no layer".to_owned(),
            all => format!("in {equal} of {} layers", all.len()),
        };
        let state = if isolated.iter().any(|cell| cell.failed()) {
            State::Fail
        } else {
            State::Plain
        };
        let bound = isolated.iter().find_map(|cell| cell.stats.limit);
        table.push(
            state,
            vec![
                tap.to_owned(),
                text,
                worst(Mode::Isolated),
                limit(bound),
                worst(Mode::Cumulative),
            ],
        );
    }
    table
}

/// Taps that feed an int8 quantiser, one row each: how many of its codes differ, and by how many of its steps.
pub(super) fn quantisers(parity: &Parity<'_>) -> Table {
    let mut table = Table::new(&[
        ("Tap", Kind::Code),
        ("Codes flipped, isolated", Kind::Number),
        ("Largest difference in steps, isolated", Kind::Number),
        ("Codes flipped, cumulative", Kind::Number),
        ("Largest difference in steps, cumulative", Kind::Number),
    ]);
    for &tap in &parity.taps {
        let figures = [Mode::Isolated, Mode::Cumulative].map(|mode| {
            let stats = || parity.column(mode, tap).map(|cell| cell.stats);
            [
                largest(stats().map(|s| s.code_flip_rate), number::share),
                largest(stats().map(|s| s.max_quantiser_steps), number::error),
            ]
        });
        if figures.iter().flatten().all(String::is_empty) {
            continue;
        }
        let mut cells = vec![tap.to_owned()];
        cells.extend(
            figures
                .into_iter()
                .flatten()
                .map(|text| match text.as_str() {
                    "" => number::NOT_MEASURED.to_owned(),
                    _ => text,
                }),
        );
        table.push(State::Plain, cells);
    }
    table
}

/// How many tensors of which type the model has, and where the scales of its layers' matrices are.
pub(super) fn tensor_types(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Type", Kind::Code),
        ("Tensors", Kind::Number),
        ("Scale of matrices", Kind::Text),
    ]);
    for (name, n) in &report.model.tensor_types {
        let scale = report.model.weight_scales.get(name);
        let cells = vec![
            name.clone(),
            number::count(*n as u64),
            scale.cloned().unwrap_or_default(),
        ];
        table.push(State::Plain, cells);
    }
    table
}
