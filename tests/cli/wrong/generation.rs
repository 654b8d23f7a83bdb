//! Engines that generate what their own logits do not say.

use reports::model::{AtFault, Finding, GenerationCheck, Source};

use super::*;

/// How the example picks a token.
const PICK: &str = "generated.append(int(logits[-1].argmax()))  # the first of equals";

/// The logits, as the example computes them.
const LOGITS: &str = "return tap(\"logits\", None, apply(m.output, h))";

/// Logits as far off as any engine's may be: the tokens of near ties differ, honestly.
const BLURRED: &str = "return tap(\"logits\", None, apply(m.output, h) + f32(0.08) * np.cos(np.arange(m.n_vocab) * 7).astype(f32))";

/// Near ties occur from this prompt.
const PROMPT: [&str; 2] = ["--prompt", "The"];

const CUMULATIVE: [&str; 3] = ["--no-bench", "--mode", "cumulative"];

fn at_fault(role: Role) -> AtFault {
    role.of(AtFault::Reference, AtFault::Candidate)
}

/// What the checks of an engine's tokens say, prompt by prompt.
fn checks(report: &Report, role: Role) -> Vec<&GenerationCheck> {
    let first = report.generation.as_ref().expect("a generation");
    let all = [first].into_iter().chain(&first.further);
    let checks = all.flat_map(|g| &g.checks);
    checks.filter(|check| check.role == role).collect()
}

/// That an engine is found to contradict itself.
fn assert_contradicts(what: &str, (code, report): &(i32, Report), role: Role) {
    let verdict = &report.verdict;
    assert_eq!(*code, 10, "{what}: {:#?}", verdict.reasons);
    assert_eq!(verdict.at_fault, at_fault(role), "{what}: {verdict:#?}");
    let mut findings = verdict.findings.iter();
    let own = findings.find(|f| f.source == Source::Generation && f.role() == Some(role));
    let own = own.unwrap_or_else(|| panic!("{what}: {verdict:#?}"));
    assert!(
        own.text.contains("contradicts its own logits"),
        "{}",
        own.text
    );
    assert!(
        own.place
            .as_ref()
            .is_some_and(|place| place.prompt.is_some())
    );
}

fn near_tie(report: &Report) -> Option<usize> {
    let generation = report.generation.as_ref()?;
    let mismatch = generation.first_mismatch.as_ref()?;
    mismatch.near_tie.then_some(mismatch.index)
}

#[test]
fn engines_that_part_at_a_near_tie_are_checked_to_the_end() {
    for role in Role::BOTH {
        let more = [&PROMPT[..], &CUMULATIVE].concat();
        let Some((code, report)) = run_doctored_as(role, &[(LOGITS, BLURRED)], &more) else {
            return;
        };
        // The oracle judges the logits themselves, and by a limit of its own.
        let mut findings = findings(&report).into_iter();
        let of_logits = |f: &Finding| f.source == Source::Oracle && f.role() == Some(role);
        assert!(
            code == 10 && findings.all(of_logits),
            "{:#?}",
            report.verdict
        );
        assert!(near_tie(&report).is_some(), "{:#?}", report.generation);
        for role in Role::BOTH {
            let [check] = checks(&report, role)[..] else {
                panic!("{:#?}", report.generation);
            };
            assert_eq!(
                (check.expected, check.checked, check.compared),
                (32, 32, 32)
            );
            assert!(check.contradicted.is_empty() && check.beyond.is_empty());
        }
    }
}

/// From the near tie on, the token that was second there.
#[test]
fn an_engine_that_emits_one_token_for_ever_behind_a_near_tie() {
    let stuck = "second, first = np.argsort(logits[-1])[-2:]\n            \
                 if not generated: stuck = None\n            \
                 if stuck is None and logits[-1][first] - logits[-1][second] < 0.1: stuck = int(second)\n            \
                 generated.append(int(first) if stuck is None else stuck)";
    for role in Role::BOTH {
        let more = [&PROMPT[..], &CUMULATIVE].concat();
        let changes = [(LOGITS, BLURRED), (PICK, stuck)];
        let Some(run) = run_doctored_as(role, &changes, &more) else {
            return;
        };
        assert!(near_tie(&run.1).is_some(), "{:#?}", run.1.generation);
        assert_contradicts("stuck", &run, role);
    }
}

/// The second token of a near tie, and nothing else: what follows is what follows from it.
#[test]
fn an_engine_that_takes_the_second_token_of_a_near_tie() {
    let second = "second, first = np.argsort(logits[-1])[-2:]\n            \
                  if not generated: once = True\n            \
                  tie = once and logits[-1][first] - logits[-1][second] < 0.1\n            \
                  once = once and not tie\n            \
                  generated.append(int(second if tie else first))";
    for role in Role::BOTH {
        let more = [&PROMPT[..], &CUMULATIVE].concat();
        let changes = [(LOGITS, BLURRED), (PICK, second)];
        let Some(run) = run_doctored_as(role, &changes, &more) else {
            return;
        };
        assert!(near_tie(&run.1).is_some(), "{:#?}", run.1.generation);
        assert_contradicts("second", &run, role);
        let [check] = checks(&run.1, role)[..] else {
            panic!("{:#?}", run.1.generation);
        };
        assert_eq!(check.contradicted.len(), 1);
    }
}

#[test]
fn an_engine_that_contradicts_its_logits_anywhere() {
    let token = |condition: &str| {
        format!("generated.append(66 if {condition} else int(logits[-1].argmax()))")
    };
    let cases = [
        ("from the 6th on", "len(generated) >= 5"),
        ("the last alone", "len(generated) == n_predict - 1"),
        ("the first alone", "not generated"),
        (
            "from longer prompts",
            "len(tokens) > 6 and len(generated) == 9",
        ),
    ];
    for (what, condition) in cases {
        let pick = token(condition);
        for role in Role::BOTH {
            let prompts = [
                "--prompt",
                "The",
                "--prompt",
                "One day a little girl named Lily went",
            ];
            let more = [&prompts[..], &["--no-bench", "--n-predict", "12"]].concat();
            let Some(run) = run_doctored_as(role, &[(PICK, &pick)], &more) else {
                return;
            };
            assert_contradicts(what, &run, role);
        }
    }
}

/// Two of a kind agree.
#[test]
fn two_engines_that_contradict_themselves_alike() {
    let scratches = [Scratch::new(), Scratch::new()];
    let pick = "generated.append(66 if len(generated) >= 5 else int(logits[-1].argmax()))";
    let Some(reference) = doctored(&scratches[0], &[(PICK, pick)]) else {
        return;
    };
    let candidate = doctored(&scratches[1], &[(PICK, pick)]).expect("a worker");
    let engines = ["--reference", &reference, "--candidate", &candidate];
    let more = [
        "--tokens",
        "1,403,407,261,378",
        "--n-predict",
        "8",
        "--no-bench",
    ];
    let (code, report, _) = run(Path::new(TINY), &[&engines[..], &more].concat());
    let verdict = &report.verdict;
    assert_eq!(
        (code, verdict.at_fault),
        (10, AtFault::Both),
        "{verdict:#?}"
    );
    let generation = report.generation.as_ref().expect("a generation");
    assert_eq!(generation.first_mismatch, None);
    for role in Role::BOTH {
        assert!(!checks(&report, role)[0].contradicted.is_empty());
    }
}

#[test]
fn an_engine_that_stops_early() {
    let stop = (
        "while len(generated) < n_predict:",
        "while len(generated) < min(n_predict, 9):",
    );
    for role in Role::BOTH {
        let more = ["--no-bench", "--n-predict", "12"];
        let Some((code, report)) = run_doctored_as(role, &[stop], &more) else {
            return;
        };
        let verdict = &report.verdict;
        assert_eq!(
            (code, verdict.at_fault),
            (10, at_fault(role)),
            "{verdict:#?}"
        );
        let reasons = verdict.reasons.join("\n");
        assert!(reasons.contains("generated 9 of 12 tokens"), "{reasons}");
    }
}

/// It is wrong behind the rows that are compared tap by tap, in its logits as in its tokens.
#[test]
fn an_engine_that_goes_wrong_behind_the_decode_steps() {
    let cases = [
        "x[np.arange(first, end) >= 18] *= -1",
        // No other token.
        "x[np.arange(first, end) == 20] *= 1.5",
    ];
    for change in cases {
        let change = format!(
            "x = apply(m.output, h)\n        {change}\n        return tap(\"logits\", None, x)"
        );
        for role in Role::BOTH {
            let more = [
                "--no-bench",
                "--n-predict",
                "20",
                "--tokens",
                "1,403,407,261,378",
            ];
            let Some((code, report)) = run_doctored_as(role, &[(LOGITS, &change)], &more) else {
                return;
            };
            let verdict = &report.verdict;
            assert_eq!(
                (code, verdict.at_fault),
                (10, at_fault(role)),
                "{verdict:#?}"
            );
            let reasons = verdict.reasons.join("\n");
            assert!(reasons.contains("of logits before the"), "{reasons}");
            let first = verdict.first_divergence.as_ref().expect("a divergence");
            assert!(first.tap == "logits" && first.position >= 18, "{first:#?}");
        }
    }
}

/// A trace whose last token is another.
#[test]
fn a_trace_that_contradicts_its_logits() {
    let scratch = Scratch::new();
    let trace = scratch.path("run.safetensors");
    let file = trace.to_str().expect("UTF-8");
    let prompt = ["--prompt", "The", "--n-predict", "12"];
    let record = [
        "record", "--model", TINY, "--engine", "rust", "--output", file,
    ];
    let output = crossval(&[&record[..], &prompt].concat());
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let engine = format!("trace:{file}");
    let run = |reference: &str, candidate: &str| {
        let engines = [
            "--reference",
            reference,
            "--candidate",
            candidate,
            "--no-bench",
        ];
        let (code, report, _) = run(Path::new(TINY), &[&engines[..], &prompt].concat());
        (code, report)
    };
    for (reference, candidate) in [(engine.as_str(), "rust"), ("rust", &engine)] {
        let (code, report) = run(reference, candidate);
        assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
        for role in Role::BOTH {
            let check = checks(&report, role)[0];
            assert_eq!((check.checked, check.compared), (12, 12));
        }
    }
    let mut bytes = std::fs::read(&trace).expect("a trace");
    let n = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + n]).expect("a header");
    let end = header["prompt0.generated"]["data_offsets"][1]
        .as_u64()
        .expect("an offset");
    let last = 8 + n + end as usize - 4;
    bytes[last..last + 4].copy_from_slice(&66_u32.to_le_bytes());
    std::fs::write(&trace, bytes).expect("a trace");
    assert_contradicts("reference", &run(&engine, "rust"), Role::Reference);
    assert_contradicts("candidate", &run("rust", &engine), Role::Candidate);
}
