//! Medians, means with bootstrap intervals, quantiles.

use bitnet_model::random::Rng;
use reports::model::Measured;

const RESAMPLES: usize = 2000;

/// Indices of the ends of the 95% interval among the sorted resamples.
const LOW: usize = RESAMPLES * 25 / 1000;
const HIGH: usize = RESAMPLES * 975 / 1000 - 1;

/// Median of `samples` with the 95% percentile-bootstrap interval (Efron 1979). `None` without samples.
pub fn measured(samples: Vec<f64>) -> Option<Measured> {
    if samples.is_empty() {
        return None;
    }
    let (low, high) = resampled_interval(&[&samples], |resample| median(&mut resample[0]));
    Some(Measured {
        median: median(&mut samples.clone()),
        low,
        high,
        samples,
    })
}

/// The mean of all values, given as (sum, count) per group, with its 95% percentile-bootstrap interval, for which
/// whole groups are resampled: values within one need not be independent. The interval is `None` with fewer than two
/// groups. `None` if there are no values, or one is not finite.
pub fn grouped_mean(groups: &[(f64, usize)]) -> Option<(f64, Option<(f64, f64)>)> {
    let mean = |chosen: &mut dyn Iterator<Item = &(f64, usize)>| {
        let (sum, count) = chosen.fold((0.0, 0), |(sum, count), &(s, n)| (sum + s, count + n));
        sum / count as f64
    };
    let of_all = mean(&mut groups.iter());
    if !of_all.is_finite() {
        return None;
    }
    if groups.len() < 2 {
        return Some((of_all, None));
    }
    let mut rng = Rng::new(0, "bootstrap");
    let mut means: Vec<f64> = (0..RESAMPLES)
        .map(|_| mean(&mut (0..groups.len()).map(|_| &groups[rng.below(groups.len())])))
        .collect();
    means.sort_by(f64::total_cmp);
    Some((of_all, Some((means[LOW], means[HIGH]))))
}

/// The 95% percentile-bootstrap interval of what `statistic` makes of some series, each resampled by itself. None of
/// them is empty.
pub fn resampled_interval<const N: usize>(
    series: &[&[f64]; N],
    mut statistic: impl FnMut(&mut [Vec<f64>; N]) -> f64,
) -> (f64, f64) {
    // A fixed seed: the same samples give the same interval.
    let mut rng = Rng::new(0, "bootstrap");
    let mut resamples = series.map(<[f64]>::to_vec);
    let mut values: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            for (resample, samples) in resamples.iter_mut().zip(series) {
                resample.fill_with(|| samples[rng.below(samples.len())]);
            }
            statistic(&mut resamples)
        })
        .collect();
    values.sort_by(f64::total_cmp);
    (values[LOW], values[HIGH])
}

/// The `q`-quantile of sorted values by nearest rank, so that it is one of them. `None` without values.
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    let rank = (q * sorted.len() as f64).ceil() as usize;
    sorted
        .get(rank.max(1).min(sorted.len()).checked_sub(1)?)
        .copied()
}

/// Sorts `x`, which is not empty.
pub fn median(x: &mut [f64]) -> f64 {
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

    #[test]
    fn quantiles_are_values_by_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        for (q, want) in [
            (0.5, 50.0),
            (0.95, 95.0),
            (0.99, 99.0),
            (0.0, 1.0),
            (1.0, 100.0),
        ] {
            assert_eq!(quantile(&hundred, q), Some(want), "{q}");
        }
        assert_eq!(quantile(&[1.0, 2.0, 3.0], 0.95), Some(3.0));
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn a_mean_over_groups_weighs_every_value_alike() {
        let (mean, interval) = grouped_mean(&[(6.0, 3), (8.0, 1)]).unwrap();
        assert_eq!(mean, 3.5);
        // A resample is one group twice, or both.
        assert_eq!(interval, Some((2.0, 8.0)));
        assert_eq!(grouped_mean(&[(6.0, 3)]), Some((2.0, None)));
        let same = vec![(1.5, 3); 20];
        assert_eq!(grouped_mean(&same), Some((0.5, Some((0.5, 0.5)))));
    }

    #[test]
    fn a_mean_of_nothing_or_of_nan_is_none() {
        for groups in [&[][..], &[(0.0, 0)], &[(f64::NAN, 1), (1.0, 1)]] {
            assert_eq!(grouped_mean(groups), None);
        }
    }
}
