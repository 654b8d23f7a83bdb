//! Every speed of a run, held against its history.

use reports::model::{Environment, GateFigure, GateMeasurement, GateResult, GateSeries, Report};

use super::TestAt;
use super::baseline::{History, RunSpeed};
use super::change::{MIN_SAMPLES, is_improved, is_red, measurement, noise};
use super::speeds::{Speed, speeds};
use crate::stats::median;

/// Which results are to be measured again.
pub(super) type Suspect = fn(GateResult) -> bool;

/// A history, and the run that is held against it.
pub(super) struct Judge<'a> {
    pub report: &'a Report,
    pub history: &'a History,
    pub max_regression: f64,
}

impl Judge<'_> {
    /// Every speed of the report and of the history's latest timed run. What is red is not repeated yet.
    pub(super) fn first(&self) -> Vec<GateSeries> {
        let mut all = Vec::new();
        let now = speeds(self.report);
        for speed in &now {
            all.push(self.series(speed, GateFigure::Ratio));
            let absolute = self.series(speed, GateFigure::Absolute);
            // An extra: nothing is missing where this machine has no history of its own, or too wild a one.
            let judged = absolute.threshold.is_some_and(|threshold| threshold < 1.0);
            all.extend(judged.then_some(absolute));
        }
        for (test, threads) in self.history.latest() {
            let at = (test.to_owned(), threads);
            if !now.iter().any(|speed| speed.at() == at) {
                let levels = self.levels(&at, GateFigure::Ratio, ratio);
                let result = GateResult::NotMeasured;
                all.push(self.judged(at, GateFigure::Ratio, &levels, None, result));
            }
        }
        all
    }

    /// What is suspect, once more, from a report of the same tests.
    pub(super) fn again(&self, series: &mut [GateSeries], suspect: Suspect, repeated: &Report) {
        let repeated = speeds(repeated);
        for series in series.iter_mut().filter(|s| suspect(s.result)) {
            let at = (series.test.clone(), series.threads);
            let Some(speed) = repeated.iter().find(|speed| speed.at() == at) else {
                continue;
            };
            let second = self.series(speed, series.figure);
            series.result = match (series.result, second.result) {
                (_, GateResult::MachineChanged) => GateResult::MachineChanged,
                (first, GateResult::TooFewSamples) => first,
                (GateResult::NotRepeated, GateResult::NotRepeated) => GateResult::Regressed,
                (GateResult::NotRepeated, _) => GateResult::NotConfirmed,
                (GateResult::Improved, GateResult::Improved) => GateResult::Improved,
                _ => GateResult::Pass,
            };
            series.measurements.extend(second.measurements);
        }
    }

    fn series(&self, speed: &Speed, figure: GateFigure) -> GateSeries {
        let of_candidate = match figure {
            GateFigure::Ratio => ratio,
            GateFigure::Absolute => |speed: &RunSpeed| speed.candidate,
        };
        let levels = self.levels(&speed.at(), figure, of_candidate);
        let now = measurement(&speed.samples(figure), last(&levels));
        let result = match self.threshold(&levels) {
            _ if levels.is_empty() => GateResult::NoBaseline,
            None => GateResult::TooFewSamples,
            Some(_) if now.samples < MIN_SAMPLES => GateResult::TooFewSamples,
            Some(threshold) if threshold >= 1.0 => GateResult::TooNoisy,
            Some(threshold) if is_red(&now, threshold) => match figure {
                GateFigure::Absolute if !self.ratio_is_slower(speed) => GateResult::MachineChanged,
                _ => GateResult::NotRepeated,
            },
            Some(threshold) if is_improved(&now, threshold) => GateResult::Improved,
            Some(_) => GateResult::Pass,
        };
        self.judged(speed.at(), figure, &levels, Some(now), result)
    }

    fn judged(
        &self,
        (test, threads): TestAt,
        figure: GateFigure,
        levels: &[Vec<f64>],
        now: Option<GateMeasurement>,
        result: GateResult,
    ) -> GateSeries {
        GateSeries {
            test,
            threads,
            figure,
            runs: levels.iter().map(Vec::len).sum(),
            baseline: levels.last().map(|level| median(&mut level.clone())),
            noise: noise(levels),
            threshold: self.threshold(levels),
            measurements: now.into_iter().collect(),
            result,
        }
    }

    /// Absolute figures are those of runs in the same environment.
    fn levels(&self, at: &TestAt, figure: GateFigure, of: fn(&RunSpeed) -> f64) -> Vec<Vec<f64>> {
        let here = &self.report.environment;
        self.history.levels(at, of, |environment| {
            figure == GateFigure::Ratio || same_machine(environment, here)
        })
    }

    fn threshold(&self, levels: &[Vec<f64>]) -> Option<f64> {
        Some(self.max_regression.max(3.0 * noise(levels)?))
    }

    /// However little: a slower machine slows both engines.
    fn ratio_is_slower(&self, speed: &Speed) -> bool {
        let levels = self.levels(&speed.at(), GateFigure::Ratio, ratio);
        is_red(
            &measurement(&speed.samples(GateFigure::Ratio), last(&levels)),
            0.0,
        )
    }
}

fn ratio(speed: &RunSpeed) -> f64 {
    speed.ratio
}

fn last(levels: &[Vec<f64>]) -> &[f64] {
    levels.last().map_or(&[], Vec::as_slice)
}

/// Whether absolute figures of both can be compared: the same machine and the same kind of build.
fn same_machine(a: &Environment, b: &Environment) -> bool {
    let machine = |e: &Environment| {
        (
            e.cpu.clone(),
            e.cpus,
            e.cpu_features.clone(),
            e.memory_bytes,
            e.os.clone(),
        )
    };
    let build = |e: &Environment| {
        (
            e.target.clone(),
            e.target_features.clone(),
            e.profile.clone(),
        )
    };
    machine(a) == machine(b) && build(a) == build(b)
}
