//! The logits under conditions other than those in which the taps are compared.
//!
//! What a user runs is observed by nobody, in batches of any size, at any position of a context of any size, in a worker
//! that has done other things before. So both engines evaluate tokens drawn at random under all of that, and every row of
//! logits is held against the other engine's, and against the same engine's own under other conditions. The latter says
//! who is at fault. On large models it is a sample, and what it leaves out is named.

mod judged;
mod plan;
mod rows;
mod tally;

use std::time::{Duration, Instant};

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use crossval_protocol::Settings;
use reports::model::{Asked, History, Mode, Role};

pub(super) use self::judged::{Judged, SpokenFor};
use self::plan::{Fed, Step, Subject};
use self::rows::Asking;
use self::tally::Tally;
use super::Conditions;
use super::measurements::Measurements;
use super::plan::Plan;
use crate::engine::{Engine, EngineSpec, Failed, by};
use crate::progress::Progress;
use crate::session::loaded::Loaded;
use crate::session::pair::Pair;
use crate::session::setup::Setup;
use crate::session::traces::Traces;

/// Multiply-accumulates up to which no sample is taken: less than a second of one core.
const SMALL: f64 = 1e10;

/// Time after which no more of what is no sample is begun: an engine may be slow on a small model.
const PATIENCE: Duration = Duration::from_secs(20);

/// Time for what each two dimensions of a condition have met already, and all of them not yet.
const COMBINATIONS: Duration = Duration::from_secs(1);

/// Share of the time that the taps' comparison took that a sample may take.
const SHARE: f64 = 0.25;

/// Largest context of a sample, tokens: engines reserve memory for all of it.
const SAMPLED_CONTEXT: usize = 512;

/// What has been compared before.
pub(super) struct Comparison<'a> {
    pub(super) setup: &'a Setup,
    pub(super) extent: Conditions,
    pub(super) traces: &'a Traces,
    pub(super) plan: &'a Plan<'a>,
    pub(super) measured: &'a Measurements<'a>,
    /// How long that took.
    pub(super) took: Duration,
}

/// Compares the engines under other conditions. `None` if that was not asked for.
///
/// # Errors
/// The engine that failed.
pub(super) fn measure(
    engines: &mut Loaded,
    comparison: &Comparison,
    progress: Progress<'_>,
) -> Result<Option<Judged>, Failed> {
    let &Comparison {
        setup,
        extent,
        traces,
        plan,
        measured,
        took,
    } = comparison;
    if extent == Conditions::None {
        return Ok(None);
    }
    let seed = jiff::Timestamp::now().as_microsecond().unsigned_abs();
    let none = |why| Ok(Some(Judged::not_compared(seed, why)));
    if traces.any() {
        return none("a trace holds what was recorded, and cannot be asked");
    }
    if !plan.modes.contains(&Mode::Cumulative) {
        return none("cumulative mode was not asked for");
    }
    progress.stage("comparing other conditions");
    let mut rng = Rng::new(seed, "conditions");
    let sequences = Sequences::draw(plan, measured, &mut rng);
    let subject = Subject {
        facts: &plan.facts,
        settings: plan.settings,
        prompts: sequences
            .prompts
            .iter()
            .map(|p| (p.n_prompt, p.tokens.len() - p.n_prompt))
            .collect(),
        asked: asked(plan),
    };
    let oracle = Role::BOTH
        .iter()
        .any(|&role| *setup.spec(role) == EngineSpec::Oracle);
    let n_ctx = plan.facts.n_ctx_train;
    let cost = |steps: &[Step]| steps.iter().map(|s| subject.cost(&s.pass)).sum::<f64>();
    let all = subject.steps(n_ctx, true, &mut rng);
    let usual = subject.steps(n_ctx, false, &mut rng);
    let small = cost(&usual) <= SMALL && !oracle;
    let (first, more) = if extent == Conditions::All {
        (all.clone(), Vec::new())
    } else if small {
        (usual, all.clone())
    } else {
        let few = subject.few(&mut rng);
        let more = subject.more(n_ctx.min(SAMPLED_CONTEXT), &few, &mut rng);
        (few, more)
    };
    let mut workers = Workers {
        used: engines.pair(),
        used_settings: plan.settings,
        fresh: Fresh::start(setup)?,
        fresh_settings: None,
        sequences: &sequences,
        taps: &plan.taps,
        n_vocab: plan.facts.n_vocab,
        threads: plan.settings.threads,
        tally: Tally::default(),
    };
    let start = Instant::now();
    let mut done = 0.0;
    for step in &first {
        if extent != Conditions::All && start.elapsed() > PATIENCE {
            break;
        }
        workers.make(step)?;
        done += subject.cost(&step.pass);
    }
    let budget = match small {
        true => (start.elapsed() + COMBINATIONS).min(PATIENCE),
        false => took.mul_f64(SHARE),
    };
    for step in &more {
        let cost = subject.cost(&step.pass);
        let new = !small || !workers.tally.has_met(step);
        if new && start.elapsed().mul_f64(1.0 + cost / done) <= budget {
            workers.make(step)?;
            done += cost;
        }
    }
    let tally = workers.tally;
    engines.configure(plan.settings)?;
    let noise = measured.reference_noise();
    Ok(Some(
        tally.judge(seed, &all, setup, plan, noise, &sequences),
    ))
}

/// How logits can be asked for where both engines offer these taps.
fn asked(plan: &Plan) -> Vec<Asked> {
    let logits = plan.taps.contains(&Tap::Logits).then_some(Asked::Logits);
    let beside = beside(&plan.taps).map(|_| Asked::BesideTaps);
    logits
        .into_iter()
        .chain(beside)
        .chain([Asked::LastLogits])
        .collect()
}

/// A tap to be asked for beside the last logits: the latest, so that everything before it is computed.
fn beside(taps: &[Tap]) -> Option<Tap> {
    taps.iter().copied().rfind(|&tap| tap != Tap::Logits)
}

/// What is fed to the engines.
struct Sequences {
    probe: Vec<u32>,
    before: Vec<u32>,
    prompts: Vec<PromptTokens>,
}

struct PromptTokens {
    n_prompt: usize,
    tokens: Vec<u32>,
}

impl Sequences {
    fn draw(plan: &Plan, measured: &Measurements, rng: &mut Rng) -> Sequences {
        let mut draw = || -> Vec<u32> {
            let tokens = (0..plan.facts.n_ctx_train).map(|_| rng.below(plan.facts.n_vocab) as u32);
            tokens.collect()
        };
        Sequences {
            probe: draw(),
            before: draw(),
            prompts: (0..plan.prompts.len())
                .map(|prompt| {
                    let sequence = measured.sequence(prompt);
                    PromptTokens {
                        n_prompt: sequence.prompt.len(),
                        tokens: sequence.tokens(),
                    }
                })
                .collect(),
        }
    }

    fn tokens(&self, fed: Fed) -> &[u32] {
        match fed {
            Fed::Probe => &self.probe,
            Fed::Before => &self.before,
            Fed::Prompt(prompt) => &self.prompts[prompt].tokens,
        }
    }
}

/// A worker of each engine that has done nothing yet.
struct Fresh {
    reference: Engine,
    candidate: Engine,
}

impl Fresh {
    fn start(setup: &Setup) -> Result<Fresh, Failed> {
        let start = |role| Ok(setup.start_another(role, None)?.0);
        Ok(Fresh {
            reference: start(Role::Reference)?,
            candidate: start(Role::Candidate)?,
        })
    }

    fn pair(&mut self) -> Pair<'_> {
        Pair {
            reference: &mut self.reference,
            candidate: &mut self.candidate,
        }
    }
}

/// Two workers of each engine, and what they have answered.
struct Workers<'a> {
    used: Pair<'a>,
    used_settings: Settings,
    fresh: Fresh,
    fresh_settings: Option<Settings>,
    sequences: &'a Sequences,
    taps: &'a [Tap],
    n_vocab: usize,
    threads: usize,
    tally: Tally,
}

impl Workers<'_> {
    /// Makes a pass in both engines.
    fn make(&mut self, step: &Step) -> Result<(), Failed> {
        let Step { worker, pass } = step;
        let settings = pass.settings(self.threads);
        let (mut pair, configured) = match worker {
            History::Fresh => (self.fresh.pair(), self.fresh_settings.replace(settings)),
            History::Used => {
                let before = std::mem::replace(&mut self.used_settings, settings);
                let Pair {
                    reference,
                    candidate,
                } = &mut self.used;
                (
                    Pair {
                        reference,
                        candidate,
                    },
                    Some(before),
                )
            }
        };
        if configured != Some(settings) {
            for role in Role::BOTH {
                pair.engine(role).configure(settings).map_err(by(role))?;
            }
        }
        let tokens = self.sequences.tokens(pass.fed);
        for (index, (first, batch)) in pass.placed().enumerate() {
            let end = first + batch.size;
            pair.set_task(&format!(
                "evaluating positions {first}..{end} of a context of {} in a {worker}, {}",
                pass.n_ctx, batch.asked
            ));
            let tokens = &tokens[first..end];
            self.tally.evaluated(*worker);
            match batch.asked {
                Asked::Generated => {
                    for role in Role::BOTH {
                        let generated = pair.engine(role).generate(tokens, 1);
                        let (generated, ..) = generated.map_err(by(role))?;
                        self.tally.generated(role, step, batch, &generated);
                    }
                }
                _ => {
                    let beside = beside(self.taps);
                    let asking = Asking {
                        first,
                        batch,
                        taps: match batch.asked {
                            Asked::Logits => &[Tap::Logits],
                            Asked::AllTaps => self.taps,
                            Asked::BesideTaps => beside.as_slice(),
                            _ => &[],
                        },
                        n_vocab: self.n_vocab,
                    };
                    for role in Role::BOTH {
                        asking.begin(pair.engine(role), tokens).map_err(by(role))?;
                    }
                    let [reference, candidate] =
                        Role::BOTH.map(|role| asking.finish(pair.engine(role)).map_err(by(role)));
                    self.tally
                        .add(step, index, &asking, [reference?, candidate?]);
                }
            }
        }
        Ok(())
    }
}
