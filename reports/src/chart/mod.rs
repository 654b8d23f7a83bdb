//! Inline SVG charts by plotters.
//!
//! plotters knows fixed colours only. Every [`Paint`] is therefore drawn in a colour that stands for a CSS
//! variable, which [`finish`] puts in its place, so that charts follow the page from light to dark.

mod axis;
mod bars;
mod heatmap;
mod lines;
mod plot;

use std::fmt::Write as _;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use serde::Serialize;

pub(crate) use bars::bar_chart;
pub(crate) use heatmap::heatmap;
pub(crate) use lines::{Line, line_chart, shared_axis};
pub(crate) use plot::plot;

use crate::error::Error;
use crate::model::Role;

/// Width of every chart in SVG units: about a phone's, so that text keeps its size there.
const WIDTH: u32 = 400;
/// Two points say no more as a line than as figures.
const POINTS_OF_A_LINE: usize = 3;
/// Height of text, SVG units.
const TEXT: f64 = 12.0;

/// A colour of the page's palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Text.
    Ink,
    /// Axes and grid lines.
    Grid,
    /// A line of a line chart.
    Series(u8),
    /// A step of the scale within the limit.
    Ramp(u8),
    /// A step of the scale of what is not gated.
    Over(u8),
    /// Neither within a limit nor a number of times beyond it.
    NoShare,
    /// A failure.
    Bad,
    /// What is drawn over a failure.
    Cross,
    /// The reference's bars.
    Reference,
    /// The candidate's bars.
    Candidate,
}

const PAINTS: [Paint; 22] = [
    Paint::Ink,
    Paint::Grid,
    Paint::Series(0),
    Paint::Series(1),
    Paint::Series(2),
    Paint::Series(3),
    Paint::Series(4),
    Paint::Series(5),
    Paint::Series(6),
    Paint::Ramp(0),
    Paint::Ramp(1),
    Paint::Ramp(2),
    Paint::Ramp(3),
    Paint::Over(0),
    Paint::Over(1),
    Paint::Over(2),
    Paint::Over(3),
    Paint::NoShare,
    Paint::Bad,
    Paint::Cross,
    Paint::Reference,
    Paint::Candidate,
];

impl Paint {
    /// The CSS variable's name, without the dashes.
    pub(crate) fn variable(self) -> String {
        match self {
            Paint::Ink => "ink".to_owned(),
            Paint::Grid => "grid".to_owned(),
            Paint::Series(n) => format!("series-{n}"),
            Paint::Ramp(n) => format!("ramp-{n}"),
            Paint::Over(n) => format!("over-{n}"),
            Paint::NoShare => "no-share".to_owned(),
            Paint::Bad => "bad".to_owned(),
            Paint::Cross => "page".to_owned(),
            Paint::Reference => "reference".to_owned(),
            Paint::Candidate => "candidate".to_owned(),
        }
    }

    fn index(self) -> u8 {
        PAINTS
            .iter()
            .position(|&p| p == self)
            .map_or(0, |i| i as u8)
    }

    fn color(self) -> RGBColor {
        RGBColor(1, 0, self.index())
    }

    pub(crate) fn of_role(role: Role) -> Paint {
        role.of(Paint::Reference, Paint::Candidate)
    }

    /// Marks (cells, points, bars) carry data and get a tooltip; text and axes do not.
    fn is_mark(self) -> bool {
        !matches!(self, Paint::Ink | Paint::Grid | Paint::Cross)
    }
}

/// A chart on a page: `svg` is markup, the rest is text.
#[derive(Serialize)]
pub(crate) struct Chart {
    pub title: String,
    pub svg: String,
    pub legend: Vec<LegendEntry>,
    /// What must be known to read it.
    pub note: Option<String>,
}

/// What a colour of a chart means.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LegendEntry {
    /// CSS variable.
    pub paint: String,
    pub name: String,
}

impl LegendEntry {
    pub(crate) fn new(paint: Paint, name: &str) -> LegendEntry {
        LegendEntry {
            paint: paint.variable(),
            name: name.to_owned(),
        }
    }
}

fn failed(title: &str) -> impl Fn(&dyn std::fmt::Display) -> Error + use<> {
    let chart = title.to_owned();
    move |error| Error::Chart {
        chart: chart.clone(),
        message: error.to_string(),
    }
}

fn text(paint: Paint, h: HPos, v: VPos) -> TextStyle<'static> {
    // The SVG backend writes a font size of 1/1.24 of what it is given.
    ("sans-serif", TEXT * 1.24)
        .into_font()
        .color(&paint.color())
        .pos(Pos::new(h, v))
}

/// Turns what plotters drew into markup for the page: sized by the page, named for screen readers, in the
/// page's colours and typeface, with `tooltips` on its marks, in the order of drawing.
fn finish(svg: &str, title: &str, tooltips: &[String]) -> String {
    let mut out = String::with_capacity(svg.len());
    let mut tooltips = tooltips.iter();
    for line in svg.lines() {
        // Text that is drawn is escaped, so a quote or an angle bracket is plotters' own.
        if let Some(rest) = line.strip_prefix("<svg ") {
            let view = rest.find("viewBox").map_or("", |at| &rest[at..]);
            let _ = write!(
                out,
                "<svg role=\"img\" aria-label=\"{}\" {view}",
                escape(title)
            );
        } else if line.starts_with('<') {
            let (line, mark) = repaint(line);
            match (mark, line.strip_suffix("/>")) {
                (true, Some(open)) => {
                    let tooltip = tooltips.next().map_or("", String::as_str);
                    let name = &open[1..open.find(' ').unwrap_or(open.len())];
                    let _ = write!(out, "{open}><title>{}</title></{name}>", escape(tooltip));
                }
                _ => out.push_str(&line),
            }
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    debug_assert!(tooltips.next().is_none(), "a tooltip without a mark");
    out
}

/// Puts CSS variables for colours in one element; also says whether it is a mark.
fn repaint(line: &str) -> (String, bool) {
    let mut line = line
        .replace(" opacity=\"1\"", "")
        .replace(" stroke=\"none\"", "")
        .replace(" font-family=\"sans-serif\"", "");
    let shape = line.starts_with("<rect") || line.starts_with("<circle");
    let mut mark = false;
    for paint in PAINTS {
        let RGBColor(r, g, b) = paint.color();
        let color = format!("\"#{r:02X}{g:02X}{b:02X}\"");
        if line.contains(&color) {
            line = line.replace(&color, &format!("\"var(--{})\"", paint.variable()));
            mark |= shape && paint.is_mark();
        }
    }
    (line, mark)
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paints_have_distinct_colors_and_variables() {
        for (i, a) in PAINTS.iter().enumerate() {
            assert_eq!(a.index() as usize, i);
            for b in &PAINTS[..i] {
                assert_ne!(a.variable(), b.variable());
            }
        }
    }

    #[test]
    fn marks_get_their_tooltips_and_everything_is_escaped() {
        let svg = concat!(
            "<svg width=\"1\" height=\"2\" viewBox=\"0 0 1 2\" xmlns=\"x\">\n",
            "<rect x=\"0\" opacity=\"1\" fill=\"#010009\" stroke=\"none\"/>\n",
            "<line stroke=\"#010001\"/>\n",
            "<circle cx=\"1\" fill=\"#010002\"/>\n",
            "</svg>\n"
        );
        let got = finish(svg, "a \"b\"", &["<1>".to_owned(), "2".to_owned()]);
        assert_eq!(
            got,
            concat!(
                "<svg role=\"img\" aria-label=\"a &quot;b&quot;\" viewBox=\"0 0 1 2\" xmlns=\"x\">\n",
                "<rect x=\"0\" fill=\"var(--ramp-0)\"><title>&lt;1&gt;</title></rect>\n",
                "<line stroke=\"var(--grid)\"/>\n",
                "<circle cx=\"1\" fill=\"var(--series-0)\"><title>2</title></circle>\n",
                "</svg>\n"
            )
        );
    }
}
