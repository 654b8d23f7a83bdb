use reports::Report;
use reports::model::InterToken;
use reports::records::{bench_csv, bench_jsonl, taps_csv, taps_jsonl};
use serde_json::Value;

use crate::sample;

/// Header and records.
fn read_csv(text: &str) -> (Vec<String>, Vec<Vec<String>>) {
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let strings = |r: &csv::StringRecord| r.iter().map(str::to_owned).collect::<Vec<_>>();
    let header = strings(reader.headers().unwrap());
    let records = reader.records().map(|r| strings(&r.unwrap())).collect();
    (header, records)
}

/// The CSV is what the JSON lines say, and those are returned.
fn agreeing(csv: &str, lines: &str) -> Vec<Value> {
    let (header, records) = read_csv(csv);
    let objects: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(records.len(), objects.len());
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    for (record, object) in records.iter().zip(&objects) {
        assert_eq!(object.as_object().unwrap().len(), header.len());
        for (name, cell) in header.iter().zip(record) {
            let want = match &object[name.as_str()] {
                Value::Null => String::new(),
                Value::Array(all) => all.iter().map(text).collect::<Vec<_>>().join(" "),
                value => text(value),
            };
            assert_eq!(cell, &want, "{name}");
        }
    }
    objects
}

#[test]
fn every_figure_of_every_tap_is_there() {
    for (name, report) in sample::all() {
        let objects = agreeing(&taps_csv(&report), &taps_jsonl(&report));
        let mut objects = objects.iter();
        for entry in &report.taps {
            for (mode, stats) in entry.modes() {
                let object = objects.next().unwrap();
                let figures = serde_json::to_value(stats).unwrap();
                for (field, value) in figures.as_object().unwrap() {
                    if field != "max_abs_at" {
                        assert_eq!(&object[field], value, "{name}: {field}");
                        continue;
                    }
                    for part in ["position", "element", "reference", "candidate"] {
                        let flat = &object[format!("max_abs_{part}")];
                        assert_eq!(flat, value.get(part).unwrap_or(&Value::Null), "{name}");
                    }
                }
                let place = serde_json::json!([entry.prompt, entry.layer, entry.tap, mode]);
                let of = ["prompt", "layer", "tap", "mode"].map(|name| object[name].clone());
                assert_eq!(Value::from(of.to_vec()), place);
            }
        }
        assert!(objects.next().is_none(), "{name}");
    }
}

#[test]
fn every_sample_of_every_test_is_there() {
    let mut report = sample::timed();
    report.engines.candidate.version = Some("0.1, \"dirty\"\nof today".to_owned());
    let rows = &mut report.bench.as_mut().unwrap().rows;
    rows[4].inter_token = Some(InterToken {
        p50: 1.5,
        p95: 2.0,
        p99: 2.0,
        samples: vec![1.5, 2.0],
    });
    let objects = agreeing(&bench_csv(&report), &bench_jsonl(&report));
    let rows = &report.bench.as_ref().unwrap().rows;
    assert_eq!(objects.len(), rows.len());
    for row in rows {
        let measured = row.tps.as_ref().or(row.ms.as_ref());
        let found = objects.iter().any(|o| {
            o["engine"] == row.engine
                && o["test"] == row.test
                && o["threads"] == row.threads
                && o["samples"] == serde_json::json!(measured.map(|m| &m.samples))
                && o["inter_token_samples_ms"]
                    == serde_json::json!(row.inter_token.as_ref().map(|t| &t.samples))
        });
        assert!(found, "{row:?}");
    }
    let version = |o: &&Value| o["role"] == "candidate";
    let candidate = objects.iter().find(version).unwrap();
    assert_eq!(candidate["engine_version"], "0.1, \"dirty\"\nof today");
}

#[test]
fn a_report_without_records_has_headers() {
    let report: Report = sample::empty();
    for (csv, lines) in [
        (taps_csv(&report), taps_jsonl(&report)),
        (bench_csv(&report), bench_jsonl(&report)),
    ] {
        assert!(agreeing(&csv, &lines).is_empty());
        assert!(read_csv(&csv).0.len() > 20);
    }
}

#[test]
fn what_the_tables_look_like() {
    let head = |text: String, n| text.lines().take(n).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("taps_csv", head(taps_csv(&sample::fail()), 4));
    insta::assert_snapshot!("bench_csv", head(bench_csv(&sample::timed()), 4));
}
