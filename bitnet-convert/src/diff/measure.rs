//! What two tensors of as many columns have in common, weight by weight.

use bitnet_model::gguf::{Float, TensorType};

use super::fingerprint::{Symbols, coarser, rounded};
use crate::weights::{Levels, Weights, for_each_pair};

/// How far two weights may be apart where both stand for the same one.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Tolerance {
    /// Nothing.
    Exact,
    /// As far as this type rounds them to the same.
    Rounding(Float),
    /// A share of the weight.
    Relative(f32),
    /// A share of the largest weight of a block of so many.
    OfBlock(usize, f32),
}

/// Below this F16 holds no more digits.
const SUBNORMAL: f32 = 3e-8;

impl Tolerance {
    fn of(a: &Weights, b: &Weights) -> Tolerance {
        let types = [a.info.ty, b.info.ty];
        // Master weights that are used as ternary ones are not what their type holds.
        if types[0] == types[1] && a.levels == b.levels {
            return Tolerance::Exact;
        }
        let blocks = types.map(|ty| match ty {
            // A scale for 32 that makes the largest 127: half a step.
            TensorType::Q8_0 => Some((32, 0.5 / 127.0 * 1.01_f32)),
            // Of 16, codes up to 32 under a scale that is itself rounded: a step.
            TensorType::Q6_K => Some((16, 1.0 / 32.0)),
            _ => None,
        });
        if let Some((len, share)) = blocks[0].or(blocks[1]) {
            let share = blocks[1].map_or(share, |(_, other)| share.max(other));
            return Tolerance::OfBlock(len, share);
        }
        match [a.levels, b.levels] {
            [Levels::Float, Levels::Float] => Tolerance::Rounding(coarser(a, b)),
            // Scales are F16, or the floats are.
            _ => match coarser(a, b) {
                Float::Bf16 => Tolerance::Relative(0.5f32.powi(8)),
                _ => Tolerance::Relative(0.5f32.powi(11) * 1.01),
            },
        }
    }
}

/// Sums over the weights that both tensors have.
#[derive(Clone, Debug, Default)]
pub(super) struct Measured {
    /// Weights that were compared.
    pub(super) n: u64,
    /// Of those, weights that are equal.
    pub(super) equal: u64,
    /// And those that are equal as far as the types hold them.
    pub(super) rounded: u64,
    /// How often code `[a + 1]` of the first is `[b + 1]` in the second, where both have codes.
    pub(super) codes: Option<[[u64; 3]; 3]>,
    /// Sums of squares.
    pub(super) squares: [f64; 2],
    /// Of the products.
    pub(super) product: f64,
    /// Of the squares of the differences.
    pub(super) error: f64,
    /// Least and largest factor from a row of the first to that of the second.
    pub(super) row_factors: Option<(f64, f64)>,
    /// Least and largest difference.
    pub(super) offset: Option<(f32, f32)>,
    /// Rows in which any weight differs.
    pub(super) bad_rows: u64,
    /// The first of those.
    pub(super) first_bad: Option<usize>,
    /// Weights that are not finite.
    pub(super) not_finite: [u64; 2],
}

impl Measured {
    /// Of the rows that both have.
    pub(super) fn of(a: &Weights, b: &Weights, symbols: Option<[Symbols; 2]>) -> Measured {
        let tolerance = Tolerance::of(a, b);
        let scales = [a.scale(), b.scale()];
        let coded = symbols.filter(|symbols| symbols.iter().all(|s| s.are_codes()));
        let mut measured = Measured {
            codes: coded.map(|_| [[0; 3]; 3]),
            ..Measured::default()
        };
        let mut scaled = [vec![0.0; a.columns()], vec![0.0; b.columns()]];
        for_each_pair(a, b, |r, of_a, of_b| {
            for ((to, row), scale) in scaled.iter_mut().zip([of_a, of_b]).zip(scales) {
                to.iter_mut().zip(row).for_each(|(to, v)| *to = v * scale);
            }
            if let (Some(codes), Some([sa, sb])) = (&mut measured.codes, coded) {
                for (a, b) in of_a.iter().zip(of_b) {
                    codes[(sa.symbol(*a) + 1) as usize][(sb.symbol(*b) + 1) as usize] += 1;
                }
            }
            measured.row(r, &scaled[0], &scaled[1], tolerance);
        });
        measured
    }

    fn row(&mut self, r: usize, a: &[f32], b: &[f32], tolerance: Tolerance) {
        let (mut aa, mut bb, mut ab, mut error) = (0.0, 0.0, 0.0, 0.0);
        let mut equal = 0;
        let (mut least, mut largest) = self.offset.unwrap_or((f32::INFINITY, f32::NEG_INFINITY));
        for (&a, &b) in a.iter().zip(b) {
            let (x, y) = (f64::from(a), f64::from(b));
            aa += x * x;
            bb += y * y;
            ab += x * y;
            error += (x - y) * (x - y);
            equal += u64::from(a == b);
            least = least.min(b - a);
            largest = largest.max(b - a);
        }
        self.offset = Some((least, largest));
        let n = a.len() as u64;
        self.n += n;
        self.equal += equal;
        let rounded = match equal == n {
            true => n,
            false => within(a, b, tolerance),
        };
        self.rounded += rounded;
        if rounded < n {
            self.bad_rows += 1;
            self.first_bad.get_or_insert(r);
        }
        if !(aa.is_finite() && bb.is_finite()) {
            for (count, side) in self.not_finite.iter_mut().zip([a, b]) {
                *count += side.iter().filter(|v| !v.is_finite()).count() as u64;
            }
        }
        if aa > 0.0 {
            let factor = ab / aa;
            let (least, largest) = self.row_factors.unwrap_or((factor, factor));
            self.row_factors = Some((least.min(factor), largest.max(factor)));
        }
        self.squares[0] += aa;
        self.squares[1] += bb;
        self.product += ab;
        self.error += error;
    }

    /// The factor that makes the second of the first, as near as one can.
    pub(super) fn factor(&self) -> Option<f64> {
        let factor = self.product / self.squares[0];
        factor.is_finite().then_some(factor)
    }

    /// What is left of the second beside that, by its squares.
    pub(super) fn rest(&self) -> f64 {
        let [aa, bb] = self.squares;
        let factor = self.product / aa;
        (bb - factor * self.product).max(0.0) / bb
    }

    /// Squares of the differences over those of the first.
    pub(super) fn nmse(&self) -> Option<f64> {
        let nmse = self.error / self.squares[0];
        nmse.is_finite().then_some(nmse)
    }

    /// Of the codes, the share that is equal.
    pub(super) fn equal_codes(&self) -> Option<f64> {
        let codes = self.codes?;
        let equal: u64 = (0..3).map(|i| codes[i][i]).sum();
        Some(equal as f64 / self.n as f64)
    }

    /// What the codes -1, 0 and 1 of the first are in the second, if each is one and the same throughout. One that the first
    /// does not have stays what it is.
    pub(super) fn code_map(&self) -> Option<[i8; 3]> {
        let mut map = [-1, 0, 1];
        for (to, row) in map.iter_mut().zip(self.codes?) {
            let mut found = (-1..=1).zip(row).filter(|(_, count)| *count > 0);
            match (found.next(), found.next()) {
                (None, _) => (),
                (Some((code, _)), None) => *to = code,
                _ => return None,
            }
        }
        Some(map)
    }

    /// Root mean squares of the weights that are not 0, of a ternary tensor its scales.
    pub(super) fn levels(&self) -> Option<[f64; 2]> {
        let codes = self.codes?;
        let of_a: u64 = [0, 2].iter().flat_map(|&i| codes[i]).sum();
        let of_b: u64 = codes.iter().map(|row| row[0] + row[2]).sum();
        let level = |squares: f64, n: u64| (squares / n as f64).sqrt();
        Some([level(self.squares[0], of_a), level(self.squares[1], of_b)])
    }
}

/// How many weights are equal as far as their types hold them.
fn within(a: &[f32], b: &[f32], tolerance: Tolerance) -> u64 {
    let pairs = a.iter().zip(b);
    let n = match tolerance {
        Tolerance::Exact => pairs.filter(|(a, b)| a == b).count(),
        Tolerance::Rounding(float) => pairs
            .filter(|(a, b)| rounded(**a, float) == rounded(**b, float))
            .count(),
        Tolerance::Relative(share) => pairs
            .filter(|(a, b)| near(**a, **b, share * a.abs().max(b.abs())))
            .count(),
        Tolerance::OfBlock(len, share) => {
            let blocks = a.chunks(len).zip(b.chunks(len)).map(|(a, b)| {
                let largest = a.iter().chain(b).fold(0f32, |max, v| max.max(v.abs()));
                a.iter()
                    .zip(b)
                    .filter(|(a, b)| near(**a, **b, share * largest))
                    .count()
            });
            blocks.sum()
        }
    };
    n as u64
}

/// Whether two finite weights are that far apart at most.
fn near(a: f32, b: f32, distance: f32) -> bool {
    let apart = (a - b).abs();
    apart.is_finite() && apart <= distance + SUBNORMAL
}
