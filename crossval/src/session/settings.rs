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

/// The settings of a run, with the context asked for, or one as large as the prompts take.
///
/// # Errors
/// [`Error::Usage`] for a prompt that does not fit the context, and for a context that does not fit the model.
pub(crate) fn compared_settings(
    facts: &ModelFacts,
    prompts: &[Prompt],
    n_predict: usize,
    threads: usize,
    n_ctx: Option<usize>,
) -> Result<Settings, Error> {
    let positions = positions(prompts, n_predict);
    if let Some(n_ctx) = n_ctx.filter(|&n| n > facts.n_ctx_train) {
        let most = facts.n_ctx_train;
        let what = format!("{n_ctx} is more than the model's context of {most}");
        return Err(Error::option("ctx-size", what));
    }
    let (context, whose) = match n_ctx {
        Some(n_ctx) => (n_ctx, "the context (--ctx-size)"),
        None => (facts.n_ctx_train, "the model's context"),
    };
    if positions > context {
        let after = n_predict.max(DECODE_STEPS);
        return Err(Error::Usage(format!(
            "a prompt of {} tokens with {after} more to decode exceeds {whose} of {context}",
            positions - after
        )));
    }
    Ok(Settings {
        n_ctx: n_ctx.unwrap_or(positions.next_multiple_of(32)),
        n_ubatch: COMPARED_UBATCH,
        threads,
        observe: true,
        compact_head_budget: 0,
    })
}
