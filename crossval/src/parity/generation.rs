//! Greedy generation of both engines, and the logits at the place where they part.

use bitnet_model::tap::Tap;
use crossval_protocol::DecodeOptions;
use reports::model::{Generation, GenerationMismatch, Prompt};

use crate::compare::finite;
use crate::compare::logits::max_difference;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, EvalEvent};
use crate::profile::Profile;
use crate::session::batches::{batches, rows};
use crate::session::lockstep::{Side, aligned};
use crate::session::pair::Pair;
use crate::session::prompts::hash;
use crate::session::settings::DECODE_STEPS;
use crate::session::traces::Traces;
use crossval_protocol::{EvalRequest, Settings};

/// Generates from the prompt at `index`. The reference's first tokens become the prompt's teacher-forced decode
/// steps. `None` if nothing was to be generated.
pub(super) fn generate(
    pair: &mut Pair,
    index: usize,
    prompt: &mut Prompt,
    n_predict: usize,
    settings: Settings,
    (profile, traces): (&Profile, &Traces),
) -> Result<Option<Generation>, Side> {
    let n_vocab = pair.facts.n_vocab;
    let (reference, candidate) = pair.engines();
    let task = format!("generating from prompt {index}");
    reference.set_task(&task);
    candidate.set_task(&task);
    let generate = |engine: &mut Engine, n: usize| {
        let (tokens, ..) = engine.generate(&prompt.tokens, n)?;
        match tokens.iter().find(|&&token| token as usize >= n_vocab) {
            Some(token) => {
                let what = format!("token {token} of a vocabulary of {n_vocab}");
                Err(engine.broke_protocol(&what))
            }
            None => Ok(tokens),
        }
    };
    let generated = generate(reference, n_predict.max(DECODE_STEPS)).map_err(Side::Reference)?;
    let of_candidate = match n_predict {
        0 => Vec::new(),
        n => generate(candidate, n).map_err(Side::Candidate)?,
    };
    prompt.decode_tokens = generated.iter().copied().take(DECODE_STEPS).collect();
    prompt.sha256 = hash(prompt);
    let mut of_reference = generated.clone();
    of_reference.truncate(n_predict);
    if n_predict == 0 {
        return Ok(None);
    }
    let n = of_reference.len().max(of_candidate.len());
    let first_mismatch = (0..n)
        .find(|&i| of_reference.get(i) != of_candidate.get(i))
        .map(|i| {
            let tokens = [&of_reference, &of_candidate].map(|ids| ids.get(i).copied());
            mismatch(
                pair,
                &prompt.tokens,
                (&generated, i),
                tokens,
                settings,
                (profile, traces),
            )
        })
        .transpose()?;
    Ok(Some(Generation {
        prompt: index,
        reference_text: text(pair, &of_reference)?,
        candidate_text: text(pair, &of_candidate)?,
        reference: of_reference,
        candidate: of_candidate,
        first_mismatch,
        further: Vec::new(),
    }))
}

/// Whether the tokens from any prompt differ by more than a near tie.
pub(super) fn differs(generation: &Generation) -> bool {
    [generation]
        .into_iter()
        .chain(&generation.further)
        .filter_map(|g| g.first_mismatch.as_ref())
        .any(|mismatch| !mismatch.near_tie)
}

/// Both generations go through one detokenizer.
fn text(pair: &mut Pair, tokens: &[u32]) -> Result<Option<String>, Side> {
    let (reference, candidate) = pair.engines();
    let options = DecodeOptions {
        unparse_special: true,
        ..DecodeOptions::default()
    };
    let text = if reference.hello().tokenizer {
        let text = reference.detokenize(tokens, options);
        text.map_err(Side::Reference)?
    } else if candidate.hello().tokenizer {
        let text = candidate.detokenize(tokens, options);
        text.map_err(Side::Candidate)?
    } else {
        return Ok(None);
    };
    Ok(Some(String::from_utf8_lossy(&text).into_owned()))
}

/// What the logits say at the first token that differs, number `index` of those that the reference generated. Its own
/// noise at that place, its prefill of them all against its decode steps, counts towards the limit.
fn mismatch(
    pair: &mut Pair,
    prompt: &[u32],
    (generated, index): (&[u32], usize),
    [reference_token, candidate_token]: [Option<u32>; 2],
    settings: Settings,
    (profile, traces): (&Profile, &Traces),
) -> Result<GenerationMismatch, Side> {
    let (reference, candidate) = pair.engines();
    let (same, last_token) = (&generated[..index], generated.len().saturating_sub(1));
    let last = |rows: Vec<Vec<f32>>| rows.into_iter().last().unwrap_or_default();
    let of_reference = logits_by_steps(reference, prompt, same, settings)
        .map(last)
        .map_err(Side::Reference)?;
    let noise = match traces.generation_noise(prompt, index) {
        Some(recorded) => recorded,
        None => {
            let steps = &generated[..last_token];
            let as_prefill =
                logits_by_prefill(reference, prompt, steps, settings).map_err(Side::Reference)?;
            let row = as_prefill
                .get(index)
                .filter(|row| row.len() == of_reference.len());
            row.map_or(f64::NAN, |row| row_nmse(&of_reference, row))
        }
    };
    let of_candidate = logits_by_steps(candidate, prompt, same, settings)
        .map(last)
        .map_err(Side::Candidate)?;
    let n = of_reference.len();
    let comparable = n > 0 && of_candidate.len() == n;
    let limit = profile.cumulative_logits_limit(noise);
    let logit = |id: Option<u32>| Some(f64::from(*of_reference.get(id? as usize)?));
    let margin = logit(reference_token).zip(logit(candidate_token));
    let margin = margin.and_then(|(r, c)| finite(r - c));
    let max_logit_difference = comparable
        .then(|| max_difference(&of_reference, &of_candidate))
        .and_then(finite);
    // Logits this close explain no larger margin: the engine generates other tokens than its own logits say.
    let explained = margin
        .zip(max_logit_difference)
        .is_some_and(|(margin, difference)| margin <= 2.0 * difference);
    Ok(GenerationMismatch {
        index: same.len(),
        reference: reference_token,
        candidate: candidate_token,
        margin,
        max_logit_difference,
        near_tie: explained && row_nmse(&of_reference, &of_candidate) <= limit,
    })
}

/// The rows of logits after the prompt and after each of `steps`, which are evaluated one by one, as in
/// generation.
pub(super) fn logits_by_steps(
    engine: &mut Engine,
    prompt: &[u32],
    steps: &[u32],
    settings: Settings,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut rows = Vec::new();
    for (first_position, tokens) in batches(prompt, steps, settings.n_ubatch) {
        engine.begin_eval(EvalRequest {
            first_position,
            tokens,
            taps: &[],
            overwrite: false,
            last_logits: true,
        })?;
        while engine.next_event()? != EvalEvent::Done {}
        if first_position + tokens.len() >= prompt.len() {
            rows.push(bytemuck::allocation::pod_collect_to_vec(engine.payload()));
        }
    }
    Ok(rows)
}

/// The same rows, with all tokens evaluated as a prompt.
pub(super) fn logits_by_prefill(
    engine: &mut Engine,
    prompt: &[u32],
    steps: &[u32],
    settings: Settings,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let tokens = [prompt, steps].concat();
    let as_prompt = batches(&tokens, &[], settings.n_ubatch);
    let mut logits = Vec::new();
    rows(engine, as_prompt, &[Tap::Logits], |at, _, row| {
        if at.position + 1 >= prompt.len() {
            logits.push(aligned(row).into_owned());
        }
    })?;
    Ok(logits)
}
