//! `crossval run`: both engines, every layer, one report.

mod arbitration;
mod comparison;
mod findings;
mod generation;
mod perplexity;
mod pieces;
mod tokenizers;

use std::path::PathBuf;

use reports::model::{Bench, Environment, Inputs, Mode, Profile as ProfileReport, Report, SCHEMA};

use self::arbitration::arbitrate;
use self::comparison::Comparison;
use self::findings::Shown;
pub use self::perplexity::TextSource;
use self::perplexity::Windows;
use crate::engine::{EngineSpec, Launcher};
use crate::error::Error;
use crate::interrupt;
use crate::known::{Ledger, Occurred};
use crate::profile::Profile;
use crate::progress::Progress;
use crate::session::chat;
use crate::session::model_file::ModelFile;
use crate::session::pair::Pair;
use crate::session::prompts::PromptSource;
use crate::session::settings::DECODE_STEPS;
use crate::session::traces::Traces;
use crate::speed::{bench, roofline};
use crate::verdict::{self, Compared};

/// Why the tokenizers were not compared after all.
fn cut_off() -> String {
    match interrupt::received() {
        Some(_) => "the run was interrupted".to_owned(),
        None => "an engine failed".to_owned(),
    }
}

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// How workers are started.
    pub launcher: Launcher,
    /// The GGUF file.
    pub model: PathBuf,
    /// The engine compared against.
    pub reference: EngineSpec,
    /// The engine under test.
    pub candidate: EngineSpec,
    /// At least one, but for a trace: then none means those recorded.
    pub prompts: Vec<PromptSource>,
    /// Whether each prompt is one message of the user, rendered by the model's chat template.
    pub chat: bool,
    /// A text to measure the perplexity of both engines on.
    pub text: Option<TextSource>,
    /// Strings to generate for comparing the tokenizers.
    pub strings: u64,
    /// Tokens to generate from each prompt.
    pub n_predict: usize,
    /// Threads per engine.
    pub threads: usize,
    /// Modes to compare in; empty for both, or for cumulative alone if the candidate takes no values.
    pub modes: Vec<Mode>,
    /// The limits.
    pub profile: Profile,
    /// Divergences that are expected.
    pub known: Ledger,
    /// Whether to time both engines.
    pub bench: bool,
    /// The command line, for the report.
    pub command: Vec<String>,
    /// The machine and build, for the report.
    pub environment: Environment,
}

/// Runs and compares both engines.
///
/// # Errors
/// Where there is nothing to report on: bad flags, a bad model, a missing engine. An engine that fails later
/// is part of the report.
pub fn run(options: &RunOptions, progress: Progress<'_>) -> Result<Report, Error> {
    let created = jiff::Timestamp::now().to_string();
    let traces = Traces::open(&options.reference, &options.candidate)?;
    if options.text.is_some() && traces.any() {
        return Err(Error::option(
            "text",
            "a trace evaluates no text but its prompts",
        ));
    }
    progress.stage("hashing the model");
    let file = ModelFile::hash(&options.model)?;
    traces.check_model(&options.model, &file.sha256)?;
    progress.stage("loading");
    let mut pair = Pair::start(
        &options.launcher,
        [&options.reference, &options.candidate],
        &options.model,
    )?;
    let options = &RunOptions {
        modes: pair.modes(&options.modes),
        ..options.clone()
    };
    let mut sources = traces.sources(&options.prompts);
    if options.chat {
        sources = chat::render_prompts(sources, &options.model, pair.vocab_for_chat())?;
    }
    let prompts = pair.tokenize(&sources)?;
    traces.check_prompts(&prompts.0, options.n_predict)?;
    let windows = Windows::new(options, &mut pair)?;
    let mut comparison = Comparison::new(options, &mut pair, prompts)?;
    if let Err(side) = comparison.drive(&mut pair, options, &traces, progress) {
        pair.fail(side);
    }
    let to_score = windows.as_ref().map(Windows::scored);
    let perplexity = match windows.filter(|_| !pair.failed()) {
        Some(windows) => windows
            .measure(&mut pair, options, progress)
            .unwrap_or_else(|side| {
                pair.fail(side);
                None
            }),
        None => None,
    };
    let parity = if pair.failed() {
        tokenizers::not_compared(comparison.tokenizer.clone(), cut_off())
    } else {
        let fed = comparison.tokenizer.clone();
        let compared = tokenizers::compare(&mut pair, &sources, options, fed.clone(), progress);
        compared.unwrap_or_else(|side| {
            pair.fail(side);
            tokenizers::not_compared(fed, cut_off())
        })
    };
    let mut logits = comparison.logits_results();
    if !pair.failed()
        && let Err(side) = pieces::name_tokens(&mut pair, &mut logits)
    {
        pair.fail(side);
    }
    let bench = if options.bench && !pair.failed() && !traces.any() {
        progress.stage("timing");
        time(&mut pair, &comparison, options, progress)
    } else {
        None
    };
    let facts = pair.facts.clone();
    let coverage = comparison.coverage();
    let exceeded = comparison.exceeded();
    let [reference, candidate] = traces.engines([&options.reference, &options.candidate]);
    let known = options.known.apply(&Occurred {
        architecture: &facts.architecture,
        reference: &reference,
        candidate: &candidate,
        modes: &options.modes,
        sites: exceeded.iter().map(|&(site, _)| site).collect(),
        generation: comparison.generation.as_ref().map(generation::differs),
        complete: coverage.compared == coverage.expected,
        today: jiff::Timestamp::now()
            .to_zoned(jiff::tz::TimeZone::UTC)
            .date(),
    });
    let shown = Shown {
        exceeded,
        generation: comparison.generation.as_ref(),
        coverage: &coverage,
        required_not_compared: comparison.required_not_compared(&options.profile, &facts),
        not_repeatable: &comparison.not_repeatable,
        candidate_noise: match options.candidate {
            EngineSpec::Rust { .. } => comparison.candidate_noise(),
            _ => Vec::new(),
        },
        bench: bench.as_ref(),
        text: to_score.map(|n| (n, perplexity.as_ref())),
        tokens: &parity,
        engines: [&reference, &candidate],
        known: &known,
    };
    let mut compared = Compared {
        first_divergence: shown.first_divergence(),
        differ: shown.differ(),
        ruling: None,
    };
    if let Some(first) = &mut compared.first_divergence
        && !pair.failed()
    {
        progress.stage("asking the oracle");
        match arbitrate(first, &mut pair, options, &comparison) {
            Ok(ruling) => compared.ruling = ruling,
            Err(side) => pair.fail(side),
        }
    }
    let mut findings = shown.findings(pair.failures());
    let engines = pair.report();
    findings.extend(file.changed());
    let verdict = verdict::conclude(findings, Some(compared));
    Ok(Report {
        schema: SCHEMA.to_owned(),
        created,
        command: options.command.clone(),
        verdict,
        model: file.clone().report(&facts),
        engines,
        environment: options.environment.clone(),
        taps: comparison.tap_results(),
        logits,
        noise_floor: comparison.noise_floor(),
        inputs: Inputs {
            prompts: comparison.prompts,
            tokenizer: comparison.tokenizer,
            n_predict: options.n_predict,
            decode_steps: DECODE_STEPS,
            threads: options.threads,
            modes: options.modes.clone(),
            profile: ProfileReport {
                name: options.profile.name.clone(),
                isolated_nmse: comparison
                    .limits
                    .iter()
                    .map(|(tap, &limit)| (tap.to_string(), limit))
                    .collect(),
                cumulative_logits_nmse: Some(comparison.profile.cumulative_logits),
            },
        },
        coverage,
        generation: comparison.generation,
        bench,
        perplexity,
        tokenizer: Some(parity),
        known,
        not_compared: None,
        gate: None,
    })
}

/// Times both engines on the first prompt. Their tokens must be those of the comparison.
fn time(
    pair: &mut Pair,
    comparison: &Comparison,
    options: &RunOptions,
    progress: Progress<'_>,
) -> Option<Bench> {
    let prompt = comparison.prompts.first()?.tokens.as_slice();
    let facts = pair.facts.clone();
    let steps = options.n_predict.saturating_sub(1);
    let plan = bench::Plan {
        launcher: &options.launcher,
        model: &options.model,
        specs: [&options.reference, &options.candidate],
        threads: &[options.threads],
        repetitions: bench::REPETITIONS,
        most_repetitions: bench::MOST_REPETITIONS,
        n_ctx: comparison.settings.n_ctx,
        prefill: &[prompt],
        decode: (steps > 0).then_some((prompt, steps)),
        untimed: comparison
            .generation
            .as_ref()
            .map(|g| [g.reference.as_slice(), &g.candidate]),
        load: prompt.get(..1),
        // The workers of the comparison have it mapped.
        cold: false,
        compact_head_budget: 0,
        work: roofline::work_of(&facts),
        kernels: true,
    };
    bench::bench(&plan, progress)
        .map_err(|side| pair.fail(side))
        .ok()
}
