//! Engines that compute the model in other floating-point arithmetic: right, at first contact, however long the prompt.

use reports::model::{AtFault, Finding, Source, Status};
use reports::outcome::Outcome;

use super::*;

const ANGLES: &str = "np.multiply.accumulate(factors, axis=1).astype(f64)[:, None]";

/// Not rounded at all.
const F64_ANGLES: (&str, &str) = (
    ANGLES,
    "(positions[:, None] * float(self.model.rope_base) ** (-np.arange(half) / half))[:, None]",
);

/// One power per pair, as in Hugging Face's transformers.
const F32_FREQUENCIES: (&str, &str) = (
    ANGLES,
    "(positions.astype(f32)[:, None] * (f32(1) / f32(self.model.rope_base) ** \
     (np.arange(0, 2 * half, 2).astype(f32) / f32(2 * half)))).astype(f64)[:, None]",
);

/// Frequencies in BF16, as a model that is cast as a whole has them: no arithmetic of f32 is that far off.
const BF16_FREQUENCIES: (&str, &str) = (
    ANGLES,
    "(positions.astype(f32)[:, None] * ((f32(self.model.rope_base) ** (-np.arange(half) / half).astype(f32))\
     .view(np.uint32) + np.uint32(1 << 15) & np.uint32(0xffff0000)).view(f32)).astype(f64)[:, None]",
);

const MEAN: &str = "(x * x).mean(axis=-1, keepdims=True)";

/// The squares are added up one by one in f32.
const SEQUENTIAL_SUM: (&str, &str) = (
    MEAN,
    "np.add.accumulate((x * x).astype(f32), axis=-1)[..., -1:].astype(f64) / x.shape[-1]",
);

/// The example worker with a change as the candidate, in isolated mode.
fn run_arithmetic(
    scratch: &Scratch,
    model: &Path,
    n: u32,
    changes: &[(&str, &str)],
) -> Option<(i32, Report, String)> {
    run_within(scratch, model, n, changes, "standard")
}

fn run_within(
    scratch: &Scratch,
    model: &Path,
    n: u32,
    changes: &[(&str, &str)],
    profile: &str,
) -> Option<(i32, Report, String)> {
    let doctored = doctored(scratch, changes)?;
    let tokens: Vec<String> = (0..n).map(|i| (i * 37 % 300).to_string()).collect();
    let tokens = tokens.join(",");
    let engines = ["--reference", "rust", "--candidate", &doctored];
    let more = ["--mode", "isolated", "--no-bench", "--n-predict", "2"];
    let limits = ["--profile", profile, "--tokens", &tokens];
    let args = [&engines[..], &more, &limits].concat();
    Some(run(model, &args))
}

fn note<'a>(report: &'a Report, says: &str) -> &'a Finding {
    let mut findings = report.verdict.findings.iter();
    let of_oracle = |f: &&Finding| f.source == Source::Oracle && f.text.contains(says);
    let found = findings.find(of_oracle);
    found.unwrap_or_else(|| panic!("no {says:?}: {:#?}", report.verdict))
}

#[test]
fn angles_of_other_arithmetic_are_no_fault() {
    let scratch = Scratch::new();
    let shape = ["--embd", "256", "--heads", "2", "--kv-heads", "1"];
    let wide_heads = synth(
        &scratch,
        "bitnet",
        &[&shape[..], &["--ctx", "512"]].concat(),
    );
    for (change, of_candidate) in [
        (F64_ANGLES, "in the candidate, nothing rounded"),
        (F32_FREQUENCIES, "in the candidate, angles in f32"),
    ] {
        for model in [Path::new(TINY), &wide_heads] {
            let Some((code, report, shown)) = run_arithmetic(&scratch, model, 130, &[change])
            else {
                return;
            };
            let verdict = &report.verdict;
            assert_eq!((code, verdict.status), (0, Status::Pass), "{shown}");
            assert_eq!(verdict.at_fault, AtFault::None);
            assert_eq!(verdict.first_divergence, None);
            let note = note(&report, of_candidate);
            assert_eq!(note.outcome, Outcome::Pass);
            assert!(
                note.text.contains("in the reference, angles in f32"),
                "{note:?}"
            );
        }
    }
}

#[test]
fn frequencies_that_f32_does_not_account_for_are_a_fault() {
    let scratch = Scratch::new();
    let run = run_arithmetic(&scratch, Path::new(TINY), 20, &[BF16_FREQUENCIES]);
    let Some((code, report, shown)) = run else {
        return;
    };
    let verdict = &report.verdict;
    assert_eq!(
        (code, verdict.at_fault),
        (10, AtFault::Candidate),
        "{shown}"
    );
    let first = verdict.first_divergence.as_ref().expect("a divergence");
    assert_eq!((first.tap.as_str(), first.position), ("q_rope", 1));
}

#[test]
fn squares_added_up_one_by_one_are_no_fault() {
    let scratch = Scratch::new();
    let shape = ["--ffn", "4096", "--layers", "2"];
    let model = synth(&scratch, "bitnet", &shape);
    let Some((code, report, shown)) = run_arithmetic(&scratch, &model, 30, &[SEQUENTIAL_SUM])
    else {
        return;
    };
    let verdict = &report.verdict;
    assert_eq!((code, verdict.at_fault), (0, AtFault::None), "{shown}");
    note(&report, "in the candidate, sums in f32");
}

/// The sum's error is one factor for all of a row.
#[test]
fn what_no_sum_of_squares_accounts_for_is_a_fault() {
    let scratch = Scratch::new();
    let shape = ["--ffn", "4096", "--layers", "2"];
    let model = synth(&scratch, "bitnet", &shape);
    let gamma = "keepdims=True) + self.model.eps) * gamma)";
    for by in [
        // Off by as much as the sum may be, in turn.
        "keepdims=True) + self.model.eps) * gamma * (1 + 1e-6 * (-1) ** np.arange(len(gamma))))",
        "keepdims=True) + self.model.eps) * gamma * (1 + 1e-5))",
    ] {
        let run = run_arithmetic(&scratch, &model, 3, &[(gamma, by)]);
        let Some((code, report, shown)) = run else {
            return;
        };
        let verdict = &report.verdict;
        assert_eq!(
            (code, verdict.at_fault),
            (10, AtFault::Candidate),
            "{by}: {shown}"
        );
    }
}

/// Who asks for equal bits gets a failure, and what it is not.
#[test]
fn bits_that_differ_in_right_engines_have_a_verdict_of_their_own() {
    let scales = (
        "sums / act_scale * self.scale",
        "sums * (self.scale / act_scale)",
    );
    for (profile, exit_code) in [("standard", 0), ("strict", 10)] {
        let scratch = Scratch::new();
        let run = run_within(&scratch, Path::new(TINY), 12, &[scales], profile);
        let Some((code, report, shown)) = run else {
            return;
        };
        let verdict = &report.verdict;
        assert_eq!(
            (code, verdict.at_fault),
            (exit_code, AtFault::None),
            "{shown}"
        );
        let says = "not the same bit for bit, as the profile asks, though the oracle finds both engines right";
        let of_taps = verdict.findings.iter().find(|f| f.source == Source::Taps);
        assert_eq!(
            of_taps.is_some_and(|f| f.text.contains(says)),
            profile == "strict"
        );
    }
}
