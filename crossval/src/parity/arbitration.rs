//! Who is wrong where the engines part: the stage in question, computed by the oracle from the same inputs.

use bitnet_model::tap::Tap;
use crossval_oracle::inputs::{TapAt, needs};
use half::f16;
use reports::model::{Arbitration, AtFault, Divergence, Judgement, Mode, Role};

use super::court::{Answer, Captured, Court, Question, Wanted, WantedRows, no_answer};
use super::plan::Plan;
use crate::compare::finite;
use crate::compare::tap::{TapAccumulator, row_nmse};
use crate::engine::{Engine, EngineError, Failed, by};
use crate::session::batches::{Sequence, rows};
use crate::session::lockstep::{self, Evaluation, ReferenceHashes, RowAt, RowSink, aligned};
use crate::session::pair::Pair;

/// Has the oracle judge a divergence, puts what it says there, and returns the engine at fault; `None` without a ruling.
/// With `whole_way`, a stage before it that is wrong already takes its place.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn arbitrate(
    divergence: &mut Divergence,
    pair: &mut Pair,
    court: &mut Court,
    plan: &Plan,
    sequence: Sequence,
    whole_way: bool,
) -> Result<Option<AtFault>, Failed> {
    let mut hearing = Hearing {
        court,
        plan,
        sequence,
        divergence,
        explain: true,
    };
    match hearing.hear(pair, whole_way) {
        Ok(ruling) => {
            if let Some(place) = ruling.place {
                *divergence = place;
            }
            divergence.oracle = ruling.value;
            divergence.hint = ruling.hint;
            divergence.arbitration = ruling.arbitration;
            Ok(Some(ruling.at_fault))
        }
        Err(NoRuling::Engine(failed)) => Err(failed),
        Err(NoRuling::Oracle(e)) => {
            divergence.hint = Some(no_ruling(&no_answer(e)));
            Ok(None)
        }
    }
}

/// That there is none, in a report.
pub(super) fn no_ruling(why: &str) -> String {
    format!("no ruling: {why}")
}

/// What the oracle says about a divergence.
pub(super) struct Ruling {
    pub(super) at_fault: AtFault,
    hint: Option<String>,
    /// The right value at the element of the divergence.
    value: Option<f64>,
    pub(super) arbitration: Option<Arbitration>,
    /// Where the engines part, if an engine is wrong there before the divergence.
    place: Option<Divergence>,
}

/// Why there is no ruling.
pub(super) enum NoRuling {
    /// An engine failed when it was asked again.
    Engine(Failed),
    /// The oracle failed, or does not know the model.
    Oracle(EngineError),
}

impl From<EngineError> for NoRuling {
    fn from(of_oracle: EngineError) -> NoRuling {
        NoRuling::Oracle(of_oracle)
    }
}

impl From<Failed> for NoRuling {
    fn from(failed: Failed) -> NoRuling {
        NoRuling::Engine(failed)
    }
}

/// Why a divergence cannot be judged that was not there a second time.
const NOT_REPEATED: &str = "no ruling: the engines gave other rows when they were asked again";

/// Why a stage cannot be judged although all that it starts from is offered.
const NO_NUMBERS: &str = "no ruling: what the stage starts from holds no numbers";

/// NMSE of two rows as they went over the wire.
pub(super) fn nmse(tap: Tap, reference: &[u8], candidate: &[u8]) -> f64 {
    if tap.is_f16() {
        row_nmse::<f16>(&aligned(reference), &aligned(candidate))
    } else {
        row_nmse::<f32>(&aligned(reference), &aligned(candidate))
    }
}

/// Takes rows of both engines from the lockstep.
pub(super) struct Both<'a> {
    wanted: &'a Wanted,
    pub(super) reference: Captured,
    pub(super) candidate: Captured,
}

impl Both<'_> {
    pub(super) fn new(wanted: &Wanted) -> Both<'_> {
        Both {
            wanted,
            reference: Captured::default(),
            candidate: Captured::default(),
        }
    }

    fn keep(&mut self, at: RowAt, reference: &[u8], candidate: &[u8]) {
        let place = (at.tap, at.layer);
        if self.wanted.wants(place, at.position) {
            self.reference.put(place, at.position, reference);
            self.candidate.put(place, at.position, candidate);
        }
    }
}

impl RowSink for Both<'_> {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        let bytes = bytemuck::cast_slice;
        self.keep(at, bytes(reference), bytes(candidate));
    }

    fn row_f16(&mut self, at: RowAt, reference: &[f16], candidate: &[f16]) {
        let bytes = bytemuck::cast_slice;
        self.keep(at, bytes(reference), bytes(candidate));
    }
}

/// A divergence before the court.
pub(super) struct Hearing<'a, 'c> {
    pub(super) court: &'a mut Court<'c>,
    pub(super) plan: &'a Plan<'a>,
    pub(super) sequence: Sequence<'a>,
    pub(super) divergence: &'a Divergence,
    /// Whether it matters what is wrong with a wrong row.
    pub(super) explain: bool,
}

impl Hearing<'_, '_> {
    /// Asks both engines again up to the divergence, and has the oracle judge what they say.
    fn hear(&mut self, pair: &mut Pair, whole_way: bool) -> Result<Ruling, NoRuling> {
        pair.set_task(&format!(
            "evaluating prompt {} again, for the oracle",
            self.divergence.prompt
        ));
        let Ok(tap) = self.divergence.tap.parse::<Tap>() else {
            return Ok(Ruling::undetermined(NOT_REPEATED));
        };
        let at = (tap, self.divergence.layer);
        match self.divergence.mode {
            Mode::Isolated => self.one_stage(pair, at, whole_way),
            Mode::Cumulative => self.all_stages(pair, at),
        }
    }

    /// Both engines have computed a stage from the reference's values.
    fn one_stage(
        &mut self,
        pair: &mut Pair,
        at: TapAt,
        whole_way: bool,
    ) -> Result<Ruling, NoRuling> {
        let position = self.divergence.position;
        let taps = &self.plan.taps;
        let stages = match whole_way {
            true => self.court.stages(taps),
            false => vec![at],
        };
        let layers = self.needs(at).into_iter().map(|(_, layer)| layer);
        let layers = (!whole_way).then(|| layers.collect());
        let wanted = Wanted {
            rows: WantedRows::Positions(vec![position], layers),
            history: self.court.histories(&stages, taps),
        };
        let mut both = Both::new(&wanted);
        for (first_position, tokens) in self.batches() {
            let evaluation = Evaluation {
                first_position,
                tokens,
                taps: &self.plan.taps,
                isolated: true,
            };
            let hashes = &mut ReferenceHashes::default();
            lockstep::evaluate(pair, evaluation, hashes, &mut both)?;
        }
        let rows = [&both.reference, &both.candidate].map(|c| c.row(at, position));
        let [Some(of_reference), Some(of_candidate)] = rows else {
            return Ok(Ruling::undetermined(NOT_REPEATED));
        };
        if finite(nmse(at.0, of_reference, of_candidate)) != self.divergence.nmse {
            return Ok(Ruling::undetermined(NOT_REPEATED));
        }
        for earlier in stages.into_iter().take_while(|&earlier| earlier != at) {
            let Some(place) = self.parted(earlier, &both)? else {
                continue;
            };
            let (value, judged) = self.judge(earlier, &both, place.element)?;
            let Some(judged) = judged else { continue };
            let limit = judged.reference.limit;
            return Ok(Ruling {
                place: Some(Divergence { limit, ..place }),
                ..Ruling::of(pair, earlier, value, judged)
            });
        }
        let (value, judged) = self.judge(at, &both, self.divergence.element)?;
        Ok(match judged {
            Some(judged) => Ruling::of(pair, at, value, judged),
            None => Ruling::undetermined(&self.too_little(at)),
        })
    }

    /// Each engine went its own way: is every stage of it right, given its own inputs?
    pub(super) fn all_stages(&mut self, pair: &mut Pair, at: TapAt) -> Result<Ruling, NoRuling> {
        let mut first_wrong = |role| {
            let captured = self.capture(pair.engine(role)).map_err(by(role))?;
            self.first_wrong_stage(&captured)
        };
        let (reference, candidate) = (first_wrong(Role::Reference)?, first_wrong(Role::Candidate)?);
        let (Some(reference), Some(candidate)) = (reference, candidate) else {
            return Ok(Ruling::undetermined(&self.too_little(at)));
        };
        let judged = Arbitration {
            reference,
            candidate,
        };
        let mut ruling = Ruling::of(pair, at, None, judged);
        // What came before the position may be at fault too.
        if ruling.at_fault == AtFault::None {
            ruling.at_fault = AtFault::Undetermined;
            ruling.hint = Some(format!(
                "no ruling: every stage of both engines is right at position {}, from its own inputs",
                self.divergence.position
            ));
        }
        Ok(ruling)
    }

    /// Why a stage cannot be judged, and what to offer so that it can.
    fn too_little(&self, at: TapAt) -> String {
        let facts = &self.plan.facts;
        let needs = needs(at.0, at.1, facts.n_layer, &facts.taps);
        let own = needs.into_iter().filter(|need| need.own);
        let own: Vec<Tap> = own.map(|need| need.at.0).collect();
        let names = |taps: &[Tap]| {
            let names: Vec<&str> = taps.iter().map(|tap| tap.name()).collect();
            names.join(" and ")
        };
        let lacking = self.plan.lacking.iter().filter_map(|(engine, taps)| {
            let of_stage = own.iter().copied().filter(|tap| taps.contains(tap));
            let of_stage: Vec<Tap> = of_stage.collect();
            let lacks = (!of_stage.is_empty()).then(|| names(&of_stage));
            lacks.map(|lacks| format!("{engine} does not offer {lacks}"))
        });
        let lacking: Vec<String> = lacking.collect();
        match lacking.as_slice() {
            [] => NO_NUMBERS.to_owned(),
            lacking => format!(
                "no ruling: {} starts from {}, and {}; with that, the oracle says who is wrong",
                at.0,
                names(&own),
                lacking.join(", ")
            ),
        }
    }

    /// How the engines part at a stage that the oracle finds wrong in one of them, though not beyond the limit between
    /// them.
    fn parted(&mut self, at: TapAt, both: &Both) -> Result<Option<Divergence>, NoRuling> {
        let position = self.divergence.position;
        let rows = [&both.reference, &both.candidate].map(|c| c.row(at, position));
        let [Some(reference), Some(candidate)] = rows else {
            return Ok(None);
        };
        let question = Question {
            at,
            sequence: self.sequence,
            position,
            element: 0,
            outputs: &[],
            explain: false,
        };
        let judged = self
            .court
            .glance(question, &both.reference, &[reference, candidate])?;
        let right = judged.is_none_or(|answer| answer.rows.iter().all(|row| row.right));
        let mut tap = TapAccumulator::new(None, 0, false);
        if at.0.is_f16() {
            tap.add::<f16>(position, &aligned(reference), &aligned(candidate));
        } else {
            tap.add::<f32>(position, &aligned(reference), &aligned(candidate));
        }
        let stats = tap.stats().filter(|stats| !right && !stats.bit_equal);
        let place = stats.and_then(|stats| Some((stats.nmse, stats.max_abs_at?)));
        Ok(place.map(|(nmse, worst)| Divergence {
            layer: at.1,
            tap: at.0.to_string(),
            element: worst.element,
            reference: worst.reference,
            candidate: worst.candidate,
            nmse,
            part: None,
            ..self.divergence.clone()
        }))
    }

    /// The batches of the comparison, up to the one of the divergence.
    fn batches(&self) -> Vec<(usize, &[u32])> {
        let batches = self.sequence.batches(self.plan.settings.n_ubatch);
        batches
            .take_while(|&(first_position, _)| first_position <= self.divergence.position)
            .collect()
    }

    /// The inputs of a stage.
    fn needs(&self, at: TapAt) -> Vec<TapAt> {
        let facts = &self.plan.facts;
        let needs = needs(at.0, at.1, facts.n_layer, &facts.taps);
        needs.iter().map(|need| need.at).chain([at]).collect()
    }

    /// Both rows of a stage, of which the oracle knows what they start from.
    pub(super) fn judge(
        &mut self,
        at: TapAt,
        both: &Both,
        element: usize,
    ) -> Result<(Option<f64>, Option<Arbitration>), NoRuling> {
        let position = self.divergence.position;
        let rows = [&both.reference, &both.candidate].map(|c| c.row(at, position));
        let [Some(reference), Some(candidate)] = rows else {
            return Ok((None, None));
        };
        let question = Question {
            at,
            sequence: self.sequence,
            position,
            element,
            outputs: &[],
            explain: self.explain,
        };
        let inputs = &both.reference;
        let judged = self
            .court
            .judge(question, inputs, &[reference, candidate])?;
        let Some(Answer { value, rows }) = judged else {
            return Ok((None, None));
        };
        let judged = <[Judgement; 2]>::try_from(rows).ok();
        let judged = judged.map(|[reference, candidate]| Arbitration {
            reference,
            candidate,
        });
        Ok((value, judged))
    }

    /// Every tap of an engine at the position of the divergence, and its cache.
    fn capture(&self, engine: &mut Engine) -> Result<Captured, EngineError> {
        let taps = &self.plan.taps;
        let wanted = Wanted {
            rows: WantedRows::Positions(vec![self.divergence.position], None),
            history: self.court.histories(&self.court.stages(taps), taps),
        };
        let mut captured = Captured::default();
        rows(engine, self.batches().into_iter(), taps, |at, _, row| {
            let place = (at.tap, at.layer);
            if wanted.wants(place, at.position) {
                captured.put(place, at.position, row);
            }
        })?;
        Ok(captured)
    }

    /// The first stage at which an engine leaves the oracle; the last one if it never does. `None` if there is none to
    /// judge.
    fn first_wrong_stage(&mut self, captured: &Captured) -> Result<Option<Judgement>, NoRuling> {
        let mut last = None;
        for at in self.court.stages(&self.plan.taps) {
            let position = self.divergence.position;
            let Some(row) = captured.row(at, position) else {
                continue;
            };
            let question = Question {
                at,
                sequence: self.sequence,
                position,
                element: self.divergence.element,
                outputs: &[],
                explain: self.explain,
            };
            let Some(answer) = self.court.judge(question, captured, &[row])? else {
                continue;
            };
            last = answer.rows.into_iter().next();
            if last.as_ref().is_some_and(|j| !j.right) {
                break;
            }
        }
        Ok(last)
    }
}

impl Ruling {
    fn undetermined(why: &str) -> Ruling {
        Ruling {
            at_fault: AtFault::Undetermined,
            hint: Some(why.to_owned()),
            value: None,
            arbitration: None,
            place: None,
        }
    }

    fn of(pair: &mut Pair, at: TapAt, value: Option<f64>, judged: Arbitration) -> Ruling {
        let Arbitration {
            reference,
            candidate,
        } = &judged;
        let at_fault = at_fault(&judged);
        let clauses = Role::BOTH.map(|role| (role, judged.judgement(role)));
        let clauses = clauses.into_iter().filter(|(_, j)| !j.findings.is_empty());
        let clauses: Vec<String> = clauses
            .map(|(role, j)| {
                // Judged where it leaves the oracle, which need not be where it leaves the other engine.
                let place = match j.layer {
                    _ if (j.tap.as_str(), j.layer) == (at.0.name(), at.1) => String::new(),
                    Some(layer) => format!(", at layer {layer}, {},", j.tap),
                    None => format!(", at {},", j.tap),
                };
                let name = pair.engine(role).label();
                format!("the {role} ({name}){place} {}", j.findings.join(", and "))
            })
            .collect();
        let hint = if at_fault == AtFault::None && reference.rounding != candidate.rounding {
            Some(format!(
                "both are what the model's types allow: in the reference, {}; in the candidate, {}",
                rounding(reference),
                rounding(candidate)
            ))
        } else {
            (!clauses.is_empty()).then(|| clauses.join("; "))
        };
        Ruling {
            at_fault,
            hint,
            value,
            arbitration: Some(judged),
            place: None,
        }
    }
}

/// Whose row is wrong.
pub(super) fn at_fault(judged: &Arbitration) -> AtFault {
    match (judged.reference.right, judged.candidate.right) {
        (true, true) => AtFault::None,
        (true, false) => AtFault::Candidate,
        (false, true) => AtFault::Reference,
        (false, false) => AtFault::Both,
    }
}

fn rounding(judgement: &Judgement) -> &str {
    match judgement.rounding.as_str() {
        "none" => "nothing rounded",
        rounding => rounding,
    }
}
