//! The logits that an engine's own tokens are chosen from.

use bitnet_model::tap::Tap;
use crossval_protocol::EvalRequest;

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
    let all = Sequence {
        prompt: &tokens,
        steps: &[],
    };
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

/// The first of `tokens`, generated greedily behind `prompt`, that the engine's logits contradict.
///
/// The logits are those of a prompt of all tokens, where the engine offers them; where they say otherwise, those of
/// single steps, as in generation. A token that both contradict is excused by a margin within what the two differ by.
///
/// # Errors
/// What the engine answers instead of logits. It must run with `observe`.
pub(crate) fn contradiction(
    engine: &mut Engine,
    prompt: &[u32],
    tokens: &[u32],
    n_ubatch: usize,
) -> Result<Option<Contradiction>, EngineError> {
    let sequence = Sequence {
        prompt,
        steps: &tokens[..tokens.len().saturating_sub(1)],
    };
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
    for (index, (by_steps, &token)) in rows.into_iter().zip(tokens).enumerate() {
        let row = Twice {
            by_steps,
            as_prompt: whole.next(),
        };
        let ahead = ahead(&row.by_steps, token);
        if ahead.is_none_or(|(_, margin)| margin > row.allowance(MOST_NOISE)) {
            return Ok(Some(Contradiction {
                index,
                token,
                ahead,
            }));
        }
    }
    Ok(None)
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
}
