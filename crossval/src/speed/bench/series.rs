//! Samples of tests.

use reports::model::{BenchRatio, BenchRow, InterToken, Role, Test};

use super::clock::{self, Took};
use crate::stats::{measured, median, quantile};

/// A test, and its threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimedTest {
    /// The test.
    pub(crate) test: Test,
    /// Threads.
    pub(crate) threads: usize,
}

/// Samples of one test, of reference and candidate.
#[derive(Default)]
pub(super) struct Series {
    reference: Samples,
    candidate: Samples,
}

#[derive(Default)]
struct Samples {
    /// Of each repetition.
    ms: Vec<f64>,
    /// Of every step of all repetitions.
    steps_ms: Vec<f64>,
    cpu_seconds: Vec<f64>,
    joules: Vec<f64>,
    requests: Vec<Took>,
}

impl Series {
    fn of(&mut self, role: Role) -> &mut Samples {
        role.of(&mut self.reference, &mut self.candidate)
    }

    pub(super) fn push_ms(&mut self, role: Role, ms: f64) {
        self.of(role).ms.push(ms);
    }

    pub(super) fn push_steps(&mut self, role: Role, steps_ms: &[f64]) {
        let samples = self.of(role);
        samples.ms.push(steps_ms.iter().sum());
        samples.steps_ms.extend(steps_ms);
    }

    pub(super) fn push_usage(&mut self, role: Role, cpu_seconds: Option<f64>, joules: Option<f64>) {
        let samples = self.of(role);
        samples.cpu_seconds.extend(cpu_seconds);
        samples.joules.extend(joules);
    }

    pub(super) fn push_request(&mut self, role: Role, took: Took) {
        self.of(role).requests.push(took);
    }

    /// Why what an engine reports does not fit the driver's clock, as [`clock::contradiction`] says.
    pub(super) fn contradiction(&self, role: Role, most_prompt_ms: Option<f64>) -> Option<String> {
        let samples = role.of(&self.reference, &self.candidate);
        clock::contradiction(&samples.requests, most_prompt_ms.unwrap_or(f64::INFINITY))
    }

    /// Median by the driver's clock, milliseconds.
    pub(super) fn driver_ms(&self, role: Role) -> Option<f64> {
        let samples = role.of(&self.reference, &self.candidate);
        let mut ms: Vec<f64> = samples.requests.iter().map(|r| r.driver_ms).collect();
        (!ms.is_empty()).then(|| median(&mut ms))
    }

    /// Median of what an engine reports, milliseconds.
    pub(super) fn reported_ms(&self, role: Role) -> Option<f64> {
        let ms = &role.of(&self.reference, &self.candidate).ms;
        (!ms.is_empty()).then(|| median(&mut ms.clone()))
    }

    pub(super) fn row(
        &self,
        role: Role,
        engine: String,
        TimedTest { test, threads }: TimedTest,
        share: impl Fn(f64) -> Option<f64>,
    ) -> BenchRow {
        let samples = role.of(&self.reference, &self.candidate);
        let (tps, ms) = match test.tokens() {
            Some(n) => {
                let per_second = samples.ms.iter().map(|ms| n as f64 * 1e3 / ms);
                (measured(per_second.collect()), None)
            }
            None => (None, measured(samples.ms.clone())),
        };
        let median = |x: &[f64]| (!x.is_empty()).then(|| median(&mut x.to_vec()));
        BenchRow {
            engine,
            threads,
            test: test.to_string(),
            roofline_share: tps.as_ref().and_then(|tps| share(tps.median)),
            tps,
            ms,
            inter_token: inter_token(&samples.steps_ms),
            driver_ms: self.driver_ms(role),
            cpu_seconds: median(&samples.cpu_seconds),
            energy: median(&samples.joules),
        }
    }

    /// Of the speeds, candidate over reference, pair by pair.
    pub(super) fn ratio(&self, TimedTest { test, threads }: TimedTest) -> Option<BenchRatio> {
        let pairs = self.reference.ms.iter().zip(&self.candidate.ms);
        let ratio = measured(pairs.map(|(r, c)| r / c).collect())?;
        Some(BenchRatio {
            threads,
            test: test.to_string(),
            median: ratio.median,
            low: ratio.low,
            high: ratio.high,
        })
    }
}

fn inter_token(steps_ms: &[f64]) -> Option<InterToken> {
    let mut sorted = steps_ms.to_vec();
    sorted.sort_by(f64::total_cmp);
    Some(InterToken {
        p50: quantile(&sorted, 0.5)?,
        p95: quantile(&sorted, 0.95)?,
        p99: quantile(&sorted, 0.99)?,
        samples: steps_ms.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use reports::model::Cache;

    use super::*;

    #[test]
    fn decode_steps_become_speed_percentiles_and_a_ratio() {
        let mut series = Series::default();
        for repetition in 0..2 {
            series.push_steps(Role::Reference, &[10.0, 30.0]);
            series.push_steps(Role::Candidate, &[4.0, 4.0]);
            series.push_usage(Role::Reference, Some(0.5 + f64::from(repetition)), None);
        }
        let at = TimedTest {
            test: Test::Decode(2),
            threads: 3,
        };
        let row = series.row(Role::Reference, "r".into(), at, |tps| Some(tps / 100.0));
        assert_eq!((row.test.as_str(), row.threads, row.ms), ("tg2", 3, None));
        assert_eq!(row.tps.unwrap().samples, [50.0, 50.0]);
        assert_eq!(row.roofline_share, Some(0.5));
        let inter_token = row.inter_token.unwrap();
        assert_eq!((inter_token.p50, inter_token.p99), (10.0, 30.0));
        assert_eq!((row.cpu_seconds, row.energy), (Some(1.0), None));
        assert_eq!(series.ratio(at).unwrap().median, 5.0);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let series = Series::default();
        let at = TimedTest {
            test: Test::Load(Cache::Cold),
            threads: 1,
        };
        let row = series.row(Role::Candidate, "c".into(), at, Some);
        assert_eq!(row.test, "load cold");
        assert_eq!((row.tps, row.ms, row.inter_token), (None, None, None));
        assert_eq!((row.roofline_share, row.cpu_seconds), (None, None));
        assert_eq!(series.ratio(at), None);
    }
}
