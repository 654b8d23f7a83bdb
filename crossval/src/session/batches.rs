//! How a prompt and its decode steps are cut into evaluations, and the rows that an engine has for them.

use bitnet_model::tap::Tap;

use crate::engine::{Engine, EngineError, EvalEvent};
use crate::session::lockstep::RowAt;
use crossval_protocol::EvalRequest;

/// A prompt and what is decoded after it.
#[derive(Clone, Copy, Debug)]
pub struct Sequence<'a> {
    /// Token IDs of the prompt.
    pub prompt: &'a [u32],
    /// Those that are evaluated one by one.
    pub steps: &'a [u32],
}

impl<'a> Sequence<'a> {
    /// The prompt in batches of `n_ubatch`, then the steps one by one; each with the position of its first token.
    pub(crate) fn batches(self, n_ubatch: usize) -> impl Iterator<Item = (usize, &'a [u32])> {
        let mut end = 0;
        let batches = self.prompt.chunks(n_ubatch).chain(self.steps.chunks(1));
        batches.map(move |tokens| {
            let first_position = end;
            end += tokens.len();
            (first_position, tokens)
        })
    }

    /// All of its tokens.
    pub(crate) fn tokens(self) -> Vec<u32> {
        [self.prompt, self.steps].concat()
    }
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
        let sequence = Sequence {
            prompt: &[1, 2, 3],
            steps: &[4, 5],
        };
        let got: Vec<(usize, &[u32])> = sequence.batches(2).collect();
        assert_eq!(got, [(0, &[1, 2][..]), (2, &[3]), (3, &[4]), (4, &[5])]);
    }
}
