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
//! Fast but wrong is worth nothing. The tokens that a test generates (of a prefill, the first) are compared with those
//! of an untimed run: an engine that generates others while it is timed fails, whatever the reason. The two engines are
//! compared too, and the report says where they first differ. That alone is no failure here: rounding decides near ties,
//! and tokens behind one are another text. Whether a difference is more than that is what `crossval run` is for.
//!
//! # Compact heads
//! A compact head of the candidate's is timed in a worker of its own, by turns with the others, and held to the tokens
//! of its full head.

mod cache;
mod energy;
mod kernels;
mod report;
mod series;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use reports::model::{
    Bench, BenchCompactHead, BenchMemory, BenchRoofline, BenchTokens, Cache, Generation, Role,
    Test, TokenWork,
};
use reports::number;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use self::report::not_reproduced;
pub use self::report::{BenchOptions, measure};
use self::series::{Series, TimedTest};
use crate::engine::{Engine, EngineError, EngineSpec, Failed, by};
use crate::environment::cpus_by_core;
use crate::progress::Progress;
use crate::session::setup::Setup;
use crate::speed::roofline;
use crossval_protocol::{Settings, token_bytes};

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
    /// What each engine has generated untimed from the one prompt of all tests. `None` for untimed runs of workers of
    /// their own.
    pub(crate) untimed: Option<&'a Generation>,
    /// What is timed after loading, a prompt of one token; `None` not to time loading.
    pub(crate) load: Option<&'a [u32]>,
    /// Whether to load with a cold page cache too. No process may have the model mapped then.
    pub(crate) cold: bool,
    /// Largest compact head that the candidate may build, bytes; with one, decoding is timed with it too.
    pub(crate) compact_head_budget: u64,
    /// What one token costs.
    pub(crate) work: Option<TokenWork>,
    /// Whether the Rust engine's matrix products are timed by themselves, if it is among the engines.
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
    cpu_seconds: Option<f64>,
    joules: Option<f64>,
}

/// Times both engines as the plan says.
///
/// # Errors
/// Which engine failed, and how.
pub(crate) fn bench(plan: &BenchPlan, progress: Progress<'_>) -> Result<Bench, Failed> {
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
    };
    progress.steps((plan.jobs().len() * 2 * (plan.repetitions + 1) * plan.threads.len()) as u64);
    let mut timing = Timing {
        plan,
        energy: energy::Packages::open(),
        progress,
        bench: &mut bench,
    };
    for (i, &threads) in plan.threads.iter().enumerate() {
        let cores = Cores {
            threads,
            cpus: cpus_by_core().0.into_iter().take(threads).collect(),
        };
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
        timing.report(threads, roofline, &tests);
    }
    if timing.energy.is_none() {
        let why = "energy: no counters of the CPU packages (RAPL) that may be read";
        bench.notes.push(why.to_owned());
    }
    if cfg!(debug_assertions) {
        let why = "crossval was built without optimisation, so that its figures say little";
        bench.notes.push(why.to_owned());
    }
    Ok(bench)
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
}

type Tests = BTreeMap<Test, Series>;

impl Timing<'_> {
    /// The Rust engine's matrix products by themselves, if it is among the engines.
    fn kernels(&mut self, cores: &Cores, roofline: &BenchRoofline) -> Result<(), Failed> {
        let setup = self.plan.setup;
        let ours = |&role: &Role| matches!(setup.spec(role), EngineSpec::Rust { .. });
        let (Some(role), Some(&cpu)) = (Role::BOTH.into_iter().find(ours), cores.cpus.first())
        else {
            return Ok(());
        };
        self.progress.stage("timing the kernels");
        let of_one = (cores.threads > 1).then(|| roofline::measure(1, &[cpu]));
        let (mut engine, _) = setup.start_another(role, Some(&[cpu]))?;
        let products = engine.time_kernels().map_err(by(role))?;
        self.bench.kernels = kernels::shares(products, of_one.as_ref().unwrap_or(roofline));
        Ok(())
    }

    /// Loads the model in one fresh worker after the other, and takes the first token of a one-token prompt.
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
                let (mut engine, load_ms) = self.start(role, cores)?;
                let job = Job {
                    test: Test::FirstToken(cache),
                    prompt,
                    n_predict: 1,
                };
                let sample = generate(&mut engine, &job).map_err(by(role))?;
                if repetition >= warm_up {
                    loads.push_ms(role, load_ms);
                    first_tokens.push_ms(role, load_ms + sample.prefill_ms);
                }
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
            if let Some(generated) = self.plan.untimed {
                let tokens = role.of(&generated.reference, &generated.candidate);
                let of_job = |job: Job| tokens[..job.n_predict.min(tokens.len())].to_vec();
                return Ok(jobs.map(of_job).collect());
            }
            let mut engine = self.start(role, cores)?.0;
            jobs.map(|job| {
                engine.set_task(format!("generating for {}, untimed", job.test));
                Ok(generate(&mut engine, &job).map_err(by(role))?.tokens)
            })
            .collect()
        };
        Ok(Untimed {
            reference: of(Role::Reference)?,
            candidate: of(Role::Candidate)?,
        })
    }

    fn time(&mut self, cores: &Cores, untimed: &Untimed, tests: &mut Tests) -> Result<(), Failed> {
        let jobs = self.plan.jobs();
        let threads = cores.threads;
        let (mut reference, _) = self.start(Role::Reference, cores)?;
        let (mut candidate, _) = self.start(Role::Candidate, cores)?;
        let mut certified = self.start_certified(cores)?;
        let mut certified_reproduced = true;
        let mut reproduced = vec![Reproduced::default(); jobs.len()];
        let mut repetitions = self.plan.repetitions;
        let mut repetition = 0;
        while repetition <= repetitions {
            let started = Instant::now();
            for (i, job) in jobs.iter().enumerate() {
                for role in order(repetition) {
                    let engine = role.of(&mut reference, &mut candidate);
                    let sample = self.sample(engine, job, repetition).map_err(by(role))?;
                    *reproduced[i].of(role) &= sample.tokens == untimed.of(role)[i];
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
                    }
                }
                if let Test::Decode(steps) = job.test
                    && let Some(engine) = &mut certified
                {
                    let sample = self
                        .sample(engine, job, repetition)
                        .map_err(by(Role::Candidate))?;
                    certified_reproduced &= sample.tokens == untimed.candidate[i];
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
            }
            repetition += 1;
        }
        self.bench.repetitions = repetitions;
        for role in Role::BOTH {
            let engine = role.of(&mut reference, &mut candidate);
            let usage = engine.usage().map_err(by(role))?;
            self.bench
                .memory
                .extend(usage.peak_rss_bytes.map(|peak| BenchMemory {
                    engine: engine.name().to_owned(),
                    threads: Some(threads),
                    peak_rss_bytes: peak,
                }));
        }
        if let Some(engine) = &mut certified {
            let usage = engine.usage().map_err(by(Role::Candidate))?;
            self.bench
                .compact_heads
                .extend(usage.compact_head.map(|head| BenchCompactHead {
                    threads,
                    bytes: head.bytes,
                    peak_rss_bytes: usage.peak_rss_bytes,
                    tokens: head.tokens,
                    certified: head.certified,
                    exact_rows: head.exact_rows,
                }));
            // Held to the tokens of the full head.
            let all = self.bench.tokens_reproduced.entry("candidate".to_owned());
            *all.or_insert(true) &= certified_reproduced;
        }
        for (i, (job, mut reproduced)) in jobs.iter().zip(reproduced).enumerate() {
            let (reference, candidate) = (&untimed.reference[i], &untimed.candidate[i]);
            self.bench.tokens.push(BenchTokens {
                threads,
                test: job.test.to_string(),
                count: job.n_predict,
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
        let cpu_before = engine.usage()?.cpu_seconds;
        let counters = || self.energy.as_ref().and_then(energy::Packages::read);
        let energy_before = counters();
        let mut sample = generate(engine, job)?;
        if let (Some(energy), Some(before), Some(after)) = (&self.energy, energy_before, counters())
        {
            sample.joules = Some(energy.joules(&before, &after));
        }
        let cpu_seconds = cpu_before.zip(engine.usage()?.cpu_seconds);
        sample.cpu_seconds = cpu_seconds.map(|(before, after)| after - before);
        Ok(sample)
    }

    fn report(&mut self, threads: usize, roofline: BenchRoofline, tests: &Tests) {
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

    fn start(&self, role: Role, cores: &Cores) -> Result<(Engine, f64), Failed> {
        let (mut engine, load_ms) = self.plan.setup.start_another(role, Some(&cores.cpus))?;
        if !is_time(load_ms) {
            let what = format!("{load_ms} ms to load the model");
            return Err(by(role)(engine.broke_protocol(&what)));
        }
        let settings = timed_settings(self.plan.n_ctx, cores.threads, 0);
        engine.configure(settings).map_err(by(role))?;
        Ok((engine, load_ms))
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

/// Generates, and holds the engine to what it owes: all tokens, and a time for each.
fn generate(engine: &mut Engine, job: &Job) -> Result<Sample, EngineError> {
    let (tokens, prefill_ms, decode_ms) = engine.generate(job.prompt, job.n_predict)?;
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
    Ok(Sample {
        tokens,
        prefill_ms,
        decode_ms,
        cpu_seconds: None,
        joules: None,
    })
}

fn is_time(ms: f64) -> bool {
    ms.is_finite() && ms > 0.0
}

fn record(tests: &mut Tests, test: Test, role: Role, sample: &Sample) {
    let series = tests.entry(test).or_default();
    series.push_usage(role, sample.cpu_seconds, sample.joules);
    match test {
        Test::Decode(_) | Test::Certified(_) => series.push_steps(role, &sample.decode_ms),
        _ => series.push_ms(role, sample.prefill_ms),
    }
}

fn hash(tokens: &[u32]) -> String {
    format!("{:016x}", xxh3_64(&token_bytes(tokens)))
}
