//! `crossval bench`: both engines on random tokens, at every thread count, in one report.

use std::collections::BTreeMap;

use reports::model::{
    Bench, BenchTokens, Environment, Finding, Inputs, Place, Profile, Report, Role, SCHEMA, Source,
};
use reports::number;
use reports::outcome::Outcome;

use super::{BenchPlan, Decode, Timed, bench, timed_settings};
use crate::environment::cpus_by_core;
use crate::error::Error;
use crate::progress::Progress;
use crate::session::loaded::{Loaded, bad_ends, failure};
use crate::session::model_file::ModelFile;
use crate::session::prompts::Prompt;
use crate::session::setup::Setup;
use crate::speed::roofline;
use crate::stopwatch::Stopwatch;
use crate::verdict;
use bitnet_model::random::Rng;

/// Tokens of the prefill tests where nothing else is asked for, as far as they fit the model's context.
const PREFILL: [usize; 2] = [128, 512];

/// Steps of the decode test likewise.
const DECODE: usize = 64;

/// Of the random tokens.
const SEED: u64 = 0;

/// What to time.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// The engines and the model.
    pub setup: Setup,
    /// Thread counts; empty for 1 and one per core.
    pub threads: Vec<usize>,
    /// Prompt lengths, tokens, at least 1; empty for 128 and 512.
    pub prefill: Vec<usize>,
    /// Decode steps, at least 1. `None` for 64.
    pub decode: Option<usize>,
    /// Pairs per test, warm-up apart; at least 1.
    pub repetitions: usize,
    /// Largest compact copy of the output head that the candidate may build to decode with it too, bytes; 0 for none.
    pub compact_head_budget: u64,
    /// The command line, for the report.
    pub command: Vec<String>,
    /// The machine and build, for the report.
    pub environment: Environment,
}

/// Times both engines.
///
/// Prompts are random token IDs of the vocabulary (SplitMix64). Those that are generated from untimed too are the first N of
/// one sequence, always of the same seed; the others are of a seed of the run's. Decoding starts from one token, so that
/// it is not attention over a long prompt that is measured.
///
/// # Errors
/// Where there is nothing to report on: bad flags, a bad model, a missing engine. An engine that fails later
/// is part of the report.
pub fn measure(options: &BenchOptions, progress: Progress<'_>) -> Result<Report, Error> {
    let setup = &options.setup;
    let specs = Role::BOTH.map(|role| setup.spec(role));
    if let Some(trace) = specs.iter().find(|spec| spec.trace().is_some()) {
        return Err(Error::Usage(format!("{trace}: a trace cannot be timed")));
    }
    let created = jiff::Timestamp::now().to_string();
    let mut watch = Stopwatch::start();
    progress.stage("hashing the model");
    let file = ModelFile::hash(&setup.model)?;
    progress.stage("loading");
    let mut loaded = Loaded::start(setup)?;
    let facts = loaded.facts.clone();
    let prefill = fitting(&options.prefill, &PREFILL, facts.n_ctx_train, "prefill")?;
    let asked: Vec<usize> = options.decode.into_iter().collect();
    // A prompt of one token comes before the steps.
    let decode = fitting(
        &asked,
        &[DECODE],
        facts.n_ctx_train.saturating_sub(1),
        "decode",
    )?[0];
    let threads = match options.threads.as_slice() {
        [] => {
            let mut threads = vec![1, cpus_by_core().1.max(1)];
            threads.dedup();
            threads
        }
        threads => threads.to_vec(),
    };
    let longest = prefill.iter().copied().fold(1, usize::max);
    let tokens = random_tokens(longest, facts.n_vocab);
    let n_ctx = longest.max(1 + decode).next_multiple_of(32);
    let settings = timed_settings(n_ctx, threads[0], 0);
    let ready = loaded.attempt(|loaded| loaded.configure(settings));
    // Ends their workers: while the engines are timed nobody else has the model mapped.
    let mut engines = loaded.report();
    let list: Vec<String> = threads.iter().map(usize::to_string).collect();
    for engine in [&mut engines.reference, &mut engines.candidate] {
        // Of workers that have only loaded the model.
        (engine.load_ms, engine.peak_rss_bytes, engine.cpu_seconds) = (None, None, None);
        if let Some(threads) = engine.settings.get_mut("threads") {
            *threads = list.join(", ");
        }
    }
    let prompts: Vec<&[u32]> = prefill.iter().map(|&n| &tokens[..n]).collect();
    let plan = BenchPlan {
        setup,
        threads: &threads,
        repetitions: options.repetitions,
        most_repetitions: options.repetitions,
        n_ctx,
        prefill: &prompts,
        decode: Some(Decode {
            prompt: &tokens[..1],
            steps: decode,
        }),
        untimed: None,
        load: Some(&tokens[..1]),
        cold: true,
        compact_head_budget: options.compact_head_budget,
        work: roofline::work_of(&facts),
        n_layer: facts.n_layer,
        n_vocab: facts.n_vocab,
        kernels: true,
    };
    let timed = ready.and_then(|()| {
        let timed = watch.time((Source::Timing, None, None), || bench(&plan, progress));
        timed
            .map_err(|failed| {
                let engine = engines.engine_mut(failed.role);
                engine.failure = Some(failed.error.into_failure(&engine.name, "timing"));
            })
            .ok()
    });
    let source = format!("random token IDs, seed {SEED}");
    let prompt = Prompt::of_tokens(source, tokens).report(Some(&[]));
    let mut findings: Vec<Finding> = engines
        .by_role()
        .into_iter()
        .filter_map(|(role, engine)| failure(role, engine))
        .collect();
    let timed = match timed {
        Some(Timed {
            bench,
            findings: of_bench,
        }) => {
            findings.extend(of_bench);
            Some(bench)
        }
        None => {
            if findings.is_empty() {
                findings.push(nothing_timed());
            }
            None
        }
    };
    findings.extend(bad_ends(setup, &findings));
    findings.extend(file.changed());
    Ok(Report {
        schema: SCHEMA.to_owned(),
        created,
        command: options.command.clone(),
        verdict: verdict::conclude(findings, None),
        model: file.clone().report(&facts),
        engines,
        environment: options.environment.clone(),
        inputs: Inputs {
            prompts: vec![prompt],
            tokenizer: None,
            n_predict: 1 + decode,
            decode_steps: 0,
            threads: threads.iter().copied().fold(1, usize::max),
            modes: Vec::new(),
            profile: Profile {
                name: "none".to_owned(),
                isolated_nmse: BTreeMap::new(),
                cumulative_logits_nmse: None,
            },
            activation: setup.launcher.activation_name(),
        },
        coverage: Default::default(),
        taps: Vec::new(),
        logits: Vec::new(),
        generation: None,
        noise_floor: None,
        spot_check: None,
        bench: timed,
        conditions: None,
        perplexity: None,
        tokenizer: None,
        known: Vec::new(),
        not_compared: Some("crossval bench times the engines and compares no values".to_owned()),
        gate: None,
        further: Vec::new(),
        matrix: None,
        took: Some(watch.stop()),
    })
}

/// Engines that generated other tokens while they were timed than untimed.
pub(super) fn not_reproduced(bench: &Bench) -> Vec<Finding> {
    let others = |role: Role| {
        let differs = |t: &&BenchTokens| !role.of(t.reference_reproduced, t.candidate_reproduced);
        let first = bench.tokens.iter().find(differs);
        let place = first.map_or(String::new(), |t| {
            let threads = number::plural(t.threads as u64, "thread");
            format!("; the first: {} at {threads}", t.test)
        });
        Finding {
            outcome: Outcome::Parity,
            source: Source::Timing,
            place: Some(Place {
                test: first.map(|t| t.test.clone()),
                threads: first.map(|t| t.threads),
                ..role.into()
            }),
            text: format!(
                "the {role} generated other tokens while it was timed than before{place}"
            ),
        }
    };
    let differs = |role: &Role| bench.tokens_reproduced.get(role.name()) == Some(&false);
    // As the report lists them, by name.
    let roles = Role::BOTH.into_iter().rev();
    roles.filter(differs).map(others).collect()
}

fn nothing_timed() -> Finding {
    Finding {
        outcome: Outcome::Incomplete,
        source: Source::Timing,
        place: None,
        text: "nothing was timed".to_owned(),
    }
}

/// The lengths asked for; if none are, those of `usual` that fit, or what does.
fn fitting(
    asked: &[usize],
    usual: &[usize],
    longest: usize,
    option: &'static str,
) -> Result<Vec<usize>, Error> {
    if let Some(n) = asked.iter().find(|&&n| n > longest) {
        let what = format!("{n} is more than the {longest} tokens that fit the model's context");
        return Err(Error::option(option, what));
    }
    if !asked.is_empty() {
        return Ok(asked.to_vec());
    }
    let fit: Vec<usize> = usual.iter().copied().filter(|&n| n <= longest).collect();
    Ok(match fit.as_slice() {
        [] => vec![longest.max(1)],
        _ => fit,
    })
}

fn random_tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    let mut rng = Rng::new(SEED, "bench");
    (0..n).map(|_| rng.below(n_vocab.max(1)) as u32).collect()
}

#[cfg(test)]
mod tests {
    use reports::model::{AtFault, Status};

    use super::*;
    use crate::verdict::conclude;

    #[test]
    fn lengths_fit_the_context() {
        let fitting = |asked: &[usize], longest| fitting(asked, &PREFILL, longest, "prefill");
        assert_eq!(fitting(&[], 4096).unwrap(), [128, 512]);
        assert_eq!(fitting(&[], 256).unwrap(), [128]);
        assert_eq!(fitting(&[], 64).unwrap(), [64]);
        assert_eq!(fitting(&[7, 256], 256).unwrap(), [7, 256]);
        let error = fitting(&[7, 257], 256).unwrap_err();
        assert_eq!(error.outcome().exit_code(), 64);
        assert!(
            error.to_string().contains("prefill: 257 is more"),
            "{error}"
        );
    }

    #[test]
    fn prompts_are_the_same_on_every_machine_and_share_their_start() {
        let tokens = random_tokens(100, 512);
        assert_eq!(tokens[..4], [32, 74, 350, 316]);
        assert!(tokens.iter().all(|&token| token < 512));
        assert_eq!(random_tokens(10, 512), tokens[..10]);
    }

    #[test]
    fn an_engine_that_generates_other_tokens_while_timed_is_at_fault() {
        let tokens = BenchTokens {
            threads: 2,
            test: "tg64".into(),
            count: 65,
            reference_checked: 1,
            candidate_checked: 1,
            reference: "0".into(),
            candidate: "0".into(),
            first_mismatch: None,
            reference_reproduced: true,
            candidate_reproduced: true,
        };
        let mut bench = Bench {
            repetitions: 1,
            rows: Vec::new(),
            ratios: Vec::new(),
            memory: Vec::new(),
            tokens_reproduced: [("reference".into(), true), ("candidate".into(), true)].into(),
            tokens: vec![tokens],
            roofline: Vec::new(),
            work: None,
            notes: Vec::new(),
            compact_heads: Vec::new(),
            kernels: Vec::new(),
            quantisers: Vec::new(),
            seed: None,
        };
        let verdict = conclude(not_reproduced(&bench), None);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Pass, 0));
        // That the engines differ from each other is no failure of a benchmark.
        bench.tokens[0].first_mismatch = Some(3);
        assert!(not_reproduced(&bench).is_empty());
        bench.tokens[0].candidate_reproduced = false;
        bench.tokens_reproduced.insert("candidate".into(), false);
        let verdict = conclude(not_reproduced(&bench), None);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Fail, 10));
        assert_eq!(verdict.at_fault, AtFault::Candidate);
        assert!(verdict.reasons[0].ends_with("the first: tg64 at 2 threads"));
        let place = verdict.findings[0].place.as_ref().unwrap();
        assert_eq!(
            (place.test.as_deref(), place.threads),
            (Some("tg64"), Some(2))
        );
        bench.tokens_reproduced.insert("reference".into(), false);
        let verdict = conclude(not_reproduced(&bench), None);
        assert_eq!(verdict.at_fault, AtFault::Both);
        assert!(
            verdict.reasons[0].starts_with("the candidate"),
            "{:?}",
            verdict.reasons
        );
        assert_eq!(conclude(vec![nothing_timed()], None).exit_code, 20);
    }
}
