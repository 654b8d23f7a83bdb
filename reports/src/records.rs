//! Flat records for spreadsheets and data frames: CSV as in RFC 4180, and JSON lines.
//!
//! Both hold the same names and values. Unknown is empty in CSV and null in JSON; lists are separated by spaces in CSV.
//! Records name their run, so that those of several reports may be joined.

mod bench;
mod taps;

use serde_json::Value;

use crate::model::Report;

/// One record per engine, test and thread count of [`Report::bench`], with every figure and sample: CSV with a header.
pub fn bench_csv(report: &Report) -> String {
    csv(&bench::columns(), &bench::rows(report))
}

/// The records of [`bench_csv`] as JSON objects, one a line.
pub fn bench_jsonl(report: &Report) -> String {
    json_lines(&bench::columns(), &bench::rows(report))
}

/// One record per prompt, layer, tap and mode of [`Report::taps`], with every figure: CSV with a header.
pub fn taps_csv(report: &Report) -> String {
    csv(&taps::columns(), &taps::rows(report))
}

/// The records of [`taps_csv`] as JSON objects, one a line.
pub fn taps_jsonl(report: &Report) -> String {
    json_lines(&taps::columns(), &taps::rows(report))
}

/// A column's name, and its value in a row.
type Column<Row> = (&'static str, fn(&Row) -> Value);

fn json_lines<Row>(columns: &[Column<Row>], rows: &[Row]) -> String {
    let lines = objects(columns, rows).into_iter();
    lines.map(|line| line + "\n").collect()
}

/// Each row as a JSON object, its names in the order of the columns.
fn objects<Row>(columns: &[Column<Row>], rows: &[Row]) -> Vec<String> {
    let object = |row| {
        let entries: Vec<String> = columns
            .iter()
            .map(|(name, value)| format!("{}:{}", Value::from(*name), value(row)))
            .collect();
        format!("{{{}}}", entries.join(","))
    };
    rows.iter().map(object).collect()
}

fn csv<Row>(columns: &[Column<Row>], rows: &[Row]) -> String {
    let header = columns.iter().map(|(name, _)| (*name).to_owned()).collect();
    let cells = |row| columns.iter().map(|(_, value)| cell(&value(row))).collect();
    let mut writer = ::csv::WriterBuilder::new()
        .terminator(::csv::Terminator::CRLF)
        .from_writer(Vec::new());
    for record in std::iter::once(header).chain(rows.iter().map(cells)) {
        let record: Vec<String> = record;
        // Into memory, and all of one length: it cannot fail.
        let _ = writer.write_record(record);
    }
    let bytes = writer.into_inner().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}
