//! What the driver takes from a trace instead of asking an engine.

use std::path::Path;

use reports::model::Prompt;

use super::prompts::PromptSource;
use super::settings::{COMPARED_UBATCH, DECODE_STEPS};
use crate::engine::EngineSpec;
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
    pub(crate) fn open(reference: &EngineSpec, candidate: &EngineSpec) -> Result<Traces, Error> {
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
            reference: open(reference)?,
            candidate: open(candidate)?,
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
                    return Err(Error::Usage(format!(
                        "--n-predict {n_predict}: trace {path} holds {there} tokens generated from prompt {}",
                        recorded.index
                    )));
                }
            }
        }
        Ok(())
    }

    /// That of the reference.
    pub(crate) fn reference(&self) -> Option<&Trace> {
        self.reference.as_ref()
    }

    /// That of the candidate.
    pub(crate) fn candidate(&self) -> Option<&Trace> {
        self.candidate.as_ref()
    }

    /// Names of the two engines: of a trace, that of the engine recorded.
    pub(crate) fn engines(&self, specs: [&EngineSpec; 2]) -> [String; 2] {
        let name = |trace: Option<&Trace>, spec: &EngineSpec| match trace {
            Some(trace) => trace.info().engine.clone(),
            None => spec.to_string(),
        };
        let [reference, candidate] = specs;
        [
            name(self.reference(), reference),
            name(self.candidate(), candidate),
        ]
    }

    /// The reference's logits before the generated token `index` against themselves; NaN if not finite.
    pub(crate) fn generation_noise(&self, prompt: &[u32], index: usize) -> Option<f64> {
        let trace = self.reference()?;
        let about = trace.info().prompts.get(trace.prompt(prompt)?.index)?;
        Some(about.generation_noise.get(index)?.unwrap_or(f64::NAN))
    }

    /// Taps in which two runs of the reference differed while it was recorded.
    pub(crate) fn not_repeatable(&self) -> Vec<String> {
        let trace = self.reference.as_ref();
        trace.map_or(Vec::new(), |t| t.info().not_repeatable.clone())
    }
}
