//! `crossval selftest`: proof that the gate can go red.
//!
//! Every kind of fault is put into the engine under test at random places, one at a time, and the whole comparison is
//! run: is it seen, at the right layer and tap, and is the right engine blamed? A fault that changes nothing at its
//! place is no fault there (a head mapping without shared heads, a rounding mode where there are no ties, an eps that
//! does less than f32 rounding): such places are listed apart.

use std::collections::BTreeSet;

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use reports::Report;
use reports::model::{AtFault, Mode, Status};
use reports::outcome::Outcome;
use serde::Serialize;

use crate::engine::EngineSpec;
use crate::error::Error;
use crate::interrupt;
use crate::parity::{self, RunOptions};
use crate::progress::Progress;

/// The value of [`SelfTest::schema`].
pub const SCHEMA: &str = "crossval.selftest/1";

/// A kind of fault that an engine can be started with: what is done wrong, to which values, and where.
#[derive(Clone, Debug)]
pub struct FaultKind {
    /// What is done wrong.
    pub mistake: String,
    /// To which values of a stage; `None` for all of them.
    pub scope: Option<String>,
    /// Stages at which it can be.
    pub taps: Vec<Tap>,
    /// What must be there for it to have consequences; `None` if it always has.
    pub needs: Option<String>,
}

impl FaultKind {
    /// Mistake and scope.
    pub fn name(&self) -> String {
        match &self.scope {
            None => self.mistake.clone(),
            Some(scope) => format!("{}, {scope}", self.mistake),
        }
    }

    /// The fault at a place, as an engine takes it: `MISTAKE:TAP[:LAYER][:SCOPE]`.
    pub fn at(&self, tap: Tap, layer: Option<usize>) -> String {
        let mut fault = format!("{}:{tap}", self.mistake);
        if let Some(layer) = layer {
            fault += &format!(":{layer}");
        }
        if let Some(scope) = &self.scope {
            fault += &format!(":{scope}");
        }
        fault
    }
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
    /// The engine compared against.
    pub reference: String,
    /// Seed of the places.
    pub seed: u64,
    /// The run without a fault: its status.
    pub control: Status,
    /// Every fault that was injected.
    pub injected: Vec<Injected>,
    /// Faults that change nothing at their place.
    pub excluded: Vec<Excluded>,
}

/// A fault, and what the comparison made of it.
#[derive(Clone, Debug, Serialize)]
pub struct Injected {
    /// As for `--fault`.
    pub fault: String,
    /// The kind: mistake and scope.
    pub kind: String,
    /// Its tap.
    pub tap: String,
    /// Its layer; null outside the layers.
    pub layer: Option<usize>,
    /// Values that it changed.
    pub changed_values: u64,
    /// The run failed for it.
    pub detected: bool,
    /// The first divergence is at its layer and tap.
    pub located: bool,
    /// The candidate, and only it, is at fault.
    pub blamed: bool,
    /// Tap of the first divergence; null if there is none.
    pub first_tap: Option<String>,
    /// Layer of the same.
    pub first_layer: Option<usize>,
    /// NMSE of the row there; null if not finite, or none.
    pub nmse: Option<f64>,
    /// What the data show about the cause.
    pub hint: Option<String>,
}

/// A fault that changes nothing at its place.
#[derive(Clone, Debug, Serialize)]
pub struct Excluded {
    /// As for `--fault`.
    pub fault: String,
    /// The kind: mistake and scope.
    pub kind: String,
    /// What would have to be there for it to have consequences; null if only the inputs decide.
    pub needs: Option<String>,
}

impl SelfTest {
    /// Whether every fault was detected, and the run without one passed.
    pub fn passed(&self) -> bool {
        self.control == Status::Pass
            && !self.injected.is_empty()
            && self.injected.iter().all(|i| i.detected)
    }
}

/// A fault of a kind at one place.
struct Place<'a> {
    kind: &'a FaultKind,
    tap: Tap,
    layer: Option<usize>,
}

impl Place<'_> {
    fn fault(&self) -> String {
        self.kind.at(self.tap, self.layer)
    }
}

/// Injects each of `kinds` at up to `places` random places.
///
/// # Errors
/// Whatever keeps a run from being carried out.
pub fn selftest(
    options: &RunOptions,
    kinds: &[FaultKind],
    places: usize,
    seed: u64,
    progress: Progress<'_>,
) -> Result<SelfTest, Error> {
    let control = parity::run(options, Progress::silent())?;
    if let [reason, ..] = control.verdict.reasons.as_slice()
        && control.verdict.outcome() == Outcome::Engine
    {
        return Err(Error::Engine(format!("the run without a fault: {reason}")));
    }
    let mut test = SelfTest {
        schema: SCHEMA.to_owned(),
        created: jiff::Timestamp::now().to_string(),
        model: control.model.path.clone(),
        model_sha256: control.model.sha256.clone(),
        reference: control.engines.reference.name.clone(),
        seed,
        control: control.verdict.status,
        injected: Vec::new(),
        excluded: Vec::new(),
    };
    let mut rng = Rng::new(seed, "places");
    progress.steps(kinds.len() as u64);
    for kind in kinds {
        let mut everywhere = places_of(kind, &control);
        everywhere.sort_by_cached_key(|_| rng.next_u64());
        progress.stage(kind.name());
        let mut injected = 0;
        for place in everywhere {
            if injected == places {
                break;
            }
            let report = with_fault(options, &place)?;
            interrupt::check()?;
            match report.engines.candidate.changed_values {
                Some(0) => test.excluded.push(Excluded {
                    fault: place.fault(),
                    kind: kind.name(),
                    needs: kind.needs.clone(),
                }),
                changed => {
                    injected += 1;
                    test.injected
                        .push(judge(&place, changed.unwrap_or(0), &report));
                }
            }
        }
        progress.done(1);
    }
    Ok(test)
}

/// Every place that a fault of a kind can be at.
fn places_of<'a>(kind: &'a FaultKind, control: &Report) -> Vec<Place<'a>> {
    let taps: BTreeSet<Tap> = control
        .taps
        .iter()
        .filter_map(|t| t.tap.parse().ok())
        .collect();
    let mut places = Vec::new();
    for &tap in kind.taps.iter().filter(|tap| taps.contains(tap)) {
        let layers = match tap.per_layer() {
            true => (0..control.model.n_layer).map(Some).collect(),
            false => vec![None],
        };
        let of_tap = layers.into_iter().map(|layer| Place { kind, tap, layer });
        places.extend(of_tap);
    }
    places
}

fn with_fault(options: &RunOptions, place: &Place) -> Result<Report, Error> {
    let mut options = options.clone();
    options.setup.candidate = EngineSpec::Rust {
        fault: Some(place.fault()),
    };
    options.scope.modes = vec![Mode::Isolated];
    // What is proven is that the comparison sees a fault, without the oracle's help.
    options.scope.spot_check = None;
    parity::run(&options, Progress::silent())
}

fn judge(place: &Place, changed_values: u64, report: &Report) -> Injected {
    let verdict = &report.verdict;
    let first = verdict.first_divergence.as_ref();
    let detected = verdict.status == Status::Fail;
    let there = |tap: &str, layer| tap == place.tap.name() && layer == place.layer;
    Injected {
        fault: place.fault(),
        kind: place.kind.name(),
        tap: place.tap.to_string(),
        layer: place.layer,
        changed_values,
        detected,
        located: detected && first.is_some_and(|f| there(&f.tap, f.layer)),
        blamed: detected && verdict.at_fault == AtFault::Candidate,
        first_tap: first.map(|f| f.tap.clone()),
        first_layer: first.and_then(|f| f.layer),
        nmse: first.and_then(|f| f.nmse),
        hint: first.and_then(|f| f.hint.clone()),
    }
}
