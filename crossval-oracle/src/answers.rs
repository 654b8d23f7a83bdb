//! Right rows of a stage: with each rounding that an engine may do on the way, and with codes that flip.
//!
//! Where only the inputs of a layer are known, its stages follow each other, and an activation that lies near the middle
//! between two codes may become either: the next digit of the arithmetic decides. One such flip grows with every
//! quantiser after it, up to what a quantiser step is worth. So what flips make of a row is measured on that row.

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;

use super::bounds;
use super::inputs::{Inputs, TapAt};
use super::maths::Rounding;
use super::{Batch, Oracle, OracleError};

/// Relative error of a value that an engine computes in f32, with room: eight roundings. A norm's factor is rounded four
/// times.
const ENGINE: f64 = 4.0 * f32::EPSILON as f64;

/// What is to be judged.
#[derive(Clone, Copy, Debug)]
pub struct Case<'a> {
    /// The stage.
    pub at: TapAt,
    /// The batch that the row was computed in.
    pub batch: Batch<'a>,
    /// The row's position.
    pub position: usize,
    /// What the stage started from; what is missing of that is computed from stages before it in its layer.
    pub inputs: &'a Inputs,
    /// Largest NMSE that counts as right, of the row and of each of its heads.
    pub limit: f64,
    /// Largest squared error of an element, as a share of its own square or of the row's mean square, whichever is
    /// larger; `None` for any.
    pub element_limit: Option<f64>,
    /// Elements to look at, within the row; `None` for all.
    pub outputs: Option<&'a [usize]>,
    /// Whether to look for what is wrong with a wrong row.
    pub explain: bool,
}

/// What an engine rounds in the stages that lead to a row: queries, probabilities, and activations before products, as
/// indices into [`Oracle::roundings`], where that has as many.
#[derive(Clone, Copy)]
pub(super) struct Choice([usize; 3]);

impl Choice {
    /// The likeliest first: an engine rounds what attention starts from alike, or the query alone.
    pub(super) const ALL: [Choice; 16] = [
        Choice([0, 0, 0]),
        Choice([1, 1, 0]),
        Choice([1, 0, 0]),
        Choice([0, 1, 0]),
        Choice([0, 0, 1]),
        Choice([1, 1, 1]),
        Choice([1, 0, 1]),
        Choice([0, 1, 1]),
        Choice([0, 0, 2]),
        Choice([1, 1, 2]),
        Choice([1, 0, 2]),
        Choice([0, 1, 2]),
        Choice([0, 0, 3]),
        Choice([1, 1, 3]),
        Choice([1, 0, 3]),
        Choice([0, 1, 3]),
    ];

    /// One thing at a time, and what goes before the rounding's name.
    pub(super) const SINGLE: [(Choice, &str); 5] = [
        (Choice([1, 0, 0]), "attention's queries: "),
        (Choice([0, 1, 0]), "attention's probabilities: "),
        (Choice([0, 0, 1]), "products: "),
        (Choice([0, 0, 2]), "products: "),
        (Choice([0, 0, 3]), "products: "),
    ];

    pub(super) fn of(self, tap: Tap, roundings: &[Rounding]) -> Rounding {
        let Choice([query, probabilities, product]) = self;
        let index = match tap {
            Tap::AttnProbs => query,
            Tap::AttnOut => probabilities,
            _ => product,
        };
        roundings[index.min(roundings.len() - 1)]
    }
}

/// A right row, and what leads to it.
pub(super) struct Answer {
    choice: Choice,
    /// What is rounded; of several on the way to the row, the nearest.
    pub(super) rounding: Rounding,
    /// What the stage starts from, given or computed.
    pub(super) inputs: Inputs,
    pub(super) row: Vec<f64>,
}

/// The right rows of a case, computed as far as they are asked for.
pub(super) struct Answers<'a> {
    oracle: &'a Oracle,
    case: Case<'a>,
    /// Computed so far.
    known: Vec<Answer>,
    further: std::vec::IntoIter<Choice>,
    /// What is computed from what is given, the row's stage last.
    stages: Vec<TapAt>,
}

impl<'a> Answers<'a> {
    pub(super) fn of(oracle: &'a Oracle, case: Case<'a>) -> Result<Answers<'a>, OracleError> {
        let first = Choice::ALL[0];
        let (answer, stages) = oracle.answer(&case, first, &|_, _, _| ())?;
        // Of each stage on the way, what else may be rounded; what makes no difference once.
        let mut tried = vec![oracle.roundings_of(&stages, first)?];
        let mut further = Vec::new();
        for choice in Choice::ALL {
            let roundings = oracle.roundings_of(&stages, choice)?;
            if !tried.contains(&roundings) {
                tried.push(roundings);
                further.push(choice);
            }
        }
        Ok(Answers {
            oracle,
            case,
            known: vec![answer],
            further: further.into_iter(),
            stages,
        })
    }

    /// The answer with a rounding, by the order in which they are tried; `None` if there are no more.
    pub(super) fn get(&mut self, index: usize) -> Result<Option<&Answer>, OracleError> {
        while self.known.len() <= index
            && let Some(choice) = self.further.next()
        {
            let (answer, _) = self.oracle.answer(&self.case, choice, &|_, _, _| ())?;
            self.known.push(answer);
        }
        Ok(self.known.get(index))
    }

    /// Whether something turns on the way.
    pub(super) fn rotates(&self) -> bool {
        let mut taps = self.stages.iter().map(|(tap, _)| tap);
        taps.any(|tap| matches!(tap, Tap::QRope | Tap::KRope))
    }

    /// The row with nothing rounded but what the oracle does of its own accord.
    pub(super) fn into_own(mut self) -> Vec<f64> {
        self.known.swap_remove(0).row
    }

    /// The answer and rows that are as right: every value on the way is off by what engines are, in one direction and
    /// the other, so that each code near enough to flip does so in one of them.
    pub(super) fn with_flips(&self, index: usize) -> Result<Vec<Vec<f64>>, OracleError> {
        let Some(answer) = self.known.get(index).filter(|_| self.stages.len() > 1) else {
            return Ok(Vec::new());
        };
        let mut rows = Vec::new();
        for (pattern, sign) in [(0, 1.0), (0, -1.0), (1, 1.0), (1, -1.0)] {
            let off = engine_error(self.oracle, pattern, sign);
            rows.push(self.oracle.answer(&self.case, answer.choice, &off)?.0.row);
        }
        Ok(rows)
    }
}

/// Moves every value of a stage by what an engine may be off there.
pub(super) fn engine_error(
    oracle: &Oracle,
    pattern: u64,
    sign: f64,
) -> impl Fn(Tap, usize, &mut [f64]) {
    move |tap, position, row| {
        let error = match tap {
            // Copied or rounded from what was moved.
            Tap::Embd | Tap::KCache | Tap::VCache => return,
            Tap::QRope | Tap::KRope => {
                ENGINE.max(bounds::largest_angle(&oracle.hyper.rope, position))
            }
            _ => ENGINE,
        };
        disturb(tap, error, row, pattern, sign);
    }
}

fn disturb(tap: Tap, error: f64, row: &mut [f64], pattern: u64, sign: f64) {
    let rms = (row.iter().map(|v| v * v).sum::<f64>() / row.len() as f64).sqrt();
    let mut rng = Rng::new(pattern, tap.name());
    for v in row {
        let direction = if rng.below(2) == 0 { sign } else { -sign };
        *v += direction * error * rms.max(v.abs());
    }
}

impl Oracle {
    /// The right row of a case, and the stages that it took to compute it.
    fn answer(
        &self,
        case: &Case,
        choice: Choice,
        pass_on: &dyn Fn(Tap, usize, &mut [f64]),
    ) -> Result<(Answer, Vec<TapAt>), OracleError> {
        let (at, batch) = (case.at, case.batch);
        let positions = case.position..case.position + 1;
        let rounding = |at: TapAt| Ok(choice.of(at.0, &self.roundings(at)?));
        let mut inputs = case.inputs.clone();
        let mut stages = self.supply(
            at,
            batch,
            positions.clone(),
            &mut inputs,
            &rounding,
            pass_on,
        )?;
        let own = rounding(at)?;
        let rows = self.stage_in_part(at, batch, positions, &inputs, own, case.outputs)?;
        stages.push(at);
        let roundings = self.roundings_of(&stages, choice)?;
        let nearest = roundings.into_iter().rev().find(|&r| r != Rounding::None);
        let answer = Answer {
            choice,
            rounding: nearest.unwrap_or(Rounding::None),
            inputs,
            row: rows.into_iter().next().unwrap_or_default(),
        };
        Ok((answer, stages))
    }

    pub(super) fn roundings_of(
        &self,
        stages: &[TapAt],
        choice: Choice,
    ) -> Result<Vec<Rounding>, OracleError> {
        let rounding = |&at: &TapAt| Ok(choice.of(at.0, &self.roundings(at)?));
        stages.iter().map(rounding).collect()
    }
}
