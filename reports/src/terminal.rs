//! The report on a terminal, at most 100 columns: the summary of a run, what a gate says, and the results of a benchmark.
//! Colours are ANSI sequences: whoever prints them strips them where they do not belong.

mod bench;
mod text;

use std::fmt::Write as _;

use anstyle::AnsiColor;

pub use self::bench::bench;
pub(crate) use self::text::line_without_controls;
use self::text::{Grid, INDENT, paragraph};
use crate::facts::{
    Cell, Facts, Parity, at_fault, conditions_sentence, excused, found_by_oracle, gated,
    generations_of, judged_by, measured, mode_name, name_of, nmse, stage, threads_cell, threads_on,
};
use crate::model::{BenchRow, EngineFailure, GateFigure, KnownState, Mode, Report, Role, Status};
use crate::number;

/// Characters of generated text per line; three lines are shown.
const TEXT_WIDTH: usize = 96;

/// The summary of a run, with its first word in colour.
pub fn summary(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write_summary(&mut out, report);
    in_color(&out, report)
}

/// What the gate says of a report that lies at `path`, likewise.
pub fn gate(report: &Report, path: &str) -> String {
    let mut out = String::new();
    let status = word(report.verdict.status);
    let engines = &report.engines;
    let (candidate, reference) = (engines.candidate.called(), engines.reference.called());
    let _ = paragraph(
        &mut out,
        0,
        &format!("{status}  {candidate} against {reference}: {path}"),
    )
    .and_then(|()| reasons(&mut out, &report.verdict.reasons))
    .and_then(|()| write_gate(&mut out, report));
    in_color(&out, report)
}

/// A status in capitals, in its colour.
pub fn status(status: Status) -> String {
    let color = match status {
        Status::Pass => AnsiColor::Green,
        Status::Incomplete => AnsiColor::Yellow,
        Status::Fail | Status::Error => AnsiColor::Red,
    };
    let style = color.on_default().bold();
    format!("{style}{}{style:#}", word(status))
}

fn word(status: Status) -> String {
    status.name().to_uppercase()
}

fn write_summary(out: &mut String, report: &Report) -> std::fmt::Result {
    let parity = Parity::new(report);
    let facts = Facts::new(report, &parity);
    let status = word(report.verdict.status);
    let engines = &report.engines;
    let (candidate, reference) = (engines.candidate.called(), engines.reference.called());
    let headline = format!(
        "{status}{}  {candidate} against {reference}: ",
        excused(report)
    );
    let compared = format!(
        "{} of {} rows compared",
        number::count(report.coverage.compared),
        number::count(report.coverage.expected)
    );
    let mut reasons = facts.verdict.reasons.iter();
    // What ended the comparison is the headline: what it got to until then says little.
    match reasons
        .as_slice()
        .first()
        .and_then(|first| failure(report, first))
    {
        Some(failure) => {
            reasons.next();
            paragraph(out, 0, &format!("{headline}{}", failure.message))?;
            if let Some(words) = failure.log_tail.last().filter(|words| !words.is_empty()) {
                paragraph(out, INDENT, &format!("its last words: {words}"))?;
            }
            paragraph(out, INDENT, &format!("{compared} until then"))?;
        }
        None => {
            let within = gated(report).filter(|s| s.pass == Some(true)).count();
            let within = match gated(report).count() {
                0 => String::new(),
                of => format!(", {within} of {of} within their limit"),
            };
            paragraph(out, 0, &format!("{headline}{compared}{within}"))?;
        }
    }
    if let [mode] = report.inputs.modes[..] {
        paragraph(out, INDENT, &format!("{} mode only", mode_name(mode)))?;
    }
    reasons.try_for_each(|reason| paragraph(out, INDENT, reason))?;
    if let Some(first) = &facts.verdict.divergence {
        write_values(out, &first.values)?;
    }
    write_fault(out, report)?;
    write_known(out, report)?;
    write_matrix(out, &facts)?;
    write_taps(out, &parity, &report.inputs.modes)?;
    write_not_offered(out, report)?;
    write_noise(out, report)?;
    write_spot_check(out, report)?;
    write_conditions(out, report)?;
    write_perplexity(out, report)?;
    write_generation(out, report)?;
    write_tokens(out, report)?;
    write_bench(out, report)?;
    write_gate(out, report)
}

/// The engine's failure that a reason is about, if it is.
fn failure<'a>(report: &'a Report, reason: &str) -> Option<&'a EngineFailure> {
    let engines = [&report.engines.candidate, &report.engines.reference];
    let mut failures = engines.into_iter().filter_map(|e| e.failure.as_ref());
    failures.find(|failure| failure.message == reason)
}

fn write_not_offered(out: &mut String, report: &Report) -> std::fmt::Result {
    for (engine, taps) in &report.coverage.not_offered_because {
        for (tap, reason) in taps {
            let text = format!("{tap} is not offered by {engine}: {reason}");
            paragraph(out, INDENT, &text)?;
        }
    }
    Ok(())
}

/// Its first word is the status.
fn in_color(text: &str, report: &Report) -> String {
    let verdict = report.verdict.status;
    let rest = text.strip_prefix(&word(verdict));
    rest.map_or_else(|| text.to_owned(), |rest| status(verdict) + rest)
}

fn reasons(out: &mut String, reasons: &[String]) -> std::fmt::Result {
    let mut reasons = reasons.iter();
    reasons.try_for_each(|reason| paragraph(out, INDENT, reason))
}

/// `element 17: reference 0.750000, candidate 1.00000`.
fn write_values(out: &mut String, values: &[(&str, String)]) -> std::fmt::Result {
    let values: Vec<String> = values
        .iter()
        .map(|(name, value)| format!("{name} {value}"))
        .collect();
    let Some((element, values)) = values.split_first() else {
        return Ok(());
    };
    paragraph(out, INDENT, &format!("{element}: {}", values.join(", ")))
}

/// Who is at fault, how far each engine is from the oracle, and why.
fn write_fault(out: &mut String, report: &Report) -> std::fmt::Result {
    if let Some(fault) = at_fault(report) {
        paragraph(out, INDENT, &format!("at fault: {fault}"))?;
    }
    let Some(first) = &report.verdict.first_divergence else {
        return Ok(());
    };
    if let Some(arbitration) = &first.arbitration {
        for role in Role::BOTH {
            let judgement = arbitration.judgement(role);
            let text = format!(
                "{role}: NMSE {} to the oracle at {}, limit {}: {}",
                judgement
                    .nmse
                    .map_or(number::NOT_FINITE.to_owned(), number::error),
                stage(judgement.layer, &judgement.tap),
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
        if let Some(mode) = known.mode {
            place += &format!(", {}", mode_name(mode));
        }
        let state = match known.state {
            KnownState::Matched => "matched",
            KnownState::Unmatched => "FAILED, did not occur",
            KnownState::Expired => "FAILED, expired",
            KnownState::Refused => "FAILED, excuses less than it covers",
        };
        let text = format!(
            "known deviation {state}: {place}: {} ({}, until {})",
            known.reason, known.link, known.expires
        );
        paragraph(out, INDENT, &text)?;
    }
    Ok(())
}

/// What came of further references, and who agrees with whom.
fn write_matrix(out: &mut String, facts: &Facts<'_>) -> std::fmt::Result {
    for row in &facts.further.rows {
        if let [reference, status, ..] = &row.cells[..] {
            paragraph(out, INDENT, &format!("against {reference}: {status}"))?;
        }
    }
    if facts.matrix.rows.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    // One engine below the other: side by side they would not fit.
    for (i, row) in facts.matrix.rows.iter().enumerate() {
        for (name, cell) in facts.matrix.rows.iter().zip(&row.cells[1..]).skip(i + 1) {
            let text = format!("{} and {} {cell}", row.cells[0], name.cells[0]);
            paragraph(out, INDENT, &text)?;
        }
    }
    Ok(())
}

/// The worst of each tap over all prompts and layers.
fn write_taps(out: &mut String, parity: &Parity<'_>, modes: &[Mode]) -> std::fmt::Result {
    if let &[mode] = modes {
        return write_taps_of(out, parity, mode);
    }
    let titles = [
        "tap",
        "isolated NMSE",
        "limit",
        "in",
        "cumulative NMSE",
        "in",
    ];
    let mut grid = Grid::new(&titles, &[1, 2, 4]);
    for &tap in &parity.taps {
        let [isolated, cumulative] =
            [Mode::Isolated, Mode::Cumulative].map(|mode| parity.worst(mode, tap));
        let limit = isolated.and_then(|cell| cell.stats.limit);
        let [of_isolated, of_cumulative] = [isolated, cumulative].map(worst_row);
        let (nmse, place) = of_isolated;
        let limit = limit.map(number::error).unwrap_or_default();
        let (cumulative, there) = of_cumulative;
        grid.row([tap.to_owned(), nmse, limit, place, cumulative, there]);
    }
    match grid.is_empty() {
        true => Ok(()),
        false => writeln!(out, "\n{}", grid.text()),
    }
}

/// The same where one mode is all that was compared.
fn write_taps_of(out: &mut String, parity: &Parity<'_>, mode: Mode) -> std::fmt::Result {
    let title = format!("{} NMSE", mode_name(mode));
    let mut grid = Grid::new(&["tap", &title, "limit", "in"], &[1, 2]);
    for &tap in &parity.taps {
        let worst = parity.worst(mode, tap);
        let limit = worst.and_then(|cell| cell.stats.limit);
        let (nmse, place) = worst_row(worst);
        let limit = limit.map(number::error).unwrap_or_default();
        grid.row([tap.to_owned(), nmse, limit, place]);
    }
    match grid.is_empty() {
        true => Ok(()),
        false => writeln!(out, "\n{}", grid.text()),
    }
}

/// Its NMSE, and where it is.
fn worst_row(cell: Option<&Cell<'_>>) -> (String, String) {
    match cell {
        None => Default::default(),
        Some(cell) if cell.stats.bit_equal => ("equal".to_owned(), String::new()),
        Some(cell) => {
            let position = format!("position {}", cell.stats.worst_position);
            (nmse(cell.stats).text(), stage(cell.layer, &position))
        }
    }
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

fn write_spot_check(out: &mut String, report: &Report) -> std::fmt::Result {
    match &report.spot_check {
        Some(check) => writeln!(
            out,
            "\nspot check  oracle, {} of {}, {}: {}",
            number::count(check.rows.len() as u64),
            number::plural(check.of_rows as u64, "row"),
            number::plural(check.stages, "stage"),
            found_by_oracle(check)
        ),
        None => Ok(()),
    }
}

/// Under which other conditions the logits were compared.
fn write_conditions(out: &mut String, report: &Report) -> std::fmt::Result {
    match conditions_sentence(report) {
        Some(sentence) => paragraph(out, 0, &format!("conditions  {sentence}")),
        None => Ok(()),
    }
}

fn write_perplexity(out: &mut String, report: &Report) -> std::fmt::Result {
    let Some(perplexity) = &report.perplexity else {
        return Ok(());
    };
    let mut parts = Vec::new();
    for role in Role::BOTH {
        let value = perplexity.of(role);
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

fn write_generation(out: &mut String, report: &Report) -> std::fmt::Result {
    for g in generations_of(report) {
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
        for role in Role::BOTH.into_iter().take(1 + usize::from(differ)) {
            let text = role.of(&g.reference_text, &g.candidate_text);
            let Some(text) = text else { continue };
            if differ {
                writeln!(out, "  {role}:")?;
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
    let [reference, candidate] = Role::BOTH.map(|role| name_of(report, role));
    let titles = [
        "test",
        &reference,
        &candidate,
        "speed ratio",
        "95% interval",
    ];
    let mut grid = Grid::new(&titles, &[1, 2, 3, 4]);
    for pair in report.timed_pairs() {
        let Some(ratio) = pair.ratio else { continue };
        let median = |row: Option<&BenchRow>| match row.and_then(measured) {
            Some((m, format)) => format(m.median),
            None => number::NOT_MEASURED.to_owned(),
        };
        let shared = report.shared_cpus(pair.threads).is_some();
        grid.row([
            match shared {
                true => format!("{}, {}", pair.test, threads_on(report, pair.threads)),
                false => pair.test.to_owned(),
            },
            median(pair.reference),
            median(pair.candidate),
            format!("{:.2}x", ratio.median),
            format!("{:.2} to {:.2}", ratio.low, ratio.high),
        ]);
    }
    writeln!(out, "\n{}", grid.text())
}

fn write_gate(out: &mut String, report: &Report) -> std::fmt::Result {
    for note in report.gate.iter().flat_map(|gate| &gate.notes) {
        out.push('\n');
        paragraph(out, 0, &format!("note: {note}"))?;
    }
    let series = report.gate.iter().flat_map(|gate| &gate.series);
    let titles = [
        "test",
        "threads",
        "speed",
        "baseline",
        "now",
        "change",
        "95% interval",
        "limit",
        "result",
    ];
    let mut grid = Grid::new(&titles, &[1, 3, 4, 5, 6, 7]);
    for s in series {
        let figure = |x: f64| match s.figure {
            GateFigure::Ratio => format!("{x:.2}x"),
            GateFigure::Absolute => format!("{}/s", number::significant(x, 3)),
        };
        let known = |x: Option<f64>, format: fn(f64) -> String| x.map(format).unwrap_or_default();
        // The last measurement is the one that decided.
        let now = s.measurements.last();
        let change = now.and_then(judged_by);
        grid.row([
            s.test.clone(),
            threads_cell(report, s.threads),
            match s.figure {
                GateFigure::Ratio => "ratio".to_owned(),
                GateFigure::Absolute => Role::Candidate.name().to_owned(),
            },
            s.best.or(s.baseline).map(figure).unwrap_or_default(),
            now.map(|m| figure(m.value)).unwrap_or_default(),
            known(change.map(|c| c.change), number::change),
            change
                .map(|c| format!("{} to {}", number::change(c.low), number::change(c.high)))
                .unwrap_or_default(),
            known(s.threshold, |x| number::change(-x)),
            s.result.name().to_owned(),
        ]);
    }
    match grid.is_empty() {
        true => Ok(()),
        false => writeln!(out, "\n{}", grid.text()),
    }
}

#[cfg(test)]
mod tests;
