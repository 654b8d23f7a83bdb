//! Text and tables as GitHub's Markdown, cut to a size.

use std::fmt::Write as _;

use crate::facts::{Kind, Row, Table, is_web_address};
use crate::number;

/// Most bytes of a document: GitHub takes comments of 65,536 characters.
const LARGEST: usize = 65_000;
/// What is left out of a document, in steps, until it is small enough.
const CUTS: [Cut; 5] = [
    Cut {
        rows: 60,
        chars: 500,
    },
    Cut {
        rows: 25,
        chars: 300,
    },
    Cut {
        rows: 10,
        chars: 150,
    },
    Cut { rows: 4, chars: 80 },
    Cut { rows: 1, chars: 40 },
];

/// How much is shown.
#[derive(Clone, Copy)]
struct Cut {
    /// Rows of a table, items of a list, lines of a log.
    rows: usize,
    /// Characters of a cell or a sentence.
    chars: usize,
}

/// A document in the making.
pub(crate) struct Writer {
    out: String,
    cut: Cut,
    /// Where what is left out can be read.
    rest: &'static str,
}

/// The document that `write` makes, with as much of its tables and texts as fits a comment on GitHub; what is left out
/// can be read in `rest`.
pub(crate) fn fitting(rest: &'static str, write: impl Fn(&mut Writer)) -> String {
    let mut out = String::new();
    for cut in CUTS {
        let mut writer = Writer {
            out: String::new(),
            cut,
            rest,
        };
        write(&mut writer);
        out = writer.out;
        out.truncate(out.trim_end().len());
        out.push('\n');
        if out.len() <= LARGEST {
            return out;
        }
    }
    cut_off(out, rest)
}

/// The paragraphs that fit, should there be too many even of the shortest.
fn cut_off(mut out: String, rest: &str) -> String {
    let mut end = LARGEST;
    while !out.is_char_boundary(end) {
        end -= 1;
    }
    out.truncate(out[..end].rfind("\n\n").unwrap_or(end));
    let lines = |start| out.lines().filter(|line| line.starts_with(start)).count();
    // A line of a log may look like a closing one.
    let open = lines("<details>").saturating_sub(lines("</details>"));
    out += &"\n\n</details>".repeat(open);
    out += &format!("\n\nCut off here; the rest is in {rest}.\n");
    out
}

impl Writer {
    /// A heading of level 1 to 6.
    pub(crate) fn heading(&mut self, level: usize, title: &str) {
        let title = inline(&self.excerpt(title));
        self.line(&format!("{} {title}", "#".repeat(level)));
    }

    /// A paragraph of plain text.
    pub(crate) fn sentence(&mut self, text: &str) {
        let text = inline(&self.excerpt(text));
        self.line(&text);
    }

    /// A paragraph of plain text behind a bold start.
    pub(crate) fn stressed(&mut self, start: &str, text: &str) {
        let (start, text) = (inline(&self.excerpt(start)), inline(&self.excerpt(text)));
        let markup = format!("**{start}** {text}");
        self.line(markup.trim_end());
    }

    fn line(&mut self, markup: &str) {
        let _ = writeln!(self.out, "{markup}\n");
    }

    /// What GitHub shows on a click, and a terminal in full.
    pub(crate) fn folded(&mut self, summary: &str, body: impl FnOnce(&mut Writer)) {
        let summary = inline(&self.excerpt(summary));
        self.line(&format!("<details><summary>{summary}</summary>"));
        body(self);
        self.line("</details>");
    }

    /// Lines of text as a code block.
    pub(crate) fn fenced(&mut self, text: &str) {
        let left_out = text.lines().count().saturating_sub(self.cut.rows);
        let lines: Vec<_> = text.lines().skip(left_out).collect();
        let lines: Vec<_> = lines.iter().map(|line| self.excerpt(line)).collect();
        let block = fenced(&lines.join("\n"));
        self.line(&block);
    }

    /// Items of plain text, `what` being their name in the plural.
    pub(crate) fn list(&mut self, what: &str, items: &[String]) {
        let shown = items.iter().take(self.cut.rows);
        let shown: Vec<_> = shown.map(|item| inline(&self.excerpt(item))).collect();
        self.items(&shown);
        if items.len() > shown.len() {
            let left_out = items.len() - shown.len();
            let _ = writeln!(self.out, "- {left_out} more {what} in {}", self.rest);
        }
        if !items.is_empty() {
            self.out.push('\n');
        }
    }

    fn items(&mut self, items: &[String]) {
        for item in items {
            let _ = writeln!(self.out, "- {item}");
        }
    }

    /// Texts as code behind names that are code.
    pub(crate) fn quotes(&mut self, texts: &[(&str, Option<String>)]) {
        let quote = |(name, text): &(&str, Option<String>)| {
            let name = code(&self.excerpt(name));
            match text {
                Some(text) => format!("{name}: {}", code(&self.excerpt(text))),
                None => format!("{name}: text {}", number::NOT_MEASURED),
            }
        };
        let quotes: Vec<_> = texts.iter().map(quote).collect();
        self.items(&quotes);
        self.out.push('\n');
    }

    /// The first of some items that each fill a paragraph or more; a note says how many there are more.
    pub(crate) fn shown<'a, T>(&mut self, what: &str, items: &'a [T]) -> &'a [T] {
        let shown = items.len().min(self.cut.rows);
        if items.len() > shown {
            self.line(&format!(
                "{} more {what} in {}.",
                items.len() - shown,
                self.rest
            ));
        }
        &items[..shown]
    }

    /// A table; nothing if it has no rows.
    pub(crate) fn table(&mut self, table: &Table) {
        let rows: Vec<&Row> = table.rows.iter().collect();
        self.rows_of(table, &rows);
    }

    /// A table under a sentence; nothing if it has no rows.
    pub(crate) fn titled(&mut self, title: &str, table: &Table) {
        if !table.rows.is_empty() {
            self.sentence(title);
            self.table(table);
        }
    }

    /// A table, or a sentence if it has no rows.
    pub(crate) fn table_or(&mut self, table: &Table, otherwise: &str) {
        if table.rows.is_empty() {
            self.sentence(otherwise);
        } else {
            self.table(table);
        }
    }

    /// A table behind its title, folded, or a sentence that it was not measured.
    pub(crate) fn measured(&mut self, title: &str, table: &Table) {
        if table.rows.is_empty() {
            self.sentence(&format!("{title}: not measured."));
        } else {
            self.folded(title, |out| out.table(table));
        }
    }

    /// Some rows of a table, its columns padded so that it reads well unrendered.
    pub(crate) fn rows_of(&mut self, table: &Table, rows: &[&Row]) {
        if rows.is_empty() {
            return;
        }
        let shown = rows.len().min(self.cut.rows);
        let cells: Vec<Vec<String>> = rows[..shown]
            .iter()
            .map(|row| {
                let cells = row.cells.iter().zip(&table.columns);
                cells
                    .map(|(cell, column)| self.cell(cell, column.kind))
                    .collect()
            })
            .collect();
        let titles = table
            .columns
            .iter()
            .map(|c| inline(&self.excerpt(&c.title)));
        let titles: Vec<String> = titles.collect();
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = titles
            .iter()
            .enumerate()
            .map(|(i, title)| {
                let widest = cells.iter().filter_map(|row| row.get(i)).map(|c| width(c));
                widest.max().unwrap_or(0).max(width(title)).max(3)
            })
            .collect();
        let rules: Vec<String> = table
            .columns
            .iter()
            .zip(&widths)
            .map(|(column, &width)| match column.kind {
                Kind::Number => format!("{}:", "-".repeat(width - 1)),
                _ => "-".repeat(width),
            })
            .collect();
        for row in [&titles, &rules].into_iter().chain(&cells) {
            for ((cell, column), &width) in row.iter().zip(&table.columns).zip(&widths) {
                let _ = match column.kind {
                    Kind::Number => write!(self.out, "| {cell:>width$} "),
                    _ => write!(self.out, "| {cell:<width$} "),
                };
            }
            self.out.push_str("|\n");
        }
        self.out.push('\n');
        if rows.len() > shown {
            self.line(&format!("{} more in {}.", rows.len() - shown, self.rest));
        }
    }

    fn cell(&self, cell: &str, kind: Kind) -> String {
        match kind {
            Kind::Code if !cell.is_empty() => code(&self.excerpt(cell)).replace('|', "\\|"),
            Kind::Link if is_web_address(cell) && cell.len() <= self.cut.chars => link(cell),
            _ => inline(&self.excerpt(cell)),
        }
    }

    fn excerpt(&self, text: &str) -> String {
        if text.chars().count() <= self.cut.chars {
            text.to_owned()
        } else {
            text.chars().take(self.cut.chars - 1).chain(['…']).collect()
        }
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
