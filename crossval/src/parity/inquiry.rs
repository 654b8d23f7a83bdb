//! The two questions that decide about rows of logits beyond their limit, asked of one sequence: is every stage of both
//! engines right in those rows and before them, given its own inputs, and what does each rounding that the model's types
//! allow make of the logits of the same tokens, in the oracle? Where an engine differs from itself, the same is asked of
//! both ways in which it evaluated them.
//!
//! An engine of which every stage can be judged, in the rows that were compared and, where nothing else has compared them,
//! at every position before, is right if all are. Of one that offers less, the rows must lie within [`APART`] times what
//! the roundings come to, as well.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use crossval_protocol::Settings;
use reports::model::{Amplified, Role, RoundingSpread, WrongStage};

use super::arbitration::{NoRuling, nmse};
use super::court::{Captured, Court, Question, Wanted, WantedRows};
use super::excuses::chosen;
use super::plan::Plan;
use crate::compare::tap::Beyond;
use crate::engine::{Engine, EngineError, by};
use crate::session::batches::{Sequence, rows};
use crate::session::lockstep::aligned;
use crate::session::pair::Pair;

/// How far two right engines may be apart, as a multiple of the NMSE that the worst rounding makes: each may be as far
/// from the exact row, in another direction.
const APART: f64 = 4.0;

/// Rows beyond the limit whose stages are judged, at most: the first, the worst, and others drawn at random.
const ROWS: usize = 8;

/// Positions that are judged, at most: those rows, and others before them.
const POSITIONS: usize = 256;

/// Values of taps that are kept of an engine for that, at most, beside its cache.
const VALUES: usize = 1 << 25;

/// Multiply-accumulates that measuring roundings may take, about; fewer tokens of a sequence are taken to stay below.
const MEASURING: usize = 1 << 37;

/// Tokens that roundings are measured on, at most.
const TOKENS: usize = 64;

/// Passes through the model that measuring takes, about.
const PASSES: usize = 8;

/// What speaks for rows beyond their limit, or against an engine.
#[derive(Debug)]
pub(super) enum Answer {
    /// No fault.
    Right(Amplified),
    /// Stages that are wrong, the first of each engine.
    Wrong(Vec<WrongStage>),
    /// Neither: nobody can say, or it is more than roundings make. `None` if it is no number.
    Open(Option<Amplified>),
}

/// How an engine evaluates a sequence.
#[derive(Clone, Copy, Debug)]
pub(super) struct Way<'a> {
    pub(super) role: Role,
    pub(super) sequence: Sequence<'a>,
    pub(super) settings: Settings,
}

impl<'a> Way<'a> {
    /// Both engines on one sequence.
    pub(super) fn of_both(sequence: Sequence<'a>, settings: Settings) -> [Way<'a>; 2] {
        Role::BOTH.map(|role| Way {
            role,
            sequence,
            settings,
        })
    }
}

/// Asks the oracle about logits of one sequence.
pub(super) struct Inquiry<'a, 'c> {
    pub(super) court: &'a mut Court<'c>,
    pub(super) plan: &'a Plan<'a>,
    /// The evaluations whose rows lie apart, of the same tokens.
    pub(super) ways: [Way<'a>; 2],
    /// Index of the prompt.
    pub(super) prompt: usize,
    /// Whether every position of it has been compared tap by tap. Where none was, a fault at one that is not judged here
    /// would be taken for what later positions start from.
    pub(super) compared: bool,
    pub(super) rng: &'a mut Rng,
}

impl Inquiry<'_, '_> {
    /// About rows beyond their limit.
    ///
    /// # Errors
    /// The engine that failed when it was asked again, or the oracle.
    pub(super) fn about(&mut self, pair: &mut Pair, rows: &[Beyond]) -> Result<Answer, NoRuling> {
        let worst = rows.iter().map(|row| row.nmse);
        // NaN is the largest.
        let worst = worst.max_by(f64::total_cmp);
        // What is no number is no rounding.
        let Some(worst) = worst.filter(|worst| worst.is_finite()) else {
            return Ok(Answer::Open(None));
        };
        pair.set_task(&format!(
            "evaluating prompt {} again, for the oracle",
            self.prompt
        ));
        let chosen = chosen(rows, ROWS, self.rng);
        let positions = self.positions(&chosen);
        let mut captured = Vec::new();
        for way in self.ways {
            captured.push(
                self.capture(pair.engine(way.role), way, &positions)
                    .map_err(by(way.role))?,
            );
        }
        let mut stages = 0;
        let last = rows.iter().map(|row| row.position).max().unwrap_or(0);
        let mut all = self.repeated(&captured, &chosen);
        all &= self.compared || positions.len() > last;
        let farthest = farthest(&captured, &chosen);
        let mut wrong = Vec::new();
        for (way, (captured, offered)) in self.ways.into_iter().zip(&captured) {
            let judged = self.judge(way, captured, offered, &positions, &farthest)?;
            stages += judged.stages;
            all &= judged.all;
            wrong.extend(judged.wrong);
        }
        if !wrong.is_empty() {
            return Ok(Answer::Wrong(wrong));
        }
        let roundings = self.roundings(last)?;
        let largest = roundings
            .iter()
            .map(|r| r.nmse)
            .collect::<Option<Vec<f64>>>();
        let largest = largest.and_then(|all| all.into_iter().reduce(f64::max));
        let limit = largest.map(|largest| APART * largest);
        let amplified = Amplified {
            rows: rows.len() as u64,
            nmse: Some(worst),
            stages,
            roundings,
            limit,
        };
        let within = limit.is_some_and(|limit| worst <= limit);
        Ok(match all || within {
            true => Answer::Right(amplified),
            false => Answer::Open(Some(amplified)),
        })
    }

    /// Those of the rows, and as many before the last as can be afforded: what is wrong there shows in what comes later.
    fn positions(&mut self, chosen: &[Beyond]) -> Vec<usize> {
        let facts = &self.plan.facts;
        let of_layer = 12 * facts.n_embd + 4 * facts.n_ff;
        let of_position = facts.n_layer * of_layer + facts.n_vocab;
        let most = (VALUES / of_position).clamp(chosen.len(), POSITIONS);
        let mut positions: BTreeSet<usize> = chosen.iter().map(|row| row.position).collect();
        let last = positions.last().copied().unwrap_or(0);
        let mut others: Vec<usize> = (0..last).filter(|p| !positions.contains(p)).collect();
        while positions.len() < most && !others.is_empty() {
            let drawn = others.swap_remove(self.rng.below(others.len()));
            positions.insert(drawn);
        }
        positions.into_iter().collect()
    }

    /// All that an engine offers at some positions, and its cache; and which taps that is.
    fn capture(
        &self,
        engine: &mut Engine,
        way: Way,
        positions: &[usize],
    ) -> Result<(Captured, Vec<Tap>), EngineError> {
        let hello = &engine.hello().taps;
        let of_model = self.plan.facts.taps.iter().copied();
        let offered: Vec<Tap> = of_model.filter(|tap| hello.contains(tap)).collect();
        let last = positions.last().copied().unwrap_or(0);
        let wanted = Wanted {
            rows: WantedRows::Positions(positions.to_vec(), None),
            history: self.court.histories(&self.court.stages(&offered), &offered),
        };
        engine.configure(way.settings)?;
        let batches = way.sequence.batches(way.settings.n_ubatch);
        let batches = batches.take_while(|&(first, _)| first <= last);
        let mut captured = Captured::default();
        rows(engine, batches, &offered, |at, _, row| {
            let place = (at.tap, at.layer);
            if wanted.wants(place, at.position) {
                captured.put(place, at.position, row);
            }
        })?;
        Ok((captured, offered))
    }

    /// Whether these are the rows that were compared.
    fn repeated(&self, captured: &[(Captured, Vec<Tap>)], chosen: &[Beyond]) -> bool {
        let [(reference, _), (candidate, _)] = captured else {
            return false;
        };
        let at = (Tap::Logits, None);
        let mut chosen = chosen.iter();
        chosen.all(|row| {
            let rows = [reference, candidate].map(|c| c.row(at, row.position));
            let [Some(r), Some(c)] = rows else {
                return false;
            };
            nmse(at.0, r, c) == row.nmse
        })
    }

    fn judge(
        &mut self,
        way: Way,
        captured: &Captured,
        offered: &[Tap],
        positions: &[usize],
        farthest: &BTreeMap<usize, usize>,
    ) -> Result<JudgedStages, NoRuling> {
        let last = positions.last().copied().unwrap_or(0);
        let stages = self.court.affordable(offered, last + 1, self.rng);
        let of_model = self.court.stages(&self.plan.facts.taps);
        let mut judged = JudgedStages {
            stages: 0,
            all: stages.len() == of_model.len(),
            wrong: None,
        };
        for &position in positions {
            for &at in &stages {
                let element = match at.0 {
                    Tap::Logits => farthest.get(&position).copied(),
                    _ => None,
                };
                let question = Question {
                    at,
                    sequence: way.sequence,
                    position,
                    element: element.unwrap_or(0),
                    outputs: &[],
                    explain: true,
                };
                if !self.stage(way.role, captured, question, &mut judged)? {
                    return Ok(judged);
                }
            }
        }
        Ok(judged)
    }

    /// Whether a stage is right, or nobody can say.
    fn stage(
        &mut self,
        role: Role,
        captured: &Captured,
        question: Question,
        judged: &mut JudgedStages,
    ) -> Result<bool, NoRuling> {
        let position = question.position;
        let row = captured.row(question.at, position);
        let answer = match row {
            Some(row) => self.court.glance(question, captured, &[row])?,
            None => None,
        };
        let Some(judgement) = answer.and_then(|answer| answer.rows.into_iter().next()) else {
            judged.all = false;
            return Ok(true);
        };
        judged.stages += 1;
        let right = judgement.right;
        if !right {
            judged.wrong = Some(WrongStage {
                engine: role.name().to_owned(),
                prompt: self.prompt,
                position,
                judgement,
            });
        }
        Ok(right)
    }

    /// What roundings make of the logits of the sequence up to a position, or of as much of it as can be afforded; of a
    /// shorter one, with tokens drawn at random behind it.
    fn roundings(&mut self, last: usize) -> Result<Vec<RoundingSpread>, NoRuling> {
        let plan = self.plan;
        let facts = &plan.facts;
        let of_layer = facts.n_embd * (4 * facts.n_embd + 3 * facts.n_ff);
        let weights = facts.n_layer * of_layer + facts.n_vocab * facts.n_embd;
        let most = (MEASURING / PASSES / weights.max(1)).clamp(2, TOKENS);
        let most = most.min(facts.n_ctx_train);
        let mut tokens = self.ways[0].sequence.tokens();
        tokens.truncate(most.min(last + 1));
        // Few rows say little of what is possible: it is the model that grows them.
        let n_vocab = facts.n_vocab;
        tokens.resize_with(most, || self.rng.below(n_vocab) as u32);
        let spread = self.court.spread(&tokens)?.into_iter();
        let spread = spread.map(|of| RoundingSpread {
            rounding: of.rounding,
            nmse: of.nmse,
        });
        Ok(spread.collect())
    }
}

/// The element in which rows of logits lie farthest apart, by position: of many outputs, it is to be looked at.
fn farthest(captured: &[(Captured, Vec<Tap>)], rows: &[Beyond]) -> BTreeMap<usize, usize> {
    let [(one, _), (other, _)] = captured else {
        return BTreeMap::new();
    };
    let of_row = |row: &Beyond| {
        let rows = [one, other].map(|c| c.row((Tap::Logits, None), row.position));
        let [one, other] = [aligned::<f32>(rows[0]?), aligned::<f32>(rows[1]?)];
        let apart = one.iter().zip(&*other).map(|(a, b)| (a - b).abs());
        let (element, _) = apart.enumerate().max_by(|a, b| a.1.total_cmp(&b.1))?;
        Some((row.position, element))
    };
    rows.iter().filter_map(of_row).collect()
}

/// What became of the stages of one engine.
struct JudgedStages {
    stages: u64,
    /// Whether these were all of the model's, at every position.
    all: bool,
    /// The first.
    wrong: Option<WrongStage>,
}
