//! Errors along the layers or positions, on a logarithmic axis.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{LogAxis, TickedAxis, whole_ticks};
use super::{Chart, LegendEntry, Paint, WIDTH, failed, finish, text};
use crate::error::Error;
use crate::facts::Level;

const HEIGHT: u32 = 258;

/// One line: what it is, and its points with their tooltips.
pub(crate) struct Line {
    pub name: String,
    pub paint: Paint,
    pub points: Vec<(f64, Level, String)>,
}

/// One axis for charts that are to be compared.
pub(crate) fn shared_axis<'a>(lines: impl Iterator<Item = &'a Line>) -> LogAxis {
    LogAxis::new(lines.flat_map(|line| line.points.iter().map(|point| point.1)))
}

/// A chart of `lines` over whole numbers named `x_name`; nothing if none has the points of a line.
pub(crate) fn line_chart(
    title: &str,
    x_name: &str,
    lines: &[Line],
    axis: &LogAxis,
) -> Result<Option<Chart>, Error> {
    let measured = |line: &Line| {
        let points = line.points.iter();
        points
            .filter(|(_, level, _)| axis.place(*level).is_some())
            .count()
    };
    if lines
        .iter()
        .all(|line| measured(line) < super::POINTS_OF_A_LINE)
    {
        return Ok(None);
    }
    let points = lines.iter().flat_map(|line| &line.points);
    let Some((low, high)) = points
        .filter(|(_, level, _)| axis.place(*level).is_some())
        .map(|(x, ..)| (*x, *x))
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    else {
        return Ok(None);
    };
    let error = failed(title);
    let mut svg = String::new();
    let mut tooltips = Vec::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let room = ((high - low) * 0.02).max(0.5);
        let (bottom, top) = axis.range();
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(
                TickedAxis {
                    range: low - room..high + room,
                    ticks: whole_ticks(low, high),
                },
                TickedAxis {
                    range: bottom..top,
                    ticks: axis.ticks(),
                },
            )
            .map_err(|e| error(&e))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(Paint::Grid.color())
            .bold_line_style(Paint::Grid.color())
            .light_line_style(TRANSPARENT)
            .x_desc(x_name)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|y| axis.label(*y))
            .label_style(text(Paint::Ink, HPos::Center, VPos::Center))
            .axis_desc_style(text(Paint::Ink, HPos::Center, VPos::Center))
            .draw()
            .map_err(|e| error(&e))?;
        for line in lines {
            let points: Vec<_> = line
                .points
                .iter()
                .filter_map(|(x, level, tooltip)| Some((*x, axis.place(*level)?, tooltip)))
                .collect();
            chart
                .draw_series(LineSeries::new(
                    points.iter().map(|p| (p.0, p.1)),
                    line.paint.color().stroke_width(2),
                ))
                .map_err(|e| error(&e))?;
            chart
                .draw_series(
                    points
                        .iter()
                        .map(|p| Circle::new((p.0, p.1), 3, line.paint.color().filled())),
                )
                .map_err(|e| error(&e))?;
            tooltips.extend(points.into_iter().map(|p| p.2.clone()));
        }
        area.present().map_err(|e| error(&e))?;
    }
    Ok(Some(Chart {
        title: title.to_owned(),
        svg: finish(&svg, title, &tooltips),
        legend: lines
            .iter()
            .map(|line| LegendEntry::new(line.paint, &line.name))
            .collect(),
        note: None,
    }))
}
