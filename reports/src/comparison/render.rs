//! A comparison for a terminal, for GitHub, and as a page.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, ContentArrangement, presets};
use minijinja::context;
use minijinja::value::Serde;

use super::Comparison;
use super::view::View;
use crate::error::Error;
use crate::facts::{Kind, Table};
use crate::html;
use crate::markdown::writer::fitting;
use crate::terminal::line_without_controls;

/// Columns of the terminal.
const WIDTH: u16 = 100;
/// Rows of a table in the terminal.
const ROWS: usize = 20;
/// Characters of a cell in the terminal.
const CELL: usize = 200;
/// Where everything is.
const REST: &str = "the JSON of the comparison";
const PAGE: &str = include_str!("../../templates/comparison.html");

pub(super) fn text(comparison: &Comparison) -> String {
    let view = View::new(comparison);
    let mut out = format!("{}\n", plain(&view.title));
    for (name, run) in &view.runs {
        let _ = writeln!(out, "{}", wrapped(&format!("{name}: {}", plain(run))));
    }
    if !view.glance.rows.is_empty() {
        let _ = writeln!(out, "\nAt a glance\n{}", grid(&view.glance));
    }
    if !view.settings.rows.is_empty() {
        let _ = writeln!(out, "\nNot the same in both\n{}", grid(&view.settings));
    }
    for (title, changes) in &view.subjects {
        let _ = writeln!(out, "\n{title}\n{}", grid(changes));
    }
    let _ = writeln!(out, "\n{}", view.summary);
    out
}

pub(super) fn markdown(comparison: &Comparison) -> String {
    let view = View::new(comparison);
    fitting(REST, |out| {
        out.heading(1, &view.title);
        for (name, run) in &view.runs {
            out.stressed(&format!("{name}:"), run);
        }
        out.table(&view.glance);
        if !view.settings.rows.is_empty() {
            out.folded("Not the same in both runs", |out| out.table(&view.settings));
        }
        for (title, changes) in &view.subjects {
            out.heading(2, title);
            out.table(changes);
        }
        out.sentence(&view.summary);
    })
}

pub(super) fn html(comparison: &Comparison) -> Result<String, Error> {
    let status = comparison.b.status.name();
    html::page(
        PAGE,
        context! { view => Serde(View::new(comparison)), status => Serde(status), style => html::style() },
    )
}

/// Nothing in it moves the cursor or breaks a line.
fn plain(text: &str) -> String {
    let shown = text.chars().take(CELL);
    let mut plain = line_without_controls(&shown.collect::<String>());
    if text.chars().count() > CELL {
        plain.push('…');
    }
    plain
}

/// A table of one column without lines: what comfy-table wraps, wide characters included.
fn wrapped(text: &str) -> String {
    let mut table = comfy_table::Table::new();
    arranged(&mut table).add_row([text]);
    trimmed(&table)
}

fn arranged(table: &mut comfy_table::Table) -> &mut comfy_table::Table {
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::DynamicFullWidth)
        .set_width(WIDTH)
}

fn trimmed(table: &comfy_table::Table) -> String {
    let lines = table.lines().map(|line| line.trim_end().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

fn grid(table: &Table) -> String {
    let mut grid = comfy_table::Table::new();
    arranged(&mut grid).set_content_arrangement(ContentArrangement::Dynamic);
    grid.set_header(table.columns.iter().map(|column| plain(&column.title)));
    for row in table.rows.iter().take(ROWS) {
        grid.add_row(row.cells.iter().map(|cell| plain(cell)));
    }
    for (i, column) in table.columns.iter().enumerate() {
        if let (Kind::Number, Some(of)) = (column.kind, grid.column_mut(i)) {
            of.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut out = trimmed(&grid);
    if table.rows.len() > ROWS {
        let _ = write!(out, "\n {} more in {REST}", table.rows.len() - ROWS);
    }
    out
}
