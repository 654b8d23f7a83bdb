//! The speeds that a report holds, sample by sample.

use reports::model::{BenchRow, GateFigure, Report, Test};

use super::TestAt;

/// One test at one thread count, in pairs.
#[derive(Clone, Debug)]
pub struct Speed {
    /// As in a report's `bench`.
    pub test: String,
    /// Threads.
    pub threads: usize,
    /// Per second, one per pair; as many as of the candidate.
    pub reference: Vec<f64>,
    /// Likewise.
    pub candidate: Vec<f64>,
}

/// Every test that both engines ran. `ttft` is the first `pp` test, in other words.
pub fn speeds(report: &Report) -> Vec<Speed> {
    let pairs = report.timed_pairs().into_iter();
    let pairs = pairs.filter(|pair| pair.test.parse() != Ok(Test::TimeToFirstToken));
    let speeds = pairs.filter_map(|pair| {
        let (reference, candidate) = (per_second(pair.reference?)?, per_second(pair.candidate?)?);
        (reference.len() == candidate.len()).then(|| Speed {
            test: pair.test.to_owned(),
            threads: pair.threads,
            reference,
            candidate,
        })
    });
    speeds.collect()
}

/// `None` without samples, or with one that is no speed.
fn per_second(row: &BenchRow) -> Option<Vec<f64>> {
    let samples: Vec<f64> = match (&row.tps, &row.ms) {
        (Some(tps), _) => tps.samples.clone(),
        (None, Some(ms)) => ms.samples.iter().map(|ms| 1e3 / ms).collect(),
        (None, None) => return None,
    };
    let speeds = samples.iter().all(|x| x.is_finite() && *x > 0.0);
    (speeds && !samples.is_empty()).then_some(samples)
}

impl Speed {
    /// Which test it is of.
    pub fn at(&self) -> TestAt {
        (self.test.clone(), self.threads)
    }

    /// One sample per pair.
    pub fn samples(&self, figure: GateFigure) -> Vec<f64> {
        match figure {
            GateFigure::Ratio => {
                let pairs = self.candidate.iter().zip(&self.reference);
                pairs
                    .map(|(candidate, reference)| candidate / reference)
                    .collect()
            }
            GateFigure::Absolute => self.candidate.clone(),
        }
    }
}
