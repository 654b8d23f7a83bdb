//! Who is wrong where the engines part: the stage in question, computed by the oracle from the same inputs.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::tap::Tap;
use half::f16;
use reports::model::{Arbitration, AtFault, Divergence, Judgement, Mode, Prompt};

use super::RunOptions;
use super::comparison::Comparison;
use crate::compare::finite;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EngineSpec};
use crate::session::batches::{batches, rows};
use crate::session::lockstep::{self, Batch, ReferenceHashes, RowAt, RowSink, Side, aligned};
use crate::session::pair::Pair;
use crate::session::settings::COMPARED_UBATCH;
use crossval_oracle::inputs::{TapAt, needs};
use crossval_protocol::{JudgeRequest, ModelFacts, RowJudgement, TapHeader, token_bytes};

/// Has the oracle judge a divergence, puts what it says there, and returns the engine at fault; `None` without a ruling.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn arbitrate(
    divergence: &mut Divergence,
    pair: &mut Pair,
    options: &RunOptions,
    comparison: &Comparison,
) -> Result<Option<AtFault>, Side> {
    match hear(pair, options, comparison, divergence) {
        Ok(ruling) => {
            divergence.oracle = ruling.value;
            divergence.hint = ruling.hint;
            divergence.arbitration = ruling.arbitration;
            Ok(Some(ruling.at_fault))
        }
        Err(NoRuling::Engine(side)) => Err(side),
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
struct Ruling {
    at_fault: AtFault,
    hint: Option<String>,
    /// The right value at the element of the divergence.
    value: Option<f64>,
    arbitration: Option<Arbitration>,
}

/// Why there is no ruling.
enum NoRuling {
    /// An engine failed when it was asked again.
    Engine(Side),
    /// The oracle failed, or does not know the model.
    Oracle(EngineError),
}

impl From<Side> for NoRuling {
    fn from(side: Side) -> NoRuling {
        NoRuling::Engine(side)
    }
}

/// Why a divergence cannot be judged that was not there a second time.
const NOT_REPEATED: &str = "no ruling: the engines gave other rows when they were asked again";

/// NMSE of two rows as they went over the wire.
fn nmse(tap: Tap, reference: &[u8], candidate: &[u8]) -> f64 {
    if tap.is_f16() {
        row_nmse::<f16>(&aligned(reference), &aligned(candidate))
    } else {
        row_nmse::<f32>(&aligned(reference), &aligned(candidate))
    }
}

/// Rows of taps as they went over the wire.
#[derive(Default)]
struct Captured {
    rows: BTreeMap<TapAt, BTreeMap<usize, Vec<u8>>>,
}

impl Captured {
    fn row(&self, at: TapAt, position: usize) -> Option<&[u8]> {
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
struct Sink<'a> {
    wanted: &'a Wanted,
    reference: Captured,
    candidate: Captured,
}

impl Sink<'_> {
    fn keep(&mut self, at: RowAt, reference: &[u8], candidate: &[u8]) {
        let place = (at.tap, at.layer);
        if self.wanted.wants(place, at.position) {
            for (captured, row) in [
                (&mut self.reference, reference),
                (&mut self.candidate, candidate),
            ] {
                let rows = captured.rows.entry(place).or_default();
                rows.insert(at.position, row.to_vec());
            }
        }
    }
}

impl RowSink for Sink<'_> {
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
    pair: &mut Pair,
    options: &RunOptions,
    comparison: &Comparison,
    divergence: &Divergence,
) -> Result<Ruling, NoRuling> {
    let (prompt, taps) = (&comparison.prompts[divergence.prompt], &comparison.taps);
    // Something else may have been measured since.
    pair.configure(comparison.settings)?;
    let facts = pair.facts.clone();
    let task = format!(
        "evaluating prompt {} again, for the oracle",
        divergence.prompt
    );
    let (reference, candidate) = pair.engines();
    reference.set_task(&task);
    candidate.set_task(&task);
    let mut court = Court::open(options, &facts, prompt, divergence)?;
    let names = [reference.name().to_owned(), candidate.name().to_owned()];
    let Ok(tap) = divergence.tap.parse::<Tap>() else {
        return Ok(Ruling::undetermined(NOT_REPEATED));
    };
    let at = (tap, divergence.layer);
    match divergence.mode {
        Mode::Isolated => {
            let wanted = Wanted {
                position: divergence.position,
                layers: Some(
                    court
                        .needs(at)
                        .into_iter()
                        .map(|(_, layer)| layer)
                        .collect(),
                ),
            };
            let mut sink = Sink {
                wanted: &wanted,
                reference: Captured::default(),
                candidate: Captured::default(),
            };
            for (first_position, tokens) in court.batches() {
                let batch = Batch {
                    first_position,
                    tokens,
                    taps,
                    isolated: true,
                };
                let hashes = &mut ReferenceHashes::default();
                lockstep::evaluate(reference, candidate, batch, hashes, &mut sink)?;
            }
            let rows = [&sink.reference, &sink.candidate].map(|c| c.row(at, divergence.position));
            let [Some(of_reference), Some(of_candidate)] = rows else {
                return Ok(Ruling::undetermined(NOT_REPEATED));
            };
            let again = nmse(tap, of_reference, of_candidate);
            if finite(again) != divergence.nmse {
                return Ok(Ruling::undetermined(NOT_REPEATED));
            }
            let (value, judged) =
                court.judge(at, &sink.reference, &[of_reference, of_candidate])?;
            let mut judged = judged.into_iter();
            let (Some(reference), Some(candidate)) = (judged.next(), judged.next()) else {
                return Ok(Ruling::undetermined(NOT_REPEATED));
            };
            Ok(Ruling::of(names, at, value, reference, candidate))
        }
        // Each engine went its own way: is every stage of it right, given its own inputs?
        Mode::Cumulative => {
            let mut judgements = Vec::new();
            for (engine, side) in [
                (reference, Side::Reference as fn(EngineError) -> Side),
                (candidate, Side::Candidate),
            ] {
                let captured = court.capture(engine, taps).map_err(side)?;
                judgements.push(court.first_wrong_stage(&captured, taps)?);
            }
            let mut judgements = judgements.into_iter().flatten();
            match (judgements.next(), judgements.next()) {
                (Some(reference), Some(candidate)) => {
                    let mut ruling = Ruling::of(names, at, None, reference, candidate);
                    // What came before the position may be at fault too.
                    if ruling.at_fault == AtFault::None {
                        ruling.at_fault = AtFault::Undetermined;
                        ruling.hint = Some(format!(
                            "no ruling: every stage of both engines is right at position {}, from its own inputs",
                            divergence.position
                        ));
                    }
                    Ok(ruling)
                }
                _ => Ok(Ruling::undetermined(NOT_REPEATED)),
            }
        }
    }
}

/// The oracle, and the case before it.
struct Court<'a> {
    oracle: Engine,
    options: &'a RunOptions,
    facts: &'a ModelFacts,
    prompt: &'a Prompt,
    divergence: &'a Divergence,
}

impl<'a> Court<'a> {
    fn open(
        options: &'a RunOptions,
        facts: &'a ModelFacts,
        prompt: &'a Prompt,
        divergence: &'a Divergence,
    ) -> Result<Court<'a>, NoRuling> {
        let mut oracle = options
            .launcher
            .start_another(&EngineSpec::Oracle, None)
            .map_err(NoRuling::Oracle)?;
        oracle.load(&options.model).map_err(NoRuling::Oracle)?;
        oracle.set_task("judging");
        Ok(Court {
            oracle,
            options,
            facts,
            prompt,
            divergence,
        })
    }

    /// The batches of the comparison, up to the one of the divergence.
    fn batches(&self) -> Vec<(usize, &'a [u32])> {
        let Prompt {
            tokens,
            decode_tokens,
            ..
        } = self.prompt;
        batches(tokens, decode_tokens, COMPARED_UBATCH)
            .take_while(|&(first_position, _)| first_position <= self.divergence.position)
            .collect()
    }

    /// The batch of the divergence.
    fn last_batch(&self) -> (usize, &'a [u32]) {
        self.batches().pop().unwrap_or((0, &[]))
    }

    /// The inputs of a stage.
    fn needs(&self, at: TapAt) -> Vec<TapAt> {
        let sub_norms = self.facts.taps.contains(&Tap::AttnSubNorm);
        let needs = needs(at.0, at.1, self.facts.n_layer, sub_norms);
        needs.iter().map(|need| need.at).chain([at]).collect()
    }

    fn judge(
        &mut self,
        at: TapAt,
        inputs: &Captured,
        rows: &[&[u8]],
    ) -> Result<(Option<f64>, Vec<Judgement>), NoRuling> {
        let (first_position, tokens) = self.last_batch();
        let position = self.divergence.position;
        let sub_norms = self.facts.taps.contains(&Tap::AttnSubNorm);
        let mut headers = Vec::new();
        let mut payload = token_bytes(tokens);
        for need in needs(at.0, at.1, self.facts.n_layer, sub_norms) {
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
        let limit = self
            .options
            .profile
            .oracle_limit(at.0, position, self.facts);
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
    fn capture(&self, engine: &mut Engine, taps: &[Tap]) -> Result<Captured, EngineError> {
        let wanted = Wanted {
            position: self.divergence.position,
            layers: None,
        };
        let mut captured = Captured::default();
        rows(engine, self.batches().into_iter(), taps, |at, _, row| {
            let place = (at.tap, at.layer);
            if wanted.wants(place, at.position) {
                let rows = captured.rows.entry(place).or_default();
                rows.insert(at.position, row.to_vec());
            }
        })?;
        Ok(captured)
    }

    /// The first stage at which an engine leaves the oracle; the last one if it never does. `None` if there is none to
    /// judge.
    fn first_wrong_stage(
        &mut self,
        captured: &Captured,
        taps: &[Tap],
    ) -> Result<Option<Judgement>, NoRuling> {
        let layers = 0..self.facts.n_layer;
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

    fn of(
        names: [String; 2],
        at: TapAt,
        value: Option<f64>,
        reference: Judgement,
        candidate: Judgement,
    ) -> Ruling {
        let at_fault = match (reference.right, candidate.right) {
            (true, true) => AtFault::None,
            (true, false) => AtFault::Candidate,
            (false, true) => AtFault::Reference,
            (false, false) => AtFault::Both,
        };
        let [of_reference, of_candidate] = names;
        let sides = [
            ("reference", of_reference, &reference),
            ("candidate", of_candidate, &candidate),
        ];
        let clauses = sides.iter().filter(|(.., j)| !j.findings.is_empty());
        let clauses: Vec<String> = clauses
            .map(|(side, name, j)| {
                // Judged where it leaves the oracle, which need not be where it leaves the other engine.
                let place = match j.layer {
                    _ if (j.tap.as_str(), j.layer) == (at.0.name(), at.1) => String::new(),
                    Some(layer) => format!(", at layer {layer}, {},", j.tap),
                    None => format!(", at {},", j.tap),
                };
                format!("the {side} ({name}){place} {}", j.findings.join(", and "))
            })
            .collect();
        let hint = if at_fault == AtFault::None && reference.rounding != candidate.rounding {
            Some(format!(
                "both are what the model's types allow: in the reference, {}; in the candidate, {}",
                rounding(&reference),
                rounding(&candidate)
            ))
        } else {
            (!clauses.is_empty()).then(|| clauses.join("; "))
        };
        Ruling {
            at_fault,
            hint,
            value,
            arbitration: Some(Arbitration {
                reference,
                candidate,
            }),
        }
    }
}

fn rounding(judgement: &Judgement) -> &str {
    match judgement.rounding.as_str() {
        "none" => "nothing rounded",
        rounding => rounding,
    }
}
