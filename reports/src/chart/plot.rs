//! Lines over linear axes, with the intervals of their points.

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

use super::axis::{TickedAxis, label, linear_ticks};
use super::{Chart, LegendEntry, Paint, WIDTH, failed, finish, text};
use crate::error::Error;
use crate::facts::{Plot, PlotLine, PlotPoint};

const HEIGHT: u32 = 258;
/// Half the width of the ends of an interval, pixels.
const CAP: i32 = 5;

fn drawable(x: f64) -> bool {
    // What is larger overflows when ends are added.
    (0.0..1e300).contains(&x)
}

/// The plot from 0 up; nothing if no line has the points of one, or none can be drawn.
pub(crate) fn plot(plot: &Plot) -> Result<Option<Chart>, Error> {
    let points = || {
        let all = plot.lines.iter().flat_map(|line| &line.points);
        all.filter(|p| drawable(p.x) && drawable(p.y))
    };
    let path = || {
        let all = plot.lines.iter().flat_map(|line| line.path.iter().copied());
        all.filter(|p| drawable(p.0) && drawable(p.1))
    };
    let xs = points().map(|p| p.x).chain(path().map(|p| p.0));
    let ends = xs
        .map(|x| (x, x))
        .reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)));
    let Some((left, right)) = ends else {
        return Ok(None);
    };
    let intervals = points().filter_map(|p| Some(interval(p)?.1));
    let ys = points().map(|p| p.y).chain(path().map(|p| p.1));
    let top = ys.chain(intervals).fold(0.0, f64::max);
    let short = |line: &PlotLine| line.path.len() < super::POINTS_OF_A_LINE;
    if points().next().is_none() || top <= 0.0 || plot.lines.iter().all(short) {
        return Ok(None);
    }
    let error = failed(&plot.title);
    let x_ticks = match plot.at_points {
        true => apart(points().map(|p| p.x).collect(), right - left),
        false => linear_ticks(left, right),
    };
    let y_ticks = linear_ticks(0.0, top);
    let room = ((right - left) * 0.04)
        .max(right * 1e-3)
        .max(f64::MIN_POSITIVE);
    let mut svg = String::new();
    let mut tooltips = Vec::new();
    {
        let area = SVGBackend::with_string(&mut svg, (WIDTH, HEIGHT)).into_drawing_area();
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .x_label_area_size(42)
            .y_label_area_size(56)
            .build_cartesian_2d(
                TickedAxis {
                    range: left - room..right + room,
                    ticks: x_ticks.clone(),
                },
                TickedAxis {
                    range: 0.0..top * 1.05,
                    ticks: y_ticks.clone(),
                },
            )
            .map_err(|e| error(&e))?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(Paint::Grid.color())
            .bold_line_style(Paint::Grid.color())
            .light_line_style(TRANSPARENT)
            .x_desc(plot.x_name)
            .y_desc(plot.y_name)
            .x_label_formatter(&|x| match plot.at_points {
                true => label(*x, &[]),
                false => label(*x, &x_ticks),
            })
            .y_label_formatter(&|y| label(*y, &y_ticks))
            .label_style(text(Paint::Ink, HPos::Center, VPos::Center))
            .axis_desc_style(text(Paint::Ink, HPos::Center, VPos::Center))
            .draw()
            .map_err(|e| error(&e))?;
        for line in &plot.lines {
            let paint = paint(line);
            let path = line.path.iter().copied();
            chart
                .draw_series(LineSeries::new(
                    path.filter(|p| drawable(p.0) && drawable(p.1)),
                    paint.color().stroke_width(2),
                ))
                .map_err(|e| error(&e))?;
            for point in line
                .points
                .iter()
                .filter(|p| drawable(p.x) && drawable(p.y))
            {
                let at = (point.x, point.y);
                if let Some((low, high)) = interval(point) {
                    let [low, high] = [low, high].map(|y| chart.backend_coord(&(point.x, y)));
                    let ends = [low, high].map(|(x, y)| [(x - CAP, y), (x + CAP, y)]);
                    for ends in [[low, high], ends[0], ends[1]] {
                        area.draw(&PathElement::new(ends, Paint::Ink.color()))
                            .map_err(|e| error(&e))?;
                    }
                }
                chart
                    .draw_series([Circle::new(at, 3, paint.color().filled())])
                    .map_err(|e| error(&e))?;
                tooltips.push(point.text.clone());
            }
        }
        area.present().map_err(|e| error(&e))?;
    }
    Ok(Some(Chart {
        title: plot.title.clone(),
        svg: finish(&svg, &plot.title, &tooltips),
        legend: plot
            .lines
            .iter()
            .map(|line| LegendEntry::new(paint(line), &line.name))
            .collect(),
        note: None,
    }))
}

/// Those that have room for a label beside the one before.
fn apart(mut xs: Vec<f64>, range: f64) -> Vec<f64> {
    xs.sort_by(f64::total_cmp);
    let mut ticks: Vec<f64> = Vec::new();
    for x in xs {
        if ticks.last().is_none_or(|last| x - last > range / 10.0) {
            ticks.push(x);
        }
    }
    ticks
}

fn paint(line: &PlotLine) -> Paint {
    Paint::of_role(line.role)
}

fn interval(point: &PlotPoint) -> Option<(f64, f64)> {
    point.interval.filter(|i| drawable(i.0) && drawable(i.1))
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn labels_keep_apart() {
        let threads = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 16.0];
        assert_eq!(apart(threads.to_vec(), 31.0), [1.0, 8.0, 16.0, 32.0]);
        assert_eq!(apart(vec![2.0], 0.0), [2.0]);
    }
}
