//! `crossval selftest`: proof that the gate can go red.
//!
//! Every kind of fault is put into an engine at random places, one at a time, and the comparison that has to show it is
//! run: is it seen, at the right place, and is the right engine blamed? Faults are put into the candidate and into the
//! reference, one and two at once, and compared in isolated and in cumulative mode; around the stages of a model there are
//! generation, texts, tokenizers, times and the gate on speed to go red.
//!
//! A fault that changes nothing at its place is no fault there (a head mapping without shared heads, a rounding mode where
//! there are no ties, an eps that does less than f32 rounding): such places are listed apart. One that is bound to a
//! condition is not excused: where it changes nothing, the condition did not arise, and nobody tested it.
//!
//! | module | what |
//! |---|---|
//! | `plan` | which faults are put where |
//! | `trial` | one run with faults, and what came of it |

mod plan;
mod trial;

use std::path::Path;

use bitnet_model::tap::Tap;
use reports::model::{AtFault, Mode, Role, Status};
use reports::outcome::Outcome;
use serde::Serialize;

use self::plan::{Draw, Plan};
use self::trial::{Trial, Trials};
use crate::error::Error;
use crate::interrupt;
use crate::parity::RunOptions;
use crate::progress::Progress;

/// The value of [`SelfTest::schema`].
pub const SCHEMA: &str = "crossval.selftest/1";

/// Share of the faults that must be found where they are.
pub const LOCATED: f64 = 0.99;

/// Share of the faults for which the right engine must be blamed.
pub const BLAMED: f64 = 0.98;

/// A kind of fault that an engine can be started with.
#[derive(Clone, Debug)]
pub struct FaultKind {
    /// What it is a kind of.
    pub family: String,
    /// In words.
    pub name: String,
    /// What has to show it.
    pub proof: Proof,
    /// What must be there for it to have consequences; `None` if it always has.
    pub needs: Option<String>,
    /// Whether it may change nothing at a place, and is no fault there.
    pub may_change_nothing: bool,
    /// What the engine that has it does differently beside, and is right in, as an engine takes it.
    pub behind: Option<String>,
    /// Every place that it can be at.
    pub places: Vec<FaultAt>,
}

/// A fault, as an engine takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultAt {
    /// Its text form.
    pub fault: String,
    /// The tap at which it is made; `None` for one around the stages.
    pub tap: Option<Tap>,
    /// The layer.
    pub layer: Option<usize>,
    /// The same fault in every layer, where there are layers.
    pub in_every_layer: Option<String>,
}

/// What has to show a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proof {
    /// The comparison of one prompt's taps, in isolated mode; in cumulative mode too if it shows in logits.
    Taps {
        /// Whether it changes the logits by more than rounding does.
        in_logits: bool,
    },
    /// The comparison under several conditions: prompts, batches, threads, with taps and without.
    Conditions,
    /// Tokens generated.
    Generation,
    /// The score of a text.
    Text,
    /// Texts tokenized.
    Tokenizer,
    /// Times, and what is generated meanwhile.
    Times,
    /// The speed, held against a baseline.
    Speed,
}

impl Proof {
    /// Its name in the JSON.
    fn name(self) -> &'static str {
        match self {
            Proof::Taps { .. } => "taps",
            Proof::Conditions => "conditions",
            Proof::Generation => "generation",
            Proof::Text => "text",
            Proof::Tokenizer => "tokenizer",
            Proof::Times => "times",
            Proof::Speed => "speed",
        }
    }
}

/// What to try.
pub struct SelfTestOptions<'a> {
    /// The engines, the model and the limits. What is fed and compared follows from what has to show a fault.
    pub run: &'a RunOptions,
    /// The kinds of faults in a model that has these taps, and so many layers.
    pub kinds: &'a dyn Fn(&[Tap], usize) -> Vec<FaultKind>,
    /// Families that are tried; all of them if none is named.
    pub families: &'a [String],
    /// Kinds of each family that are tried, at random; all of them if `None`.
    pub kinds_of_family: Option<usize>,
    /// Faults of each kind.
    pub places: usize,
    /// Seed of kinds and places.
    pub seed: u64,
    /// Positions that the model has.
    pub n_ctx: usize,
    /// Tokens that it has.
    pub n_vocab: usize,
    /// A folder for the baseline of the speed.
    pub scratch: &'a Path,
}

/// What came of a self-test.
#[derive(Clone, Debug, Serialize)]
pub struct SelfTest {
    /// Always `crossval.selftest/1`.
    pub schema: String,
    /// When it started, RFC 3339, UTC.
    pub created: String,
    /// Path of the model.
    pub model: String,
    /// SHA-256 of the model, hex.
    pub model_sha256: String,
    /// The engine compared against, where the fault is in the candidate.
    pub reference: String,
    /// Seed of the places.
    pub seed: u64,
    /// The runs without a fault: `pass` if each is one.
    pub control: Status,
    /// Why one of them is none.
    pub control_reasons: Vec<String>,
    /// Every fault that was injected.
    pub injected: Vec<Injected>,
    /// Faults that change nothing at their place.
    pub excluded: Vec<Excluded>,
}

/// A fault or two at once, and what the comparison made of it.
#[derive(Clone, Debug, Serialize)]
pub struct Injected {
    /// As for `--fault`; of two engines, that of the candidate.
    pub fault: String,
    /// The reference's, if each engine has one.
    pub other_fault: Option<String>,
    /// What it is a kind of.
    pub family: String,
    /// The kind.
    pub kind: String,
    /// The engines that have one.
    pub roles: Vec<Role>,
    /// Modes of the comparison.
    pub modes: Vec<Mode>,
    /// What has to show it: taps, conditions, generation, text, tokenizer, times or speed.
    pub proof: &'static str,
    /// Its tap, of several the first; null for a fault around the stages.
    pub tap: Option<String>,
    /// Its layer; null outside the layers.
    pub layer: Option<usize>,
    /// Values that it changed.
    pub changed_values: u64,
    /// The run failed for it.
    pub detected: bool,
    /// It was found where it is: at its layer and tap, or by what has to show it.
    pub located: bool,
    /// The engines that have it, and only they, are at fault.
    pub blamed: bool,
    /// The run's exit code.
    pub exit_code: u8,
    /// Who is at fault, by the run's verdict.
    pub at_fault: AtFault,
    /// Tap of the first divergence; of a cumulative one, where the oracle says that the engine goes wrong; null if there
    /// is none.
    pub first_tap: Option<String>,
    /// Layer of the same.
    pub first_layer: Option<usize>,
    /// NMSE of the row there; null if not finite, or none.
    pub nmse: Option<f64>,
    /// What the data show about the cause.
    pub hint: Option<String>,
    /// The run's reasons.
    pub reasons: Vec<String>,
}

/// A fault that changes nothing at its place.
#[derive(Clone, Debug, Serialize)]
pub struct Excluded {
    /// As for `--fault`.
    pub fault: String,
    /// What it is a kind of.
    pub family: String,
    /// The kind.
    pub kind: String,
    /// What would have to be there for it to have consequences; null if only the inputs decide.
    pub needs: Option<String>,
}

impl SelfTest {
    /// Whether every fault was detected, [`LOCATED`] of them where they are and [`BLAMED`] on the right engine, and the
    /// runs without one passed.
    pub fn passed(&self) -> bool {
        let share = |is: fn(&Injected) -> bool| {
            let n = self.injected.iter().filter(|i| is(i)).count();
            n as f64 / self.injected.len().max(1) as f64
        };
        self.control == Status::Pass
            && share(|i| i.detected) == 1.0
            && share(|i| i.located) >= LOCATED
            && share(|i| i.blamed) >= BLAMED
    }
}

/// Puts each kind of fault in at random places, and sees what becomes of it.
///
/// # Errors
/// Whatever keeps a run from being carried out; [`Error::Usage`] for a family that is none.
pub fn selftest(options: &SelfTestOptions, progress: Progress<'_>) -> Result<SelfTest, Error> {
    let created = jiff::Timestamp::now().to_string();
    let mut trials = Trials::new(options);
    progress.stage("without a fault");
    let control = trials.control(Proof::Taps { in_logits: true }, None)?;
    if let [reason, ..] = control.verdict.reasons.as_slice()
        && control.verdict.outcome() == Outcome::Engine
    {
        return Err(Error::Engine(format!("the run without a fault: {reason}")));
    }
    let plan = Plan::new(options, &control)?;
    let mut test = SelfTest {
        schema: SCHEMA.to_owned(),
        created,
        model: control.model.path.clone(),
        model_sha256: control.model.sha256.clone(),
        reference: control.engines.reference.name.clone(),
        seed: options.seed,
        control: Status::Pass,
        control_reasons: Vec::new(),
        injected: Vec::new(),
        excluded: Vec::new(),
    };
    for (proof, behind) in plan.controls() {
        let report = trials.control(proof, behind)?;
        interrupt::check()?;
        if report.verdict.status != Status::Pass {
            test.control = report.verdict.status;
            test.control_reasons.extend(report.verdict.reasons);
        }
    }
    progress.steps(plan.draws.len() as u64);
    for draw in &plan.draws {
        progress.stage(draw.name.clone());
        try_all(draw, options.places, &mut trials, &mut test)?;
        progress.done(1);
    }
    Ok(test)
}

/// Tries faults of a kind until there are enough that change something.
fn try_all(
    draw: &Draw,
    wanted: usize,
    trials: &mut Trials,
    test: &mut SelfTest,
) -> Result<(), Error> {
    let mut places = draw.places.clone();
    let mut done: Vec<Trial> = Vec::new();
    for slot in 0..wanted {
        while let Some(place) = places.pop_front() {
            let trial = Trial::new(draw, place.clone(), slot);
            if done.contains(&trial) {
                places.push_front(place);
                break;
            }
            let report = trials.run(&trial)?;
            interrupt::check()?;
            if draw.may_change_nothing && trial.changed(&report) == Some(0) {
                test.excluded.push(Excluded {
                    fault: trial.faults(),
                    family: draw.family.clone(),
                    kind: draw.name.clone(),
                    needs: draw.needs.clone(),
                });
                continue;
            }
            test.injected.push(trial.judge(draw, &report));
            done.push(trial);
            places.push_back(place);
            break;
        }
    }
    Ok(())
}
