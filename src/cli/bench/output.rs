//! The results for people: a table on the terminal, or in Markdown.

use comfy_table::{CellAlignment, Table};
use reports::model::{BenchRow, Report, Status, TimedPair};
use reports::number;

use crate::cli::inspect;
use crate::cli::summary::{line_without_controls, paragraph};

const COLUMNS: [&str; 8] = [
    "engine",
    "threads",
    "test",
    "median",
    "95% interval",
    "ratio",
    "95% interval",
    "roofline",
];

/// Columns that hold figures, of those above.
const FIGURES: [usize; 6] = [1, 3, 4, 5, 6, 7];

/// The results as plain text, at most 100 columns where names are short.
pub(super) fn table(report: &Report) -> String {
    let Some(bench) = &report.bench else {
        return String::new();
    };
    let mut out = format!(
        "{}, {}, {}; {} per test\n\n",
        line_without_controls(model_name(report)),
        number::bytes(report.model.size_bytes as f64),
        line_without_controls(&report.model.architecture),
        number::plural(bench.repetitions as u64, "pair"),
    );
    let mut results = inspect::table(&COLUMNS);
    for (pair, candidate, row) in rows(report) {
        results.add_row(cells(&pair, candidate, row));
    }
    align(&mut results, &FIGURES);
    out += &format!("{results}\n");
    let mut latencies = inspect::table(&[
        "engine",
        "threads",
        "test",
        "p50",
        "p95",
        "p99",
        "CPU time",
        "energy",
        "peak memory",
    ]);
    for (pair, candidate, row) in rows(report) {
        let Some(inter_token) = &row.inter_token else {
            continue;
        };
        let memory = report.memory_of(&pair)[usize::from(candidate)];
        let known = |x: Option<f64>, format: fn(f64) -> String| x.map(format).unwrap_or_default();
        latencies.add_row([
            line_without_controls(&row.engine),
            row.threads.to_string(),
            row.test.clone(),
            number::milliseconds(inter_token.p50),
            number::milliseconds(inter_token.p95),
            number::milliseconds(inter_token.p99),
            known(row.cpu_seconds, |s| number::milliseconds(s * 1e3)),
            known(row.energy, number::joules),
            known(memory.map(|b| b as f64), number::bytes),
        ]);
    }
    if !latencies.is_empty() {
        align(&mut latencies, &[1, 3, 4, 5, 6, 7, 8]);
        out += &format!("\n{latencies}\n");
    }
    let mut machine = inspect::table(&[
        "machine",
        "threads",
        "CPUs",
        "read bandwidth",
        "int8 peak",
        "",
    ]);
    for roofline in &bench.roofline {
        let known = |x: Option<f64>, unit| x.map(|x| number::billions(x, unit)).unwrap_or_default();
        let cpus: Vec<String> = roofline.cpus.iter().map(usize::to_string).collect();
        machine.add_row([
            "roofline".to_owned(),
            roofline.threads.to_string(),
            cpus.join(" "),
            known(roofline.read_bytes_per_second, "B/s"),
            known(roofline.int8_macs_per_second, "MAC/s"),
            roofline.int8_instructions.clone().unwrap_or_default(),
        ]);
    }
    align(&mut machine, &[1, 3, 4]);
    out += &format!("\n{machine}\n\n");
    for note in reports::bench_notes(report) {
        // Writing to a String cannot fail.
        let _ = paragraph(&mut out, 0, &note);
    }
    out
}

/// The results as one Markdown table, in the manner of llama-bench.
pub(super) fn markdown(report: &Report) -> String {
    if report.bench.is_none() {
        return String::new();
    }
    let line = |cells: &[String]| {
        let cells = cells
            .iter()
            .map(|c| line_without_controls(c).replace('|', "\\|"));
        format!("| {} |\n", cells.collect::<Vec<_>>().join(" | "))
    };
    let titles = ["model", "size"].into_iter().chain(COLUMNS);
    let mut out = line(&titles.map(str::to_owned).collect::<Vec<_>>());
    let rules = (0..2 + COLUMNS.len()).map(|i| match i.checked_sub(2) {
        Some(i) if FIGURES.contains(&i) => "---:",
        None if i == 1 => "---:",
        _ => "---",
    });
    out += &line(&rules.map(str::to_owned).collect::<Vec<_>>());
    for (pair, candidate, row) in rows(report) {
        let size = number::bytes(report.model.size_bytes as f64);
        let mut of_row = vec![model_name(report).to_owned(), size];
        of_row.extend(cells(&pair, candidate, row));
        out += &line(&of_row);
    }
    if report.verdict.status != Status::Pass {
        out += &format!(
            "\n{}\n",
            line_without_controls(&report.verdict.reasons.join("; "))
        );
    }
    out
}

/// The name in the file, or the file's.
fn model_name(report: &Report) -> &str {
    let model = &report.model;
    model.name.as_deref().unwrap_or(model.file_name())
}

fn rows(report: &Report) -> Vec<(TimedPair<'_>, bool, &BenchRow)> {
    let pairs = report.timed_pairs().into_iter();
    let rows = pairs.flat_map(|pair| {
        [(pair, false, pair.reference), (pair, true, pair.candidate)]
            .into_iter()
            .filter_map(|(pair, candidate, row)| Some((pair, candidate, row?)))
    });
    rows.collect()
}

fn cells(pair: &TimedPair, candidate: bool, row: &BenchRow) -> Vec<String> {
    let (median, interval) = match (&row.tps, &row.ms) {
        (Some(tps), _) => number::measured(tps, number::tokens_per_second),
        (None, Some(ms)) => number::measured(ms, number::milliseconds),
        (None, None) => (number::NOT_MEASURED.to_owned(), String::new()),
    };
    let ratio = pair.ratio.filter(|_| candidate);
    let digits = |x: f64| number::significant(x, 3);
    vec![
        line_without_controls(&row.engine),
        row.threads.to_string(),
        row.test.clone(),
        median,
        interval,
        ratio.map_or(String::new(), |r| format!("{}x", digits(r.median))),
        ratio.map_or(String::new(), |r| {
            format!("{} to {}", digits(r.low), digits(r.high))
        }),
        row.roofline_share.map(number::share).unwrap_or_default(),
    ]
}

fn align(table: &mut Table, figures: &[usize]) {
    for &column in figures {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}
