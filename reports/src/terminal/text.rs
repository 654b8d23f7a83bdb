//! Paragraphs and tables for a terminal, in which nothing of a report is a command.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, presets};

/// Columns of the terminal.
pub(super) const WIDTH: usize = 100;

/// Columns by which what belongs to the line above is indented.
pub(super) const INDENT: usize = 6;

/// Text from engines and files, on one line.
pub(crate) fn line_without_controls(text: &str) -> String {
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

/// A table without lines.
pub(super) struct Grid {
    table: comfy_table::Table,
    /// Columns aligned to the right.
    figures: &'static [usize],
}

impl Grid {
    pub(super) fn new(header: &[&str], figures: &'static [usize]) -> Grid {
        let mut table = comfy_table::Table::new();
        table
            .load_style(presets::NOTHING)
            .set_header(header.iter().map(|title| line_without_controls(title)));
        Grid { table, figures }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter();
        self.table
            .add_row(cells.map(|cell| line_without_controls(&cell)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    pub(super) fn text(mut self) -> String {
        for &column in self.figures {
            if let Some(column) = self.table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        self.table.to_string()
    }
}
