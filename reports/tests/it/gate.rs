//! A sample report that is held against a baseline. As in `sample`, the figures are invented.

use reports::model::*;

use crate::sample;

/// Every result that a series can have, and a run that is red because of the first.
pub fn report() -> Report {
    let mut report = sample::timed();
    report.verdict.status = Status::Fail;
    report.verdict.exit_code = 11;
    report.gate = Some(gate());
    report.verdict.reasons.clone_from(&gate().reasons);
    report
}

pub fn gate() -> Gate {
    let series = |test: &str, threads, figure, changes: &[f64], result| {
        let level = match figure {
            GateFigure::Ratio => 1.02,
            GateFigure::Absolute => 16.8,
        };
        GateSeries {
            test: test.to_owned(),
            threads,
            figure,
            runs: 7,
            baseline: Some(level),
            best: Some(level),
            noise: Some(0.004),
            threshold: Some(0.05),
            measurements: changes
                .iter()
                .map(|change| GateMeasurement {
                    value: level * (1.0 + change),
                    samples: 5,
                    change: Some(*change),
                    low: Some(change - 0.011),
                    high: Some(change + 0.012),
                    from_best: None,
                })
                .collect(),
            alone: None,
            result,
            accepted: false,
        }
    };
    use GateFigure::{Absolute, Ratio};
    use GateResult::*;
    let changed = Some(GateAlone {
        reference: 0.15,
        candidate: -0.002,
        machine: Some(0.001),
    });
    let mut all = vec![
        series("tg64", 2, Ratio, &[-0.081, -0.079], Regressed),
        series("tg64", 2, Absolute, &[-0.09], MachineChanged),
        series("tg64", 1, Ratio, &[-0.07, 0.0], NotConfirmed),
        series("pp128", 1, Ratio, &[0.003], Pass),
        series("pp128", 2, Ratio, &[0.125], Improved),
        series("pp128", 2, Absolute, &[-0.2], NotRepeated),
        series("ttft", 1, Ratio, &[0.01], TooFewSamples),
        series("ttft", 2, Ratio, &[0.01], NoBaseline),
        series("load", 1, Ratio, &[], NotMeasured),
        series("tg32", 1, Ratio, &[-0.04, -0.06], Undecided),
        GateSeries {
            alone: changed,
            ..series("tg32", 2, Ratio, &[-0.13, -0.13], ReferenceChanged)
        },
        series("pp32", 2, Absolute, &[-0.15, -0.14], BothSlower),
    ];
    // Accepted was more, before a drift.
    let crept = all.iter_mut().find(|s| s.result == Undecided).unwrap();
    crept.best = Some(1.1);
    for measurement in &mut crept.measurements {
        measurement.from_best = Some(GateChange {
            change: measurement.value / 1.1 - 1.0,
            low: -0.16,
            high: 0.01,
        });
    }
    for series in &mut all {
        match series.result {
            TooFewSamples => (series.runs, series.noise, series.threshold) = (2, None, None),
            NoBaseline => {
                (series.runs, series.baseline, series.noise, series.threshold) =
                    (0, None, None, None);
                series.best = None;
                let only = &mut series.measurements[0];
                (only.change, only.low, only.high) = (None, None, None);
            }
            _ => {}
        }
    }
    Gate {
        ungated_exit_code: 0,
        baseline: "baselines/tiny.json".to_owned(),
        max_regression: 0.05,
        baseline_rows: Some(2_460),
        series: all,
        reasons: vec!["tg64 at 2 threads is 7.90% slower than the baseline".to_owned()],
        notes: vec![
            "accepted: decode, tg32 at 1 thread is faster than the baseline by 9.00%".to_owned(),
        ],
        changed: Vec::new(),
    }
}

/// The values agree, and there is no baseline of the run.
pub fn no_baseline() -> Report {
    let mut report = sample::pass();
    let why = "there is no baseline baselines/tiny.json: --update writes one";
    held(&mut report, (Status::Incomplete, 21), &[why]);
    report
}

/// The values agree, and the history is too short for one of two speeds, or for both.
pub fn short_history(judged: bool) -> Report {
    let mut report = no_baseline();
    let mut series = gate().series;
    series.retain(|s| match s.result {
        GateResult::Pass => judged,
        result => result == GateResult::TooFewSamples,
    });
    let held = report.gate.as_mut().unwrap();
    held.reasons = vec!["ttft at 1 thread is not judged: 2 runs in the baseline".to_owned()];
    held.series = series;
    report.verdict.reasons.clone_from(&held.reasons);
    report
}

/// Everything was compared, and that is less than the baseline has.
pub fn fewer_rows() -> Report {
    let mut report = sample::pass();
    let why = "2,460 rows compared, 2,500 in the baseline's latest run";
    held(&mut report, (Status::Incomplete, 20), &[why]);
    let gate = report.gate.as_mut().unwrap();
    gate.baseline_rows = Some(2_500);
    gate.series = self::gate().series;
    gate.series.retain(|s| s.result == GateResult::Pass);
    report
}

fn held(report: &mut Report, (status, exit_code): (Status, u8), reasons: &[&str]) {
    let reasons: Vec<_> = reasons.iter().map(|&why| why.to_owned()).collect();
    (report.verdict.status, report.verdict.exit_code) = (status, exit_code);
    report.verdict.reasons.clone_from(&reasons);
    report.gate = Some(Gate {
        baseline_rows: None,
        series: Vec::new(),
        reasons,
        notes: Vec::new(),
        ..gate()
    });
}
