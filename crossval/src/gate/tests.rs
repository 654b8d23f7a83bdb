use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use reports::model::GateFigure;
use serde_json::json;

use super::*;

const TESTS: [&str; 2] = ["pp128", "tg64"];

/// A benchmark's report: per pair the reference's and the candidate's speed, the same in every test.
fn report(pairs: &[(f64, f64)]) -> Report {
    let engine = |name: &str| json!({ "name": name, "build": {}, "settings": {} });
    let measured = |side: fn(&(f64, f64)) -> f64| {
        let samples: Vec<f64> = pairs.iter().map(side).collect();
        json!({ "median": samples[0], "low": samples[0], "high": samples[0], "samples": samples })
    };
    let rows = TESTS.iter().flat_map(|test| {
        let row =
            |engine: &str, tps| json!({ "engine": engine, "threads": 1, "test": test, "tps": tps });
        [
            row("bitnet.cpp", measured(|p| p.0)),
            row("rust", measured(|p| p.1)),
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
            "repetitions": pairs.len(), "rows": rows.collect::<Vec<_>>(), "ratios": [], "memory": [],
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
    runs.into_iter().for_each(|run| baseline.record(&run, &[]));
    baseline
}

fn calm() -> Baseline {
    baseline([1.99, 2.0, 2.01, 2.0, 2.0].map(|ratio| steady(50.0, ratio)))
}

fn gated(
    mut report: Report,
    baseline: Option<&Baseline>,
    again: impl FnOnce() -> Result<Report, String>,
) -> Report {
    let mut again = Some(again);
    apply(
        &mut report,
        (Path::new("b.json"), baseline),
        (0.05, false),
        &mut |_| again.take().expect("measured again once")(),
    );
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
    rng: SmallRng,
    between: f64,
    within: f64,
}

impl Noisy {
    fn normal(&mut self) -> f64 {
        // Irwin and Hall: twelve uniform numbers have variance 1.
        (0..12).map(|_| self.rng.random::<f64>()).sum::<f64>() - 6.0
    }

    fn run(&mut self, ratio: f64) -> Report {
        let ratio = ratio * (1.0 + self.between * self.normal());
        let mut pair = || {
            // The machine's own moods, which the ratio does not see.
            let speed = 50.0 * (1.0 + 0.3 * self.rng.random::<f64>());
            (speed, speed * ratio * (1.0 + self.within * self.normal()))
        };
        let pairs: Vec<(f64, f64)> = (0..5).map(|_| pair()).collect();
        report(&pairs)
    }

    /// How many of `gates` are red if the true ratio is `now`, and was 1.5 in `runs` runs before.
    fn red_gates(&mut self, gates: usize, runs: usize, now: f64) -> usize {
        let gate = |noisy: &mut Noisy| {
            let history: Vec<Report> = (0..runs).map(|_| noisy.run(1.5)).collect();
            let (first, second) = (noisy.run(now), noisy.run(now));
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
        rng: SmallRng::seed_from_u64(6),
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
    for (runs, between, within) in [(5, 0.005, 0.01), (5, 0.01, 0.02), (20, 0.01, 0.03)] {
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
    let compared = |rows| {
        let mut report = steady(50.0, 2.0);
        report.not_compared = None;
        (report.coverage.expected, report.coverage.compared) = (rows, rows);
        report
    };
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
    assert_eq!(report.verdict.reasons.len(), 1 + 4);
}

#[test]
fn an_accepted_run_starts_a_level_of_its_own() {
    let mut baseline = calm();
    let mut slower = steady(50.0, 1.7);
    apply(
        &mut slower,
        (Path::new("b.json"), Some(&baseline)),
        (0.05, true),
        &mut |_| never(),
    );
    assert_eq!(slower.verdict.exit_code, 0);
    baseline.record(&slower, &slower.gate.as_ref().unwrap().series);
    let report = gated(steady(50.0, 1.7), Some(&baseline), never);
    let gate = report.gate.unwrap();
    assert_eq!(
        (gate.series[0].baseline, gate.series[0].runs),
        (Some(1.7), 6)
    );
    assert_eq!(gate.series[0].result, GateResult::Pass);
}

#[test]
fn a_baseline_is_read_back_and_bad_ones_are_named() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("new/b.json");
    assert_eq!(Baseline::open(&file).unwrap(), None);
    calm().write(&file).unwrap();
    assert_eq!(Baseline::open(&file).unwrap(), Some(calm()));
    let text = std::fs::read_to_string(&file).unwrap();
    for (bad, why) in [
        ("{", "EOF"),
        ("{}", "missing field `schema`"),
        (
            &text.replace("baseline/1", "baseline/2"),
            "schema \"crossval.baseline/2\"",
        ),
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
