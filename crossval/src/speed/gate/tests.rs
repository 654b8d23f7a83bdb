use std::path::Path;

use bitnet_model::random::Rng;
use reports::model::{BenchRoofline, GateFigure};
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
            "roofline": [roofline(1.0)],
        },
        "not_compared": "timed only",
    });
    serde_json::from_value(report).unwrap()
}

/// A machine that is so many times as fast as usual.
fn roofline(times: f64) -> BenchRoofline {
    BenchRoofline {
        threads: 1,
        cpus: vec![0],
        read_bytes_per_second: Some(times * 2e10),
        int8_macs_per_second: Some(times * 3e11),
        int8_instructions: None,
    }
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

fn baseline_of<const N: usize>(ratios: [f64; N]) -> Baseline {
    baseline(ratios.map(|ratio| steady(50.0, ratio)))
}

fn calm() -> Baseline {
    baseline_of([1.99, 2.0, 2.01, 2.0, 2.0])
}

fn against(baseline: Option<&Baseline>, update: bool) -> Standard<'_> {
    Standard {
        path: Path::new("b.json"),
        baseline,
        max_regression: 0.05,
        update,
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

/// A series as machines give them: what a run lies off by is log-normal, so is what a pair does, and now and then one of
/// them is far off.
struct Series {
    rng: Rng,
    /// Standard deviation of a run's level.
    level: f64,
    /// The same of a pair.
    pair: f64,
}

/// How often a run, or a pair, is far off.
const OUTLIERS: f64 = 0.02;

impl Series {
    fn new(seed: u64) -> Series {
        let mut rng = Rng::new(seed, "series");
        let (level, pair) = (0.01 + 0.03 * rng.unit(), 0.02 + 0.08 * rng.unit());
        Series { rng, level, pair }
    }

    fn off(&mut self, deviation: f64) -> f64 {
        let normal = (0..12).map(|_| self.rng.unit()).sum::<f64>() - 6.0;
        (deviation * normal).exp()
    }

    fn outlier(&mut self) -> f64 {
        match self.rng.unit() < OUTLIERS {
            true => 1.0 - 0.3 * self.rng.unit(),
            false => 1.0,
        }
    }

    /// A run of the ratio, and what it comes to when measured again: what puts a run off is still there, but for what was
    /// an accident.
    fn run(&mut self, ratio: f64) -> [Report; 2] {
        let level = ratio * self.off(self.level);
        [(); 2].map(|()| {
            let level = level * self.outlier();
            let pairs = [(); 5].map(|()| {
                // The machine's own moods, which the ratio does not see.
                let speed = 50.0 * (1.0 + 0.3 * self.rng.unit());
                (speed, speed * level * self.off(self.pair) * self.outlier())
            });
            let mut report = report(&pairs);
            report.bench.as_mut().unwrap().rows.truncate(2);
            report
        })
    }

    /// The baseline that so many runs of a ratio make.
    fn baseline(&mut self, runs: usize, ratio: f64) -> Baseline {
        baseline((0..runs).map(|_| self.run(ratio).into_iter().next().unwrap()))
    }
}

/// Whether slowdowns of `step` a run, each given to the gate with --update, are told before they add up to 15%.
fn is_told(mut series: Series, runs: usize, step: f64) -> bool {
    let mut baseline = series.baseline(runs, 1.5);
    let mut ratio = 1.5;
    while ratio * (1.0 - step) > 1.5 * 0.85 {
        ratio *= 1.0 - step;
        let [run, again] = series.run(ratio);
        let (after, run) = updated(baseline, run, || Ok(again.clone()));
        if run.verdict.exit_code != 0 {
            return true;
        }
        baseline = after;
    }
    false
}

#[test]
fn slowdowns_are_told_before_they_add_up_to_15_percent_in_at_least_95_of_100_series() {
    let calm = |seed| Series {
        level: 0.01,
        pair: 0.02,
        ..Series::new(seed)
    };
    type Drawn = fn(u64) -> Series;
    let cases: [(Drawn, usize, f64); 5] = [
        (Series::new, 5, 0.01),
        (Series::new, 20, 0.02),
        (Series::new, 10, 0.03),
        (Series::new, 20, 0.05),
        (calm, 20, 0.03),
    ];
    for (series, runs, step) in cases {
        let told = (0..100).filter(|&seed| is_told(series(seed), runs, step));
        let told = told.count();
        assert!(told >= 95, "{told} of 100 at {step} a run behind {runs}");
    }
}

#[test]
fn series_that_do_not_change_are_red_in_at_most_one_of_200() {
    let mut codes = std::collections::BTreeMap::new();
    for seed in 0..200 {
        let mut series = Series::new(1000 + seed);
        let before = series.baseline([5, 10, 20, 40][seed as usize % 4], 1.5);
        let [run, again] = series.run(1.5);
        let report = gated(run, Some(&before), || Ok(again));
        *codes.entry(report.verdict.exit_code).or_insert(0) += 1;
    }
    let red = codes.get(&11).copied().unwrap_or(0);
    assert!(red <= 1, "{codes:?}");
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

/// The candidate's own speed and the reference's own, as shares of those of the calm history, and the machine's.
fn alone(reference: f64, candidate: f64, machine: Option<f64>) -> Report {
    let mut report = report(&[(50.0 * reference, 100.0 * candidate); 5]);
    let bench = report.bench.as_mut().unwrap();
    bench.roofline = machine.map(roofline).into_iter().collect();
    report
}

#[test]
fn a_slower_machine_is_no_regression() {
    let slower = alone(0.6, 0.6, Some(0.7));
    let report = gated(slower, Some(&calm()), never);
    assert_eq!(report.verdict.exit_code, 0);
    assert_eq!(results(&report, GateFigure::Ratio), [GateResult::Pass; 2]);
    assert_eq!(
        results(&report, GateFigure::Absolute),
        [GateResult::MachineChanged; 2]
    );
}

#[test]
fn what_the_ratio_hides_is_no_pass() {
    for machine in [Some(1.0), None] {
        let slower = || alone(0.85, 0.85, machine);
        let report = gated(slower(), Some(&calm()), || Ok(slower()));
        assert_eq!(report.verdict.exit_code, 21);
        assert_eq!(
            results(&report, GateFigure::Absolute),
            [GateResult::BothSlower; 2]
        );
        let why = &report.verdict.reasons[0];
        let said = "both engines are slower than the baseline in prefill, pp128 at 1 thread";
        assert!(why.starts_with(said), "{why}");
        assert!(
            why.contains("own speed -15.0%, the candidate's -15.0%"),
            "{why}"
        );
    }
    // Once is not enough.
    let report = gated(alone(0.85, 0.85, None), Some(&calm()), || {
        Ok(steady(50.0, 2.0))
    });
    assert_eq!(report.verdict.exit_code, 0);
}

#[test]
fn a_change_of_the_reference_is_none_of_the_candidate() {
    for (reference, change) in [(1.15, "+15.0%"), (0.85, "-15.0%")] {
        let changed = || alone(reference, 1.0, Some(1.0));
        let report = gated(changed(), Some(&calm()), || Ok(changed()));
        assert_eq!(
            results(&report, GateFigure::Ratio),
            [GateResult::ReferenceChanged; 2]
        );
        assert_eq!(report.verdict.exit_code, 21);
        let why = &report.verdict.reasons[0];
        assert!(why.contains("because the reference did"), "{why}");
        assert!(why.contains(change) && !why.contains("slower"), "{why}");
    }
    // Both did: the candidate is slower, too.
    let both = || alone(1.1, 0.9, Some(1.0));
    let report = gated(both(), Some(&calm()), || Ok(both()));
    assert_eq!(report.verdict.exit_code, 11);
}

#[test]
fn pairs_that_scatter_are_not_judged() {
    let scattering = || {
        let ratios = [1.2, 1.5, 1.7, 2.0, 2.1];
        report(&ratios.map(|ratio| (50.0, 50.0 * ratio)))
    };
    let report = gated(scattering(), Some(&calm()), || Ok(scattering()));
    assert_eq!(report.verdict.exit_code, 21);
    assert_eq!(
        results(&report, GateFigure::Ratio),
        [GateResult::Undecided; 2]
    );
    let why = &report.verdict.reasons[0];
    assert!(
        why.contains("-15.0% (-40.0% to +5.0%), and again -15.0%"),
        "{why}"
    );
    // What is no longer open when it is measured again passes.
    let report = gated(scattering(), Some(&calm()), || Ok(steady(50.0, 1.98)));
    assert_eq!(report.verdict.exit_code, 0);
    // Nor is one that scatters around no change.
    let wide = || {
        let ratios = [1.5, 1.99, 2.0, 2.1, 2.6];
        report_of([&ratios.map(|ratio| (50.0, 50.0 * ratio)); 2])
    };
    let report = gated(wide(), Some(&calm()), || Ok(wide()));
    assert_eq!(report.verdict.exit_code, 21);
}

#[test]
fn a_limit_too_far_away_is_not_judged() {
    // Noise of 3% after five runs: three times that is more than 15%.
    let rough = baseline_of([2.0, 2.08, 1.98, 2.06, 1.97]);
    let report = gated(steady(50.0, 2.0), Some(&rough), never);
    assert_eq!(
        results(&report, GateFigure::Ratio),
        [GateResult::TooNoisy; 2]
    );
    let verdict = report.verdict;
    assert_eq!(verdict.exit_code, 21);
    assert!(
        verdict.reasons[0].contains("no slowdown below"),
        "{:?}",
        verdict.reasons
    );
    let mut report = steady(50.0, 2.0);
    let standard = Standard {
        max_regression: 0.2,
        ..against(Some(&rough), false)
    };
    apply(&mut report, standard, &mut |_| never());
    assert_eq!(report.verdict.exit_code, 0);
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
    elsewhere.environment.memory_bytes = Some(1 << 33);
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

/// A run with `--update`: the baseline after it, and the report. `again` is what it comes to when measured again.
fn updated(
    mut baseline: Baseline,
    mut run: Report,
    again: impl Fn() -> Result<Report, String>,
) -> (Baseline, Report) {
    let history = baseline
        .history(&run)
        .map_or(0, |history| history.runs.len());
    run.created = format!("updated {history}");
    apply(&mut run, against(Some(&baseline), true), &mut |_| again());
    if refusal(&run).is_none() {
        let gate = run.gate.clone().unwrap();
        baseline.record(&run, &gate.series);
    }
    (baseline, run)
}

fn count(baseline: &Baseline) -> usize {
    baseline.history(&steady(50.0, 2.0)).unwrap().runs.len()
}

#[test]
fn a_slowdown_that_comes_at_once_is_accepted_and_starts_a_level_of_its_own() {
    let (baseline, slower) = updated(calm(), steady(50.0, 1.7), || Ok(steady(50.0, 1.7)));
    assert_eq!(slower.verdict.exit_code, 0);
    assert!(slower.verdict.reasons.is_empty());
    let gate = slower.gate.unwrap();
    assert_eq!(gate.series[0].result, GateResult::Regressed);
    assert!(gate.series[0].accepted);
    assert!(
        gate.notes[0].starts_with("accepted: prefill, pp128"),
        "{:?}",
        gate.notes
    );
    let report = gated(steady(50.0, 1.7), Some(&baseline), never);
    let series = &report.gate.unwrap().series[0];
    assert_eq!((series.baseline, series.best), (Some(1.7), Some(1.7)));
    assert_eq!((series.runs, series.result), (6, GateResult::Pass));
    // One that is not confirmed is one run more.
    let (baseline, _) = updated(calm(), steady(50.0, 1.7), || Ok(steady(50.0, 2.0)));
    let report = gated(steady(50.0, 2.0), Some(&baseline), never);
    let series = &report.gate.unwrap().series[0];
    assert_eq!((series.baseline, series.runs), (Some(2.0), 6));
    // One more slowdown, right after it, is not taken in.
    let (baseline, _) = updated(calm(), steady(50.0, 1.7), || Ok(steady(50.0, 1.7)));
    let (after, again) = updated(baseline, steady(50.0, 1.5), || Ok(steady(50.0, 1.5)));
    assert_eq!((again.verdict.exit_code, count(&after)), (11, 6));
}

#[test]
fn one_lucky_run_is_no_level() {
    let same = |ratio| move || Ok(steady(50.0, ratio));
    let (mut baseline, lucky) = updated(calm(), steady(50.0, 2.4), same(2.4));
    assert!(lucky.gate.unwrap().series[0].accepted);
    for _ in 0..6 {
        let (after, usual) = updated(baseline, steady(50.0, 2.0), same(2.0));
        // As long as it is one of five, what the level is is not sure.
        assert_ne!(usual.verdict.exit_code, 11, "{:?}", usual.verdict.reasons);
        baseline = after;
    }
    let report = gated(steady(50.0, 2.0), Some(&baseline), never);
    assert_eq!(report.verdict.exit_code, 0, "{:?}", report.verdict.reasons);
    // Five are.
    let mut baseline = calm();
    for _ in 0..5 {
        baseline = updated(baseline, steady(50.0, 2.4), same(2.4)).0;
    }
    let slower = gated(steady(50.0, 2.0), Some(&baseline), same(2.0));
    assert_eq!(slower.verdict.exit_code, 11);
}

#[test]
fn what_is_not_judged_is_said_with_update_too() {
    let few = report(&[(50.0, 100.0); 4]);
    let (baseline, few) = updated(calm(), few, never);
    assert_eq!((few.verdict.exit_code, count(&baseline)), (21, 6));
    let rough = baseline_of([2.0, 2.08, 1.98, 2.06, 1.97]);
    let (after, run) = updated(rough, steady(50.0, 2.0), never);
    assert_eq!((run.verdict.exit_code, count(&after)), (21, 6));
    // What only lacks a history is no fault of the run that makes it.
    let (after, run) = updated(baseline_of([2.0; 4]), steady(50.0, 2.0), never);
    assert_eq!((run.verdict.exit_code, count(&after)), (0, 5));
}

#[test]
fn what_cannot_be_measured_again_is_not_taken_in() {
    let (baseline, slower) = updated(calm(), steady(50.0, 1.7), || Err("gone".to_owned()));
    assert_eq!((slower.verdict.exit_code, count(&baseline)), (21, 5));
    // Unless it is accepted by name.
    let (baseline, slower) = updated(baseline, slower, never);
    assert_eq!((slower.verdict.exit_code, count(&baseline)), (0, 6));
}

#[test]
fn what_has_crept_in_is_accepted_by_name_only() {
    let mut baseline = calm();
    for ratio in [1.95, 1.91] {
        let (after, run) = updated(baseline, steady(50.0, ratio), || Ok(steady(50.0, ratio)));
        assert_eq!(
            run.verdict.exit_code, 0,
            "{ratio}: {:?}",
            run.verdict.reasons
        );
        baseline = after;
    }
    let crept = || steady(50.0, 1.85);
    let (baseline, run) = updated(baseline, crept(), || Ok(crept()));
    assert_eq!((run.verdict.exit_code, count(&baseline)), (11, 7));
    let reason = &run.verdict.reasons[0];
    assert!(reason.contains("by 7.50%, and again 7.50%"), "{reason}");
    assert!(reason.contains("it may have come in steps"), "{reason}");
    assert!(
        reason.contains("`crossval gate --update` of a report that says so"),
        "{reason}"
    );
    // The next one, too: nothing was learned.
    let (baseline, _) = updated(baseline, crept(), || Ok(crept()));
    assert_eq!(count(&baseline), 7);
    let (baseline, named) = updated(baseline, run, never);
    assert_eq!((named.verdict.exit_code, count(&baseline)), (0, 8));
    let report = gated(crept(), Some(&baseline), never);
    let series = &report.gate.unwrap().series[0];
    assert_eq!((series.best, series.result), (Some(1.85), GateResult::Pass));
}

#[test]
fn a_test_that_is_left_out_is_missed_until_that_is_accepted() {
    let without_decode = || {
        let mut report = steady(50.0, 2.0);
        report.bench.as_mut().unwrap().rows.truncate(2);
        report
    };
    let why = "decode, tg64 at 1 thread (candidate over reference) is in the baseline, and was not measured";
    let (mut baseline, run) = updated(calm(), without_decode(), never);
    assert_eq!((run.verdict.exit_code, count(&baseline)), (21, 5));
    assert!(
        run.verdict.reasons[0].starts_with(why),
        "{:?}",
        run.verdict.reasons
    );
    // Nor does a baseline that has such a run, as older ones took in.
    let mut older = without_decode();
    older.created = "older".to_owned();
    baseline.record(&older, &[]);
    let report = gated(without_decode(), Some(&baseline), never);
    assert_eq!(report.verdict.exit_code, 21);
    let (baseline, named) = updated(baseline, run, never);
    assert_eq!((named.verdict.exit_code, count(&baseline)), (0, 7));
    assert_eq!(named.gate.unwrap().notes, [format!("accepted: {why}")]);
    let report = gated(without_decode(), Some(&baseline), never);
    assert_eq!(report.verdict.exit_code, 0, "{:?}", report.verdict.reasons);
}

/// What a change of the run, of which the baseline has none, is said to be, and the exit code.
fn changed(edit: fn(&mut Report)) -> (u8, String) {
    let history = baseline([100; 5].map(compared));
    let mut run = compared(100);
    edit(&mut run);
    let (after, accepted) = updated(history.clone(), run.clone(), never);
    let gate = accepted.gate.unwrap();
    assert_eq!((accepted.verdict.exit_code, gate.reasons.len()), (0, 0));
    assert_eq!(gate.notes.len(), 1, "--update says it, too");
    let again = gated(run.clone(), Some(&after), never).verdict;
    assert_eq!(
        again.exit_code, 21,
        "one run is no history: {:?}",
        gate.notes
    );
    let verdict = gated(run, Some(&history), never).verdict;
    (verdict.exit_code, verdict.reasons.join("; "))
}

#[test]
fn what_is_other_than_in_the_baseline_is_said() {
    type Edit = fn(&mut Report);
    let cases: [(Edit, &str); 14] = [
        (
            |r| r.engines.reference.version = Some("2".to_owned()),
            "(reference: 2, not stated in the baseline)",
        ),
        (
            |r| {
                let flags = ("cxx_flags".to_owned(), "-O1".to_owned());
                r.engines.reference.build = [flags].into();
            },
            "(build of the reference (cxx_flags))",
        ),
        (
            |r| {
                r.inputs.profile.name = "lax.toml".to_owned();
                let lax = ("q".to_owned(), 1.0);
                r.inputs.profile.isolated_nmse = [lax].into();
            },
            "(profile: lax.toml, none in the baseline)",
        ),
        (
            |r| r.inputs.profile.cumulative_logits_nmse = Some(0.5),
            "(limits of the profile none)",
        ),
        (
            |r| r.inputs.n_predict = 8,
            "(tokens to generate: 8, 0 in the baseline)",
        ),
        (
            |r| r.environment.cpu = Some("Zen".to_owned()),
            "(CPU: Zen, not known in the baseline)",
        ),
        (
            |r| r.environment.cpu_features = vec!["avx2".to_owned()],
            "(CPU features: with avx2)",
        ),
        (|r| r.environment.cpus = 8, "(CPUs: 8, 1 in the baseline)"),
        (
            |r| r.environment.profile = "release".to_owned(),
            "(build of crossval: release,  in the baseline)",
        ),
        (
            |r| {
                r.environment.cpu = Some("Zen".to_owned());
                r.inputs.n_predict = 8;
            },
            "(tokens to generate: 8, 0 in the baseline; CPU: Zen, not known in the baseline)",
        ),
        (
            |r| r.model.sha256 = "cd".to_owned(),
            "(the nearest is of m.gguf, whose contents are others)",
        ),
        (
            |r| {
                r.engines.candidate.name = "mine".to_owned();
                let rows = r.bench.iter_mut().flat_map(|bench| &mut bench.rows);
                for row in rows.filter(|row| row.engine == "rust") {
                    row.engine = "mine".to_owned();
                }
            },
            "(the nearest is of the candidate rust)",
        ),
        (
            |r| r.inputs.decode_steps = 1,
            "(the nearest is of other prompts, decode steps, modes or activation)",
        ),
        (
            |r| r.not_compared = Some("timed only".to_owned()),
            "(the nearest is of values compared, too)",
        ),
    ];
    for (edit, said) in cases {
        let (code, reason) = changed(edit);
        assert_eq!(code, 21, "{said}");
        assert!(reason.contains(said), "{said}: {reason}");
        assert!(reason.contains("--update adds"), "{reason}");
    }
}

#[test]
fn what_a_reference_is_written_in_and_where_it_lies_is_no_change() {
    let history = baseline([100; 5].map(compared));
    let mut run = compared(100);
    for key in ["language", "source"] {
        let build = &mut run.engines.reference.build;
        build.insert(key.to_owned(), "new".to_owned());
    }
    let verdict = gated(run, Some(&history), never).verdict;
    assert_eq!(verdict.exit_code, 0, "{:?}", verdict.reasons);
}

#[test]
fn parity_and_rows_are_held_on_any_cpu() {
    let mut history = baseline([100; 5].map(compared));
    let mut fewer = compared(99);
    fewer.environment.cpu = Some("Zen".to_owned());
    let verdict = gated(fewer, Some(&history), never).verdict;
    assert_eq!((verdict.exit_code, verdict.reasons.len()), (20, 2));
    // Where nothing is timed, no CPU counts; the limits do.
    let untimed = |mut report: Report| {
        report.bench = None;
        report
    };
    let runs = history.histories.iter_mut().flat_map(|h| &mut h.runs);
    runs.for_each(|run| run.speeds.clear());
    let mut elsewhere = untimed(compared(100));
    elsewhere.environment.cpu = Some("Zen".to_owned());
    let verdict = gated(elsewhere.clone(), Some(&history), never).verdict;
    assert_eq!(verdict.exit_code, 0, "{:?}", verdict.reasons);
    elsewhere.inputs.n_predict = 1;
    let verdict = gated(elsewhere, Some(&history), never).verdict;
    assert_eq!(verdict.exit_code, 21);
    assert!(verdict.reasons[0].starts_with("the run is not held against"));
}

#[test]
fn cpus_have_histories_of_their_own_in_one_file() {
    let on = |cpu: &str, ratio| {
        let mut report = steady(50.0, ratio);
        report.environment.cpu = Some(cpu.to_owned());
        report
    };
    let runs = (0..5).flat_map(|_| [on("a", 2.0), on("b", 1.0)]);
    let both = baseline(runs);
    for (cpu, ratio) in [("a", 2.0), ("b", 1.0)] {
        let report = gated(on(cpu, ratio), Some(&both), never);
        assert_eq!(report.verdict.exit_code, 0);
        assert_eq!(report.gate.unwrap().series[0].runs, 5);
    }
    let slower = gated(on("a", 1.0), Some(&both), || Ok(on("a", 1.0)));
    assert_eq!(slower.verdict.exit_code, 11);
}

#[test]
fn older_baselines_do_not_say_all_and_count() {
    let mut older = calm();
    for run in older.histories.iter_mut().flat_map(|h| &mut h.runs) {
        let key = &mut run.key;
        (key.reference_build, key.limits, key.n_predict, key.scored) = (None, None, None, None);
        run.speeds.iter_mut().for_each(|speed| speed.machine = None);
    }
    let mut report = steady(50.0, 2.0);
    report.inputs.n_predict = 8;
    let report = gated(report, Some(&older), never);
    assert_eq!(report.verdict.exit_code, 0, "{:?}", report.verdict.reasons);
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
fn a_history_keeps_what_its_level_began_with_and_its_latest_runs() {
    let runs = (0..50).map(|i| steady(50.0, 2.0 + f64::from(i)));
    let baseline = baseline(runs);
    let history = baseline.history(&steady(50.0, 2.0)).unwrap();
    let ratios: Vec<f64> = history.runs.iter().map(|run| run.speeds[0].ratio).collect();
    let kept = (0..20).chain(30..50).map(|i| 2.0 + f64::from(i));
    assert_eq!(ratios, kept.collect::<Vec<f64>>());
}
