//! Engines that differ from themselves by more than they may: the oracle says whether it is a rounding in another order,
//! amplified over the layers, as it does of logits that differ between the engines.
//!
//! Every row must come about again as it was: what an engine does but once, or only in a worker with a history, no layer
//! has amplified. Then the worst of them are heard, in both ways in which the engine evaluated them.

use std::ops::Range;

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use crossval_protocol::Settings;
use reports::model::{Amplified, Finding, NoiseFloor, Role, Source, WrongStage};
use reports::outcome::Outcome;

use super::amplified::{described, noted};
use super::arbitration::NoRuling;
use super::court::Oracle;
use super::inquiry::{Answer, Inquiry, Way};
use super::measurements::{Measurements, TooNoisy};
use super::parted::{HEARINGS, together};
use super::plan::Plan;
use super::spot_check::seed_of_now;
use crate::compare::tap::{Beyond, row_nmse};
use crate::compare::worst::Worst;
use crate::engine::{Engine, EngineError, Failed, by};
use crate::session::batches::{Sequence, rows};
use crate::session::loaded::Loaded;
use crate::session::lockstep::aligned;
use crate::session::noise;
use crate::session::traces::Traces;

/// By how much an NMSE may be another when the row comes about again, as a share of it: logits that were asked for in
/// another way are rounded in another way, once.
const SAME: f64 = 1e-2;

/// An engine that differs from itself.
#[derive(Clone, Debug)]
pub(super) struct Strayed {
    pub(super) role: Role,
    pub(super) source: Source,
    pub(super) text: String,
    /// NMSE of the worst row.
    pub(super) nmse: f64,
    /// What it may be.
    pub(super) limit: f64,
    /// Where it does, as far as that can be asked for again; nothing if it cannot.
    pub(super) cases: Vec<Case>,
}

/// Tokens that an engine evaluates in two ways.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) tokens: Vec<u32>,
    /// Sizes of the batches, all of the tokens, and the settings.
    pub(super) ways: [(Vec<usize>, Settings); 2],
    /// Positions whose rows were held against each other.
    pub(super) positions: Range<usize>,
    /// NMSE of the worst of those, if that is known of this case alone.
    pub(super) nmse: Option<f64>,
}

/// What the oracle says of it.
enum Heard {
    Wrong(WrongStage),
    Amplified(Amplified),
    Nothing,
}

/// What the noise of the engines comes to, heard.
#[derive(Debug, Default)]
pub(super) struct HeardNoise {
    /// That an engine differs from itself by more than it may, or what speaks for that.
    pub(super) findings: Vec<Finding>,
    /// What speaks for an engine, by what was varied.
    spoken_for: Vec<(Role, String, Amplified)>,
}

impl HeardNoise {
    /// Hears the oracle about engines that are too noisy.
    pub(super) fn of(
        too_noisy: &[TooNoisy],
        measured: &Measurements,
        traces: &Traces,
        engines: &mut Loaded,
        oracle: &mut Oracle,
        plan: &Plan,
    ) -> HeardNoise {
        let mut heard = HeardNoise::default();
        for noisy in too_noisy {
            let strayed = Strayed::by_noise(noisy, measured, traces, plan);
            let (finding, amplified) = strayed.finding(engines, oracle, plan);
            let spoken_for = amplified.map(|a| (noisy.role, noisy.varied.clone(), a));
            heard.findings.push(finding);
            heard.spoken_for.extend(spoken_for);
        }
        heard
    }

    /// Says so in the measurements.
    pub(super) fn mark(&self, floor: Option<NoiseFloor>) -> Option<NoiseFloor> {
        let mut floor = floor?;
        for measurement in &mut floor.measurements {
            let mut spoken_for = self.spoken_for.iter();
            let of = spoken_for.find(|(role, varied, _)| {
                measurement.engine == role.name() && measurement.varied == *varied
            });
            measurement.amplified = of.map(|(_, _, amplified)| amplified.clone());
        }
        Some(floor)
    }
}

impl Strayed {
    fn by_noise(
        noisy: &TooNoisy,
        measured: &Measurements,
        traces: &Traces,
        plan: &Plan,
    ) -> Strayed {
        let &TooNoisy {
            role, nmse, cap, ..
        } = noisy;
        // One that may differ at all, and can be asked again.
        let may = cap > 0.0 && noisy.tap == Tap::Logits && traces.of(role).is_none();
        let cases = match noisy.generated {
            _ if !may => Vec::new(),
            Some(prompt) => {
                let generations = measured.generation.iter();
                let mut all = generations.flat_map(|g| [g].into_iter().chain(&g.further));
                let generation = all.find(|generation| generation.prompt == prompt);
                let case = generation.map(|generation| {
                    let tokens = role.of(&generation.reference, &generation.candidate);
                    let steps = &tokens[..tokens.len().saturating_sub(1)];
                    let sequence = Sequence::new(&plan.prompts[prompt].tokens, steps);
                    let first = sequence.prompt.len().saturating_sub(1);
                    Case::of_batches(sequence, plan.settings, first)
                });
                case.into_iter().collect()
            }
            None => {
                let sequences = (0..plan.prompts.len()).map(|prompt| measured.sequence(prompt));
                let case = |sequence: Sequence| match noise::is_of_threads(&noisy.varied) {
                    true => Case::of_threads(sequence, plan.settings),
                    false => Case::of_batches(sequence, plan.settings, sequence.prompt.len()),
                };
                sequences.map(case).collect()
            }
        };
        let Finding { source, text, .. } = noisy.fault();
        Strayed {
            role,
            source,
            text,
            nmse,
            limit: cap,
            cases,
        }
    }

    /// That it is the engine's fault; or what speaks for it.
    pub(super) fn finding(
        &self,
        engines: &mut Loaded,
        oracle: &mut Oracle,
        plan: &Plan,
    ) -> (Finding, Option<Amplified>) {
        let heard = engines.attempt(|engines| {
            let heard = self.hear(engines, oracle, plan)?;
            // In one way or the other it was not as for the rest of the run.
            engines.configure(plan.settings)?;
            Ok(heard)
        });
        let fault = |text| Finding {
            outcome: Outcome::Parity,
            source: self.source,
            place: Some(self.role.into()),
            text,
        };
        match heard {
            Some(Heard::Amplified(amplified)) => {
                let of_whom = format!("of the {}, in either way,", self.role);
                let note = noted(&amplified, &self.text, &of_whom, Some(self.role.into()));
                (note, Some(amplified))
            }
            Some(Heard::Wrong(stage)) => {
                let stage = described(&stage, "");
                let text = format!("{}; the oracle finds it wrong there: {stage}", self.text);
                (fault(text), None)
            }
            Some(Heard::Nothing) | None => (fault(self.text.clone()), None),
        }
    }

    fn hear(
        &self,
        engines: &mut Loaded,
        oracle: &mut Oracle,
        plan: &Plan,
    ) -> Result<Heard, Failed> {
        let mut again = Vec::new();
        for case in &self.cases {
            let engines = &mut engines.pair();
            let engine = engines.engine(self.role);
            engine.set_task("evaluating tokens again in two ways");
            let rows = case.again(engine).map_err(by(self.role))?;
            if case.nmse.is_some_and(|nmse| !among(&rows, nmse)) {
                return Ok(Heard::Nothing);
            }
            again.push((case, rows));
        }
        if !again.iter().any(|(_, rows)| among(rows, self.nmse)) {
            return Ok(Heard::Nothing);
        }
        for (_, rows) in &mut again {
            rows.retain(|row| Worst(Some(row.nmse)).exceeds(self.limit));
        }
        again.retain(|(_, rows)| !rows.is_empty());
        let worst = |rows: &[Beyond]| rows.iter().map(|row| row.nmse).fold(0.0, f64::max);
        again.sort_by(|(_, a), (_, b)| worst(b).total_cmp(&worst(a)));
        let Ok(court) = oracle.court() else {
            return Ok(Heard::Nothing);
        };
        let mut rng = Rng::new(seed_of_now(), "own logits");
        let mut heard: Option<Amplified> = None;
        for (n, (case, rows)) in again.iter().enumerate() {
            if heard.as_ref().is_some_and(|h| h.covers(worst(rows))) {
                break;
            }
            if n == HEARINGS {
                return Ok(Heard::Nothing);
            }
            let mut inquiry = Inquiry {
                court: &mut *court,
                plan,
                ways: case.ways(self.role),
                prompt: 0,
                compared: false,
                rng: &mut rng,
            };
            match inquiry.about(&mut engines.pair(), rows) {
                Ok(Answer::Right(more)) => heard = Some(together(heard, more)),
                Ok(Answer::Wrong(stages)) => {
                    let first = stages.into_iter().next();
                    return Ok(first.map_or(Heard::Nothing, Heard::Wrong));
                }
                Ok(Answer::Open(_)) | Err(NoRuling::Oracle(_)) => return Ok(Heard::Nothing),
                Err(NoRuling::Engine(failed)) => return Err(failed),
            }
        }
        Ok(heard.map_or(Heard::Nothing, Heard::Amplified))
    }
}

impl Case {
    /// With one number of threads and with another.
    fn of_threads(sequence: Sequence, settings: Settings) -> Case {
        let cut = sequence.sizes(settings.n_ubatch);
        let tokens = sequence.tokens();
        let other = Settings {
            threads: noise::other_threads(settings.threads),
            ..settings
        };
        Case {
            positions: 0..tokens.len(),
            tokens,
            ways: [(cut.clone(), settings), (cut, other)],
            nmse: None,
        }
    }

    /// The steps one by one and as part of the prompt, from a position on.
    fn of_batches(sequence: Sequence, settings: Settings, first: usize) -> Case {
        let tokens = sequence.tokens();
        let whole = Sequence::new(&tokens, &[]);
        let ways = [sequence, whole].map(|s| (s.sizes(settings.n_ubatch), settings));
        Case {
            positions: first..tokens.len(),
            tokens,
            ways,
            nmse: None,
        }
    }

    fn ways(&self, role: Role) -> [Way<'_>; 2] {
        self.ways.each_ref().map(|(cut, settings)| Way {
            role,
            sequence: Sequence::cut(&self.tokens, cut),
            settings: *settings,
        })
    }

    /// How far apart the rows are this time.
    fn again(&self, engine: &mut Engine) -> Result<Vec<Beyond>, EngineError> {
        let mut logits: [Vec<Vec<f32>>; 2] = Default::default();
        for ((cut, settings), logits) in self.ways.iter().zip(&mut logits) {
            engine.configure(*settings)?;
            let sequence = Sequence::cut(&self.tokens, cut);
            let batches = sequence.batches(settings.n_ubatch);
            rows(engine, batches, &[Tap::Logits], |at, _, row| {
                if self.positions.contains(&at.position) {
                    logits.push(aligned(row).into_owned());
                }
            })?;
        }
        let [one, other] = logits;
        let apart = self.positions.clone().zip(one.iter().zip(&other));
        let apart = apart.map(|(position, (one, other))| Beyond {
            position,
            nmse: match one.len() == other.len() {
                true => row_nmse(one, other),
                false => f64::NAN,
            },
        });
        Ok(apart.collect())
    }
}

/// Whether one of the rows is as far apart as that.
fn among(rows: &[Beyond], nmse: f64) -> bool {
    let mut rows = rows.iter();
    rows.any(|row| (row.nmse - nmse).abs() <= SAME * nmse)
}
