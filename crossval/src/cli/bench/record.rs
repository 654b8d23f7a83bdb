//! One flat record per engine, test and thread count, for programs to read.

use reports::model::{BenchRow, Report, TimedPair};
use serde_json::{Value, json};

use crate::error::Error;

/// Names and values; unknown is null.
type Record = Vec<(&'static str, Value)>;

/// An array of records, one a line.
pub(super) fn json(report: &Report) -> Result<String, Error> {
    let lines = lines(report)?.join(",\n");
    Ok(format!("[\n{lines}\n]\n"))
}

/// One record a line.
pub(super) fn json_lines(report: &Report) -> Result<String, Error> {
    let lines = lines(report)?;
    Ok(lines.into_iter().map(|line| line + "\n").collect())
}

/// As in RFC 4180, with a header. Null is empty; lists are separated by spaces.
pub(super) fn csv(report: &Report) -> String {
    let records = records(report);
    let mut out = String::new();
    if let Some(first) = records.first() {
        let names: Vec<&str> = first.iter().map(|(name, _)| *name).collect();
        out += &(names.join(",") + "\r\n");
    }
    for record in &records {
        let cells: Vec<String> = record
            .iter()
            .map(|(_, value)| quoted(&cell(value)))
            .collect();
        out += &(cells.join(",") + "\r\n");
    }
    out
}

fn lines(report: &Report) -> Result<Vec<String>, Error> {
    let line = |record: Record| -> Result<String, Error> {
        let entries = record.into_iter().map(|(name, value)| {
            let value = serde_json::to_string(&value);
            let value = value.map_err(|e| Error::Internal(format!("{name}: {e}")))?;
            Ok(format!("{}:{value}", Value::from(name)))
        });
        let entries = entries.collect::<Result<Vec<_>, Error>>()?;
        Ok(format!("{{{}}}", entries.join(",")))
    };
    records(report).into_iter().map(line).collect()
}

fn records(report: &Report) -> Vec<Record> {
    let mut records = Vec::new();
    for pair in report.timed_pairs() {
        let memory = report.memory_of(&pair);
        for (candidate, row) in [(false, pair.reference), (true, pair.candidate)] {
            records.extend(row.map(|row| {
                record(
                    report,
                    &pair,
                    candidate,
                    row,
                    memory[usize::from(candidate)],
                )
            }));
        }
    }
    records
}

fn record(
    report: &Report,
    pair: &TimedPair,
    candidate: bool,
    row: &BenchRow,
    peak_rss_bytes: Option<u64>,
) -> Record {
    let (environment, model) = (&report.environment, &report.model);
    let engine = match candidate {
        true => &report.engines.candidate,
        false => &report.engines.reference,
    };
    let (unit, measured) = match (&row.tps, &row.ms) {
        (Some(tps), _) => (Some("t/s"), Some(tps)),
        (None, Some(ms)) => (Some("ms"), Some(ms)),
        (None, None) => (None, None),
    };
    let ratio = pair.ratio.filter(|_| candidate);
    let bench = report.bench.as_ref();
    let roofline = bench.and_then(|b| b.roofline.iter().find(|r| r.threads == row.threads));
    let tokens = pair.tokens;
    vec![
        ("created", json!(report.created)),
        ("crossval_version", json!(environment.crossval_version)),
        ("git_revision", json!(environment.git_revision)),
        ("cpu", json!(environment.cpu)),
        ("cpus", json!(roofline.map(|r| &r.cpus))),
        ("model", json!(model.name)),
        ("model_path", json!(model.path)),
        ("model_size", json!(model.size_bytes)),
        ("model_sha256", json!(model.sha256)),
        ("architecture", json!(model.architecture)),
        ("engine", json!(row.engine)),
        (
            "role",
            json!(if candidate { "candidate" } else { "reference" }),
        ),
        ("engine_version", json!(engine.version)),
        ("threads", json!(row.threads)),
        ("test", json!(row.test)),
        ("unit", json!(unit)),
        ("median", json!(measured.map(|m| m.median))),
        ("low", json!(measured.map(|m| m.low))),
        ("high", json!(measured.map(|m| m.high))),
        ("samples", json!(measured.map(|m| &m.samples))),
        ("ratio", json!(ratio.map(|r| r.median))),
        ("ratio_low", json!(ratio.map(|r| r.low))),
        ("ratio_high", json!(ratio.map(|r| r.high))),
        ("roofline_share", json!(row.roofline_share)),
        (
            "read_bytes_per_second",
            json!(roofline.and_then(|r| r.read_bytes_per_second)),
        ),
        (
            "int8_macs_per_second",
            json!(roofline.and_then(|r| r.int8_macs_per_second)),
        ),
        (
            "inter_token_p50_ms",
            json!(row.inter_token.as_ref().map(|t| t.p50)),
        ),
        (
            "inter_token_p95_ms",
            json!(row.inter_token.as_ref().map(|t| t.p95)),
        ),
        (
            "inter_token_p99_ms",
            json!(row.inter_token.as_ref().map(|t| t.p99)),
        ),
        ("cpu_seconds", json!(row.cpu_seconds)),
        ("energy", json!(row.energy)),
        ("peak_rss_bytes", json!(peak_rss_bytes)),
        ("tokens", json!(tokens.map(|t| t.count))),
        (
            "tokens_xxh3",
            json!(tokens.map(|t| if candidate {
                &t.candidate
            } else {
                &t.reference
            })),
        ),
        (
            "tokens_reproduced",
            json!(tokens.map(|t| if candidate {
                t.candidate_reproduced
            } else {
                t.reference_reproduced
            })),
        ),
        (
            "first_mismatch",
            json!(tokens.and_then(|t| t.first_mismatch)),
        ),
    ]
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(" "),
        other => other.to_string(),
    }
}

fn quoted(cell: &str) -> String {
    if cell.contains(['"', ',', '\r', '\n']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_survive_commas_and_quotes() {
        assert_eq!(quoted("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(quoted("plain"), "plain");
        assert_eq!(cell(&json!([1, 2.5])), "1 2.5");
        assert_eq!(cell(&json!(null)), "");
    }
}
