//! Rows of logits beyond their limit that are no fault. Where each engine goes its own way, a rounding that one does and the
//! other does not turns a few activations into the next int8 code, and over the layers that grows: how far, the model says
//! and no profile. So where nothing else speaks against the engines, the oracle is asked about such rows (`inquiry`).

use std::collections::BTreeMap;

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use reports::model::{
    Amplified, Divergence, Finding, Generation, Mode, Place, Role, Source, TapResult, WrongStage,
};
use reports::number;
use reports::outcome::Outcome;

use super::arbitration::NoRuling;
use super::court::Oracle;
use super::generation::explained;
use super::inquiry::{Answer, Inquiry, Way};
use super::measurements::Measurements;
use super::plan::Plan;
use super::spot_check::seed_of_now;
use crate::compare::site::Site;
use crate::compare::tap::Beyond;
use crate::engine::Failed;
use crate::session::batches::Sequence;
use crate::session::loaded::Loaded;

/// What speaks for the logits of a run, and against the engines.
#[derive(Debug, Default)]
pub(super) struct Amplifications {
    /// By prompt.
    prompts: BTreeMap<usize, Amplified>,
    /// Of logits before generated tokens, by prompt and the engine whose tokens they are.
    generation: BTreeMap<(usize, Role), Amplified>,
    wrong: Vec<WrongStage>,
    /// Of prompts of which nobody can say.
    open: BTreeMap<usize, Amplified>,
}

/// Logits that are beyond their limit, and nothing else.
#[derive(Debug, Default)]
pub(super) struct ToBeAsked<'a> {
    /// Of these prompts.
    pub(super) prompts: Vec<usize>,
    /// Before tokens of these, if there are any.
    pub(super) generations: Vec<&'a Generation>,
}

/// Asks about the logits of prompts, and of those before generated tokens, that are beyond their limit.
///
/// # Errors
/// The engine that failed when it was asked again.
pub(super) fn hear_logits(
    engines: &mut Loaded,
    oracle: &mut Oracle,
    plan: &Plan,
    measured: &Measurements,
    ToBeAsked {
        prompts,
        generations,
    }: ToBeAsked,
) -> Result<Amplifications, Failed> {
    let mut heard = Amplifications::default();
    let mut checks = generations.iter().flat_map(|generation| &generation.checks);
    if prompts.is_empty() && checks.all(|check| check.beyond.is_empty()) {
        return Ok(heard);
    }
    let Ok(court) = oracle.court() else {
        return Ok(heard);
    };
    engines.configure(plan.settings)?;
    let mut rng = Rng::new(seed_of_now(), "logits");
    let pair = &mut engines.pair();
    let mut ask = |prompt: usize, sequence: Sequence<'_>, rows: &[Beyond]| {
        let mut inquiry = Inquiry {
            court: &mut *court,
            plan,
            ways: Way::of_both(sequence, plan.settings),
            prompt,
            compared: true,
            rng: &mut rng,
        };
        match inquiry.about(pair, rows) {
            Ok(answer) => Ok(answer),
            Err(NoRuling::Engine(failed)) => Err(failed),
            // What nobody has judged is held against the run.
            Err(NoRuling::Oracle(_)) => Ok(Answer::Open(None)),
        }
    };
    for (site, rows) in measured.beyond() {
        let prompt = site.prompt;
        if !is_of_logits(&site) || !prompts.contains(&prompt) {
            continue;
        }
        match ask(prompt, measured.sequence(prompt), rows)? {
            Answer::Right(amplified) => {
                heard.prompts.insert(prompt, amplified);
            }
            Answer::Wrong(wrong) => heard.wrong.extend(wrong),
            Answer::Open(amplified) => heard.open.extend(amplified.map(|a| (prompt, a))),
        }
    }
    for generation in generations {
        let prompt = generation.prompt;
        for check in &generation.checks {
            // Of the same tokens, the other engine's check says the same.
            let again = check.role == Role::Candidate && same_tokens(generation);
            if check.beyond.is_empty() || again {
                continue;
            }
            let tokens = check.role.of(&generation.reference, &generation.candidate);
            let tokens = &tokens[..tokens.len().saturating_sub(1)];
            let as_prompt = [&plan.prompts[prompt].tokens, tokens].concat();
            let sequence = Sequence::new(&as_prompt, &[]);
            let rows = check.beyond.iter().map(|row| Beyond {
                position: row.worst.position,
                nmse: row.nmse.unwrap_or(f64::NAN),
            });
            match ask(prompt, sequence, &rows.collect::<Vec<_>>())? {
                Answer::Right(amplified) => {
                    heard.generation.insert((prompt, check.role), amplified);
                }
                Answer::Wrong(wrong) => heard.wrong.extend(wrong),
                Answer::Open(_) => {}
            }
        }
    }
    Ok(heard)
}

fn same_tokens(generation: &Generation) -> bool {
    generation.reference == generation.candidate
}

fn is_of_logits(site: &Site) -> bool {
    (site.mode, site.tap) == (Mode::Cumulative, Tap::Logits)
}

impl Amplifications {
    /// Whether the limit is not held against the run there.
    pub(super) fn site(&self, site: &Site) -> bool {
        is_of_logits(site) && self.prompts.contains_key(&site.prompt)
    }

    /// What is known of logits of which nobody can say who is wrong.
    pub(super) fn hint(&self, first: &Divergence) -> Option<String> {
        let logits = first.mode == Mode::Cumulative && first.tap == Tap::Logits.name();
        let amplified = self.open.get(&first.prompt).filter(|_| logits)?;
        let judged = match amplified.stages {
            0 => "no ruling: the engines offer too little to judge a stage".to_owned(),
            n => format!(
                "no ruling: the {} that could be judged are right",
                number::plural(n, "stage")
            ),
        };
        let of_roundings = in_roundings(amplified);
        let of_roundings =
            of_roundings.map_or(String::new(), |o| format!("; the logits are apart by {o}"));
        Some(judged + &of_roundings)
    }

    /// Says so in the results.
    pub(super) fn mark(&self, mut results: Vec<TapResult>) -> Vec<TapResult> {
        for result in results.iter_mut().filter(|r| r.tap == Tap::Logits.name()) {
            if let Some(amplified) = self.prompts.get(&result.prompt)
                && let Some(stats) = &mut result.cumulative
            {
                stats.amplified = Some(amplified.clone());
                stats.pass = Some(true);
            }
        }
        results
    }

    /// Says so of generated tokens: where the logits are no fault, neither is a token that they leave open.
    pub(super) fn mark_generation(&self, mut generation: Generation) -> Generation {
        self.mark_one(&mut generation);
        generation.further.iter_mut().for_each(|g| self.mark_one(g));
        generation
    }

    fn mark_one(&self, generation: &mut Generation) {
        let same = same_tokens(generation);
        for check in &mut generation.checks {
            let of = match same {
                true => Role::Reference,
                false => check.role,
            };
            let amplified = self.generation.get(&(generation.prompt, of));
            let amplified = amplified.filter(|_| !check.beyond.is_empty());
            let Some(amplified) = amplified else { continue };
            check.amplified = Some(amplified.clone());
            if let Some(mismatch) = &mut generation.first_mismatch
                && check.beyond.iter().any(|row| row.index == mismatch.index)
            {
                mismatch.near_tie |= explained(mismatch.margin, mismatch.max_logit_difference);
            }
        }
    }

    /// What is wrong, and one finding per prompt of what is not.
    pub(super) fn findings(&self, plan: &Plan) -> Vec<Finding> {
        let wrong = self.wrong.iter().map(wrong);
        let prompts = self.prompts.iter().map(|(&prompt, amplified)| {
            let place = Place {
                prompt: Some(prompt),
                tap: Some(Tap::Logits.to_string()),
                ..Place::default()
            };
            let what = format!("of prompt {prompt}");
            let what = rows_beyond(amplified, &what, plan);
            noted(amplified, &what, "of both engines", Some(place))
        });
        let generation = self.generation.iter().map(|(&(prompt, role), amplified)| {
            let place = Place {
                prompt: Some(prompt),
                ..Place::default()
            };
            let what = format!("before the {role}'s tokens from prompt {prompt}");
            let what = rows_beyond(amplified, &what, plan);
            noted(amplified, &what, "of both engines", Some(place))
        });
        wrong.chain(prompts).chain(generation).collect()
    }
}

fn wrong(stage: &WrongStage) -> Finding {
    let WrongStage {
        engine,
        prompt,
        position,
        judgement,
    } = stage;
    let text = format!(
        "where each engine goes its own way, the oracle finds the {engine} wrong: {}",
        described(stage, &format!(" of prompt {prompt}"))
    );
    let mut roles = Role::BOTH.into_iter();
    Finding {
        outcome: Outcome::Parity,
        source: Source::Oracle,
        place: Some(Place {
            role: roles.find(|role| role.name() == engine),
            prompt: Some(*prompt),
            position: Some(*position),
            layer: judgement.layer,
            tap: Some(judgement.tap.clone()),
            ..Place::default()
        }),
        text,
    }
}

/// A stage that is wrong, in words; `of` says of which tokens.
pub(super) fn described(stage: &WrongStage, of: &str) -> String {
    let WrongStage {
        position,
        judgement,
        ..
    } = stage;
    let layer = judgement
        .layer
        .map_or(String::new(), |l| format!("layer {l}, "));
    let nmse = judgement
        .nmse
        .map_or(number::NOT_FINITE.to_owned(), number::error);
    let mut text = format!(
        "{layer}{}{of} at position {position}, NMSE {nmse}, limit {}",
        judgement.tap,
        number::error(judgement.limit)
    );
    if let Some(found) = judgement.findings.first() {
        text.push_str(&format!(": it {found}"));
    }
    text
}

fn rows_beyond(amplified: &Amplified, what: &str, plan: &Plan) -> String {
    format!(
        "{} of logits {what} beyond the limit of {}, NMSE {}",
        number::plural(amplified.rows, "row"),
        number::error(plan.profile.cumulative_logits),
        amplified
            .nmse
            .map_or(number::NOT_FINITE.to_owned(), number::error)
    )
}

/// How far apart rows are, in terms of what the worst rounding makes of logits; `None` if that is unknown.
fn in_roundings(amplified: &Amplified) -> Option<String> {
    let known = amplified.roundings.iter();
    let known = known.filter_map(|r| Some((r.nmse.filter(|&nmse| nmse > 0.0)?, &r.rounding)));
    let (largest, rounding) = known.max_by(|a, b| a.0.total_cmp(&b.0))?;
    Some(format!(
        "{} times what one rounding alone makes of the model's ({rounding}: {})",
        number::significant(amplified.nmse? / largest, 2),
        number::error(largest)
    ))
}

/// That logits beyond their limit, as `what` says, are no fault; the stages judged are those `of_whom`.
pub(super) fn noted(
    amplified: &Amplified,
    what: &str,
    of_whom: &str,
    place: Option<Place>,
) -> Finding {
    let mut text = format!("rounding, amplified over the layers: {what}");
    if let Some(of_roundings) = in_roundings(amplified) {
        text.push_str(&format!(", {of_roundings}"));
    }
    if amplified.stages > 0 {
        let stages = number::plural(amplified.stages, "stage");
        text.push_str(&format!("; the oracle finds {stages} {of_whom} right"));
    }
    Finding {
        outcome: Outcome::Pass,
        source: Source::Oracle,
        place,
        text,
    }
}
