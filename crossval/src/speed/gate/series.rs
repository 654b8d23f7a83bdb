//! Every speed of a run, held against the runs before it.

use reports::model::{
    Environment, GateAlone, GateFigure, GateMeasurement, GateResult, GateSeries, Report, Role,
};

use super::TestAt;
use super::baseline::{Machine, Run, RunSpeed, expected, levels};
use super::change::{
    MIN_RUNS, MIN_SAMPLES, best, can_judge, change, is_improved, is_open, is_red, measurement,
    noise,
};
use super::speeds::{Speed, speeds};
use crate::stats::median;

/// Which series are to be measured again.
pub(super) type Suspect = fn(&GateSeries) -> bool;

/// Runs that can be compared, oldest first, and the one that is held against them.
pub(super) struct Judge<'a> {
    pub report: &'a Report,
    pub runs: &'a [&'a Run],
    pub max_regression: f64,
}

/// One engine's own speed in the environment of the report.
struct Alone {
    measurement: GateMeasurement,
    threshold: f64,
}

impl Judge<'_> {
    /// Every speed of the report and of the runs before. What is red is not repeated yet.
    pub(super) fn first(&self) -> Vec<GateSeries> {
        let mut all = Vec::new();
        let now = speeds(self.report);
        for speed in &now {
            all.push(self.series(speed, GateFigure::Ratio));
            let absolute = self.series(speed, GateFigure::Absolute);
            // An extra: nothing is missing where this machine has no history of its own, or too wild a one.
            let judged = matches!(
                absolute.result,
                GateResult::Pass
                    | GateResult::Improved
                    | GateResult::NotRepeated
                    | GateResult::MachineChanged
                    | GateResult::BothSlower
            );
            all.extend(judged.then_some(absolute));
        }
        for at in expected(self.runs) {
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
        use GateResult::{Improved, NotConfirmed, NotRepeated, Pass, Regressed, TooFewSamples};
        let judge = Judge {
            report: repeated,
            ..*self
        };
        let repeated = speeds(repeated);
        for series in series.iter_mut().filter(|s| suspect(s)) {
            let at = (series.test.clone(), series.threads);
            let Some(speed) = repeated.iter().find(|speed| speed.at() == at) else {
                continue;
            };
            let second = judge.series(speed, series.figure);
            series.result = match (series.result, second.result) {
                (first, TooFewSamples) => first,
                (NotRepeated, NotRepeated) => Regressed,
                (NotRepeated, Pass | Improved) => NotConfirmed,
                (Improved, Improved) => Improved,
                (Improved, _) | (_, Pass | Improved) => Pass,
                // Not judged at first, and red only now.
                (first, NotRepeated) => first,
                (_, second) => second,
            };
            series.measurements.extend(second.measurements);
            series.alone = second.alone;
        }
    }

    fn series(&self, speed: &Speed, figure: GateFigure) -> GateSeries {
        let levels = match figure {
            GateFigure::Ratio => self.levels(&speed.at(), figure, ratio),
            GateFigure::Absolute => self.levels(&speed.at(), figure, own(Role::Candidate)),
        };
        let now = measurement(&speed.samples(figure), &levels);
        let result = match self.threshold(&levels) {
            _ if levels.is_empty() => GateResult::NoBaseline,
            None => GateResult::TooFewSamples,
            Some(_) if now.samples < MIN_SAMPLES => GateResult::TooFewSamples,
            Some(threshold) if !can_judge(threshold, self.max_regression) => GateResult::TooNoisy,
            Some(threshold) => {
                let noise = noise(&levels).unwrap_or_default();
                self.result(speed, figure, &now, (noise, threshold))
            }
        };
        GateSeries {
            alone: self.alone(speed),
            ..self.judged(speed.at(), figure, &levels, Some(now), result)
        }
    }

    fn result(
        &self,
        speed: &Speed,
        figure: GateFigure,
        now: &GateMeasurement,
        (noise, threshold): (f64, f64),
    ) -> GateResult {
        let red = is_red(now, threshold);
        match figure {
            GateFigure::Absolute if red && !self.ratio_is_slower(speed) => {
                match self.machine_is_slower(speed, now) {
                    true => GateResult::MachineChanged,
                    false => GateResult::BothSlower,
                }
            }
            GateFigure::Ratio
                if (red || is_improved(now, threshold)) && self.reference_changed(speed, now) =>
            {
                GateResult::ReferenceChanged
            }
            _ if red => GateResult::NotRepeated,
            _ if is_improved(now, threshold) => GateResult::Improved,
            _ if is_open(now, noise, threshold, self.max_regression) => GateResult::Undecided,
            _ => GateResult::Pass,
        }
    }

    fn judged(
        &self,
        (test, threads): TestAt,
        figure: GateFigure,
        levels: &[Vec<f64>],
        now: Option<GateMeasurement>,
        result: GateResult,
    ) -> GateSeries {
        let middle = |runs: &[f64]| (!runs.is_empty()).then(|| median(&mut runs.to_vec()));
        GateSeries {
            test,
            threads,
            figure,
            runs: levels.iter().map(Vec::len).sum(),
            baseline: middle(last(levels)),
            best: middle(best(levels)),
            noise: noise(levels),
            threshold: self.threshold(levels),
            measurements: now.into_iter().collect(),
            alone: None,
            result,
            accepted: false,
        }
    }

    /// Absolute figures are those of runs in the same environment.
    fn levels(&self, at: &TestAt, figure: GateFigure, of: fn(&RunSpeed) -> f64) -> Vec<Vec<f64>> {
        let here = &self.report.environment;
        let wanted = |run: &&Run| {
            figure == GateFigure::Ratio || same_environment(&run.key.environment, here)
        };
        levels(self.runs.iter().copied().filter(wanted), at, of)
    }

    fn threshold(&self, levels: &[Vec<f64>]) -> Option<f64> {
        Some(self.max_regression.max(3.0 * noise(levels)?))
    }

    /// However little: a slower machine slows both engines.
    fn ratio_is_slower(&self, speed: &Speed) -> bool {
        let levels = self.levels(&speed.at(), GateFigure::Ratio, ratio);
        let ratio = measurement(&speed.samples(GateFigure::Ratio), &levels);
        is_red(&ratio, 0.0)
    }

    /// An engine's own speed, if it can be judged.
    fn of_engine(&self, speed: &Speed, role: Role) -> Option<Alone> {
        let levels = self.levels(&speed.at(), GateFigure::Absolute, own(role));
        let threshold = self.threshold(&levels)?;
        can_judge(threshold, self.max_regression).then(|| Alone {
            measurement: measurement(role.of(&speed.reference, &speed.candidate), &levels),
            threshold,
        })
    }

    /// Whether the reference accounts for a change of the ratio: its own speed surely changed the other way, by half of
    /// that or more, and the candidate's did not change by more than it may.
    fn reference_changed(&self, speed: &Speed, ratio: &GateMeasurement) -> bool {
        let of = |role| self.of_engine(speed, role);
        let (Some(reference), Some(candidate)) = (of(Role::Reference), of(Role::Candidate)) else {
            return false;
        };
        let Some((ratio, moved)) = ratio.from_best.zip(reference.measurement.from_best) else {
            return false;
        };
        let (surely, same) = match ratio.change < 0.0 {
            true => (
                moved.low > 0.0,
                is_red(&candidate.measurement, candidate.threshold),
            ),
            false => (
                moved.high < 0.0,
                is_improved(&candidate.measurement, candidate.threshold),
            ),
        };
        surely && !same && moved.change.ln_1p().abs() >= ratio.change.ln_1p().abs() / 2.0
    }

    /// Whether the machine accounts for a slowdown of both engines: what it can do at best fell, too, by half of that or
    /// more.
    fn machine_is_slower(&self, speed: &Speed, candidate: &GateMeasurement) -> bool {
        let machine = self.machine(speed);
        let candidate = candidate.from_best.map(|c| c.change);
        let both = machine.zip(candidate);
        both.is_some_and(|(machine, candidate)| machine.ln_1p() <= candidate.ln_1p() / 2.0)
    }

    /// Change of the machine's read bandwidth or int8 peak, whichever fell more.
    fn machine(&self, speed: &Speed) -> Option<f64> {
        let here = &self.report.environment;
        let now = Machine::of(self.report, speed.threads)?;
        let runs = self.runs.iter();
        let before: Vec<Machine> = runs
            .filter(|run| same_environment(&run.key.environment, here))
            .filter_map(|run| run.speed(&speed.at())?.machine)
            .collect();
        let figures: [fn(&Machine) -> Option<f64>; 2] =
            [|m| m.read_bytes_per_second, |m| m.int8_macs_per_second];
        let changes = figures.into_iter().filter_map(|figure| {
            let mut before: Vec<f64> = before.iter().filter_map(figure).collect();
            let (now, known) = (figure(&now)?, !before.is_empty());
            let middle = known.then(|| median(&mut before))?;
            (now > 0.0 && middle > 0.0).then(|| change(now, middle))
        });
        changes.reduce(f64::min)
    }

    fn alone(&self, speed: &Speed) -> Option<GateAlone> {
        let of = |role: Role| {
            let levels = self.levels(&speed.at(), GateFigure::Absolute, own(role));
            let mut samples = role.of(&speed.reference, &speed.candidate).clone();
            let level = levels.last()?;
            Some(change(median(&mut samples), median(&mut level.clone())))
        };
        Some(GateAlone {
            reference: of(Role::Reference)?,
            candidate: of(Role::Candidate)?,
            machine: self.machine(speed),
        })
    }

    /// Whether a slowdown of a series has come at once: each time it was measured it was below the latest run by twice what
    /// is let through, and that run was at the best of a level that is no new one. Steps that are each let through do not
    /// add up to that in one.
    pub(super) fn came_at_once(&self, series: &GateSeries) -> bool {
        let at = (series.test.clone(), series.threads);
        let of = match series.figure {
            GateFigure::Ratio => ratio,
            GateFigure::Absolute => own(Role::Candidate),
        };
        let levels = self.levels(&at, series.figure, of);
        let level = last(&levels);
        let (Some(&latest), Some(best)) = (level.last(), series.best) else {
            return false;
        };
        let (Some(noise), Some(threshold)) = (series.noise, series.threshold) else {
            return false;
        };
        let at_best = change(latest, best) >= -noise.max(self.max_regression / 2.0);
        let at_once = |m: &GateMeasurement| change(m.value, latest) < -2.0 * threshold;
        level.len() >= MIN_RUNS && at_best && series.measurements.iter().all(at_once)
    }
}

fn ratio(speed: &RunSpeed) -> f64 {
    speed.ratio
}

fn own(role: Role) -> fn(&RunSpeed) -> f64 {
    role.of(|speed| speed.reference, |speed| speed.candidate)
}

fn last(levels: &[Vec<f64>]) -> &[f64] {
    levels.last().map_or(&[], Vec::as_slice)
}

/// Whether absolute figures of both can be compared. That the machine is of the same kind is known already.
fn same_environment(a: &Environment, b: &Environment) -> bool {
    (a.memory_bytes, &a.os) == (b.memory_bytes, &b.os)
}
