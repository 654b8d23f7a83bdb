//! Layers x taps, coloured by the error of the worst row.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Chart, LegendEntry, Paint, WIDTH, axis::whole_ticks, failed, finish, text};
use crate::error::Error;
use crate::facts::{Level, Parity, mode_name, nmse};
use crate::model::{Mode, TapStats};
use crate::number;

/// Height of a row of cells.
const ROW: i32 = 15;
/// Width left for tap names.
const LABELS: i32 = 106;
const GAP: i32 = 1;

/// The error scale: upper ends of the NMSE, in the order of [`Paint::Ramp`]; fixed, so that reports compare.
const RAMP: [(f64, &str); 7] = [
    (0.0, "0"),
    (1e-12, "to 1e-12"),
    (1e-9, "to 1e-9"),
    (1e-6, "to 1e-6"),
    (1e-4, "to 1e-4"),
    (1e-2, "to 1e-2"),
    (f64::INFINITY, "above"),
];

fn paint(stats: &TapStats) -> Option<Paint> {
    if stats.pass == Some(false) {
        return Some(Paint::Bad);
    }
    match nmse(stats) {
        Level::NotMeasured => None,
        Level::NotFinite => Some(Paint::Bad),
        Level::Value(x) => RAMP
            .iter()
            .position(|(end, _)| x <= *end)
            .map(|step| Paint::Ramp(step as u8)),
    }
}

/// The map of one mode; nothing if it was not run.
pub(crate) fn heatmap(parity: &Parity<'_>, mode: Mode) -> Result<Option<Chart>, Error> {
    let columns = parity.columns();
    if columns.is_empty() || !parity.modes.contains(&mode) {
        return Ok(None);
    }
    let title = format!("NMSE by layer and tap, {}", mode_name(mode));
    let error = failed(&title);
    // Whole pixels only; a model with very many layers widens the drawing, which the page scales down.
    let cell = ((WIDTH as i32 - LABELS) / columns.len() as i32).clamp(GAP + 1, 30);
    let width = (LABELS + cell * columns.len() as i32).max(WIDTH as i32);
    let bottom = ROW * parity.taps.len() as i32;
    let mut svg = String::new();
    let mut tooltips = Vec::new();
    {
        let area = SVGBackend::with_string(&mut svg, (width as u32, (bottom + 36) as u32))
            .into_drawing_area();
        for (&tap, top) in parity.taps.iter().zip((0..).step_by(ROW as usize)) {
            let style = text(Paint::Ink, HPos::Right, VPos::Center);
            let name: String = tap.chars().take(14).collect();
            area.draw(&Text::new(name, (LABELS - 6, top + ROW / 2), style))
                .map_err(|e| error(&e))?;
            for (&column, left) in columns.iter().zip((LABELS..).step_by(cell as usize)) {
                let found = parity.cell(mode, tap, column.0);
                let Some((found, paint)) = found
                    .filter(|_| parity.belongs(tap, column))
                    .and_then(|found| Some((found, paint(found.stats)?)))
                else {
                    continue;
                };
                area.draw(&Rectangle::new(
                    [(left, top), (left + cell - GAP, top + ROW - GAP)],
                    paint.color().filled(),
                ))
                .map_err(|e| error(&e))?;
                let limit = found.stats.limit.map_or_else(String::new, |limit| {
                    format!(", limit {}", number::error(limit))
                });
                let failed = if found.failed() { ", fail" } else { "" };
                tooltips.push(format!(
                    "{tap}, {}: NMSE {}{limit}{failed}",
                    parity.place(found),
                    nmse(found.stats).text()
                ));
            }
        }
        let center = text(Paint::Ink, HPos::Center, VPos::Top);
        for tick in whole_ticks(0.0, columns.len().saturating_sub(1) as f64) {
            // Ticks count layers, not columns: the first column may lie before the layers.
            let first = usize::from(columns.first().is_some_and(|c| c.0.is_none()));
            let index = tick as usize + first;
            if let Some((Some(layer), _)) = columns.get(index) {
                let x = LABELS + cell * index as i32 + cell / 2;
                area.draw(&Text::new(
                    layer.to_string(),
                    (x, bottom + 3),
                    center.clone(),
                ))
                .map_err(|e| error(&e))?;
            }
        }
        let middle = LABELS + cell * columns.len() as i32 / 2;
        area.draw(&Text::new("layer", (middle, bottom + 20), center))
            .map_err(|e| error(&e))?;
        area.present().map_err(|e| error(&e))?;
    }
    let mut legend: Vec<_> = (0u8..)
        .zip(RAMP)
        .map(|(step, (_, name))| LegendEntry::new(Paint::Ramp(step), name))
        .collect();
    legend.push(LegendEntry::new(
        Paint::Bad,
        "beyond its limit or not finite",
    ));
    Ok(Some(Chart {
        svg: finish(&svg, &title, &tooltips),
        title,
        legend,
    }))
}
