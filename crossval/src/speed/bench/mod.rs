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
//! A compact head of the candidate's is timed in a worker of its own, by turns with the others, and held to the tokens
//! of its full head.

mod cache;
mod energy;
mod kernels;
mod report;
mod test;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use reports::model::{Bench, BenchCompactHead, BenchMemory, BenchRoofline, BenchTokens, TokenWork};
use reports::number;
use xxhash_rust::xxh3::xxh3_64;

pub(crate) use self::report::not_reproduced;
pub use self::report::{BenchOptions, measure};
use self::test::{Cache, Series, Test};
use crate::engine::{Engine, EngineError, EngineSpec, Launcher};
use crate::environment::cpus_by_core;
use crate::progress::Progress;
use crate::session::lockstep::Side;
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

/// What wraps an engine's error, by index.
const SIDES: [fn(EngineError) -> Side; 2] = [Side::Reference, Side::Candidate];

/// What to time.
pub(crate) struct Plan<'a> {
    /// How workers are started.
    pub(crate) launcher: &'a Launcher,
    /// The GGUF file.
    pub(crate) model: &'a Path,
    /// Reference, candidate.
    pub(crate) specs: [&'a EngineSpec; 2],
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
    /// A prompt that is not empty, and steps to decode behind it.
    pub(crate) decode: Option<(&'a [u32], usize)>,
    /// What each engine has generated untimed from the one prompt of all tests. `None` for untimed runs of workers of
    /// their own.
    pub(crate) untimed: Option<[&'a [u32]; 2]>,
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

/// One generation that is timed, and the test that it is for.
#[derive(Clone, Copy)]
struct Job<'a> {
    test: Test,
    prompt: &'a [u32],
    n_predict: usize,
}

/// What a job came to.
struct Sample {
    tokens: Vec<u32>,
    prefill_ms: f64,
    decode_ms: Vec<f64>,
    cpu_seconds: Option<f64>,
    joules: Option<f64>,
}

/// Measures.
///
/// # Errors
/// Which engine failed, and how.
pub(crate) fn bench(plan: &Plan, progress: Progress<'_>) -> Result<Bench, Side> {
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
    let mut meter = Meter {
        plan,
        energy: energy::Meter::open(),
        progress,
        bench: &mut bench,
    };
    for (i, &threads) in plan.threads.iter().enumerate() {
        let cpus: Vec<usize> = cpus_by_core().0.into_iter().take(threads).collect();
        progress.stage("measuring the machine");
        let roofline = roofline::measure(threads, &cpus);
        let ours = |&side: &usize| matches!(plan.specs[side], EngineSpec::Rust { .. });
        if i == 0
            && plan.kernels
            && let Some(side) = [0, 1].into_iter().find(ours)
            && let Some(&cpu) = cpus.first()
        {
            progress.stage("timing the kernels");
            let of_one = (threads > 1).then(|| roofline::measure(1, &[cpu]));
            let of_one = of_one.as_ref().unwrap_or(&roofline);
            let spec = plan.specs[side];
            let products = kernels::measure(plan.launcher, spec, plan.model, cpu, of_one);
            meter.bench.kernels = products.map_err(SIDES[side])?;
        }
        let mut tests = BTreeMap::new();
        // Loading takes one thread.
        if i == 0
            && let Some(prompt) = plan.load
        {
            progress.stage("timing the load");
            meter.load(prompt, threads, &cpus, &mut tests)?;
        }
        let jobs = plan.jobs();
        progress.stage("generating untimed");
        let untimed = match plan.untimed {
            Some(generated) => generated.map(|tokens| {
                let of_job = |job: &Job| tokens[..job.n_predict.min(tokens.len())].to_vec();
                jobs.iter().map(of_job).collect()
            }),
            None => [
                meter.untimed(0, threads, &cpus)?,
                meter.untimed(1, threads, &cpus)?,
            ],
        };
        let with = number::plural(threads as u64, "thread");
        progress.stage(format!("timing, {with}"));
        meter.time(threads, &cpus, &untimed, &mut tests)?;
        meter.report(threads, roofline, &tests);
    }
    if meter.energy.is_none() {
        let why = "energy: no counters of the CPU packages (RAPL) that may be read";
        bench.notes.push(why.to_owned());
    }
    if cfg!(debug_assertions) {
        let why = "crossval was built without optimisation, so that its figures say little";
        bench.notes.push(why.to_owned());
    }
    Ok(bench)
}

impl<'a> Plan<'a> {
    fn jobs(&self) -> Vec<Job<'a>> {
        let prefill = self.prefill.iter().map(|&prompt| Job {
            test: Test::Prefill(prompt.len()),
            prompt,
            n_predict: 1,
        });
        let decode = self.decode.iter().map(|&(prompt, steps)| Job {
            test: Test::Decode(steps),
            prompt,
            n_predict: steps + 1,
        });
        prefill.chain(decode).collect()
    }
}

/// Measures into a report.
struct Meter<'a> {
    plan: &'a Plan<'a>,
    energy: Option<energy::Meter>,
    progress: Progress<'a>,
    bench: &'a mut Bench,
}

type Tests = BTreeMap<Test, Series>;

impl<'a> Meter<'a> {
    /// Loads the model in one fresh worker after the other, and takes the first token of a one-token prompt.
    fn load(
        &mut self,
        prompt: &[u32],
        threads: usize,
        cpus: &[usize],
        tests: &mut Tests,
    ) -> Result<(), Side> {
        if self.plan.cold {
            self.load_with(prompt, (Cache::Cold, 0), (threads, cpus), tests)?;
        }
        self.load_with(prompt, (Cache::Warm, 1), (threads, cpus), tests)
    }

    fn load_with(
        &mut self,
        prompt: &[u32],
        (cache, warm_up): (Cache, usize),
        (threads, cpus): (usize, &[usize]),
        tests: &mut Tests,
    ) -> Result<(), Side> {
        let (mut loads, mut first_tokens) = (Series::default(), Series::default());
        'measuring: for repetition in 0..warm_up + self.plan.repetitions {
            for side in order(repetition) {
                if cache == Cache::Cold
                    && let Err(why) = cache::drop_pages(self.plan.model)
                {
                    let what = format!("{} and {}", Test::Load(cache), Test::FirstToken(cache));
                    self.bench.notes.push(format!("{what}: {why}"));
                    // Null for both, and for all repetitions: half of them would be no pairs.
                    (loads, first_tokens) = (Series::default(), Series::default());
                    break 'measuring;
                }
                let (mut engine, load_ms) = self.start(side, threads, cpus)?;
                let job = Job {
                    test: Test::FirstToken(cache),
                    prompt,
                    n_predict: 1,
                };
                let sample = generate(&mut engine, &job).map_err(SIDES[side])?;
                if repetition >= warm_up {
                    loads.push_ms(side, load_ms);
                    first_tokens.push_ms(side, load_ms + sample.prefill_ms);
                }
            }
        }
        tests.insert(Test::Load(cache), loads);
        tests.insert(Test::FirstToken(cache), first_tokens);
        Ok(())
    }

    /// The tokens of every job.
    fn untimed(&self, side: usize, threads: usize, cpus: &[usize]) -> Result<Vec<Vec<u32>>, Side> {
        let mut engine = self.start(side, threads, cpus)?.0;
        let tokens = self.plan.jobs().into_iter().map(|job| {
            engine.set_task(format!("generating for {}, untimed", job.test));
            Ok(generate(&mut engine, &job).map_err(SIDES[side])?.tokens)
        });
        tokens.collect()
    }

    fn time(
        &mut self,
        threads: usize,
        cpus: &[usize],
        untimed: &[Vec<Vec<u32>>; 2],
        tests: &mut Tests,
    ) -> Result<(), Side> {
        let jobs = self.plan.jobs();
        let mut engines = [
            self.start(0, threads, cpus)?.0,
            self.start(1, threads, cpus)?.0,
        ];
        let mut certified = self.start_certified(threads, cpus)?;
        let mut certified_reproduced = true;
        let mut reproduced = vec![[true; 2]; jobs.len()];
        let mut repetitions = self.plan.repetitions;
        let mut repetition = 0;
        while repetition <= repetitions {
            let started = Instant::now();
            for (i, job) in jobs.iter().enumerate() {
                for side in order(repetition) {
                    let sample = self
                        .sample(&mut engines[side], job, repetition)
                        .map_err(SIDES[side])?;
                    reproduced[i][side] &= sample.tokens == untimed[side][i];
                    self.progress.done(1);
                    // The first is the warm-up.
                    if repetition == 0 {
                        continue;
                    }
                    if let Test::Decode(steps) = job.test
                        && side == 0
                        && certified.is_some()
                    {
                        record(tests, Test::Certified(steps), false, side, &sample);
                    }
                    record(tests, job.test, i == 0, side, &sample);
                }
                if let Test::Decode(steps) = job.test
                    && let Some(engine) = &mut certified
                {
                    let sample = self
                        .sample(engine, job, repetition)
                        .map_err(Side::Candidate)?;
                    certified_reproduced &= sample.tokens == untimed[1][i];
                    if repetition > 0 {
                        record(tests, Test::Certified(steps), false, 1, &sample);
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
        for (side, engine) in engines.iter_mut().enumerate() {
            let usage = engine.usage().map_err(SIDES[side])?;
            self.bench
                .memory
                .extend(usage.peak_rss_bytes.map(|peak| BenchMemory {
                    engine: engine.name().to_owned(),
                    threads: Some(threads),
                    peak_rss_bytes: peak,
                }));
        }
        if let Some(engine) = &mut certified {
            let usage = engine.usage().map_err(Side::Candidate)?;
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
        for (i, (job, [reference, candidate])) in jobs.iter().zip(reproduced).enumerate() {
            let [of_reference, of_candidate] = [0, 1].map(|side| &untimed[side][i]);
            self.bench.tokens.push(BenchTokens {
                threads,
                test: job.test.to_string(),
                count: job.n_predict,
                reference: hash(of_reference),
                candidate: hash(of_candidate),
                first_mismatch: (0..of_reference.len().max(of_candidate.len()))
                    .find(|&i| of_reference.get(i) != of_candidate.get(i)),
                reference_reproduced: reference,
                candidate_reproduced: candidate,
            });
            for (role, same) in [("reference", reference), ("candidate", candidate)] {
                let all = self.bench.tokens_reproduced.entry(role.to_owned());
                *all.or_insert(true) &= same;
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
        let counters = || self.energy.as_ref().and_then(energy::Meter::read);
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
        let names = self.plan.specs.map(ToString::to_string);
        for (test, series) in tests {
            let share = |tps| match test {
                Test::Prefill(_) => {
                    roofline::prefill_share(tps, self.plan.work.as_ref(), &roofline)
                }
                Test::Decode(_) => roofline::decode_share(tps, self.plan.work.as_ref(), &roofline),
                _ => None,
            };
            for (side, name) in names.iter().enumerate() {
                let row = series.row(side, (name, threads, *test), share);
                self.bench.rows.push(row);
            }
            self.bench.ratios.extend(series.ratio(threads, *test));
        }
        self.bench.roofline.push(roofline);
    }

    fn start(&self, side: usize, threads: usize, cpus: &[usize]) -> Result<(Engine, f64), Side> {
        let at = SIDES[side];
        let spec = self.plan.specs[side];
        let mut engine = self
            .plan
            .launcher
            .start_another(spec, Some(cpus))
            .map_err(at)?;
        let (_, load_ms) = engine.load(self.plan.model).map_err(at)?;
        if !is_time(load_ms) {
            let what = format!("{load_ms} ms to load the model");
            return Err(at(engine.broke_protocol(&what)));
        }
        engine
            .configure(timed_settings(self.plan.n_ctx, threads, 0))
            .map_err(at)?;
        Ok((engine, load_ms))
    }

    /// A worker of the candidate with a compact head, if one is asked for and the candidate builds it.
    fn start_certified(&mut self, threads: usize, cpus: &[usize]) -> Result<Option<Engine>, Side> {
        let budget = self.plan.compact_head_budget;
        if budget == 0 || self.plan.decode.is_none() {
            return Ok(None);
        }
        let mut engine = self.start(1, threads, cpus)?.0;
        let settings = timed_settings(self.plan.n_ctx, threads, budget);
        engine.configure(settings).map_err(Side::Candidate)?;
        let usage = engine.usage().map_err(Side::Candidate)?;
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
fn order(repetition: usize) -> [usize; 2] {
    if repetition.is_multiple_of(2) {
        [0, 1]
    } else {
        [1, 0]
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

fn record(tests: &mut Tests, test: Test, first: bool, side: usize, sample: &Sample) {
    let series = tests.entry(test).or_default();
    series.push_usage(side, sample.cpu_seconds, sample.joules);
    match test {
        Test::Decode(_) | Test::Certified(_) => series.push_steps(side, &sample.decode_ms),
        _ => series.push_ms(side, sample.prefill_ms),
    }
    if first {
        let test = tests.entry(Test::TimeToFirstToken).or_default();
        test.push_ms(side, sample.prefill_ms);
    }
}

fn hash(tokens: &[u32]) -> String {
    format!("{:016x}", xxh3_64(&token_bytes(tokens)))
}
