//! The oracle as a judge: is a row what its stage makes of the engine's own inputs?

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::random::Rng;
use bitnet_model::tap::{Tap, sites};
use crossval_oracle::inputs::{Need, Origin, TapAt};
use crossval_protocol::{JudgeRequest, RoundingSpread, RowJudgement, TapHeader, token_bytes};
use half::f16;
use reports::model::Judgement;

use super::plan::Plan;
use crate::compare::tap::outlier;
use crate::engine::{Engine, EngineError, EngineSpec};
use crate::session::batches::Sequence;
use crate::session::lockstep::aligned;
use crate::session::setup::Setup;

/// Rows of taps as they went over the wire.
#[derive(Default)]
pub(super) struct Captured {
    rows: BTreeMap<TapAt, BTreeMap<usize, Vec<u8>>>,
}

impl Captured {
    pub(super) fn put(&mut self, at: TapAt, position: usize, row: &[u8]) {
        let rows = self.rows.entry(at).or_default();
        rows.insert(position, row.to_vec());
    }

    pub(super) fn row(&self, at: TapAt, position: usize) -> Option<&[u8]> {
        Some(self.rows.get(&at)?.get(&position)?)
    }

    /// Whether a tap's row at a position is there, and those before it.
    pub(super) fn has(&self, at: TapAt, position: usize, history: bool) -> bool {
        let first = if history { 0 } else { position };
        self.rows
            .get(&at)
            .is_some_and(|rows| rows.range(first..=position).count() == position + 1 - first)
    }
}

/// Which rows are kept of an evaluation: those to be judged, and what they start from.
pub(super) struct Wanted {
    pub(super) rows: WantedRows,
    /// What is wanted of every position.
    pub(super) history: BTreeSet<TapAt>,
}

/// Rows of single positions.
pub(super) enum WantedRows {
    /// Every tap of some positions; of these layers, or of all if `None`.
    Positions(Vec<usize>, Option<BTreeSet<Option<usize>>>),
    /// These, and no others: where many rows of many layers are judged, whole layers would be a lot.
    Only(BTreeSet<(TapAt, usize)>),
}

impl Wanted {
    pub(super) fn wants(&self, at: TapAt, position: usize) -> bool {
        let here = match &self.rows {
            WantedRows::Positions(positions, layers) => {
                let here = layers.as_ref().is_none_or(|l| l.contains(&at.1));
                positions.contains(&position) && here
            }
            WantedRows::Only(rows) => rows.contains(&(at, position)),
        };
        here || self.history.contains(&at)
    }
}

/// Weights of a model that are multiplied with for one row, at most, if the outputs of its products can be sampled.
const WEIGHTS: usize = 1 << 22;

/// Outputs of a product that are looked at in any case.
const OUTPUTS: usize = 64;

/// Values of earlier positions that are kept of an engine, at most, beside those of the first and the last layer.
const HISTORY: usize = 1 << 25;

/// Multiply-accumulates for layers that are judged as a whole, at most, beside the first and the last.
const WHOLE_LAYERS: usize = 1 << 24;

/// A row of a stage that is to be judged.
#[derive(Clone, Copy)]
pub(super) struct Question<'a> {
    pub(super) at: TapAt,
    pub(super) sequence: Sequence<'a>,
    pub(super) position: usize,
    /// The element whose right value is wanted.
    pub(super) element: usize,
    /// Elements to look at; empty for all.
    pub(super) outputs: &'a [usize],
    /// Whether it matters what is wrong with a wrong row.
    pub(super) explain: bool,
}

/// Why the oracle gave no answer.
pub(super) fn no_answer(e: EngineError) -> String {
    e.into_failure("oracle", "judging").message
}

/// The oracle, which is started when something is asked of it.
pub(super) struct Oracle<'a> {
    setup: &'a Setup,
    plan: &'a Plan<'a>,
    seed: u64,
    court: Option<Result<Court<'a>, String>>,
}

impl<'a> Oracle<'a> {
    pub(super) fn new(setup: &'a Setup, plan: &'a Plan<'a>, seed: u64) -> Oracle<'a> {
        Oracle {
            setup,
            plan,
            seed,
            court: None,
        }
    }

    /// Or why there is none.
    pub(super) fn court(&mut self) -> Result<&mut Court<'a>, &str> {
        let open = || Court::open(self.setup, self.plan, self.seed).map_err(no_answer);
        let court = self.court.get_or_insert_with(open);
        court.as_mut().map_err(|why| why.as_str())
    }
}

/// What the oracle says of a stage.
pub(super) struct Answer {
    /// The right value of the element asked for.
    pub(super) value: Option<f64>,
    /// One entry per row.
    pub(super) rows: Vec<Judgement>,
}

/// The oracle, with a model loaded.
pub(super) struct Court<'a> {
    oracle: Engine,
    plan: &'a Plan<'a>,
    /// Draws the outputs of a product that are looked at.
    rng: Rng,
}

impl<'a> Court<'a> {
    fn open(setup: &Setup, plan: &'a Plan<'a>, seed: u64) -> Result<Court<'a>, EngineError> {
        let mut oracle = setup.launcher.start_another(&EngineSpec::Oracle, None)?;
        oracle.load(&setup.model)?;
        oracle.set_task("judging");
        Ok(Court {
            oracle,
            plan,
            rng: Rng::new(seed, "outputs"),
        })
    }

    /// Every stage of the model whose tap is one of `taps`, in the order of the forward pass.
    pub(super) fn stages(&self, taps: &[Tap]) -> Vec<TapAt> {
        let sites = sites(taps, self.plan.facts.n_layer);
        sites.map(|(layer, tap)| (tap, layer)).collect()
    }

    /// What a stage is computed from, of what there is; `None` if too little is.
    pub(super) fn origin(&self, at: TapAt, has: impl Fn(TapAt, bool) -> bool) -> Option<Origin> {
        let facts = &self.plan.facts;
        Origin::of(at, facts.n_layer, &facts.taps, has)
    }

    /// What a stage of an engine that offers `taps` is judged from.
    pub(super) fn needs(&self, at: TapAt, taps: &[Tap]) -> Vec<TapAt> {
        let origin = self.origin(at, |(tap, _), _| taps.contains(&tap));
        let needs = origin.into_iter().flat_map(|origin| origin.needs);
        needs.map(|need| need.at).collect()
    }

    /// What is wanted of every position to judge `stages` of an engine that offers `taps`.
    pub(super) fn histories(&self, stages: &[TapAt], taps: &[Tap]) -> BTreeSet<TapAt> {
        let origins = stages
            .iter()
            .filter_map(|&at| self.origin(at, |(tap, _), _| taps.contains(&tap)));
        let needs = origins.flat_map(|origin| origin.needs);
        needs
            .filter(|need| need.history)
            .map(|need| need.at)
            .collect()
    }

    /// As [`judge`](Self::judge); in large models, some outputs of a product, the element asked for among them, stand for
    /// all of them, unless one of `rows` is wrong there.
    pub(super) fn glance(
        &mut self,
        question: Question,
        inputs: &Captured,
        rows: &[&[u8]],
    ) -> Result<Option<Answer>, EngineError> {
        let (tap, _) = question.at;
        let width = rows.first().map_or(0, |row| row.len()) / value_bytes(tap);
        let mut outputs = self.outputs(tap, width);
        if !(outputs.is_empty() || outputs.contains(&question.element)) {
            outputs.push(question.element);
        }
        let question = Question {
            outputs: &outputs,
            ..question
        };
        let judged = self.judge(question, inputs, rows)?;
        let mut seen = judged.iter().flat_map(|answer| &answer.rows);
        let wrong = seen.any(|row| !row.right);
        if outputs.is_empty() || !wrong {
            return Ok(judged);
        }
        let question = Question {
            outputs: &[],
            ..question
        };
        self.judge(question, inputs, rows)
    }

    /// The stages of an engine that offers `taps`, without those that take the past of a layer where that would be too much:
    /// the first and the last layer are looked at in any case, others are drawn.
    pub(super) fn affordable(&self, taps: &[Tap], n_positions: usize, rng: &mut Rng) -> Vec<TapAt> {
        let facts = &self.plan.facts;
        let mut stages = self.stages(taps);
        let dear = |at: TapAt| {
            let origin = self.origin(at, |(tap, _), _| taps.contains(&tap));
            origin.is_some_and(|o| !at.0.is_f16() && o.needs.iter().any(|need| need.history))
        };
        let whole = |at: TapAt| {
            let origin = self.origin(at, |(tap, _), _| taps.contains(&tap));
            origin.is_some_and(|o| o.between.iter().any(|(tap, _)| tap.is_product()))
        };
        let heads = facts.n_embd * facts.n_head_kv / facts.n_head.max(1);
        let kept = n_positions * 2 * heads.max(1);
        let mut n_layers = HISTORY / kept.max(1);
        if stages.iter().any(|&at| at.1.is_some() && whole(at)) {
            let products = facts.n_embd * (4 * facts.n_embd + 3 * facts.n_ff);
            let of_layer = products + n_positions * 2 * heads * facts.n_embd;
            n_layers = n_layers.min(WHOLE_LAYERS / of_layer.max(1));
        }
        if n_layers >= facts.n_layer {
            return stages;
        }
        let mut layers = BTreeSet::from([0, facts.n_layer - 1]);
        while layers.len() < n_layers {
            layers.insert(rng.below(facts.n_layer));
        }
        stages.retain(|&at| at.1.is_none_or(|layer| layers.contains(&layer)) || !dear(at));
        stages
    }

    /// What roundings make of the logits of a sequence.
    pub(super) fn spread(&mut self, tokens: &[u32]) -> Result<Vec<RoundingSpread>, EngineError> {
        self.oracle.spread(tokens, 0)
    }

    /// Some of the outputs of a product; none for all.
    fn outputs(&mut self, tap: Tap, width: usize) -> Vec<usize> {
        let facts = &self.plan.facts;
        let of_layer = facts.n_embd * (4 * facts.n_embd + 3 * facts.n_ff);
        let weights = facts.n_layer * of_layer + facts.n_vocab * facts.n_embd;
        let share = WEIGHTS as f64 / weights as f64;
        let n = OUTPUTS.max((width as f64 * share) as usize);
        if !tap.is_product() || n >= width {
            return Vec::new();
        }
        let outputs: BTreeSet<usize> = (0..n).map(|_| self.rng.below(width)).collect();
        outputs.into_iter().collect()
    }

    /// The right value of the element asked for, and what the oracle makes of `rows` that were computed from `inputs`;
    /// `None` if too little of those is there, or no number.
    pub(super) fn judge(
        &mut self,
        question: Question,
        inputs: &Captured,
        rows: &[&[u8]],
    ) -> Result<Option<Answer>, EngineError> {
        let Question {
            at,
            sequence,
            position,
            element,
            outputs,
            explain,
        } = question;
        let origin = self.origin(at, |at, history| inputs.has(at, position, history));
        let Some(Origin { needs, between }) = origin else {
            return Ok(None);
        };
        let mut batches = sequence.batches(self.plan.settings.n_ubatch);
        let batch = batches.find(|(first, tokens)| position < first + tokens.len());
        let Some((first_position, tokens)) = batch else {
            return Ok(None);
        };
        let end = first_position + tokens.len();
        // Embeddings that nobody has sent are those of the tokens, from the first on.
        let from_tokens = between.iter().any(|&(tap, _)| tap == Tap::Embd);
        let tokens = sequence.tokens();
        let first_position = if from_tokens { 0 } else { first_position };
        let tokens = &tokens[first_position..end];
        let Plan { profile, facts, .. } = self.plan;
        let mut headers = Vec::new();
        let mut payload = token_bytes(tokens);
        for Need { at, history, own } in needs {
            let positions = if history {
                0..end
            } else {
                position..position + 1
            };
            for position in positions {
                let Some(row) = inputs.row(at, position) else {
                    continue;
                };
                // What comes of values that are no numbers is the fault of no stage but theirs.
                if own && !is_finite(at.0, row) {
                    return Ok(None);
                }
                // Nor does the model say what comes of a mask that hides nothing.
                if own && at.0 == Tap::AttnProbs && looks_ahead(row, facts.n_head, position) {
                    return Ok(None);
                }
                headers.push(TapHeader {
                    rows: 1,
                    width: row.len() / value_bytes(at.0),
                    tap: at.0,
                    layer: at.1,
                    first_position: position,
                });
                payload.extend_from_slice(row);
            }
        }
        rows.iter().for_each(|row| payload.extend_from_slice(row));
        let between = between.into_iter().map(|(tap, _)| tap);
        // A copy of what the file holds.
        let between: Vec<Tap> = between.filter(|&tap| tap != Tap::Embd).collect();
        let (limit, element_limit) = if between.is_empty() {
            let limit = profile.oracle_limit(at.0, facts);
            let n = rows.first().map_or(0, |row| row.len()) / value_bytes(at.0);
            // An element that is rotated carries the error of its pair, which may be much larger.
            let rotated = matches!(at.0, Tap::QRope | Tap::KRope);
            (limit, (!rotated).then(|| limit * outlier(n).powi(2)))
        } else {
            let limit = profile.composite_limit(at.0, between, facts);
            (limit, None)
        };
        let request = JudgeRequest {
            tap: at.0,
            layer: at.1,
            first_position,
            n_tokens: tokens.len(),
            position,
            inputs: headers,
            rows: rows.len(),
            element,
            limit,
            element_limit,
            outputs: outputs.to_vec(),
            explain,
        };
        let (value, rows) = self.oracle.judge(request, &payload)?;
        let judgement = |row: RowJudgement| Judgement {
            layer: at.1,
            tap: at.0.to_string(),
            nmse: row.nmse,
            limit: row.limit.unwrap_or(limit),
            right: row.right,
            rounding: row.rounding,
            findings: row.findings,
        };
        let rows = rows.into_iter().map(judgement).collect();
        Ok(Some(Answer { value, rows }))
    }
}

fn is_finite(tap: Tap, row: &[u8]) -> bool {
    match tap.is_f16() {
        true => aligned::<f16>(row).iter().all(|v| v.is_finite()),
        false => aligned::<f32>(row).iter().all(|v| v.is_finite()),
    }
}

/// Whether attention probabilities of a position, head after head, give weight to positions behind it.
fn looks_ahead(row: &[u8], n_head: usize, position: usize) -> bool {
    let row = aligned::<f32>(row);
    let n_kv = (row.len() / n_head.max(1)).max(1);
    let mut heads = row.chunks(n_kv);
    heads.any(|head| head.iter().skip(position + 1).any(|&p| p != 0.0))
}

fn value_bytes(tap: Tap) -> usize {
    if tap.is_f16() { 2 } else { 4 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probabilities_of_what_is_hidden() {
        let row = |values: [f32; 6]| looks_ahead(bytemuck::cast_slice(&values), 2, 1);
        assert!(!row([0.5, 0.5, 0.0, 0.1, 0.9, 0.0]));
        assert!(row([0.5, 0.5, 0.0, 0.1, 0.8, 0.1]));
    }
}
