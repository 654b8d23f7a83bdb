//! The ledger of known deviations. A deliberate fault is the deviation.

use reports::model::{AtFault, KnownState, Role, Source, Status};

use super::wrong::{doctored, example, interpreter, run_doctored_as};
use super::*;

const FAULT: &str = "silu:ffn_act:4";

/// Everything that the fault changes: the stage, and what a user gets. It is the candidate's.
const STAGE: &str = "tap = 'ffn_act'\nlayer = 4\nmode = 'isolated'\n";
const LOGITS: &str = "tap = 'logits'\nmode = 'cumulative'\n";
const GENERATION: &str = "tap = 'generation'\n";

fn ledger(scratch: &Scratch, entries: &[&str]) -> String {
    let file = scratch.path("known.toml");
    let or = |entry: &str, key: &str, line: &str| match entry.contains(key) {
        true => String::new(),
        false => format!("{line}\n"),
    };
    let text: String = entries
        .iter()
        .map(|entry| {
            let parts = [
                "[[deviation]]\nreason = 'demo'\nlink = 'https://example.org/1'\n",
                entry,
                &or(entry, "expires", "expires = '9999-12-31'"),
                &or(entry, "at_fault", "at_fault = 'candidate'"),
                &match entry.contains("generation") {
                    true => String::new(),
                    false => or(entry, "ceiling", "ceiling = inf"),
                },
            ];
            parts.concat()
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
    let [finding] = findings(&report)[..] else {
        panic!("{:#?}", report.verdict.reasons);
    };
    let reason = &finding.text;
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
        (
            &["tap = 'q'\nreference = 'bitnet_cpp'\nexpires = '2020-01-01'\n"],
            "number 1, q: unknown engine \"bitnet_cpp\"",
        ),
        (
            &["tap = 'q'\narchitecture = 'llama'\ncandidate = 'rusty'\n"],
            "unknown engine \"rusty\"",
        ),
        (&["tap = 'q'\nceiling = 0.0\n"], "above 0"),
        (&["tap = 'q'\nat_fault = 'nobody'\n"], "nobody"),
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

/// What a doctored engine in a role and the Rust engine in the other make of a ledger.
fn run_doctored_with(
    role: Role,
    changes: &[(&str, &str)],
    entries: &[&str],
) -> Option<(i32, Report)> {
    let scratch = Scratch::new();
    let known = ledger(&scratch, entries);
    run_doctored_as(
        role,
        changes,
        &["--no-bench", "--n-predict", "0", "--known", &known],
    )
}

/// In what an entry says of the reference, a candidate may not hide.
#[test]
fn an_entry_excuses_the_engine_that_it_names_and_no_other() {
    let down = "h = tap(\"ffn_down\", i, apply(w[\"ffn_down\"], h))";
    let wrong = |factor: &str| down.replace("apply(w[\"ffn_down\"], h)", factor);
    let everywhere = wrong("apply(w[\"ffn_down\"], h) * f32(1.3)");
    for role in Role::BOTH {
        let (named, other) = match role {
            Role::Reference => ("reference", "candidate"),
            Role::Candidate => ("candidate", "reference"),
        };
        let entries = |at_fault: &str| {
            let entry = |tap: &str| format!("tap = '{tap}'\nat_fault = '{at_fault}'\n");
            [entry("ffn_down"), entry("logits")]
        };
        let run = |at_fault: &str| {
            let [down_entry, logits] = &entries(at_fault);
            run_doctored_with(role, &[(down, &everywhere)], &[down_entry, logits])
        };
        let Some((code, report)) = run(named) else {
            return;
        };
        assert_eq!(code, 0, "{:#?}", report.verdict);
        assert_eq!(report.known[0].judged, report.known[0].rows);
        let Some((code, report)) = run(other) else {
            return;
        };
        assert_eq!(code, 10);
        assert_eq!(report.known[0].state, KnownState::Refused);
        let findings = &report.verdict.findings;
        let known = findings.iter().find(|f| f.source == Source::Known);
        let known = known.expect("a finding of the ledger");
        assert_eq!(known.role(), Some(role));
        let says = format!("it excuses the {other}; the {named} is at fault at position 0");
        assert!(known.text.contains(&says), "{}", known.text);
        let first = report.verdict.first_divergence.expect("a divergence");
        assert_eq!((first.tap.as_str(), first.position), ("ffn_down", 0));
    }
}

/// Both wrong at the same stage, the candidate at one position alone.
#[test]
fn a_second_fault_at_other_positions_of_the_same_tap_is_found() {
    let Some(interpreter) = interpreter() else {
        return;
    };
    let scratch = Scratch::new();
    let down = "h = tap(\"ffn_down\", i, apply(w[\"ffn_down\"], h))";
    let source = std::fs::read_to_string(example("worker.py")).expect("the worker");
    assert!(source.contains(down));
    let engine = |name: &str, wrong: &str| {
        let product = format!("apply(w[\"ffn_down\"], h) * {wrong}");
        let source = source.replace(down, &down.replace("apply(w[\"ffn_down\"], h)", &product));
        let program = scratch.path(name);
        std::fs::write(&program, source).expect("a worker");
        let (python, program) = (interpreter.display(), program.display());
        scratch.engine(
            &format!("{name}.sh"),
            &format!("exec '{python}' '{program}'"),
        )
    };
    let reference = engine(
        "reference.py",
        "np.where(positions == 1, 1, 2)[:, None].astype(f32)",
    );
    let candidate = engine(
        "candidate.py",
        "np.where(positions == 6, 1.3, 1)[:, None].astype(f32)",
    );
    let known = ledger(
        &scratch,
        &[
            "tap = 'ffn_down'\nat_fault = 'reference'\n",
            "tap = 'logits'\nat_fault = 'reference'\n",
        ],
    );
    let engines = ["--reference", &reference, "--candidate", &candidate];
    let tokens = ["--tokens", "1,2,3,4,5,6,7,8"];
    let more = ["--no-bench", "--n-predict", "0", "--known", &known];
    let (code, report, _) = run(Path::new(TINY), &[&engines[..], &tokens, &more].concat());
    assert_eq!((code, report.known[0].state), (10, KnownState::Refused));
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains("it excuses the reference; the candidate is at fault at position 6 of"),
        "{reasons}"
    );
    assert_eq!(report.verdict.at_fault, AtFault::Both);
    let first = report
        .verdict
        .first_divergence
        .expect("the one not excused");
    assert_eq!((first.tap.as_str(), first.position), ("ffn_down", 6));
}

#[test]
fn nothing_above_the_ceiling_is_excused() {
    let stage = STAGE.to_owned() + "ceiling = 1e-9\n";
    let (code, report, states) = run_with(&[&stage, LOGITS, GENERATION], Some(FAULT));
    assert_eq!((code, states[0]), (10, KnownState::Refused));
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains("is above its ceiling of 1.0e-9"),
        "{reasons}"
    );
}

/// Tokens that differ are excused for who is at fault there.
#[test]
fn generation_is_excused_for_the_engine_at_fault_alone() {
    let of_reference = GENERATION.to_owned() + "at_fault = 'reference'\n";
    let (code, report, states) = run_with(&[STAGE, LOGITS, &of_reference], Some(FAULT));
    assert_eq!((code, states[2]), (10, KnownState::Refused));
    assert_eq!(report.verdict.at_fault, AtFault::Candidate);
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains("it excuses the reference; the candidate is at fault where the tokens"),
        "{reasons}"
    );
}

#[test]
fn an_entry_for_both_is_not_borne_out_by_one() {
    let both = STAGE.to_owned() + "at_fault = 'both'\n";
    let (code, report, states) = run_with(&[&both, LOGITS, GENERATION], Some(FAULT));
    assert_eq!((code, states[0]), (10, KnownState::Refused));
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains("it excuses the reference, which is not found at fault"),
        "{reasons}"
    );
}

/// The overflow of the reference, with a candidate that is wrong at the same place.
#[cfg(all(feature = "reference", target_arch = "x86_64"))]
#[test]
fn the_overflow_of_the_reference_hides_no_candidate() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        skip("without AVX2 the reference has other kernels");
        return;
    }
    let scratch = Scratch::new();
    let overflow = ["--stress", "i16-overflow", "--layers", "2"];
    let model = synth(&scratch, "bitnet-b1.58", &overflow);
    let known = ledger(
        &scratch,
        &[
            "tap = 'ffn_down'\nat_fault = 'reference'\nreference = 'bitnet.cpp'\n",
            "tap = 'logits'\nat_fault = 'reference'\nreference = 'bitnet.cpp'\n",
        ],
    );
    let more = ["--no-bench", "--n-predict", "0", "--known", &known];
    let (code, report, _) = run(&model, &more);
    assert_eq!(code, 0, "{:#?}", report.verdict);
    let down = "h = tap(\"ffn_down\", i, apply(w[\"ffn_down\"], h)";
    let Some(candidate) = doctored(&scratch, &[(down, &format!("{down} * f32(1.3)"))]) else {
        return;
    };
    let (code, report, _) = run(&model, &[&more[..], &["--candidate", &candidate]].concat());
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Both));
    let reasons = report.verdict.reasons.join("\n");
    assert!(reasons.contains("the candidate is at fault"), "{reasons}");
}
