use std::path::Path;

use bitnet_model::random::Rng;
use reports::model::GateFigure;
use serde_json::json;

use super::*;

const TESTS: [&str; 2] = ["pp128", "tg64"];

/// A benchmark's report: per pair the reference's and the candidate's speed, the same in every test.
fn report(pairs: &[(f64, f64)]) -> Report {
    report_of([pairs; 2])
}

/// The same, test by test.
fn report_of(tests: [&[(f64, f64)]; 2]) -> Report {
    let engine = |name: &str| json!({ "name": name, "build": {}, "settings": {} });
    let measured = |pairs: &[(f64, f64)], side: fn(&(f64, f64)) -> f64| {
        let samples: Vec<f64> = pairs.iter().map(side).collect();
        json!({ "median": samples[0], "low": samples[0], "high": samples[0], "samples": samples })
    };
    let rows = TESTS.iter().zip(tests).flat_map(|(test, pairs)| {
        let row =
            |engine: &str, tps| json!({ "engine": engine, "threads": 1, "test": test, "tps": tps });
        [
            row("bitnet.cpp", measured(pairs, |p| p.0)),
            row("rust", measured(pairs, |p| p.1)),
        ]
    });
    let report = json!({
        "schema": reports::model::SCHEMA,
        "created": "2026-08-01T12:00:00Z",
        "command": [],
        "verdict": { "status": "pass", "exit_code": 0, "reasons": [], "at_fault": "none" },
        "model": {
            "path": "models/m.gguf", "size_bytes": 1, "sha256": "ab", "architecture": "bitnet", "n_layer": 4,
            "n_embd": 1, "n_ff": 1, "n_head": 1, "n_head_kv": 1, "n_vocab": 2, "n_ctx_train": 256,
            "tensor_types": {},
        },
        "engines": { "reference": engine("bitnet.cpp"), "candidate": engine("rust") },
        "environment": {
            "crossval_version": "0", "rustc": "", "profile": "", "target": "", "target_features": [],
            "os": "", "cpu_features": [], "cpus": 1,
        },
        "inputs": {
            "prompts": [], "n_predict": 0, "decode_steps": 0, "threads": 1, "modes": [],
            "profile": { "name": "none", "isolated_nmse": {} },
        },
        "coverage": { "expected": 0, "compared": 0, "missing": [], "not_offered": {} },
        "taps": [],
        "logits": [],
        "bench": {
            "repetitions": tests[0].len(), "rows": rows.collect::<Vec<_>>(), "ratios": [], "memory": [],
            "tokens_reproduced": {},
        },
        "not_compared": "timed only",
    });
    serde_json::from_value(report).unwrap()
}

/// Five pairs whose ratio is `ratio`, and whose reference's speed is `speed`.
fn steady(speed: f64, ratio: f64) -> Report {
    report(&[(speed, speed * ratio); 5])
}

fn baseline(runs: impl IntoIterator<Item = Report>) -> Baseline {
    let mut baseline = Baseline::empty();
    for (i, mut run) in runs.into_iter().enumerate() {
        run.created = format!("run {i}");
        baseline.record(&run, &[]);
    }
    baseline
}

/// One that compares values, too.
fn compared(rows: u64) -> Report {
    let mut report = steady(50.0, 2.0);
    report.not_compared = None;
    (report.coverage.expected, report.coverage.compared) = (rows, rows);
    report
}

fn calm() -> Baseline {
    baseline([1.99, 2.0, 2.01, 2.0, 2.0].map(|ratio| steady(50.0, ratio)))
}

fn against(baseline: Option<&Baseline>, accepted: bool) -> Standard<'_> {
    Standard {
        path: Path::new("b.json"),
        baseline,
        max_regression: 0.05,
        accepted,
    }
}

fn gated(
    mut report: Report,
    baseline: Option<&Baseline>,
    again: impl FnOnce() -> Result<Report, String>,
) -> Report {
    let mut again = Some(again);
    apply(&mut report, against(baseline, false), &mut |_| {
        again.take().expect("measured again once")()
    });
    report
}

fn never() -> Result<Report, String> {
    panic!("nothing is red")
}

fn results(report: &Report, figure: GateFigure) -> Vec<GateResult> {
    let series = report.gate.iter().flat_map(|gate| &gate.series);
    series
        .filter(|s| s.figure == figure)
        .map(|s| s.result)
        .collect()
}

/// Runs that scatter: by `between` from run to run, by `within` from pair to pair, both as shares.
struct Noisy {
    rng: Rng,
    between: f64,
    within: f64,
}

impl Noisy {
    fn normal(&mut self) -> f64 {
        // Irwin and Hall: twelve uniform numbers have variance 1.
        (0..12).map(|_| self.rng.unit()).sum::<f64>() - 6.0
    }

    /// Per test how far a run lies off.
    fn offsets(&mut self) -> [f64; 2] {
        [(); 2].map(|()| self.between * self.normal())
    }

    fn run(&mut self, ratio: f64, offsets: [f64; 2]) -> Report {
        let pairs = offsets.map(|offset| {
            let pair = |_| {
                // The machine's own moods, which the ratio does not see.
                let speed = 50.0 * (1.0 + 0.3 * self.rng.unit());
                let ratio = ratio * (1.0 + offset) * (1.0 + self.within * self.normal());
                (speed, speed * ratio)
            };
            (0..5).map(pair).collect::<Vec<(f64, f64)>>()
        });
        report_of([&pairs[0], &pairs[1]])
    }

    /// How many of `gates` are red if the true ratio is `now`, and was 1.5 in `runs` runs before. A repetition lies as far
    /// off as the run that it repeats: whatever put that off is still there.
    fn red_gates(&mut self, gates: usize, runs: usize, now: f64) -> usize {
        let gate = |noisy: &mut Noisy| {
            let mut before = || {
                let offsets = noisy.offsets();
                noisy.run(1.5, offsets)
            };
            let history: Vec<Report> = (0..runs).map(|_| before()).collect();
            let offsets = noisy.offsets();
            let (first, second) = (noisy.run(now, offsets), noisy.run(now, offsets));
            gated(first, Some(&baseline(history)), || Ok(second))
                .verdict
                .exit_code
                == 11
        };
        (0..gates).filter(|_| gate(self)).count()
    }
}

fn noisy(between: f64, within: f64) -> Noisy {
    Noisy {
        rng: Rng::new(6, "gate"),
        between,
        within,
    }
}

#[test]
fn no_change_is_red_in_at_most_one_of_200_gates() {
    for (runs, between, within) in [
        (5, 0.005, 0.01),
        (5, 0.02, 0.03),
        (5, 0.05, 0.05),
        (20, 0.03, 0.05),
    ] {
        let red = noisy(between, within).red_gates(200, runs, 1.5);
        assert!(
            red <= 1,
            "{red} of 200 with noise of {between} and {within}"
        );
    }
}

#[test]
fn a_tenth_slower_is_red_in_at_least_95_of_100_gates() {
    for (runs, between, within) in [(5, 0.005, 0.01), (8, 0.01, 0.02), (20, 0.01, 0.03)] {
        let red = noisy(between, within).red_gates(100, runs, 1.35);
        assert!(
            red >= 95,
            "{red} of 100 with noise of {between} and {within}"
        );
    }
}

#[test]
fn slower_twice_is_a_regression() {
    let report = gated(steady(50.0, 1.7), Some(&calm()), || Ok(steady(50.0, 1.6)));
    assert_eq!(
        (report.verdict.status, report.verdict.exit_code),
        (reports::model::Status::Fail, 11)
    );
    assert_eq!(
        results(&report, GateFigure::Ratio),
        [GateResult::Regressed; 2]
    );
    let reason = &report.verdict.reasons[0];
    assert_eq!(
        reason,
        "prefill, pp128 at 1 thread (candidate over reference) is slower than the baseline by 15.00%, and again \
         20.00%; 5.00% are let through"
    );
}

#[test]
fn slower_once_is_not() {
    let report = gated(steady(50.0, 1.7), Some(&calm()), || Ok(steady(50.0, 2.0)));
    assert_eq!(report.verdict.exit_code, 0);
    assert_eq!(
        results(&report, GateFigure::Ratio),
        [GateResult::NotConfirmed; 2]
    );
    assert_eq!(report.gate.unwrap().series[0].measurements.len(), 2);
}

#[test]
fn what_is_red_and_cannot_be_repeated_is_not_judged() {
    let report = gated(steady(50.0, 1.7), Some(&calm()), || {
        Err("the model is gone".into())
    });
    assert_eq!(report.verdict.exit_code, 21);
    assert!(report.verdict.reasons[0].ends_with("not confirmed: the model is gone"));
}

#[test]
fn faster_passes_and_is_named() {
    let report = gated(steady(50.0, 2.4), Some(&calm()), never);
    assert_eq!(report.verdict.exit_code, 0);
    assert_eq!(
        results(&report, GateFigure::Ratio),
        [GateResult::Improved; 2]
    );
}

#[test]
fn a_slower_machine_is_no_regression() {
    let report = gated(steady(30.0, 2.0), Some(&calm()), never);
    assert_eq!(report.verdict.exit_code, 0);
    assert_eq!(results(&report, GateFigure::Ratio), [GateResult::Pass; 2]);
    assert_eq!(
        results(&report, GateFigure::Absolute),
        [GateResult::MachineChanged; 2]
    );
}

#[test]
fn absolute_figures_count_only_on_the_machine_of_the_baseline() {
    let mut report = steady(50.0, 1.8);
    let slower = report.clone();
    report = gated(report, Some(&calm()), || Ok(slower));
    assert_eq!(
        results(&report, GateFigure::Absolute),
        [GateResult::Regressed; 2]
    );
    let mut elsewhere = steady(50.0, 2.0);
    elsewhere.environment.cpus = 8;
    assert!(
        results(
            &gated(elsewhere, Some(&calm()), never),
            GateFigure::Absolute
        )
        .is_empty()
    );
}

#[test]
fn too_little_is_never_a_pass() {
    let four = baseline([2.0; 4].map(|ratio| steady(50.0, ratio)));
    let report_of_four_pairs = report(&[(50.0, 100.0); 4]);
    let mut without_decode = steady(50.0, 2.0);
    without_decode.bench.as_mut().unwrap().rows.truncate(2);
    let mut other_model = steady(50.0, 2.0);
    other_model.model.sha256 = "cd".into();
    for (report, baseline, why) in [
        (steady(50.0, 2.0), None, "there is no baseline b.json"),
        (other_model, Some(calm()), "has no run of this model"),
        (steady(50.0, 2.0), Some(four), "4 runs in the baseline"),
        (report_of_four_pairs, Some(calm()), "4 pairs in this run"),
        (
            without_decode,
            Some(calm()),
            "decode, tg64 at 1 thread (candidate over reference) is in the baseline, and was not",
        ),
    ] {
        let verdict = gated(report, baseline.as_ref(), never).verdict;
        assert_eq!(verdict.exit_code, 21, "{why}");
        assert!(verdict.reasons[0].contains(why), "{:?}", verdict.reasons);
    }
}

#[test]
fn fewer_rows_than_before_are_incomplete() {
    let baseline = baseline([100; 5].map(compared));
    assert_eq!(
        gated(compared(100), Some(&baseline), never)
            .verdict
            .exit_code,
        0
    );
    let verdict = gated(compared(99), Some(&baseline), never).verdict;
    assert_eq!(verdict.exit_code, 20);
    assert_eq!(
        verdict.reasons,
        ["99 rows compared, 100 in the baseline's latest run"]
    );
}

#[test]
fn both_wrong_and_slower_is_an_exit_code_of_its_own() {
    let mut report = steady(50.0, 1.7);
    report.verdict.status = reports::model::Status::Fail;
    report.verdict.exit_code = 10;
    report.verdict.reasons = vec!["taps".into()];
    let report = gated(report, Some(&calm()), || Ok(steady(50.0, 1.7)));
    assert_eq!(report.verdict.exit_code, 12);
    assert_eq!(
        report.verdict.reasons.len(),
        1 + 4,
        "two tests, by ratio and alone"
    );
}

/// The baseline after a slower run was accepted, and what that run's gate said.
fn accepted(again: impl Fn() -> Result<Report, String>) -> (Baseline, Gate) {
    let mut baseline = calm();
    let mut slower = steady(50.0, 1.7);
    slower.created = "accepted".into();
    apply(&mut slower, against(Some(&baseline), true), &mut |_| {
        again()
    });
    assert_eq!(
        (slower.verdict.exit_code, slower.verdict.reasons.len()),
        (0, 0)
    );
    let gate = slower.gate.clone().unwrap();
    baseline.record(&slower, &gate.series);
    (baseline, gate)
}

#[test]
fn an_accepted_run_starts_a_level_of_its_own_if_it_is_confirmed() {
    let (baseline, gate) = accepted(|| Ok(steady(50.0, 1.7)));
    assert_eq!(gate.series[0].result, GateResult::Regressed);
    let report = gated(steady(50.0, 1.7), Some(&baseline), never);
    let series = &report.gate.unwrap().series[0];
    assert_eq!((series.baseline, series.runs), (Some(1.7), 6));
    assert_eq!(series.result, GateResult::Pass);
    // One that is not is one run more.
    for again in [|| Ok(steady(50.0, 2.0)), || Err("gone".to_owned())] {
        let (baseline, _) = accepted(again);
        let report = gated(steady(50.0, 2.0), Some(&baseline), never);
        let series = &report.gate.unwrap().series[0];
        assert_eq!((series.baseline, series.runs), (Some(2.0), 6));
    }
}

#[test]
fn rows_are_not_given_up_with_the_speeds_accepted() {
    let baseline = baseline([100; 5].map(compared));
    let mut fewer = compared(99);
    let again = &mut |_: &[TestAt]| never();
    apply(&mut fewer, against(Some(&baseline), true), again);
    assert_eq!(fewer.verdict.exit_code, 20);
}

#[test]
fn a_run_that_was_not_timed_hides_no_speed() {
    let mut untimed = steady(50.0, 2.0);
    untimed.bench = None;
    let mut runs: Vec<Report> = [2.0; 5].map(|ratio| steady(50.0, ratio)).into();
    runs.push(untimed.clone());
    let verdict = gated(untimed, Some(&baseline(runs)), never).verdict;
    assert_eq!(verdict.exit_code, 21);
    assert_eq!(verdict.reasons.len(), 2, "{:?}", verdict.reasons);
}

#[test]
fn a_gate_replaces_the_one_before() {
    let once = gated(steady(50.0, 1.7), None, never);
    assert_eq!(
        (once.verdict.exit_code, once.verdict.reasons.len()),
        (21, 1)
    );
    let twice = gated(once, Some(&calm()), || Ok(steady(50.0, 1.7)));
    assert_eq!(
        (twice.verdict.exit_code, twice.verdict.reasons.len()),
        (11, 4)
    );
    let thrice = gated(twice.clone(), Some(&calm()), || Ok(steady(50.0, 1.7)));
    assert_eq!(thrice.verdict, twice.verdict);
    let fast = baseline([1.7; 5].map(|ratio| steady(50.0, ratio)));
    let verdict = gated(thrice, Some(&fast), never).verdict;
    assert_eq!((verdict.exit_code, verdict.reasons.len()), (0, 0));
}

#[test]
fn a_history_in_which_nothing_could_be_red_is_not_judged() {
    let wild = baseline([1.0, 2.0, 3.0, 2.0, 1.0].map(|ratio| steady(50.0, ratio)));
    let report = gated(steady(50.0, 2.0), Some(&wild), never);
    let verdict = report.verdict.clone();
    assert_eq!(verdict.exit_code, 21);
    assert_eq!(
        results(&report, GateFigure::Ratio),
        [GateResult::TooNoisy; 2]
    );
    assert!(
        results(&report, GateFigure::Absolute).is_empty(),
        "an extra"
    );
    assert!(
        verdict.reasons[0].contains("scatter by"),
        "{:?}",
        verdict.reasons
    );
}

#[test]
fn only_the_same_thing_measured_again_is_a_repetition() {
    let report = steady(50.0, 2.0);
    let tests = [("tg64".to_owned(), 1)];
    let repeats = |other: &Report, report: &Report| super::repeats(other, report, &tests);
    assert!(!repeats(&report, &report), "it is no repetition of itself");
    let mut other = report.clone();
    other.created = "later".into();
    assert!(repeats(&other, &report));
    other.bench.as_mut().unwrap().rows.truncate(2);
    assert!(!repeats(&other, &report), "it has no decode test");
    other.bench = report.bench.clone();
    let edits: [fn(&mut Report); 5] = [
        |r| r.environment.git_revision = Some("f00".into()),
        |r| r.environment.cpus = 8,
        |r| r.engines.candidate.version = Some("2".into()),
        |r| r.model.sha256 = "cd".into(),
        |r| r.bench = None,
    ];
    for edit in edits {
        let mut other = other.clone();
        edit(&mut other);
        assert!(!repeats(&other, &report));
    }
}

#[test]
fn runs_are_added_one_after_the_other() {
    let scratch = tempfile::tempdir().unwrap();
    let (file, link) = (
        scratch.path().join("new/b.json"),
        scratch.path().join("link.json"),
    );
    std::thread::scope(|scope| {
        for i in 0..8 {
            let file = &file;
            scope.spawn(move || {
                let mut report = steady(50.0, 2.0);
                report.created = format!("run {i}");
                Baseline::add(file, &report, &[]).unwrap();
            });
        }
    });
    let runs = |baseline: Baseline| baseline.history(&steady(50.0, 2.0)).unwrap().runs.len();
    assert_eq!(runs(Baseline::open(&file).unwrap().unwrap()), 8);
    // A run that is there is replaced, and so is the file behind a link, not the link.
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let mut report = steady(50.0, 2.0);
    report.created = "run 3".into();
    assert_eq!(runs(Baseline::add(&link, &report, &[]).unwrap()), 8);
    assert!(link.is_symlink());
    let names: Vec<_> = std::fs::read_dir(file.parent().unwrap()).unwrap().collect();
    assert_eq!(names.len(), 1, "nothing else is left behind");
}

#[test]
fn a_baseline_is_read_back_and_bad_ones_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("b.json");
    assert_eq!(Baseline::open(&file).unwrap(), None);
    let added = Baseline::add(&file, &steady(50.0, 1.99), &[]).unwrap();
    assert_eq!(Baseline::open(&file).unwrap(), Some(added));
    let text = std::fs::read_to_string(&file).unwrap();
    let history = &text[text.find("{\n      \"subject\"").unwrap()..text.rfind("\n  ]").unwrap()];
    let twice = text.replace(history, &format!("{history}, {history}"));
    for (bad, why) in [
        ("{", "EOF"),
        ("{}", "missing field `schema`"),
        (
            &text.replace("baseline/1", "baseline/2"),
            "schema \"crossval.baseline/2\"",
        ),
        (&twice, "two histories of m.gguf"),
        (
            &text.replacen("\"ratio\": 1.99", "\"ratio\": 0", 1),
            "pp128 at threads = 1 is not above 0",
        ),
    ] {
        std::fs::write(&file, bad).unwrap();
        let error = Baseline::open(&file).unwrap_err();
        assert_eq!(error.outcome(), Outcome::BadInput);
        let message = error.to_string();
        assert!(
            message.contains("b.json") && message.contains(why),
            "{message}"
        );
    }
}

#[test]
fn a_history_keeps_its_latest_runs() {
    let runs = (0..50).map(|i| steady(50.0, 2.0 + f64::from(i)));
    let baseline = baseline(runs);
    let history = baseline.history(&steady(50.0, 2.0)).unwrap();
    assert_eq!(history.runs.len(), 40);
    assert_eq!(history.runs[0].speeds[0].ratio, 12.0);
}
