//! Tests and their samples.

use std::fmt;

use reports::model::{BenchRatio, BenchRow, CERTIFIED, InterToken};

use crate::stats::{measured, median, quantile};

/// What is timed, in the order of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Test {
    /// Tokens from an empty context.
    Prefill(usize),
    /// Steps.
    Decode(usize),
    /// The same with the candidate's compact head.
    Certified(usize),
    TimeToFirstToken,
    Load(Cache),
    /// Loading, then the first token.
    FirstToken(Cache),
}

/// The state of the page cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cache {
    Warm,
    Cold,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Prefill(tokens) => write!(f, "pp{tokens}"),
            Test::Decode(steps) => write!(f, "tg{steps}"),
            Test::Certified(steps) => write!(f, "tg{steps}{CERTIFIED}"),
            Test::TimeToFirstToken => f.write_str("ttft"),
            Test::Load(cache) => write!(f, "load{cache}"),
            Test::FirstToken(cache) => write!(f, "load+ttft{cache}"),
        }
    }
}

/// As the end of a test's name.
impl fmt::Display for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cache::Warm => "",
            Cache::Cold => " cold",
        })
    }
}

impl Test {
    /// Tokens that the time is for; `None` where it is the time itself that counts.
    fn tokens(self) -> Option<usize> {
        match self {
            Test::Prefill(n) | Test::Decode(n) | Test::Certified(n) => Some(n),
            _ => None,
        }
    }
}

/// Samples of one test, of reference and candidate.
#[derive(Default)]
pub(super) struct Series([Samples; 2]);

#[derive(Default)]
struct Samples {
    /// Of each repetition.
    ms: Vec<f64>,
    /// Of every step of all repetitions.
    steps_ms: Vec<f64>,
    cpu_seconds: Vec<f64>,
    joules: Vec<f64>,
}

impl Series {
    pub(super) fn push_ms(&mut self, side: usize, ms: f64) {
        self.0[side].ms.push(ms);
    }

    pub(super) fn push_steps(&mut self, side: usize, steps_ms: &[f64]) {
        self.0[side].ms.push(steps_ms.iter().sum());
        self.0[side].steps_ms.extend(steps_ms);
    }

    pub(super) fn push_usage(
        &mut self,
        side: usize,
        cpu_seconds: Option<f64>,
        joules: Option<f64>,
    ) {
        self.0[side].cpu_seconds.extend(cpu_seconds);
        self.0[side].joules.extend(joules);
    }

    pub(super) fn row(
        &self,
        side: usize,
        (engine, threads, test): (&str, usize, Test),
        share: impl Fn(f64) -> Option<f64>,
    ) -> BenchRow {
        let samples = &self.0[side];
        let (tps, ms) = match test.tokens() {
            Some(n) => {
                let per_second = samples.ms.iter().map(|ms| n as f64 * 1e3 / ms);
                (measured(per_second.collect()), None)
            }
            None => (None, measured(samples.ms.clone())),
        };
        let median = |x: &[f64]| (!x.is_empty()).then(|| median(&mut x.to_vec()));
        BenchRow {
            engine: engine.to_owned(),
            threads,
            test: test.to_string(),
            roofline_share: tps.as_ref().and_then(|tps| share(tps.median)),
            tps,
            ms,
            inter_token: inter_token(&samples.steps_ms),
            cpu_seconds: median(&samples.cpu_seconds),
            energy: median(&samples.joules),
        }
    }

    /// Of the speeds, candidate over reference, pair by pair.
    pub(super) fn ratio(&self, threads: usize, test: Test) -> Option<BenchRatio> {
        let [reference, candidate] = &self.0;
        let pairs = reference.ms.iter().zip(&candidate.ms);
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
    use super::*;

    #[test]
    fn decode_steps_become_speed_percentiles_and_a_ratio() {
        let mut series = Series::default();
        for repetition in 0..2 {
            series.push_steps(0, &[10.0, 30.0]);
            series.push_steps(1, &[4.0, 4.0]);
            series.push_usage(0, Some(0.5 + f64::from(repetition)), None);
        }
        let test = Test::Decode(2);
        let row = series.row(0, ("r", 3, test), |tps| Some(tps / 100.0));
        assert_eq!((row.test.as_str(), row.threads, row.ms), ("tg2", 3, None));
        assert_eq!(row.tps.unwrap().samples, [50.0, 50.0]);
        assert_eq!(row.roofline_share, Some(0.5));
        let inter_token = row.inter_token.unwrap();
        assert_eq!((inter_token.p50, inter_token.p99), (10.0, 30.0));
        assert_eq!((row.cpu_seconds, row.energy), (Some(1.0), None));
        assert_eq!(series.ratio(3, test).unwrap().median, 5.0);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let series = Series::default();
        let test = Test::Load(Cache::Cold);
        let row = series.row(1, ("c", 1, test), Some);
        assert_eq!(row.test, "load cold");
        assert_eq!((row.tps, row.ms, row.inter_token), (None, None, None));
        assert_eq!((row.roofline_share, row.cpu_seconds), (None, None));
        assert_eq!(series.ratio(1, test), None);
    }

    #[test]
    fn names_of_tests() {
        let names = [
            Test::Prefill(128),
            Test::Decode(64),
            Test::Certified(64),
            Test::TimeToFirstToken,
            Test::Load(Cache::Warm),
            Test::Load(Cache::Cold),
            Test::FirstToken(Cache::Warm),
            Test::FirstToken(Cache::Cold),
        ];
        assert!(names.is_sorted());
        let names = names.map(|test| test.to_string());
        let want = [
            "pp128",
            "tg64",
            "tg64 certified",
            "ttft",
            "load",
            "load cold",
            "load+ttft",
            "load+ttft cold",
        ];
        assert_eq!(names, want);
    }
}
