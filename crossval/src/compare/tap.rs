//! Statistics of one tap as its rows stream by.

mod parts;

use half::f16;
use reports::model::{ElementAt, PartBeyond, TapStats};

pub use self::parts::outlier;
use self::parts::{Drift, Parts, Worst};
use super::finite;

/// A row of either engine, widened.
pub trait Value: bytemuck::Pod {
    /// The value in f64.
    fn wide(self) -> f64;
    /// Same bits, the sign of zero aside.
    fn same(self, other: Self) -> bool;
    /// The rows as they are, if they are F32.
    fn both_f32<'a>(a: &'a [Self], b: &'a [Self]) -> Option<(&'a [f32], &'a [f32])>;
}

impl Value for f32 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn same(self, other: f32) -> bool {
        self.to_bits() == other.to_bits() || self == other
    }
    fn both_f32<'a>(a: &'a [f32], b: &'a [f32]) -> Option<(&'a [f32], &'a [f32])> {
        Some((a, b))
    }
}

impl Value for f16 {
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn same(self, other: f16) -> bool {
        self.to_bits() == other.to_bits() || self == other
    }
    fn both_f32<'a>(_: &'a [f16], _: &'a [f16]) -> Option<(&'a [f32], &'a [f32])> {
        None
    }
}

/// One row compared.
#[derive(Clone, Debug)]
struct RowStats {
    bit_equal: bool,
    /// sum((c - r)^2)
    error: f64,
    /// sum(r^2)
    reference: f64,
    /// sum(c^2)
    candidate: f64,
    /// sum(r * c)
    dot: f64,
    max_abs: f64,
    max_abs_element: usize,
    non_finite: u64,
}

impl RowStats {
    fn new<T: Value>(reference: &[T], candidate: &[T]) -> RowStats {
        let bytes: fn(&[T]) -> &[u8] = bytemuck::cast_slice;
        if bytes(reference) == bytes(candidate)
            && let Some(row) = RowStats::of_equals(reference)
        {
            return row;
        }
        let mut row = RowStats {
            bit_equal: true,
            error: 0.0,
            reference: 0.0,
            candidate: 0.0,
            dot: 0.0,
            max_abs: -1.0,
            max_abs_element: 0,
            non_finite: 0,
        };
        for (i, (&r, &c)) in reference.iter().zip(candidate).enumerate() {
            row.bit_equal &= r.same(c);
            let (r, c) = (r.wide(), c.wide());
            let d = c - r;
            row.error += d * d;
            row.reference += r * r;
            row.candidate += c * c;
            row.dot += r * c;
            if !d.is_finite() {
                row.non_finite += 1;
                if row.non_finite == 1 {
                    row.max_abs_element = i;
                }
            } else if row.non_finite == 0 && d.abs() > row.max_abs {
                row.max_abs = d.abs();
                row.max_abs_element = i;
            }
        }
        row
    }

    /// Equal rows, which most are in isolated mode; `None` if a value is not finite.
    fn of_equals<T: Value>(row: &[T]) -> Option<RowStats> {
        let mut lanes = [0.0; 8];
        for chunk in row.chunks(lanes.len()) {
            for (lane, value) in lanes.iter_mut().zip(chunk) {
                *lane += value.wide().powi(2);
            }
        }
        let energy: f64 = lanes.iter().sum();
        energy.is_finite().then_some(RowStats {
            bit_equal: true,
            error: 0.0,
            reference: energy,
            candidate: energy,
            dot: energy,
            max_abs: 0.0,
            max_abs_element: 0,
            non_finite: 0,
        })
    }

    /// sum((c - r)^2) / sum(r^2); NaN where a value is not finite.
    fn nmse(&self) -> f64 {
        nmse(self.error, self.reference)
    }

    fn cosine(&self) -> f64 {
        if self.error == 0.0 {
            return 1.0;
        }
        self.dot / (self.reference.sqrt() * self.candidate.sqrt())
    }
}

fn nmse(error: f64, reference: f64) -> f64 {
    if error == 0.0 { 0.0 } else { error / reference }
}

/// NMSE of one row; NaN where a value is not finite.
pub fn row_nmse<T: Value>(reference: &[T], candidate: &[T]) -> f64 {
    RowStats::new(reference, candidate).nmse()
}

/// NaN counts as larger than everything.
fn exceeds(x: f64, limit: f64) -> bool {
    x.is_nan() || x > limit
}

/// The first row over the limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Exceeded {
    /// Its position.
    pub position: usize,
    /// Its worst element and both values.
    pub at: ElementAt,
    /// Its NMSE; null if not finite.
    pub nmse: Option<f64>,
    /// The limit.
    pub limit: f64,
    /// The part that is beyond its own limit, where the row as a whole is not beyond its.
    pub part: Option<PartBeyond>,
}

/// A row over the limit.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Beyond {
    /// Its position.
    pub position: usize,
    /// Its NMSE; NaN where a value is not finite, infinite where only the reference is all zero.
    pub nmse: f64,
}

/// Collects the rows of one (mode, prompt, layer, tap).
#[derive(Clone, Debug)]
pub struct TapAccumulator {
    limit: Option<f64>,
    angle_per_position: f64,
    n_prefill: usize,
    rows: u64,
    bit_equal: bool,
    worst: f64,
    worst_position: usize,
    prefill: Option<f64>,
    decode: Option<f64>,
    error: f64,
    reference: f64,
    cosine: f64,
    max_abs: f64,
    max_abs_at: Option<ElementAt>,
    non_finite: u64,
    exceeded: Option<Exceeded>,
    beyond: Vec<Beyond>,
    codes: Option<CodeFlips>,
    parts: Option<Parts>,
    drift: Drift,
    /// Largest error of a head and of an element, as a share of its limit.
    shares: [Option<f64>; 2],
}

/// What the int8 quantiser behind a tap makes of the difference.
#[derive(Clone, Debug, Default)]
struct CodeFlips {
    values: u64,
    flipped: u64,
    /// Largest error in quantiser steps of the reference's row.
    steps: f64,
    scratch: [Vec<i8>; 2],
}

impl CodeFlips {
    fn add(&mut self, reference: &[f32], candidate: &[f32], max_abs: f64) {
        let [r, c] = &mut self.scratch;
        let scale = int8_codes(reference, r);
        int8_codes(candidate, c);
        self.flipped += r.iter().zip(c.iter()).filter(|(r, c)| r != c).count() as u64;
        self.steps = self.steps.max(max_abs * f64::from(scale));
    }
}

/// A row's int8 codes and the scale that they were multiplied by: `127 / max(1e-5, max|x|)`, stored in f32; codes are
/// rounded half to even (BitNet b1.58, Ma et al. 2024). Whatever the engines do, this is what they are measured by.
fn int8_codes(x: &[f32], codes: &mut Vec<i8>) -> f32 {
    let max = x
        .iter()
        .fold(1e-5_f64, |max, v| max.max(f64::from(v.abs())));
    let scale = (127.0 / max) as f32;
    // The product of two f32 is exact in f64, and the conversion saturates.
    let code = |v: &f32| (f64::from(*v) * f64::from(scale)).round_ties_even() as i8;
    codes.clear();
    codes.extend(x.iter().map(code));
    scale
}

impl TapAccumulator {
    /// `limit` gates the NMSE of each row; rows below position `n_prefill` are the prefill.
    /// `quantised` says that the tap feeds the int8 quantiser of a ternary product.
    pub fn new(limit: Option<f64>, n_prefill: usize, quantised: bool) -> TapAccumulator {
        TapAccumulator {
            limit,
            angle_per_position: 0.0,
            n_prefill,
            rows: 0,
            bit_equal: true,
            worst: -1.0,
            worst_position: 0,
            prefill: None,
            decode: None,
            error: 0.0,
            reference: 0.0,
            cosine: 1.0,
            max_abs: 0.0,
            max_abs_at: None,
            non_finite: 0,
            exceeded: None,
            beyond: Vec::new(),
            codes: quantised.then(CodeFlips::default),
            parts: limit.map(|limit| Parts {
                heads: 0,
                limit,
                elements: true,
                floor: None,
            }),
            drift: Drift::default(),
            shares: [None; 2],
        }
    }

    /// Rows are made of `heads`, each of which is held against the limit.
    pub fn of_heads(mut self, heads: usize) -> TapAccumulator {
        if let Some(parts) = &mut self.parts {
            parts.heads = heads;
        }
        self
    }

    /// Rows are rotated. Elements may be off by more than others, as the error of each follows the size of its pair, and
    /// the limit grows with the error of the angles, radians per position.
    pub fn of_angles(mut self, per_position: f64) -> TapAccumulator {
        if let Some(parts) = &mut self.parts {
            parts.elements = false;
        }
        self.angle_per_position = per_position;
        self
    }

    fn limit_at(&self, position: usize) -> Option<f64> {
        let angle = self.angle_per_position * position as f64;
        self.limit.map(|limit| limit.max(angle * angle))
    }

    /// The limit allows for activation codes that flip. Without flips, elements are off by an NMSE of up to `floor`.
    pub fn with_flips(mut self, floor: f64) -> TapAccumulator {
        if let Some(parts) = &mut self.parts {
            parts.floor = Some(floor);
        }
        self
    }

    /// Takes the row at `position` of both engines; the slices have the same length. Returns whether all values are
    /// finite.
    pub fn add<T: Value>(&mut self, position: usize, reference: &[T], candidate: &[T]) -> bool {
        let row = RowStats::new(reference, candidate);
        let nmse = row.nmse();
        let at = |element: usize| ElementAt {
            position,
            element,
            reference: finite(reference[element].wide()),
            candidate: finite(candidate[element].wide()),
        };
        self.rows += 1;
        self.bit_equal &= row.bit_equal;
        self.error += row.error;
        self.reference += row.reference;
        self.non_finite += row.non_finite;
        self.cosine = if row.cosine().is_nan() {
            f64::NAN
        } else {
            row.cosine().min(self.cosine)
        };
        if !self.worst.is_nan() && exceeds(nmse, self.worst) {
            self.worst = nmse;
            self.worst_position = position;
        }
        let phase = if position < self.n_prefill {
            &mut self.prefill
        } else {
            &mut self.decode
        };
        if phase.is_none_or(|worst| !worst.is_nan() && exceeds(nmse, worst)) {
            *phase = Some(nmse);
        }
        if row.non_finite > 0 && !self.max_abs.is_nan() {
            self.max_abs = f64::NAN;
            self.max_abs_at = Some(at(row.max_abs_element));
        } else if row.max_abs > self.max_abs || self.max_abs_at.is_none() {
            self.max_abs = row.max_abs;
            self.max_abs_at = Some(at(row.max_abs_element));
        }
        if let (Some(codes), Some((reference, candidate))) =
            (&mut self.codes, T::both_f32(reference, candidate))
        {
            codes.values += reference.len() as u64;
            if !row.bit_equal {
                codes.add(reference, candidate, row.max_abs);
            }
        }
        let limit = self.limit_at(position);
        let part = self.worst_part(&row, limit, reference, candidate);
        if let Some(limit) = limit {
            let of_row = exceeds(nmse, limit);
            let part = part.filter(|part| !of_row && exceeds(part.share, 1.0));
            if of_row || part.is_some() {
                self.beyond.push(Beyond { position, nmse });
            }
            if self.exceeded.is_none() && (of_row || part.is_some()) {
                let element = part.as_ref().map_or(row.max_abs_element, |p| p.element);
                self.exceeded = Some(Exceeded {
                    position,
                    at: at(element),
                    nmse: finite(nmse),
                    limit,
                    part: part.map(|worst| worst.part),
                });
            }
        }
        row.non_finite == 0
    }

    /// The part of a row that is furthest beyond its limit, or nearest to it.
    fn worst_part<T: Value>(
        &mut self,
        row: &RowStats,
        limit: Option<f64>,
        r: &[T],
        c: &[T],
    ) -> Option<Worst> {
        let mut parts = self.parts?;
        parts.limit = limit?;
        let mut worst: Option<Worst> = None;
        // A row that has no finite NMSE is beyond any limit as a whole.
        if !row.nmse().is_finite() {
            return None;
        }
        let [head, element] = match row.error > 0.0 {
            true => parts.worst(r, c, row.reference),
            false => [None, None],
        };
        let drift = parts
            .floor
            .and_then(|floor| self.drift.add(r, c, floor, parts.limit));
        for (kind, found) in [(0, head), (1, element), (1, drift)] {
            let Some(found) = found else { continue };
            let share = &mut self.shares[kind];
            *share = Some(share.unwrap_or(0.0).max(found.share));
            if worst.as_ref().is_none_or(|w| found.share > w.share) {
                worst = Some(found);
            }
        }
        worst
    }

    /// The first row over the limit, if any.
    pub fn exceeded(&self) -> Option<&Exceeded> {
        self.exceeded.as_ref()
    }

    /// Every row over the limit, in the order in which they came.
    pub fn beyond(&self) -> &[Beyond] {
        &self.beyond
    }

    /// The figures for the report; `None` if no row was compared.
    pub fn stats(&self) -> Option<TapStats> {
        (self.rows > 0).then(|| TapStats {
            rows: self.rows,
            bit_equal: self.bit_equal,
            nmse: finite(self.worst),
            worst_position: self.worst_position,
            nmse_prefill: self.prefill.and_then(finite),
            nmse_decode: self.decode.and_then(finite),
            nmse_aggregate: finite(nmse(self.error, self.reference)),
            cosine: finite(self.cosine),
            max_abs: finite(self.max_abs),
            max_abs_at: self.max_abs_at.clone(),
            non_finite: self.non_finite,
            code_flip_rate: self
                .codes
                .as_ref()
                .map(|c| c.flipped as f64 / c.values as f64),
            max_quantiser_steps: self.codes.as_ref().and_then(|c| finite(c.steps)),
            limit: self.limit_at(self.worst_position),
            head_share: self.shares[0],
            element_share: self.shares[1],
            allowed: None,
            amplified: None,
            pass: self.limit.map(|_| self.exceeded.is_none()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(reference: &[f32], candidate: &[f32], limit: f64) -> TapAccumulator {
        let mut tap = TapAccumulator::new(Some(limit), 1, false);
        tap.add(0, reference, candidate);
        tap
    }

    #[test]
    fn equal_rows_are_exact() {
        let stats = one(&[1.0, 0.0, -2.0], &[1.0, -0.0, -2.0], 0.0)
            .stats()
            .unwrap();
        assert!(stats.bit_equal);
        assert_eq!(
            (stats.nmse, stats.cosine, stats.max_abs, stats.pass),
            (Some(0.0), Some(1.0), Some(0.0), Some(true))
        );
    }

    #[test]
    fn nmse_and_the_worst_element() {
        let stats = one(&[3.0, 4.0], &[3.0, 4.5], 0.0).stats().unwrap();
        assert_eq!(stats.nmse, Some(0.01));
        let at = stats.max_abs_at.unwrap();
        assert_eq!(
            (at.element, at.reference, at.candidate),
            (1, Some(4.0), Some(4.5))
        );
        assert_eq!((stats.pass, stats.bit_equal), (Some(false), false));
    }

    #[test]
    fn the_worst_row_decides_not_the_average() {
        let mut tap = TapAccumulator::new(Some(1e-3), 2, false);
        for position in 0..100 {
            let off = if position == 57 { 0.1 } else { 0.0 };
            tap.add(position, &[1.0_f32, 0.0], &[1.0 + off, 0.0]);
        }
        let stats = tap.stats().unwrap();
        assert_eq!((stats.worst_position, stats.rows), (57, 100));
        assert_eq!(stats.nmse_prefill, Some(0.0));
        assert!(stats.nmse_decode.unwrap() > 9e-3 && stats.nmse_aggregate.unwrap() < 2e-4);
        assert_eq!(tap.exceeded().unwrap().position, 57);
    }

    #[test]
    fn the_limit_of_angles_grows_with_the_position() {
        let mut tap = TapAccumulator::new(Some(1e-12), 1, false).of_angles(1e-7);
        let row = [1.0_f32, 0.0];
        let turned = |angle: f32| [angle.cos(), angle.sin()];
        tap.add(5, &row, &turned(9e-7));
        tap.add(100, &row, &turned(9e-6));
        assert!(tap.exceeded().is_none());
        tap.add(50, &row, &turned(9e-6));
        let exceeded = tap.exceeded().unwrap();
        assert_eq!(exceeded.position, 50);
        approx::assert_relative_eq!(exceeded.limit, 2.5e-11, max_relative = 1e-9);
    }

    #[test]
    fn not_finite_fails_whatever_the_limit() {
        for (r, c) in [
            (1.0, f32::NAN),
            (f32::INFINITY, f32::INFINITY),
            (f32::NAN, f32::NAN),
        ] {
            let mut tap = one(&[2.0, r, 0.0], &[2.0, c, 9.0], f64::MAX);
            tap.add(1, &[1.0_f32, 1.0, 1.0], &[1.0, 1.0, 1.0]);
            let stats = tap.stats().unwrap();
            assert_eq!(
                (stats.pass, stats.nmse, stats.non_finite),
                (Some(false), None, 1)
            );
            assert_eq!(tap.exceeded().unwrap().at.element, 1);
        }
    }

    #[test]
    fn a_zero_reference_is_infinitely_wrong() {
        let stats = one(&[0.0, 0.0], &[0.0, 1e-20], 1e300).stats().unwrap();
        assert_eq!((stats.nmse, stats.pass), (None, Some(false)));
        let stats = one(&[0.0, 0.0], &[0.0, 0.0], 0.0).stats().unwrap();
        assert_eq!((stats.nmse, stats.pass), (Some(0.0), Some(true)));
    }

    #[test]
    fn a_flipped_code_is_counted_and_measured_in_steps() {
        let mut tap = TapAccumulator::new(None, 1, true);
        // Scale 127: 0.5 / 127 is just at a boundary, 0.6 / 127 above it.
        tap.add(
            0,
            &[1.0, 0.4 / 127.0, 0.0, -0.3],
            &[1.0, 0.6 / 127.0, 0.0, -0.3],
        );
        let stats = tap.stats().unwrap();
        assert_eq!(stats.code_flip_rate, Some(0.25));
        assert!((stats.max_quantiser_steps.unwrap() - 0.2).abs() < 1e-6);
        assert_eq!(
            one(&[1.0], &[1.0], 0.0).stats().unwrap().code_flip_rate,
            None
        );
    }

    #[test]
    fn no_rows_no_figures() {
        assert!(TapAccumulator::new(Some(1.0), 0, true).stats().is_none());
    }

    proptest! {
        #[test]
        fn codes_are_those_that_the_engine_multiplies_with(
            row in proptest::collection::vec(-1.0_f32..1.0, 1..200),
            exponent in -30..30,
            halves in any::<bool>(),
        ) {
            // With a maximum of 127, multiples of a half are ties.
            let row: Vec<f32> = match halves {
                true => row.iter().map(|v| (v * 253.0).round() / 2.0).chain([127.0]).collect(),
                false => row.iter().map(|v| v * 2.0_f32.powi(exponent)).collect(),
            };
            let (mut want, mut got) = (vec![0; row.len()], Vec::new());
            let (scale, _) = bitnet_core::blocks::i2_s::quantize_row(&row, &mut want);
            prop_assert_eq!((int8_codes(&row, &mut got), got), (scale, want));
        }

        #[test]
        fn passes_exactly_within_the_limit(
            rows in proptest::collection::vec((-1e3_f32..1e3, -1e3_f32..1e3), 1..20),
            limit in 0.0_f64..2.0,
        ) {
            let (r, c): (Vec<f32>, Vec<f32>) = rows.into_iter().unzip();
            let tap = one(&r, &c, limit);
            let stats = tap.stats().unwrap();
            let within = stats.nmse.is_some_and(|nmse| nmse <= limit);
            prop_assert_eq!(stats.pass, Some(within));
            // Of so few elements, none is off by as much while the row is not.
            prop_assert!(stats.element_share.is_none_or(|share| share <= 1.0 || !within));
        }
    }
}
