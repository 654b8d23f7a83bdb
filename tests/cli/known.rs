//! The ledger of known deviations. A deliberate fault is the deviation.

use reports::model::{KnownState, Status};

use super::*;

const FAULT: &str = "silu:ffn_act:4";

/// Everything that the fault changes: the stage, and what a user gets.
const STAGE: &str = "tap = 'ffn_act'\nlayer = 4\nmode = 'isolated'\n";
const LOGITS: &str = "tap = 'logits'\nmode = 'cumulative'\n";
const GENERATION: &str = "tap = 'generation'\n";

fn ledger(scratch: &Scratch, entries: &[&str]) -> String {
    let file = scratch.path("known.toml");
    let why = "reason = 'demo'\nlink = 'https://example.org/1'\n";
    let text: String = entries
        .iter()
        .map(|entry| match entry.contains("expires") {
            true => format!("[[deviation]]\n{entry}{why}"),
            false => format!("[[deviation]]\n{entry}{why}expires = '9999-12-31'\n"),
        })
        .collect();
    std::fs::write(&file, text).expect("a ledger");
    file.to_str().expect("UTF-8").to_owned()
}

/// The faulty engine against the right one, with these entries.
fn run_with(entries: &[&str], fault: Option<&str>) -> (i32, Report, Vec<KnownState>) {
    let scratch = Scratch::new();
    let known = ledger(&scratch, entries);
    let mut args = vec!["--reference", "rust", "--no-bench", "--known", &known];
    args.extend(fault.iter().flat_map(|fault| ["--fault", fault]));
    let (code, report, _) = run(Path::new(TINY), &args);
    let states = report.known.iter().map(|k| k.state).collect();
    (code, report, states)
}

#[test]
fn a_run_whose_every_deviation_is_known_passes() {
    let (code, report, states) = run_with(&[STAGE, LOGITS, GENERATION], Some(FAULT));
    assert_eq!(
        (code, report.verdict.status),
        (0, Status::Pass),
        "{:#?}",
        report.verdict.reasons
    );
    assert_eq!(states, [KnownState::Matched; 3]);
    let first = report.verdict.first_divergence.expect("the known one");
    assert_eq!((first.tap.as_str(), first.layer), ("ffn_act", Some(4)));
    assert_eq!(report.known[0].expires, "9999-12-31");
}

#[test]
fn what_no_entry_names_still_fails() {
    let (code, report, states) = run_with(&[STAGE, LOGITS], Some(FAULT));
    assert_eq!(code, 10);
    assert_eq!(states, [KnownState::Matched; 2]);
    let [reason] = &report.verdict.reasons[..] else {
        panic!("{:#?}", report.verdict.reasons);
    };
    assert!(reason.contains("generation from prompt 0"), "{reason}");

    let (code, report, _) = run_with(&[LOGITS, GENERATION], Some(FAULT));
    assert_eq!(code, 10);
    assert!(
        report.verdict.reasons[0].starts_with("1 tap beyond the limit"),
        "{:#?}",
        report.verdict.reasons
    );
    let first = report.verdict.first_divergence.expect("the unknown one");
    assert_eq!((first.tap.as_str(), first.layer), ("ffn_act", Some(4)));
}

#[test]
fn the_first_unknown_divergence_is_named_before_a_known_one() {
    let every_layer = "tap = 'ffn_act'\n";
    let (code, report, _) = run_with(&[every_layer, GENERATION], Some(FAULT));
    assert_eq!(code, 10);
    let first = report.verdict.first_divergence.expect("one");
    assert_eq!((first.tap.as_str(), first.layer), ("logits", None));
}

#[test]
fn an_entry_that_did_not_occur_fails_the_run() {
    let (code, report, states) = run_with(&[STAGE], None);
    assert_eq!((code, states), (10, vec![KnownState::Unmatched]));
    let reason = &report.verdict.reasons[0];
    assert!(
        reason.contains("layer 4, ffn_act") && reason.contains("remove it"),
        "{reason}"
    );
    assert!(report.verdict.first_divergence.is_none());
}

#[test]
fn an_expired_entry_excuses_nothing_and_fails() {
    let expired = format!("{STAGE}expires = '2020-01-01'\n");
    let (code, report, states) = run_with(&[&expired, LOGITS, GENERATION], Some(FAULT));
    assert_eq!((code, states[0]), (10, KnownState::Expired));
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains("1 tap beyond the limit")
            && reasons.contains("expired after 2020-01-01")
            && reasons.contains("https://example.org/1"),
        "{reasons}"
    );
}

#[test]
fn entries_for_other_models_and_engines_are_left_out() {
    let others = [
        "tap = 'ffn_act'\narchitecture = 'llama'\n",
        "tap = 'ffn_act'\nreference = 'bitnet.cpp'\n",
        "tap = 'ffn_act'\ncandidate = 'exec:/other'\n",
    ];
    let (code, report, _) = run_with(&others, None);
    assert_eq!((code, report.known), (0, vec![]));
}

#[test]
fn mistakes_in_the_file_end_the_run_before_it_starts() {
    let scratch = Scratch::new();
    for (entries, says) in [
        (&["tap = 'ffn_akt'\n"][..], "ffn_akt"),
        (&["tap = 'q'\n", "tap = 'q'\n"], "repeats number 1"),
        (&["tap = 'q'\nexpires = '31.1.2027'\n"], "31.1.2027"),
    ] {
        let known = ledger(&scratch, entries);
        let out = scratch.path("out");
        let output = crossval(&[
            "run",
            "--model",
            TINY,
            "--known",
            &known,
            "--out",
            out.to_str().expect("UTF-8"),
        ]);
        assert_eq!(exit_code(&output), 65);
        let stderr = stderr(&output);
        assert!(
            stderr.contains("known.toml") && stderr.contains(says),
            "{stderr}"
        );
        assert!(!out.exists());
    }
}
