//! Rows and columns of a tensor as one number each, by which they are found again in another order.

use bitnet_model::gguf::Float;
use half::{bf16, f16};

use crate::weights::{Levels, Weights};

/// What stands for a weight: equal weights have equal symbols, opposite ones opposite symbols.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Symbols {
    /// Its sign, of a ternary weight.
    Sign,
    /// What it is rounded to as a multiple of this, -1, 0 or 1: the way that BitNet b1.58 is made ternary, by the mean of the magnitudes.
    Rounded(f32),
    /// Its bits, once it is rounded to this.
    Bits(Float),
}

impl Symbols {
    /// Those by which two tensors are held against each other; `None` where equal weights may have come out differently.
    pub(super) fn of(a: &Weights, b: &Weights) -> Option<[Symbols; 2]> {
        match [a.levels, b.levels] {
            [Levels::Integers, _] if a.info.ty == b.info.ty => Some([Symbols::Bits(Float::F32); 2]),
            [Levels::Ternary, _] | [_, Levels::Ternary] => Some([ternary(a), ternary(b)]),
            [Levels::Float, Levels::Float] => {
                let coarser = coarser(a, b);
                Some([Symbols::Bits(coarser); 2])
            }
            _ => None,
        }
    }

    pub(super) fn symbol(self, v: f32) -> i64 {
        match self {
            Symbols::Sign => code(v),
            Symbols::Rounded(unit) => code((v / unit).round_ties_even()),
            Symbols::Bits(float) => {
                let v = rounded(v, float);
                let magnitude = mixed(u64::from(v.abs().to_bits())) as i64;
                match v {
                    0.0 => 0,
                    v if v < 0.0 => magnitude.wrapping_neg(),
                    _ => magnitude,
                }
            }
        }
    }

    /// Whether symbols are -1, 0 and 1.
    pub(super) fn are_codes(self) -> bool {
        !matches!(self, Symbols::Bits(_))
    }
}

fn code(v: f32) -> i64 {
    i64::from(v > 0.0) - i64::from(v < 0.0)
}

fn ternary(side: &Weights) -> Symbols {
    match side.levels {
        Levels::Ternary => Symbols::Sign,
        _ => Symbols::Rounded(side.mean_magnitude() as f32),
    }
}

/// The type of the two that holds less.
pub(super) fn coarser(a: &Weights, b: &Weights) -> Float {
    use bitnet_model::gguf::TensorType::{BF16, F16};
    let types = [a.info.ty, b.info.ty];
    match types {
        _ if types.contains(&BF16) => Float::Bf16,
        _ if types.contains(&F16) => Float::F16,
        _ => Float::F32,
    }
}

pub(super) fn rounded(v: f32, float: Float) -> f32 {
    match float {
        Float::F32 => v,
        Float::F16 => f16::from_f32(v).to_f32(),
        Float::Bf16 => bf16::from_f32(v).to_f32(),
    }
}

/// A number for each row and each column.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fingerprint {
    pub(super) rows: Vec<u64>,
    pub(super) columns: Vec<u64>,
}

impl Fingerprint {
    /// The transposed of a matrix has its rows for columns.
    pub(super) fn of(side: &Weights, symbols: Symbols) -> Fingerprint {
        let (n_rows, n_columns) = (side.rows(), side.columns());
        let keys: Vec<u64> = (1..=n_rows.max(n_columns) as u64).map(mixed).collect();
        let mut columns = vec![0u64; n_columns];
        let mut rows = vec![0u64; n_rows];
        side.for_each_row(|r, row| {
            let key = keys[r];
            let mut of_row = 0u64;
            for ((v, column), of_column) in row.iter().zip(&mut columns).zip(&keys) {
                let symbol = symbols.symbol(*v) as u64;
                *column = column.wrapping_add(key.wrapping_mul(symbol));
                of_row = of_row.wrapping_add(of_column.wrapping_mul(symbol));
            }
            rows[r] = of_row;
        });
        Fingerprint { rows, columns }
    }

    /// Whether every weight is the other's with the other sign, and some are not 0.
    pub(super) fn is_negative_of(&self, other: &Fingerprint) -> bool {
        let pairs = || self.rows.iter().zip(&other.rows);
        pairs().all(|(a, b)| *a == b.wrapping_neg()) && pairs().any(|(a, _)| *a != 0)
    }

    pub(super) fn is_transposed(&self, other: &Fingerprint) -> bool {
        self.rows == other.columns && self.columns == other.rows
    }
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of `x`.
fn mixed(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
