//! The report as Markdown, for a terminal or a comment on a pull request.

use std::fmt::Write as _;

use crate::facts::{Facts, Kind, Parity, Row, State, Table, is_web_address};
use crate::model::Report;
use crate::number;

/// Missing rows and failing layers listed; the report's JSON has all of them.
const LISTED: usize = 20;
/// Characters of a generated text or of a prompt.
const EXCERPT: usize = 500;

/// The report as Markdown (GitHub's flavour): the facts of the HTML page without charts and without what
/// only fills pages: token IDs, the layers that pass, and the limits by tap.
pub fn render(report: &Report) -> String {
    let parity = Parity::new(report);
    let facts = Facts::new(report, &parity);
    let mut out = String::new();
    verdict(&mut out, &facts);

    match facts.not_compared {
        Some(why) => line(&mut out, &format!("Parity: not compared; {}.", inline(why))),
        None => parity_sections(&mut out, &facts),
    }

    if let Some(tokenizer) = &facts.tokenizer {
        heading(&mut out, "Tokenizers");
        for sentence in &tokenizer.sentences {
            line(&mut out, &inline(sentence));
        }
        table(&mut out, &tokenizer.texts);
        for (text, around) in &tokenizer.partings {
            line(&mut out, &format!("Where the engines part on {text}:"));
            table(&mut out, around);
        }
        table(&mut out, &tokenizer.generated);
        table(&mut out, &tokenizer.pieces);
    }

    heading(&mut out, "Performance");
    table_or(&mut out, &facts.throughput, "Throughput: not measured.");
    for note in &facts.bench_notes {
        line(&mut out, &inline(note));
    }
    for more in [
        &facts.latency,
        &facts.roofline,
        &facts.memory,
        &facts.workers,
    ] {
        table(&mut out, more);
    }

    if facts.not_compared.is_none() {
        heading(&mut out, "Coverage");
        table(&mut out, &facts.coverage);
        titled_list(&mut out, "Missing:", "missing rows", facts.missing);
        titled_list(&mut out, "Not finite:", "rows", facts.not_finite);
    }

    heading(&mut out, "Run");
    line(&mut out, &fenced(&facts.command));
    folded(&mut out, "Model and inputs", |out| {
        table(out, &facts.model);
        table(out, &facts.prompts);
        table(out, &facts.inputs);
    });
    folded(&mut out, "Engines and environment", |out| {
        table(out, &facts.engines);
        table(out, &facts.environment);
    });
    out.truncate(out.trim_end().len());
    out.push('\n');
    out
}

fn parity_sections(out: &mut String, facts: &Facts<'_>) {
    heading(out, "Parity");
    for (title, taps) in &facts.taps {
        folded(out, &format!("Taps, {}", inline(title)), |out| {
            table(out, taps);
        });
    }
    if facts.taps.is_empty() {
        line(out, "Taps: not measured.");
    }
    if let Some(floor) = facts.noise_floor {
        line(out, &format!("Noise floor: {}", inline(floor)));
    }
    if !facts.noise.rows.is_empty() {
        folded(
            out,
            "NMSE of each engine against itself, beside the difference between them",
            |out| {
                table(out, &facts.noise);
            },
        );
    }
    failing_layers(out, &facts.layers);

    heading(out, "Logits");
    table_or(out, &facts.logits, "Logits: not measured.");
    if !facts.disagreements.rows.is_empty() {
        line(out, "Positions with another most likely token:");
        table(out, &facts.disagreements);
    }

    if !facts.perplexity.rows.is_empty() {
        heading(out, "Perplexity");
        table(out, &facts.perplexity);
    }

    heading(out, "Generation");
    for generated in &facts.generations {
        line(
            out,
            &format!("Prompt {}: {}", generated.prompt, generated.sentence),
        );
        for side in &generated.sides {
            let text = side.whole_text().map_or_else(
                || format!("text {}", number::NOT_MEASURED),
                |text| code(&excerpt(&text)),
            );
            let _ = writeln!(out, "- {}: {text}", code(&side.engine));
        }
        out.push('\n');
    }
    if facts.generations.is_empty() {
        line(out, "Generation: not measured.");
    }
}

fn verdict(out: &mut String, facts: &Facts<'_>) {
    let verdict = &facts.verdict;
    let _ = writeln!(out, "# {}\n", inline(&verdict.headline));
    list(out, "reasons", &verdict.reasons);
    if let Some(first) = &verdict.divergence {
        let values = first
            .values
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>();
        line(
            out,
            &format!(
                "**First divergence: {}**: {}. {}.",
                inline(&first.place),
                values.join(", "),
                first.error
            ),
        );
        if let Some(hint) = &first.hint {
            line(out, &inline(hint));
        }
        if !first.arbitration.rows.is_empty() {
            line(out, "Each engine against the oracle, from the same inputs:");
            table(out, &first.arbitration);
            list(out, "findings", &first.findings);
        }
    }
    if !facts.known.rows.is_empty() {
        line(out, "Known deviations:");
        table(out, &facts.known);
    }
    titled_list(out, "Gates:", "gates", &verdict.gates);
    for failure in &facts.failures {
        line(out, &inline(&failure.sentence));
        if !failure.log_tail.is_empty() {
            line(out, &fenced(&failure.log_tail.join("\n")));
        }
    }
}

fn failing_layers(out: &mut String, layers: &Table) {
    let failing: Vec<_> = layers
        .rows
        .iter()
        .filter(|row| row.state == State::Fail)
        .collect();
    if failing.is_empty() {
        return;
    }
    line(out, "Layers beyond their limit:");
    write_table(out, layers, failing.iter().take(LISTED).copied());
    if failing.len() > LISTED {
        line(
            out,
            &format!("{} more in report.json", failing.len() - LISTED),
        );
    }
}

fn heading(out: &mut String, title: &str) {
    let _ = writeln!(out, "## {title}\n");
}

fn line(out: &mut String, text: &str) {
    let _ = writeln!(out, "{text}\n");
}

/// What GitHub shows on a click, and a terminal in full. `summary` is markup.
fn folded(out: &mut String, summary: &str, body: impl FnOnce(&mut String)) {
    line(out, &format!("<details><summary>{summary}</summary>"));
    body(out);
    line(out, "</details>");
}

fn list(out: &mut String, what: &str, items: &[String]) {
    for item in items.iter().take(LISTED) {
        let _ = writeln!(out, "- {}", inline(item));
    }
    if items.len() > LISTED {
        let _ = writeln!(out, "- {} more {what} in report.json", items.len() - LISTED);
    }
    if !items.is_empty() {
        out.push('\n');
    }
}

fn titled_list(out: &mut String, title: &str, what: &str, items: &[String]) {
    if !items.is_empty() {
        line(out, title);
        list(out, what, items);
    }
}

fn table_or(out: &mut String, wanted: &Table, otherwise: &str) {
    if wanted.rows.is_empty() {
        line(out, otherwise);
    } else {
        table(out, wanted);
    }
}

fn table(out: &mut String, table: &Table) {
    write_table(out, table, table.rows.iter());
}

/// A table with its columns padded, so that it reads well unrendered.
fn write_table<'a>(out: &mut String, table: &Table, rows: impl Iterator<Item = &'a Row>) {
    let cells: Vec<Vec<String>> = rows
        .map(|row| {
            row.cells
                .iter()
                .zip(&table.columns)
                .map(|(cell, column)| match column.kind {
                    Kind::Code if !cell.is_empty() => code(cell).replace('|', "\\|"),
                    Kind::Link if is_web_address(cell) => link(cell),
                    _ => inline(&excerpt(cell)),
                })
                .collect()
        })
        .collect();
    if cells.is_empty() {
        return;
    }
    let titles: Vec<String> = table.columns.iter().map(|c| inline(&c.title)).collect();
    let width = |text: &str| text.chars().count();
    let widths: Vec<usize> = titles
        .iter()
        .enumerate()
        .map(|(i, title)| {
            let widest = cells.iter().filter_map(|row| row.get(i)).map(|c| width(c));
            widest.max().unwrap_or(0).max(width(title)).max(3)
        })
        .collect();
    let mut write_row = |cells: &mut dyn Iterator<Item = &str>| {
        for ((cell, column), &width) in cells.zip(&table.columns).zip(&widths) {
            let _ = match column.kind {
                Kind::Number => write!(out, "| {cell:>width$} "),
                _ => write!(out, "| {cell:<width$} "),
            };
        }
        out.push_str("|\n");
    };
    write_row(&mut titles.iter().map(String::as_str));
    let rules: Vec<String> = table
        .columns
        .iter()
        .zip(&widths)
        .map(|(column, &width)| match column.kind {
            Kind::Number => format!("{}:", "-".repeat(width - 1)),
            _ => "-".repeat(width),
        })
        .collect();
    write_row(&mut rules.iter().map(String::as_str));
    for row in &cells {
        write_row(&mut row.iter().map(String::as_str));
    }
    out.push('\n');
}

fn excerpt(text: &str) -> String {
    if text.chars().count() <= EXCERPT {
        text.to_owned()
    } else {
        text.chars().take(EXCERPT - 1).chain(['…']).collect()
    }
}

/// One line of text as Markdown: nothing in it is markup, a terminal command, or a line break.
fn inline(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let chars: Vec<char> = text.chars().collect();
    for (i, &c) in chars.iter().enumerate() {
        match c {
            '\n' | '\r' | '\t' => out.push(' '),
            c if c.is_control() => out.push('\u{fffd}'),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            // An underscore within a word is no emphasis in GitHub's flavour.
            '_' if i > 0
                && chars[i - 1].is_alphanumeric()
                && chars.get(i + 1).is_some_and(|c| c.is_alphanumeric()) =>
            {
                out.push('_');
            }
            // A zero-width space after it keeps `@name` from notifying anybody.
            '@' => out.push_str("@\u{200b}"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' | '#' | '!' => {
                out.push('\\');
                out.push(c);
            }
            c => out.push(c),
        }
    }
    out
}

/// A web address as a link. Its characters hold no `<`, `>` or `|`, so nothing ends it early.
fn link(address: &str) -> String {
    format!("<{address}>")
}

/// Text on one line as a code span.
fn code(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    let fence = "`".repeat(longest_run(&text) + 1);
    let pad = if text.starts_with('`') || text.ends_with('`') || text.is_empty() {
        " "
    } else {
        ""
    };
    format!("{fence}{pad}{text}{pad}{fence}")
}

/// Lines of text as a code block.
fn fenced(text: &str) -> String {
    let text: String = text
        .chars()
        .map(|c| match c {
            '\n' => '\n',
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect();
    let fence = "`".repeat((longest_run(&text) + 1).max(3));
    format!("{fence}\n{text}\n{fence}")
}

fn longest_run(text: &str) -> usize {
    let mut longest = 0;
    let mut run = 0;
    for c in text.chars() {
        run = if c == '`' { run + 1 } else { 0 };
        longest = longest.max(run);
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_in_text_is_markup() {
        let cases = [
            ("a_b", "a_b"),
            ("_a_", "\\_a\\_"),
            ("<b>&", "&lt;b&gt;&amp;"),
            ("a|b\nc", "a\\|b c"),
            ("\u{1b}[31m", "\u{fffd}\\[31m"),
            ("@here", "@\u{200b}here"),
            ("[x](y)", "\\[x\\](y)"),
        ];
        for (text, want) in cases {
            assert_eq!(inline(text), want);
        }
    }

    #[test]
    fn code_spans_close_where_they_should() {
        assert_eq!(code("a"), "`a`");
        assert_eq!(code("a``b"), "```a``b```");
        assert_eq!(code("`"), "`` ` ``");
        assert_eq!(fenced("x\n```\ny"), "````\nx\n```\ny\n````");
    }
}
