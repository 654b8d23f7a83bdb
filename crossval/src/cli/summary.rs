//! The summary on the terminal: at most 100 columns.

use std::fmt::Write as _;

use comfy_table::CellAlignment;
use reports::model::{Mode, Report, Status, TapStats};
use reports::number;
use reports::outcome::Outcome;

use super::inspect::table;

/// Characters of generated text per line; three lines are shown.
const TEXT_WIDTH: usize = 96;

/// The exit code of the report as an outcome.
pub(super) fn outcome(report: &Report) -> Outcome {
    [
        Outcome::Pass,
        Outcome::Parity,
        Outcome::Incomplete,
        Outcome::Engine,
    ]
    .into_iter()
    .find(|o| o.exit_code() == report.verdict.exit_code)
    .unwrap_or(Outcome::Internal)
}

/// The summary, as plain text.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_summary(&mut out, report);
    out
}

fn write_summary(out: &mut String, report: &Report) -> std::fmt::Result {
    let status = match report.verdict.status {
        Status::Pass => "PASS",
        Status::Fail => "FAIL",
        Status::Incomplete => "INCOMPLETE",
        Status::Error => "ERROR",
    };
    let engines = &report.engines;
    writeln!(
        out,
        "{status}  {} against {}: {} of {} rows compared, {} of {} within their limit",
        engines.candidate.name,
        engines.reference.name,
        number::count(report.coverage.compared),
        number::count(report.coverage.expected),
        gated(report).filter(|s| s.pass == Some(true)).count(),
        gated(report).count(),
    )?;
    if let [mode] = report.inputs.modes[..] {
        let mode = match mode {
            Mode::Isolated => "isolated",
            Mode::Cumulative => "cumulative",
        };
        writeln!(out, "      {mode} mode only")?;
    }
    for reason in &report.verdict.reasons {
        writeln!(out, "      {reason}")?;
    }
    if let Some(d) = &report.verdict.first_divergence {
        let value = |x: Option<f64>| x.map_or(number::NOT_FINITE.to_owned(), number::value);
        writeln!(
            out,
            "      element {}: reference {}, candidate {}",
            d.element,
            value(d.reference),
            value(d.candidate)
        )?;
    }
    write_taps(out, report)?;
    write_generation(out, report)?;
    write_bench(out, report)
}

fn gated(report: &Report) -> impl Iterator<Item = &TapStats> {
    report
        .taps
        .iter()
        .flat_map(|t| [t.isolated.as_ref(), t.cumulative.as_ref()])
        .flatten()
        .filter(|s| s.pass.is_some())
}

/// The worst of each tap over all prompts and layers.
fn write_taps(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut names: Vec<&str> = Vec::new();
    for tap in &report.taps {
        if !names.contains(&tap.tap.as_str()) {
            names.push(&tap.tap);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let mut rows = table(&[
        "tap",
        "isolated NMSE",
        "limit",
        "in",
        "cumulative NMSE",
        "in",
    ]);
    for name in names {
        let [isolated, cumulative] =
            [Mode::Isolated, Mode::Cumulative].map(|m| worst(report, name, m));
        let limit = isolated.as_ref().and_then(|(s, _)| s.limit);
        let nmse = |worst: &Option<(&TapStats, String)>| match worst {
            Some((s, _)) if s.bit_equal => "equal".to_owned(),
            Some((s, _)) => s.nmse.map_or(number::NOT_FINITE.to_owned(), number::error),
            None => String::new(),
        };
        let place = |worst: &Option<(&TapStats, String)>| match worst {
            Some((s, place)) if !s.bit_equal => place.clone(),
            _ => String::new(),
        };
        rows.add_row([
            name.to_owned(),
            nmse(&isolated),
            limit.map(number::error).unwrap_or_default(),
            place(&isolated),
            nmse(&cumulative),
            place(&cumulative),
        ]);
    }
    for column in [1, 2, 4] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "\n{rows}")
}

fn worst<'a>(report: &'a Report, name: &str, mode: Mode) -> Option<(&'a TapStats, String)> {
    report
        .taps
        .iter()
        .filter(|t| t.tap == name)
        .filter_map(|t| {
            let stats = match mode {
                Mode::Isolated => t.isolated.as_ref(),
                Mode::Cumulative => t.cumulative.as_ref(),
            }?;
            let layer = t.layer.map_or(String::new(), |l| format!("layer {l}, "));
            Some((stats, format!("{layer}position {}", stats.worst_position)))
        })
        .max_by(|(a, _), (b, _)| {
            let key = |s: &TapStats| s.nmse.unwrap_or(f64::INFINITY);
            key(a)
                .total_cmp(&key(b))
                .then(b.bit_equal.cmp(&a.bit_equal))
        })
}

fn write_generation(out: &mut String, report: &Report) -> std::fmt::Result {
    for g in report
        .generation
        .iter()
        .flat_map(|g| [g].into_iter().chain(&g.further))
    {
        let tokens = g.reference.len();
        match &g.first_mismatch {
            None => writeln!(out, "\ngeneration  {tokens} of {tokens} tokens equal")?,
            Some(m) if m.near_tie => {
                writeln!(
                    out,
                    "\ngeneration  {} of {tokens} tokens equal, then a near tie",
                    m.index
                )?;
            }
            Some(m) => writeln!(out, "\ngeneration  {} of {tokens} tokens equal", m.index)?,
        }
        if let Some(text) = &g.reference_text {
            let text: Vec<char> = text.escape_debug().take(3 * TEXT_WIDTH).collect();
            for line in text.chunks(TEXT_WIDTH) {
                writeln!(out, "  {}", line.iter().collect::<String>())?;
            }
        }
    }
    Ok(())
}

fn write_bench(out: &mut String, report: &Report) -> std::fmt::Result {
    let Some(bench) = &report.bench else {
        return Ok(());
    };
    let [reference, candidate] = [
        &report.engines.reference.name,
        &report.engines.candidate.name,
    ];
    let mut rows = table(&["test", reference, candidate, "speed ratio", "95% interval"]);
    for ratio in &bench.ratios {
        let of = |engine: &str| {
            let row = bench
                .rows
                .iter()
                .find(|r| r.engine == engine && r.test == ratio.test && r.threads == ratio.threads);
            match row {
                Some(row) => match (&row.tps, &row.ms) {
                    (Some(tps), _) => number::tokens_per_second(tps.median),
                    (None, Some(ms)) => number::milliseconds(ms.median),
                    (None, None) => number::NOT_MEASURED.to_owned(),
                },
                None => number::NOT_MEASURED.to_owned(),
            }
        };
        rows.add_row([
            ratio.test.clone(),
            of(reference),
            of(candidate),
            format!("{:.2}x", ratio.median),
            format!("{:.2} to {:.2}", ratio.low, ratio.high),
        ]);
    }
    for column in 1..5 {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "\n{rows}")
}
