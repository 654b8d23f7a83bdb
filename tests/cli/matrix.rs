//! One candidate against several references.

use reports::model::{AtFault, Source, Status};
use reports::outcome::Outcome;

use super::*;

const QUICK: [&str; 3] = ["--no-bench", "--n-predict", "4"];

/// Worker of the Rust engine with a fault, as an engine.
#[cfg(unix)]
fn faulty(scratch: &Scratch, fault: &str) -> String {
    let worker = env!("CARGO_BIN_EXE_crossval");
    scratch.engine(
        "faulty",
        &format!("exec '{worker}' worker rust --fault '{fault}'"),
    )
}

#[test]
#[cfg(all(unix, feature = "reference"))]
fn one_reference_of_three_is_wrong() {
    let scratch = Scratch::new();
    let wrong = faulty(&scratch, "zero:ffn_up:2");
    let references = [
        "--reference",
        "bitnet.cpp",
        "--reference",
        &wrong,
        "--reference",
        "oracle",
    ];
    let (code, report, summary) = run(Path::new(TINY), &[&references[..], &QUICK].concat());
    assert_eq!(
        (code, report.verdict.status),
        (10, Status::Fail),
        "{summary}"
    );
    // The pair that the report itself is about is right.
    assert_eq!(report.verdict.at_fault, AtFault::None);
    assert!(
        summary.contains("at fault: the reference (faulty)") && !summary.contains("(bitnet.cpp)"),
        "{summary}"
    );
    let [of_wrong, of_oracle] = &report.further[..] else {
        panic!("{:#?}", report.further)
    };
    let verdict =
        |of: &reports::model::FurtherReference| of.report.clone().expect("a report").verdict;
    assert_eq!(verdict(of_wrong).at_fault, AtFault::Reference);
    assert_eq!(verdict(of_oracle).status, Status::Pass);
    let findings = &report.verdict.findings;
    assert!(
        findings
            .iter()
            .filter(|f| f.outcome != Outcome::Pass)
            .all(|f| f.source == Source::Reference && f.text.contains(&wrong)),
        "{findings:#?}"
    );
    let matrix = report.matrix.expect("a matrix");
    assert_eq!(matrix.engines, ["rust", "bitnet.cpp", &wrong, "oracle"]);
    assert_eq!(matrix.pairs.len(), 6);
    for pair in &matrix.pairs {
        let of_wrong = pair.a == wrong || pair.b == wrong;
        let status = if of_wrong { Status::Fail } else { Status::Pass };
        assert_eq!(pair.status, Some(status), "{pair:?}");
        assert!(
            pair.logits_nmse.is_some() && pair.tokens == Some(4),
            "{pair:?}"
        );
    }
    assert!(summary.contains("bitnet.cpp and oracle agree"), "{summary}");
}

/// What cannot be compared takes nothing from the others.
#[test]
fn a_further_reference_that_does_not_run() {
    let references = ["--reference", "oracle", "--reference", "exec:false"];
    let (code, report, summary) = run(Path::new(TINY), &[&references[..], &QUICK].concat());
    assert_eq!(
        (code, report.verdict.status),
        (20, Status::Incomplete),
        "{summary}"
    );
    let [further] = &report.further[..] else {
        panic!("{:#?}", report.further)
    };
    assert!(further.report.is_none() && further.not_compared.is_some());
    assert!(
        report.verdict.reasons[0].contains("against exec:false"),
        "{summary}"
    );
    assert_eq!(report.coverage.compared, report.coverage.expected);
}

#[test]
fn the_same_reference_twice() {
    let output = crossval(&[
        "run",
        "--model",
        TINY,
        "--reference",
        "oracle",
        "--reference",
        "oracle",
    ]);
    assert_eq!(exit_code(&output), 64);
    assert!(
        stderr(&output).contains("--reference: oracle is given twice"),
        "{}",
        stderr(&output)
    );
}
