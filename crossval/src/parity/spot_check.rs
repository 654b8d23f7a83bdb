//! Agreement is not correctness: whether or not the engines agree, the oracle judges a sample of their rows, each stage
//! from the engine's own values.

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use crossval_oracle::inputs::TapAt;
use reports::model::{
    AtFault, Finding, Mode, Place, Role, Source, SpotCheck, SpotCheckRow, WrongStage,
};
use reports::number;
use reports::outcome::Outcome;

use super::arbitration::no_ruling;
use super::court::{Captured, Court, Question, Wanted, WantedRows, no_answer};
use super::excuses::Excuses;
use super::measurements::Measurements;
use super::plan::Plan;
use crate::compare::site::Site;
use crate::engine::{Engine, EngineError, Failed, by};
use crate::interrupt;
use crate::session::batches::rows;
use crate::session::loaded::stages_unknown;
use crate::session::pair::Pair;

/// A seed that no engine can know beforehand.
pub fn seed_of_now() -> u64 {
    jiff::Timestamp::now().as_microsecond().cast_unsigned()
}

/// Draws rows, and has the oracle judge every stage of both engines there.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn spot_check(
    seed: u64,
    pair: &mut Pair,
    court: Result<&mut Court, &str>,
    plan: &Plan,
    measured: &Measurements,
) -> Result<SpotCheck, Failed> {
    let mut rng = Rng::new(seed, "rows");
    let mut check = SpotCheck {
        seed,
        rows: draw(&mut rng, plan, measured),
        of_rows: 0,
        stages: 0,
        wrong: Vec::new(),
        not_judged: None,
    };
    let few = Role::BOTH.into_iter().any(|role| {
        let offered = &pair.engine(role).hello().taps;
        plan.facts.taps.iter().any(|tap| !offered.contains(tap))
    });
    // Where stages are judged several at once, fewest codes flip at the first position, which sees no other.
    if let Some(&row) = check.rows.iter().min_by_key(|row| row.position)
        && few
        && row.position > 0
    {
        check.rows.insert(0, SpotCheckRow { position: 0, ..row });
    }
    for prompt in 0..plan.prompts.len() {
        check.of_rows += measured.sequence(prompt).tokens().len();
    }
    let unknown = stages_unknown(&plan.facts);
    let court = match (unknown, court) {
        (None, Ok(court)) => court,
        (unknown, court) => {
            check.not_judged = unknown.or(court.err().map(str::to_owned));
            return Ok(check);
        }
    };
    for role in Role::BOTH {
        let engine = pair.engine(role);
        let mut sample = Sample {
            court: &mut *court,
            plan,
            measured,
            role,
        };
        match sample.judge(engine, &mut check, &mut rng) {
            Ok(()) => {}
            Err(Unjudged::Engine(e)) => return Err(by(role)(e)),
            Err(Unjudged::Oracle(e)) => {
                check.not_judged = Some(no_ruling(&no_answer(e)));
                break;
            }
        }
    }
    Ok(check)
}

/// Two rows of one prompt: one of the prompt itself and one that was decoded, which engines compute in other ways.
fn draw(rng: &mut Rng, plan: &Plan, measured: &Measurements) -> Vec<SpotCheckRow> {
    let lengths: Vec<usize> = (0..plan.prompts.len())
        .map(|prompt| measured.sequence(prompt).tokens().len())
        .collect();
    let total: usize = lengths.iter().sum();
    if total == 0 {
        return Vec::new();
    }
    let mut at = rng.below(total);
    let drawn = lengths.iter().position(|&n| {
        let here = at < n;
        at = at.saturating_sub(n);
        here
    });
    let prompt = drawn.unwrap_or(0);
    let sequence = measured.sequence(prompt);
    let n_prompt = sequence.prompt.len();
    let mut rows = vec![SpotCheckRow {
        prompt,
        position: rng.below(n_prompt.max(1)),
    }];
    if !sequence.steps.is_empty() {
        rows.push(SpotCheckRow {
            prompt,
            position: n_prompt + rng.below(sequence.steps.len()),
        });
    }
    rows
}

/// Why a sample was not judged.
enum Unjudged {
    Engine(EngineError),
    Oracle(EngineError),
}

/// The rows of one engine.
struct Sample<'a, 'c> {
    court: &'a mut Court<'c>,
    plan: &'a Plan<'a>,
    measured: &'a Measurements<'a>,
    role: Role,
}

impl Sample<'_, '_> {
    fn judge(
        &mut self,
        engine: &mut Engine,
        check: &mut SpotCheck,
        rng: &mut Rng,
    ) -> Result<(), Unjudged> {
        let positions: Vec<usize> = check.rows.iter().map(|row| row.position).collect();
        let (Some(first), Some(&last)) = (check.rows.first(), positions.iter().max()) else {
            return Ok(());
        };
        let prompt = first.prompt;
        engine.set_task(format!("evaluating prompt {prompt} again, for the oracle"));
        // All that it offers, whatever the other does.
        let offered = &engine.hello().taps;
        let taps: Vec<Tap> = self
            .plan
            .facts
            .taps
            .iter()
            .copied()
            .filter(|t| offered.contains(t))
            .collect();
        let stages = self.court.affordable(&taps, last + 1, rng);
        // Neighbours' rows are asked for where a stage starts from them, not where it may have by mistake.
        let direct = stages.iter().filter(|(tap, _)| !tap.is_f16());
        let direct: Vec<TapAt> = direct.copied().collect();
        let wanted = Wanted {
            history: self.court.histories(&direct, &taps),
            rows: WantedRows::Positions(positions.clone(), None),
        };
        let sequence = self.measured.sequence(prompt);
        let batches = sequence.batches(self.plan.settings.n_ubatch);
        let batches = batches.take_while(|&(first, _)| first <= last);
        let mut captured = Captured::default();
        rows(engine, batches, &taps, |at, _, row| {
            let place = (at.tap, at.layer);
            if wanted.wants(place, at.position) {
                captured.put(place, at.position, row);
            }
        })
        .map_err(Unjudged::Engine)?;
        for position in positions {
            for &at in &stages {
                let Some(row) = captured.row(at, position) else {
                    continue;
                };
                let question = Question {
                    at,
                    sequence,
                    position,
                    element: 0,
                    outputs: &[],
                    explain: true,
                };
                let judged = self.court.glance(question, &captured, &[row]);
                let judged = judged.map_err(Unjudged::Oracle)?;
                let Some(judgement) = judged.and_then(|answer| answer.rows.into_iter().next())
                else {
                    continue;
                };
                check.stages += 1;
                if !judgement.right {
                    check.wrong.push(WrongStage {
                        engine: self.role.name().to_owned(),
                        prompt,
                        position,
                        judgement,
                    });
                }
            }
        }
        Ok(())
    }
}

/// What a spot check finds, of what is not excused.
pub(super) fn findings(check: &SpotCheck, excuses: &Excuses, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    for role in Role::BOTH {
        let wrong = check
            .wrong
            .iter()
            .filter(|wrong| wrong.engine == role.name());
        let wrong: Vec<&WrongStage> = wrong
            .filter(|wrong| !excused(wrong, role, excuses))
            .collect();
        let Some(first) = wrong.first() else { continue };
        let judgement = &first.judgement;
        let layer = judgement
            .layer
            .map_or(String::new(), |l| format!("layer {l}, "));
        let nmse = judgement
            .nmse
            .map_or(number::NOT_FINITE.to_owned(), number::error);
        let mut text = format!(
            "spot check: the oracle finds the {role} wrong at {}; the first: {layer}{} of prompt {} at position {}, \
             NMSE {nmse}, limit {}",
            number::plural(wrong.len() as u64, "stage"),
            judgement.tap,
            first.prompt,
            first.position,
            number::error(judgement.limit)
        );
        if let Some(found) = judgement.findings.first() {
            text.push_str(&format!(": it {found}"));
        }
        findings.push(Finding {
            outcome: Outcome::Parity,
            source: Source::Oracle,
            place: Some(Place {
                role: Some(role),
                prompt: Some(first.prompt),
                position: Some(first.position),
                layer: judgement.layer,
                tap: Some(judgement.tap.clone()),
                ..Place::default()
            }),
            text,
        });
    }
    if let Some(why) = &check.not_judged
        && interrupt::received().is_none()
    {
        findings.push(Finding {
            outcome: match stages_unknown(&plan.facts) {
                Some(_) => Outcome::Pass,
                None => Outcome::Incomplete,
            },
            source: Source::Oracle,
            place: None,
            text: format!("spot check: {why}"),
        });
    }
    findings
}

/// A ruling on the first divergence, and on engines that the spot check finds wrong.
pub(super) fn with_wrong(ruling: Option<AtFault>, findings: &[Finding]) -> Option<AtFault> {
    let named = |role, alone| {
        let by_ruling = ruling == Some(alone) || ruling == Some(AtFault::Both);
        by_ruling || findings.iter().any(|finding| finding.role() == Some(role))
    };
    let reference = named(Role::Reference, AtFault::Reference);
    let candidate = named(Role::Candidate, AtFault::Candidate);
    match (reference, candidate) {
        (true, true) => Some(AtFault::Both),
        (true, false) => Some(AtFault::Reference),
        (false, true) => Some(AtFault::Candidate),
        (false, false) => ruling,
    }
}

/// Whether a limit that is exceeded there is not held against the engine.
fn excused(wrong: &WrongStage, role: Role, excuses: &Excuses) -> bool {
    let Ok(tap) = wrong.judgement.tap.parse::<Tap>() else {
        return false;
    };
    [Mode::Isolated, Mode::Cumulative].into_iter().any(|mode| {
        let site = Site {
            mode,
            prompt: wrong.prompt,
            layer: wrong.judgement.layer,
            tap,
        };
        excuses.engine(&site, role)
    })
}
