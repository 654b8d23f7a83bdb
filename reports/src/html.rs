//! The report as one self-contained HTML page: no network, no fonts, no script needed.

use std::io::Write as _;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use flate2::Compression;
use flate2::write::GzEncoder;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::Serialize;

use crate::chart::{Chart, Line, Paint, bar_chart, heatmap, line_chart, plot, shared_axis};
use crate::error::Error;
use crate::facts::{
    Facts, Level, LogitsCurve, Parity, Plot, is_web_address, mode_name, nmse, tap_group,
};
use crate::json;
use crate::model::{Mode, Report, Status};

/// Prompts with a chart of their own; the table has all of them.
const LOGITS_CHARTS: usize = 6;
/// Points per line of a logits chart; beyond, each point is the worst of its neighbours.
const POINTS: usize = 200;
const PAGE: &str = include_str!("../templates/report.html");
const TABLE: &str = include_str!("../templates/table.html");
const STYLE: &str = include_str!("../templates/report.css");
const SCRIPT: &str = include_str!("../templates/report.js");

#[derive(Serialize)]
struct Charts {
    maps: Vec<Chart>,
    curves: Vec<Chart>,
    logits: Vec<Chart>,
    speeds: Vec<Chart>,
    latencies: Vec<Chart>,
    /// Prompts with logits but without a chart.
    logits_left_out: usize,
}

/// The report as HTML.
///
/// # Errors
/// [`Error::NotJson`] as for [`json::write`], since the page carries the JSON; [`Error::Template`] and
/// [`Error::Chart`] would be faults of this crate.
pub fn render(report: &Report) -> Result<String, Error> {
    let parity = Parity::new(report);
    let facts = Facts::new(report, &parity);
    let digest = Facts::digest(report, &parity);
    let charts = Charts::new(report, &parity)?;
    page(
        PAGE,
        context! {
        facts => Serde(&facts),
        digest => Serde(digest),
        charts => Serde(charts),
        style => style(),
        script => Value::from_safe_string(SCRIPT.to_owned()),
        json => Value::from_safe_string(packed(&json::write_compact(report)?)?),
        has_generation => report.generation.is_some(),
        has_bench => report.bench.is_some(),
        has_only_bench => report.not_compared.is_some(),
        not_passed => report.verdict.status != Status::Pass,
        has_taps => !facts.taps.is_empty(),
        },
    )
}

/// A page from its template. What tables look like, and that everything is escaped, is the same for all.
pub(crate) fn page(template: &str, context: Value) -> Result<String, Error> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Html);
    environment.add_test("web_address", |text: &str| is_web_address(text));
    let mut syntax = SyntaxConfig::builder();
    syntax.trim_blocks(true).lstrip_blocks(true);
    environment.set_syntax(syntax.build()?);
    environment.add_template("table.html", TABLE)?;
    Ok(environment.render_named_str("page.html", template, context)?)
}

/// The style of all pages.
pub(crate) fn style() -> Value {
    Value::from_safe_string(STYLE.to_owned())
}

/// The JSON for a `data:` address: gzip, which leaves a tenth of it, then Base64.
fn packed(json: &str) -> Result<String, Error> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    let packed = gzip.write_all(json.as_bytes()).and_then(|()| gzip.finish());
    let bytes = packed.map_err(|source| Error::Io {
        action: "compress",
        path: "report.json".into(),
        source,
    })?;
    Ok(BASE64_STANDARD.encode(bytes))
}

impl Charts {
    fn new(report: &Report, parity: &Parity<'_>) -> Result<Charts, Error> {
        let mut maps = Vec::new();
        for mode in [Mode::Isolated, Mode::Cumulative] {
            maps.extend(heatmap(parity, mode)?);
        }
        let mut curves = Facts::logits_curves(report);
        let worst = |curve: &LogitsCurve<'_>| {
            let kl = curve.kl.iter().flat_map(|(_, kl)| kl.iter());
            kl.flatten().copied().fold(0.0, f64::max)
        };
        curves.sort_by(|a, b| worst(b).total_cmp(&worst(a)));
        let logits_left_out = curves.len().saturating_sub(LOGITS_CHARTS);
        curves.truncate(LOGITS_CHARTS);
        let mut logits = Vec::new();
        for curve in &curves {
            logits.extend(logits_chart(curve)?);
        }
        let plots = |plots: Vec<Plot>| -> Result<Vec<Chart>, Error> {
            plots.iter().filter_map(|p| plot(p).transpose()).collect()
        };
        let bars = Facts::bars(report);
        let bars = bars.iter().map(bar_chart).collect::<Result<Vec<_>, _>>()?;
        // The ratios first, then lines, then what is no line.
        let mut speeds = plots(Facts::speeds(report))?;
        let mut bars = bars.into_iter();
        speeds.splice(0..0, bars.next());
        speeds.extend(bars);
        Ok(Charts {
            maps,
            curves: error_curves(parity)?,
            logits,
            speeds,
            latencies: plots(Facts::latencies(report))?,
            logits_left_out,
        })
    }
}

/// Per mode one line per kind of tap, then the worst tap of each layer, both modes in one chart.
fn error_curves(parity: &Parity<'_>) -> Result<Vec<Chart>, Error> {
    let by_group: Vec<_> = parity
        .modes
        .iter()
        .map(|&mode| (mode, group_lines(parity, mode)))
        .collect();
    let axis = shared_axis(by_group.iter().flat_map(|(_, lines)| lines));
    let mut charts = Vec::new();
    for (mode, lines) in &by_group {
        let seen = match mode {
            Mode::Isolated => "Error made in each kind of stage by layer: should be flat",
            Mode::Cumulative => "Error built up to each layer: what a user gets",
        };
        let title = format!("{seen} (NMSE, {})", mode_name(*mode));
        charts.extend(line_chart(&title, "layer", lines, &axis)?);
    }
    if parity.modes.len() > 1 {
        let lines: Vec<_> = (0u8..)
            .zip(&parity.modes)
            .map(|(paint, &mode)| {
                let name = mode_name(mode);
                layer_line(parity, mode, name, Paint::Series(paint), |_| true)
            })
            .collect();
        let title = "Each layer's worst tap, made there and built up (NMSE)";
        charts.extend(line_chart(title, "layer", &lines, &axis)?);
    }
    Ok(charts)
}

fn group_lines(parity: &Parity<'_>, mode: Mode) -> Vec<Line> {
    let mut groups: Vec<&str> = Vec::new();
    for &tap in &parity.taps {
        let group = tap_group(tap);
        let layered = parity.column(mode, tap).any(|cell| cell.layer.is_some());
        if layered && !groups.contains(&group) {
            groups.push(group);
        }
    }
    (0u8..)
        .zip(groups)
        .map(|(paint, group)| {
            layer_line(parity, mode, group, Paint::Series(paint), |tap| {
                tap_group(tap) == group
            })
        })
        .collect()
}

/// The worst of the chosen taps by layer.
fn layer_line(
    parity: &Parity<'_>,
    mode: Mode,
    name: &str,
    paint: Paint,
    chosen: impl Fn(&str) -> bool,
) -> Line {
    let points = parity.layers.iter().filter_map(|&layer| {
        let (tap, level) = parity
            .taps
            .iter()
            .filter(|tap| chosen(tap))
            .filter_map(|&tap| Some((tap, nmse(parity.cell(mode, tap, Some(layer))?.stats))))
            .reduce(|a, b| if b.1 > a.1 { b } else { a })?;
        let tooltip = format!("{name}, layer {layer}: {tap} {}", level.text());
        Some((layer as f64, level, tooltip))
    });
    Line {
        name: name.to_owned(),
        paint,
        points: points.collect(),
    }
}

fn logits_chart(curve: &LogitsCurve<'_>) -> Result<Option<Chart>, Error> {
    let lines: Vec<_> = curve
        .kl
        .iter()
        .map(|&(mode, kl)| {
            let paint = Paint::Series(if mode == Mode::Isolated { 0 } else { 1 });
            let name = mode_name(mode);
            let width = kl.len().div_ceil(POINTS).max(1);
            let points = kl.chunks(width).enumerate().filter_map(|(chunk, values)| {
                let (offset, level) = values
                    .iter()
                    .map(|kl| match kl {
                        // Rounding can leave the divergence of equal distributions just below 0.
                        Some(x) if x.is_finite() => Level::Value(x.max(0.0)),
                        Some(_) => Level::NotFinite,
                        None => Level::NotMeasured,
                    })
                    .enumerate()
                    .reduce(|a, b| if b.1 > a.1 { b } else { a })?;
                let position = chunk * width + offset;
                let tooltip = format!("{name}, position {position}: {} nats", level.text());
                Some((position as f64, level, tooltip))
            });
            Line {
                name: name.to_owned(),
                paint,
                points: points.collect(),
            }
        })
        .collect();
    let title = format!(
        "How far the distributions part by position: should be near 0 (KL in nats, prompt {})",
        curve.prompt
    );
    line_chart(&title, "position", &lines, &shared_axis(lines.iter()))
}
