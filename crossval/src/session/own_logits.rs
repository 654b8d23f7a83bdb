//! Whether an engine's tokens follow from its own logits.

use bitnet_model::tap::Tap;
use crossval_protocol::EvalRequest;

use super::batches::rows;
use super::lockstep::aligned;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EvalEvent};

/// Between an engine's logits of one batch and of single steps, more than this is no noise that could excuse a token,
/// NMSE: a hundredth of the logits' power.
const MOST_NOISE: f64 = 1e-2;

/// A token that is not the most likely one by the logits of the engine that chose it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Contradiction {
    /// Which of the generated tokens.
    pub(crate) index: usize,
    /// It.
    pub(crate) token: u32,
    /// The most likely one.
    pub(crate) best: u32,
    /// How far its logit lies above the chosen one's.
    pub(crate) margin: f32,
}

/// The first of `tokens`, generated greedily behind `prompt`, that the engine's logits contradict.
///
/// The logits are those of one batch of all tokens, where the engine offers them; where they say otherwise, those of
/// single steps, as in generation. A token that both contradict is excused by a margin within what the two differ by.
///
/// # Errors
/// What the engine answers instead of logits. It must run with `observe`.
pub(crate) fn contradiction(
    engine: &mut Engine,
    prompt: &[u32],
    tokens: &[u32],
) -> Result<Option<Contradiction>, EngineError> {
    let by_batch = match tokens.len() > 1 && engine.hello().taps.contains(&Tap::Logits) {
        true => logits_of_batch(engine, prompt, tokens)?,
        false => Vec::new(),
    };
    let at = |row: &[f32], index: usize| against(row, tokens[index], index);
    let agrees = |(index, row): (usize, &Vec<f32>)| at(row, index).is_none();
    if by_batch.len() == tokens.len() && by_batch.iter().enumerate().all(agrees) {
        return Ok(None);
    }
    let mut position = 0;
    for index in 0..tokens.len() {
        let evaluated = match index {
            0 => prompt,
            _ => &tokens[index - 1..index],
        };
        let row = last_logits(engine, position, evaluated)?;
        position += evaluated.len();
        let Some(found) = at(&row, index) else {
            continue;
        };
        let noise = by_batch.get(index).filter(|other| other.len() == row.len());
        let noise = noise.filter(|other| row_nmse(&row, other) <= MOST_NOISE);
        let noise = noise.map_or(0.0, |other| {
            let differences = row.iter().zip(other).map(|(a, b)| (a - b).abs());
            differences.fold(0.0, f32::max)
        });
        let excused = found.margin <= 2.0 * noise;
        if !excused {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// What a row of logits says against a token; NaN is never the most likely.
fn against(row: &[f32], token: u32, index: usize) -> Option<Contradiction> {
    let chosen = row.get(token as usize).copied().unwrap_or(f32::NAN);
    let numbers = (0..row.len()).filter(|&id| !row[id].is_nan());
    let best = numbers.max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let margin = best.map_or(f32::NAN, |best| row[best] - chosen);
    let is_best =
        margin <= 0.0 || (!chosen.is_nan() && best.is_some_and(|best| row[best] == chosen));
    (!is_best).then(|| Contradiction {
        index,
        token,
        best: best.unwrap_or_default() as u32,
        margin,
    })
}

/// The row that each of the tokens was chosen from, all evaluated as a prompt. The last token is not shown.
fn logits_of_batch(
    engine: &mut Engine,
    prompt: &[u32],
    tokens: &[u32],
) -> Result<Vec<Vec<f32>>, EngineError> {
    let (start, last) = prompt.split_at(prompt.len().saturating_sub(1));
    if !start.is_empty() {
        rows(engine, [(0, start)].into_iter(), &[], |_, _, _| ())?;
    }
    let batch = [last, &tokens[..tokens.len() - 1]].concat();
    let batches = [(start.len(), batch.as_slice())].into_iter();
    let mut logits = Vec::new();
    rows(engine, batches, &[Tap::Logits], |_, _, row| {
        logits.push(aligned(row).into_owned());
    })?;
    Ok(logits)
}

fn last_logits(
    engine: &mut Engine,
    first_position: usize,
    tokens: &[u32],
) -> Result<Vec<f32>, EngineError> {
    engine.begin_eval(EvalRequest {
        first_position,
        tokens,
        taps: &[],
        overwrite: false,
        last_logits: true,
    })?;
    while engine.next_event()? != EvalEvent::Done {}
    Ok(bytemuck::allocation::pod_collect_to_vec(engine.payload()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_most_likely_token_follows_from_a_row() {
        let row = [0.5, 2.0, 2.0, -1.0];
        assert_eq!(against(&row, 1, 0), None);
        // Equals are as good as each other.
        assert_eq!(against(&row, 2, 0), None);
        let found = against(&row, 0, 7).unwrap();
        assert_eq!((found.index, found.token, found.margin), (7, 0, 1.5));
        assert!(against(&row, 4, 0).unwrap().margin.is_nan());
        assert!(against(&[], 0, 0).is_some());
        assert!(against(&[f32::NAN, 1.0], 0, 0).is_some());
        assert_eq!(against(&[f32::NAN, 1.0], 1, 0), None);
        assert_eq!(against(&[f32::INFINITY, 1.0], 0, 0), None);
    }
}
