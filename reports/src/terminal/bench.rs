//! The results of a benchmark as a table.

use super::text::{Grid, paragraph};
use crate::facts::{bench_notes, headline, measured, threads_cell};
use crate::model::{BenchRow, Report, Role, TimedPair};
use crate::number;

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
const FIGURES: &[usize] = &[1, 3, 4, 5, 6, 7];

/// The results as plain text, at most 100 columns where names are short.
pub fn bench(report: &Report) -> String {
    let Some(bench) = &report.bench else {
        return String::new();
    };
    let mut out = String::new();
    let about = format!(
        "{}, {}, {}; {} per test",
        model_name(report),
        number::bytes(report.model.size_bytes as f64),
        report.model.architecture,
        number::plural(bench.repetitions as u64, "pair"),
    );
    // Writing to a String cannot fail.
    let _ = paragraph(&mut out, 0, &headline(report)).and_then(|()| paragraph(&mut out, 0, &about));
    out.push('\n');
    let mut results = Grid::new(&COLUMNS, FIGURES);
    for (pair, role, row) in rows(report) {
        results.row(cells(report, &pair, role, row));
    }
    out += &format!("{}\n", results.text());
    let titles = [
        "engine",
        "threads",
        "test",
        "p50",
        "p95",
        "p99",
        "CPU time",
        "energy",
        "peak memory",
    ];
    let mut latencies = Grid::new(&titles, &[1, 3, 4, 5, 6, 7, 8]);
    for (pair, role, row) in rows(report) {
        let Some(inter_token) = &row.inter_token else {
            continue;
        };
        let [reference, candidate] = report.memory_of(&pair);
        let memory = role.of(reference, candidate);
        let known = |x: Option<f64>, format: fn(f64) -> String| x.map(format).unwrap_or_default();
        latencies.row([
            report.engines.engine(role).called().to_owned(),
            threads_cell(report, row.threads),
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
        out += &format!("\n{}\n", latencies.text());
    }
    let titles = [
        "machine",
        "threads",
        "CPUs",
        "read bandwidth",
        "int8 peak",
        "",
    ];
    let mut machine = Grid::new(&titles, &[1, 3, 4]);
    for roofline in &bench.roofline {
        let known = |x: Option<f64>, unit| x.map(|x| number::billions(x, unit)).unwrap_or_default();
        let cpus: Vec<String> = roofline.cpus.iter().map(usize::to_string).collect();
        machine.row([
            "roofline".to_owned(),
            roofline.threads.to_string(),
            cpus.join(" "),
            known(roofline.read_bytes_per_second, "B/s"),
            known(roofline.int8_macs_per_second, "MAC/s"),
            roofline.int8_instructions.clone().unwrap_or_default(),
        ]);
    }
    out += &format!("\n{}\n\n", machine.text());
    for note in bench_notes(report) {
        // Writing to a String cannot fail.
        let _ = paragraph(&mut out, 0, &note);
    }
    out
}

/// The name in the file, or the file's.
fn model_name(report: &Report) -> &str {
    let model = &report.model;
    model.name.as_deref().unwrap_or(model.file_name())
}

fn rows(report: &Report) -> Vec<(TimedPair<'_>, Role, &BenchRow)> {
    let pairs = report.timed_pairs().into_iter();
    let rows = pairs.flat_map(|pair| {
        let of_role = move |role| Some((pair, role, pair.row(role)?));
        Role::BOTH.into_iter().filter_map(of_role)
    });
    rows.collect()
}

fn cells(report: &Report, pair: &TimedPair, role: Role, row: &BenchRow) -> Vec<String> {
    let (median, interval) = match measured(row) {
        Some((m, format)) => m.written(format),
        None => (number::NOT_MEASURED.to_owned(), String::new()),
    };
    let ratio = pair.ratio.filter(|_| role == Role::Candidate);
    let digits = |x: f64| number::significant(x, 3);
    vec![
        report.engines.engine(role).called().to_owned(),
        threads_cell(report, row.threads),
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
