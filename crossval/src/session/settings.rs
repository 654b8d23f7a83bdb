//! How engines run while they are compared, or recorded to be compared.

use super::prompts::Prompt;
use crate::error::Error;
use crossval_protocol::{ModelFacts, Settings};

/// Teacher-forced one-token steps compared after each prompt: the reference decodes with other kernels than
/// it prefills with.
pub const DECODE_STEPS: usize = 8;

/// Batch of the compared prefill, tokens. A longer prompt is evaluated in several.
pub(crate) const COMPARED_UBATCH: usize = 128;

/// Positions that the longest prompt takes with what is decoded after it.
fn positions(prompts: &[Prompt], n_predict: usize) -> usize {
    let longest = prompts.iter().map(|p| p.tokens.len()).max().unwrap_or(0);
    longest + n_predict.max(DECODE_STEPS)
}

/// The settings of a run.
///
/// # Errors
/// [`Error::Usage`] for a prompt that does not fit the context.
pub(crate) fn compared_settings(
    facts: &ModelFacts,
    prompts: &[Prompt],
    n_predict: usize,
    threads: usize,
) -> Result<Settings, Error> {
    let positions = positions(prompts, n_predict);
    if positions > facts.n_ctx_train {
        let after = n_predict.max(DECODE_STEPS);
        return Err(Error::Usage(format!(
            "a prompt of {} tokens with {after} more to decode exceeds the model's context of {}",
            positions - after,
            facts.n_ctx_train
        )));
    }
    Ok(Settings {
        n_ctx: positions.next_multiple_of(32),
        n_ubatch: COMPARED_UBATCH,
        threads,
        observe: true,
        compact_head_budget: 0,
    })
}
