//! `crossval run`: both engines, every layer, one report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use bitnet_core::tap::Tap;
use half::f16;
use indicatif::ProgressBar;
use reports::model::{
    Coverage, Engine as EngineReport, Engines, Environment, Generation, GenerationMismatch, Inputs,
    LogitsResult, Mode, NoiseFloor, Profile as ProfileReport, Prompt, Report, SCHEMA, TapResult,
};
use sha2::{Digest, Sha256};

use crate::bench;
use crate::compare::coverage::{CoverageLedger, Site};
use crate::compare::finite;
use crate::compare::lockstep::{self, Batch, ReferenceHashes, RowAt, RowSink, Side};
use crate::compare::logits::{LogitsAccumulator, max_difference};
use crate::compare::tap::{Exceeded, TapAccumulator, row_nmse};
use crate::engine::{Engine, EngineError, EngineSpec, EvalEvent};
use crate::error::Error;
use crate::profile::Profile;
use crate::protocol::{ErrorKind, ModelFacts, Request, Settings};
use crate::verdict::{self, Findings};

/// Teacher-forced one-token steps compared after each prompt: the reference decodes with other kernels than
/// it prefills with.
pub const DECODE_STEPS: usize = 8;

/// Batch of the compared prefill, tokens. A longer prompt is evaluated in several.
const COMPARED_UBATCH: usize = 128;

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The GGUF file.
    pub model: PathBuf,
    /// The engine compared against.
    pub reference: EngineSpec,
    /// The engine under test.
    pub candidate: EngineSpec,
    /// At least one.
    pub prompts: Vec<PromptSource>,
    /// Tokens to generate from each prompt.
    pub n_predict: usize,
    /// Threads per engine.
    pub threads: usize,
    /// Modes to compare in.
    pub modes: Vec<Mode>,
    /// The limits.
    pub profile: Profile,
    /// Whether to time both engines.
    pub bench: bool,
    /// The command line, for the report.
    pub command: Vec<String>,
    /// The machine and build, for the report.
    pub environment: Environment,
}

/// A prompt, before tokenization.
#[derive(Clone, Debug)]
pub enum PromptSource {
    /// Text, and where it came from.
    Text {
        /// The text.
        text: String,
        /// `--prompt` or the file's path.
        source: String,
    },
    /// Token IDs from `--tokens`.
    Tokens(Vec<u32>),
}

/// Runs and compares both engines.
///
/// # Errors
/// Where there is nothing to report on: bad flags, a bad model, a missing engine. An engine that fails later
/// is part of the report.
pub fn run(options: &RunOptions, progress: &ProgressBar) -> Result<Report, Error> {
    let created = jiff::Timestamp::now().to_string();
    progress.set_message("hashing the model");
    let (size_bytes, sha256) = hash_file(&options.model)?;
    let mut pair = Pair::start(options, progress)?;
    let prompts = pair.tokenize(&options.prompts)?;
    let mut run = Run::new(options, &pair, prompts)?;
    if let Err(side) = run.drive(&mut pair, options, progress) {
        pair.fail(side);
    }
    let bench = match pair.failed() {
        false if options.bench => {
            progress.set_message("timing");
            let plan = bench::Plan {
                model: &options.model,
                specs: [&options.reference, &options.candidate],
                prompt: &run.prompts[0].tokens,
                n_predict: options.n_predict,
                threads: options.threads,
                n_ctx: run.settings.n_ctx,
                expected: run
                    .generation
                    .as_ref()
                    .map(|g| [&g.reference, &g.candidate]),
            };
            match bench::bench(&plan, progress) {
                Ok(bench) => Some(bench),
                Err((0, e)) => {
                    pair.fail(Side::Reference(e));
                    None
                }
                Err((_, e)) => {
                    pair.fail(Side::Candidate(e));
                    None
                }
            }
        }
        _ => None,
    };
    let facts = pair.facts.clone();
    let engines = pair.report();
    let findings = Findings {
        failures: [&engines.reference, &engines.candidate]
            .into_iter()
            .filter_map(|e| e.failure.as_ref())
            .map(|f| f.message.clone())
            .collect(),
        exceeded: run.exceeded(),
        generation: run.generation.as_ref(),
        coverage: &run.coverage,
        required_not_compared: run.required_not_compared(&options.profile, &facts),
        not_repeatable: run.not_repeatable.clone(),
        bench: bench.as_ref(),
    };
    let verdict = verdict::decide(&findings);
    Ok(Report {
        schema: SCHEMA.to_owned(),
        created,
        command: options.command.clone(),
        verdict,
        model: reports::model::Model {
            path: options.model.display().to_string(),
            size_bytes,
            sha256,
            name: facts.name,
            architecture: facts.architecture,
            n_layer: facts.n_layer,
            n_embd: facts.n_embd,
            n_ff: facts.n_ff,
            n_head: facts.n_head,
            n_head_kv: facts.n_head_kv,
            n_vocab: facts.n_vocab,
            n_ctx_train: facts.n_ctx_train,
            tensor_types: facts.tensor_types,
        },
        engines,
        environment: options.environment.clone(),
        taps: run.tap_results(),
        logits: run.logits_results(),
        inputs: Inputs {
            prompts: run.prompts,
            tokenizer: run.tokenizer,
            n_predict: options.n_predict,
            decode_steps: DECODE_STEPS,
            threads: options.threads,
            modes: options.modes.clone(),
            profile: ProfileReport {
                name: options.profile.name.clone(),
                isolated_nmse: run
                    .limits
                    .iter()
                    .map(|(tap, &limit)| (tap.to_string(), limit))
                    .collect(),
                cumulative_logits_nmse: options.profile.cumulative_logits,
            },
        },
        coverage: run.coverage,
        generation: run.generation,
        noise_floor: run.noise_floor.map(|floor| NoiseFloor {
            description: format!(
                "{} against itself: {DECODE_STEPS} tokens after each prompt evaluated one by one, and as part \
                 of the prompt",
                options.reference
            ),
            nmse: [(Tap::Logits.to_string(), floor)].into(),
        }),
        bench,
    })
}

fn hash_file(path: &Path) -> Result<(u64, String), Error> {
    let bad = |e: std::io::Error| Error::BadInput(format!("model {}: {e}", path.display()));
    let mut file = std::fs::File::open(path).map_err(bad)?;
    let mut hasher = Sha256::new();
    let size = std::io::copy(&mut file, &mut hasher).map_err(bad)?;
    Ok((size, hex(&hasher.finalize())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The two engines, and how they fared.
struct Pair {
    reference: Worker,
    candidate: Worker,
    facts: ModelFacts,
}

struct Worker {
    engine: Engine,
    report: EngineReport,
}

impl Worker {
    fn start(spec: &EngineSpec) -> Result<Worker, Error> {
        let engine = Engine::start(spec, None)?;
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
        };
        Ok(Worker { engine, report })
    }

    fn load(&mut self, model: &Path) -> Result<ModelFacts, EngineError> {
        let (facts, load_ms) = self.engine.load(model)?;
        self.report.load_ms = Some(load_ms);
        Ok(facts)
    }

    fn finish(mut self) -> EngineReport {
        if self.report.failure.is_none()
            && let Ok((peak_rss_bytes, cpu_seconds)) = self.engine.usage()
        {
            self.report.peak_rss_bytes = peak_rss_bytes;
            self.report.cpu_seconds = cpu_seconds;
        }
        self.report
    }
}

impl Pair {
    fn start(options: &RunOptions, progress: &ProgressBar) -> Result<Pair, Error> {
        let mut candidate = Worker::start(&options.candidate)?;
        let mut reference = Worker::start(&options.reference)?;
        progress.set_message("loading");
        // Ours first: it names what is wrong with a file, where the reference aborts.
        let of_candidate = candidate.load(&options.model);
        if let Err(EngineError::Refused {
            kind: ErrorKind::BadModel,
            message,
        }) = of_candidate
        {
            return Err(Error::BadInput(message));
        }
        let of_reference = reference.load(&options.model);
        let facts = match (of_reference, of_candidate) {
            (Ok(r), Ok(c)) => {
                check_agreement(&r, &c)?;
                return Ok(Pair {
                    reference,
                    candidate,
                    facts: c,
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
            (Err(_), Err(e)) => return Err(e.into_error(candidate.engine.name())),
        };
        Ok(Pair {
            reference,
            candidate,
            facts,
        })
    }

    fn tokenize(
        &mut self,
        sources: &[PromptSource],
    ) -> Result<(Vec<Prompt>, Option<String>), Error> {
        let mut tokenizer = None;
        let mut prompts = Vec::new();
        for source in sources {
            let (text, source, tokens) = match source {
                PromptSource::Tokens(tokens) => (None, "--tokens".to_owned(), tokens.clone()),
                PromptSource::Text { text, source } => {
                    let worker = [&mut self.reference, &mut self.candidate]
                        .into_iter()
                        .find(|w| w.report.failure.is_none() && w.engine.hello().tokenizer)
                        .ok_or_else(|| {
                            Error::Engine("no engine has a tokenizer: give --tokens".into())
                        })?;
                    let tokens = worker
                        .engine
                        .tokenize(text)
                        .map_err(|e| e.into_error(worker.engine.name()))?;
                    tokenizer = Some(worker.engine.name().to_owned());
                    (Some(text.clone()), source.clone(), tokens)
                }
            };
            if tokens.is_empty() {
                return Err(Error::Usage(format!("prompt from {source}: no tokens")));
            }
            if let Some(id) = tokens.iter().find(|&&id| id as usize >= self.facts.n_vocab) {
                return Err(Error::Usage(format!(
                    "prompt from {source}: token ID {id} is out of range, the vocabulary has {} tokens",
                    self.facts.n_vocab
                )));
            }
            prompts.push(Prompt {
                text,
                source,
                tokens,
                decode_tokens: Vec::new(),
                sha256: String::new(),
            });
        }
        Ok((prompts, tokenizer))
    }

    fn fail(&mut self, side: Side) {
        let (worker, error) = match side {
            Side::Reference(e) => (&mut self.reference, e),
            Side::Candidate(e) => (&mut self.candidate, e),
        };
        let failure = error.into_failure(worker.engine.name(), worker.engine.task());
        worker.report.failure.get_or_insert(failure);
    }

    fn failed(&self) -> bool {
        let failure = |w: &Worker| w.report.failure.is_some();
        failure(&self.reference) || failure(&self.candidate)
    }

    fn report(self) -> Engines {
        Engines {
            reference: self.reference.finish(),
            candidate: self.candidate.finish(),
        }
    }
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

/// What has been measured so far.
struct Run {
    prompts: Vec<Prompt>,
    tokenizer: Option<String>,
    settings: Settings,
    /// Taps compared.
    taps: Vec<Tap>,
    limits: BTreeMap<Tap, f64>,
    profile: Profile,
    /// The reference's worst NMSE against itself in a row of logits, once measured.
    noise_floor: Option<f64>,
    accumulators: BTreeMap<SiteOrder, TapAccumulator>,
    logits: BTreeMap<(usize, Mode), LogitsAccumulator>,
    ledger: CoverageLedger,
    coverage: Coverage,
    not_offered: BTreeMap<String, Vec<String>>,
    generation: Option<Generation>,
    not_repeatable: Vec<String>,
}

/// Prompt, then the order of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SiteOrder {
    /// Index of the prompt.
    pub prompt: usize,
    /// 0 embeddings, then the layers from 1, then the head.
    pub stage: usize,
    /// The tap.
    pub tap: Tap,
    /// Layer; `None` outside the layers.
    pub layer: Option<usize>,
    /// Coupling of the engines.
    pub mode: Mode,
}

impl From<Site> for SiteOrder {
    fn from(site: Site) -> SiteOrder {
        SiteOrder {
            prompt: site.prompt,
            stage: lockstep::stage(site.tap, site.layer),
            tap: site.tap,
            layer: site.layer,
            mode: site.mode,
        }
    }
}

impl Run {
    fn new(
        options: &RunOptions,
        pair: &Pair,
        (prompts, tokenizer): (Vec<Prompt>, Option<String>),
    ) -> Result<Run, Error> {
        let facts = &pair.facts;
        let longest = prompts.iter().map(|p| p.tokens.len()).max().unwrap_or(0);
        let after = options.n_predict.max(DECODE_STEPS);
        if longest + after > facts.n_ctx_train {
            return Err(Error::Usage(format!(
                "a prompt of {longest} tokens with {after} more to decode exceeds the model's context of {}",
                facts.n_ctx_train
            )));
        }
        let mut not_offered = BTreeMap::new();
        let mut taps: BTreeSet<Tap> = facts.taps.iter().copied().collect();
        for engine in [&pair.reference.engine, &pair.candidate.engine] {
            let offered = &engine.hello().taps;
            let lacking: Vec<Tap> = facts
                .taps
                .iter()
                .copied()
                .filter(|t| !offered.contains(t))
                .collect();
            taps.retain(|t| offered.contains(t));
            if !lacking.is_empty() {
                let names = lacking.iter().map(Tap::to_string).collect();
                not_offered.insert(engine.name().to_owned(), names);
            }
        }
        if options.modes.contains(&Mode::Isolated) && !pair.candidate.engine.hello().overwrite {
            return Err(Error::Usage(format!(
                "engine {} does not take values from the reference: use --mode cumulative",
                pair.candidate.engine.name()
            )));
        }
        let mut run = Run {
            settings: Settings {
                n_ctx: (longest + after).next_multiple_of(32),
                n_ubatch: COMPARED_UBATCH,
                threads: options.threads,
                observe: true,
            },
            taps: taps.into_iter().collect(),
            limits: options.profile.isolated(facts)?,
            profile: options.profile.clone(),
            noise_floor: None,
            accumulators: BTreeMap::new(),
            logits: BTreeMap::new(),
            ledger: CoverageLedger::default(),
            coverage: Coverage::default(),
            not_offered,
            generation: None,
            not_repeatable: Vec::new(),
            prompts,
            tokenizer,
        };
        run.expect(&options.modes, facts.n_layer);
        run.coverage = run.ledger.report(run.not_offered.clone());
        Ok(run)
    }

    /// Puts every row that is to be compared on the ledger.
    fn expect(&mut self, modes: &[Mode], n_layer: usize) {
        for (prompt, p) in self.prompts.iter().enumerate() {
            let n_prefill = p.tokens.len();
            for &mode in modes {
                for &tap in &self.taps {
                    let layers: Vec<Option<usize>> = if tap.per_layer() {
                        (0..n_layer).map(Some).collect()
                    } else {
                        vec![None]
                    };
                    for layer in layers {
                        let site = Site {
                            mode,
                            prompt,
                            layer,
                            tap,
                        };
                        self.ledger.expect(site, n_prefill + DECODE_STEPS);
                        let limit = match mode {
                            Mode::Isolated => self.limits.get(&tap).copied(),
                            Mode::Cumulative => {
                                (tap == Tap::Logits).then_some(self.profile.cumulative_logits)
                            }
                        };
                        self.accumulators
                            .insert(site.into(), TapAccumulator::new(limit, n_prefill));
                        if let (Tap::Logits, Some(limit)) = (tap, limit) {
                            self.logits
                                .insert((prompt, mode), LogitsAccumulator::new(limit));
                        }
                    }
                }
            }
        }
    }

    /// Generates, then compares every prompt in every mode.
    fn drive(
        &mut self,
        pair: &mut Pair,
        options: &RunOptions,
        progress: &ProgressBar,
    ) -> Result<(), Side> {
        if pair.failed() {
            return Ok(());
        }
        progress.set_length(self.coverage.expected);
        let settings = self.settings;
        let Pair {
            reference,
            candidate,
            ..
        } = pair;
        reference.report.settings = reference
            .engine
            .configure(settings)
            .map_err(Side::Reference)?;
        candidate.report.settings = candidate
            .engine
            .configure(settings)
            .map_err(Side::Candidate)?;
        let mut generations = Vec::new();
        for prompt in 0..self.prompts.len() {
            progress.set_message("generating");
            let generation = self.generate(prompt, pair, options.n_predict)?;
            generations.extend(generation);
            self.measure_noise(prompt, &mut pair.reference.engine)
                .map_err(Side::Reference)?;
        }
        if !generations.is_empty() {
            let mut first = generations.remove(0);
            first.further = generations;
            self.generation = Some(first);
        }
        for prompt in 0..self.prompts.len() {
            let mut hashes: Option<ReferenceHashes> = None;
            for &mode in &options.modes {
                progress.set_message(match mode {
                    Mode::Isolated => "comparing, isolated",
                    Mode::Cumulative => "comparing, cumulative",
                });
                let result = self.compare(prompt, mode, pair, progress);
                self.coverage = self.ledger.report(self.not_offered.clone());
                let now = result?;
                if let Some(before) = &hashes {
                    self.not_repeatable
                        .extend(now.differences(before).into_iter().map(
                            |(layer, tap)| match layer {
                                Some(layer) => format!("prompt {prompt}, layer {layer}, {tap}"),
                                None => format!("prompt {prompt}, {tap}"),
                            },
                        ));
                }
                hashes = Some(now);
            }
        }
        Ok(())
    }

    /// Greedy generation of both; the reference's first tokens become the teacher-forced decode steps.
    fn generate(
        &mut self,
        index: usize,
        pair: &mut Pair,
        n_predict: usize,
    ) -> Result<Option<Generation>, Side> {
        let Pair {
            reference,
            candidate,
            ..
        } = pair;
        let (reference, candidate) = (&mut reference.engine, &mut candidate.engine);
        let prompt = &mut self.prompts[index];
        let task = format!("generating from prompt {index}");
        reference.set_task(&task);
        candidate.set_task(&task);
        let (mut of_reference, ..) = reference
            .generate(&prompt.tokens, n_predict.max(DECODE_STEPS))
            .map_err(Side::Reference)?;
        prompt.decode_tokens = of_reference.iter().copied().take(DECODE_STEPS).collect();
        prompt.sha256 = {
            let mut hasher = Sha256::new();
            for token in prompt.tokens.iter().chain(&prompt.decode_tokens) {
                hasher.update(token.to_le_bytes());
            }
            hex(&hasher.finalize())
        };
        of_reference.truncate(n_predict);
        if n_predict == 0 {
            return Ok(None);
        }
        let (of_candidate, ..) = candidate
            .generate(&prompt.tokens, n_predict)
            .map_err(Side::Candidate)?;
        let mut text = |tokens: &[u32]| -> Result<Option<String>, Side> {
            if reference.hello().tokenizer {
                reference
                    .detokenize(tokens)
                    .map(Some)
                    .map_err(Side::Reference)
            } else if candidate.hello().tokenizer {
                candidate
                    .detokenize(tokens)
                    .map(Some)
                    .map_err(Side::Candidate)
            } else {
                Ok(None)
            }
        };
        let texts = [text(&of_reference)?, text(&of_candidate)?];
        let [reference_text, candidate_text] = texts;
        let n = of_reference.len().max(of_candidate.len());
        let first = (0..n).find(|&i| of_reference.get(i) != of_candidate.get(i));
        let first_mismatch = match first {
            None => None,
            Some(i) => {
                let prompt = &prompt.tokens;
                let same = &of_reference[..i];
                let steps =
                    |engine: &mut Engine| logits_by_steps(engine, prompt, same, self.settings);
                let as_generated = steps(reference).map_err(Side::Reference)?;
                let of_candidate_there = steps(candidate).map_err(Side::Candidate)?;
                let as_prefill = logits_by_prefill(reference, prompt, same, self.settings)
                    .map_err(Side::Reference)?;
                let rows =
                    [&as_generated, &as_prefill, &of_candidate_there].map(|rows| rows.last());
                let [
                    Some(as_generated),
                    Some(as_prefill),
                    Some(of_candidate_there),
                ] = rows
                else {
                    return Err(Side::Reference(EngineError::Refused {
                        kind: ErrorKind::Internal,
                        message: "no logits".into(),
                    }));
                };
                let noise = row_nmse(as_generated, as_prefill);
                let limit = self.profile.cumulative_logits_limit(noise);
                let pick = |ids: &[u32]| ids.get(i).copied();
                let tokens = [pick(&of_reference), pick(&of_candidate)];
                Some(mismatch(i, tokens, as_generated, of_candidate_there, limit))
            }
        };
        Ok(Some(Generation {
            prompt: index,
            reference: of_reference,
            candidate: of_candidate,
            reference_text,
            candidate_text,
            first_mismatch,
            further: Vec::new(),
        }))
    }

    /// The reference against itself: the decode steps one by one, and as part of the prompt. Ternary models
    /// amplify its rounding, so the limit on cumulative logits follows what this shows.
    fn measure_noise(&mut self, index: usize, reference: &mut Engine) -> Result<(), EngineError> {
        let prompt = &self.prompts[index];
        reference.set_task(format!("measuring its noise on prompt {index}"));
        let (tokens, steps) = (&prompt.tokens, &prompt.decode_tokens);
        let stepwise = logits_by_steps(reference, tokens, steps, self.settings)?;
        let batched = logits_by_prefill(reference, tokens, steps, self.settings)?;
        let floor = stepwise
            .iter()
            .zip(&batched)
            .map(|(s, b)| row_nmse(s, b))
            .fold(
                0.0,
                |worst: f64, x| if x.is_nan() || x > worst { x } else { worst },
            );
        let limit = self.profile.cumulative_logits_limit(floor);
        let site = Site {
            mode: Mode::Cumulative,
            prompt: index,
            layer: None,
            tap: Tap::Logits,
        };
        if let Some(accumulator) = self.accumulators.get_mut(&site.into()) {
            *accumulator = TapAccumulator::new(Some(limit), tokens.len());
            self.logits
                .insert((index, Mode::Cumulative), LogitsAccumulator::new(limit));
        }
        let worst = self.noise_floor.get_or_insert(0.0);
        *worst = worst.max(floor);
        Ok(())
    }

    /// One prompt in one mode: prefill in batches, then the decode steps one by one.
    fn compare(
        &mut self,
        index: usize,
        mode: Mode,
        pair: &mut Pair,
        progress: &ProgressBar,
    ) -> Result<ReferenceHashes, Side> {
        let prompt = self.prompts[index].clone();
        let taps = self.taps.clone();
        let mut hashes = ReferenceHashes::default();
        let prefill = prompt.tokens.chunks(self.settings.n_ubatch);
        let decode = prompt.decode_tokens.chunks(1);
        let mut position = 0;
        for tokens in prefill.chain(decode) {
            let end = position + tokens.len();
            let task = format!("evaluating prompt {index}, positions {position}..{end}");
            pair.reference.engine.set_task(&task);
            pair.candidate.engine.set_task(&task);
            let mut sink = Sink {
                run: self,
                prompt: index,
                mode,
                progress,
            };
            let batch = Batch {
                first_position: position,
                tokens,
                taps: &taps,
                isolated: mode == Mode::Isolated,
            };
            lockstep::evaluate(
                &mut pair.reference.engine,
                &mut pair.candidate.engine,
                batch,
                &mut hashes,
                &mut sink,
            )?;
            position = end;
        }
        Ok(hashes)
    }

    fn exceeded(&self) -> Vec<(SiteOrder, &Exceeded)> {
        self.accumulators
            .iter()
            .filter_map(|(&site, a)| Some((site, a.exceeded()?)))
            .collect()
    }

    fn required_not_compared(&self, profile: &Profile, facts: &ModelFacts) -> Vec<String> {
        profile
            .required
            .iter()
            .filter(|tap| facts.taps.contains(tap) && !self.taps.contains(tap))
            .map(Tap::to_string)
            .collect()
    }

    fn tap_results(&self) -> Vec<TapResult> {
        let mut results: Vec<TapResult> = Vec::new();
        for (site, accumulator) in &self.accumulators {
            let Some(stats) = accumulator.stats() else {
                continue;
            };
            let tap = site.tap.to_string();
            let same = results.last().is_some_and(|last| {
                (last.prompt, last.layer, &last.tap) == (site.prompt, site.layer, &tap)
            });
            if !same {
                results.push(TapResult {
                    prompt: site.prompt,
                    layer: site.layer,
                    tap,
                    isolated: None,
                    cumulative: None,
                });
            }
            if let Some(result) = results.last_mut() {
                match site.mode {
                    Mode::Isolated => result.isolated = Some(stats),
                    Mode::Cumulative => result.cumulative = Some(stats),
                }
            }
        }
        results
    }

    fn logits_results(&self) -> Vec<LogitsResult> {
        let stats = |prompt, mode| self.logits.get(&(prompt, mode)).and_then(|l| l.stats());
        (0..self.prompts.len())
            .map(|prompt| LogitsResult {
                prompt,
                isolated: stats(prompt, Mode::Isolated),
                cumulative: stats(prompt, Mode::Cumulative),
            })
            .filter(|l| l.isolated.is_some() || l.cumulative.is_some())
            .collect()
    }
}

/// The rows of logits after the prompt and after each of `steps`, which are evaluated one by one, as in
/// generation.
fn logits_by_steps(
    engine: &mut Engine,
    prompt: &[u32],
    steps: &[u32],
    settings: Settings,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let mut rows = Vec::new();
    let mut position = 0;
    for tokens in prompt.chunks(settings.n_ubatch).chain(steps.chunks(1)) {
        engine.begin_eval(&Request::Eval {
            seq_id: 0,
            first_position: position,
            tokens: tokens.to_vec(),
            taps: Vec::new(),
            overwrite: false,
            last_logits: true,
        })?;
        while engine.next_event()? != EvalEvent::Done {}
        position += tokens.len();
        if position >= prompt.len() {
            rows.push(bytemuck::allocation::pod_collect_to_vec(engine.payload()));
        }
    }
    Ok(rows)
}

/// The same rows, with all tokens evaluated as a prompt.
fn logits_by_prefill(
    engine: &mut Engine,
    prompt: &[u32],
    steps: &[u32],
    settings: Settings,
) -> Result<Vec<Vec<f32>>, EngineError> {
    let tokens: Vec<u32> = prompt.iter().chain(steps).copied().collect();
    let mut rows = Vec::new();
    let mut position = 0;
    for tokens in tokens.chunks(settings.n_ubatch) {
        engine.begin_eval(&Request::Eval {
            seq_id: 0,
            first_position: position,
            tokens: tokens.to_vec(),
            taps: vec![Tap::Logits],
            overwrite: false,
            last_logits: false,
        })?;
        while let EvalEvent::Tap(piece) = engine.next_event()? {
            for (row, bytes) in engine.payload().chunks_exact(piece.row_bytes()).enumerate() {
                if piece.first_position + row + 1 >= prompt.len() {
                    rows.push(bytemuck::allocation::pod_collect_to_vec(bytes));
                }
            }
        }
        position += tokens.len();
    }
    Ok(rows)
}

fn mismatch(
    index: usize,
    [reference, candidate]: [Option<u32>; 2],
    of_reference: &[f32],
    of_candidate: &[f32],
    limit: f64,
) -> GenerationMismatch {
    let logit = |id: Option<u32>| Some(f64::from(*of_reference.get(id? as usize)?));
    let comparable = !of_reference.is_empty() && of_reference.len() == of_candidate.len();
    GenerationMismatch {
        index,
        reference,
        candidate,
        margin: logit(reference)
            .zip(logit(candidate))
            .and_then(|(r, c)| finite(r - c)),
        max_logit_difference: comparable
            .then(|| max_difference(of_reference, of_candidate))
            .and_then(finite),
        near_tie: comparable && row_nmse(of_reference, of_candidate) <= limit,
    }
}

/// Puts the rows of one (prompt, mode) where they belong.
struct Sink<'a> {
    run: &'a mut Run,
    prompt: usize,
    mode: Mode,
    progress: &'a ProgressBar,
}

impl Sink<'_> {
    fn accumulator(&mut self, at: RowAt) -> Option<&mut TapAccumulator> {
        let site = Site {
            mode: self.mode,
            prompt: self.prompt,
            layer: at.layer,
            tap: at.tap,
        };
        let accumulator = self.run.accumulators.get_mut(&site.into())?;
        self.run.ledger.record(site, at.position);
        self.progress.inc(1);
        Some(accumulator)
    }
}

impl RowSink for Sink<'_> {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        if let Some(accumulator) = self.accumulator(at) {
            accumulator.add(at.position, reference, candidate);
        }
        if at.tap == Tap::Logits
            && let Some(logits) = self.run.logits.get_mut(&(self.prompt, self.mode))
        {
            logits.add(at.position, reference, candidate);
        }
    }

    fn row_f16(&mut self, at: RowAt, reference: &[f16], candidate: &[f16]) {
        if let Some(accumulator) = self.accumulator(at) {
            accumulator.add(at.position, reference, candidate);
        }
    }
}
