//! The logits that an engine's own tokens are chosen from.

use std::collections::BTreeMap;

use bitnet_model::tap::Tap;
use crossval_protocol::{EvalRequest, Settings};

use super::batches::{Sequence, rows};
use super::lockstep::aligned;
use crate::compare::logits::{max_difference, most_likely};
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EvalEvent};

/// Between an engine's logits of one batch and of single steps, more than this is no noise that could excuse a token,
/// NMSE: a hundredth of the logits' power.
const MOST_NOISE: f64 = 1e-2;

/// The rows of logits after the prompt and after each of the steps, which are evaluated one by one, as in generation.
///
/// # Errors
/// What the engine answers instead.
pub(crate) fn by_steps(
    engine: &mut Engine,
    sequence: Sequence,
    n_ubatch: usize,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut rows = Vec::new();
    for (first_position, tokens) in sequence.batches(n_ubatch) {
        engine.begin_eval(EvalRequest {
            first_position,
            tokens,
            taps: &[],
            overwrite: false,
            last_logits: true,
        })?;
        while engine.next_event()? != EvalEvent::Done {}
        if first_position + tokens.len() >= sequence.prompt.len() {
            rows.push(bytemuck::allocation::pod_collect_to_vec(engine.payload()));
        }
    }
    Ok(rows)
}

/// The same rows, with all tokens evaluated as a prompt.
///
/// # Errors
/// What the engine answers instead. It must run with `observe`.
pub(crate) fn as_prompt(
    engine: &mut Engine,
    sequence: Sequence,
    n_ubatch: usize,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let tokens = sequence.tokens();
    let all = Sequence::new(&tokens, &[]);
    let mut logits = Vec::new();
    rows(
        engine,
        all.batches(n_ubatch),
        &[Tap::Logits],
        |at, _, row| {
            if at.position + 1 >= sequence.prompt.len() {
                logits.push(aligned(row).into_owned());
            }
        },
    )?;
    Ok(logits)
}

/// One row of logits of one engine.
pub(crate) struct Twice {
    /// As in generation.
    pub(crate) by_steps: Vec<f32>,
    /// With all tokens evaluated as a prompt; `None` of an engine that cannot.
    pub(crate) as_prompt: Option<Vec<f32>>,
}

impl Twice {
    /// NMSE of one against the other.
    pub(crate) fn noise(&self) -> Option<f64> {
        let as_prompt = self.as_prompt.as_ref()?;
        Some(match as_prompt.len() == self.by_steps.len() {
            true => row_nmse(&self.by_steps, as_prompt),
            false => f64::NAN,
        })
    }

    /// By how much a token's logit may lie below the largest: what the two rows differ by. Noise above `cap`, an NMSE, is
    /// a fault, and excuses nothing.
    pub(crate) fn allowance(&self, cap: f64) -> f64 {
        let as_prompt = self.as_prompt.as_deref().unwrap_or_default();
        match self.noise() {
            Some(noise) if noise <= cap => 2.0 * max_difference(&self.by_steps, as_prompt),
            _ => 0.0,
        }
    }
}

/// The token with the largest logit, and how far that is above the logit of `token`: 0 where they are equal. `None` for
/// a row that is not finite, or has no such token.
pub(crate) fn ahead(row: &[f32], token: u32) -> Option<(u32, f64)> {
    if row.iter().any(|x| !x.is_finite()) {
        return None;
    }
    let largest = most_likely(row)?;
    let margin = f64::from(row[largest]) - f64::from(*row.get(token as usize)?);
    Some((largest as u32, margin))
}

/// A token that is not the most likely one by the logits of the engine that chose it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Contradiction {
    /// Which of the generated tokens.
    pub(crate) index: usize,
    /// It.
    pub(crate) token: u32,
    /// The most likely one, and how far its logit lies above the chosen one's; `None` where the logits are not finite, or
    /// there is no such token.
    pub(crate) ahead: Option<(u32, f64)>,
}

/// The first of `tokens`, generated greedily behind `prompt` where nobody observed it, that the engine's logits contradict.
///
/// The logits are those of a prompt of all tokens, where the engine offers them; where they say otherwise, those of
/// single steps, as in generation. A token that both contradict is excused by a margin within what the two differ by.
/// An engine may run otherwise where it is not observed, if it says so: then the logits of single steps there count as
/// well, as far as they are no more than noise from the others.
///
/// `settings` are those that the engine was configured with, `observe` among them, and `said` is what it answered.
///
/// # Errors
/// What the engine answers instead of logits.
pub(crate) fn contradiction(
    engine: &mut Engine,
    prompt: &[u32],
    tokens: &[u32],
    settings: Settings,
    said: &BTreeMap<String, String>,
) -> Result<Option<Contradiction>, EngineError> {
    let n_ubatch = settings.n_ubatch;
    let sequence = Sequence::new(prompt, &tokens[..tokens.len().saturating_sub(1)]);
    let whole = match tokens.len() > 1 && engine.hello().taps.contains(&Tap::Logits) {
        true => as_prompt(engine, sequence, n_ubatch)?,
        false => Vec::new(),
    };
    let follows =
        |(row, &token): (&Vec<f32>, &u32)| ahead(row, token).is_some_and(|(_, m)| m <= 0.0);
    if !tokens.is_empty() && whole.len() == tokens.len() && whole.iter().zip(tokens).all(follows) {
        return Ok(None);
    }
    let mut whole = whole.into_iter();
    let rows = by_steps(engine, sequence, n_ubatch)?;
    let rows = rows.into_iter().map(|by_steps| Twice {
        by_steps,
        as_prompt: whole.next(),
    });
    let rows: Vec<Twice> = rows.collect();
    let found = first_contradiction(&rows, tokens, &[]);
    if found.is_none() {
        return Ok(None);
    }
    let unobserved = Settings {
        observe: false,
        ..settings
    };
    let runs_otherwise = engine.configure(unobserved)? != *said;
    let as_generated = match runs_otherwise {
        true => by_steps(engine, sequence, n_ubatch)?,
        false => Vec::new(),
    };
    engine.configure(settings)?;
    Ok(match runs_otherwise {
        true => first_contradiction(&rows, tokens, &as_generated),
        false => found,
    })
}

/// The first token that its row contradicts, and that of `as_generated`, which counts unless it is more than noise from it.
fn first_contradiction(
    rows: &[Twice],
    tokens: &[u32],
    as_generated: &[Vec<f32>],
) -> Option<Contradiction> {
    let mut rows = rows.iter().zip(tokens).enumerate();
    rows.find_map(|(index, (row, &token))| {
        let allowance = row.allowance(MOST_NOISE);
        let follows = |row: &[f32]| ahead(row, token).is_some_and(|(_, m)| m <= allowance);
        let other = as_generated.get(index).filter(|other| {
            other.len() == row.by_steps.len() && row_nmse(&row.by_steps, other) <= MOST_NOISE
        });
        let excused = follows(&row.by_steps) || other.is_some_and(|other| follows(other));
        (!excused).then(|| Contradiction {
            index,
            token,
            ahead: ahead(&row.by_steps, token),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_of_equal_logits_is_the_largest() {
        let row = [1.0, 3.0, 3.0, 0.5];
        let margin = |token| ahead(&row, token).map(|(_, margin)| margin);
        assert_eq!([0, 1, 2, 3].map(margin), [2.0, 0.0, 0.0, 2.5].map(Some));
        assert_eq!(ahead(&row, 0), Some((1, 2.0)));
        for (row, token) in [
            (&row[..], 4),
            (&[], 0),
            (&[f32::NAN, 1.0], 1),
            (&[f32::INFINITY, 1.0], 0),
        ] {
            assert_eq!(ahead(row, token), None);
        }
    }

    #[test]
    fn what_two_rows_differ_by_is_allowed_up_to_a_cap() {
        let twice = |as_prompt: Option<[f32; 2]>| Twice {
            by_steps: vec![10.0, 0.0],
            as_prompt: as_prompt.map(Vec::from),
        };
        assert_eq!(twice(Some([10.0, 0.5])).allowance(1e-2), 1.0);
        assert_eq!(twice(Some([10.0, 5.0])).allowance(1e-2), 0.0);
        assert_eq!(twice(None).allowance(1e-2), 0.0);
    }

    #[test]
    fn a_token_may_follow_from_the_logits_of_those_who_are_not_observed() {
        let rows = [Twice {
            by_steps: vec![1.0, 0.99],
            as_prompt: Some(vec![1.0, 0.99]),
        }];
        let found = |as_generated: &[Vec<f32>]| first_contradiction(&rows, &[1], as_generated);
        assert_eq!(found(&[]).map(|found| found.index), Some(0));
        assert_eq!(found(&[vec![0.99, 1.0]]), None);
        // Neither what says the same nor what is another model's excuses it.
        for other in [vec![1.0, 0.98], vec![-1.0, 1.0], vec![1.0]] {
            assert!(found(&[other]).is_some());
        }
    }
}
