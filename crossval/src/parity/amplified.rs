//! Rows of logits beyond their limit that are no fault. Where each engine goes its own way, a rounding that one does and the
//! other does not turns a few activations into the next int8 code, and over the layers that grows: how far, the model says
//! and no profile. So where nothing else speaks against the engines, two questions are asked of such rows:
//! - is every stage of both engines right there, given its own inputs, and before it, where it starts from?
//! - what does each rounding that the model's types allow make of the logits of the same tokens, in the oracle?
//!
//! An engine of which every stage can be judged, in the rows that were compared, is right if all are. Of one that offers
//! less, the rows must lie within [`APART`] times what the roundings come to, as well.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use crossval_oracle::inputs::TapAt;
use reports::model::{
    Amplified, Divergence, Finding, Generation, Mode, Place, Role, RoundingSpread, Source,
    TapResult, WrongStage,
};
use reports::number;
use reports::outcome::Outcome;

use super::arbitration::{NoRuling, nmse};
use super::court::{Captured, Court, Oracle, Question, Wanted, WantedRows};
use super::generation::explained;
use super::measurements::Measurements;
use super::plan::Plan;
use super::spot_check::seed_of_now;
use crate::compare::finite;
use crate::compare::site::Site;
use crate::compare::tap::Beyond;
use crate::engine::{Engine, EngineError, Failed, by};
use crate::session::batches::{Sequence, rows};
use crate::session::loaded::Loaded;
use crate::session::pair::Pair;

/// How far two right engines may be apart, as a multiple of the NMSE that the worst rounding makes: each may be as far
/// from the exact row, in another direction.
const APART: f64 = 4.0;

/// Rows beyond the limit whose stages are judged, at most: the first, the worst, and others drawn at random.
const ROWS: usize = 8;

/// Positions that are judged, at most: those rows, and others before them.
const POSITIONS: usize = 32;

/// Values of taps that are kept of an engine for that, at most, beside its cache.
const VALUES: usize = 1 << 25;

/// Multiply-accumulates that measuring roundings may take, about; fewer tokens of a sequence are taken to stay below.
const MEASURING: usize = 1 << 37;

/// Tokens that roundings are measured on, at most.
const TOKENS: usize = 64;

/// Passes through the model that measuring takes, about.
const PASSES: usize = 8;

/// A row of logits beyond its limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) position: usize,
    /// `None` if not finite.
    pub(super) nmse: Option<f64>,
}

impl Row {
    fn of(row: Beyond) -> Row {
        Row {
            position: row.position,
            nmse: finite(row.nmse),
        }
    }
}

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

/// What speaks for the logits of a run, and against the engines.
#[derive(Debug, Default)]
pub(super) struct Amplifications {
    /// By prompt.
    prompts: BTreeMap<usize, Amplified>,
    /// Of logits before generated tokens, by prompt and the engine whose tokens they are.
    generation: BTreeMap<(usize, Role), Amplified>,
    wrong: Vec<WrongStage>,
    /// Of prompts of which nobody can say.
    open: BTreeMap<usize, Amplified>,
}

/// Logits that are beyond their limit, and nothing else.
#[derive(Debug, Default)]
pub(super) struct ToBeAsked<'a> {
    /// Of these prompts.
    pub(super) prompts: Vec<usize>,
    /// Before tokens of these, if there are any.
    pub(super) generations: Vec<&'a Generation>,
}

/// Asks about the logits of prompts, and of those before generated tokens, that are beyond their limit.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn hear_logits(
    engines: &mut Loaded,
    oracle: &mut Oracle,
    plan: &Plan,
    measured: &Measurements,
    ToBeAsked {
        prompts,
        generations,
    }: ToBeAsked,
) -> Result<Amplifications, Failed> {
    let mut heard = Amplifications::default();
    let mut checks = generations.iter().flat_map(|generation| &generation.checks);
    if prompts.is_empty() && checks.all(|check| check.beyond.is_empty()) {
        return Ok(heard);
    }
    let Ok(court) = oracle.court() else {
        return Ok(heard);
    };
    engines.configure(plan.settings)?;
    let mut rng = Rng::new(seed_of_now(), "logits");
    let pair = &mut engines.pair();
    for (site, rows) in measured.beyond() {
        if (site.mode, site.tap) != (Mode::Cumulative, Tap::Logits)
            || !prompts.contains(&site.prompt)
        {
            continue;
        }
        let rows: Vec<Row> = rows.iter().map(|&row| Row::of(row)).collect();
        let mut inquiry = Inquiry {
            court: &mut *court,
            plan,
            sequence: measured.sequence(site.prompt),
            prompt: site.prompt,
            rng: &mut rng,
        };
        match inquiry.about(pair, &rows) {
            Ok(answer) => {
                if let Answer::Open(Some(amplified)) = &answer {
                    heard.open.insert(site.prompt, amplified.clone());
                }
                let right = heard.take(answer);
                heard.prompts.extend(right.map(|a| (site.prompt, a)));
            }
            Err(NoRuling::Engine(failed)) => return Err(failed),
            // What nobody has judged is held against the run.
            Err(NoRuling::Oracle(_)) => {}
        }
    }
    for generation in generations {
        let prompt = &plan.prompts[generation.prompt].tokens;
        for check in generation.checks.iter().filter(|c| !c.beyond.is_empty()) {
            let tokens = check.role.of(&generation.reference, &generation.candidate);
            let all = [prompt, tokens.as_slice()].concat();
            let rows = check.beyond.iter().map(|row| Row {
                position: row.worst.position,
                nmse: row.nmse,
            });
            let rows: Vec<Row> = rows.collect();
            let mut inquiry = Inquiry {
                court: &mut *court,
                plan,
                sequence: Sequence {
                    prompt: &all[..all.len().saturating_sub(1)],
                    steps: &[],
                },
                prompt: generation.prompt,
                rng: &mut rng,
            };
            match inquiry.about(pair, &rows) {
                Ok(answer) => {
                    let right = heard.take(answer);
                    let of = (generation.prompt, check.role);
                    heard.generation.extend(right.map(|a| (of, a)));
                }
                Err(NoRuling::Engine(failed)) => return Err(failed),
                Err(NoRuling::Oracle(_)) => {}
            }
        }
    }
    Ok(heard)
}

impl Amplifications {
    fn take(&mut self, answer: Answer) -> Option<Amplified> {
        match answer {
            Answer::Right(amplified) => Some(amplified),
            Answer::Wrong(wrong) => {
                self.wrong.extend(wrong);
                None
            }
            Answer::Open(_) => None,
        }
    }

    /// Whether the limit is not held against the run there.
    pub(super) fn site(&self, site: &Site) -> bool {
        let logits = (site.mode, site.tap) == (Mode::Cumulative, Tap::Logits);
        logits && self.prompts.contains_key(&site.prompt)
    }

    /// What is known of logits of which nobody can say who is wrong.
    pub(super) fn hint(&self, first: &Divergence) -> Option<String> {
        let logits = first.mode == Mode::Cumulative && first.tap == Tap::Logits.name();
        let amplified = self.open.get(&first.prompt).filter(|_| logits)?;
        let judged = match amplified.stages {
            0 => "no ruling: the engines offer too little to judge a stage".to_owned(),
            n => format!(
                "no ruling: the {} that could be judged are right",
                number::plural(n, "stage")
            ),
        };
        let of_roundings = in_roundings(amplified);
        let of_roundings =
            of_roundings.map_or(String::new(), |o| format!("; the logits are apart by {o}"));
        Some(judged + &of_roundings)
    }

    /// Says so in the results.
    pub(super) fn mark(&self, mut results: Vec<TapResult>) -> Vec<TapResult> {
        for result in results.iter_mut().filter(|r| r.tap == Tap::Logits.name()) {
            if let Some(amplified) = self.prompts.get(&result.prompt)
                && let Some(stats) = &mut result.cumulative
            {
                stats.amplified = Some(amplified.clone());
                stats.pass = Some(true);
            }
        }
        results
    }

    /// Says so of generated tokens: where the logits are no fault, neither is a token that they leave open.
    pub(super) fn mark_generation(&self, mut generation: Generation) -> Generation {
        self.mark_one(&mut generation);
        generation.further.iter_mut().for_each(|g| self.mark_one(g));
        generation
    }

    fn mark_one(&self, generation: &mut Generation) {
        for check in &mut generation.checks {
            let amplified = self.generation.get(&(generation.prompt, check.role));
            let Some(amplified) = amplified else { continue };
            check.amplified = Some(amplified.clone());
            if let Some(mismatch) = &mut generation.first_mismatch
                && check.beyond.iter().any(|row| row.index == mismatch.index)
            {
                mismatch.near_tie |= explained(mismatch.margin, mismatch.max_logit_difference);
            }
        }
    }

    /// What is wrong, and one finding per prompt of what is not.
    pub(super) fn findings(&self, plan: &Plan) -> Vec<Finding> {
        let wrong = self.wrong.iter().map(wrong);
        let prompts = self.prompts.iter().map(|(&prompt, amplified)| {
            let place = Place {
                prompt: Some(prompt),
                tap: Some(Tap::Logits.to_string()),
                ..Place::default()
            };
            let what = format!("of prompt {prompt}");
            noted(amplified, &rows_beyond(amplified, &what, plan), Some(place))
        });
        let generation = self.generation.iter().map(|(&(prompt, role), amplified)| {
            let place = Place {
                prompt: Some(prompt),
                ..Place::default()
            };
            let what = format!("before the {role}'s tokens from prompt {prompt}");
            noted(amplified, &rows_beyond(amplified, &what, plan), Some(place))
        });
        wrong.chain(prompts).chain(generation).collect()
    }
}

fn wrong(stage: &WrongStage) -> Finding {
    let WrongStage {
        engine,
        prompt,
        position,
        judgement,
    } = stage;
    let layer = judgement
        .layer
        .map_or(String::new(), |l| format!("layer {l}, "));
    let nmse = judgement
        .nmse
        .map_or(number::NOT_FINITE.to_owned(), number::error);
    let mut text = format!(
        "where each engine goes its own way, the oracle finds the {engine} wrong: {layer}{} of prompt {prompt} at position \
         {position}, NMSE {nmse}, limit {}",
        judgement.tap,
        number::error(judgement.limit)
    );
    if let Some(found) = judgement.findings.first() {
        text.push_str(&format!(": it {found}"));
    }
    let mut roles = Role::BOTH.into_iter();
    Finding {
        outcome: Outcome::Parity,
        source: Source::Oracle,
        place: Some(Place {
            role: roles.find(|role| role.name() == engine),
            prompt: Some(*prompt),
            position: Some(*position),
            layer: judgement.layer,
            tap: Some(judgement.tap.clone()),
            ..Place::default()
        }),
        text,
    }
}

fn rows_beyond(amplified: &Amplified, what: &str, plan: &Plan) -> String {
    format!(
        "{} of logits {what} beyond the limit of {}, NMSE {}",
        number::plural(amplified.rows, "row"),
        number::error(plan.profile.cumulative_logits),
        amplified
            .nmse
            .map_or(number::NOT_FINITE.to_owned(), number::error)
    )
}

/// How far apart rows are, in terms of what the worst rounding makes of them; `None` if that is unknown.
fn in_roundings(amplified: &Amplified) -> Option<String> {
    let known = amplified.roundings.iter();
    let known = known.filter_map(|r| Some((r.nmse.filter(|&nmse| nmse > 0.0)?, &r.rounding)));
    let (largest, rounding) = known.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!(
        "{} times what one rounding alone makes of them ({rounding}: {})",
        number::significant(amplified.nmse? / largest, 2),
        number::error(largest)
    ))
}

/// That logits beyond their limit, as `what` says, are no fault.
pub(super) fn noted(amplified: &Amplified, what: &str, place: Option<Place>) -> Finding {
    let mut text = format!("rounding, amplified over the layers: {what}");
    if let Some(of_roundings) = in_roundings(amplified) {
        text.push_str(&format!(", {of_roundings}"));
    }
    if amplified.stages > 0 {
        let stages = number::plural(amplified.stages, "stage");
        text.push_str(&format!(
            "; the oracle finds {stages} of both engines right"
        ));
    }
    Finding {
        outcome: Outcome::Pass,
        source: Source::Oracle,
        place,
        text,
    }
}

/// Asks the oracle about logits of one sequence.
pub(super) struct Inquiry<'a, 'c> {
    pub(super) court: &'a mut Court<'c>,
    pub(super) plan: &'a Plan<'a>,
    pub(super) sequence: Sequence<'a>,
    /// Index of the prompt.
    pub(super) prompt: usize,
    pub(super) rng: &'a mut Rng,
}

impl Inquiry<'_, '_> {
    /// About rows beyond their limit.
    ///
    /// # Errors
    /// The engine that failed when it was asked again, or the oracle.
    pub(super) fn about(&mut self, pair: &mut Pair, rows: &[Row]) -> Result<Answer, NoRuling> {
        let worst = rows
            .iter()
            .map(|row| row.nmse)
            .collect::<Option<Vec<f64>>>();
        let worst = worst.and_then(|all| all.into_iter().reduce(f64::max));
        // What is no number is no rounding.
        let Some(worst) = worst.filter(|worst| worst.is_finite()) else {
            return Ok(Answer::Open(None));
        };
        pair.set_task(&format!(
            "evaluating prompt {} again, for the oracle",
            self.prompt
        ));
        let chosen = self.chosen(rows);
        let positions = self.positions(&chosen);
        let mut captured = Vec::new();
        for role in Role::BOTH {
            captured.push(
                self.capture(pair.engine(role), &positions)
                    .map_err(by(role))?,
            );
        }
        let mut stages = 0;
        let mut all = self.repeated(&captured, &chosen);
        let mut wrong = Vec::new();
        for (role, (captured, offered)) in Role::BOTH.into_iter().zip(&captured) {
            let judged = self.judge(role, captured, offered, &positions)?;
            stages += judged.stages;
            all &= judged.all;
            wrong.extend(judged.wrong);
        }
        if !wrong.is_empty() {
            return Ok(Answer::Wrong(wrong));
        }
        let last = rows.iter().map(|row| row.position).max().unwrap_or(0);
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

    /// The first row, the worst, and others.
    fn chosen(&mut self, rows: &[Row]) -> Vec<Row> {
        if rows.len() <= ROWS {
            return rows.to_vec();
        }
        let size = |row: &Row| row.nmse.unwrap_or(f64::INFINITY);
        let worst = rows.iter().enumerate();
        let worst = worst.max_by(|(_, a), (_, b)| size(a).total_cmp(&size(b)));
        let mut drawn = BTreeSet::from([0, worst.map_or(0, |(i, _)| i)]);
        while drawn.len() < ROWS {
            drawn.insert(self.rng.below(rows.len()));
        }
        drawn.into_iter().map(|i| rows[i]).collect()
    }

    /// Those of the rows, and as many before the last as can be afforded: what is wrong there shows in what comes later.
    fn positions(&mut self, chosen: &[Row]) -> Vec<usize> {
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
        let batches = self.sequence.batches(self.plan.settings.n_ubatch);
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
    fn repeated(&self, captured: &[(Captured, Vec<Tap>)], chosen: &[Row]) -> bool {
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
            row.nmse.is_some_and(|before| nmse(at.0, r, c) == before)
        })
    }

    fn judge(
        &mut self,
        role: Role,
        captured: &Captured,
        offered: &[Tap],
        positions: &[usize],
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
                if !self.stage(role, captured, at, position, &mut judged)? {
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
        at: TapAt,
        position: usize,
        judged: &mut JudgedStages,
    ) -> Result<bool, NoRuling> {
        let question = Question {
            at,
            sequence: self.sequence,
            position,
            element: 0,
            outputs: &[],
            explain: true,
        };
        let row = captured.row(at, position);
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

    /// What roundings make of the logits of the sequence up to a position, or of as much of it as can be afforded.
    fn roundings(&mut self, last: usize) -> Result<Vec<RoundingSpread>, NoRuling> {
        let facts = &self.plan.facts;
        let of_layer = facts.n_embd * (4 * facts.n_embd + 3 * facts.n_ff);
        let weights = facts.n_layer * of_layer + facts.n_vocab * facts.n_embd;
        let most = (MEASURING / PASSES / weights.max(1)).clamp(2, TOKENS);
        let tokens = self.sequence.tokens();
        let tokens = &tokens[..most.min(last + 1).min(tokens.len())];
        let spread = self.court.spread(tokens)?.into_iter();
        let spread = spread.map(|of| RoundingSpread {
            rounding: of.rounding,
            nmse: of.nmse,
        });
        Ok(spread.collect())
    }
}

/// What became of the stages of one engine.
struct JudgedStages {
    stages: u64,
    /// Whether these were all of the model's, at every position.
    all: bool,
    /// The first.
    wrong: Option<WrongStage>,
}
