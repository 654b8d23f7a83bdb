//! Timings of both engines: interleaved pairs in workers on the same cores, no taps, the output checked.
//!
//! Per thread count, a fresh worker of each engine is pinned to the same CPUs, one per core as far as they go. Every test
//! is run by both, by turns: A B, then B A, and so on; while one works the other is idle, and a pause before each
//! repetition lets its threads fall asleep. The first repetition of each is the warm-up. Reported are the median over the
//! repetitions with its bootstrap interval, of each engine and of the ratio pair by pair.
//!
//! Prefill computes the logits of the last position only. Decoding is greedy, past end-of-text tokens.
//!
//! # Answers
//! Fast but wrong is worth nothing. The warm-up, and a later repetition of three or more, have a prompt whose tokens (of
//! a prefill, the first) an untimed run has generated too: an engine that generates others while it is timed fails,
//! whatever the reason. The two engines are compared too, and the report says where they first differ. That alone is no
//! failure here: rounding decides near ties, and tokens behind one are another text. Whether a difference is more than
//! that is what `crossval run` is for.
//!
//! Every other repetition has a prompt that the engines have not seen before, so that an answer kept from earlier is of no
//! use. What they generate there must follow from their own logits, asked for in a worker that is not timed.
//!
//! # Trust
//! A worker's times are its own: its clock has no pipe in it. But they must fit into the driver's ([`clock`]), what it says
//! of its memory and CPU time must fit what the operating system counts ([`usage`]), and no engine is faster than the
//! machine ([`roofline::LeastWork`]). What does not fit is a wrong figure, not a slow one.
//!
//! # Compact heads
//! A compact head of the candidate's is timed in a worker of its own, by turns with the others, and held to the tokens
//! of its full head.

mod cache;
mod check;
mod clock;
mod energy;
mod kernels;
mod report;
mod series;
mod usage;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reports::model::{
    Bench, BenchCompactHead, BenchMemory, BenchRoofline, BenchTokens, Cache, Finding, Generation,
    Place, Role, Source, Test, TokenWork,
};
use reports::number;
use reports::outcome::Outcome;
use xxhash_rust::xxh3::xxh3_64;

use self::check::{Claim, Fresh};
use self::clock::{Counted, Took, counted};
use self::report::not_reproduced;
pub use self::report::{BenchOptions, measure};
use self::series::{Series, TimedTest};
use self::usage::Usages;
use crate::engine::{Engine, EngineError, EngineSpec, Failed, by, own_peak_bytes};
use crate::environment::cpus_by_core;
use crate::progress::Progress;
use crate::session::setup::Setup;
use crate::speed::roofline::{self, LeastWork};
use crossval_protocol::{KernelTimes, Settings, token_bytes};

/// Pairs per test where nothing else is asked for.
pub const REPETITIONS: usize = 5;

/// Pairs at most where they are short and nothing else is asked for.
pub const MOST_REPETITIONS: usize = 25;

/// Batch of the timed prefill, tokens: the reference's default.
const TIMED_UBATCH: usize = 512;

/// A time in which more pairs than asked for may be measured.
const SHORT: Duration = Duration::from_secs(2);

/// Idle threads of either engine have stopped spinning by then: OpenMP's and our pool's do within a few milliseconds.
const SETTLE: Duration = Duration::from_millis(20);

/// How often a machine is measured again whose limits an engine seems to exceed: others may have used it.
const MEASURED_AGAIN: usize = 3;

/// What was timed.
#[derive(Debug)]
pub(crate) struct Timed {
    /// The figures.
    pub(crate) bench: Bench,
    /// Why not to believe them.
    pub(crate) findings: Vec<Finding>,
}

/// What to time.
pub(crate) struct BenchPlan<'a> {
    /// The engines and the model.
    pub(crate) setup: &'a Setup,
    /// Threads per engine; everything is timed at each.
    pub(crate) threads: &'a [usize],
    /// Pairs per test, warm-up apart.
    pub(crate) repetitions: usize,
    /// Up to so many where all of them take less than [`SHORT`]: the median of few short ones scatters. Loading aside.
    pub(crate) most_repetitions: usize,
    /// Size of the KV cache.
    pub(crate) n_ctx: usize,
    /// Prompts to prefill, none of them empty; the first one's is the time to first token.
    pub(crate) prefill: &'a [&'a [u32]],
    /// What is decoded.
    pub(crate) decode: Option<Decode<'a>>,
    /// What each engine has generated observed from the one prompt of all tests, for those that run alike unobserved. `None`
    /// for untimed runs of workers of their own.
    pub(crate) untimed: Option<&'a Generation>,
    /// What is timed after loading, a prompt of one token; `None` not to time loading.
    pub(crate) load: Option<&'a [u32]>,
    /// Whether to load with a cold page cache too. No process may have the model mapped then.
    pub(crate) cold: bool,
    /// Largest compact head that the candidate may build, bytes; with one, decoding is timed with it too.
    pub(crate) compact_head_budget: u64,
    /// What one token costs.
    pub(crate) work: Option<TokenWork>,
    /// The model's layers.
    pub(crate) n_layer: usize,
    /// Its vocabulary.
    pub(crate) n_vocab: usize,
    /// Whether matrix products are timed by themselves.
    pub(crate) kernels: bool,
}

/// Decoding behind a prompt.
#[derive(Clone, Copy)]
pub(crate) struct Decode<'a> {
    /// Token IDs, at least one.
    pub(crate) prompt: &'a [u32],
    /// How many.
    pub(crate) steps: usize,
}

/// One generation that is timed, and the test that it is for.
#[derive(Clone, Copy)]
struct Job<'a> {
    test: Test,
    prompt: &'a [u32],
    n_predict: usize,
}

/// Whether the tokens of a job were always those generated untimed.
#[derive(Clone, Copy)]
struct Reproduced {
    reference: bool,
    candidate: bool,
}

impl Default for Reproduced {
    fn default() -> Reproduced {
        Reproduced {
            reference: true,
            candidate: true,
        }
    }
}

impl Reproduced {
    fn of(&mut self, role: Role) -> &mut bool {
        role.of(&mut self.reference, &mut self.candidate)
    }
}

/// What a job came to.
struct Sample {
    tokens: Vec<u32>,
    prefill_ms: f64,
    decode_ms: Vec<f64>,
    counted: Counted,
    round_trip_ms: f64,
    cpu_seconds: Option<f64>,
    joules: Option<f64>,
}

impl Sample {
    fn took(&self) -> Took {
        Took {
            driver_ms: self.counted.driver_ms,
            reported_ms: self.prefill_ms + self.decode_ms.iter().sum::<f64>(),
            prompt_ms: self.prefill_ms,
            waited_ms: self.counted.waited_ms,
            busy_ms: self.counted.busy_ms,
            round_trip_ms: self.round_trip_ms,
        }
    }
}

/// Times both engines as the plan says.
///
/// # Errors
/// Which engine failed, and how.
pub(crate) fn bench(plan: &BenchPlan, progress: Progress<'_>) -> Result<Timed, Failed> {
    let fresh = Fresh::new(plan.n_vocab);
    let mut bench = Bench {
        repetitions: plan.repetitions,
        rows: Vec::new(),
        ratios: Vec::new(),
        memory: Vec::new(),
        tokens_reproduced: BTreeMap::new(),
        tokens: Vec::new(),
        roofline: Vec::new(),
        work: plan.work,
        notes: Vec::new(),
        compact_heads: Vec::new(),
        kernels: Vec::new(),
        quantisers: Vec::new(),
        seed: Some(fresh.seed()),
    };
    progress.steps((plan.jobs().len() * 2 * (plan.repetitions + 1) * plan.threads.len()) as u64);
    let mut timing = Timing {
        plan,
        energy: energy::Packages::open(),
        progress,
        bench: &mut bench,
        fresh,
        claims: Vec::new(),
        accelerated: Vec::new(),
        findings: Vec::new(),
    };
    for (i, &threads) in plan.threads.iter().enumerate() {
        let cores = Cores {
            threads,
            cpus: cpus_by_core().0.into_iter().take(threads).collect(),
        };
        timing.bench.notes.extend(cores.shared());
        progress.stage("measuring the machine");
        let roofline = roofline::measure(threads, &cores.cpus);
        if i == 0 && plan.kernels {
            timing.kernels(&cores, &roofline)?;
        }
        let mut tests = BTreeMap::new();
        // Loading takes one thread.
        if i == 0
            && let Some(prompt) = plan.load
        {
            progress.stage("timing the load");
            timing.load(prompt, &cores, &mut tests)?;
        }
        progress.stage("generating untimed");
        let untimed = timing.untimed(&cores)?;
        let with = number::plural(threads as u64, "thread");
        progress.stage(format!("timing, {with}"));
        timing.time(&cores, &untimed, &mut tests)?;
        timing.report(&cores, roofline, &tests);
    }
    let Timing {
        energy,
        mut findings,
        ..
    } = timing;
    if energy.is_none() {
        let why = "energy: no counters of the CPU packages (RAPL) that may be read";
        bench.notes.push(why.to_owned());
    }
    if cfg!(debug_assertions) {
        let why = "crossval was built without optimisation, so that its figures say little";
        bench.notes.push(why.to_owned());
    }
    findings.splice(0..0, not_reproduced(&bench));
    Ok(Timed { bench, findings })
}

impl<'a> BenchPlan<'a> {
    fn jobs(&self) -> Vec<Job<'a>> {
        let prefill = self.prefill.iter().map(|&prompt| Job {
            test: Test::Prefill(prompt.len()),
            prompt,
            n_predict: 1,
        });
        let decode = self.decode.iter().map(|&Decode { prompt, steps }| Job {
            test: Test::Decode(steps),
            prompt,
            n_predict: steps + 1,
        });
        prefill.chain(decode).collect()
    }
}

/// Where workers run.
struct Cores {
    threads: usize,
    cpus: Vec<usize>,
}

impl Cores {
    /// What is to be known of figures with more threads than CPUs.
    fn shared(&self) -> Option<String> {
        let (threads, cpus) = (self.threads, self.cpus.len());
        (0 < cpus && cpus < threads).then(|| {
            format!(
                "{threads} threads share {}: figures at {threads} threads say how an engine's threads wait for each other, \
                 not how fast it is",
                number::plural(cpus as u64, "CPU")
            )
        })
    }
}

/// The tokens of every job.
struct Untimed {
    reference: Vec<Vec<u32>>,
    candidate: Vec<Vec<u32>>,
}

impl Untimed {
    fn of(&self, role: Role) -> &[Vec<u32>] {
        role.of(&self.reference, &self.candidate)
    }
}

/// Measures into a report.
struct Timing<'a> {
    plan: &'a BenchPlan<'a>,
    energy: Option<energy::Packages>,
    progress: Progress<'a>,
    bench: &'a mut Bench,
    fresh: Fresh,
    /// What was generated from prompts of one repetition, still to be held against logits.
    claims: Vec<Claim>,
    /// Engines that had an accelerator open: what the CPUs can do does not bound them.
    accelerated: Vec<Role>,
    findings: Vec<Finding>,
}

type Tests = BTreeMap<Test, Series>;

impl Timing<'_> {
    /// The matrix products of engines that time them, by themselves on one CPU. What becomes of a reference's, which are
    /// timed in a graph that it may not have, is a note.
    fn kernels(&mut self, cores: &Cores, roofline: &BenchRoofline) -> Result<(), Failed> {
        let setup = self.plan.setup;
        let Some(&cpu) = cores.cpus.first() else {
            return Ok(());
        };
        self.progress.stage("timing the kernels");
        let of_one = (cores.threads > 1).then(|| roofline::measure(1, &[cpu]));
        let limits = of_one.as_ref().unwrap_or(roofline);
        let mut timed: Vec<&EngineSpec> = Vec::new();
        for role in Role::BOTH {
            let spec = setup.spec(role);
            let in_graph = matches!(spec, EngineSpec::BitnetCpp | EngineSpec::BitnetCppNamed(_));
            let times = in_graph || matches!(spec, EngineSpec::Rust { .. });
            if !times || timed.contains(&spec) {
                continue;
            }
            timed.push(spec);
            let (mut engine, _) = setup.start_another(role, Some(&[cpu]))?;
            let why = match engine.time_kernels() {
                Ok(KernelTimes {
                    products,
                    quantisers,
                }) => {
                    let none = products.is_empty();
                    let shares = kernels::shares(role, products, limits);
                    self.bench.kernels.extend(shares);
                    let quantisers = kernels::quantisers(role, quantisers);
                    self.bench.quantisers.extend(quantisers);
                    match (in_graph, none) {
                        (false, _) => continue,
                        (true, true) => "none takes much longer than the call of its graph",
                        (true, false) => {
                            "timed in its graph, each with the quantisation of its activations and the call of a graph \
                             of one node"
                        }
                    }
                    .to_owned()
                }
                Err(error) if !in_graph => return Err(by(role)(error)),
                Err(EngineError::Refused { message, .. }) => message,
                Err(EngineError::Failed(failure)) => failure.message,
            };
            let note = format!("matrix products of the {role} ({spec}): {why}");
            self.bench.notes.push(note);
        }
        Ok(())
    }

    /// Loads the model in one fresh worker after the other, and takes the first token of a prompt as long as `prompt`.
    fn load(&mut self, prompt: &[u32], cores: &Cores, tests: &mut Tests) -> Result<(), Failed> {
        if self.plan.cold {
            self.load_with(prompt, Cache::Cold, cores, tests)?;
        }
        self.load_with(prompt, Cache::Warm, cores, tests)
    }

    fn load_with(
        &mut self,
        prompt: &[u32],
        cache: Cache,
        cores: &Cores,
        tests: &mut Tests,
    ) -> Result<(), Failed> {
        let warm_up = match cache {
            Cache::Cold => 0,
            Cache::Warm => 1,
        };
        let (mut loads, mut first_tokens) = (Series::default(), Series::default());
        'measuring: for repetition in 0..warm_up + self.plan.repetitions {
            for role in order(repetition) {
                if cache == Cache::Cold
                    && let Err(why) = cache::drop_pages(&self.plan.setup.model)
                {
                    let what = format!("{} and {}", Test::Load(cache), Test::FirstToken(cache));
                    self.bench.notes.push(format!("{what}: {why}"));
                    // Null for both, and for all repetitions: half of them would be no pairs.
                    (loads, first_tokens) = (Series::default(), Series::default());
                    break 'measuring;
                }
                let (mut engine, loaded) = self.start(role, cores)?;
                let test = Test::FirstToken(cache);
                let prompt = self.fresh.prompt(test, 0, repetition, prompt.len());
                let job = Job {
                    test,
                    prompt: &prompt,
                    n_predict: 1,
                };
                engine.set_task(format!("timing {test}, repetition {repetition}"));
                let sample = self.generate(&mut engine, &job).map_err(by(role))?;
                if repetition >= warm_up {
                    loads.push_ms(role, loaded.reported_ms);
                    loads.push_request(role, loaded);
                    first_tokens.push_ms(role, loaded.reported_ms + sample.prefill_ms);
                    first_tokens.push_request(role, sample.took());
                }
                self.claims
                    .push(Claim::new(role, &job, repetition, sample.tokens));
            }
        }
        tests.insert(Test::Load(cache), loads);
        tests.insert(Test::FirstToken(cache), first_tokens);
        Ok(())
    }

    /// What both generate where nobody times them.
    fn untimed(&self, cores: &Cores) -> Result<Untimed, Failed> {
        let of = |role: Role| -> Result<Vec<Vec<u32>>, Failed> {
            let jobs = self.plan.jobs().into_iter();
            let mut engine = self.start(role, cores)?.0;
            if let Some(generated) = self.plan.untimed
                && !self.runs_otherwise(&mut engine, cores).map_err(by(role))?
            {
                let tokens = role.of(&generated.reference, &generated.candidate);
                let of_job = |job: Job| tokens[..job.n_predict.min(tokens.len())].to_vec();
                return Ok(jobs.map(of_job).collect());
            }
            jobs.map(|job| {
                engine.set_task(format!("generating for {}, untimed", job.test));
                Ok(self.generate(&mut engine, &job).map_err(by(role))?.tokens)
            })
            .collect()
        };
        Ok(Untimed {
            reference: of(Role::Reference)?,
            candidate: of(Role::Candidate)?,
        })
    }

    /// Whether an engine says that it runs with other settings where nobody observes it: other kernels round otherwise, so
    /// that what it generated observed is not what it has to generate. It is left unobserved.
    fn runs_otherwise(&self, engine: &mut Engine, cores: &Cores) -> Result<bool, EngineError> {
        let unobserved = timed_settings(self.plan.n_ctx, cores.threads, 0);
        let observed = engine.configure(Settings {
            observe: true,
            ..unobserved
        })?;
        Ok(engine.configure(unobserved)? != observed)
    }

    fn time(&mut self, cores: &Cores, untimed: &Untimed, tests: &mut Tests) -> Result<(), Failed> {
        let jobs = self.plan.jobs();
        let threads = cores.threads;
        let (mut reference, _) = self.start(Role::Reference, cores)?;
        let (mut candidate, _) = self.start(Role::Candidate, cores)?;
        let mut certified = self.start_certified(cores)?;
        let begun_usages = [
            Usages::now(&mut reference).map_err(by(Role::Reference))?,
            Usages::now(&mut candidate).map_err(by(Role::Candidate))?,
        ];
        let mut certified_reproduced = true;
        let mut reproduced = vec![Reproduced::default(); jobs.len()];
        let mut repetitions = self.plan.repetitions;
        let mut known = None;
        let mut repetition = 0;
        let begun = Instant::now();
        while repetition <= repetitions {
            let started = Instant::now();
            for (i, job) in jobs.iter().enumerate() {
                let is_known = repetition == 0 || known == Some(repetition);
                let prompt = match is_known {
                    true => job.prompt.to_vec(),
                    false => self
                        .fresh
                        .prompt(job.test, threads, repetition, job.prompt.len()),
                };
                let job = &Job {
                    prompt: &prompt,
                    ..*job
                };
                let mut of_candidate = Vec::new();
                for role in order(repetition) {
                    let engine = role.of(&mut reference, &mut candidate);
                    let sample = self.sample(engine, job, repetition).map_err(by(role))?;
                    let tokens = &sample.tokens;
                    match is_known {
                        true => *reproduced[i].of(role) &= *tokens == untimed.of(role)[i],
                        false => {
                            let claim = Claim::new(role, job, repetition, tokens.clone());
                            self.claims.push(claim);
                        }
                    }
                    if role == Role::Candidate {
                        of_candidate.clone_from(tokens);
                    }
                    self.progress.done(1);
                    // The first is the warm-up.
                    if repetition == 0 {
                        continue;
                    }
                    if let Test::Decode(steps) = job.test
                        && role == Role::Reference
                        && certified.is_some()
                    {
                        record(tests, Test::Certified(steps), role, &sample);
                    }
                    record(tests, job.test, role, &sample);
                    if i == 0 {
                        let first = tests.entry(Test::TimeToFirstToken).or_default();
                        first.push_ms(role, sample.prefill_ms);
                        first.push_request(role, sample.took());
                    }
                }
                if let Test::Decode(steps) = job.test
                    && let Some(engine) = &mut certified
                {
                    let sample = self
                        .sample(engine, job, repetition)
                        .map_err(by(Role::Candidate))?;
                    certified_reproduced &= sample.tokens == of_candidate;
                    if repetition > 0 {
                        record(tests, Test::Certified(steps), Role::Candidate, &sample);
                    }
                }
            }
            if repetition == 0 {
                let fit = SHORT.as_secs_f64() / started.elapsed().as_secs_f64();
                repetitions = repetitions.max(self.plan.most_repetitions.min(fit as usize));
                let more = repetitions - self.plan.repetitions;
                self.progress.more_steps((more * 2 * jobs.len()) as u64);
                known = self.fresh.known(threads, repetitions);
            }
            repetition += 1;
        }
        let took = begun.elapsed();
        self.bench.repetitions = repetitions;
        for role in Role::BOTH {
            let engine = role.of(&mut reference, &mut candidate);
            let usages = Usages::now(engine).map_err(by(role))?;
            let [of_reference, of_candidate] = &begun_usages;
            let begun = role.of(of_reference, of_candidate);
            let wrong = usages.contradiction(begun, own_peak_bytes());
            self.findings.extend(wrong.map(|why| {
                let at = number::plural(threads as u64, "thread");
                finding(role, None, threads, format!("at {at}: the {role} {why}"))
            }));
            if engine.has_accelerator() {
                self.accelerated.push(role);
            }
            let peak = usages.peak_rss_bytes();
            self.bench
                .memory
                .extend(peak.map(|peak_rss_bytes| BenchMemory {
                    engine: engine.name().to_owned(),
                    threads: Some(threads),
                    peak_rss_bytes,
                }));
        }
        if let Some(engine) = &mut certified {
            let usage = engine.usage().map_err(by(Role::Candidate))?;
            let counted = engine.consumption().map(|c| c.peak_rss_bytes);
            self.bench
                .compact_heads
                .extend(usage.compact_head.map(|head| BenchCompactHead {
                    threads,
                    bytes: head.bytes,
                    peak_rss_bytes: counted.or(usage.peak_rss_bytes),
                    tokens: head.tokens,
                    certified: head.certified,
                    exact_rows: head.exact_rows,
                }));
            // Held to the tokens of the full head.
            let all = self.bench.tokens_reproduced.entry("candidate".to_owned());
            *all.or_insert(true) &= certified_reproduced;
        }
        // Ends their workers: a model need not fit the memory so many times.
        drop((reference, candidate, certified));
        let checked = self.check(cores, took)?;
        for (i, (job, mut reproduced)) in jobs.iter().zip(reproduced).enumerate() {
            let (reference, candidate) = (&untimed.reference[i], &untimed.candidate[i]);
            self.bench.tokens.push(BenchTokens {
                threads,
                test: job.test.to_string(),
                count: job.n_predict,
                reference_checked: checked(Role::Reference, job.test),
                candidate_checked: checked(Role::Candidate, job.test),
                reference: hash(reference),
                candidate: hash(candidate),
                first_mismatch: (0..reference.len().max(candidate.len()))
                    .find(|&i| reference.get(i) != candidate.get(i)),
                reference_reproduced: reproduced.reference,
                candidate_reproduced: reproduced.candidate,
            });
            for role in Role::BOTH {
                let all = self.bench.tokens_reproduced.entry(role.name().to_owned());
                *all.or_insert(true) &= *reproduced.of(role);
            }
        }
        Ok(())
    }

    /// One repetition. What it used is asked for outside the time taken.
    fn sample(
        &self,
        engine: &mut Engine,
        job: &Job,
        repetition: usize,
    ) -> Result<Sample, EngineError> {
        engine.set_task(format!("timing {}, repetition {repetition}", job.test));
        std::thread::sleep(SETTLE);
        // What an engine says of itself, where the system says nothing.
        let says = |engine: &mut Engine| match cfg!(target_os = "linux") {
            true => Ok(None),
            false => engine.usage().map(|usage| usage.cpu_seconds),
        };
        let cpu_before = says(engine)?;
        let counters = || self.energy.as_ref().and_then(energy::Packages::read);
        let energy_before = counters();
        let mut sample = self.generate(engine, job)?;
        if let (Some(energy), Some(before), Some(after)) = (&self.energy, energy_before, counters())
        {
            sample.joules = Some(energy.joules(&before, &after));
        }
        let said = cpu_before.zip(says(engine)?);
        let said = said.map(|(before, after)| after - before);
        sample.cpu_seconds = sample.counted.cpu_seconds.or(said);
        Ok(sample)
    }

    /// Generates, and holds the engine to what it owes: all tokens, and a time for each.
    fn generate(&self, engine: &mut Engine, job: &Job) -> Result<Sample, EngineError> {
        let round_trip_ms = round_trip_ms(engine)?;
        let ((tokens, prefill_ms, decode_ms), counted) =
            counted(engine, |engine| engine.generate(job.prompt, job.n_predict))?;
        let complete = tokens.len() == job.n_predict && decode_ms.len() + 1 == job.n_predict;
        if !complete || !decode_ms.iter().copied().chain([prefill_ms]).all(is_time) {
            let what = format!(
                "{} tokens and {} times of decode steps for {} tokens, or times that are none",
                tokens.len(),
                decode_ms.len(),
                job.n_predict
            );
            return Err(engine.broke_protocol(&what));
        }
        let n_vocab = self.plan.n_vocab;
        if let Some(token) = tokens.iter().find(|&&token| token as usize >= n_vocab) {
            let what = format!("token {token} of a vocabulary of {n_vocab}");
            return Err(engine.broke_protocol(&what));
        }
        Ok(Sample {
            tokens,
            prefill_ms,
            decode_ms,
            counted,
            round_trip_ms,
            cpu_seconds: counted.cpu_seconds,
            joules: None,
        })
    }

    fn report(&mut self, cores: &Cores, mut roofline: BenchRoofline, tests: &Tests) {
        let threads = cores.threads;
        for (test, series) in tests {
            for role in Role::BOTH {
                // Of the reference, those are the figures of another test.
                if matches!(test, Test::Certified(_)) && role == Role::Reference {
                    continue;
                }
                let most = self.most_prompt_ms(*test, role, tests);
                let wrong = series.contradiction(role, most);
                let wrong =
                    wrong.or_else(|| self.impossible(*test, role, series, cores, &mut roofline));
                self.findings.extend(wrong.map(|why| {
                    let at = number::plural(threads as u64, "thread");
                    let text = format!("{test} at {at}: the {role} {why}");
                    finding(role, Some(*test), threads, text)
                }));
            }
        }
        for (test, series) in tests {
            let share = |tps| match test {
                Test::Prefill(_) => {
                    roofline::prefill_share(tps, self.plan.work.as_ref(), &roofline)
                }
                Test::Decode(_) => roofline::decode_share(tps, self.plan.work.as_ref(), &roofline),
                _ => None,
            };
            let at = TimedTest {
                test: *test,
                threads,
            };
            for role in Role::BOTH {
                let engine = self.plan.setup.spec(role).to_string();
                self.bench.rows.push(series.row(role, engine, at, share));
            }
            self.bench.ratios.extend(series.ratio(at));
        }
        self.bench.roofline.push(roofline);
    }

    /// The most that a prompt before decode steps can have taken: twice what a prompt of that length took by itself, or,
    /// where none was timed, its tokens' part of the whole. A token costs no more in a prompt than as a step.
    fn most_prompt_ms(&self, test: Test, role: Role, tests: &Tests) -> Option<f64> {
        let (Test::Decode(steps) | Test::Certified(steps)) = test else {
            return None;
        };
        let n = self.plan.decode?.prompt.len();
        let alone = tests.get(&Test::Prefill(n));
        let alone = alone.and_then(|series| series.driver_ms(role));
        let part = || {
            let whole = tests.get(&test)?.driver_ms(role)?;
            Some(whole * n as f64 / (n + steps) as f64)
        };
        Some(2.0 * alone.or_else(part)?)
    }

    /// Why no exact engine can be as fast on this machine, if so.
    fn impossible(
        &self,
        test: Test,
        role: Role,
        series: &Series,
        cores: &Cores,
        machine: &mut BenchRoofline,
    ) -> Option<String> {
        if self.accelerated.contains(&role) {
            return None;
        }
        let reported = series.reported_ms(role)?;
        let least = LeastWork {
            work: self.plan.work?,
            n_layer: self.plan.n_layer,
        };
        let caches = roofline::caches(&cores.cpus);
        let mut least_ms = least.ms(test, machine, caches)?;
        for _ in 0..MEASURED_AGAIN {
            if reported >= least_ms {
                return None;
            }
            roofline::raise(machine, &roofline::measure(cores.threads, &cores.cpus));
            least_ms = least.ms(test, machine, caches)?;
        }
        let ms = number::milliseconds;
        (reported < least_ms).then(|| {
            format!(
                "claims {}, and no exact engine takes less than {} on this machine",
                ms(reported),
                ms(least_ms)
            )
        })
    }

    /// A worker that has loaded the model, and how long that took.
    fn start(&self, role: Role, cores: &Cores) -> Result<(Engine, Took), Failed> {
        let Setup {
            launcher, model, ..
        } = self.plan.setup;
        let engine = launcher.start_another(self.plan.setup.spec(role), Some(&cores.cpus));
        let mut engine = engine.map_err(by(role))?;
        let loaded = counted(&mut engine, |engine| engine.load(model));
        let ((_, load_ms), counted) = loaded.map_err(by(role))?;
        if !is_time(load_ms) {
            let what = format!("{load_ms} ms to load the model");
            return Err(by(role)(engine.broke_protocol(&what)));
        }
        let settings = timed_settings(self.plan.n_ctx, cores.threads, 0);
        engine.configure(settings).map_err(by(role))?;
        let loaded = Took {
            driver_ms: counted.driver_ms,
            reported_ms: load_ms,
            prompt_ms: 0.0,
            waited_ms: counted.waited_ms,
            busy_ms: counted.busy_ms,
            round_trip_ms: round_trip_ms(&mut engine).map_err(by(role))?,
        };
        Ok((engine, loaded))
    }

    /// A worker of the candidate with a compact head, if one is asked for and the candidate builds it.
    fn start_certified(&mut self, cores: &Cores) -> Result<Option<Engine>, Failed> {
        let budget = self.plan.compact_head_budget;
        if budget == 0 || self.plan.decode.is_none() {
            return Ok(None);
        }
        let (mut engine, _) = self.start(Role::Candidate, cores)?;
        let settings = timed_settings(self.plan.n_ctx, cores.threads, budget);
        engine.configure(settings).map_err(by(Role::Candidate))?;
        let usage = engine.usage().map_err(by(Role::Candidate))?;
        if usage.compact_head.is_none() {
            let budget = number::bytes(budget as f64);
            let why = format!("compact head: the candidate built none within {budget}");
            if !self.bench.notes.contains(&why) {
                self.bench.notes.push(why);
            }
            return Ok(None);
        }
        Ok(Some(engine))
    }
}

/// What it takes to ask a worker for nothing.
fn round_trip_ms(engine: &mut Engine) -> Result<f64, EngineError> {
    engine.usage()?;
    Ok(engine.took_ms())
}

/// How engines run while they are timed.
fn timed_settings(n_ctx: usize, threads: usize, compact_head_budget: u64) -> Settings {
    Settings {
        n_ctx,
        n_ubatch: TIMED_UBATCH,
        threads,
        observe: false,
        compact_head_budget,
    }
}

/// A B, then B A: neither engine always runs on the warmer machine.
fn order(repetition: usize) -> [Role; 2] {
    if repetition.is_multiple_of(2) {
        [Role::Reference, Role::Candidate]
    } else {
        [Role::Candidate, Role::Reference]
    }
}

fn is_time(ms: f64) -> bool {
    ms.is_finite() && ms > 0.0
}

/// That an engine's figures are not to be believed.
fn finding(role: Role, test: Option<Test>, threads: usize, text: String) -> Finding {
    Finding {
        outcome: Outcome::Parity,
        source: Source::Timing,
        place: Some(Place {
            test: test.map(|test| test.to_string()),
            threads: Some(threads),
            ..role.into()
        }),
        text,
    }
}

fn record(tests: &mut Tests, test: Test, role: Role, sample: &Sample) {
    let series = tests.entry(test).or_default();
    series.push_usage(role, sample.cpu_seconds, sample.joules);
    series.push_request(role, sample.took());
    match test {
        Test::Decode(_) | Test::Certified(_) => series.push_steps(role, &sample.decode_ms),
        _ => series.push_ms(role, sample.prefill_ms),
    }
}

fn hash(tokens: &[u32]) -> String {
    format!("{:016x}", xxh3_64(&token_bytes(tokens)))
}
