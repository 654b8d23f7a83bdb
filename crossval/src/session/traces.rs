//! What the driver takes from a trace instead of asking an engine.

use std::path::Path;

use crossval_protocol::Settings;
use reports::model::Role;

use super::noise::NoiseSource;
use super::prompts::{Prompt, PromptSource};
use super::settings::{COMPARED_UBATCH, DECODE_STEPS};
use super::setup::Setup;
use crate::engine::{EngineSpec, Failed, by};
use crate::error::Error;
use crossval_trace::Trace;

/// The traces among the two engines of a run.
pub(crate) struct Traces {
    reference: Option<Trace>,
    candidate: Option<Trace>,
}

impl Traces {
    /// Opens those that there are.
    ///
    /// # Errors
    /// [`Error::BadInput`] for a file that is no usable trace, or was recorded in other batches than are compared.
    pub(crate) fn open(setup: &Setup) -> Result<Traces, Error> {
        let open = |spec: &EngineSpec| -> Result<Option<Trace>, Error> {
            let Some(path) = spec.trace() else {
                return Ok(None);
            };
            let trace = Trace::open(path).map_err(|e| Error::BadInput(e.to_string()))?;
            let n_ubatch = trace.info().n_ubatch;
            let other_steps = trace
                .prompts()
                .iter()
                .find(|p| p.decode_tokens.len() != DECODE_STEPS);
            if n_ubatch != COMPARED_UBATCH || other_steps.is_some() {
                let steps = other_steps.map_or(DECODE_STEPS, |p| p.decode_tokens.len());
                return Err(Error::BadInput(format!(
                    "trace {}: recorded in batches of {n_ubatch} with {steps} decode steps; this crossval \
                     compares batches of {COMPARED_UBATCH} with {DECODE_STEPS}",
                    path.display()
                )));
            }
            Ok(Some(trace))
        };
        Ok(Traces {
            reference: open(&setup.reference)?,
            candidate: open(&setup.candidate)?,
        })
    }

    fn each(&self) -> impl Iterator<Item = &Trace> {
        [&self.reference, &self.candidate].into_iter().flatten()
    }

    /// Whether there is any: nothing can be timed then.
    pub(crate) fn any(&self) -> bool {
        self.each().next().is_some()
    }

    /// # Errors
    /// [`Error::BadInput`] if a trace is of another model than the file whose hash this is.
    pub(crate) fn check_model(&self, model: &Path, sha256: &str) -> Result<(), Error> {
        match self.each().find(|t| t.info().model_sha256 != sha256) {
            None => Ok(()),
            Some(trace) => Err(Error::BadInput(format!(
                "trace {} was recorded from another model: {}, SHA-256 {}; {} has {sha256}",
                trace.path().display(),
                trace.info().model_path,
                trace.info().model_sha256,
                model.display()
            ))),
        }
    }

    /// The prompts given, or those recorded if none are.
    pub(crate) fn sources(&self, given: &[PromptSource]) -> Vec<PromptSource> {
        let Some(trace) = self.each().next().filter(|_| given.is_empty()) else {
            return given.to_vec();
        };
        let info = trace.info();
        let recorded = trace.prompts().iter().zip(&info.prompts);
        recorded
            .map(|(prompt, about)| PromptSource::Recorded {
                text: about.text.clone(),
                rendered: about.rendered.clone(),
                source: about.source.clone(),
                tokens: prompt.tokens.clone(),
                tokenizer: info.tokenizer.clone(),
            })
            .collect()
    }

    /// # Errors
    /// [`Error::Usage`] if a trace lacks a prompt, or does not generate that far.
    pub(crate) fn check_prompts(&self, prompts: &[Prompt], n_predict: usize) -> Result<(), Error> {
        for trace in self.each() {
            let (path, contents) = (trace.path().display(), trace.contents());
            for prompt in prompts {
                let (source, n) = (&prompt.source, prompt.tokens.len());
                let recorded = trace.prompt(&prompt.tokens).ok_or_else(|| {
                    Error::Usage(format!(
                        "prompt from {source} ({n} tokens) is not in trace {path}, which holds {contents}"
                    ))
                })?;
                let there = recorded.generated.len();
                if n_predict > there {
                    let what = format!(
                        "{n_predict} is more than the {there} tokens that trace {path} holds of prompt {}",
                        recorded.index
                    );
                    return Err(Error::option("n-predict", what));
                }
            }
        }
        Ok(())
    }

    /// That of an engine, if it is one.
    pub(crate) fn of(&self, role: Role) -> Option<&Trace> {
        role.of(&self.reference, &self.candidate).as_ref()
    }

    /// Name of an engine: of a trace, that of the engine recorded.
    pub(crate) fn name(&self, setup: &Setup, role: Role) -> String {
        match self.of(role) {
            Some(trace) => trace.info().engine.clone(),
            None => setup.spec(role).to_string(),
        }
    }

    /// Where the noise of an engine is known from.
    ///
    /// # Errors
    /// If it is to be measured, and the worker for that fails.
    pub(crate) fn noise(
        &self,
        setup: &Setup,
        role: Role,
        settings: Settings,
    ) -> Result<NoiseSource<'_>, Failed> {
        match self.of(role) {
            Some(trace) => Ok(NoiseSource::Recorded(trace)),
            None => NoiseSource::live(&setup.launcher, setup.spec(role), &setup.model, settings)
                .map_err(by(role)),
        }
    }

    /// The reference's logits before the generated token `index` against themselves; NaN if not finite.
    pub(crate) fn generation_noise(&self, prompt: &[u32], index: usize) -> Option<f64> {
        let trace = self.of(Role::Reference)?;
        let about = trace.info().prompts.get(trace.prompt(prompt)?.index)?;
        Some(about.generation_noise.get(index)?.unwrap_or(f64::NAN))
    }

    /// Taps in which two runs of the reference differed while it was recorded.
    pub(crate) fn not_repeatable(&self) -> Vec<String> {
        let trace = self.of(Role::Reference);
        trace.map_or(Vec::new(), |t| t.info().not_repeatable.clone())
    }
}
