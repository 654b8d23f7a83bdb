//! Where the reference is known to go wrong: a finding with a name, not a pass and not our crash.
#![cfg(all(feature = "reference", target_arch = "x86_64", unix))]

use reports::model::{AtFault, Mode, Status};

use super::*;

/// The reference adds up products in 16 bits where it has AVX2.
fn has_avx2() -> bool {
    let has = std::arch::is_x86_feature_detected!("avx2");
    if !has {
        skip("without AVX2 the reference has other kernels");
    }
    has
}

#[test]
fn i16_overflow() {
    if !has_avx2() {
        return;
    }
    for arch in ["bitnet", "bitnet-25", "bitnet-b1.58"] {
        let scratch = Scratch::new();
        let model = synth(
            &scratch,
            arch,
            &["--stress", "i16-overflow", "--layers", "2"],
        );
        let (code, report, _) = run(&model, &["--no-bench", "--n-predict", "8"]);
        assert_eq!((code, report.verdict.status), (10, Status::Fail), "{arch}");
        let first = report.verdict.first_divergence.expect("a divergence");
        assert_eq!(
            (first.tap.as_str(), first.layer, first.position, first.mode),
            ("ffn_down", Some(0), 0, Mode::Isolated)
        );
        assert_eq!(report.verdict.at_fault, AtFault::Reference);
        let hint = first.hint.as_ref().expect("a hint");
        assert!(hint.contains("int16 overflow"), "{hint}");
        // One of the rows of +1.
        assert_eq!(first.element % 16, 0, "{first:?}");
        for tap in &report.taps {
            let isolated = tap.isolated.as_ref().expect("isolated");
            let passes = isolated.pass == Some(true);
            assert_eq!(passes, tap.tap != "ffn_down", "{arch}: {}", tap.tap);
        }
    }
}

/// A batch of 128 tokens at 6912 rows puts an array of 3.4 MiB on the reference's stack. Two layers: of the last one it
/// computes a single row where only the next token is wanted.
#[test]
fn stack_overflow() {
    if !has_avx2() {
        return;
    }
    let scratch = Scratch::new();
    let shape = ["--layers", "2", "--ffn", "6912"];
    let model = synth(&scratch, "bitnet-b1.58", &shape);
    let tokens: Vec<String> = (3..131).map(|id| id.to_string()).collect();
    let tokens = tokens.join(",");
    let args = ["--tokens", &tokens, "--no-bench", "--n-predict", "1"];
    let (code, report, _) = run(&model, &args);
    assert_eq!(code, 0, "as workers are started: {:#?}", report.verdict);

    let script = format!(
        "ulimit -s 2048\nunset OMP_STACKSIZE\nexec '{}' worker bitnet.cpp",
        env!("CARGO_BIN_EXE_crossval")
    );
    let reference = scratch.engine("short-of-stack", &script);
    let (code, report, _) = run(&model, &[&args[..], &["--reference", &reference]].concat());
    assert_eq!((code, report.verdict.status), (30, Status::Error));
    let failure = report.engines.reference.failure.expect("a failure");
    assert_eq!(failure.signal.as_deref(), Some("SIGSEGV"));
    assert!(
        failure
            .message
            .ends_with("died with SIGSEGV while generating from prompt 0"),
        "{}",
        failure.message
    );
    assert_eq!(report.verdict.reasons[0], failure.message);
    assert!(report.engines.candidate.failure.is_none());
}
