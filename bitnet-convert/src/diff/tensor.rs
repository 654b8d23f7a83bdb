//! Two tensors of one name: whether they are the same, and which mistake makes one of the other.

use serde::Serialize;

use super::fingerprint::{Fingerprint, Symbols};
use super::measure::Measured;
use super::order::{self, Of, Order};
use crate::weights::{Levels, Weights, scale_beside};

/// Whether two tensors are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Likeness {
    /// Every weight is equal.
    Equal,
    /// Every weight is equal as far as the types hold it.
    Rounded,
    /// They differ.
    Different,
}

/// Something that is seen in the weights, and explains in part or as a whole how tensors differ.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that stays the same.
    pub id: &'static str,
    /// In words; the models are A and B.
    pub sentence: String,
}

impl Finding {
    pub(super) fn new(id: &'static str, sentence: impl Into<String>) -> Finding {
        Finding {
            id,
            sentence: sentence.into(),
        }
    }
}

/// How two tensors compare.
#[derive(Clone, Debug)]
pub(super) struct Compared {
    pub(super) likeness: Likeness,
    /// Of ternary weights.
    pub(super) equal_codes: Option<f64>,
    pub(super) factor: Option<f64>,
    pub(super) nmse: Option<f64>,
    pub(super) findings: Vec<Finding>,
    /// By which another tensor with the same weights is found, where nothing explains the difference.
    pub(super) unexplained: Option<[Fingerprint; 2]>,
}

impl Compared {
    fn same(likeness: Likeness) -> Compared {
        Compared {
            likeness,
            equal_codes: None,
            factor: None,
            nmse: None,
            findings: Vec::new(),
            unexplained: None,
        }
    }

    fn different(findings: Vec<Finding>) -> Compared {
        Compared {
            findings,
            ..Compared::same(Likeness::Different)
        }
    }
}

/// Factors are constant, and weights explained, up to this share: a scale in BF16 has 8 bits.
const CONSTANT: f64 = 0.005;

/// Holds two tensors against each other; heads may be of one of these sizes.
pub(super) fn compare(a: &Weights, b: &Weights, heads: &[usize]) -> Compared {
    if a.is_copy_of(b) {
        return Compared::same(Likeness::Equal);
    }
    let symbols = Symbols::of(a, b);
    if a.info.shape != b.info.shape {
        return Compared::different(shapes(a, b, symbols));
    }
    let measured = Measured::of(a, b, symbols);
    if measured.equal == measured.n {
        return Compared::same(Likeness::Equal);
    }
    let same = Compared {
        equal_codes: measured.equal_codes(),
        factor: measured.factor(),
        nmse: measured.nmse(),
        ..Compared::same(Likeness::Rounded)
    };
    if measured.rounded == measured.n || made_ternary(a, b, &measured) {
        return same;
    }
    let mut findings = by_value(a, b, &measured);
    let mut unexplained = None;
    if findings.is_empty()
        && let Some([sa, sb]) = symbols
    {
        let fingerprints = [Fingerprint::of(a, sa), Fingerprint::of(b, sb)];
        findings.extend(by_place(&fingerprints, heads));
        if let Some(levels) = measured.levels()
            && !findings.is_empty()
        {
            let factor = levels[1] / levels[0];
            if (factor - 1.0).abs() > CONSTANT {
                findings.push(scaled(factor, levels));
            }
        }
        unexplained = findings.is_empty().then_some(fingerprints);
    }
    if findings.is_empty() && measured.bad_rows < a.rows() as u64 {
        let (n, first) = (measured.bad_rows, measured.first_bad.unwrap_or_default());
        let rows = a.rows();
        findings.push(Finding::new(
            "some-rows",
            format!("{n} of {rows} rows differ, row {first} first"),
        ));
    }
    Compared {
        likeness: Likeness::Different,
        findings,
        unexplained,
        ..same
    }
}

/// Whether one side is what the other was made ternary to: by the mean of the magnitudes (BitNet b1.58, arXiv:2402.17764).
fn made_ternary(a: &Weights, b: &Weights, measured: &Measured) -> bool {
    let levels = [a.levels, b.levels];
    let float = levels.iter().position(|l| *l == Levels::Float);
    let (Some(float), Some([la, lb])) = (float, measured.levels()) else {
        return false;
    };
    if levels[1 - float] != Levels::Ternary || measured.equal_codes() != Some(1.0) {
        return false;
    }
    let side = [a, b][float];
    let mean = side.mean_magnitude() * f64::from(side.scale().abs());
    let level = [la, lb][1 - float];
    (level / mean - 1.0).abs() < CONSTANT
}

/// What their values say.
fn by_value(a: &Weights, b: &Weights, measured: &Measured) -> Vec<Finding> {
    for (name, n) in ["A", "B"].iter().zip(measured.not_finite) {
        if n > 0 {
            let what = format!("{n} of {} weights of {name} are not finite", measured.n);
            return vec![Finding::new("not-finite", what)];
        }
    }
    for (name, squares) in ["A", "B"].iter().zip(measured.squares) {
        if squares == 0.0 {
            let what = format!("every weight of {name} is 0");
            return vec![Finding::new("zero", what)];
        }
    }
    match measured.code_map() {
        Some([-1, 0, 1]) => return vec![by_scale(a, b, measured)],
        Some(map) => return vec![mapped(map)],
        None if measured.codes.is_some() => return Vec::new(),
        None => (),
    }
    let (Some(factor), Some((least, largest))) = (measured.factor(), measured.offset) else {
        return Vec::new();
    };
    if measured.rest() < CONSTANT.powi(2) {
        return vec![Finding::new(
            "scaled",
            format!("the weights of B are {factor:.6} times those of A"),
        )];
    }
    let spread = f64::from(largest - least);
    let rms = (measured.squares[0] / measured.n as f64).sqrt();
    if spread < CONSTANT * rms.min(f64::from(least.abs())) {
        let mean = f64::midpoint(f64::from(least), f64::from(largest));
        return vec![Finding::new(
            "offset",
            format!("the weights of B are those of A, and {mean:.4} more"),
        )];
    }
    Vec::new()
}

/// Equal codes under other scales.
fn by_scale(a: &Weights, b: &Weights, measured: &Measured) -> Finding {
    let (least, largest) = measured.row_factors.unwrap_or((1.0, 1.0));
    if largest - least > CONSTANT * largest.abs() {
        let one = [a, b].map(|side| side.info.ty.is_ternary());
        let whose = match one {
            [true, false] => ": A has one scale for all, B has not",
            [false, true] => ": B has one scale for all, A has not",
            _ => "",
        };
        return Finding::new(
            "scaled-by-row",
            format!(
                "equal codes, and the scales of B are {least:.6} to {largest:.6} times those of A, from row to row{whose}"
            ),
        );
    }
    if measured.rest() > CONSTANT.powi(2) {
        let what = "equal codes, and the scales of B differ from those of A from block to block";
        return Finding::new("scaled-by-block", what);
    }
    let levels = measured.levels().unwrap_or([1.0, 1.0]);
    let factor = measured.factor().unwrap_or(f64::NAN);
    let beside = |side: &Weights| f64::from(side.beside.unwrap_or(1.0));
    let by = beside(b) / beside(a);
    if by != 1.0 && (by / factor - 1.0).abs() < CONSTANT {
        let (has, side) = match b.beside {
            Some(_) => ("B", b),
            None => ("A", a),
        };
        let tensor = scale_beside(&side.info.name).unwrap_or_default();
        let by = beside(side);
        return Finding::new(
            "scale-beside",
            format!("equal codes and scales, and {has} has a tensor {tensor}, {by:.6}, beside"),
        );
    }
    let Finding { id, sentence } = scaled(factor, levels);
    Finding::new(id, format!("equal codes, and {sentence}"))
}

fn scaled(factor: f64, [of_a, of_b]: [f64; 2]) -> Finding {
    if (of_a * of_b - 1.0).abs() < CONSTANT {
        return Finding::new(
            "scaled-inverse",
            format!(
                "the scale of B, {of_b:.6}, is the inverse of that of A, {of_a:.6}: one side divides where the other multiplies"
            ),
        );
    }
    Finding::new(
        "scaled",
        format!("the scale of B, {of_b:.6}, is {factor:.6} times that of A, {of_a:.6}"),
    )
}

/// Codes that stand for others.
fn mapped(map: [i8; 3]) -> Finding {
    let [minus, zero, plus] = map;
    let are = format!("codes -1, 0 and 1 of A are {minus}, {zero} and {plus} in B");
    match map {
        [1, 0, -1] => Finding::new("sign-flipped", "every sign is flipped"),
        [0, 1, -1] | [1, -1, 0] => Finding::new("codes-shifted", format!("{are}: shifted by one")),
        _ => Finding::new("codes-mapped", are),
    }
}

/// Where the same weights are.
fn by_place([a, b]: &[Fingerprint; 2], heads: &[usize]) -> Vec<Finding> {
    if b.is_negative_of(a) {
        return vec![Finding::new("sign-flipped", "every sign is flipped")];
    }
    if a.is_transposed(b) {
        return vec![Finding::new("transposed", "B is A transposed")];
    }
    let rows = order::find(Of::Rows, &a.rows, &b.rows, heads).map(|order| ordered(order, "rows"));
    let columns =
        || order::find(Of::Columns, &a.columns, &b.columns, heads).map(|o| ordered(o, "columns"));
    rows.or_else(columns).into_iter().collect()
}

fn ordered(order: Order, things: &str) -> Finding {
    let interleaved = |whose: &str, of: &str, times: &str| {
        format!(
            "{things} of {whose} are those of {of} with the halves of each head interleaved{times}, as converters of `llama` do for RoPE"
        )
    };
    match order {
        Order::Interleaved(dim) => Finding::new(
            "rope-order",
            format!("{} (heads of {dim})", interleaved("B", "A", "")),
        ),
        Order::Halves(dim) => Finding::new(
            "rope-order",
            format!("{} (heads of {dim})", interleaved("A", "B", "")),
        ),
        Order::InterleavedTwice(dim) => Finding::new(
            "rope-order-twice",
            format!("{} (heads of {dim})", interleaved("B", "A", " twice")),
        ),
        Order::HalvesTwice(dim) => Finding::new(
            "rope-order-twice",
            format!("{} (heads of {dim})", interleaved("A", "B", " twice")),
        ),
        Order::Heads(dim) => Finding::new(
            "heads-reordered",
            format!("the same {things} in another order, heads of {dim} as wholes"),
        ),
        Order::Packed(packing) => {
            Finding::new("packing", format!("B is A, packed as {}", packing.name()))
        }
        Order::PackedFirst(packing) => {
            Finding::new("packing", format!("A is B, packed as {}", packing.name()))
        }
        Order::Reversed => Finding::new("reversed", format!("the same {things}, last first")),
        Order::Other => Finding::new("reordered", format!("the same {things} in another order")),
    }
}

/// Tensors of other shapes.
fn shapes(a: &Weights, b: &Weights, symbols: Option<[Symbols; 2]>) -> Vec<Finding> {
    let (of_a, of_b) = (&a.info.shape, &b.info.shape);
    let mut findings = vec![Finding::new(
        "shape",
        format!("A is {}, B is {}", shape(of_a), shape(of_b)),
    )];
    if let Some([sa, sb]) = symbols
        && of_a.iter().rev().eq(of_b)
    {
        let fingerprints = [Fingerprint::of(a, sa), Fingerprint::of(b, sb)];
        if fingerprints[0].is_transposed(&fingerprints[1]) {
            findings.push(Finding::new("transposed", "B is A transposed"));
        }
    } else if a.columns() == b.columns() {
        let measured = Measured::of(a, b, symbols);
        let common = a.rows().min(b.rows());
        let (longer, shorter) = match a.rows() > b.rows() {
            true => ("A", "B"),
            false => ("B", "A"),
        };
        findings.push(match measured.rounded == measured.n {
            true => Finding::new(
                "cut",
                format!("{shorter} is the first {common} rows of {longer}"),
            ),
            false => Finding::new(
                "cut-and-changed",
                format!(
                    "{} of the first {common} rows differ, too",
                    measured.bad_rows
                ),
            ),
        });
    }
    findings
}

/// A shape, as tables of tensors show it.
pub(super) fn shape(shape: &[u64]) -> String {
    let dims = shape.iter().map(u64::to_string);
    dims.collect::<Vec<_>>().join(" x ")
}
