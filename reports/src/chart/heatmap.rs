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
    (0.0, "equal"),
    (0.01, "far within the limit (to 1% of it)"),
    (0.1, "within (to 10%)"),
    (1.0, "just within (to 100%)"),
];
/// The last of them, where a cell is beyond its limit and passes: for what is not the engine's, or known.
const ACCOUNTED_FOR: &str = "just within (to 100%), or beyond and accounted for";
/// That of what is not gated: upper ends in multiples of what counts as noise, in the order of [`Paint::Over`].
const OVER: [(f64, &str); 4] = [
    (1.0, "not gated: no more than noise"),
    (10.0, "not gated: a little more (to 10 times)"),
    (1e3, "not gated: much more (to 1000 times)"),
    (f64::INFINITY, "not gated: far more"),
];

fn paint(shade: &Shade) -> Paint {
    let step = |scale: &[(f64, &str)], x: f64| {
        let step = scale.iter().position(|(end, _)| x <= *end);
        step.unwrap_or(scale.len() - 1) as u8
    };
    match shade.share {
        _ if shade.failed => Paint::Bad,
        Share::NotFinite => Paint::Bad,
        Share::NoLimit | Share::BitsDiffer => Paint::NoShare,
        Share::Of(x) if shade.gated || x == 0.0 => Paint::Ramp(step(&RAMP, x)),
        Share::Of(x) => Paint::Over(step(&OVER, x)),
    }
}

/// What a colour means.
fn meaning(paint: Paint) -> &'static str {
    let of = |scale: &[(f64, &'static str)], step: u8| {
        scale.get(usize::from(step)).map(|(_, name)| *name)
    };
    match paint {
        Paint::Ramp(step) => of(&RAMP, step),
        Paint::Over(step) => of(&OVER, step),
        Paint::NoShare => Some("not gated: bits differ, or no limit"),
        _ => None,
    }
    .unwrap_or("fails, or not finite")
}

/// What is to be seen in the map of a mode.
fn title(mode: Mode) -> String {
    let seen = match mode {
        Mode::Isolated => "Each stage from the same inputs: should be pale",
        Mode::Cumulative => "Each engine on its own values: pale is noise",
    };
    format!("{seen} ({})", mode_name(mode))
}

/// The map of one mode; nothing if it was not run, or nothing was measured.
pub(crate) fn heatmap(parity: &Parity<'_>, mode: Mode) -> Result<Option<Chart>, Error> {
    let columns = parity.columns();
    if columns.is_empty() || !parity.modes.contains(&mode) {
        return Ok(None);
    }
    let title = title(mode);
    let error = failed(&title);
    // Whole pixels only; a model with very many layers widens the drawing, which the page scales down.
    let cell = ((WIDTH as i32 - LABELS) / columns.len() as i32).clamp(GAP + 1, 30);
    let width = (LABELS + cell * columns.len() as i32).max(WIDTH as i32);
    let bottom = ROW * parity.taps.len() as i32;
    let mut svg = String::new();
    let mut tooltips = Vec::new();
    let mut used = Vec::new();
    let mut beyond = false;
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
                let over = matches!(shade.share, Share::Of(x) if x > 1.0);
                beyond |= over && matches!(paint, Paint::Ramp(_));
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
                if !used.contains(&paint) {
                    used.push(paint);
                }
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
    used.sort_by_key(|paint| paint.index());
    let legend = used.iter();
    let legend = legend.map(|&paint| {
        let last = paint == Paint::Ramp(RAMP.len() as u8 - 1);
        let words = match beyond && last {
            true => ACCOUNTED_FOR,
            false => meaning(paint),
        };
        LegendEntry::new(paint, words)
    });
    Ok(Some(Chart {
        svg: finish(&svg, &title, &tooltips),
        title,
        legend: legend.collect(),
        note: parity.shade_note(mode),
    }))
}
