//! Layers x taps, coloured by how much of its limit the worst row uses up.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Chart, LegendEntry, Paint, WIDTH, axis::whole_ticks, failed, finish, text};
use crate::error::Error;
use crate::facts::{Parity, Shade, Share, mode_name};
use crate::model::Mode;

/// Height of a row of cells.
const ROW: i32 = 15;
/// Width left for tap names.
const LABELS: i32 = 106;
const GAP: i32 = 1;
/// Narrowest cell that has room for a cross.
const CROSSED: i32 = 8;

/// The scale within the limit: upper ends of its share, in the order of [`Paint::Ramp`]; fixed, so that reports compare.
const RAMP: [(f64, &str); 4] = [
    (0.0, "0"),
    (0.01, "to 1% of the limit"),
    (0.1, "to 10%"),
    (1.0, "to 100%"),
];
/// The same beyond it, in the order of [`Paint::Over`].
const OVER: [(f64, &str); 4] = [
    (10.0, "not gated: to 10 times"),
    (1e3, "to 1000 times"),
    (1e6, "to 1e6 times"),
    (f64::INFINITY, "above"),
];

fn paint(shade: &Shade) -> Paint {
    let step = |scale: &[(f64, &str)], x: f64| scale.iter().position(|(end, _)| x <= *end);
    match shade.share {
        _ if shade.failed => Paint::Bad,
        Share::NotFinite => Paint::Bad,
        Share::NoLimit | Share::BitsDiffer => Paint::NoShare,
        Share::Of(x) => match step(&RAMP, x) {
            Some(within) => Paint::Ramp(within as u8),
            None => Paint::Over(step(&OVER, x).unwrap_or(OVER.len() - 1) as u8),
        },
    }
}

/// The map of one mode; nothing if it was not run, or nothing was measured.
pub(crate) fn heatmap(parity: &Parity<'_>, mode: Mode) -> Result<Option<Chart>, Error> {
    let columns = parity.columns();
    if columns.is_empty() || !parity.modes.contains(&mode) {
        return Ok(None);
    }
    let title = format!("Share of the limit by layer and tap, {}", mode_name(mode));
    let error = failed(&title);
    // Whole pixels only; a model with very many layers widens the drawing, which the page scales down.
    let cell = ((WIDTH as i32 - LABELS) / columns.len() as i32).clamp(GAP + 1, 30);
    let width = (LABELS + cell * columns.len() as i32).max(WIDTH as i32);
    let bottom = ROW * parity.taps.len() as i32;
    let mut svg = String::new();
    let mut tooltips = Vec::new();
    let (mut ungated, mut shareless) = (false, false);
    {
        let area = SVGBackend::with_string(&mut svg, (width as u32, (bottom + 36) as u32))
            .into_drawing_area();
        for (&tap, top) in parity.taps.iter().zip((0..).step_by(ROW as usize)) {
            let style = text(Paint::Ink, HPos::Right, VPos::Center);
            let name: String = tap.chars().take(14).collect();
            area.draw(&Text::new(name, (LABELS - 6, top + ROW / 2), style))
                .map_err(|e| error(&e))?;
            for (&column, left) in columns.iter().zip((LABELS..).step_by(cell as usize)) {
                let shade = parity.shade(mode, tap, column.0);
                let Some(shade) = shade.filter(|_| parity.belongs(tap, column)) else {
                    continue;
                };
                let paint = paint(&shade);
                let (right, bottom) = (left + cell - GAP, top + ROW - GAP);
                area.draw(&Rectangle::new(
                    [(left, top), (right, bottom)],
                    paint.color().filled(),
                ))
                .map_err(|e| error(&e))?;
                // Failures are told apart without colour, too.
                if paint == Paint::Bad && cell >= CROSSED {
                    for (from, to) in [(top + 3, bottom - 3), (bottom - 3, top + 3)] {
                        let line = [(left + 2, from), (right - 2, to)];
                        area.draw(&PathElement::new(line, Paint::Cross.color()))
                            .map_err(|e| error(&e))?;
                    }
                }
                ungated |= !shade.gated;
                shareless |= paint == Paint::NoShare;
                tooltips.push(shade.text);
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
    if tooltips.is_empty() {
        return Ok(None);
    }
    let scale = |scale: &[(f64, &str)], paint: fn(u8) -> Paint| -> Vec<LegendEntry> {
        (0u8..)
            .zip(scale)
            .map(|(step, (_, name))| LegendEntry::new(paint(step), name))
            .collect()
    };
    let mut legend = scale(&RAMP, Paint::Ramp);
    if ungated {
        legend.extend(scale(&OVER, Paint::Over));
    }
    if shareless {
        legend.push(LegendEntry::new(
            Paint::NoShare,
            "not gated: bits differ, or no limit",
        ));
    }
    legend.push(LegendEntry::new(Paint::Bad, "fails, or not finite"));
    Ok(Some(Chart {
        svg: finish(&svg, &title, &tooltips),
        title,
        legend,
        note: parity.shade_note(mode),
    }))
}
