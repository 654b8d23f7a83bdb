//! How far the engines lie apart: rows compared and counted, tokens generated, noise measured.

use std::collections::BTreeMap;

use bitnet_model::tap::Tap;
use half::f16;
use reports::model::{
    Coverage, Finding, Generation, LogitsResult, Mode, NoiseFloor, NoiseMeasurement,
    Prompt as PromptReport, Role, Source, TapResult,
};
use reports::number;
use reports::outcome::Outcome;

use super::generation::generate;
use super::greedy::check;
use super::plan::Plan;
use crate::compare::coverage::{CoverageLedger, NotFinite};
use crate::compare::finite;
use crate::compare::logits::LogitsAccumulator;
use crate::compare::site::Site;
use crate::compare::tap::{Beyond, Exceeded, TapAccumulator, Value};
use crate::engine::{Failed, by};
use crate::progress::Progress;
use crate::session::batches::Sequence;
use crate::session::loaded::Loaded;
use crate::session::lockstep::{self, Evaluation, ReferenceHashes, RowAt, RowSink};
use crate::session::noise::{self, NoiseSource, TapNoise, worse};
use crate::session::pair::Pair;
use crate::session::settings::DECODE_STEPS;
use crate::session::setup::Setup;
use crate::session::traces::Traces;
use crate::stopwatch::Stopwatch;

/// What has been measured of a plan so far.
pub(super) struct Measurements<'p> {
    plan: &'p Plan<'p>,
    /// What is decoded after each prompt, of those that were generated from.
    steps: Vec<Vec<u32>>,
    /// Every engine against itself, by what was varied; worst of all prompts.
    noise: BTreeMap<(Role, String), TapNoise>,
    /// The reference's own noise in its logits, by prompt, as far as limits may follow it; 0 where it was not measured.
    of_reference: Vec<f64>,
    accumulators: BTreeMap<Site, TapAccumulator>,
    logits: BTreeMap<(usize, Mode), LogitsAccumulator>,
    ledger: CoverageLedger,
    pub(super) generation: Option<Generation>,
    /// Places where two runs of the reference differ.
    pub(super) not_repeatable: Vec<String>,
}

/// An engine that differs from itself by more than it may.
#[derive(Debug)]
pub(super) struct TooNoisy {
    pub(super) role: Role,
    /// In words.
    pub(super) varied: String,
    /// Of the tokens that it generated from this prompt; of every prompt and its decode steps if `None`.
    pub(super) generated: Option<usize>,
    pub(super) tap: Tap,
    /// Of the worst row; NaN where rows are missing or not finite.
    pub(super) nmse: f64,
    /// What it may be.
    pub(super) cap: f64,
}

impl TooNoisy {
    /// That it is the engine's fault.
    pub(super) fn fault(&self) -> Finding {
        let limit = match self.cap {
            0.0 => "and may not".to_owned(),
            cap => format!("limit {}", number::error(cap)),
        };
        Finding {
            outcome: Outcome::Parity,
            source: Source::Noise,
            place: Some(self.role.into()),
            text: format!(
                "the {} differs from itself, {}: NMSE {} in {}, {limit}",
                self.role,
                self.varied,
                number::error(self.nmse),
                self.tap
            ),
        }
    }
}

/// Where the noise of both engines is known from.
struct NoiseSources<'a> {
    reference: NoiseSource<'a>,
    candidate: NoiseSource<'a>,
}

impl<'p> Measurements<'p> {
    /// Nothing yet, with every row of the plan on the ledger.
    pub(super) fn nothing(plan: &'p Plan<'p>) -> Measurements<'p> {
        let mut measured = Measurements {
            plan,
            steps: Vec::new(),
            noise: BTreeMap::new(),
            of_reference: vec![0.0; plan.prompts.len()],
            accumulators: BTreeMap::new(),
            logits: BTreeMap::new(),
            ledger: CoverageLedger::default(),
            generation: None,
            not_repeatable: Vec::new(),
        };
        for site in plan.sites() {
            let n_prefill = plan.prompts[site.prompt].tokens.len();
            measured.ledger.expect(site, n_prefill + DECODE_STEPS);
            let limit = plan.limit(site);
            let accumulator = plan.accumulator(site, limit);
            measured.accumulators.insert(site, accumulator);
            if let (Tap::Logits, Some(limit)) = (site.tap, limit) {
                let logits = LogitsAccumulator::new(limit);
                measured.logits.insert((site.prompt, site.mode), logits);
            }
        }
        measured
    }

    /// Generates, then compares every prompt in every mode.
    ///
    /// # Errors
    /// The engine that failed. What was measured until then stays.
    pub(super) fn measure(
        &mut self,
        engines: &mut Loaded,
        setup: &Setup,
        traces: &Traces,
        watch: &mut Stopwatch,
        progress: Progress<'_>,
    ) -> Result<(), Failed> {
        let plan = self.plan;
        self.not_repeatable.extend(traces.not_repeatable());
        progress.steps(self.coverage().expected);
        engines.configure(plan.settings)?;
        let pair = &mut engines.pair();
        let mut generations = Vec::new();
        let mut noise = None;
        progress.stage("generating");
        for index in 0..plan.prompts.len() {
            let generating = (Source::Generation, Some(index), None);
            let mut generated = watch.time(generating, || generate(pair, plan, traces, index))?;
            self.steps.push(std::mem::take(&mut generated.steps));
            if plan.modes.contains(&Mode::Cumulative) {
                progress.stage("measuring noise");
                let noise = match &mut noise {
                    Some(noise) => noise,
                    None => noise.insert(NoiseSources {
                        reference: traces.noise(setup, Role::Reference, plan.settings)?,
                        candidate: traces.noise(setup, Role::Candidate, plan.settings)?,
                    }),
                };
                let measuring = (Source::Noise, Some(index), None);
                watch.time(measuring, || self.measure_noise(index, pair, noise))?;
            }
            if let Some(generation) = &mut generated.generation {
                progress.stage("checking generated tokens");
                let noise = self.of_reference[index];
                generation.checks =
                    watch.time(generating, || check(pair, plan, traces, generation, noise))?;
            }
            generations.extend(generated.generation);
        }
        if !generations.is_empty() {
            let mut first = generations.remove(0);
            first.further = generations;
            self.generation = Some(first);
        }
        for prompt in 0..plan.prompts.len() {
            let mut hashes: Option<ReferenceHashes> = None;
            for &mode in &plan.modes {
                progress.stage(match mode {
                    Mode::Isolated => "comparing, isolated",
                    Mode::Cumulative => "comparing, cumulative",
                });
                let comparing = (Source::Taps, Some(prompt), Some(mode));
                let now = watch.time(comparing, || self.compare(prompt, mode, pair, progress))?;
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

    /// A prompt and its decode steps, none if there were none yet.
    pub(super) fn sequence(&self, prompt: usize) -> Sequence<'_> {
        Sequence::new(
            &self.plan.prompts[prompt].tokens,
            self.steps.get(prompt).map_or(&[], Vec::as_slice),
        )
    }

    /// The prompts, as they stand in the report.
    pub(super) fn prompts(&self) -> Vec<PromptReport> {
        let steps = (0..).map(|prompt| self.steps.get(prompt).map(Vec::as_slice));
        let prompts = self.plan.prompts.iter().zip(steps);
        prompts
            .map(|(prompt, steps)| prompt.clone().report(steps))
            .collect()
    }

    /// Both engines against themselves. Ternary models amplify the reference's rounding, so the limit on cumulative
    /// logits follows what this shows.
    fn measure_noise(
        &mut self,
        index: usize,
        pair: &mut Pair,
        sources: &mut NoiseSources,
    ) -> Result<(), Failed> {
        let task = format!("measuring its noise on prompt {index}");
        let caps = self.plan.profile.noise;
        let mut of_reference = 0.0_f64;
        for role in Role::BOTH {
            let source = role.of(&mut sources.reference, &mut sources.candidate);
            let engine = pair.engine(role);
            engine.set_task(&task);
            let measured = source.measure(engine, self.sequence(index), &self.plan.taps);
            for noise in measured.map_err(by(role))? {
                if let (Role::Reference, Some(logits)) = (role, noise.nmse.get(&Tap::Logits)) {
                    // What is above the cap is a fault, and excuses nothing. NaN is, and `min` takes the other.
                    of_reference = of_reference.max(logits.min(noise::cap(&noise.varied, caps)));
                }
                let all = self.noise.entry((role, noise.varied)).or_default();
                *all = worse(std::mem::take(all), &noise.nmse);
            }
        }
        self.of_reference[index] = of_reference;
        let limit = self.plan.profile.cumulative_logits_limit(of_reference);
        let site = Site {
            mode: Mode::Cumulative,
            prompt: index,
            layer: None,
            tap: Tap::Logits,
        };
        if let Some(accumulator) = self.accumulators.get_mut(&site) {
            *accumulator = self.plan.accumulator(site, Some(limit));
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
    ) -> Result<ReferenceHashes, Failed> {
        let plan = self.plan;
        let steps = self.sequence(index).steps.to_vec();
        let sequence = Sequence::new(&plan.prompts[index].tokens, &steps);
        let mut hashes = ReferenceHashes::default();
        for (first_position, tokens) in sequence.batches(plan.settings.n_ubatch) {
            let end = first_position + tokens.len();
            pair.set_task(&format!(
                "evaluating prompt {index}, positions {first_position}..{end}"
            ));
            let mut rows = Tally {
                measured: self,
                prompt: index,
                mode,
                progress,
            };
            let evaluation = Evaluation {
                first_position,
                tokens,
                taps: &plan.taps,
                isolated: mode == Mode::Isolated,
            };
            lockstep::evaluate(pair, evaluation, &mut hashes, &mut rows)?;
        }
        Ok(hashes)
    }

    /// The reference's own noise in its logits, of the noisiest prompt, as far as limits may follow it.
    pub(super) fn reference_noise(&self) -> f64 {
        self.of_reference.iter().copied().fold(0.0, f64::max)
    }

    /// Expected and compared rows, so far.
    pub(super) fn coverage(&self) -> Coverage {
        Coverage {
            not_offered_because: self.plan.not_offered_because.clone(),
            ..self.ledger.report(self.plan.not_offered.clone())
        }
    }

    /// The earliest row with values that are not finite.
    pub(super) fn first_not_finite(&self) -> Option<NotFinite> {
        self.ledger.first_not_finite()
    }

    /// How far the engines differ from themselves, if that was measured. `exact` are those that may not at all.
    pub(super) fn noise_floor(&self, exact: &[Role]) -> Option<NoiseFloor> {
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
                logits_limit: Some(self.noise_cap(*role, varied, exact)),
                amplified: None,
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

    /// The largest NMSE of a row of logits that an engine may show against itself.
    fn noise_cap(&self, role: Role, varied: &str, exact: &[Role]) -> f64 {
        match exact.contains(&role) {
            true => 0.0,
            false => noise::cap(varied, self.plan.profile.noise),
        }
    }

    /// What engines differ from themselves by and may not. `exact` are those that may not at all.
    pub(super) fn too_noisy(&self, exact: &[Role]) -> Vec<TooNoisy> {
        // What is not finite was not compared at all.
        let finite = self.coverage().not_finite.is_empty();
        let generations = self.generation.iter();
        let generations = generations.flat_map(|g| [g].into_iter().chain(&g.further));
        let checks = generations.flat_map(|g| g.checks.iter().map(|check| (g.prompt, check)));
        let of_tokens = checks.filter_map(|(prompt, check)| {
            let cap = self.plan.profile.noise.batches;
            let nmse = check.own_noise.filter(|nmse| *nmse > cap)?;
            Some(TooNoisy {
                role: check.role,
                varied: "generated tokens one by one and as part of the prompt".to_owned(),
                generated: Some(prompt),
                tap: Tap::Logits,
                nmse,
                cap,
            })
        });
        let measured = self.noise.iter();
        measured
            .filter_map(|((role, varied), nmse)| {
                let cap = self.noise_cap(*role, varied, exact);
                let (tap, nmse) = nmse.iter().find(|(tap, nmse)| {
                    let gated = **tap == Tap::Logits || exact.contains(role);
                    let within = !gated || **nmse <= cap;
                    !within && (finite || !nmse.is_nan())
                })?;
                Some(TooNoisy {
                    role: *role,
                    varied: varied.clone(),
                    generated: None,
                    tap: *tap,
                    nmse: *nmse,
                    cap,
                })
            })
            .chain(of_tokens)
            .collect()
    }

    /// Taps with a row over its limit, in the order of the forward pass.
    pub(super) fn exceeded(&self) -> Vec<(Site, &Exceeded)> {
        self.accumulators
            .iter()
            .filter_map(|(&site, a)| Some((site, a.exceeded()?)))
            .collect()
    }

    /// All of those rows.
    pub(super) fn beyond(&self) -> impl Iterator<Item = (Site, &[Beyond])> {
        let all = self.accumulators.iter();
        let all = all.map(|(&site, a)| (site, a.beyond()));
        all.filter(|(_, rows)| !rows.is_empty())
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
        (0..self.plan.prompts.len())
            .map(|prompt| LogitsResult {
                prompt,
                isolated: stats(prompt, Mode::Isolated),
                cumulative: stats(prompt, Mode::Cumulative),
            })
            .filter(|l| l.isolated.is_some() || l.cumulative.is_some())
            .collect()
    }
}

/// Puts the rows of one (prompt, mode) where they belong.
struct Tally<'a, 'p> {
    measured: &'a mut Measurements<'p>,
    prompt: usize,
    mode: Mode,
    progress: Progress<'a>,
}

impl Tally<'_, '_> {
    fn compare<T: Value>(&mut self, at: RowAt, reference: &[T], candidate: &[T]) {
        let site = Site {
            mode: self.mode,
            prompt: self.prompt,
            layer: at.layer,
            tap: at.tap,
        };
        if let Some(accumulator) = self.measured.accumulators.get_mut(&site) {
            accumulator.add(at.position, reference, candidate);
            let ledger = &mut self.measured.ledger;
            ledger.record(site, at.position, reference, candidate);
            self.progress.done(1);
        }
    }
}

impl RowSink for Tally<'_, '_> {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        self.compare(at, reference, candidate);
        if at.tap == Tap::Logits
            && let Some(logits) = self.measured.logits.get_mut(&(self.prompt, self.mode))
        {
            logits.add(at.position, reference, candidate);
        }
    }

    fn row_f16(&mut self, at: RowAt, reference: &[f16], candidate: &[f16]) {
        self.compare(at, reference, candidate);
    }
}
