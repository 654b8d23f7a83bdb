//! An engine that dies is a finding in the report, not our crash.
#![cfg(unix)]

use reports::model::Status;

use super::*;

/// A worker that obeys for `bytes` of requests, and then dies with SIGSEGV.
pub(super) fn mortal(scratch: &Scratch, bytes: usize) -> String {
    let script = format!(
        "dd bs=1 count={bytes} 2>/dev/null | '{}' worker rust\n\
         echo 'about to die' >&2\nkill -SEGV $$",
        env!("CARGO_BIN_EXE_crossval")
    );
    scratch.engine("mortal", &script)
}

#[test]
fn what_was_compared_is_kept() {
    let scratch = Scratch::new();
    // Enough for loading, generating and the noise, not for the answers to a whole isolated pass.
    let candidate = mortal(&scratch, 9_000);
    let args = [
        "--reference",
        "rust",
        "--candidate",
        &candidate,
        "--no-bench",
    ];
    let (code, report, summary) = run(Path::new(TINY), &args);
    assert_eq!((code, report.verdict.status), (30, Status::Error));
    assert!(summary.starts_with("ERROR"), "{summary}");
    let failure = report.engines.candidate.failure.expect("a failure");
    assert_eq!(failure.signal.as_deref(), Some("SIGSEGV"));
    assert_eq!(failure.during, "evaluating prompt 0, positions 0..5");
    assert!(
        failure.log_tail.iter().any(|l| l == "about to die"),
        "{:?}",
        failure.log_tail
    );
    assert!(report.engines.reference.failure.is_none());
    let coverage = report.coverage;
    assert!(
        0 < coverage.compared && coverage.compared < coverage.expected,
        "{coverage:?}"
    );
    assert!(!coverage.missing.is_empty() && !report.taps.is_empty());
}

#[test]
fn death_while_loading() {
    let scratch = Scratch::new();
    let reference = mortal(&scratch, 10);
    let args = [
        "--reference",
        &reference,
        "--candidate",
        "rust",
        "--tokens",
        "1,2",
    ];
    let (code, report, _) = run(Path::new(TINY), &args);
    assert_eq!(code, 30);
    let failure = report.engines.reference.failure.expect("a failure");
    assert!(
        failure.message.contains("died with SIGSEGV while loading"),
        "{}",
        failure.message
    );
    assert_eq!(report.coverage.compared, 0);
    assert!(report.bench.is_none() && report.generation.is_none());
}
