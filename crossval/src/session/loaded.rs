//! Two engines that have loaded a model, and how they fare.

use std::collections::BTreeMap;
use std::path::Path;

use bitnet_model::Architecture;
use bitnet_model::tap::{Tap, sites};
use crossval_protocol::{EncodeOptions, ErrorKind, ModelFacts, Settings, VocabFacts};
use reports::model::{
    Abilities, Engine as EngineReport, EngineFailure, Engines, Finding, Mode, Role, Source,
};
use reports::outcome::Outcome;

use super::claims;
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
    /// Tensors of the model that are all zero, as far as one of our engines could look.
    zero_tensors: Vec<String>,
    /// What engines say of themselves and of the model that is not so.
    false_claims: Vec<Finding>,
}

/// Why no text can be read.
pub(crate) const NO_TOKENIZER: &str = "the model has no tokenizer";

struct Worker {
    engine: Engine,
    /// What its command is called.
    label: String,
    report: EngineReport,
    vocab: Option<VocabFacts>,
    /// Whether it has a tokenizer, and found no vocabulary in the file.
    no_vocabulary: bool,
    /// A trace loads and uses nothing that says anything about the engine recorded.
    replayed: bool,
    /// Whether it is an engine of this repository, or what one recorded.
    ours: bool,
    /// What its log says that nobody should overlook, once it has ended.
    warnings: Vec<String>,
}

impl Worker {
    fn start(launcher: &Launcher, spec: &EngineSpec) -> Result<Worker, Error> {
        let engine = launcher.start(spec, None)?;
        let hello = engine.hello();
        let report = EngineReport {
            name: engine.name().to_owned(),
            label: None,
            version: hello.version.clone(),
            build: hello.build.clone(),
            settings: BTreeMap::new(),
            load_ms: None,
            peak_rss_bytes: None,
            cpu_seconds: None,
            failure: None,
            changed_values: None,
            abilities: Some(Abilities {
                architectures: hello.architectures.clone(),
                tensor_types: hello.dtypes.clone(),
                taps: hello.taps.iter().map(ToString::to_string).collect(),
                takes_values: hello.overwrite,
                tokenizer: hello.tokenizer,
            }),
        };
        Ok(Worker {
            engine,
            label: spec.label(),
            report,
            vocab: None,
            no_vocabulary: false,
            replayed: spec.trace().is_some(),
            ours: spec.is_ours(),
            warnings: Vec::new(),
        })
    }

    fn load(&mut self, model: &Path) -> Result<ModelFacts, EngineError> {
        let (facts, load_ms) = self.engine.load(model)?;
        self.vocab.clone_from(&facts.vocab);
        // An engine of ours says what the vocabulary is, if the file has any.
        if self.ours && self.vocab.is_none() && self.engine.hello().tokenizer {
            self.no_vocabulary = true;
            self.engine.without_tokenizer();
        }
        self.report.load_ms = (!self.replayed).then_some(load_ms);
        Ok(facts)
    }

    /// Keeps how it failed, where `other` has loaded the model.
    fn fails_to_load(&mut self, e: EngineError, other: &str) {
        let refused_model = refusal(&e).is_some();
        let mut failure = e.into_failure(self.engine.label(), "loading");
        if refused_model {
            failure.message.push_str(&format!("; {other} loads it"));
        }
        self.report.failure = Some(EngineFailure {
            refused_model,
            ..failure
        });
    }

    fn end(&mut self) {
        if self.report.failure.is_some() {
            return;
        }
        if !self.replayed
            && let Ok(usage) = self.engine.usage()
        {
            let counted = self.engine.consumption();
            self.report.peak_rss_bytes = counted.map(|c| c.peak_rss_bytes).or(usage.peak_rss_bytes);
            self.report.cpu_seconds = counted.map(|c| c.cpu_seconds).or(usage.cpu_seconds);
            self.report.changed_values = usage.changed_values;
        }
        self.report.failure = self.engine.end();
        self.warnings = self.engine.warnings();
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
        let mut candidate = Worker::start(launcher, &setup.candidate)?;
        let mut reference = Worker::start(launcher, &setup.reference)?;
        tell_apart(&mut reference, &mut candidate);
        for worker in [&reference, &candidate] {
            let engine = &worker.engine;
            launcher.known.set_label(engine.name(), engine.label());
        }
        // Ours first: it names what is wrong with a file, where the reference aborts.
        let of_candidate = candidate.load(model);
        let reads_as_defined = matches!(
            setup.candidate,
            EngineSpec::Rust { .. } | EngineSpec::Oracle
        );
        if let Err(e) = &of_candidate
            && reads_as_defined
            && let Some(message) = refusal(e)
        {
            return Err(Error::BadInput(message.to_owned()));
        }
        let of_reference = reference.load(model);
        let truth = {
            let candidate = (&mut candidate, of_candidate.as_ref().ok());
            let reference = (&mut reference, of_reference.as_ref().ok());
            Truth::known_to(setup, [candidate, reference])?
        };
        // A kernel would make something of them, and both engines perhaps the same.
        if let Some(finding) = truth.iter().flat_map(|truth| &truth.bad_weights).next() {
            return Err(Error::BadInput(format!("{}: {finding}", model.display())));
        }
        if let Some(truth) = &truth {
            launcher.known.set_model(&truth.facts);
        }
        let said = match (of_reference, of_candidate) {
            (Ok(r), Ok(c)) => [Some(r), Some(c)],
            (Ok(facts), Err(e)) => {
                candidate.fails_to_load(e, reference.engine.label());
                [Some(facts), None]
            }
            (Err(e), Ok(facts)) => {
                reference.fails_to_load(e, candidate.engine.label());
                [None, Some(facts)]
            }
            // Where one says what is wrong with the file, the other has crashed over it.
            (Err(e), Err(EngineError::Failed(_))) => {
                return Err(e.into_error(reference.engine.label()));
            }
            (Err(_), Err(e)) => return Err(e.into_error(candidate.engine.label())),
        };
        let mut loaded =
            Loaded {
                facts: match &truth {
                    Some(truth) => truth.facts.clone(),
                    // Of a model that nobody here knows, one engine is as good as the other.
                    None => said.iter().flatten().next_back().cloned().ok_or_else(|| {
                        Error::Internal("no engine has loaded the model".to_owned())
                    })?,
                },
                zero_tensors: truth.map_or(Vec::new(), |truth| truth.zero_tensors),
                reference,
                candidate,
                false_claims: Vec::new(),
            };
        for (role, said) in Role::BOTH.into_iter().zip(&said) {
            let engine = &loaded.worker(role).engine;
            let claims = said.as_ref().and_then(|said| {
                claims::finding(role, engine.label(), engine.hello(), said, &loaded.facts)
            });
            loaded.false_claims.extend(claims);
        }
        Ok(loaded)
    }

    /// Tensors of the model that are all zero.
    pub(crate) fn zero_tensors(&self) -> &[String] {
        &self.zero_tensors
    }

    /// What engines say that is not so, one finding per engine.
    pub(crate) fn false_claims(&self) -> &[Finding] {
        &self.false_claims
    }

    /// Token IDs of every prompt, and the engine that made them.
    pub(crate) fn tokenize(&mut self, sources: &[PromptSource]) -> Result<Tokenized, Error> {
        let n_vocab = self.facts.n_vocab;
        let mut texts = sources.iter().filter(|source| source.is_text());
        if self.tokenizer().is_none() && self.no_vocabulary() && texts.next().is_some() {
            return Err(Error::Usage(format!("{NO_TOKENIZER}: give --tokens")));
        }
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
            let Worker {
                engine,
                no_vocabulary,
                ..
            } = self.worker(role);
            match engine.hello().tokenizer {
                true => {}
                false if *no_vocabulary => return Err(NO_TOKENIZER.to_owned()),
                false => return Err(format!("the {role} ({}) has no tokenizer", engine.label())),
            }
        }
        // The candidate's, as in `crossval tokenize`.
        [&self.candidate, &self.reference]
            .into_iter()
            .find_map(|worker| worker.vocab.as_ref())
            .ok_or_else(|| "no engine says what the vocabulary is".to_owned())
    }

    /// The modes asked for; if there are none, those that the engines and the model can be compared in.
    pub(crate) fn modes(&self, asked: &[Mode]) -> Vec<Mode> {
        match asked {
            [] if self.not_isolated().is_none() => vec![Mode::Isolated, Mode::Cumulative],
            [] => vec![Mode::Cumulative],
            asked => asked.to_vec(),
        }
    }

    /// Why the candidate cannot be compared in isolated mode, if so.
    pub(crate) fn not_isolated(&self) -> Option<String> {
        let candidate = &self.candidate.engine;
        if !candidate.hello().overwrite {
            let name = candidate.label();
            return Some(format!(
                "engine {name} does not take values from the reference"
            ));
        }
        let places = sites(&self.common_taps(), self.facts.n_layer).count();
        // What is compared in one place alone starts from the candidate's own values in either mode.
        let alone = (places < 2).then(|| match self.common_taps()[..] {
            [tap] => {
                format!("the engines have {tap} alone in common, and no stage that it follows from")
            }
            _ => "the engines have no tap in common".to_owned(),
        });
        alone.or_else(|| stages_unknown(&self.facts))
    }

    /// Taps of the model that both engines offer.
    fn common_taps(&self) -> Vec<Tap> {
        let engines = [&self.reference, &self.candidate];
        let offered = |tap: &Tap| {
            let mut engines = engines.iter();
            engines.all(|worker| worker.engine.hello().taps.contains(tap))
        };
        self.facts.taps.iter().copied().filter(offered).collect()
    }

    /// Token IDs of a text, whose special tokens are not read as such, and BOS where the model adds it.
    pub(crate) fn tokenize_text(
        &mut self,
        text: &str,
        source: &str,
    ) -> Result<(Vec<u32>, Option<u32>), Error> {
        let no_tokenizer = match self.no_vocabulary() {
            true => Error::Usage(format!("text {source}: {NO_TOKENIZER}")),
            false => Error::Engine("no engine has a tokenizer for the text".into()),
        };
        let worker = self.tokenizer().ok_or(no_tokenizer)?;
        let mut tokenize = |text: &[u8]| {
            let options = EncodeOptions {
                add_special: true,
                parse_special: false,
            };
            let tokens = worker.engine.tokenize(text, options);
            tokens.map(|(tokens, _)| tokens).map_err(|e| {
                match e.into_error(worker.engine.label()) {
                    Error::Usage(message) => Error::Usage(format!("text {source}: {message}")),
                    other => other,
                }
            })
        };
        let tokens = tokenize(text.as_bytes())?;
        // What is added to nothing is BOS if it also stands before the text, and not EOS.
        let bos = tokenize(b"")?.first().copied();
        let bos = bos.filter(|bos| tokens.first() == Some(bos));
        check_range(&tokens, self.facts.n_vocab, &format!("text {source}"))?;
        Ok((tokens, bos))
    }

    fn no_vocabulary(&self) -> bool {
        let mut workers = [&self.reference, &self.candidate].into_iter();
        workers.any(|worker| worker.no_vocabulary)
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

    /// Asks both which taps they offer for this model.
    pub(crate) fn learn_taps(&mut self) {
        for role in Role::BOTH {
            self.attempt(|engines| {
                let engine = &mut engines.worker_mut(role).engine;
                engine.learn_taps().map_err(by(role))
            });
        }
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
        let failure = error.into_failure(worker.engine.label(), worker.engine.task());
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

    /// What engines warn of, one finding per engine. It is to be known, and no failure: what was compared is what the engine
    /// makes of the file for anybody, and its tokenizer is compared, too.
    pub(crate) fn warnings(&self) -> Vec<Finding> {
        let of = |role| {
            let worker = self.worker(role);
            (!worker.warnings.is_empty()).then(|| Finding {
                outcome: Outcome::Pass,
                source: Source::Engine,
                place: Some(role.into()),
                text: format!(
                    "the {role} ({}) warns: {}",
                    worker.engine.label(),
                    worker.warnings.join("; ")
                ),
            })
        };
        Role::BOTH.into_iter().filter_map(of).collect()
    }

    /// Ends both workers, which may fail at that.
    pub(crate) fn end(&mut self) {
        for role in Role::BOTH {
            self.worker_mut(role).end();
        }
    }

    pub(crate) fn report(self) -> Engines {
        Engines {
            reference: self.reference.report,
            candidate: self.candidate.report,
        }
    }
}

/// What an engine says of a model file that it refuses.
fn refusal(e: &EngineError) -> Option<&str> {
    match e {
        EngineError::Refused {
            kind: ErrorKind::BadModel,
            message,
        } => Some(message),
        _ => None,
    }
}

/// Gives two engines that would be called alike the names that they were given, without folders if those differ.
fn tell_apart(reference: &mut Worker, candidate: &mut Worker) {
    let alike = reference.engine.label() == candidate.engine.label();
    for worker in [&mut *reference, &mut *candidate] {
        if alike && !worker.ours {
            worker.engine.set_label(worker.label.clone());
        }
    }
    let alike = reference.engine.label() == candidate.engine.label();
    for worker in [reference, candidate] {
        if alike {
            worker.engine.set_label(worker.engine.name().to_owned());
        }
        let label = worker.engine.label().to_owned();
        worker.report.label = (label != worker.engine.name()).then_some(label);
    }
}

/// Why nobody says what the stages of the model compute, if so: its architecture is one that no engine here knows.
pub(crate) fn stages_unknown(facts: &ModelFacts) -> Option<String> {
    let name = &facts.architecture;
    let known = Architecture::named(name).is_some();
    (!known).then(|| format!("the stages of architecture {name} are not known here"))
}

/// What the model is, by an engine of this repository that has read its file.
struct Truth {
    facts: ModelFacts,
    /// What no file should hold.
    bad_weights: Vec<String>,
    zero_tensors: Vec<String>,
}

impl Truth {
    /// By one of the two engines, else by the oracle, else by a trace: a stranger does not decide what it is compared in.
    /// `None` where it would be alone, with a model that the oracle does not know.
    ///
    /// # Errors
    /// What the oracle says of a model that two strangers have loaded.
    fn known_to(
        setup: &Setup,
        loaded: [(&mut Worker, Option<&ModelFacts>); 2],
    ) -> Result<Option<Truth>, Error> {
        let loaded = loaded.into_iter();
        let mut loaded: Vec<_> = loaded.filter_map(|(w, facts)| Some((w, facts?))).collect();
        let ours = loaded.iter_mut().find(|(w, _)| w.ours && !w.replayed);
        if let Some((worker, facts)) = ours {
            return Ok(Some(Truth::of(&mut worker.engine, facts.clone())));
        }
        if loaded.is_empty() {
            return Ok(None);
        }
        let strangers = loaded.iter().filter(|(worker, _)| !worker.ours).count();
        let mut oracle = setup.launcher.start(&EngineSpec::Oracle, None)?;
        match oracle.load(&setup.model) {
            Ok((facts, _)) => Ok(Some(Truth::of(&mut oracle, facts))),
            Err(e) => match loaded.iter_mut().find(|(worker, _)| worker.ours) {
                Some((trace, facts)) => Ok(Some(Truth::of(&mut trace.engine, facts.clone()))),
                None if strangers == 2 => Err(e.into_error("oracle")),
                None => Ok(None),
            },
        }
    }

    fn of(engine: &mut Engine, facts: ModelFacts) -> Truth {
        let (bad_weights, zero_tensors) = engine.check_weights().unwrap_or_default();
        Truth {
            facts,
            bad_weights,
            zero_tensors,
        }
    }
}

/// That an engine failed, if it did.
pub(crate) fn failure(role: Role, engine: &EngineReport) -> Option<Finding> {
    let failure = engine.failure.as_ref()?;
    Some(Finding {
        outcome: Outcome::Engine,
        source: Source::Engine,
        place: Some(role.into()),
        text: failure.message.clone(),
    })
}

/// One finding per worker beside the two that did not end as it should, unless it is among those `known`.
pub(crate) fn bad_ends(setup: &Setup, known: &[Finding]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    for (engine, failure) in setup.launcher.bad_ends.take() {
        let of_engine = |role: &Role| setup.spec(*role).to_string() == engine;
        let roles: Vec<Role> = Role::BOTH.into_iter().filter(of_engine).collect();
        let text = failure.message;
        let said = |finding: &Finding| {
            let of_engine = (finding.source, finding.outcome) == (Source::Engine, Outcome::Engine);
            // Its workers are of one kind: where one has failed, that is what there is to know of the others.
            finding.text == text || of_engine && finding.role().is_some_and(|r| roles == [r])
        };
        if !known.iter().chain(&findings).any(said) {
            findings.push(Finding {
                outcome: Outcome::Engine,
                source: Source::Engine,
                place: match roles[..] {
                    [role] => Some(role.into()),
                    _ => None,
                },
                text,
            });
        }
    }
    findings
}
