//! Horizontal bars from zero, with the interval of the median.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::{Chart, LegendEntry, Paint, WIDTH, failed, finish, text};
use crate::error::Error;
use crate::facts::{Bar, BarGroup};
use crate::model::Role;
use crate::number;

/// Height of a bar with its line of text above.
const ROW: i32 = 40;
/// Longest name that leaves room for the value on the same line.
const NAME: usize = 36;

/// One bar per entry, on one scale. Bars that are not finite or below zero are named but not drawn.
pub(crate) fn bar_chart(group: &BarGroup) -> Result<Chart, Error> {
    let error = failed(&group.title);
    let drawable = |x: f64| x.is_finite() && x >= 0.0;
    let longest = group
        .bars
        .iter()
        .flat_map(|bar| [Some(bar.value), bar.interval.map(|i| i.1)])
        .chain([group.mark.map(|mark| mark.0)])
        .flatten()
        .filter(|x| drawable(*x))
        .fold(0.0, f64::max);
    let length = |x: f64| {
        if longest > 0.0 {
            (x / longest * f64::from(WIDTH - 2)) as i32
        } else {
            0
        }
    };
    let mut svg = String::new();
    let mut tooltips = Vec::new();
    {
        let height = (ROW as u32).saturating_mul(group.bars.len() as u32);
        let area = SVGBackend::with_string(&mut svg, (WIDTH, height)).into_drawing_area();
        for (bar, top) in group.bars.iter().zip((0..).step_by(ROW as usize)) {
            let left = text(Paint::Ink, HPos::Left, VPos::Top);
            let right = text(Paint::Ink, HPos::Right, VPos::Top);
            area.draw(&Text::new(shorten(&bar.name), (0, top + 2), left))
                .and_then(|()| {
                    area.draw(&Text::new(
                        bar.text.clone(),
                        (WIDTH as i32 - 1, top + 2),
                        right,
                    ))
                })
                .map_err(|e| error(&e))?;
            if !drawable(bar.value) {
                continue;
            }
            let paint = Paint::of_role(bar.role);
            area.draw(&Rectangle::new(
                [(0, top + 18), (length(bar.value), top + 32)],
                paint.color().filled(),
            ))
            .map_err(|e| error(&e))?;
            tooltips.push(tooltip(bar));
            if let Some((mark, _)) = group.mark {
                let at = length(mark);
                let line = [(at, top + 15), (at, top + 35)];
                area.draw(&PathElement::new(line, Paint::Ink.color()))
                    .map_err(|e| error(&e))?;
            }
            if let Some((low, high)) = bar.interval.filter(|i| drawable(i.0) && drawable(i.1)) {
                let (low, high) = (length(low), length(high));
                for ends in [
                    [(low, top + 25), (high, top + 25)],
                    [(low, top + 21), (low, top + 29)],
                    [(high, top + 21), (high, top + 29)],
                ] {
                    area.draw(&PathElement::new(ends, Paint::Ink.color()))
                        .map_err(|e| error(&e))?;
                }
            }
        }
        area.present().map_err(|e| error(&e))?;
    }
    Ok(Chart {
        title: group.title.clone(),
        svg: finish(&svg, &group.title, &tooltips),
        legend: Role::BOTH
            .into_iter()
            .filter(|role| group.bars.iter().any(|bar| bar.role == *role))
            .map(|role| LegendEntry::new(Paint::of_role(role), role.name()))
            .collect(),
        note: group
            .mark
            .map(|(_, what)| format!("The line marks {what}.")),
    })
}

fn tooltip(bar: &Bar) -> String {
    let interval = bar.interval.map_or_else(String::new, |(low, high)| {
        let end = |x| number::significant(x, 3);
        format!(", 95% interval {} to {}", end(low), end(high))
    });
    format!("{}: {}{interval}", bar.name, bar.text)
}

fn shorten(name: &str) -> String {
    if name.chars().count() <= NAME {
        name.to_owned()
    } else {
        name.chars().take(NAME - 1).chain(['…']).collect()
    }
}
