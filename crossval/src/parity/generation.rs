//! Greedy generation of both engines, and the logits at the place where they part.

use crossval_protocol::DecodeOptions;
use reports::model::{Generation, GenerationMismatch, Role};

use super::plan::Plan;
use crate::compare::finite;
use crate::compare::logits::max_difference;
use crate::compare::tap::row_nmse;
use crate::engine::{Failed, by};
use crate::session::batches::Sequence;
use crate::session::own_logits;
use crate::session::pair::Pair;
use crate::session::settings::DECODE_STEPS;
use crate::session::traces::Traces;

/// What was generated from a prompt.
pub(super) struct Generated {
    /// The reference's first tokens, which become the prompt's teacher-forced decode steps.
    pub(super) steps: Vec<u32>,
    /// `None` if nothing was to be generated.
    pub(super) generation: Option<Generation>,
}

/// Generates from the prompt at `index`.
///
/// # Errors
/// The engine that failed.
pub(super) fn generate(
    pair: &mut Pair,
    plan: &Plan,
    traces: &Traces,
    index: usize,
) -> Result<Generated, Failed> {
    let (prompt, n_predict) = (&plan.prompts[index].tokens, plan.n_predict);
    pair.set_task(&format!("generating from prompt {index}"));
    let mut generate = |role, n: usize| {
        let engine = pair.engine(role);
        let (tokens, ..) = engine.generate(prompt, n).map_err(by(role))?;
        let unknown = |&&token: &&u32| token as usize >= plan.facts.n_vocab;
        match tokens.iter().find(unknown) {
            Some(token) => {
                let what = format!("token {token} of a vocabulary of {}", plan.facts.n_vocab);
                Err(by(role)(engine.broke_protocol(&what)))
            }
            None => Ok(tokens),
        }
    };
    let forced = generate(Role::Reference, n_predict.max(DECODE_STEPS))?;
    let candidate = match n_predict {
        0 => Vec::new(),
        n => generate(Role::Candidate, n)?,
    };
    let steps = forced.iter().copied().take(DECODE_STEPS).collect();
    if n_predict == 0 {
        return Ok(Generated {
            steps,
            generation: None,
        });
    }
    let reference = forced[..n_predict.min(forced.len())].to_vec();
    let mut generation = Generation {
        prompt: index,
        reference,
        candidate,
        reference_text: None,
        candidate_text: None,
        first_mismatch: None,
        further: Vec::new(),
        checks: Vec::new(),
    };
    generation.first_mismatch = first_mismatch(pair, plan, traces, &generation, &forced)?;
    generation.reference_text = text(pair, &generation.reference)?;
    generation.candidate_text = text(pair, &generation.candidate)?;
    Ok(Generated {
        steps,
        generation: Some(generation),
    })
}

/// Whether the tokens from any prompt differ by more than a near tie, or the logits before them by more than the limit.
pub(super) fn differs(generation: &Generation) -> bool {
    let mut all = [generation].into_iter().chain(&generation.further);
    all.any(differ)
}

/// The same of one prompt.
pub(super) fn differ(generation: &Generation) -> bool {
    let parted = generation.first_mismatch.as_ref();
    let parted = parted.is_some_and(|mismatch| !mismatch.near_tie);
    let mut checks = generation.checks.iter();
    parted || checks.any(|check| !check.beyond.is_empty())
}

/// Whether logits that differ by that much explain a margin. If they do not, an engine generates other tokens than its own
/// logits say.
pub(super) fn explained(margin: Option<f64>, difference: Option<f64>) -> bool {
    let both = margin.zip(difference);
    both.is_some_and(|(margin, difference)| margin <= 2.0 * difference)
}

/// Both generations go through one detokenizer.
fn text(pair: &mut Pair, tokens: &[u32]) -> Result<Option<String>, Failed> {
    let Some((role, engine)) = pair.tokenizer() else {
        return Ok(None);
    };
    let options = DecodeOptions {
        unparse_special: true,
        ..DecodeOptions::default()
    };
    let text = engine.detokenize(tokens, options).map_err(by(role))?;
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// What the logits say at the first token that differs. The reference's own noise at that place, its prefill of all
/// that it generated (`forced`) against its decode steps, counts towards the limit.
fn first_mismatch(
    pair: &mut Pair,
    plan: &Plan,
    traces: &Traces,
    generation: &Generation,
    forced: &[u32],
) -> Result<Option<GenerationMismatch>, Failed> {
    let (reference, candidate) = (&generation.reference, &generation.candidate);
    let n = reference.len().max(candidate.len());
    let Some(index) = (0..n).find(|&i| reference.get(i) != candidate.get(i)) else {
        return Ok(None);
    };
    let (reference_token, candidate_token) =
        (reference.get(index).copied(), candidate.get(index).copied());
    let n_ubatch = plan.settings.n_ubatch;
    let prompt = &plan.prompts[generation.prompt].tokens;
    let same = Sequence::new(prompt, &forced[..index]);
    let mut last = |role| {
        let rows = own_logits::by_steps(pair.engine(role), same, n_ubatch).map_err(by(role))?;
        Ok(rows.into_iter().next_back().unwrap_or_default())
    };
    let (of_reference, of_candidate) = (last(Role::Reference)?, last(Role::Candidate)?);
    let noise = match traces.generation_noise(prompt, index) {
        Some(recorded) => recorded,
        None => {
            let all = Sequence::new(prompt, &forced[..forced.len().saturating_sub(1)]);
            let as_prefill = own_logits::as_prompt(pair.reference, all, n_ubatch);
            let as_prefill = as_prefill.map_err(by(Role::Reference))?;
            let row = as_prefill.get(index);
            row.filter(|row| row.len() == of_reference.len())
                .map_or(f64::NAN, |row| row_nmse(&of_reference, row))
        }
    };
    let n = of_reference.len();
    let comparable = n > 0 && of_candidate.len() == n;
    let limit = plan.profile.cumulative_logits_limit(noise);
    let logit = |id: Option<u32>| Some(f64::from(*of_reference.get(id? as usize)?));
    let margin = logit(reference_token).zip(logit(candidate_token));
    let margin = margin.and_then(|(r, c)| finite(r - c));
    let max_logit_difference = comparable
        .then(|| max_difference(&of_reference, &of_candidate))
        .and_then(finite);
    Ok(Some(GenerationMismatch {
        index,
        reference: reference_token,
        candidate: candidate_token,
        margin,
        max_logit_difference,
        near_tie: explained(margin, max_logit_difference)
            && row_nmse(&of_reference, &of_candidate) <= limit,
    }))
}
