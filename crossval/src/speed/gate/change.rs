//! How much a speed changed, how sure that is, and how much it scatters by itself.

use reports::model::GateMeasurement;
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::stats::{median, resampled_interval};

/// Runs in the history that a standard deviation is taken of, at the least.
pub const MIN_RUNS: usize = 5;

/// Samples of a measurement, at the least: the bootstrap of fewer says nothing.
pub const MIN_SAMPLES: usize = 5;

/// A measurement held against the runs of the present level, of which there may be none.
pub fn measurement(samples: &[f64], level: &[f64]) -> GateMeasurement {
    let value = median(&mut samples.to_vec());
    let mut measurement = GateMeasurement {
        value,
        samples: samples.len(),
        change: None,
        low: None,
        high: None,
    };
    if !level.is_empty() {
        let (low, high) = resampled_interval(&[samples, level], |[now, before]| {
            change(median(now), median(before))
        });
        measurement.change = Some(change(value, median(&mut level.to_vec())));
        (measurement.low, measurement.high) = (Some(low), Some(high));
    }
    measurement
}

fn change(now: f64, before: f64) -> f64 {
    now / before - 1.0
}

/// Standard deviation of single runs, each as a share of its level's median, over all `levels`; larger where they are
/// few, as Student's t is wider than the normal distribution (at 99%). `None` if the runs are fewer than [`MIN_RUNS`],
/// one per further level not counted.
pub fn noise(levels: &[Vec<f64>]) -> Option<f64> {
    let deviations = levels.iter().flat_map(|level| {
        let middle = (!level.is_empty()).then(|| median(&mut level.clone()));
        level
            .iter()
            .filter_map(move |run| Some(change(*run, middle?)))
    });
    let (n, squares) = deviations.fold((0, 0.0), |(n, sum), d| (n + 1, sum + d * d));
    let degrees_of_freedom = n - levels.len().min(n);
    if degrees_of_freedom + 1 < MIN_RUNS {
        return None;
    }
    let freedom = degrees_of_freedom as f64;
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.995);
    Some((squares / freedom).sqrt() * t / Normal::standard().inverse_cdf(0.995))
}

/// Surely slower, and by more than `threshold`.
pub fn is_red(m: &GateMeasurement, threshold: f64) -> bool {
    m.change.is_some_and(|c| c < -threshold) && m.high.is_some_and(|high| high < 0.0)
}

/// Surely faster, and by more than `threshold`.
pub fn is_improved(m: &GateMeasurement, threshold: f64) -> bool {
    m.change.is_some_and(|c| c > threshold) && m.low.is_some_and(|low| low > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_share_of_the_level() {
        let m = measurement(&[1.8, 1.8, 1.8, 1.8, 1.8], &[2.0, 2.0, 2.0]);
        let near = |x: Option<f64>| (x.unwrap() + 0.1).abs() < 1e-12;
        assert!(near(m.change) && near(m.low) && near(m.high), "{m:?}");
        assert!(is_red(&m, 0.05) && !is_red(&m, 0.11) && !is_improved(&m, 0.05));
        let faster = measurement(&[2.5; 5], &[2.0]);
        assert!(is_improved(&faster, 0.05) && !is_red(&faster, 0.05));
    }

    #[test]
    fn samples_on_both_sides_of_the_level_are_not_red() {
        let m = measurement(&[1.0, 1.5, 2.1, 2.2, 1.7], &[2.0; 5]);
        assert!(m.change.unwrap() < -0.05 && m.high.unwrap() > 0.0, "{m:?}");
        assert!(!is_red(&m, 0.05));
    }

    #[test]
    fn without_a_level_there_is_no_change() {
        let m = measurement(&[1.0; 5], &[]);
        assert_eq!((m.change, m.low, m.high), (None, None, None));
        assert!(!is_red(&m, 0.0) && !is_improved(&m, 0.0));
    }

    #[test]
    fn noise_is_that_within_levels_and_wants_enough_runs() {
        let level = |middle: f64| vec![middle * 0.98, middle, middle * 1.02];
        assert_eq!(noise(&[level(1.0)]), None);
        // Six runs of two levels are as good as five of one.
        let noise = noise(&[level(1.0), level(3.0)]).unwrap();
        // The t-quantile of four degrees of freedom is 4.604, the normal one 2.576.
        assert!((noise - 0.02 * 4.6041 / 2.5758).abs() < 1e-5, "{noise}");
        assert_eq!(super::noise(&[]), None);
        assert_eq!(super::noise(&[vec![1.0; 4]]), None);
        assert_eq!(super::noise(&[vec![1.0; 5]]), Some(0.0));
    }
}
