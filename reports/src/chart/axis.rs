//! A logarithmic axis that has room for exact zero and for what is not finite.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};

use crate::facts::Level;
use crate::number;

/// A linear axis with ticks of our choice (plotters' own choose theirs).
pub(super) struct TickedAxis {
    pub range: Range<f64>,
    pub ticks: Vec<f64>,
}

impl Ranged for TickedAxis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.start) / (self.range.end - self.range.start);
        from + (share * f64::from(to - from)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.clone()
    }
}

/// Decades from `low` to `high`, a slot for 0 below and one for "not finite" above where they occur.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct LogAxis {
    low: i32,
    high: i32,
    /// Decades between ticks.
    step: i32,
    zero: bool,
    not_finite: bool,
}

impl LogAxis {
    /// An axis that holds all of `levels`.
    pub(super) fn new(levels: impl Iterator<Item = Level>) -> LogAxis {
        let (mut low, mut high) = (i32::MAX, i32::MIN);
        let (mut zero, mut not_finite) = (false, false);
        for level in levels {
            match level {
                Level::Value(x) if x > 0.0 => {
                    low = low.min(x.log10().floor() as i32);
                    high = high.max(x.log10().ceil() as i32);
                }
                Level::Value(_) => zero = true,
                Level::NotFinite => not_finite = true,
                Level::NotMeasured => {}
            }
        }
        if low > high {
            (low, high) = (-16, 0);
        }
        let step = ((high - low) / 5).max(1);
        // Whole steps, and at least two of them, keep tick labels apart.
        low = low.div_euclid(step) * step;
        high = -(-high).div_euclid(step) * step;
        if high - low < 2 * step {
            low = high - 2 * step;
        }
        LogAxis {
            low,
            high,
            step,
            zero,
            not_finite,
        }
    }

    /// Where a level lies, in decades; nothing for what was not measured.
    pub(super) fn place(&self, level: Level) -> Option<f64> {
        match level {
            Level::NotMeasured => None,
            Level::Value(x) if x > 0.0 => Some(x.log10()),
            Level::Value(_) => Some(f64::from(self.low - self.step)),
            Level::NotFinite => Some(f64::from(self.high + self.step)),
        }
    }

    /// The ends of the axis, with a little room.
    pub(super) fn range(&self) -> (f64, f64) {
        let room = f64::from(self.step) * 0.3;
        let below = if self.zero { self.step } else { 0 };
        let above = if self.not_finite { self.step } else { 0 };
        (
            f64::from(self.low - below) - room,
            f64::from(self.high + above) + room,
        )
    }

    pub(super) fn ticks(&self) -> Vec<f64> {
        let below = if self.zero { self.step } else { 0 };
        let above = if self.not_finite { self.step } else { 0 };
        (self.low - below..=self.high + above)
            .step_by(self.step as usize)
            .map(f64::from)
            .collect()
    }

    pub(super) fn label(&self, tick: f64) -> String {
        let tick = tick.round() as i32;
        if tick < self.low {
            "0".to_owned()
        } else if tick > self.high {
            "not finite".to_owned()
        } else {
            format!("1e{tick}")
        }
    }
}

/// About eight whole numbers from `low` to `high`, evenly spaced.
pub(super) fn whole_ticks(low: f64, high: f64) -> Vec<f64> {
    let step = [1.0, 2.0, 5.0]
        .into_iter()
        .cycle()
        .zip(0..200)
        .map(|(digit, i)| digit * 10f64.powi(i / 3))
        .find(|step| (high - low) / step <= 8.0)
        .unwrap_or(1.0);
    let first = (low / step).ceil();
    (0..=8)
        .map(|i| (first + f64::from(i)) * step)
        .take_while(|tick| *tick <= high)
        .collect()
}

/// About five round numbers from `low` to `high`, evenly spaced.
pub(super) fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .map(|digit| digit * magnitude)
        .into_iter()
        .find(|step| *step >= rough && step.is_normal());
    let Some(step) = step else { return vec![low] };
    let first = (low / step).ceil();
    (0..=5)
        .map(|i| (first + f64::from(i)) * step)
        .take_while(|tick| *tick <= high)
        .collect()
}

/// A tick with the digits that tell it from the next one.
pub(super) fn label(tick: f64, ticks: &[f64]) -> String {
    let step = match ticks {
        [a, b, ..] => b - a,
        _ => tick,
    };
    let decimals = -step.abs().log10().floor();
    if tick == 0.0 || (tick.abs() < 1e7 && (-7.0..=4.0).contains(&decimals)) {
        format!(
            "{tick:.*}",
            if tick == 0.0 {
                0
            } else {
                decimals.max(0.0) as usize
            }
        )
    } else {
        number::significant(tick, 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_not_finite_have_their_own_slots() {
        let levels = [
            Level::Value(3e-14),
            Level::Value(0.0),
            Level::NotFinite,
            Level::Value(2e-3),
            Level::NotMeasured,
        ];
        let axis = LogAxis::new(levels.into_iter());
        let labels: Vec<_> = axis.ticks().into_iter().map(|t| axis.label(t)).collect();
        assert_eq!(labels.first().unwrap(), "0");
        assert_eq!(labels.last().unwrap(), "not finite");
        let (low, high) = axis.range();
        for level in &levels[..4] {
            let y = axis.place(*level).unwrap();
            assert!(low < y && y < high, "{y}");
        }
        assert_eq!(axis.place(Level::NotMeasured), None);
    }

    #[test]
    fn extreme_values_fit() {
        for (a, b) in [(5e-324, f64::MAX), (1.0, 1.0), (1e-9, 1e-9), (0.5, 2.0)] {
            let axis = LogAxis::new([Level::Value(a), Level::Value(b)].into_iter());
            let (low, high) = axis.range();
            assert!(low < a.log10() && b.log10() < high, "{axis:?}");
            assert!((3..=9).contains(&axis.ticks().len()), "{axis:?}");
        }
    }

    #[test]
    fn whole_numbers() {
        assert_eq!(whole_ticks(0.0, 3.0), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(whole_ticks(0.0, 29.0), [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]);
        assert_eq!(whole_ticks(7.0, 7.0), [7.0]);
        assert!(whole_ticks(0.0, 1.8e19).len() <= 9);
    }

    #[test]
    fn round_numbers() {
        let labels = |low, high| -> Vec<String> {
            let ticks = linear_ticks(low, high);
            ticks.iter().map(|&tick| label(tick, &ticks)).collect()
        };
        assert_eq!(labels(0.0, 104.0), ["0", "50", "100"]);
        assert_eq!(labels(0.0, 1.0), ["0", "0.2", "0.4", "0.6", "0.8", "1.0"]);
        assert_eq!(labels(1.0, 2.0), ["1.0", "1.2", "1.4", "1.6", "1.8", "2.0"]);
        assert_eq!(labels(128.0, 512.0), ["200", "300", "400", "500"]);
        assert_eq!(labels(3.0, 3.0), ["3"]);
        assert_eq!(labels(0.0, 3e9)[1], "1.00e9");
        for (low, high) in [
            (0.0, 5e-324),
            (0.0, 1e300),
            (1e300, 1.1e300),
            (1.0, 1.0 + 1e-16),
        ] {
            assert!(
                (1..=6).contains(&linear_ticks(low, high).len()),
                "{low} {high}"
            );
        }
    }
}
