//! Every string of a report is untrusted.

use reports::Report;
use serde_json::Value;

use crate::html::embedded;
use crate::{gate, judged, sample};

pub const ATTACK: &str = "</script><script>alert(1)</script><img src=x onerror=\"alert(2)\"> | `x` {{ 1234 * 4321 }} \u{1b}[2J";

/// Puts the attack into every string and key that is not one of a fixed set of words.
fn poison(value: &mut Value) {
    match value {
        Value::String(text) => {
            let fixed = [
                "fail",
                "error",
                "incomplete",
                "none",
                "candidate",
                "reference",
                "undetermined",
                "isolated",
                "cumulative",
                "matched",
                "unmatched",
                "expired",
                "ratio",
                "absolute",
                "pass",
                "improved",
                "regressed",
                "not_confirmed",
                "not_repeated",
                "too_few_samples",
                "no_baseline",
                "not_measured",
                "machine_changed",
                "undecided",
                "reference_changed",
                "both_slower",
                "parity",
                "taps",
                "generation",
                "conditions",
            ];
            if text != reports::model::SCHEMA && !fixed.contains(&text.as_str()) {
                text.push_str(ATTACK);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(poison),
        Value::Object(fields) => {
            for name in [
                "build",
                "settings",
                "not_offered",
                "not_offered_because",
                "tensor_types",
                "tokens_reproduced",
                "nmse",
            ] {
                if let Some(Value::Object(map)) = fields.get_mut(name) {
                    *map = std::mem::take(map)
                        .into_iter()
                        .map(|(key, value)| (key + ATTACK, value))
                        .collect();
                }
            }
            fields.values_mut().for_each(poison);
        }
        _ => {}
    }
}

pub fn hostile(report: &Report) -> Report {
    let mut value = serde_json::to_value(report).unwrap();
    poison(&mut value);
    serde_json::from_value(value).unwrap()
}

#[test]
fn html_escapes_everything() {
    let mut died = sample::died();
    died.verdict.status = reports::model::Status::Fail;
    died.verdict.at_fault = reports::model::AtFault::Candidate;
    for report in [
        sample::fail(),
        died,
        judged::known(),
        judged::stale(),
        gate::report(),
    ] {
        let report = hostile(&report);
        let html = reports::html::render(&report).unwrap();
        assert!(html.contains("&lt;script&gt;alert(1)"));
        assert!(!html.contains("<script>alert"));
        assert!(!html.contains("<img"));
        assert!(
            !html.contains("<a href=\"http"),
            "an address with markup in it"
        );
        assert!(!html.contains("5332114"), "template code was run");
        assert_eq!(html.matches("<script").count(), 1, "the page's own");
        assert!(embedded(&html) == report);
    }
}

#[test]
fn markdown_escapes_everything() {
    for report in [sample::fail(), judged::known(), judged::stale()] {
        inert(&reports::markdown::render(&hostile(&report)));
    }
}

#[test]
fn junit_is_xml_whatever_the_strings_are() {
    for report in [
        sample::fail(),
        sample::died(),
        judged::known(),
        gate::report(),
    ] {
        let xml = reports::junit::render(&hostile(&report)).unwrap();
        assert!(!xml.contains('\u{1b}'));
        assert!(!xml.contains("<script") && !xml.contains("<img"));
        quick_junit::Report::deserialize_from_str(&xml).unwrap();
    }
}

#[test]
fn cells_hold_any_string() {
    for report in [sample::fail(), sample::timed()] {
        let report = hostile(&report);
        for csv in [
            reports::records::taps_csv(&report),
            reports::records::bench_csv(&report),
        ] {
            let mut reader = csv::Reader::from_reader(csv.as_bytes());
            for record in reader.records() {
                assert_eq!(&record.unwrap()[0], report.created);
            }
        }
    }
}

pub fn inert(markdown: &str) {
    assert!(!markdown.contains('\u{1b}'));
    // What stands in a code block or span is inert; the rest must not hold a tag.
    let mut block = false;
    for line in markdown.lines() {
        if line.starts_with("```") && !line.trim_start_matches('`').contains('`') {
            block = !block;
        }
        if block {
            continue;
        }
        let mut outside = String::new();
        let mut rest = line;
        while let Some(at) = rest.find('`') {
            outside.push_str(&rest[..at]);
            let ticks = rest[at..].chars().take_while(|c| *c == '`').count();
            let fence = &rest[at..at + ticks];
            let after = &rest[at + ticks..];
            rest = after.split_once(fence).map_or("", |(_, rest)| rest);
        }
        outside.push_str(rest);
        assert!(!outside.contains("<script"), "{line}");
    }
}
