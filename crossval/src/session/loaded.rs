//! Two engines that have loaded a model, and how they fare.

use std::collections::BTreeMap;
use std::path::Path;

use crossval_protocol::{EncodeOptions, ErrorKind, ModelFacts, Settings, VocabFacts};
use reports::model::{Engine as EngineReport, Engines, Finding, Mode, Role, Source};
use reports::outcome::Outcome;

use super::pair::Pair;
use super::prompts::{PromptSource, Tokenized, check_range, tokenize};
use super::setup::Setup;
use crate::engine::{Engine, EngineError, EngineSpec, Failed, Launcher, by};
use crate::error::Error;

/// Two engines that have loaded a model.
pub(crate) struct Loaded {
    reference: Worker,
    candidate: Worker,
    /// What the model is.
    pub(crate) facts: ModelFacts,
}

struct Worker {
    engine: Engine,
    report: EngineReport,
    vocab: Option<VocabFacts>,
    /// A trace loads and uses nothing that says anything about the engine recorded.
    replayed: bool,
}

impl Worker {
    fn start(launcher: &Launcher, spec: &EngineSpec) -> Result<Worker, Error> {
        let engine = launcher.start(spec, None)?;
        let hello = engine.hello();
        let report = EngineReport {
            name: engine.name().to_owned(),
            version: hello.version.clone(),
            build: hello.build.clone(),
            settings: BTreeMap::new(),
            load_ms: None,
            peak_rss_bytes: None,
            cpu_seconds: None,
            failure: None,
            changed_values: None,
        };
        Ok(Worker {
            engine,
            report,
            vocab: None,
            replayed: spec.trace().is_some(),
        })
    }

    fn load(&mut self, model: &Path) -> Result<ModelFacts, EngineError> {
        let (facts, load_ms) = self.engine.load(model)?;
        self.vocab.clone_from(&facts.vocab);
        self.report.load_ms = (!self.replayed).then_some(load_ms);
        Ok(facts)
    }

    fn finish(mut self) -> EngineReport {
        if self.report.failure.is_none()
            && !self.replayed
            && let Ok(usage) = self.engine.usage()
        {
            let counted = self.engine.consumption();
            self.report.peak_rss_bytes = counted.map(|c| c.peak_rss_bytes).or(usage.peak_rss_bytes);
            self.report.cpu_seconds = counted.map(|c| c.cpu_seconds).or(usage.cpu_seconds);
            self.report.changed_values = usage.changed_values;
        }
        self.report
    }
}

impl Loaded {
    /// Starts both and loads the model.
    ///
    /// # Errors
    /// Where no engine is left that says what the model is.
    pub(crate) fn start(setup: &Setup) -> Result<Loaded, Error> {
        let Setup {
            launcher, model, ..
        } = setup;
        let ours = |role| setup.spec(role).is_ours();
        let mut candidate = Worker::start(launcher, &setup.candidate)?;
        let mut reference = Worker::start(launcher, &setup.reference)?;
        // Ours first: it names what is wrong with a file, where the reference aborts.
        let of_candidate = candidate.load(model);
        if let Err(EngineError::Refused {
            kind: ErrorKind::BadModel,
            message,
        }) = of_candidate
        {
            return Err(Error::BadInput(message));
        }
        let of_reference = reference.load(model);
        // A kernel would make something of them, and both engines perhaps the same. Whoever looks, it is one file.
        let findings = [
            (
                &mut candidate,
                of_candidate.is_ok() && ours(Role::Candidate),
            ),
            (
                &mut reference,
                of_reference.is_ok() && ours(Role::Reference),
            ),
        ]
        .into_iter()
        .filter(|(_, may_look)| *may_look)
        .find_map(|(worker, _)| worker.engine.check_weights().ok());
        if let Some(finding) = findings.iter().flatten().next() {
            return Err(Error::BadInput(format!("{}: {finding}", model.display())));
        }
        let facts = match (of_reference, of_candidate) {
            (Ok(r), Ok(c)) => {
                check_agreement(&r, &c)?;
                // A stranger's engine does not decide what it is compared in.
                let facts = if ours(Role::Candidate) {
                    c
                } else if ours(Role::Reference) {
                    r
                } else {
                    let facts = facts_of_oracle(setup)?;
                    check_agreement(&facts, &c)?;
                    facts
                };
                return Ok(Loaded {
                    reference,
                    candidate,
                    facts,
                });
            }
            (Ok(facts), Err(e)) => {
                candidate.report.failure = Some(e.into_failure(candidate.engine.name(), "loading"));
                facts
            }
            (Err(e), Ok(facts)) => {
                reference.report.failure = Some(e.into_failure(reference.engine.name(), "loading"));
                facts
            }
            // Where one says what is wrong with the file, the other has crashed over it.
            (Err(e), Err(EngineError::Failed(_))) => {
                return Err(e.into_error(reference.engine.name()));
            }
            (Err(_), Err(e)) => return Err(e.into_error(candidate.engine.name())),
        };
        Ok(Loaded {
            reference,
            candidate,
            facts,
        })
    }

    /// Token IDs of every prompt, and the engine that made them.
    pub(crate) fn tokenize(&mut self, sources: &[PromptSource]) -> Result<Tokenized, Error> {
        let n_vocab = self.facts.n_vocab;
        let tokenizer = self.tokenizer().map(|worker| &mut worker.engine);
        tokenize(sources, tokenizer, n_vocab)
    }

    /// What an engine says of the vocabulary, the reference first, if it has a chat template.
    pub(crate) fn vocab_for_chat(&self) -> Option<&VocabFacts> {
        [&self.reference, &self.candidate]
            .into_iter()
            .filter_map(|worker| worker.vocab.as_ref())
            .find(|vocab| vocab.chat_template.is_some())
    }

    /// The vocabulary, if both engines have a tokenizer; else why their tokenizers cannot be compared.
    pub(crate) fn comparable_vocab(&self) -> Result<&VocabFacts, String> {
        for role in Role::BOTH {
            let engine = &self.worker(role).engine;
            if !engine.hello().tokenizer {
                return Err(format!("the {role} ({}) has no tokenizer", engine.name()));
            }
        }
        // The candidate's, as in `crossval tokenize`.
        [&self.candidate, &self.reference]
            .into_iter()
            .find_map(|worker| worker.vocab.as_ref())
            .ok_or_else(|| "no engine says what the vocabulary is".to_owned())
    }

    /// The modes asked for; if there are none, those that the candidate can be compared in.
    pub(crate) fn modes(&self, asked: &[Mode]) -> Vec<Mode> {
        match asked {
            [] if self.candidate.engine.hello().overwrite => {
                vec![Mode::Isolated, Mode::Cumulative]
            }
            [] => vec![Mode::Cumulative],
            asked => asked.to_vec(),
        }
    }

    /// Token IDs of a text, whose special tokens are not read as such, and BOS where the model adds it.
    pub(crate) fn tokenize_text(
        &mut self,
        text: &str,
        source: &str,
    ) -> Result<(Vec<u32>, Option<u32>), Error> {
        let worker = self
            .tokenizer()
            .ok_or_else(|| Error::Engine("no engine has a tokenizer for the text".into()))?;
        let mut tokenize = |text: &[u8]| {
            let options = EncodeOptions {
                add_special: true,
                parse_special: false,
            };
            let tokens = worker.engine.tokenize(text, options);
            tokens
                .map(|(tokens, _)| tokens)
                .map_err(|e| match e.into_error(worker.engine.name()) {
                    Error::Usage(message) => Error::Usage(format!("text {source}: {message}")),
                    other => other,
                })
        };
        let tokens = tokenize(text.as_bytes())?;
        // What is added to nothing is BOS if it also stands before the text, and not EOS.
        let bos = tokenize(b"")?.first().copied();
        let bos = bos.filter(|bos| tokens.first() == Some(bos));
        check_range(&tokens, self.facts.n_vocab, &format!("text {source}"))?;
        Ok((tokens, bos))
    }

    /// The first worker that has a tokenizer.
    fn tokenizer(&mut self) -> Option<&mut Worker> {
        [&mut self.reference, &mut self.candidate]
            .into_iter()
            .find(|w| w.report.failure.is_none() && w.engine.hello().tokenizer)
    }

    /// The engines.
    pub(crate) fn pair(&mut self) -> Pair<'_> {
        Pair {
            reference: &mut self.reference.engine,
            candidate: &mut self.candidate.engine,
        }
    }

    fn worker(&self, role: Role) -> &Worker {
        role.of(&self.reference, &self.candidate)
    }

    fn worker_mut(&mut self, role: Role) -> &mut Worker {
        role.of(&mut self.reference, &mut self.candidate)
    }

    /// Makes both ready to evaluate.
    pub(crate) fn configure(&mut self, settings: Settings) -> Result<(), Failed> {
        for role in Role::BOTH {
            let worker = self.worker_mut(role);
            worker.report.settings = worker.engine.configure(settings).map_err(by(role))?;
        }
        Ok(())
    }

    /// Does `work` unless an engine has failed; if one does, its failure goes on its report, and the work came to nothing.
    pub(crate) fn attempt<T>(
        &mut self,
        work: impl FnOnce(&mut Loaded) -> Result<T, Failed>,
    ) -> Option<T> {
        if self.failed() {
            return None;
        }
        work(self).map_err(|failed| self.fail(failed)).ok()
    }

    fn fail(&mut self, Failed { role, error }: Failed) {
        let worker = self.worker_mut(role);
        let failure = error.into_failure(worker.engine.name(), worker.engine.task());
        worker.report.failure.get_or_insert(failure);
    }

    pub(crate) fn failed(&self) -> bool {
        !self.failures().is_empty()
    }

    /// One finding per engine that failed.
    pub(crate) fn failures(&self) -> Vec<Finding> {
        let failures = Role::BOTH.map(|role| failure(role, &self.worker(role).report));
        failures.into_iter().flatten().collect()
    }

    pub(crate) fn report(self) -> Engines {
        Engines {
            reference: self.reference.finish(),
            candidate: self.candidate.finish(),
        }
    }
}

fn facts_of_oracle(
    Setup {
        launcher, model, ..
    }: &Setup,
) -> Result<ModelFacts, Error> {
    let mut oracle = launcher.start(&EngineSpec::Oracle, None)?;
    let facts = oracle.load(model).map_err(|e| e.into_error("oracle"))?;
    Ok(facts.0)
}

/// Engines that read different shapes from one file cannot be compared.
fn check_agreement(reference: &ModelFacts, candidate: &ModelFacts) -> Result<(), Error> {
    for (what, r, c) in [
        ("layers", reference.n_layer, candidate.n_layer),
        ("embedding width", reference.n_embd, candidate.n_embd),
        ("vocabulary", reference.n_vocab, candidate.n_vocab),
    ] {
        if r != c {
            return Err(Error::BadInput(format!(
                "the engines read the model differently: {what} {r} in the reference, {c} in the candidate"
            )));
        }
    }
    Ok(())
}

/// That an engine failed, if it did.
pub(crate) fn failure(role: Role, engine: &EngineReport) -> Option<Finding> {
    Some(Finding {
        outcome: Outcome::Engine,
        source: Source::Engine,
        place: Some(role.into()),
        text: engine.failure.as_ref()?.message.clone(),
    })
}
