//! `crossval run`: both engines, every layer, one report.

mod amplified;
mod arbitration;
mod broken;
mod conditions;
mod court;
mod excuses;
mod findings;
mod generation;
mod greedy;
mod inquiry;
mod measurements;
mod overwriting;
mod packing;
mod parted;
mod perplexity;
mod pieces;
mod plan;
mod roundings;
mod spot_check;
mod strayed;
mod taps;
mod tokenizers;

use std::time::Instant;

use bitnet_model::tap::Tap;
use reports::model::{
    Environment, Generation, Inputs, KnownDeviation, LogitsResult, Mode, Report, Role, SCHEMA,
    Source, SpotCheck, TokenParity, Verdict,
};

use self::amplified::{Amplifications, ToBeAsked, hear_logits};
use self::arbitration::{arbitrate, no_ruling};
use self::conditions::{Judged, SpokenFor};
use self::court::Oracle;
use self::excuses::{Excuses, excuse};
use self::findings::Shown;
use self::measurements::Measurements;
pub use self::perplexity::TextSource;
use self::perplexity::{OnText, Windows};
use self::plan::Plan;
use self::roundings::Allowed;
pub use self::spot_check::seed_of_now;
use self::spot_check::spot_check;
use self::strayed::HeardNoise;
use self::taps::{Rulings, hear_taps};
use crate::compare::site::Site;
use crate::compare::tap::Exceeded;
use crate::engine::EngineSpec;
use crate::error::Error;
use crate::interrupt;
use crate::known::{Ledger, Occurred};
use crate::profile::{Profile, today};
use crate::progress::Progress;
use crate::session::activation;
use crate::session::batches::Sequence;
use crate::session::chat;
use crate::session::loaded::{Loaded, bad_ends};
use crate::session::model_file::{self, ModelFile};
use crate::session::prompts::{Prompt, PromptSource, Tokenized};
use crate::session::settings::DECODE_STEPS;
use crate::session::setup::Setup;
use crate::session::traces::Traces;
use crate::speed::{bench, roofline};
use crate::stopwatch::Stopwatch;
use crate::verdict::{self, Compared};

/// What to run.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// The engines and the model.
    pub setup: Setup,
    /// What they are fed.
    pub texts: Texts,
    /// What is compared.
    pub scope: Scope,
    /// Divergences that are expected.
    pub known: Ledger,
    /// Whether to time both engines.
    pub bench: bool,
    /// The command line, for the report.
    pub command: Vec<String>,
    /// The machine and build, for the report.
    pub environment: Environment,
}

/// What the engines are fed.
#[derive(Clone, Debug)]
pub struct Texts {
    /// At least one, but for a trace: then none means those recorded.
    pub prompts: Vec<PromptSource>,
    /// Whether each prompt is one message of the user, rendered by the model's chat template.
    pub chat: bool,
    /// A text to measure the perplexity of both engines on.
    pub text: Option<TextSource>,
    /// Strings to generate for comparing the tokenizers.
    pub strings: u64,
}

/// What is compared, and how strictly.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Tokens to generate from each prompt.
    pub n_predict: usize,
    /// Threads per engine.
    pub threads: usize,
    /// Context of the engines, tokens; as much as the prompts take if `None`.
    pub n_ctx: Option<usize>,
    /// Modes to compare in; empty for both, or for cumulative alone if the candidate takes no values.
    pub modes: Vec<Mode>,
    /// The limits.
    pub profile: Profile,
    /// Seed of the rows that the oracle judges whether or not the engines agree; `None` for no rows.
    pub spot_check: Option<u64>,
    /// Under which other conditions logits are compared.
    pub conditions: Conditions,
}

/// How many of the conditions other than those of the taps' comparison are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditions {
    /// None.
    None,
    /// All of them on small models, a sample on others.
    Sampled,
    /// All of them.
    All,
}

/// Runs and compares both engines.
///
/// # Errors
/// Where there is nothing to report on: bad flags, a bad model, a missing engine. An engine that fails later
/// is part of the report.
pub fn run(options: &RunOptions, progress: Progress<'_>) -> Result<Report, Error> {
    let created = jiff::Timestamp::now().to_string();
    let mut watch = Stopwatch::start();
    let RunOptions {
        setup,
        texts,
        scope,
        ..
    } = options;
    let mut opened = open(setup, texts.text.is_some(), progress)?;
    let fed = tokenize(&mut opened, setup, texts, scope.n_predict)?;
    opened.engines.learn_taps();
    let plan = Plan::new(setup, scope, &mut opened.engines, &fed.prompts)?;
    let results = compare(&mut opened, setup, scope, &plan, &fed, &mut watch, progress);
    let timed = match options.bench {
        true => {
            let generation = results.measured.generation.as_ref();
            time(&mut opened, setup, &plan, generation, &mut watch, progress)
        }
        false => None,
    };
    let judged = watch.time((Source::Oracle, None, None), || {
        judge(
            &mut opened,
            setup,
            (&options.known, scope.spot_check),
            &plan,
            &results,
            timed.as_ref(),
            progress,
        )
    });
    let Results {
        measured,
        conditions,
        logits,
        on_text,
        tokens,
        ..
    } = results;
    Ok(Report {
        schema: SCHEMA.to_owned(),
        created,
        command: options.command.clone(),
        verdict: judged.verdict,
        model: opened.file.report(&plan.facts),
        engines: opened.engines.report(),
        environment: options.environment.clone(),
        inputs: Inputs {
            prompts: measured.prompts(),
            tokenizer: fed.tokenizer.clone(),
            n_predict: plan.n_predict,
            decode_steps: DECODE_STEPS,
            threads: scope.threads,
            modes: plan.modes.clone(),
            profile: plan.profile(),
            activation: setup.launcher.activation_name(),
        },
        taps: judged
            .amplified
            .mark(judged.allowed.mark(measured.tap_results())),
        logits,
        noise_floor: judged
            .noise
            .mark(measured.noise_floor(&exact_engines(setup, &opened.traces))),
        coverage: measured.coverage(),
        conditions: conditions.map(|c| c.report(judged.conditions)),
        generation: judged.generation,
        bench: timed.map(|timed| timed.bench),
        perplexity: on_text.map(|on_text| on_text.perplexity),
        tokenizer: Some(tokens),
        known: judged.known,
        spot_check: judged.spot_check,
        not_compared: None,
        gate: None,
        further: Vec::new(),
        matrix: None,
        took: Some(watch.stop()),
    })
}

/// A model, and the engines that have loaded it.
struct Opened {
    traces: Traces,
    file: ModelFile,
    engines: Loaded,
}

fn open(setup: &Setup, with_text: bool, progress: Progress<'_>) -> Result<Opened, Error> {
    let traces = Traces::open(setup)?;
    if with_text && traces.any() {
        return Err(Error::option(
            "text",
            "a trace evaluates no text but its prompts",
        ));
    }
    progress.stage("hashing the model");
    let file = ModelFile::hash(&setup.model)?;
    traces.check_model(&setup.model, &file.sha256)?;
    progress.stage("loading");
    Ok(Opened {
        traces,
        file,
        engines: Loaded::start(setup)?,
    })
}

/// What the engines are fed, as tokens.
struct Fed<'a> {
    sources: Vec<PromptSource>,
    prompts: Vec<Prompt>,
    /// The engine that made their tokens, if one did.
    tokenizer: Option<String>,
    text: Option<&'a TextSource>,
    /// Strings to generate for comparing the tokenizers.
    strings: u64,
    /// The text as windows of tokens.
    windows: Option<Windows>,
}

fn tokenize<'a>(
    Opened {
        traces, engines, ..
    }: &mut Opened,
    setup: &Setup,
    texts: &'a Texts,
    n_predict: usize,
) -> Result<Fed<'a>, Error> {
    let mut sources = traces.sources(&texts.prompts);
    if texts.chat {
        sources = chat::render_prompts(sources, &setup.model, engines.vocab_for_chat())?;
    }
    let Tokenized { prompts, tokenizer } = engines.tokenize(&sources)?;
    traces.check_prompts(&prompts, n_predict)?;
    let text = texts.text.as_ref();
    let windows = text.map(|text| Windows::new(text, engines)).transpose()?;
    Ok(Fed {
        sources,
        prompts,
        tokenizer,
        text,
        strings: texts.strings,
        windows,
    })
}

/// What came of the comparison.
struct Results<'p> {
    measured: Measurements<'p>,
    /// Whether that ended where an engine failed.
    cut_short: bool,
    conditions: Option<Judged>,
    logits: Vec<LogitsResult>,
    /// Tokens of the text that were to be scored, if there is one.
    to_score: Option<usize>,
    on_text: Option<OnText>,
    tokens: TokenParity,
}

/// Compares as long as both engines live.
fn compare<'p>(
    Opened {
        traces, engines, ..
    }: &mut Opened,
    setup: &Setup,
    scope: &Scope,
    plan: &'p Plan<'p>,
    fed: &Fed,
    watch: &mut Stopwatch,
    progress: Progress<'_>,
) -> Results<'p> {
    let mut measured = Measurements::nothing(plan);
    let start = Instant::now();
    let done = engines.attempt(|engines| measured.measure(engines, setup, traces, watch, progress));
    let took = start.elapsed();
    let conditions = engines.attempt(|engines| {
        let subject = conditions::Comparison {
            setup,
            extent: scope.conditions,
            traces,
            plan,
            measured: &measured,
            took,
        };
        watch.time((Source::Conditions, None, None), || {
            conditions::measure(engines, &subject, progress)
        })
    });
    let windows = fed.windows.as_ref();
    let on_text = windows.and_then(|windows| {
        let threads = plan.settings.threads;
        let limit = plan
            .profile
            .cumulative_logits_limit(measured.reference_noise());
        engines.attempt(|engines| {
            watch.time((Source::Perplexity, None, None), || {
                windows.measure(&mut engines.pair(), threads, limit, progress)
            })
        })
    });
    let tokens = engines.attempt(|engines| {
        watch.time((Source::Tokenizer, None, None), || {
            tokenizers::compare(engines, fed, progress)
        })
    });
    let tokens = tokens.unwrap_or_else(|| {
        let why = match interrupt::received() {
            Some(_) => "the run was interrupted",
            None => "an engine failed",
        };
        tokenizers::not_compared(fed.tokenizer.clone(), why.to_owned())
    });
    let mut logits = measured.logits_results();
    engines.attempt(|engines| pieces::name_tokens(&mut engines.pair(), &mut logits));
    Results {
        measured,
        cut_short: done.is_none(),
        conditions: conditions.flatten(),
        logits,
        to_score: windows.map(Windows::scored),
        on_text: on_text.flatten(),
        tokens,
    }
}

/// Times both engines on the first prompt. Their tokens must be those of the comparison.
fn time(
    Opened {
        traces, engines, ..
    }: &mut Opened,
    setup: &Setup,
    plan: &Plan,
    generation: Option<&Generation>,
    watch: &mut Stopwatch,
    progress: Progress<'_>,
) -> Option<bench::Timed> {
    if traces.any() {
        return None;
    }
    let prompt = plan.prompts.first()?.tokens.as_slice();
    let steps = plan.n_predict.saturating_sub(1);
    let timed = bench::BenchPlan {
        setup,
        threads: &[plan.settings.threads],
        repetitions: bench::REPETITIONS,
        most_repetitions: bench::MOST_REPETITIONS,
        n_ctx: plan.settings.n_ctx,
        prefill: &[prompt],
        decode: (steps > 0).then_some(bench::Decode { prompt, steps }),
        untimed: generation,
        load: prompt.get(..1),
        // The workers of the comparison have it mapped.
        cold: false,
        compact_head_budget: 0,
        work: roofline::work_of(&plan.facts),
        n_layer: plan.facts.n_layer,
        n_vocab: plan.facts.n_vocab,
        kernels: true,
    };
    engines.attempt(|_| {
        progress.stage("timing");
        watch.time((Source::Timing, None, None), || {
            bench::bench(&timed, progress)
        })
    })
}

/// What the results mean.
struct Conclusion {
    verdict: Verdict,
    known: Vec<KnownDeviation>,
    allowed: Allowed,
    amplified: Amplifications,
    /// Of the engines against themselves.
    noise: HeardNoise,
    /// Of the logits under other conditions.
    conditions: SpokenFor,
    generation: Option<Generation>,
    spot_check: Option<SpotCheck>,
}

fn judge(
    Opened {
        traces,
        engines,
        file,
    }: &mut Opened,
    setup: &Setup,
    (known, seed): (&Ledger, Option<u64>),
    plan: &Plan,
    results: &Results,
    timed: Option<&bench::Timed>,
    progress: Progress<'_>,
) -> Conclusion {
    let measured = &results.measured;
    let generation = measured.generation.as_ref();
    let coverage = measured.coverage();
    let exceeded = measured.exceeded();
    let names = Role::BOTH.map(|role| traces.name(setup, role));
    let [reference, candidate] = names.each_ref().map(String::as_str);
    let called = Role::BOTH.map(|role| match traces.of(role) {
        Some(_) => traces.name(setup, role),
        None => engines.pair().engine(role).label().to_owned(),
    });
    let mut known = known.apply(&Occurred {
        architecture: &plan.facts.architecture,
        reference,
        candidate,
        modes: &plan.modes,
        sites: exceeded.iter().map(|&(site, _)| site).collect(),
        generation: generation.map(generation::differs),
        complete: coverage.compared == coverage.expected,
        today: today(),
    });
    progress.stage("hearing the ledger");
    let mut oracle = Oracle::new(setup, plan, seed.unwrap_or_default());
    let excuses =
        engines.attempt(|engines| excuse(&mut known, engines, &mut oracle, setup, plan, measured));
    // An engine that failed has not been heard: nothing is excused, and the run has failed anyway.
    let excuses = excuses.unwrap_or(Excuses::none());
    progress.stage("asking the oracle");
    let rulings =
        engines.attempt(|engines| hear_taps(engines, &mut oracle, setup, plan, measured, &excuses));
    let rulings = rulings.unwrap_or(Rulings::none());
    let allowed = Allowed::of(&rulings, &known, measured);
    let exceeded = exceeded.into_iter();
    let exceeded: Vec<_> = exceeded.filter(|(site, _)| !allowed.site(site)).collect();
    progress.stage("asking about roundings");
    let amplified = engines.attempt(|engines| {
        let open = to_be_asked(&exceeded, &excuses, measured, traces);
        hear_logits(engines, &mut oracle, plan, measured, open)
    });
    let amplified = amplified.unwrap_or_default();
    let generation = measured.generation.clone();
    let generation = generation.map(|generation| amplified.mark_generation(generation));
    let exceeded = exceeded.into_iter();
    let exceeded = exceeded.filter(|(site, _)| !amplified.site(site));
    let exceeded = exceeded.map(|(site, row)| (site, rulings.first_wrong(&site).unwrap_or(row)));
    let exceeded: Vec<_> = exceeded.collect();
    let prompts_differ = exceeded
        .iter()
        .any(|(site, _)| (site.mode, site.tap) == (Mode::Cumulative, Tap::Logits));
    let too_noisy = measured.too_noisy(&exact_engines(setup, traces));
    let noise = HeardNoise::of(&too_noisy, measured, traces, engines, &mut oracle, plan);
    let on_text = results.on_text.as_ref();
    let perplexity = on_text.map(|on_text| &on_text.perplexity);
    let shown = Shown {
        exceeded,
        prompts: plan.prompts,
        generation: generation.as_ref(),
        coverage: &coverage,
        cut_short: results.cut_short,
        required_not_compared: plan.required_not_compared(),
        not_repeatable: &measured.not_repeatable,
        too_noisy: noise.findings.clone(),
        timed,
        to_score: results.to_score,
        perplexity,
        tokens: &results.tokens,
        engines: called.each_ref().map(String::as_str),
        known: &known,
        excuses: &excuses,
        rulings: &rulings,
    };
    let mut compared = Compared {
        first_divergence: shown.first_divergence(),
        differ: shown.differ(),
        ruling: None,
    };
    let mut generated = Vec::new();
    if compared.first_divergence.is_none()
        && let Some((first, tokens)) = shown.first_beyond_generated()
    {
        compared.first_divergence = Some(first);
        generated = tokens;
    }
    let first = compared.first_divergence.as_ref();
    let to_hear = first.and_then(|first| match generated.as_slice() {
        [] => Some(measured.sequence(first.prompt)),
        // A trace cannot be asked for what is behind its decode steps.
        _ if traces.any() => None,
        prompt => Some(Sequence::new(prompt, &[])),
    });
    let spot_check = hear(
        engines,
        &mut oracle,
        plan,
        measured,
        seed,
        to_hear,
        &mut compared,
    );
    if let Some(first) = &mut compared.first_divergence
        && let Some(hint) = amplified.hint(first)
    {
        first.hint = Some(hint);
    }
    let broken = measured.first_not_finite().map(|row| {
        let mut judged = broken::divergence(&row, 0.0);
        let sequence = measured.sequence(row.site.prompt);
        let ruling = engines.attempt(|engines| {
            engines.configure(plan.settings)?;
            let Ok(court) = oracle.court() else {
                return Ok(None);
            };
            arbitrate(
                &mut judged,
                &mut engines.pair(),
                court,
                plan,
                sequence,
                false,
            )
        });
        broken::not_finite(&row, &judged, ruling.flatten())
    });
    let ignores = engines.attempt(|engines| overwriting::probe(engines, &mut oracle, setup, plan));
    let conditions = results.conditions.as_ref();
    let of_prompts = (prompts_differ, broken.is_none());
    let conditions =
        conditions.map(|judged| judged.findings(of_prompts, engines, &mut oracle, setup, plan));
    let on_text = on_text.and_then(|on_text| on_text.parted(&plan.profile));
    let on_text = on_text.map(|parted| parted.findings(engines, setup, plan).0);
    // The oracle's end counts, too.
    drop(oracle);
    engines.end();
    let mut findings = shown.findings(engines.failures());
    findings.extend(bad_ends(setup, &findings));
    findings.extend(rulings.findings(compared.first_divergence.as_ref(), compared.ruling));
    if let Some(check) = &spot_check {
        let wrong = spot_check::findings(check, &excuses, plan);
        compared.ruling = spot_check::with_wrong(compared.ruling, &wrong);
        findings.extend(wrong);
    }
    findings.extend(allowed.findings());
    findings.extend(amplified.findings(plan));
    findings.extend(on_text.into_iter().flatten());
    let (of_conditions, conditions) = conditions.unwrap_or_default();
    findings.extend(of_conditions);
    findings.extend(ignores.flatten());
    findings.extend(broken.into_iter().flatten());
    findings.extend(broken::vacuous(&coverage, &findings));
    findings.extend(broken::zero_tensors(engines.zero_tensors()));
    let packing = || {
        let window = results.on_text.as_ref()?.first_window.as_slice();
        let n_vocab = plan.facts.n_vocab;
        packing::hypothesis(
            &setup.launcher,
            &setup.model,
            window,
            n_vocab,
            plan.settings.threads,
        )
    };
    findings.extend(broken::worse_than_guessing(
        perplexity,
        &plan.facts,
        packing,
    ));
    findings.extend(engines.false_claims().iter().cloned());
    findings.extend(engines.warnings());
    findings.extend(activation::assumed(&plan.facts));
    findings.extend(model_file::faults(&setup.model));
    findings.extend(model_file::tiles(&setup.model));
    findings.extend(file.changed());
    Conclusion {
        verdict: verdict::conclude(findings, Some(compared)),
        known,
        allowed,
        amplified,
        noise,
        conditions,
        generation,
        spot_check,
    }
}

/// What is to be asked about where nothing else is open: logits that are beyond their limit, of prompts and before generated
/// tokens. A stage that is wrong accounts for them.
fn to_be_asked<'m>(
    exceeded: &[(Site, &Exceeded)],
    excuses: &Excuses,
    measured: &'m Measurements,
    traces: &Traces,
) -> ToBeAsked<'m> {
    let mut open = ToBeAsked::default();
    if exceeded.iter().any(|(site, _)| site.mode == Mode::Isolated) {
        return open;
    }
    let of_prompts = exceeded.iter().filter(|(site, _)| !excuses.site(site));
    open.prompts = of_prompts.map(|(site, _)| site.prompt).collect();
    let excused = excuses.generation(None);
    // A trace has no logits of what it was not asked then.
    if !excused && !traces.any() {
        let generations = measured.generation.iter();
        let generations = generations.flat_map(|g| [g].into_iter().chain(&g.further));
        open.generations = generations.collect();
    }
    open
}

/// The engines that give the same bits however many threads and whatever the batches: the Rust engine, also where a trace
/// answers in its place.
fn exact_engines(setup: &Setup, traces: &Traces) -> Vec<Role> {
    let exact = |role: &Role| {
        let recorded = || traces.name(setup, *role).parse();
        let is_rust = |spec: &EngineSpec| matches!(spec, EngineSpec::Rust { .. });
        is_rust(setup.spec(*role)) || recorded().is_ok_and(|spec| is_rust(&spec))
    };
    Role::BOTH.into_iter().filter(exact).collect()
}

/// Asks the oracle: of the first divergence, which is at the end of `sequence`, who is right, and of rows drawn by `seed`, whether they are.
fn hear(
    engines: &mut Loaded,
    oracle: &mut Oracle,
    plan: &Plan,
    measured: &Measurements,
    seed: Option<u64>,
    sequence: Option<Sequence>,
    compared: &mut Compared,
) -> Option<SpotCheck> {
    if seed.is_none() && sequence.is_none() {
        return None;
    }
    let checked = engines.attempt(|engines| {
        // Something else may have been measured since.
        engines.configure(plan.settings)?;
        let pair = &mut engines.pair();
        let mut court = oracle.court().map_err(no_ruling);
        if let (Some(first), Some(sequence)) = (&mut compared.first_divergence, sequence) {
            match &mut court {
                Ok(court) => {
                    compared.ruling =
                        arbitrate(first, pair, court, plan, sequence, seed.is_some())?;
                }
                Err(why) => first.hint = Some(why.clone()),
            }
        }
        let court = match &mut court {
            Ok(court) => Ok(&mut **court),
            Err(why) => Err(why.as_str()),
        };
        seed.map(|seed| spot_check(seed, pair, court, plan, measured))
            .transpose()
    });
    checked.flatten()
}
