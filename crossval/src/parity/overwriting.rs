//! Whether a candidate goes on with the values that it is given. Isolated mode rests on it, and would not show it: the
//! reference's values are nearly the candidate's own.
//!
//! A few tokens are evaluated with other values than the engine's own in every place: each row turned by one value, and
//! attention probabilities halved, which keeps what is masked at 0. The oracle then says whether every stage of the first
//! and of the last layer is right from what it was given.

use bitnet_model::tap::Tap;
use crossval_oracle::inputs::TapAt;
use crossval_protocol::EvalRequest;
use reports::model::{Finding, Mode, Place, Role, Source};
use reports::outcome::Outcome;

use super::court::{Captured, Court, Oracle, Question};
use super::plan::Plan;
use crate::engine::{Engine, EngineError, EvalEvent, Failed, by};
use crate::session::batches::Sequence;
use crate::session::loaded::Loaded;
use crate::session::setup::Setup;

/// Tokens that are evaluated: attention has more than one position to choose from.
const TOKENS: usize = 3;

/// That a candidate says it takes values and does not go on with them, if so. Those that we wrote do, and nothing is asked
/// of them; of a library, whose graph computes what it likes, it is.
///
/// # Errors
/// The candidate fails.
pub(super) fn probe(
    engines: &mut Loaded,
    oracle: &mut Oracle,
    setup: &Setup,
    plan: &Plan,
) -> Result<Option<Finding>, Failed> {
    let written_here = setup.candidate.is_ours() && !engines.pair().candidate.hello().graphs;
    let asked = plan.modes.contains(&Mode::Isolated) && !written_here;
    let Some(prompt) = plan.prompts.first().filter(|_| asked) else {
        return Ok(None);
    };
    let tokens = &prompt.tokens[..prompt.tokens.len().min(TOKENS)];
    engines.configure(plan.settings)?;
    let candidate = engines.pair().candidate;
    candidate.set_task("going on with values that it is given");
    let mut evaluate = |replaced| Evaluated::new(candidate, tokens, &plan.taps, replaced);
    let own = evaluate(false).map_err(by(Role::Candidate))?;
    let given = evaluate(true).map_err(by(Role::Candidate))?;
    let name = candidate.label().to_owned();
    // Without the oracle nobody can say.
    let ignored = oracle.court().map_or(Ok(None), |court| {
        first_ignored(court, plan, tokens, &own, &given)
    });
    Ok(ignored.ok().flatten().map(|at| finding(&name, at)))
}

/// The first stage that is wrong from what it was given, and right from the engine's own values.
fn first_ignored(
    court: &mut Court,
    plan: &Plan,
    tokens: &[u32],
    own: &Evaluated,
    given: &Evaluated,
) -> Result<Option<TapAt>, EngineError> {
    let position = tokens.len() - 1;
    let mut right = |at, evaluated: &Evaluated| {
        let Some(row) = evaluated.sent.row(at, position) else {
            return Ok(true);
        };
        let inputs = &evaluated.went_on_with;
        let origin = court.origin(at, |at, history| inputs.has(at, position, history));
        // What is computed on the way may leave what a composite stage may make of values like these.
        if origin.is_none_or(|origin| !origin.between.is_empty()) {
            return Ok(true);
        }
        let question = Question {
            at,
            sequence: Sequence::new(tokens, &[]),
            position,
            element: 0,
            outputs: &[],
            explain: false,
        };
        let judged = court.judge(question, inputs, &[row])?;
        Ok(judged.is_none_or(|answer| answer.rows.iter().all(|row| row.right)))
    };
    let ends = [0, plan.facts.n_layer.saturating_sub(1)];
    let sites = bitnet_model::tap::sites(&plan.taps, plan.facts.n_layer);
    let sites = sites.filter(|(layer, _)| layer.is_none_or(|layer| ends.contains(&layer)));
    for (layer, tap) in sites {
        let at = (tap, layer);
        if !right(at, given)? && right(at, own)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

fn finding(name: &str, (tap, layer): TapAt) -> Finding {
    let of_layer = layer.map_or(String::new(), |layer| format!("layer {layer}, "));
    Finding {
        outcome: Outcome::Engine,
        source: Source::Engine,
        place: Some(Place {
            role: Some(Role::Candidate),
            layer,
            tap: Some(tap.to_string()),
            ..Place::default()
        }),
        text: format!(
            "the candidate ({name}) says what is not so: it does not go on with all values that it is given; \
             {of_layer}{tap} is wrong from those, and right from its own"
        ),
    }
}

/// One evaluation.
struct Evaluated {
    /// What the engine computed.
    sent: Captured,
    /// What it was to go on with.
    went_on_with: Captured,
}

impl Evaluated {
    fn new(
        engine: &mut Engine,
        tokens: &[u32],
        taps: &[Tap],
        replaced: bool,
    ) -> Result<Evaluated, EngineError> {
        let mut evaluated = Evaluated {
            sent: Captured::default(),
            went_on_with: Captured::default(),
        };
        engine.begin_eval(EvalRequest {
            first_position: 0,
            tokens,
            taps,
            overwrite: true,
            last_logits: false,
        })?;
        while let EvalEvent::Tap(header) = engine.next_event()? {
            let at = (header.tap, header.layer);
            let mut values = engine.payload().to_vec();
            for (i, row) in values.chunks_exact_mut(header.row_bytes()).enumerate() {
                let position = header.first_position.saturating_add(i);
                evaluated.sent.put(at, position, row);
                if replaced {
                    replace(header.tap, row);
                }
                evaluated.went_on_with.put(at, position, row);
            }
            engine.overwrite(replaced.then_some(values.as_slice()))?;
        }
        Ok(evaluated)
    }
}

/// Other values of the same size.
fn replace(tap: Tap, row: &mut [u8]) {
    if tap == Tap::AttnProbs {
        for value in row.as_chunks_mut().0 {
            *value = (f32::from_le_bytes(*value) / 2.0).to_le_bytes();
        }
    } else {
        let value_bytes = if tap.is_f16() { 2 } else { 4 };
        row.rotate_left(value_bytes.min(row.len()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_gets_other_values_of_the_same_size() {
        let mut row = [1.0_f32, 2.0, 3.0].map(f32::to_le_bytes).concat();
        replace(Tap::Q, &mut row);
        assert_eq!(row, [2.0_f32, 3.0, 1.0].map(f32::to_le_bytes).concat());
        replace(Tap::AttnProbs, &mut row);
        assert_eq!(row, [1.0_f32, 1.5, 0.5].map(f32::to_le_bytes).concat());
        let mut row = [1, 0, 2, 0, 3, 0];
        replace(Tap::KCache, &mut row);
        assert_eq!(row, [2, 0, 3, 0, 1, 0]);
    }
}
