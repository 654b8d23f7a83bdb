//! Engines that differ from themselves, or from the other on a text.

use reports::model::{AtFault, Source};

use super::*;

/// The logits, as the example computes them.
const LOGITS: &str = "return tap(\"logits\", None, apply(m.output, h))";

/// A worker knows its number of threads.
const THREADS: (&str, &str) = (
    "self.session = Session(self.model, n_ctx)",
    "self.session = Session(self.model, n_ctx); self.session.threads = threads",
);

fn at_fault(role: Role) -> AtFault {
    role.of(AtFault::Reference, AtFault::Candidate)
}

/// That the run is red, names an engine, and says so.
fn assert_blames(what: &str, (code, report): &(i32, Report), role: Role, says: &str) {
    let verdict = &report.verdict;
    assert_eq!(*code, 10, "{what}: {:#?}", verdict.reasons);
    assert_eq!(verdict.at_fault, at_fault(role), "{what}: {verdict:#?}");
    let reasons = verdict.reasons.join("\n");
    assert!(reasons.contains(says), "{what}: {reasons}");
}

/// Whether a finding of noise names the engine.
fn noisy(report: &Report, role: Role) -> bool {
    let mut findings = report.verdict.findings.iter();
    findings.any(|f| f.source == Source::Noise && f.role() == Some(role))
}

#[test]
fn an_engine_whose_logits_depend_on_the_threads() {
    let by = |change: &str| {
        format!(
            "x = apply(m.output, h)\n        if self.threads == 2: {change}\n        \
             return tap(\"logits\", None, x)"
        )
    };
    for change in [
        "x[:, ::2] *= 0.1",
        // A tenth of one half of the vocabulary.
        "x[:, ::2] *= 0.9",
        // One position.
        "x[-1] = np.roll(x[-1], 1)",
        "x = x.astype(f32) + f32(0.5)",
    ] {
        let change = by(change);
        for role in Role::BOTH {
            let changes = [THREADS, (LOGITS, change.as_str())];
            let Some(run) = run_doctored_as(role, &changes, &["--no-bench"]) else {
                return;
            };
            assert_blames(&change, &run, role, "differs from itself, threads 1 and 2");
            assert!(noisy(&run.1, role));
        }
    }
}

#[test]
fn an_engine_that_withholds_logits_with_more_threads() {
    let withheld = (
        "if name not in taps:",
        "if name not in taps or (name == \"logits\" and self.session.threads == 2):",
    );
    for role in Role::BOTH {
        let Some(run) = run_doctored_as(role, &[THREADS, withheld], &["--no-bench"]) else {
            return;
        };
        assert_blames(
            "withheld",
            &run,
            role,
            "differs from itself, threads 1 and 2",
        );
    }
}

/// A prompt of five tokens and the eight that follow are one batch of 13.
#[test]
fn an_engine_that_loses_a_head_in_batches_of_9_to_16() {
    let lost = (
        "        return np.einsum(\"tkgp,pkd->tkgd\", probs, v).reshape(n, -1).astype(f32)",
        "        out = np.einsum(\"tkgp,pkd->tkgd\", probs, v)\n        if 9 <= n <= 16: out[:, 0, 0] = 0\n        \
         return out.reshape(n, -1).astype(f32)",
    );
    for role in Role::BOTH {
        let more = [
            "--no-bench",
            "--n-predict",
            "4",
            "--tokens",
            "1,403,407,261,378",
        ];
        let Some(run) = run_doctored_as(role, &[lost], &more) else {
            return;
        };
        assert_blames(
            "lost head",
            &run,
            role,
            "one by one and as part of the prompt",
        );
    }
}

/// The reference's noise would let the candidate's fault pass.
#[test]
fn a_reference_at_fault_covers_no_candidate_at_fault() {
    let noisy_threads = format!(
        "x = apply(m.output, h)\n        if self.threads == 2: x[:, ::2] *= 0.1\n        {}",
        "return tap(\"logits\", None, x)"
    );
    let wrong =
        "x = apply(m.output, h)\n        x[:, ::2] *= 0.7\n        return tap(\"logits\", None, x)";
    let scratches = [Scratch::new(), Scratch::new()];
    let reference = doctored(&scratches[0], &[THREADS, (LOGITS, &noisy_threads)]);
    let Some(reference) = reference else {
        return;
    };
    let candidate = doctored(&scratches[1], &[(LOGITS, wrong)]).expect("a worker");
    let engines = ["--reference", &reference, "--candidate", &candidate];
    let more = ["--tokens", "1,403,407,261,378", "--n-predict", "4"];
    let modes = ["--mode", "cumulative", "--no-bench"];
    let args = [&engines[..], &more, &modes].concat();
    let (code, report, _) = run(Path::new(TINY), &args);
    let verdict = &report.verdict;
    assert_eq!(code, 10, "{:#?}", verdict.reasons);
    assert_eq!(verdict.at_fault, AtFault::Both, "{verdict:#?}");
    assert!(noisy(&report, Role::Reference));
    let reasons = verdict.reasons.join("\n");
    assert!(reasons.contains("1 tap beyond the limit"), "{reasons}");
}

#[test]
fn an_engine_that_is_right_on_a_text() {
    let scratch = Scratch::new();
    let text = perplexity::text(&scratch, 2400);
    for role in Role::BOTH {
        let more = [&["--text", text.as_str()][..], &perplexity::QUICK].concat();
        let Some((code, report)) = run_doctored_as(role, &[], &more) else {
            return;
        };
        assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
        let p = report.perplexity.expect("a perplexity");
        assert!(p.worst_nmse.expect("finite") < 1e-3);
        assert!(
            p.near_ties
                .is_some_and(|share| share <= 1.0 - p.top1_agreement)
        );
    }
}

/// The fault shows only in a text: drawn at random, no token comes that often.
#[test]
fn an_engine_that_reads_a_text_wrongly() {
    let scratch = Scratch::new();
    let text = perplexity::text(&scratch, 2400);
    let cases = [
        ("x *= 4", "negative log-likelihood"),
        ("x = np.roll(x, 1, axis=1)", "same most likely token"),
        ("x[:, ::2] *= 0.7", "mean KL"),
        // The likeliest tokens alone.
        ("x[np.arange(len(x)), x.argmax(1)] -= 2", "mean KL"),
        // One position of a window, which the means hardly show.
        (
            "x[np.arange(first, end) == 200] *= 1.5",
            "worst row of logits",
        ),
    ];
    for (change, says) in cases {
        let change = format!(
            "x = apply(m.output, h)\n        \
             if first == 0: self.text = np.bincount(tokens).max() > 9\n        if self.text: {change}\n        \
             return tap(\"logits\", None, x)"
        );
        for (role, chunks) in [(Role::Candidate, "2"), (Role::Reference, "1")] {
            let text = ["--text", text.as_str(), "--chunks", chunks];
            let more = [&text[..], &perplexity::QUICK].concat();
            let Some((code, report)) = run_doctored_as(role, &[(LOGITS, &change)], &more) else {
                return;
            };
            let verdict = &report.verdict;
            assert_eq!(code, 10, "{change}: {:?}", report.perplexity);
            let at_fault = role.of(AtFault::Reference, AtFault::Candidate);
            assert_eq!(verdict.at_fault, at_fault);
            let [finding] = findings(&report)[..] else {
                panic!("{change}: {:#?}", verdict.reasons);
            };
            let reason = &finding.text;
            assert!(reason.contains("read the text differently"), "{reason}");
            assert!(reason.contains(says), "{change}: {reason}");
        }
    }
}
