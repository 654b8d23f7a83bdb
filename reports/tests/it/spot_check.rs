//! What every writer says of rows that the oracle judged, and of a part that is beyond its limit.

use reports::model::*;
use reports::{html, junit, markdown, terminal};

use crate::judged::reference_at_fault;
use crate::sample;

fn check(wrong: &[&str], not_judged: Option<&str>) -> SpotCheck {
    let arbitration = reference_at_fault().verdict.first_divergence.unwrap();
    let judgement = arbitration.arbitration.unwrap().reference;
    let stage = |engine: &&str| WrongStage {
        engine: (*engine).to_owned(),
        prompt: 0,
        position: 5,
        judgement: judgement.clone(),
    };
    SpotCheck {
        seed: 77,
        rows: vec![SpotCheckRow {
            prompt: 0,
            position: 5,
        }],
        of_rows: 13,
        stages: 166,
        wrong: wrong.iter().map(stage).collect(),
        not_judged: not_judged.map(str::to_owned),
    }
}

fn all(report: &Report) -> [String; 4] {
    [
        terminal::summary(report),
        markdown::render(report),
        html::render(report).unwrap(),
        junit::render(report).unwrap(),
    ]
}

#[test]
fn every_writer_says_what_the_oracle_found() {
    let cases: [(SpotCheck, &str, &str); 3] = [
        (check(&[], None), "every one right", ""),
        (
            check(&["reference", "candidate", "candidate"], None),
            "the reference wrong at 1 stage, the candidate wrong at 2 stages",
            "the oracle finds 2 stages wrong",
        ),
        (
            check(&[], Some("no ruling: it died")),
            "nothing wrong until it ended: no ruling: it died",
            "no ruling: it died",
        ),
    ];
    for (check, says, junit) in cases {
        let mut report = sample::pass();
        report.spot_check = Some(check);
        let [terminal, markdown, html, xml] = all(&report);
        let terminal: Vec<&str> = terminal.split_whitespace().collect();
        let terminal = terminal.join(" ");
        assert!(terminal.contains("1 of 13 rows, 166 stages"), "{terminal}");
        for text in [terminal.as_str(), &markdown, &html] {
            assert!(text.contains(says), "{text}");
        }
        for text in [markdown, html] {
            assert!(text.contains("(seed 77)"), "{text}");
        }
        assert!(xml.contains(junit) && xml.contains("spot check"), "{xml}");
    }
    let without = all(&sample::pass());
    assert!(without.iter().all(|text| !text.contains("spot check")));
}

#[test]
fn a_part_is_named_where_the_row_is_within_its_limit() {
    let report = reference_at_fault();
    for (head, rows, says) in [
        (Some(3), 1, "NMSE of head 3 2.0e-5, limit 1.0e-5"),
        (None, 1, "NMSE of the element 2.0e-5, limit 1.0e-5"),
        (None, 6, "mean over 6 rows 2.0e-5, limit 1.0e-5"),
    ] {
        let part = PartBeyond {
            head,
            rows,
            nmse: 2e-5,
            limit: 1e-5,
        };
        let mut report = report.clone();
        report.verdict.first_divergence.as_mut().unwrap().part = Some(part);
        for text in [markdown::render(&report), html::render(&report).unwrap()] {
            assert!(text.contains(says), "{text}");
        }
    }
}
