//! Who is wrong where the engines part: the stage in question, computed by the oracle from the same inputs.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::tap::Tap;
use crossval_oracle::inputs::{TapAt, needs};
use crossval_protocol::{JudgeRequest, RowJudgement, TapHeader, token_bytes};
use half::f16;
use reports::model::{Arbitration, AtFault, Divergence, Judgement, Mode, Role};

use super::plan::Plan;
use crate::compare::finite;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EngineSpec, Failed, by};
use crate::session::batches::{Sequence, rows};
use crate::session::loaded::Loaded;
use crate::session::lockstep::{self, Evaluation, ReferenceHashes, RowAt, RowSink, aligned};
use crate::session::pair::Pair;
use crate::session::setup::Setup;

/// Has the oracle judge a divergence, puts what it says there, and returns the engine at fault; `None` without a ruling.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn arbitrate(
    divergence: &mut Divergence,
    engines: &mut Loaded,
    setup: &Setup,
    plan: &Plan,
    sequence: Sequence,
) -> Result<Option<AtFault>, Failed> {
    match hear(engines, setup, plan, sequence, divergence) {
        Ok(ruling) => {
            divergence.oracle = ruling.value;
            divergence.hint = ruling.hint;
            divergence.arbitration = ruling.arbitration;
            Ok(Some(ruling.at_fault))
        }
        Err(NoRuling::Engine(failed)) => Err(failed),
        Err(NoRuling::Oracle(e)) => {
            divergence.hint = Some(format!(
                "no ruling: {}",
                e.into_failure("oracle", "judging").message
            ));
            Ok(None)
        }
    }
}

/// What the oracle says about a divergence.
pub(super) struct Ruling {
    pub(super) at_fault: AtFault,
    hint: Option<String>,
    /// The right value at the element of the divergence.
    value: Option<f64>,
    pub(super) arbitration: Option<Arbitration>,
}

/// Why there is no ruling.
pub(super) enum NoRuling {
    /// An engine failed when it was asked again.
    Engine(Failed),
    /// The oracle failed, or does not know the model.
    Oracle(EngineError),
}

impl From<Failed> for NoRuling {
    fn from(failed: Failed) -> NoRuling {
        NoRuling::Engine(failed)
    }
}

/// Why a divergence cannot be judged that was not there a second time.
const NOT_REPEATED: &str = "no ruling: the engines gave other rows when they were asked again";

/// NMSE of two rows as they went over the wire.
pub(super) fn nmse(tap: Tap, reference: &[u8], candidate: &[u8]) -> f64 {
    if tap.is_f16() {
        row_nmse::<f16>(&aligned(reference), &aligned(candidate))
    } else {
        row_nmse::<f32>(&aligned(reference), &aligned(candidate))
    }
}

/// Rows of taps as they went over the wire.
#[derive(Default)]
pub(super) struct Captured {
    rows: BTreeMap<TapAt, BTreeMap<usize, Vec<u8>>>,
}

impl Captured {
    pub(super) fn keep(&mut self, at: TapAt, position: usize, row: &[u8]) {
        let rows = self.rows.entry(at).or_default();
        rows.insert(position, row.to_vec());
    }

    pub(super) fn row(&self, at: TapAt, position: usize) -> Option<&[u8]> {
        Some(self.rows.get(&at)?.get(&position)?)
    }
}

/// Keeps what the stages of a position start from.
struct Wanted {
    position: usize,
    /// Nothing of other layers.
    layers: Option<BTreeSet<Option<usize>>>,
}

impl Wanted {
    fn wants(&self, at: TapAt, position: usize) -> bool {
        let history = matches!(at.0, Tap::KCache | Tap::VCache | Tap::KRope | Tap::V);
        (position == self.position || history)
            && self.layers.as_ref().is_none_or(|l| l.contains(&at.1))
    }
}

/// Takes rows of both engines from the lockstep.
struct Both<'a> {
    wanted: &'a Wanted,
    reference: Captured,
    candidate: Captured,
}

impl Both<'_> {
    fn keep(&mut self, at: RowAt, reference: &[u8], candidate: &[u8]) {
        let place = (at.tap, at.layer);
        if self.wanted.wants(place, at.position) {
            self.reference.keep(place, at.position, reference);
            self.candidate.keep(place, at.position, candidate);
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

/// Asks both engines again up to the divergence, and has the oracle judge what they say.
fn hear(
    engines: &mut Loaded,
    setup: &Setup,
    plan: &Plan,
    sequence: Sequence,
    divergence: &Divergence,
) -> Result<Ruling, NoRuling> {
    // Something else may have been measured since.
    engines.configure(plan.settings)?;
    let pair = &mut engines.pair();
    pair.set_task(&format!(
        "evaluating prompt {} again, for the oracle",
        divergence.prompt
    ));
    let mut court = Court::open(setup, plan, sequence, divergence)?;
    let Ok(tap) = divergence.tap.parse::<Tap>() else {
        return Ok(Ruling::undetermined(NOT_REPEATED));
    };
    let at = (tap, divergence.layer);
    match divergence.mode {
        Mode::Isolated => court.one_stage(pair, at),
        Mode::Cumulative => court.all_stages(pair, at),
    }
}

/// The oracle, and the case before it.
pub(super) struct Court<'a> {
    oracle: Engine,
    plan: &'a Plan<'a>,
    sequence: Sequence<'a>,
    pub(super) divergence: &'a Divergence,
    /// Whether it matters what is wrong with a wrong row.
    pub(super) explain: bool,
}

impl<'a> Court<'a> {
    pub(super) fn open(
        setup: &Setup,
        plan: &'a Plan<'a>,
        sequence: Sequence<'a>,
        divergence: &'a Divergence,
    ) -> Result<Court<'a>, NoRuling> {
        let oracle = setup.launcher.start_another(&EngineSpec::Oracle, None);
        let mut oracle = oracle.map_err(NoRuling::Oracle)?;
        oracle.load(&setup.model).map_err(NoRuling::Oracle)?;
        oracle.set_task("judging");
        Ok(Court {
            oracle,
            plan,
            sequence,
            divergence,
            explain: true,
        })
    }

    /// Both engines have computed a stage from the reference's values.
    fn one_stage(&mut self, pair: &mut Pair, at: TapAt) -> Result<Ruling, NoRuling> {
        let position = self.divergence.position;
        let layers = self.needs(at).into_iter().map(|(_, layer)| layer);
        let wanted = Wanted {
            position,
            layers: Some(layers.collect()),
        };
        let mut both = Both {
            wanted: &wanted,
            reference: Captured::default(),
            candidate: Captured::default(),
        };
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
        let (value, judged) = self.judge(at, &both.reference, &[of_reference, of_candidate])?;
        let mut judged = judged.into_iter();
        let (Some(reference), Some(candidate)) = (judged.next(), judged.next()) else {
            return Ok(Ruling::undetermined(NOT_REPEATED));
        };
        let judged = Arbitration {
            reference,
            candidate,
        };
        Ok(Ruling::of(pair, at, value, judged))
    }

    /// Each engine went its own way: is every stage of it right, given its own inputs?
    pub(super) fn all_stages(&mut self, pair: &mut Pair, at: TapAt) -> Result<Ruling, NoRuling> {
        let mut first_wrong = |role| {
            let captured = self.capture(pair.engine(role)).map_err(by(role))?;
            self.first_wrong_stage(&captured)
        };
        let (reference, candidate) = (first_wrong(Role::Reference)?, first_wrong(Role::Candidate)?);
        let (Some(reference), Some(candidate)) = (reference, candidate) else {
            return Ok(Ruling::undetermined(NOT_REPEATED));
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

    /// The batches of the comparison, up to the one of the divergence.
    fn batches(&self) -> Vec<(usize, &'a [u32])> {
        let batches = self.sequence.batches(self.plan.settings.n_ubatch);
        batches
            .take_while(|&(first_position, _)| first_position <= self.divergence.position)
            .collect()
    }

    /// The batch of the divergence.
    fn last_batch(&self) -> (usize, &'a [u32]) {
        self.batches().pop().unwrap_or((0, &[]))
    }

    /// The inputs of a stage.
    pub(super) fn needs(&self, at: TapAt) -> Vec<TapAt> {
        let sub_norms = self.plan.facts.taps.contains(&Tap::AttnSubNorm);
        let needs = needs(at.0, at.1, self.plan.facts.n_layer, sub_norms);
        needs.iter().map(|need| need.at).chain([at]).collect()
    }

    pub(super) fn judge(
        &mut self,
        at: TapAt,
        inputs: &Captured,
        rows: &[&[u8]],
    ) -> Result<(Option<f64>, Vec<Judgement>), NoRuling> {
        let (first_position, tokens) = self.last_batch();
        let position = self.divergence.position;
        let sub_norms = self.plan.facts.taps.contains(&Tap::AttnSubNorm);
        let mut headers = Vec::new();
        let mut payload = token_bytes(tokens);
        for need in needs(at.0, at.1, self.plan.facts.n_layer, sub_norms) {
            let end = first_position + tokens.len();
            let positions = if need.history {
                0..end
            } else {
                position..position + 1
            };
            for position in positions {
                // What an engine does not offer is missed by the oracle, if it needs it.
                let Some(row) = inputs.row(need.at, position) else {
                    continue;
                };
                let (tap, layer) = need.at;
                let value_bytes = if tap.is_f16() { 2 } else { 4 };
                headers.push(TapHeader {
                    tap,
                    layer,
                    first_position: position,
                    rows: 1,
                    width: row.len() / value_bytes,
                });
                payload.extend_from_slice(row);
            }
        }
        rows.iter().for_each(|row| payload.extend_from_slice(row));
        let profile = &self.plan.profile;
        let limit = profile.oracle_limit(at.0, position, &self.plan.facts);
        let request = JudgeRequest {
            tap: at.0,
            layer: at.1,
            first_position,
            n_tokens: tokens.len(),
            position,
            inputs: headers,
            rows: rows.len(),
            element: self.divergence.element,
            limit,
            explain: self.explain,
        };
        let judged = self.oracle.judge(request, &payload);
        let (value, rows) = judged.map_err(NoRuling::Oracle)?;
        let judgement = |row: RowJudgement| Judgement {
            layer: at.1,
            tap: at.0.to_string(),
            nmse: row.nmse,
            limit,
            right: row.right,
            rounding: row.rounding,
            findings: row.findings,
        };
        Ok((value, rows.into_iter().map(judgement).collect()))
    }

    /// Every tap of an engine at the position of the divergence, and its cache.
    fn capture(&self, engine: &mut Engine) -> Result<Captured, EngineError> {
        let wanted = Wanted {
            position: self.divergence.position,
            layers: None,
        };
        let mut captured = Captured::default();
        let taps = &self.plan.taps;
        rows(engine, self.batches().into_iter(), taps, |at, _, row| {
            let place = (at.tap, at.layer);
            if wanted.wants(place, at.position) {
                captured.keep(place, at.position, row);
            }
        })?;
        Ok(captured)
    }

    /// The first stage at which an engine leaves the oracle; the last one if it never does. `None` if there is none to
    /// judge.
    fn first_wrong_stage(&mut self, captured: &Captured) -> Result<Option<Judgement>, NoRuling> {
        let taps = &self.plan.taps;
        let layers = 0..self.plan.facts.n_layer;
        let outside = |tap: &&Tap| !tap.per_layer();
        let mut stages: Vec<TapAt> = taps.iter().filter(outside).map(|&t| (t, None)).collect();
        let behind = stages.split_off(usize::from(taps.contains(&Tap::Embd)));
        for layer in layers {
            let inside = taps.iter().filter(|t| t.per_layer());
            stages.extend(inside.map(|&t| (t, Some(layer))));
        }
        stages.extend(behind);
        let mut last = None;
        for at in stages {
            let Some(row) = captured.row(at, self.divergence.position) else {
                continue;
            };
            let (_, judged) = self.judge(at, captured, &[row])?;
            last = judged.into_iter().next();
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
        }
    }

    fn of(pair: &mut Pair, at: TapAt, value: Option<f64>, judged: Arbitration) -> Ruling {
        let Arbitration {
            reference,
            candidate,
        } = &judged;
        let at_fault = match (reference.right, candidate.right) {
            (true, true) => AtFault::None,
            (true, false) => AtFault::Candidate,
            (false, true) => AtFault::Reference,
            (false, false) => AtFault::Both,
        };
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
                let name = pair.engine(role).name();
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
        }
    }
}

fn rounding(judgement: &Judgement) -> &str {
    match judgement.rounding.as_str() {
        "none" => "nothing rounded",
        rounding => rounding,
    }
}
