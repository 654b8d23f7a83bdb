//! The summary on the terminal: at most 100 columns.

use std::fmt::Write as _;

use comfy_table::CellAlignment;
use reports::model::{
    AtFault, BenchRow, Divergence, Engines, GateFigure, KnownState, Mode, Report, Status, TapStats,
};
use reports::number;

use super::inspect::table;
use super::terminal::colored;

/// Columns of the terminal.
const WIDTH: usize = 100;

/// Columns by which what belongs to the line above is indented.
const INDENT: usize = 6;

/// Characters of generated text per line; three lines are shown.
const TEXT_WIDTH: usize = 96;

/// The summary, with its first word in colour.
pub(super) fn render(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_summary(&mut out, report);
    in_color(&out, report)
}

/// What the gate says of a report, likewise.
pub(super) fn render_gate(report: &Report, path: &str) -> String {
    let mut out = String::new();
    let status = status(report);
    let engines = &report.engines;
    let (candidate, reference) = (&engines.candidate.name, &engines.reference.name);
    let _ = paragraph(
        &mut out,
        0,
        &format!("{status}  {candidate} against {reference}: {path}"),
    )
    .and_then(|()| reasons(&mut out, report))
    .and_then(|()| write_gate(&mut out, report));
    in_color(&out, report)
}

fn write_summary(out: &mut String, report: &Report) -> std::fmt::Result {
    let status = status(report);
    let engines = &report.engines;
    let headline = format!(
        "{status}{}  {} against {}: {} of {} rows compared, {} of {} within their limit",
        excused(report),
        engines.candidate.name,
        engines.reference.name,
        number::count(report.coverage.compared),
        number::count(report.coverage.expected),
        gated(report).filter(|s| s.pass == Some(true)).count(),
        gated(report).count(),
    );
    paragraph(out, 0, &headline)?;
    if let [mode] = report.inputs.modes[..] {
        let mode = match mode {
            Mode::Isolated => "isolated",
            Mode::Cumulative => "cumulative",
        };
        paragraph(out, INDENT, &format!("{mode} mode only"))?;
    }
    reasons(out, report)?;
    if let Some(divergence) = &report.verdict.first_divergence {
        write_divergence(out, divergence)?;
    }
    write_fault(out, report)?;
    write_known(out, report)?;
    write_taps(out, report)?;
    write_noise(out, report)?;
    write_perplexity(out, report)?;
    write_generation(out, report)?;
    write_tokens(out, report)?;
    write_bench(out, report)?;
    write_gate(out, report)
}

fn in_color(summary: &str, report: &Report) -> String {
    let word = status(report);
    summary.replacen(word, &colored(word), 1)
}

fn status(report: &Report) -> &'static str {
    match report.verdict.status {
        Status::Pass => "PASS",
        Status::Fail => "FAIL",
        Status::Incomplete => "INCOMPLETE",
        Status::Error => "ERROR",
    }
}

fn reasons(out: &mut String, report: &Report) -> std::fmt::Result {
    let mut reasons = report.verdict.reasons.iter();
    reasons.try_for_each(|reason| paragraph(out, INDENT, reason))
}

/// ` with 2 known deviations`, if the run passed thanks to them.
fn excused(report: &Report) -> String {
    let matched = report
        .known
        .iter()
        .filter(|k| k.state == KnownState::Matched);
    match matched.count() {
        n @ 1.. if report.verdict.status == Status::Pass => {
            format!(" with {}", number::plural(n as u64, "known deviation"))
        }
        _ => String::new(),
    }
}

fn write_divergence(out: &mut String, divergence: &Divergence) -> std::fmt::Result {
    let value = |x: Option<f64>| x.map_or(number::NOT_FINITE.to_owned(), number::value);
    let mut text = format!(
        "element {}: reference {}, candidate {}",
        divergence.element,
        value(divergence.reference),
        value(divergence.candidate)
    );
    if let Some(oracle) = divergence.oracle {
        text += &format!(", oracle {}", number::value(oracle));
    }
    paragraph(out, INDENT, &text)
}

/// Who is at fault, how far each engine is from the oracle, and why.
fn write_fault(out: &mut String, report: &Report) -> std::fmt::Result {
    let Engines {
        reference,
        candidate,
    } = &report.engines;
    let fault = match report.verdict.at_fault {
        AtFault::None if report.verdict.parity_failed() => Some("neither engine".to_owned()),
        AtFault::None => None,
        AtFault::Candidate => Some(format!("the candidate ({})", candidate.name)),
        AtFault::Reference => Some(format!("the reference ({})", reference.name)),
        AtFault::Both => Some("both engines".to_owned()),
        AtFault::Undetermined => Some("undetermined".to_owned()),
    };
    if let Some(fault) = fault {
        paragraph(out, INDENT, &format!("at fault: {fault}"))?;
    }
    let Some(first) = &report.verdict.first_divergence else {
        return Ok(());
    };
    if let Some(arbitration) = &first.arbitration {
        for (role, judgement) in [
            ("reference", &arbitration.reference),
            ("candidate", &arbitration.candidate),
        ] {
            let layer = judgement
                .layer
                .map_or(String::new(), |layer| format!("layer {layer}, "));
            let text = format!(
                "{role}: NMSE {} to the oracle at {layer}{}, limit {}: {}",
                judgement
                    .nmse
                    .map_or(number::NOT_FINITE.to_owned(), number::error),
                judgement.tap,
                number::error(judgement.limit),
                if judgement.right { "right" } else { "wrong" },
            );
            paragraph(out, INDENT + 2, &text)?;
        }
    }
    match &first.hint {
        Some(hint) => paragraph(out, INDENT, &format!("hint: {hint}")),
        None => Ok(()),
    }
}

fn write_known(out: &mut String, report: &Report) -> std::fmt::Result {
    for known in &report.known {
        let mut place = known.tap.clone();
        if let Some(layer) = known.layer {
            place += &format!(", layer {layer}");
        }
        place += match known.mode {
            Some(Mode::Isolated) => ", isolated",
            Some(Mode::Cumulative) => ", cumulative",
            None => "",
        };
        let state = match known.state {
            KnownState::Matched => "matched",
            KnownState::Unmatched => "FAILED, did not occur",
            KnownState::Expired => "FAILED, expired",
        };
        let text = format!(
            "known deviation {state}: {place}: {} ({}, until {})",
            known.reason, known.link, known.expires
        );
        paragraph(out, INDENT, &text)?;
    }
    Ok(())
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

fn write_noise(out: &mut String, report: &Report) -> std::fmt::Result {
    let floor = report
        .noise_floor
        .as_ref()
        .and_then(|n| n.nmse.get("logits"));
    match floor {
        Some(&nmse) => writeln!(
            out,
            "\nnoise floor  logits, reference against itself: NMSE {}",
            number::error(nmse)
        ),
        None => Ok(()),
    }
}

fn write_perplexity(out: &mut String, report: &Report) -> std::fmt::Result {
    let Some(perplexity) = &report.perplexity else {
        return Ok(());
    };
    let mut parts = Vec::new();
    for (role, value) in [
        ("reference", perplexity.reference),
        ("candidate", perplexity.candidate),
    ] {
        parts.extend(value.map(|x| format!("{role} {}", number::value(x))));
    }
    if let Some(difference) = &perplexity.difference {
        let nats = |x| number::significant(x, 3);
        let interval = match (difference.low, difference.high) {
            (Some(low), Some(high)) => format!(" ({} to {})", nats(low), nats(high)),
            _ => String::new(),
        };
        parts.push(format!(
            "difference {} nats{interval}, ratio {}",
            nats(difference.mean),
            number::significant(difference.mean.exp(), 7)
        ));
    }
    parts.extend(
        perplexity
            .kl_mean
            .map(|kl| format!("KL {}", number::error(kl))),
    );
    parts.push(format!(
        "same top-1 {}",
        number::share(perplexity.top1_agreement)
    ));
    parts.push(format!(
        "{} scored in {}",
        number::plural(perplexity.tokens as u64, "token"),
        number::plural(perplexity.windows as u64, "window")
    ));
    out.push('\n');
    paragraph(out, 0, &format!("perplexity  {}", parts.join(", ")))
}

/// Text from engines and files: none of it may command the terminal.
pub(super) fn line_without_controls(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Words on lines of at most [`WIDTH`] columns.
pub(super) fn paragraph(out: &mut String, indent: usize, text: &str) -> std::fmt::Result {
    let text = line_without_controls(text);
    let mut line = " ".repeat(indent);
    let mut columns = indent;
    let mut start = indent;
    for word in text.split(' ') {
        let letters: Vec<char> = word.chars().collect();
        if columns > start && columns + 1 + letters.len() > WIDTH {
            writeln!(out, "{line}")?;
            start = indent.max(INDENT);
            line = " ".repeat(start);
            columns = start;
        } else if columns > start {
            line.push(' ');
            columns += 1;
        }
        // A word that is longer than a line goes over several.
        for letter in letters {
            if columns == WIDTH {
                writeln!(out, "{line}")?;
                start = indent.max(INDENT);
                line = " ".repeat(start);
                columns = start;
            }
            line.push(letter);
            columns += 1;
        }
    }
    writeln!(out, "{line}")
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
        let differ = g.reference_text != g.candidate_text;
        let texts = [
            ("reference", &g.reference_text),
            ("candidate", &g.candidate_text),
        ];
        for (side, text) in texts.into_iter().take(1 + usize::from(differ)) {
            let Some(text) = text else { continue };
            if differ {
                writeln!(out, "  {side}:")?;
            }
            let text: Vec<char> = text.escape_debug().take(3 * TEXT_WIDTH).collect();
            for line in text.chunks(TEXT_WIDTH) {
                writeln!(out, "  {}", line.iter().collect::<String>())?;
            }
        }
    }
    Ok(())
}

fn write_tokens(out: &mut String, report: &Report) -> std::fmt::Result {
    let Some(parity) = &report.tokenizer else {
        return Ok(());
    };
    out.push('\n');
    if let Some(why) = &parity.not_compared {
        return paragraph(out, 0, &format!("tokenizers  not compared: {why}"));
    }
    let texts = parity.texts.len() as u64;
    let equal = parity.texts.iter().filter(|t| t.comparison.equal).count() as u64;
    let mut parts = Vec::new();
    if texts > 0 {
        let texts = number::plural(texts, "text");
        parts.push(format!("{} of {texts}", number::count(equal)));
    }
    let generated = &parity.generated;
    if let (Some(compared), Some(different)) = (generated.compared, generated.different) {
        let equal = number::count(compared.saturating_sub(different));
        let strings = number::plural(compared, "generated string");
        parts.push(format!("{equal} of {strings}"));
    }
    paragraph(out, 0, &format!("tokenizers  {} equal", parts.join(", ")))
}

fn write_bench(out: &mut String, report: &Report) -> std::fmt::Result {
    if report.bench.is_none() {
        return Ok(());
    }
    let Engines {
        reference,
        candidate,
    } = &report.engines;
    let mut rows = table(&[
        "test",
        &reference.name,
        &candidate.name,
        "speed ratio",
        "95% interval",
    ]);
    for pair in report.timed_pairs() {
        let Some(ratio) = pair.ratio else { continue };
        let median = |row: Option<&BenchRow>| match row.map(|row| (&row.tps, &row.ms)) {
            Some((Some(tps), _)) => number::tokens_per_second(tps.median),
            Some((None, Some(ms))) => number::milliseconds(ms.median),
            _ => number::NOT_MEASURED.to_owned(),
        };
        rows.add_row([
            pair.test.to_owned(),
            median(pair.reference),
            median(pair.candidate),
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

fn write_gate(out: &mut String, report: &Report) -> std::fmt::Result {
    let series = report.gate.iter().flat_map(|gate| &gate.series);
    let mut rows = table(&[
        "test",
        "threads",
        "speed",
        "baseline",
        "now",
        "change",
        "95% interval",
        "limit",
        "result",
    ]);
    for s in series {
        let figure = |x: f64| match s.figure {
            GateFigure::Ratio => format!("{x:.2}x"),
            GateFigure::Absolute => format!("{}/s", number::significant(x, 3)),
        };
        let known = |x: Option<f64>, format: fn(f64) -> String| x.map(format).unwrap_or_default();
        // The last measurement is the one that decided.
        let now = s.measurements.last();
        let interval = now.and_then(|m| Some((m.low?, m.high?)));
        rows.add_row([
            s.test.clone(),
            s.threads.to_string(),
            match s.figure {
                GateFigure::Ratio => "ratio".to_owned(),
                GateFigure::Absolute => "candidate".to_owned(),
            },
            s.baseline.map(figure).unwrap_or_default(),
            now.map(|m| figure(m.value)).unwrap_or_default(),
            known(now.and_then(|m| m.change), number::change),
            interval
                .map(|(low, high)| format!("{} to {}", number::change(low), number::change(high)))
                .unwrap_or_default(),
            known(s.threshold, |x| number::change(-x)),
            s.result.name().to_owned(),
        ]);
    }
    if rows.is_empty() {
        return Ok(());
    }
    for column in [1, 3, 4, 5, 6, 7] {
        if let Some(column) = rows.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    writeln!(out, "\n{rows}")
}

#[cfg(test)]
mod tests;
