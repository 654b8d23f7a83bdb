//! How much a speed changed, how sure that is, and how much it scatters by itself.

use reports::model::{GateChange, GateMeasurement};
use statrs::distribution::{ContinuousCDF, Normal, StudentsT};

use crate::stats::{median, resampled_interval};

/// Runs in the history that the noise is taken of, at the least, and that a level is the median of.
pub const MIN_RUNS: usize = 5;

/// Samples of a measurement, at the least: the bootstrap of fewer says nothing.
pub const MIN_SAMPLES: usize = 5;

/// A difference of successive runs counts as at most so many times their median: a single wild run is no noise.
const MOST_MEDIANS: f64 = 3.0;

/// How many times the slowdown that is let through must be told apart from no change, for a series to be judged.
const WIDEST: f64 = 3.0;

/// A measurement held against the last of `levels`, of which there may be none, and against the best.
pub fn measurement(samples: &[f64], levels: &[Vec<f64>]) -> GateMeasurement {
    let from_level = from(samples, levels.last().map_or(&[], Vec::as_slice));
    GateMeasurement {
        value: median(&mut samples.to_vec()),
        samples: samples.len(),
        change: from_level.map(|c| c.change),
        low: from_level.map(|c| c.low),
        high: from_level.map(|c| c.high),
        from_best: from(samples, best(levels)),
    }
}

/// The change of the median, with its interval. `None` against no runs.
fn from(samples: &[f64], runs: &[f64]) -> Option<GateChange> {
    if runs.is_empty() {
        return None;
    }
    let (low, high) = resampled_interval(&[samples, runs], |[now, before]| {
        change(median(now), median(before))
    });
    let change = change(median(&mut samples.to_vec()), median(&mut runs.to_vec()));
    Some(GateChange { change, low, high })
}

pub fn change(now: f64, before: f64) -> f64 {
    now / before - 1.0
}

/// The successive runs of the last level with the largest median: half of them, so that a long history has no luckier best
/// and no single run is one. A level of fewer than [`MIN_RUNS`] that began faster than the one before does not count yet.
pub fn best(levels: &[Vec<f64>]) -> &[f64] {
    let of = |runs: &[f64]| median(&mut runs.to_vec());
    let Some((level, before)) = levels.split_last() else {
        return &[];
    };
    let before = best_of(before.last().map_or(&[], Vec::as_slice));
    let faster = |first: &f64| !before.is_empty() && *first > of(before);
    match level.len() < MIN_RUNS && level.first().is_some_and(faster) {
        true => before,
        false => best_of(level),
    }
}

fn best_of(level: &[f64]) -> &[f64] {
    let n = level.len().div_ceil(2);
    let of = |runs: &[f64]| median(&mut runs.to_vec());
    let windows = level.windows(n.max(1));
    // Of equals the latest.
    let best = windows.max_by(|a, b| of(a).total_cmp(&of(b)));
    best.unwrap_or_default()
}

/// Standard deviation of single runs, as a share, from the differences of successive ones within each of `levels`, so that
/// a drift is none of it; larger where they are few, as Student's t is wider than the normal distribution (at 99%). Three
/// differences are worth two degrees of freedom (von Neumann 1941). `None` if the runs are fewer than [`MIN_RUNS`], one
/// per further level not counted.
pub fn noise(levels: &[Vec<f64>]) -> Option<f64> {
    let pairs = levels.iter().flat_map(|level| level.windows(2));
    let mut differences: Vec<f64> = pairs.map(|pair| (pair[1] / pair[0]).ln().abs()).collect();
    let n = differences.len();
    if n + 1 < MIN_RUNS {
        return None;
    }
    let most = MOST_MEDIANS * median(&mut differences);
    let squares: f64 = differences.iter().map(|d| d.min(most).powi(2)).sum();
    let freedom = 2.0 * n as f64 / 3.0;
    let t = StudentsT::new(0.0, 1.0, freedom).ok()?.inverse_cdf(0.995);
    Some((squares / (2.0 * n as f64)).sqrt() * t / Normal::standard().inverse_cdf(0.995))
}

/// Whether a slowdown beyond `threshold` is near enough to the `max_regression` that is asked about, and none at all is
/// possible.
pub fn can_judge(threshold: f64, max_regression: f64) -> bool {
    threshold <= WIDEST * max_regression && threshold < 1.0
}

/// Surely slower than the best level, and by more than `threshold`.
pub fn is_red(m: &GateMeasurement, threshold: f64) -> bool {
    m.from_best
        .is_some_and(|c| c.change < -threshold && c.high < 0.0)
}

/// Surely faster than the best level, and by more than `threshold`.
pub fn is_improved(m: &GateMeasurement, threshold: f64) -> bool {
    m.from_best
        .is_some_and(|c| c.change > threshold && c.low > 0.0)
}

/// Slower by more than `threshold`, if not surely; or it is not excluded that it is slower by a multiple of
/// `max_regression`: neither by the interval, which knows how pairs scatter, nor by two deviations of single runs, which
/// have `noise`.
pub fn is_open(m: &GateMeasurement, noise: f64, threshold: f64, max_regression: f64) -> bool {
    m.from_best.is_some_and(|c| {
        let least = c.low.min(c.change - 2.0 * noise);
        c.change < -threshold || least < -WIDEST * max_regression
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_a_share_of_the_level() {
        let m = measurement(&[1.8, 1.8, 1.8, 1.8, 1.8], &[vec![2.0, 2.0, 2.0]]);
        let near = |x: Option<f64>| (x.unwrap() + 0.1).abs() < 1e-12;
        assert!(near(m.change) && near(m.low) && near(m.high), "{m:?}");
        assert!(is_red(&m, 0.05) && !is_red(&m, 0.11) && !is_improved(&m, 0.05));
        let faster = measurement(&[2.5; 5], &[vec![2.0]]);
        assert!(is_improved(&faster, 0.05) && !is_red(&faster, 0.05));
    }

    #[test]
    fn samples_on_both_sides_of_the_level_are_not_red() {
        let m = measurement(&[1.0, 1.5, 2.1, 2.2, 1.7], &[vec![2.0; 5]]);
        assert!(m.change.unwrap() < -0.05 && m.high.unwrap() > 0.0, "{m:?}");
        assert!(!is_red(&m, 0.05) && is_open(&m, 0.0, 0.05, 0.05));
        // So is what lies within the threshold, and may be far beyond it.
        let m = measurement(&[1.2, 1.95, 2.1, 2.2, 1.9], &[vec![2.0; 5]]);
        assert!(
            m.change.unwrap() > -0.051 && is_open(&m, 0.0, 0.06, 0.05),
            "{m:?}"
        );
        assert!(!is_open(&m, 0.0, 0.06, 0.2));
        // So is one run of many that scatter.
        let m = measurement(&[1.86; 5], &[vec![2.0; 5]]);
        assert!(!is_open(&m, 0.03, 0.09, 0.05) && is_open(&m, 0.045, 0.135, 0.05));
    }

    #[test]
    fn without_a_level_there_is_no_change() {
        let m = measurement(&[1.0; 5], &[]);
        assert_eq!((m.change, m.low, m.high), (None, None, None));
        assert!(!is_red(&m, 0.0) && !is_improved(&m, 0.0));
    }

    #[test]
    fn the_best_level_is_of_several_runs_and_none_is_lucky_alone() {
        let level = vec![2.0, 2.0, 9.0, 2.0, 2.0, 1.9];
        assert_eq!(best(std::slice::from_ref(&level)), [2.0, 2.0, 1.9]);
        assert_eq!(best(&[vec![1.0, 3.0]]), [3.0]);
        assert!(best(&[]).is_empty());
        // A faster level is one from its fifth run on, a slower one at once.
        assert_eq!(best(&[level.clone(), vec![3.0; 4]]), [2.0, 2.0, 1.9]);
        assert_eq!(best(&[level.clone(), vec![3.0; 5]]), [3.0; 3]);
        assert_eq!(best(&[level, vec![1.0]]), [1.0]);
        let falling: Vec<f64> = (0..20).map(|i| 2.0 - 0.02 * f64::from(i)).collect();
        let levels = [falling.clone()];
        assert_eq!(best(&levels), &falling[..10]);
        let m = measurement(&[1.6; 5], &levels);
        assert!(m.from_best.unwrap().change < m.change.unwrap());
    }

    #[test]
    fn noise_is_that_of_successive_runs_and_wants_enough_of_them() {
        let level = |middle: f64| vec![middle * 0.98, middle * 1.02, middle * 0.98];
        assert_eq!(noise(&[level(1.0)]), None);
        // Six runs of two levels are as good as five of one.
        let noise = noise(&[level(1.0), level(3.0)]).unwrap();
        // The t-quantile of 8/3 degrees of freedom is 6.627, the normal one 2.576.
        let one = (1.02_f64 / 0.98).ln() / 2.0_f64.sqrt();
        assert!((noise / one - 6.627 / 2.5758).abs() < 0.01, "{noise}");
        assert_eq!(super::noise(&[]), None);
        assert_eq!(super::noise(&[vec![1.0; 4]]), None);
        assert_eq!(super::noise(&[vec![1.0; 5]]), Some(0.0));
    }

    #[test]
    fn a_drift_and_a_wild_run_are_little_noise() {
        let drift: Vec<f64> = (0..20).map(|i| 0.97_f64.powi(i)).collect();
        let spread = (drift[0] - drift[19]) / 4.0;
        assert!(noise(&[drift]).unwrap() < spread / 4.0);
        let run = |i: i32| 2.0 + 0.01 * f64::from(i % 2);
        let calm: Vec<f64> = (0..20).map(run).collect();
        let mut wild = calm.clone();
        wild[10] = 1.0;
        assert!(noise(&[wild]).unwrap() < 1.6 * noise(&[calm]).unwrap());
    }
}
