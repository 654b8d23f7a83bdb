//! How a prompt and its decode steps are cut into evaluations, and the rows that an engine has for them.

use bitnet_model::tap::Tap;

use crate::engine::{Engine, EngineError, EvalEvent};
use crate::session::lockstep::RowAt;
use crossval_protocol::EvalRequest;

/// The prompt in batches of `n_ubatch`, then the steps one by one; each with the position of its first token.
pub(crate) fn batches<'a>(
    prompt: &'a [u32],
    steps: &'a [u32],
    n_ubatch: usize,
) -> impl Iterator<Item = (usize, &'a [u32])> {
    let mut end = 0;
    prompt
        .chunks(n_ubatch)
        .chain(steps.chunks(1))
        .map(move |tokens| {
            let first_position = end;
            end += tokens.len();
            (first_position, tokens)
        })
}

/// Evaluates batches; `see` gets every row, with the positions that its batch sees.
pub(crate) fn rows<'a>(
    engine: &mut Engine,
    batches: impl Iterator<Item = (usize, &'a [u32])>,
    taps: &[Tap],
    mut see: impl FnMut(RowAt, usize, &[u8]),
) -> Result<(), EngineError> {
    for (first_position, tokens) in batches {
        engine.begin_eval(EvalRequest {
            first_position,
            tokens,
            taps,
            overwrite: false,
            last_logits: false,
        })?;
        while let EvalEvent::Tap(piece) = engine.next_event()? {
            let rows = engine.payload().chunks_exact(piece.row_bytes());
            for (row, bytes) in rows.enumerate() {
                let at = RowAt {
                    tap: piece.tap,
                    layer: piece.layer,
                    position: piece.first_position.saturating_add(row),
                };
                see(at, first_position + tokens.len(), bytes);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_follow_the_prompt_one_by_one() {
        let got: Vec<(usize, &[u32])> = batches(&[1, 2, 3], &[4, 5], 2).collect();
        assert_eq!(got, [(0, &[1, 2][..]), (2, &[3]), (3, &[4]), (4, &[5])]);
    }
}
