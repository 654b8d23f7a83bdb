//! Medians with bootstrap intervals.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use reports::model::Measured;

const RESAMPLES: usize = 2000;

/// Median of `samples` with the 95% percentile-bootstrap interval (Efron 1979). `None` without samples.
pub fn measured(samples: Vec<f64>) -> Option<Measured> {
    if samples.is_empty() {
        return None;
    }
    // A fixed seed: the same samples give the same interval.
    let mut rng = SmallRng::seed_from_u64(0);
    let mut resample = vec![0.0; samples.len()];
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            resample.fill_with(|| samples[rng.random_range(0..samples.len())]);
            median(&mut resample)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Some(Measured {
        median: median(&mut samples.clone()),
        low: medians[RESAMPLES * 25 / 1000],
        high: medians[RESAMPLES * 975 / 1000 - 1],
        samples,
    })
}

/// Sorts `x`, which is not empty.
fn median(x: &mut [f64]) -> f64 {
    x.sort_by(f64::total_cmp);
    let middle = x.len() / 2;
    if x.len() % 2 == 1 {
        x[middle]
    } else {
        (x[middle - 1] + x[middle]) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_only_samples_bound_it() {
        let m = measured(vec![3.0, 1.0, 2.0, 10.0, 2.5]).unwrap();
        assert_eq!(m.median, 2.5);
        assert!(
            1.0 <= m.low && m.low < 2.5 && 2.5 < m.high && m.high <= 10.0,
            "{m:?}"
        );
        assert_eq!(m.samples, [3.0, 1.0, 2.0, 10.0, 2.5]);
    }

    #[test]
    fn one_sample_is_its_own_interval() {
        let m = measured(vec![4.0]).unwrap();
        assert_eq!((m.median, m.low, m.high), (4.0, 4.0, 4.0));
        assert!(measured(Vec::new()).is_none());
    }
}
