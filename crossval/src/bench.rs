//! Timings of both engines: interleaved pairs, the same cores, no taps, the output checked.

use std::collections::BTreeMap;
use std::path::Path;

use indicatif::ProgressBar;
use reports::model::{Bench, BenchMemory, BenchRatio, BenchRow};

use crate::compare::lockstep::Side;
use crate::engine::{Engine, EngineError, EngineSpec};
use crate::protocol::{ErrorKind, Settings};
use crate::stats::measured;

/// Pairs per test.
const REPETITIONS: usize = 5;

/// Batch of the timed prefill, tokens: the reference's default.
const TIMED_UBATCH: usize = 512;

/// What wraps an engine's error, by index.
const SIDES: [fn(EngineError) -> Side; 2] = [Side::Reference, Side::Candidate];

/// What to time.
pub struct Plan<'a> {
    /// The GGUF file.
    pub model: &'a Path,
    /// Reference, candidate.
    pub specs: [&'a EngineSpec; 2],
    /// Prefilled.
    pub prompt: &'a [u32],
    /// Generated.
    pub n_predict: usize,
    /// Threads per engine.
    pub threads: usize,
    /// Size of the KV cache.
    pub n_ctx: usize,
    /// What each engine generated untimed.
    pub expected: Option<[&'a Vec<u32>; 2]>,
}

/// Samples of one test, reference and candidate.
#[derive(Default)]
struct Samples {
    /// Time per unit, ms.
    ms: [Vec<f64>; 2],
}

/// Measures.
///
/// # Errors
/// Which engine failed, and how.
pub fn bench(plan: &Plan, progress: &ProgressBar) -> Result<Bench, Side> {
    let cpus: Vec<usize> = crate::environment::allowed_cpus()
        .into_iter()
        .take(plan.threads)
        .collect();
    let mut tests: BTreeMap<Test, Samples> = BTreeMap::new();
    for repetition in 0..REPETITIONS {
        for side in order(repetition) {
            progress.tick();
            let (_, load_ms) = start(plan, side, &cpus)?;
            tests.entry(Test::Load).or_default().ms[side].push(load_ms);
        }
    }
    let mut engines = [start(plan, 0, &cpus)?.0, start(plan, 1, &cpus)?.0];
    let mut reproduced = [true; 2];
    for repetition in 0..=REPETITIONS {
        for side in order(repetition) {
            progress.tick();
            let engine = &mut engines[side];
            engine.set_task(format!("timing, repetition {repetition}"));
            let (tokens, prefill_ms, decode_ms) = engine
                .generate(plan.prompt, plan.n_predict.max(1))
                .map_err(SIDES[side])?;
            if let Some(expected) = plan.expected {
                reproduced[side] &= tokens == *expected[side];
            }
            // The first is the warm-up.
            if repetition > 0 {
                let mut sample = |test, ms| tests.entry(test).or_default().ms[side].push(ms);
                sample(Test::Prefill, prefill_ms);
                sample(Test::TimeToFirstToken, prefill_ms);
                if !decode_ms.is_empty() {
                    sample(Test::Decode, decode_ms.iter().sum());
                }
            }
        }
    }
    let n_decode = plan.n_predict.saturating_sub(1);
    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    for (test, samples) in &tests {
        let tokens = match test {
            Test::Prefill => Some(plan.prompt.len()),
            Test::Decode => Some(n_decode),
            Test::Load | Test::TimeToFirstToken => None,
        };
        let name = test.name(plan.prompt.len(), n_decode);
        for (side, ms) in samples.ms.iter().enumerate() {
            let per_second =
                tokens.map(|n| ms.iter().map(|ms| n as f64 * 1e3 / ms).collect::<Vec<_>>());
            let in_ms = tokens.is_none().then(|| ms.clone());
            rows.push(BenchRow {
                engine: plan.specs[side].to_string(),
                threads: plan.threads,
                test: name.clone(),
                tps: per_second.and_then(measured),
                ms: in_ms.and_then(measured),
            });
        }
        let [reference, candidate] = &samples.ms;
        let speedups = reference.iter().zip(candidate).map(|(r, c)| r / c);
        ratios.extend(measured(speedups.collect()).map(|m| BenchRatio {
            threads: plan.threads,
            test: name,
            median: m.median,
            low: m.low,
            high: m.high,
        }));
    }
    let mut memory = Vec::new();
    for (side, engine) in engines.iter_mut().enumerate() {
        let peak_rss_bytes = engine.usage().map_err(SIDES[side])?.peak_rss_bytes;
        memory.extend(peak_rss_bytes.map(|peak_rss_bytes| BenchMemory {
            engine: engine.name().to_owned(),
            peak_rss_bytes,
        }));
    }
    let tokens_reproduced = match plan.expected {
        Some(_) => [
            ("reference".to_owned(), reproduced[0]),
            ("candidate".to_owned(), reproduced[1]),
        ]
        .into(),
        None => BTreeMap::new(),
    };
    Ok(Bench {
        repetitions: REPETITIONS,
        rows,
        ratios,
        memory,
        tokens_reproduced,
    })
}

/// A B, then B A: neither engine always runs on the warmer machine.
fn order(repetition: usize) -> [usize; 2] {
    if repetition.is_multiple_of(2) {
        [0, 1]
    } else {
        [1, 0]
    }
}

fn start(plan: &Plan, side: usize, cpus: &[usize]) -> Result<(Engine, f64), Side> {
    let at = SIDES[side];
    let mut engine = Engine::start(plan.specs[side], Some(cpus)).map_err(|e| {
        at(EngineError::Refused {
            kind: ErrorKind::Internal,
            message: e.to_string(),
        })
    })?;
    let (_, load_ms) = engine.load(plan.model).map_err(at)?;
    engine
        .configure(Settings {
            n_ctx: plan.n_ctx,
            n_ubatch: TIMED_UBATCH,
            threads: plan.threads,
            observe: false,
            compact_head_budget: 0,
        })
        .map_err(at)?;
    Ok((engine, load_ms))
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Test {
    Prefill,
    Decode,
    TimeToFirstToken,
    Load,
}

impl Test {
    fn name(self, n_prompt: usize, n_decode: usize) -> String {
        match self {
            Test::Prefill => format!("pp{n_prompt}"),
            Test::Decode => format!("tg{n_decode}"),
            Test::TimeToFirstToken => "ttft".into(),
            Test::Load => "load".into(),
        }
    }
}
