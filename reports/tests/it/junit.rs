use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use reports::junit::render;
use reports::model::{ContradictedToken, GenerationCheck, Role};

use crate::{gate, judged, sample};

fn read(report: &reports::Report) -> Report {
    Report::deserialize_from_str(&render(report).unwrap()).unwrap()
}

fn suite<'a>(junit: &'a Report, name: &str) -> &'a TestSuite {
    let mut suites = junit.test_suites.iter();
    let found = suites.find(|suite| suite.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no suite {name}"))
}

fn case<'a>(suite: &'a TestSuite, name: &str) -> &'a TestCase {
    let mut cases = suite.test_cases.iter();
    let found = cases.find(|case| case.name.as_str() == name);
    found.unwrap_or_else(|| panic!("no case {name}"))
}

/// What came of a case, with its message and details.
fn outcome(case: &TestCase) -> (&'static str, String) {
    let text = |part: &Option<quick_junit::XmlString>| {
        part.as_ref().map_or("", |text| text.as_str()).to_owned()
    };
    match &case.status {
        TestCaseStatus::Success { .. } => ("passed", text(&case.system_out)),
        TestCaseStatus::Skipped { message, .. } => ("skipped", text(message)),
        TestCaseStatus::NonSuccess {
            kind,
            message,
            description,
            ..
        } => (
            match kind {
                NonSuccessKind::Failure => "failed",
                NonSuccessKind::Error => "error",
            },
            format!("{}\n{}", text(message), text(description)),
        ),
    }
}

/// A line per case.
fn summary(junit: &Report) -> String {
    let mut out = String::new();
    for suite in &junit.test_suites {
        out += &format!("{}\n", suite.name.as_str());
        for case in &suite.test_cases {
            let (word, text) = outcome(case);
            let text = text.trim().replace('\n', "\n        ");
            out += &format!("    {}: {word}: {text}\n", case.name.as_str());
        }
    }
    out
}

#[test]
fn what_the_cases_say() {
    for (name, report) in sample::all() {
        if name != "large" {
            insta::assert_snapshot!(format!("junit_{name}"), summary(&read(&report)));
        }
    }
}

#[test]
fn suites_and_cases_have_the_times_of_the_run() {
    let seconds = |time: Option<std::time::Duration>| time.map(|time| time.as_secs_f64());
    let mut report = sample::report(2, 2);
    let junit = read(&report);
    assert_eq!(seconds(junit.time), Some(12.5));
    let suites = [
        ("prompt 1, isolated", 0.75),
        ("prompt 1, cumulative", 0.5),
        ("conditions", 1.5),
        ("generation", 0.5),
    ];
    for (name, time) in suites {
        assert_eq!(seconds(suite(&junit, name).time), Some(time), "{name}");
    }
    let generated = case(suite(&junit, "generation"), "prompt 0");
    assert_eq!(seconds(generated.time), Some(0.25));
    assert_eq!(
        seconds(case(suite(&junit, "conditions"), "logits").time),
        Some(1.5)
    );
    // A layer by itself was not timed, and neither was what no part of the run names.
    assert_eq!(suite(&junit, "prompt 1, isolated").test_cases[0].time, None);
    assert_eq!(suite(&junit, "tokenizer").time, None);
    let load = case(suite(&junit, "timing"), "ttft, 1 thread, candidate (rust)");
    assert_eq!(seconds(load.time), Some(0.98));
    assert_eq!(outcome(load).1, "980 ms (951 to 1.00 s)");

    report.took.as_mut().unwrap().parts[0].seconds = -1.0;
    assert_eq!(suite(&read(&report), "conditions").time, None);
    report.took = None;
    let junit = read(&report);
    assert_eq!(junit.time, None);
    assert_eq!(suite(&junit, "generation").time, None);
}

#[test]
fn never_greener_than_the_verdict() {
    for (name, report) in sample::all() {
        let red = read(&report)
            .test_suites
            .iter()
            .any(|suite| suite.failures + suite.errors > 0);
        assert_eq!(red, report.verdict.exit_code != 0, "{name}");
    }
}

/// The ledger excuses engines that differ, not one that contradicts itself.
#[test]
fn no_known_deviation_excuses_a_token_against_its_own_logits() {
    let mut report = judged::known();
    let generation = report.generation.as_mut().unwrap();
    let mut check = GenerationCheck {
        role: Role::Candidate,
        expected: generation.candidate.len(),
        checked: generation.candidate.len(),
        contradicted: Vec::new(),
        own_noise: None,
        comparable: generation.candidate.len(),
        compared: generation.candidate.len(),
        beyond: Vec::new(),
        amplified: None,
    };
    generation.checks = vec![check.clone()];
    let said = |report: &reports::Report| {
        let junit = read(report);
        outcome(case(suite(&junit, "generation"), "prompt 0"))
    };
    assert_eq!(said(&report).0, "passed");
    check.contradicted = vec![ContradictedToken {
        index: 5,
        token: 66,
        largest: 9,
        margin: 3.25,
    }];
    report.generation.as_mut().unwrap().checks = vec![check];
    let (word, text) = said(&report);
    assert_eq!(word, "failed");
    let says = "The candidate contradicts its own logits in 1 token; the first at index 5, where token 9 is ahead of its \
                66 by 3.25.";
    assert!(text.contains(says), "{text}");
}

#[test]
fn a_failing_layer_names_its_taps() {
    let junit = read(&sample::fail());
    let isolated = suite(&junit, "prompt 0, isolated");
    let (word, text) = outcome(case(isolated, "layer 2"));
    assert_eq!(word, "failed");
    for part in [
        "q_rope: NMSE 3.2e-1, limit 1.0e-12, position 5",
        "attn_out: NMSE not finite, limit 1.0e-6, position 14, 3 non-finite values",
    ] {
        assert!(text.contains(part), "{part} not in {text}");
    }
    // Layers, and what lies outside them.
    assert_eq!(isolated.tests, 7);
    assert_eq!(outcome(case(isolated, "outside the layers")).0, "passed");
    let cumulative = suite(&junit, "prompt 1, cumulative");
    assert_eq!(outcome(case(cumulative, "layer 2")).0, "skipped");
}

#[test]
fn a_known_deviation_does_not_fail() {
    let junit = read(&judged::known());
    let (word, text) = outcome(case(suite(&junit, "prompt 0, isolated"), "layer 0"));
    assert_eq!(word, "passed");
    assert!(text.contains("ffn_act: NMSE 4.2e-1"), "{text}");
    assert!(text.contains("known deviation until 2027-01-31"), "{text}");
}

#[test]
fn the_gate_says_why_it_did_not_judge() {
    let junit = read(&gate::no_baseline());
    let why = "there is no baseline baselines/tiny.json: --update writes one";
    let speed = case(suite(&junit, "gate"), "speed");
    assert_eq!(outcome(speed), ("skipped", why.to_owned()));

    let rows = |report: &reports::Report| {
        let junit = read(report);
        outcome(case(
            suite(&junit, "gate"),
            "no fewer rows than the baseline",
        ))
    };
    let mut report = gate::fewer_rows();
    let (word, text) = rows(&report);
    assert_eq!(word, "failed");
    assert!(text.contains("2,460 rows compared, 2,500"), "{text}");
    report.gate.as_mut().unwrap().baseline_rows = Some(2_460);
    assert_eq!(rows(&report).0, "passed");
}

#[test]
fn missing_rows_are_listed() {
    let report = sample::died();
    let junit = read(&report);
    let coverage = suite(&junit, "coverage");
    for row in &report.coverage.missing {
        assert_eq!(
            outcome(case(coverage, row)),
            ("skipped", "missing".to_owned())
        );
    }
    assert_eq!(outcome(case(coverage, "rows compared")).0, "failed");
    let (word, text) = outcome(case(suite(&junit, "engines"), "reference (bitnet.cpp)"));
    assert_eq!(word, "error");
    assert!(
        text.contains("SIGSEGV") && text.contains("n_ubatch = 512"),
        "{text}"
    );
}
