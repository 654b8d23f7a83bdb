//! Faults that need a batch size, a position, a path or a history to show.

use reports::model::{AtFault, Finding, Source};

use super::*;

/// The logits, as the example computes them; `x` in what a test puts in their place.
const LOGITS: &str = "return tap(\"logits\", None, apply(m.output, h))";

/// A worker knows how it was configured, how often, and what it has been asked.
const CONFIGURED: (&str, &str) = (
    "self.session = Session(self.model, n_ctx)",
    "self.configured = getattr(self, 'configured', 0) + 1\n        \
     self.session = Session(self.model, n_ctx)\n        \
     self.session.observe, self.session.n_ubatch = observe, n_ubatch\n        \
     self.session.configured = self.configured",
);

/// An evaluation that goes wrong on a condition in Python. `n` is the number of tokens, `first` the position.
fn wrong_if(condition: &str, wrong: &str) -> String {
    format!(
        "x, n = apply(m.output, h), len(tokens)\n        \
         if {condition}: {wrong}\n        \
         return tap(\"logits\", None, x)"
    )
}

/// The finding about conditions that names an engine, or none if no role is given.
fn finding(report: &Report, role: Option<Role>) -> Option<&Finding> {
    let mut findings = report.verdict.findings.iter();
    findings.find(|f| f.source == Source::Conditions && f.role() == role)
}

/// That the conditions turn the run red, name the engine, and say so.
fn assert_found(what: &str, (code, report): &(i32, Report), role: Role, says: &str) {
    let verdict = &report.verdict;
    assert_eq!(*code, 10, "{what}: {:#?}", verdict.reasons);
    let at_fault = role.of(AtFault::Reference, AtFault::Candidate);
    assert_eq!(verdict.at_fault, at_fault, "{what}: {:#?}", verdict.reasons);
    let found = finding(report, Some(role)).unwrap_or_else(|| panic!("{what}: {verdict:#?}"));
    assert!(found.text.contains(says), "{what}: {}", found.text);
}

fn assert_each_found(role: Role, faults: &[(&str, &str, &str)]) {
    for &(condition, wrong, says) in faults {
        let wrong = wrong_if(condition, wrong);
        let changes = [CONFIGURED, (LOGITS, wrong.as_str())];
        let more = ["--no-bench", "--n-predict", "4", "--tokens", "1,403,407"];
        let Some(run) = run_doctored_as(role, &changes, &more) else {
            return;
        };
        assert_found(condition, &run, role, says);
    }
}

const HALVED: &str = "x[:, ::2] *= 0.5";

#[test]
fn batches_of_some_sizes() {
    let faults = [
        ("2 <= n <= 5 and n != 3", HALVED, "a batch of 2-8"),
        ("n > 128", HALVED, "a batch of above 128"),
        // One row of many.
        ("9 <= n <= 32", "x[n // 2] = x[0]", "a batch of 9-32"),
        ("33 <= n <= 128", "x += f32(1.5)", "a batch of 33-128"),
    ];
    assert_each_found(Role::Candidate, &faults);
    assert_each_found(Role::Reference, &faults[..2]);
}

#[test]
fn positions_that_a_prompt_does_not_reach() {
    // It is always so there, and no engine differs from itself: the oracle is asked.
    let far = (
        "True",
        "x[positions >= 200, ::2] *= 0.5",
        "the oracle finds the",
    );
    for role in Role::BOTH {
        assert_each_found(role, &[far]);
    }
    // Where batches start and end is another matter.
    let faults = [
        ("first >= 200", HALVED, "in the last quarter"),
        ("end > 200", "x[-1] = np.roll(x[-1], 1)", "not its own"),
    ];
    assert_each_found(Role::Candidate, &faults);
}

#[test]
fn contexts_that_a_prompt_does_not_need() {
    let context = "self.cache[0].shape[1]";
    for role in Role::BOTH {
        let large = format!("{context} > 64");
        assert_each_found(role, &[(&large, HALVED, "not its own")]);
    }
}

#[test]
fn a_worker_with_a_history() {
    let count = "setattr(Session, 'count', getattr(Session, 'count', 0) + 1) or Session.count";
    let [late, later] = [30, 100].map(|n| format!("({count}) >= {n}"));
    let faults = [
        (late.as_str(), HALVED, "not its own"),
        (later.as_str(), HALVED, "not its own"),
        ("self.configured > 2", HALVED, "not its own"),
    ];
    assert_each_found(Role::Candidate, &faults);
    assert_each_found(Role::Reference, &faults[1..2]);
}

#[test]
fn an_engine_that_was_not_told_that_it_is_observed() {
    for role in Role::BOTH {
        assert_each_found(role, &[("not self.observe", HALVED, "unobserved")]);
    }
}

/// What the worker answers with the last logits.
const LAST: &str = "self.send(\"evaluated\", logits[-1].tobytes() if last_logits else b\"\")";

#[test]
fn last_logits_that_are_others_than_those_tapped() {
    let sent = |change: &str| format!("{change}\n        {LAST}");
    for (change, says) in [
        (
            "if not taps: logits = logits * f32(1.7) + f32(3)",
            "last logits",
        ),
        ("if taps: logits = logits * f32(0.5)", "taps,"),
        (
            "if len(tokens) > 8 and last_logits: logits = logits[:-1]",
            "last logits",
        ),
        (
            "if first_position >= 100 and not taps: logits = -logits",
            "last logits",
        ),
    ] {
        let change = sent(change);
        for role in Role::BOTH {
            let more = ["--no-bench", "--n-predict", "0", "--tokens", "1,403,407"];
            let Some(run) = run_doctored_as(role, &[(LAST, &change)], &more) else {
                return;
            };
            assert_found(&change, &run, role, says);
        }
    }
}

/// The logits of an engine that halves them, and gives back what it was handed for the same tokens before.
#[test]
fn an_engine_that_echoes_what_it_was_handed() {
    let echo = (
        "return self.send_tap(name, layer, first_position, values, overwrite)",
        "key = (first_position, tuple(tokens))\n            \
         if name == 'logits' and not overwrite:\n                \
         values = ECHO.get(key, values * f32(0.5))\n            \
         values = self.send_tap(name, layer, first_position, values, overwrite)\n            \
         if name == 'logits' and overwrite: ECHO[key] = values\n            \
         return values",
    );
    let store = ("class Worker:\n", "ECHO = {}\n\n\nclass Worker:\n");
    let more = ["--no-bench", "--n-predict", "0", "--tokens", "1,403,407"];
    let Some(run) = run_doctored_as(Role::Candidate, &[echo, store], &more) else {
        return;
    };
    assert_found("echo", &run, Role::Candidate, "asked the same again");
    let of_taps = run.1.verdict.findings.iter();
    assert!(
        of_taps.clone().all(|f| f.source != Source::Taps),
        "the echo hides it"
    );
}

/// Positions of a longer prompt before are seen by a shorter one.
#[test]
fn a_cache_that_is_not_cleared() {
    let stale = (
        "probs = tap(\"attn_probs\", i, self.probabilities(q, keys[:end], positions))",
        "probs = self.probabilities(q, keys[:end], positions)\n            \
         self.most = max(getattr(self, 'most', 0), end)\n            \
         if self.most > end + 60: probs[:, 0] *= f32(0.5)\n            \
         probs = tap(\"attn_probs\", i, probs)",
    );
    for role in Role::BOTH {
        let more = ["--no-bench", "--n-predict", "0", "--tokens", "1,403,407"];
        let Some(run) = run_doctored_as(role, &[stale], &more) else {
            return;
        };
        assert_found("stale", &run, role, "not its own");
    }
}

#[test]
fn a_prompt_that_the_engine_cuts_itself() {
    let generated = (
        "logits = self.session.evaluate(tokens)\n",
        "logits = self.session.evaluate(tokens)\n        \
         if len(tokens) > self.session.n_ubatch: logits = np.roll(logits, 1)\n",
    );
    for role in Role::BOTH {
        let more = ["--no-bench", "--n-predict", "0", "--tokens", "1,403,407"];
        let Some(run) = run_doctored_as(role, &[CONFIGURED, generated], &more) else {
            return;
        };
        assert_found("cut", &run, role, "than its own logits say");
    }
}

#[test]
fn rows_that_are_withheld_or_not_finite() {
    const ASKED: &str = "if seq_id != 0:";
    let withheld = format!("if len(tokens) > 128: taps = []\n        {ASKED}");
    let nan = wrong_if("2 <= n <= 4", "x[0] = np.nan");
    let more = [
        "--no-bench",
        "--n-predict",
        "0",
        "--tokens",
        "1,403,407,5,6,7",
    ];
    for role in Role::BOTH {
        let Some((code, report)) = run_doctored_as(role, &[(ASKED, &withheld)], &more) else {
            return;
        };
        let found = finding(&report, Some(role)).expect("a finding");
        assert_eq!(code, 20, "{:#?}", report.verdict.reasons);
        assert!(
            found.text.contains("a batch of above 128"),
            "{}",
            found.text
        );
        let Some(run) = run_doctored_as(role, &[(LOGITS, &nan)], &more) else {
            return;
        };
        assert_found("NaN", &run, role, "a batch of 2-8");
    }
}

/// What a run compares by default on a small model, and says so.
#[test]
fn a_run_says_what_it_covers() {
    let more = ["--reference", "rust", "--no-bench", "--n-predict", "4"];
    let (code, report, text) = run(Path::new(TINY), &more);
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    let conditions = report.conditions.expect("conditions");
    assert_eq!(conditions.largest_position, Some(255));
    assert_eq!(conditions.largest_context, Some(256));
    assert!(conditions.largest_batch > Some(128) && conditions.smallest_context < Some(256));
    assert!(conditions.evaluations >= 100, "{}", conditions.evaluations);
    let seen = |batch: &str| {
        conditions
            .compared
            .iter()
            .any(|c| c.batch == batch && c.rows > 0)
    };
    for batch in ["1", "2-8", "9-32", "33-128", "above 128", "above n_ubatch"] {
        assert!(seen(batch), "{batch}");
    }
    assert!(text.contains("conditions"), "{text}");

    let (code, report, _) = run(
        Path::new(TINY),
        &[&more[..], &["--mode", "isolated"]].concat(),
    );
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    let conditions = report.conditions.expect("conditions");
    assert!(conditions.compared.is_empty());
    assert_eq!(
        conditions.not_compared.as_deref(),
        Some("cumulative mode was not asked for")
    );
}

#[test]
fn a_thorough_run_leaves_nothing_out() {
    let more = [
        "--reference",
        "rust",
        "--no-bench",
        "--n-predict",
        "4",
        "--thorough",
    ];
    let (code, report, _) = run(Path::new(TINY), &more);
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    let conditions = report.conditions.expect("conditions");
    assert!(conditions.left_out.is_empty(), "{:?}", conditions.left_out);
}

/// A model of which a quarter of the comparison's time does not suffice for everything.
#[test]
fn a_sample_of_a_large_model_says_what_it_leaves_out() {
    let scratch = Scratch::new();
    let shape = [
        "--layers", "4", "--embd", "768", "--heads", "6", "--ffn", "2048", "--ctx", "2048",
    ];
    let model = synth(&scratch, "bitnet", &shape);
    let more = [
        "--reference",
        "rust",
        "--no-bench",
        "--n-predict",
        "0",
        "--tokens",
        "1,2,3",
    ];
    let (code, report, _) = run(&model, &more);
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    let conditions = report.conditions.expect("conditions");
    let left_out = conditions.left_out.join("\n");
    assert!(left_out.contains("to 2047"), "{left_out}");
    for batch in ["2-8", "9-32", "above n_ubatch"] {
        let mut compared = conditions.compared.iter();
        assert!(compared.any(|c| c.batch == batch && c.rows > 0), "{batch}");
    }
}
