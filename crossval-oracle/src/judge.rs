//! Is a row right, and if not, what is wrong with it? Every statement is a hypothesis that was tested on the data.

use bitnet_model::tap::Tap;

pub use super::answers::Case;
use super::answers::{Answer, Answers};
use super::bounds;
use super::maths::{self, Rounding};
use super::mistakes::{Mistake, hypotheses};
use super::wrong::Stage;
use super::{Oracle, OracleError};

/// How close a row must come to what a hypothesis says, NMSE: f32 rounding, with room.
const SAME: f64 = 1e-11;

/// The same for F16 rounding.
const SAME_F16: f64 = 1e-6;

/// How much further from the right row an engine may be than a row in which codes flip, NMSE: its flips are other ones.
const FLIPS: f64 = 4.0;

/// How much of the distance to the right row a hypothesis must explain, NMSE.
const EXPLAINED: f64 = 0.01;

/// What became of one row.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// NMSE to the oracle's row, with the first rounding that makes the row right, else the one that comes closest;
    /// NaN if not finite.
    pub nmse: f64,
    /// The limit on that: the case's, or what codes that flip on the way make of this row, or what f32 arithmetic builds
    /// up, if that is more.
    pub limit: f64,
    /// That rounding; of several on the way to the row, the nearest. Where only what f32 builds up makes the row right,
    /// that.
    pub rounding: Rounding,
    /// Whether the limits hold.
    pub right: bool,
    /// What is wrong, in words, from the most telling on; empty if the row is right, where only part of it was looked
    /// at, and if nobody asked.
    pub findings: Vec<String>,
}

/// A row that is beyond the case's limit, where f32 arithmetic builds up an error.
struct BuiltUp {
    /// How much that may be, NMSE.
    limit: f64,
    /// Whether it accounts for the row.
    right: bool,
    /// In what.
    by: Rounding,
}

impl Oracle {
    /// The oracle's row, and what it makes of the `rows` of engines.
    ///
    /// # Errors
    /// If an input or a tensor is missing, or a row has another width than the stage.
    pub fn judge(
        &self,
        case: Case,
        rows: &[Vec<f64>],
    ) -> Result<(Vec<f64>, Vec<Judged>), OracleError> {
        let width = self.width(case.at.0, case.batch)?;
        if let Some(row) = rows.iter().find(|row| row.len() != width) {
            let what = format!("{} has {width} values, not {}", case.at.0, row.len());
            return Err(OracleError::new(&self.gguf, what));
        }
        let mut answers = Answers::of(self, case)?;
        let mut judged = Vec::new();
        for row in rows {
            judged.push(self.judge_row(&case, &mut answers, row)?);
        }
        Ok((answers.into_own(), judged))
    }

    fn judge_row(
        &self,
        case: &Case,
        answers: &mut Answers,
        row: &[f64],
    ) -> Result<Judged, OracleError> {
        let mut closest = (0, f64::NAN);
        let mut index = 0;
        while let Some(answer) = answers.get(index)? {
            let (nmse, right) = self.compare(case, &answer.row, row);
            if right {
                return Ok(Judged {
                    nmse,
                    limit: case.limit,
                    rounding: answer.rounding,
                    right,
                    findings: Vec::new(),
                });
            }
            if closest.1.is_nan() || nmse < closest.1 {
                closest = (index, nmse);
            }
            index += 1;
        }
        let (index, nmse) = closest;
        let flipped = answers.with_flips(index)?;
        let rotates = answers.rotates();
        let Some(answer) = answers.get(index)? else {
            return Err(self.missing(case.at, case.position));
        };
        let built_up = match flipped.is_empty() {
            true => self.built_up(case, answer, row)?,
            false => None,
        };
        let (limit, right) = match &built_up {
            Some(built_up) => (built_up.limit, built_up.right),
            None => {
                // NaN is no limit.
                let of_flips = flipped
                    .iter()
                    .map(|other| self.compare(case, &answer.row, other).0);
                let limit = case.limit.max(FLIPS * of_flips.fold(0.0, f64::max));
                let of_angles = match rotates {
                    true => bounds::largest_angle(&self.hyper.rope, case.position),
                    false => 0.0,
                };
                let limit = limit.max(of_angles.powi(2));
                // As a whole within a limit that it is held against alone.
                (limit, !flipped.is_empty() && nmse <= limit)
            }
        };
        let stage = Stage {
            oracle: self,
            at: case.at,
            batch: case.batch,
            position: case.position,
            inputs: &answer.inputs,
            right: &answer.row,
        };
        let mut findings = match right || case.outputs.is_some() || !case.explain {
            true => Vec::new(),
            false => findings(&stage, row),
        };
        if !right && nmse <= limit && findings.is_empty() {
            findings.push("is off in a head or an element by more than the row is".to_owned());
        }
        Ok(Judged {
            nmse,
            limit,
            rounding: match built_up {
                Some(built_up) if right => built_up.by,
                _ => answer.rounding,
            },
            right,
            findings,
        })
    }

    /// Whether a row of a stage is right by what f32 arithmetic builds up there; `None` where it builds up nothing.
    fn built_up(
        &self,
        case: &Case,
        answer: &Answer,
        row: &[f64],
    ) -> Result<Option<BuiltUp>, OracleError> {
        let right = &answer.row;
        if matches!(case.at.0, Tap::QRope | Tap::KRope) {
            let (limit, right) = self.pairs_are_right(case, right, row);
            let by = Rounding::Angles;
            return Ok(Some(BuiltUp { limit, right, by }));
        }
        let by = Rounding::Sums;
        if let Some((source, _)) = self.norm_of(case.at) {
            let x = self.input(&answer.inputs, source, case.position)?;
            // One factor for all of the row, or of a head; the rest is not the sum's.
            let width = x.len() / self.heads(case.at.0).max(1);
            let (mut limit, mut within) = (0.0_f64, true);
            let mut rest = Vec::with_capacity(row.len());
            let parts = right.chunks(width).zip(row.chunks(width));
            for (x, (right, row)) in x.chunks(width).zip(parts) {
                let error = case.limit.sqrt() + bounds::norm_factor(x, self.hyper.eps);
                let factor = match maths::dot(right, right) {
                    0.0 => 1.0,
                    energy => maths::dot(right, row) / energy,
                };
                rest.extend(row.iter().map(|y| y / factor));
                within &= (factor - 1.0).abs() <= error;
                limit = limit.max(error * error);
            }
            return Ok(Some(BuiltUp {
                limit,
                right: within && self.compare(case, right, &rest).1,
                by,
            }));
        }
        let terms = match (case.at.0, self.weight_name(case.at.0, case.at.1)) {
            (Tap::AttnOut, _) => case.position + 1,
            (_, Some(name)) => {
                let matrix = self.matrix(&name)?;
                // Integer sums are exact.
                if matrix.is_ternary() {
                    0
                } else {
                    matrix.columns
                }
            }
            (_, None) => 0,
        };
        let limit = bounds::sum(terms).powi(2);
        if limit <= case.limit {
            return Ok(None);
        }
        let of_elements = case.element_limit;
        let wider = Case {
            limit,
            element_limit: of_elements.map(|of_element| of_element * limit / case.limit),
            ..*case
        };
        let right = self.compare(&wider, right, row).1;
        Ok(Some(BuiltUp { limit, right, by }))
    }

    /// Whether each pair that turns is off by no more than its angle may be, and what that makes of the row, NMSE.
    fn pairs_are_right(&self, case: &Case, right: &[f64], row: &[f64]) -> (f64, bool) {
        let rope = &self.hyper.rope;
        let angles = bounds::angles(rope, case.position);
        let energy: f64 = right.iter().map(|v| v * v).sum();
        let mean = energy / right.len() as f64;
        let (mut allowed, mut all) = (0.0, true);
        for (right, row) in right.chunks(rope.head_dim).zip(row.chunks(rope.head_dim)) {
            let mut part = |elements: &[usize], bound: f64| {
                let size: f64 = elements.iter().map(|&i| right[i].powi(2)).sum();
                let error: f64 = elements.iter().map(|&i| (row[i] - right[i]).powi(2)).sum();
                let may = bound.powi(2) * size.max(mean * elements.len() as f64);
                allowed += may;
                all &= error <= may;
            };
            for (pair, &angle) in angles.iter().enumerate() {
                let (a, b) = rope.pair(pair);
                part(&[a, b], bounds::of_pair(case.limit, angle));
            }
            (rope.dims..rope.head_dim).for_each(|i| part(&[i], case.limit.sqrt()));
        }
        (allowed / energy, all)
    }

    /// The NMSE of a row, and whether it is right: as a whole, by heads and by elements.
    fn compare(&self, case: &Case, right: &[f64], row: &[f64]) -> (f64, bool) {
        let energy = |row: &[f64]| row.iter().map(|v| v * v).sum::<f64>();
        let Some(outputs) = case.outputs else {
            let nmse = nmse(right, row);
            let mean = energy(right) / right.len() as f64;
            let is_right = nmse <= case.limit
                && self.heads_are_right(case, mean, right, row)
                && elements_are_right(case, mean, right, row);
            return (nmse, is_right);
        };
        // What was not looked at is the engine's own word, and says how large a row is.
        let mean = energy(row) / row.len() as f64;
        let seen: Vec<f64> = outputs.iter().map(|&i| row[i]).collect();
        let error: f64 = right.iter().zip(&seen).map(|(r, y)| (y - r).powi(2)).sum();
        let size = energy(right).max(mean * seen.len() as f64);
        let nmse = if error == 0.0 { 0.0 } else { error / size };
        let is_right = nmse <= case.limit && elements_are_right(case, mean, right, &seen);
        (nmse, is_right)
    }

    fn heads_are_right(&self, case: &Case, mean: f64, right: &[f64], row: &[f64]) -> bool {
        let heads = self.heads(case.at.0);
        let Some(width) = right.len().checked_div(heads).filter(|&n| n > 0) else {
            return true;
        };
        right.chunks(width).zip(row.chunks(width)).all(|(r, y)| {
            let error: f64 = r.iter().zip(y).map(|(r, y)| (y - r).powi(2)).sum();
            let energy: f64 = r.iter().map(|r| r * r).sum();
            error <= case.limit * energy.max(mean * width as f64)
        })
    }
}

fn elements_are_right(case: &Case, mean: f64, right: &[f64], row: &[f64]) -> bool {
    case.element_limit.is_none_or(|limit| {
        right
            .iter()
            .zip(row)
            .all(|(r, y)| (y - r).powi(2) <= limit * mean.max(r * r))
    })
}

/// `sum((row - right)^2) / sum(right^2)`.
fn nmse(right: &[f64], row: &[f64]) -> f64 {
    let error: f64 = right.iter().zip(row).map(|(r, y)| (y - r).powi(2)).sum();
    let energy: f64 = right.iter().map(|r| r * r).sum();
    if error == 0.0 { 0.0 } else { error / energy }
}

/// Whether `expected` accounts for a row, and does so much better than what would have been right.
fn explains(expected: &[f64], right: &[f64], row: &[f64], tolerance: f64) -> bool {
    let left = nmse(expected, row);
    left <= tolerance && left <= EXPLAINED * nmse(right, row)
}

/// What can be said about a wrong row.
fn findings(stage: &Stage, row: &[f64]) -> Vec<String> {
    if let Some(element) = row.iter().position(|v| !v.is_finite()) {
        let n = row.iter().filter(|v| !v.is_finite()).count();
        return vec![format!(
            "has {n} of {} values that are not finite, the first in element {element}",
            row.len()
        )];
    }
    let same = match stage.at.0 {
        Tap::QRope | Tap::KRope => {
            SAME.max(bounds::largest_angle(&stage.oracle.hyper.rope, stage.position).powi(2))
        }
        _ => SAME,
    };
    let mut findings = Vec::new();
    findings.extend(overflow(stage, row));
    for (mistake, text) in hypotheses(stage.at.0) {
        if let Some(wrong) = stage.done_wrong(mistake)
            && explains(&wrong, stage.right, row, same)
        {
            findings.push(match mistake {
                Mistake::Silu | Mistake::Relu2 | Mistake::Relu | Mistake::Gelu => {
                    format!("{text}{}", stage.oracle.on_the_activation())
                }
                _ => text.to_owned(),
            });
        }
    }
    if findings.is_empty() {
        findings.extend(constant_factor(stage, stage.right, row));
        findings.extend(constant_offset(stage.right, row));
        findings.extend(other_order(stage.right, row));
        findings.extend(part(stage, row));
    }
    findings
}

/// Integer sums of a ternary product that are off by whole numbers.
fn overflow(stage: &Stage, row: &[f64]) -> Option<String> {
    let (tap, layer) = stage.at;
    let name = stage.oracle.weight_name(tap, layer)?;
    let matrix = stage.oracle.matrix(&name).ok()?;
    let x = stage
        .inputs
        .row((stage.oracle.product_input(tap)?, layer), stage.position)?;
    // The unit of the integer sum; a scale or bias behind the product would hide it.
    let base = name.strip_suffix("weight")?;
    let plain = |part: &str| stage.oracle.gguf.tensor(&format!("{base}{part}")).is_none();
    if !matrix.is_ternary() || !plain("scale") || !plain("bias") {
        return None;
    }
    let step = matrix.ternary_scale() / maths::int8_scale(x);
    let mut off = 0;
    let (mut least, mut most) = (i64::MAX, 0);
    for (right, y) in stage.right.iter().zip(row) {
        let sum = y / step;
        let difference = (sum - right / step).round();
        // f32 holds the sum to 24 bits.
        if (sum - right / step - difference).abs() > sum.abs() * 1e-6 + 1e-3 {
            return None;
        }
        if difference != 0.0 {
            off += 1;
            least = least.min(difference.abs() as i64);
            most = most.max(difference.abs() as i64);
            if difference % 65536.0 != 0.0 {
                return None;
            }
        }
    }
    let range = if least == most {
        format!("{most}")
    } else {
        format!("{least} to {most}")
    };
    (off > 0).then(|| {
        format!(
            "has an I2_S dot product that differs from the exact integer sum by a multiple of 65536 ({range}) in {off} \
             of {} elements: int16 overflow",
            row.len()
        )
    })
}

fn constant_factor(stage: &Stage, right: &[f64], row: &[f64]) -> Option<String> {
    // Between values that are rounded to F16, a factor holds to F16 only.
    let same = if stage.at.0.is_f16() { SAME_F16 } else { SAME };
    let factor = maths::dot(right, row) / maths::dot(right, right);
    let scaled: Vec<f64> = right.iter().map(|v| v * factor).collect();
    let holds = factor != 0.0 && explains(&scaled, right, row, same);
    holds.then(|| format!("differs by a constant factor {}", short(factor, same)))
}

fn constant_offset(right: &[f64], row: &[f64]) -> Option<String> {
    let offset = right.iter().zip(row).map(|(r, y)| y - r).sum::<f64>() / right.len() as f64;
    let shifted: Vec<f64> = right.iter().map(|v| v + offset).collect();
    explains(&shifted, right, row, SAME)
        .then(|| format!("differs by a constant offset {}", short(offset, SAME)))
}

fn other_order(right: &[f64], row: &[f64]) -> Option<String> {
    let sorted = |x: &[f64]| {
        let mut x = x.to_vec();
        x.sort_by(f64::total_cmp);
        x
    };
    let ordered = nmse(&sorted(right), &sorted(row));
    let holds = ordered <= SAME && ordered <= EXPLAINED * nmse(right, row);
    holds.then(|| "has the right values in another order".to_owned())
}

/// Which part of the row is off, if it is a part, and what is the matter with that.
fn part(stage: &Stage, row: &[f64]) -> Option<String> {
    let right = stage.right;
    let worst = right.iter().zip(row).map(|(r, y)| (y - r).abs());
    let tolerance = 1e-3 * worst.fold(0.0, f64::max);
    let off: Vec<usize> = (0..row.len())
        .filter(|&i| (row[i] - right[i]).abs() > tolerance)
        .collect();
    let (&first, &last) = (off.first()?, off.last()?);
    let (n, len) = (off.len(), row.len());
    if 2 * n > len && last - first + 1 == len {
        return None;
    }
    if n == 1 {
        return Some(format!("is off in element {first} only"));
    }
    let whole = last - first + 1 == n;
    let mut text = match place(stage, first, last) {
        Some(head) if whole => format!("is off in {head} only"),
        Some(head) => format!("is off in {n} elements of {head} only"),
        None if whole => format!("is off in elements {first} to {last} of {len} only"),
        None => format!("is off in {n} of {len} elements only, from {first} to {last}"),
    };
    let (right, row) = (&right[first..=last], &row[first..=last]);
    let zero = row.iter().all(|&v| v == 0.0);
    let detail = [
        zero.then(|| "is 0 there".to_owned()),
        constant_factor(stage, right, row).map(|d| format!("{d} there")),
        rounded(right, row),
    ];
    if let Some(detail) = detail.into_iter().flatten().next() {
        text.push_str(", and ");
        text.push_str(&detail);
    }
    Some(text)
}

fn rounded(right: &[f64], row: &[f64]) -> Option<String> {
    let f16: Vec<f64> = right.iter().map(|&v| maths::to_f16(v)).collect();
    let bf16: Vec<f64> = right.iter().map(|&v| maths::to_bf16(v)).collect();
    let name = if explains(&f16, right, row, SAME) {
        "F16"
    } else if explains(&bf16, right, row, SAME) {
        "BF16"
    } else {
        return None;
    };
    Some(format!("is rounded to {name} there"))
}

/// The head that elements `first` to `last` of a row belong to, if they belong to one.
fn place(stage: &Stage, first: usize, last: usize) -> Option<String> {
    let heads = stage.oracle.heads(stage.at.0);
    let width = stage.right.len().checked_div(heads)?;
    let head = first / width;
    (head == last / width).then(|| format!("head {head} of {heads}"))
}

/// As many digits as `tolerance` leaves.
fn short(x: f64, tolerance: f64) -> String {
    let digits = if tolerance > SAME { 3 } else { 5 };
    let rounded: f64 = format!("{x:.digits$e}").parse().unwrap_or(x);
    format!("{rounded}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_model::tap::Tap;

    use super::super::Batch;
    use super::super::inputs::{Inputs, TapAt};
    use super::*;

    const DEMO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf");
    const AT: TapAt = (Tap::FfnDown, Some(1));

    fn x() -> Vec<f64> {
        (0..512).map(|i| f64::from((i * 31 % 17) - 8)).collect()
    }

    /// Spoils a row, given what one more in an integer sum is worth.
    type Change = fn(&mut Vec<f64>, f64);

    fn judged(change: Change) -> Judged {
        let oracle = Oracle::open(Path::new(DEMO)).unwrap();
        let mut inputs = Inputs::default();
        inputs.put((Tap::FfnSubNorm, Some(1)), 0, x());
        let batch = Batch {
            first_position: 0,
            tokens: &[1],
        };
        let rows = oracle.stage(AT, batch, 0..1, &inputs, Rounding::None);
        let mut row = rows.unwrap().remove(0);
        let matrix = oracle.matrix("blk.1.ffn_down.weight").unwrap();
        change(&mut row, matrix.ternary_scale() / maths::int8_scale(&x()));
        let case = Case {
            at: AT,
            batch,
            position: 0,
            inputs: &inputs,
            limit: 1e-13,
            element_limit: None,
            outputs: None,
            explain: true,
        };
        oracle.judge(case, &[row]).unwrap().1.remove(0)
    }

    #[test]
    fn the_oracle_is_right_by_its_own_measure() {
        let judged = judged(|_, _| ());
        assert!(judged.right && judged.nmse == 0.0 && judged.findings.is_empty());
    }

    #[test]
    fn findings_say_what_is_wrong() {
        let cases: [(Change, &str); 8] = [
            (
                |row, step| row[7] += 65536.0 * step,
                "multiple of 65536 (65536) in 1 of 128 elements: int16 overflow",
            ),
            (
                |row, step| {
                    row[7] -= 65536.0 * step;
                    row[9] += 3.0 * 65536.0 * step;
                },
                "(65536 to 196608) in 2 of 128",
            ),
            (
                |row, _| row.iter_mut().for_each(|v| *v *= -0.75),
                "a constant factor -0.75",
            ),
            (
                |row, _| row.iter_mut().for_each(|v| *v += 0.5),
                "a constant offset 0.5",
            ),
            (|row, _| row.reverse(), "the right values in another order"),
            (
                |row, _| row[5] = f64::NAN,
                "has 1 of 128 values that are not finite, the first in element 5",
            ),
            (
                |row, _| row[64..].fill(0.0),
                "is off in elements 64 to 127 of 128 only, and is 0 there",
            ),
            (|row, _| row[3] += 1.0, "is off in element 3 only"),
        ];
        for (change, says) in cases {
            let judged = judged(change);
            assert!(!judged.right);
            let findings = judged.findings.join("; ");
            assert!(findings.contains(says), "{findings:?} lacks {says:?}");
        }
    }

    #[test]
    fn a_little_noise_is_no_pattern_either() {
        let judged = judged(|row, _| {
            for (i, v) in row.iter_mut().enumerate() {
                *v *= 1.0 + f64::from((i * 7919 % 13) as u32) * 2e-7 - 1.2e-6;
            }
        });
        assert!(judged.nmse < SAME && !judged.right, "{judged:?}");
        assert!(judged.findings.is_empty(), "{judged:?}");
    }

    #[test]
    fn noise_without_a_pattern_gets_no_explanation() {
        let judged = judged(|row, _| {
            for (i, v) in row.iter_mut().enumerate() {
                *v += f64::from((i * 7919 % 13) as u32) * 0.01 - 0.05;
            }
        });
        assert!(!judged.right && judged.findings.is_empty(), "{judged:?}");
    }

    /// Activations whose scale is 1, many of them right between two codes; of those, lower codes are even and odd.
    fn halves() -> Vec<f64> {
        let halves = (1..512).map(|i| f64::from(i * 37 % 41 - 20) / 2.0);
        std::iter::once(127.0).chain(halves).collect()
    }

    /// What becomes of the product of those with their codes.
    fn judged_codes(code: fn(usize, f64) -> f64) -> Judged {
        let oracle = Oracle::open(Path::new(DEMO)).unwrap();
        let mut inputs = Inputs::default();
        inputs.put((Tap::FfnSubNorm, Some(1)), 0, halves());
        let matrix = oracle.matrix("blk.1.ffn_down.weight").unwrap();
        let codes: Vec<f64> = (0..).zip(halves()).map(|(i, v)| code(i, v)).collect();
        let rows = (0..matrix.rows).map(|row| maths::dot(&matrix.row(row), &codes));
        let case = Case {
            at: AT,
            batch: Batch {
                first_position: 0,
                tokens: &[1],
            },
            position: 0,
            inputs: &inputs,
            limit: 1e-13,
            element_limit: None,
            outputs: None,
            explain: true,
        };
        oracle.judge(case, &[rows.collect()]).unwrap().1.remove(0)
    }

    #[test]
    fn halves_go_to_even_or_away_from_zero_in_all_of_a_row() {
        let even = judged_codes(|_, v| v.round_ties_even());
        assert!(even.right && even.rounding == Rounding::None, "{even:?}");
        let away = judged_codes(|_, v| v.round());
        assert!(away.right, "{away:?}");
        assert_eq!(
            away.rounding.name(),
            "int8 codes rounded half away from zero"
        );
        let mixed = judged_codes(|i, v| match i % 2 {
            0 => v.round(),
            _ => v.round_ties_even(),
        });
        assert!(!mixed.right, "{mixed:?}");
        let towards = judged_codes(|_, v| (v.abs() - 0.5).ceil().copysign(v));
        let up = judged_codes(|_, v| (v + 0.5).floor());
        for (judged, says) in [
            (towards, "halves of activation codes towards zero"),
            (up, "codes up"),
        ] {
            assert!(!judged.right);
            let findings = judged.findings.join("; ");
            assert!(findings.contains(says), "{findings:?} lacks {says:?}");
        }
    }

    /// A row of a stage at position 200 that differs from the right one, and what its stage starts from.
    fn judged_at(at: TapAt, source: TapAt, change: impl Fn(&Oracle, &[f64], &mut [f64])) -> Judged {
        let oracle = Oracle::open(Path::new(DEMO)).unwrap();
        let position = 200;
        let batch = Batch {
            first_position: position,
            tokens: &[1],
        };
        let width = oracle.width(source.0, batch).unwrap();
        let x: Vec<f64> = x().into_iter().take(width).map(|v| v + 0.25).collect();
        let mut inputs = Inputs::default();
        inputs.put(source, position, x.clone());
        let rows = oracle.stage(at, batch, position..position + 1, &inputs, Rounding::None);
        let mut row = rows.unwrap().remove(0);
        change(&oracle, &x, &mut row);
        let case = Case {
            at,
            batch,
            position,
            inputs: &inputs,
            limit: 1e-14,
            element_limit: Some(1e-12),
            outputs: None,
            explain: true,
        };
        oracle.judge(case, &[row]).unwrap().1.remove(0)
    }

    #[test]
    fn each_pair_may_be_off_by_what_its_own_angle_may_be() {
        let at = |tap| (tap, Some(1));
        // Turns a pair of the first head by a share of what another may be off by.
        let turned = |pair: usize, other: usize, share: f64| {
            judged_at(at(Tap::QRope), at(Tap::Q), |oracle, _, row| {
                let rope = &oracle.hyper.rope;
                let (sin, cos) = (share * bounds::angles(rope, 200)[other]).sin_cos();
                let (a, b) = rope.pair(pair);
                (row[a], row[b]) = (row[a] * cos - row[b] * sin, row[a] * sin + row[b] * cos);
            })
        };
        let right = turned(0, 0, 0.9);
        assert!(
            right.right && right.rounding == Rounding::Angles,
            "{right:?}"
        );
        assert!(right.nmse <= right.limit, "{right:?}");
        assert!(!turned(0, 0, 1.5).right);
        let last = Oracle::open(Path::new(DEMO)).unwrap().hyper.rope.dims / 2 - 1;
        // As a row it is no further off than the first pair makes it.
        let slow = turned(last, 0, 0.9);
        assert!(!slow.right, "{slow:?}");
    }

    #[test]
    fn a_norm_may_be_off_by_one_factor_as_its_sum_may_be() {
        let off = |share: f64, alternate: bool| {
            judged_at(
                (Tap::FfnNorm, Some(1)),
                (Tap::FfnInp, Some(1)),
                |oracle, x, row| {
                    let error = share * bounds::norm_factor(x, oracle.hyper.eps);
                    for (i, v) in row.iter_mut().enumerate() {
                        *v *= if alternate && i % 2 == 0 {
                            1.0 - error
                        } else {
                            1.0 + error
                        };
                    }
                },
            )
        };
        let right = off(0.9, false);
        assert!(right.right && right.rounding == Rounding::Sums, "{right:?}");
        assert!(!off(2.0, false).right);
        assert!(!off(0.9, true).right);
    }
}
