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
    /// Sizes of the prompt's first batches, tokens, where they are not of `n_ubatch`.
    cut: &'a [usize],
}

impl<'a> Sequence<'a> {
    /// A prompt and its steps.
    pub fn new(prompt: &'a [u32], steps: &'a [u32]) -> Sequence<'a> {
        let cut = &[];
        Sequence { prompt, steps, cut }
    }

    /// A prompt in batches of these sizes, none of which is 0.
    pub(crate) fn cut(prompt: &'a [u32], cut: &'a [usize]) -> Sequence<'a> {
        let steps = &[];
        Sequence { prompt, steps, cut }
    }

    /// The prompt in its batches or those of `n_ubatch`, then the steps one by one; each with the position of its first
    /// token.
    pub(crate) fn batches(self, n_ubatch: usize) -> impl Iterator<Item = (usize, &'a [u32])> {
        let mut end = 0;
        let mut rest = self.prompt;
        let cut = self
            .cut
            .iter()
            .map(move |&size| rest.split_off(..size.min(rest.len())));
        let n_cut = self.cut.iter().sum::<usize>().min(self.prompt.len());
        let batches = cut.flatten().chain(self.prompt[n_cut..].chunks(n_ubatch));
        batches.chain(self.steps.chunks(1)).map(move |tokens| {
            let first_position = end;
            end += tokens.len();
            (first_position, tokens)
        })
    }

    /// Sizes of those batches.
    pub(crate) fn sizes(self, n_ubatch: usize) -> Vec<usize> {
        let batches = self.batches(n_ubatch);
        batches.map(|(_, tokens)| tokens.len()).collect()
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
        let sequence = Sequence::new(&[1, 2, 3], &[4, 5]);
        let got: Vec<(usize, &[u32])> = sequence.batches(2).collect();
        assert_eq!(got, [(0, &[1, 2][..]), (2, &[3]), (3, &[4]), (4, &[5])]);
    }

    #[test]
    fn a_prompt_can_be_cut_otherwise() {
        let sequence = Sequence::cut(&[1, 2, 3, 4, 5], &[3, 1]);
        let got: Vec<(usize, &[u32])> = sequence.batches(1).collect();
        assert_eq!(got, [(0, &[1, 2, 3][..]), (3, &[4]), (4, &[5])]);
    }
}
