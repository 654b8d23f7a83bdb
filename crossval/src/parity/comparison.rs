//! What is to be compared, what has been, and how far the engines lie apart.

use std::collections::{BTreeMap, BTreeSet};

use bitnet_model::gguf::TensorType;
use bitnet_model::tap::Tap;
use half::f16;
use reports::model::{
    Coverage, Generation, LogitsResult, Mode, NoiseFloor, NoiseMeasurement, Prompt, Role, TapResult,
};

use super::RunOptions;
use super::generation::generate;
use crate::compare::coverage::CoverageLedger;
use crate::compare::finite;
use crate::compare::logits::LogitsAccumulator;
use crate::compare::site::Site;
use crate::compare::tap::{Exceeded, TapAccumulator, Value};
use crate::engine::{EngineError, EngineSpec};
use crate::error::Error;
use crate::profile::Profile;
use crate::progress::Progress;
use crate::session::batches::batches;
use crate::session::lockstep::{self, Batch, ReferenceHashes, RowAt, RowSink, Side};
use crate::session::noise::{Meters, TapNoise, worse};
use crate::session::pair::Pair;
use crate::session::settings::{DECODE_STEPS, compared_settings, positions};
use crate::session::traces::Traces;
use crossval_protocol::{Hello, ModelFacts, Settings};

/// What has been measured so far.
pub(super) struct Comparison {
    pub(super) prompts: Vec<Prompt>,
    pub(super) tokenizer: Option<String>,
    pub(super) settings: Settings,
    /// Taps compared.
    pub(super) taps: Vec<Tap>,
    pub(super) limits: BTreeMap<Tap, f64>,
    pub(super) profile: Profile,
    /// Every engine against itself, by what was varied; worst of all prompts.
    noise: BTreeMap<(Role, String), TapNoise>,
    accumulators: BTreeMap<Site, TapAccumulator>,
    logits: BTreeMap<(usize, Mode), LogitsAccumulator>,
    ledger: CoverageLedger,
    not_offered: BTreeMap<String, Vec<String>>,
    pub(super) generation: Option<Generation>,
    pub(super) not_repeatable: Vec<String>,
}

impl Comparison {
    pub(super) fn new(
        options: &RunOptions,
        pair: &mut Pair,
        (prompts, tokenizer): (Vec<Prompt>, Option<String>),
    ) -> Result<Comparison, Error> {
        let facts = pair.facts.clone();
        let settings = compared_settings(&facts, &prompts, options.n_predict, options.threads)?;
        let positions = positions(&prompts, options.n_predict);
        let mut not_offered = BTreeMap::new();
        let mut taps: BTreeSet<Tap> = facts.taps.iter().copied().collect();
        let (reference, candidate) = pair.engines();
        for engine in [&*reference, &*candidate] {
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
        if options.modes.contains(&Mode::Isolated) && !candidate.hello().overwrite {
            let what = format!(
                "engine {} does not take values from the reference: it can be compared in cumulative mode",
                candidate.name()
            );
            return Err(Error::option("mode", what));
        }
        let oracle = with_oracle(options, reference.hello());
        let mut comparison = Comparison {
            settings,
            limits: isolated_limits(&options.profile, &facts, &taps, oracle.then_some(positions))?,
            taps: taps.into_iter().collect(),
            profile: match oracle {
                true => options.profile.clone().with_oracle(),
                false => options.profile.clone(),
            },
            noise: BTreeMap::new(),
            accumulators: BTreeMap::new(),
            logits: BTreeMap::new(),
            ledger: CoverageLedger::default(),
            not_offered,
            generation: None,
            not_repeatable: Vec::new(),
            prompts,
            tokenizer,
        };
        comparison.expect(&options.modes, &facts);
        Ok(comparison)
    }

    /// Puts every row that is to be compared on the ledger.
    fn expect(&mut self, modes: &[Mode], facts: &ModelFacts) {
        for (prompt, p) in self.prompts.iter().enumerate() {
            let n_prefill = p.tokens.len();
            for &mode in modes {
                for &tap in &self.taps {
                    let quantised = feeds_quantiser(tap, facts);
                    let layers: Vec<Option<usize>> = if tap.per_layer() {
                        (0..facts.n_layer).map(Some).collect()
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
                            .insert(site, TapAccumulator::new(limit, n_prefill, quantised));
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
    pub(super) fn drive(
        &mut self,
        pair: &mut Pair,
        options: &RunOptions,
        traces: &Traces,
        progress: Progress<'_>,
    ) -> Result<(), Side> {
        if pair.failed() {
            return Ok(());
        }
        self.not_repeatable.extend(traces.not_repeatable());
        progress.steps(self.coverage().expected);
        pair.configure(self.settings)?;
        let mut generations = Vec::new();
        let mut meters = None;
        progress.stage("generating");
        for index in 0..self.prompts.len() {
            let prompt = &mut self.prompts[index];
            let (n_predict, settings) = (options.n_predict, self.settings);
            let generation = generate(
                pair,
                index,
                prompt,
                n_predict,
                settings,
                (&self.profile, traces),
            )?;
            generations.extend(generation);
            if options.modes.contains(&Mode::Cumulative) {
                progress.stage("measuring noise");
                let meters = match &mut meters {
                    Some(meters) => meters,
                    None => meters.insert(Meters::new(
                        &options.launcher,
                        [&options.reference, &options.candidate],
                        &options.model,
                        traces,
                        self.settings,
                    )?),
                };
                self.measure_noise(index, pair, meters)?;
            }
        }
        if !generations.is_empty() {
            let mut first = generations.remove(0);
            first.further = generations;
            self.generation = Some(first);
        }
        for prompt in 0..self.prompts.len() {
            let mut hashes: Option<ReferenceHashes> = None;
            for &mode in &options.modes {
                progress.stage(match mode {
                    Mode::Isolated => "comparing, isolated",
                    Mode::Cumulative => "comparing, cumulative",
                });
                let now = self.compare(prompt, mode, pair, progress)?;
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

    /// Both engines against themselves. Ternary models amplify the reference's rounding, so the limit on cumulative
    /// logits follows what this shows.
    fn measure_noise(
        &mut self,
        index: usize,
        pair: &mut Pair,
        meters: &mut Meters,
    ) -> Result<(), Side> {
        let prompt = self.prompts[index].clone();
        let (reference, candidate) = pair.engines();
        let task = format!("measuring its noise on prompt {index}");
        let mut of_reference = TapNoise::new();
        for (role, engine, meter, side) in [
            (
                Role::Reference,
                reference,
                &mut meters.reference,
                Side::Reference as fn(EngineError) -> Side,
            ),
            (
                Role::Candidate,
                candidate,
                &mut meters.candidate,
                Side::Candidate,
            ),
        ] {
            engine.set_task(&task);
            for noise in meter.measure(engine, &prompt, &self.taps).map_err(side)? {
                if role == Role::Reference {
                    of_reference = worse(of_reference, &noise.nmse);
                }
                let all = self.noise.entry((role, noise.varied)).or_default();
                *all = worse(std::mem::take(all), &noise.nmse);
            }
        }
        let logits = of_reference.get(&Tap::Logits).copied().unwrap_or(0.0);
        let limit = self.profile.cumulative_logits_limit(logits);
        let site = Site {
            mode: Mode::Cumulative,
            prompt: index,
            layer: None,
            tap: Tap::Logits,
        };
        if let Some(accumulator) = self.accumulators.get_mut(&site) {
            *accumulator = TapAccumulator::new(Some(limit), prompt.tokens.len(), false);
            self.logits
                .insert((index, Mode::Cumulative), LogitsAccumulator::new(limit));
        }
        Ok(())
    }

    /// One prompt in one mode: prefill in batches, then the decode steps one by one.
    fn compare(
        &mut self,
        index: usize,
        mode: Mode,
        pair: &mut Pair,
        progress: Progress<'_>,
    ) -> Result<ReferenceHashes, Side> {
        let prompt = self.prompts[index].clone();
        let taps = self.taps.clone();
        let mut hashes = ReferenceHashes::default();
        let n_ubatch = self.settings.n_ubatch;
        for (first_position, tokens) in batches(&prompt.tokens, &prompt.decode_tokens, n_ubatch) {
            let end = first_position + tokens.len();
            let task = format!("evaluating prompt {index}, positions {first_position}..{end}");
            let (reference, candidate) = pair.engines();
            reference.set_task(&task);
            candidate.set_task(&task);
            let mut sink = Sink {
                comparison: self,
                prompt: index,
                mode,
                progress,
            };
            let batch = Batch {
                first_position,
                tokens,
                taps: &taps,
                isolated: mode == Mode::Isolated,
            };
            lockstep::evaluate(reference, candidate, batch, &mut hashes, &mut sink)?;
        }
        Ok(hashes)
    }

    /// Expected and compared rows, so far.
    pub(super) fn coverage(&self) -> Coverage {
        self.ledger.report(self.not_offered.clone())
    }

    /// How far the engines differ from themselves, if that was measured.
    pub(super) fn noise_floor(&self) -> Option<NoiseFloor> {
        let mut of_reference = TapNoise::new();
        let mut measurements = Vec::new();
        for ((role, varied), nmse) in &self.noise {
            if *role == Role::Reference {
                of_reference = worse(of_reference, nmse);
            }
            let named = nmse.iter().map(|(tap, &x)| (tap.to_string(), finite(x)));
            measurements.push(NoiseMeasurement {
                engine: role.name().to_owned(),
                varied: varied.clone(),
                nmse: named.collect(),
            });
        }
        let named = of_reference.iter();
        let named = named.filter_map(|(tap, &x)| Some((tap.to_string(), finite(x)?)));
        (!measurements.is_empty()).then(|| NoiseFloor {
            description: "each engine against itself, worst row per tap".to_owned(),
            nmse: named.collect(),
            measurements,
        })
    }

    /// What the candidate differs from itself by, if it is an engine that must not.
    pub(super) fn candidate_noise(&self) -> Vec<String> {
        let noisy = self
            .noise
            .iter()
            .filter(|((role, _), _)| *role == Role::Candidate);
        noisy
            .filter_map(|((_, varied), nmse)| {
                let (tap, nmse) = nmse.iter().find(|(_, nmse)| **nmse != 0.0)?;
                Some(format!("{varied}: NMSE {nmse:.1e} in {tap}"))
            })
            .collect()
    }

    /// Taps with a row over its limit, in the order of the forward pass.
    pub(super) fn exceeded(&self) -> Vec<(Site, &Exceeded)> {
        self.accumulators
            .iter()
            .filter_map(|(&site, a)| Some((site, a.exceeded()?)))
            .collect()
    }

    pub(super) fn required_not_compared(
        &self,
        profile: &Profile,
        facts: &ModelFacts,
    ) -> Vec<String> {
        profile
            .required
            .iter()
            .filter(|tap| facts.taps.contains(tap) && !self.taps.contains(tap))
            .map(Tap::to_string)
            .collect()
    }

    pub(super) fn tap_results(&self) -> Vec<TapResult> {
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

    pub(super) fn logits_results(&self) -> Vec<LogitsResult> {
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

/// Whether one of the engines is the oracle, now or while a trace of the reference was recorded.
fn with_oracle(options: &RunOptions, reference: &Hello) -> bool {
    [&options.reference, &options.candidate].contains(&&EngineSpec::Oracle)
        || (options.reference.trace().is_some() && reference.engine == "oracle")
}

/// The limit of every tap in isolated mode. The oracle, if it is one of the engines, rounds less than engines do.
fn isolated_limits(
    profile: &Profile,
    facts: &ModelFacts,
    compared: &BTreeSet<Tap>,
    oracle_positions: Option<usize>,
) -> Result<BTreeMap<Tap, f64>, Error> {
    let mut limits = profile.isolated(facts)?;
    for (tap, limit) in &mut limits {
        // Several stages at once, between which codes may flip, where an engine does not offer what lies between.
        let mut sources = tap.sources().iter().filter(|t| facts.taps.contains(t));
        if !sources.all(|source| compared.contains(source)) {
            *limit = limit.max(profile.cumulative_logits);
        }
    }
    if let Some(positions) = oracle_positions {
        for (&tap, limit) in &mut limits {
            *limit = limit.max(profile.oracle_limit(tap, positions, facts));
        }
    }
    Ok(limits)
}

/// Whether the tap is the input of a ternary product, which quantises it to int8.
fn feeds_quantiser(tap: Tap, facts: &ModelFacts) -> bool {
    let product = match tap {
        Tap::AttnNorm => Tap::Q,
        Tap::AttnSubNorm => Tap::AttnProj,
        Tap::FfnNorm => Tap::FfnGate,
        Tap::FfnSubNorm => Tap::FfnDown,
        _ => return false,
    };
    let types = facts.weight_types.get(&product);
    let ternary = |ty: &String| TensorType::from_name(ty).is_some_and(TensorType::is_ternary);
    types.is_some_and(|types| types.iter().any(ternary))
}

/// Puts the rows of one (prompt, mode) where they belong.
struct Sink<'a> {
    comparison: &'a mut Comparison,
    prompt: usize,
    mode: Mode,
    progress: Progress<'a>,
}

impl Sink<'_> {
    fn compare<T: Value>(&mut self, at: RowAt, reference: &[T], candidate: &[T]) {
        let site = Site {
            mode: self.mode,
            prompt: self.prompt,
            layer: at.layer,
            tap: at.tap,
        };
        if let Some(accumulator) = self.comparison.accumulators.get_mut(&site) {
            let finite = accumulator.add(at.position, reference, candidate);
            self.comparison.ledger.record(site, at.position, finite);
            self.progress.done(1);
        }
    }
}

impl RowSink for Sink<'_> {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        self.compare(at, reference, candidate);
        if at.tap == Tap::Logits
            && let Some(logits) = self.comparison.logits.get_mut(&(self.prompt, self.mode))
        {
            logits.add(at.position, reference, candidate);
        }
    }

    fn row_f16(&mut self, at: RowAt, reference: &[f16], candidate: &[f16]) {
        self.compare(at, reference, candidate);
    }
}
