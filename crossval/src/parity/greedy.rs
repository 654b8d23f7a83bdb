//! Whether generated tokens follow from the logits: each from those of the engine that generated it, and both engines'
//! logits before each from one another.

use std::collections::BTreeMap;

use bitnet_model::tap::Tap;
use half::f16;
use reports::model::{
    ContradictedToken, Divergence, ElementAt, Finding, Generation, GenerationCheck, Mode, Place,
    Role, RowBeyond, Source,
};
use reports::number;
use reports::outcome::Outcome;

use super::plan::Plan;
use crate::compare::finite;
use crate::compare::tap::row_nmse;
use crate::engine::{Engine, EngineError, Failed, by};
use crate::session::batches::Sequence;
use crate::session::lockstep::{self, Evaluation, ReferenceHashes, RowAt, RowSink};
use crate::session::own_logits::{self, Twice, ahead};
use crate::session::pair::Pair;
use crate::session::traces::Traces;

/// Tokens of one engine, and rows beyond the limit, that are looked at a second time: of an engine that is right there
/// are few.
const MOST_AGAIN: usize = 64;

/// Holds all tokens of both engines against the logits of both. `noise` is the reference's own, of this prompt.
///
/// # Errors
/// The engine that failed.
pub(super) fn check(
    pair: &mut Pair,
    plan: &Plan,
    traces: &Traces,
    generation: &Generation,
    noise: f64,
) -> Result<Vec<GenerationCheck>, Failed> {
    let prompt = generation.prompt;
    pair.set_task(&format!(
        "evaluating what was generated from prompt {prompt}"
    ));
    let checker = Checker {
        plan,
        traces,
        generation,
        noise,
    };
    let same = generation.reference == generation.candidate;
    let seen = match same {
        true => vec![checker.look(pair, Role::Reference, &Role::BOTH)?],
        false => vec![
            checker.look(pair, Role::Reference, &[Role::Reference])?,
            checker.look(pair, Role::Candidate, &[Role::Candidate])?,
        ],
    };
    let mut checks = Vec::new();
    for seen in seen {
        let beyond = checker.beyond(pair, &seen)?;
        for (role, own) in &seen.own {
            checks.push(checker.judge(pair, *role, own, seen.compared, beyond.clone())?);
        }
    }
    Ok(checks)
}

struct Checker<'a> {
    plan: &'a Plan<'a>,
    traces: &'a Traces,
    generation: &'a Generation,
    noise: f64,
}

impl Checker<'_> {
    /// The prompt, and those tokens of an engine that a row of logits is wanted behind.
    fn sequence(&self, role: Role, rows: usize) -> Sequence<'_> {
        let tokens = self.tokens(role);
        Sequence::new(
            &self.plan.prompts[self.generation.prompt].tokens,
            &tokens[..rows.saturating_sub(1).min(tokens.len())],
        )
    }

    fn tokens(&self, role: Role) -> &[u32] {
        role.of(&self.generation.reference, &self.generation.candidate)
    }

    /// Whether an engine evaluates what it is asked, and not what was recorded of it.
    fn live(&self, role: Role) -> bool {
        self.traces.of(role).is_none()
    }

    /// Whether it takes generated tokens as part of a prompt, and gives its logits of each.
    fn evaluates_prompts(&self, role: Role) -> bool {
        self.live(role) && self.plan.taps.contains(&Tap::Logits)
    }

    /// Rows before the tokens of an engine that the other has, too.
    fn comparable(&self, role: Role) -> usize {
        let tokens = self.tokens(role);
        let other = role.of(Role::Candidate, Role::Reference);
        let parted = self.generation.first_mismatch.as_ref().map(|m| m.index);
        match parted.filter(|_| !self.live(other)) {
            Some(index) => tokens.len().min(index + 1),
            None => tokens.len(),
        }
    }

    /// Both engines on the tokens of one, which are those of all `owners`.
    fn look(&self, pair: &mut Pair, of: Role, owners: &[Role]) -> Result<Seen<'_>, Failed> {
        let tokens = self.tokens(of);
        let mut seen = Seen {
            of,
            n_prompt: self.plan.prompts[self.generation.prompt].tokens.len(),
            tokens,
            n_vocab: self.plan.facts.n_vocab,
            limit: self.plan.profile.cumulative_logits_limit(self.noise),
            own: owners.iter().map(|&role| (role, Own::default())).collect(),
            compared: 0,
            beyond: Vec::new(),
        };
        if tokens.is_empty() {
            return Ok(seen);
        }
        let n_ubatch = self.plan.settings.n_ubatch;
        if Role::BOTH.iter().all(|&role| self.evaluates_prompts(role)) {
            let all = self.sequence(of, tokens.len()).tokens();
            let as_prompt = Sequence::new(&all, &[]);
            for (first_position, tokens) in as_prompt.batches(n_ubatch) {
                let evaluation = Evaluation {
                    first_position,
                    tokens,
                    taps: match first_position + tokens.len() >= seen.n_prompt {
                        true => &[Tap::Logits],
                        false => &[],
                    },
                    isolated: false,
                };
                let hashes = &mut ReferenceHashes::default();
                let rows = &mut AfterPrompt(&mut seen);
                lockstep::evaluate(pair, evaluation, hashes, rows)?;
            }
            return Ok(seen);
        }
        let mut by_steps = |role: Role| {
            let rows = if owners.contains(&role) {
                tokens.len()
            } else {
                self.comparable(of)
            };
            let sequence = self.sequence(of, rows);
            own_logits::by_steps(pair.engine(role), sequence, n_ubatch).map_err(by(role))
        };
        let (reference, candidate) = (by_steps(Role::Reference)?, by_steps(Role::Candidate)?);
        for index in 0..tokens.len() {
            let row = |rows: &[Vec<f32>]| rows.get(index).cloned();
            seen.rows(
                index,
                row(&reference).as_deref(),
                row(&candidate).as_deref(),
            );
        }
        Ok(seen)
    }

    /// Looks again at tokens that are not the largest of their engine's logits at first sight.
    fn judge(
        &self,
        pair: &mut Pair,
        role: Role,
        own: &Own,
        compared: usize,
        beyond: Vec<RowBeyond>,
    ) -> Result<GenerationCheck, Failed> {
        let mut check = GenerationCheck {
            role,
            expected: self.plan.n_predict,
            checked: own.checked,
            contradicted: Vec::new(),
            own_noise: None,
            comparable: self.comparable(role),
            compared,
            beyond,
            amplified: None,
        };
        let cap = self.plan.profile.noise.batches;
        let again = self.again(pair.engine(role), role, role, &own.suspects);
        for (index, rows) in again.map_err(by(role))? {
            let token = self.tokens(role)[index];
            let noise = rows.noise();
            check.own_noise = noise.map_or(check.own_noise, |noise| {
                Some(check.own_noise.map_or(noise, |worst| worst.max(noise)))
            });
            match ahead(&rows.by_steps, token) {
                Some((largest, margin)) if margin > rows.allowance(cap) => {
                    check.contradicted.push(ContradictedToken {
                        index,
                        token,
                        largest,
                        margin,
                    });
                }
                Some(_) => {}
                None => check.checked -= 1,
            }
        }
        Ok(check)
    }

    /// The rows that are beyond the limit also where the reference's noise in just them counts towards it.
    fn beyond(&self, pair: &mut Pair, seen: &Seen) -> Result<Vec<RowBeyond>, Failed> {
        let rows: Vec<usize> = seen.beyond.iter().map(|row| row.index).collect();
        let again = match self.live(Role::Reference) {
            true => self.again(pair.reference, Role::Reference, seen.of, &rows),
            false => Ok(BTreeMap::new()),
        };
        let again = again.map_err(by(Role::Reference))?;
        let prompt = &self.plan.prompts[self.generation.prompt].tokens;
        let cap = self.plan.profile.noise.batches;
        let beyond = seen.beyond.iter().filter_map(|row| {
            let noise = match again.get(&row.index) {
                Some(rows) => rows.noise(),
                None => self.traces.generation_noise(prompt, row.index),
            };
            let noise = noise.map_or(self.noise, |noise| self.noise.max(noise.min(cap)));
            let limit = self.plan.profile.cumulative_logits_limit(noise);
            let within = row.nmse.is_some_and(|nmse| nmse <= limit);
            (!within).then(|| RowBeyond {
                limit,
                ..row.clone()
            })
        });
        Ok(beyond.collect())
    }

    /// Rows of one engine before tokens of `owner`, one by one and, but of a trace, as part of a prompt.
    fn again(
        &self,
        engine: &mut Engine,
        role: Role,
        owner: Role,
        rows: &[usize],
    ) -> Result<BTreeMap<usize, Twice>, EngineError> {
        let wanted = &rows[..rows.len().min(MOST_AGAIN)];
        let Some(&last) = wanted.last() else {
            return Ok(BTreeMap::new());
        };
        let sequence = self.sequence(owner, last + 1);
        let n_ubatch = self.plan.settings.n_ubatch;
        let by_steps = own_logits::by_steps(engine, sequence, n_ubatch)?;
        let as_prompt = match self.evaluates_prompts(role) {
            true => own_logits::as_prompt(engine, sequence, n_ubatch)?,
            false => Vec::new(),
        };
        let rows = wanted.iter().filter_map(|&index| {
            let twice = Twice {
                by_steps: by_steps.get(index)?.clone(),
                as_prompt: as_prompt.get(index).cloned(),
            };
            Some((index, twice))
        });
        Ok(rows.collect())
    }
}

/// What a first look at the tokens of one engine, or of both if they are the same, shows.
struct Seen<'a> {
    of: Role,
    n_prompt: usize,
    tokens: &'a [u32],
    n_vocab: usize,
    limit: f64,
    /// By engine that generated them.
    own: BTreeMap<Role, Own>,
    /// Rows of both engines that were compared.
    compared: usize,
    /// Those beyond the limit.
    beyond: Vec<RowBeyond>,
}

/// Tokens against the logits of the engine that generated them.
#[derive(Default)]
struct Own {
    checked: usize,
    /// Indices of those that are not the largest.
    suspects: Vec<usize>,
}

impl Seen<'_> {
    /// The rows of logits before a token, of the engines that have it.
    fn rows(&mut self, index: usize, reference: Option<&[f32]>, candidate: Option<&[f32]>) {
        let Some(&token) = self.tokens.get(index) else {
            return;
        };
        for (role, own) in &mut self.own {
            let row = role.of(reference, candidate);
            let row = row.filter(|row| row.len() == self.n_vocab);
            if let Some((_, margin)) = row.and_then(|row| ahead(row, token)) {
                own.checked += 1;
                if margin > 0.0 {
                    own.suspects.push(index);
                }
            }
        }
        if let (Some(reference), Some(candidate)) = (reference, candidate)
            && reference.len() == candidate.len()
        {
            self.compared += 1;
            let nmse = row_nmse(reference, candidate);
            let within = nmse <= self.limit;
            if !within {
                self.beyond.push(RowBeyond {
                    index,
                    nmse: finite(nmse),
                    limit: self.limit,
                    worst: worst(self.n_prompt + index - 1, reference, candidate),
                });
            }
        }
    }
}

/// Takes the rows of logits from the end of the prompt on.
struct AfterPrompt<'a, 'b>(&'a mut Seen<'b>);

impl RowSink for AfterPrompt<'_, '_> {
    fn row_f32(&mut self, at: RowAt, reference: &[f32], candidate: &[f32]) {
        let AfterPrompt(seen) = self;
        if let Some(index) = at.position.saturating_add(1).checked_sub(seen.n_prompt) {
            seen.rows(index, Some(reference), Some(candidate));
        }
    }

    fn row_f16(&mut self, _: RowAt, _: &[f16], _: &[f16]) {}
}

/// Where two rows differ most; a value that is not finite differs more than any other.
fn worst(position: usize, reference: &[f32], candidate: &[f32]) -> ElementAt {
    let differences = reference.iter().zip(candidate).map(|(r, c)| (r - c).abs());
    // NaN orders above all.
    let largest = differences.enumerate().max_by(|a, b| a.1.total_cmp(&b.1));
    let element = largest.map_or(0, |(element, _)| element);
    let value = |row: &[f32]| finite(f64::from(*row.get(element)?));
    ElementAt {
        position,
        element,
        reference: value(reference),
        candidate: value(candidate),
    }
}

/// What is accounted for already.
#[derive(Clone, Copy, Default)]
pub(super) struct Accounted<'a> {
    /// Differences between the engines' logits.
    pub(super) differences: bool,
    /// Logits that are not finite.
    pub(super) not_finite: bool,
    /// Engines that contradict themselves.
    pub(super) contradictions: &'a [Role],
}

/// What the checks of the tokens from a prompt of `n_prompt` tokens come to.
pub(super) fn findings(
    generation: &Generation,
    n_prompt: usize,
    accounted: Accounted,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for check in &generation.checks {
        let role = check.role;
        let prompt = generation.prompt;
        let mut find = |outcome, role, position, text| {
            findings.push(Finding {
                outcome,
                source: Source::Generation,
                place: Some(Place {
                    role,
                    prompt: Some(prompt),
                    position: Some(position),
                    ..Place::default()
                }),
                text,
            });
        };
        let tokens = role.of(&generation.reference, &generation.candidate);
        let n = tokens.len();
        if n != check.expected {
            let text = format!(
                "the {role} generated {n} of {} from prompt {prompt}",
                number::plural(check.expected as u64, "token")
            );
            let position = n_prompt + n.min(check.expected);
            find(Outcome::Parity, Some(role), position, text);
        }
        let unexcused = !accounted.contradictions.contains(&role);
        if let Some(first) = check.contradicted.first().filter(|_| unexcused) {
            let text = format!(
                "the {role} contradicts its own logits in {} of {} generated from prompt {prompt}; the first: token {} \
                 at index {}, where token {} is ahead by {}",
                check.contradicted.len(),
                number::plural(n as u64, "token"),
                first.token,
                first.index,
                first.largest,
                number::significant(first.margin, 3)
            );
            find(Outcome::Parity, Some(role), n_prompt + first.index, text);
        }
        if check.checked < n && !accounted.not_finite {
            let text = format!(
                "{} of {} that the {role} generated from prompt {prompt} were held against its own logits",
                check.checked,
                number::plural(n as u64, "token")
            );
            find(Outcome::Incomplete, Some(role), n_prompt, text);
        }
        // The other engine's check says the same.
        let again = role == Role::Candidate && generation.reference == generation.candidate;
        if again {
            continue;
        }
        if check.compared < check.comparable {
            let text = format!(
                "{} of {} of logits before the {role}'s tokens from prompt {prompt} were compared",
                check.compared,
                number::plural(check.comparable as u64, "row")
            );
            find(Outcome::Incomplete, None, n_prompt, text);
        }
        if let Some(first) = check.beyond.first()
            && !accounted.differences
            && check.amplified.is_none()
        {
            let text = format!(
                "{} of logits before the {role}'s tokens from prompt {prompt} beyond the limit; the first: before token \
                 {}, NMSE {}, limit {}",
                number::plural(check.beyond.len() as u64, "row"),
                first.index,
                first
                    .nmse
                    .map_or(number::NOT_FINITE.to_owned(), number::error),
                number::error(first.limit)
            );
            find(Outcome::Parity, None, first.worst.position, text);
        }
    }
    findings
}

/// The first row of logits beyond its limit, and the tokens up to it.
pub(super) fn first_beyond(
    generation: &Generation,
    prompt: &[u32],
) -> Option<(Divergence, Vec<u32>)> {
    let rows = generation.checks.iter().filter_map(|check| {
        let row = check.beyond.first()?;
        if check.amplified.is_some() {
            return None;
        }
        Some((
            row,
            check.role.of(&generation.reference, &generation.candidate),
        ))
    });
    let (row, tokens) = rows.min_by_key(|(row, _)| row.index)?;
    let divergence = Divergence {
        prompt: generation.prompt,
        position: row.worst.position,
        layer: None,
        tap: Tap::Logits.to_string(),
        mode: Mode::Cumulative,
        element: row.worst.element,
        reference: row.worst.reference,
        candidate: row.worst.candidate,
        oracle: None,
        nmse: row.nmse,
        limit: row.limit,
        part: None,
        hint: None,
        arbitration: None,
    };
    Some((divergence, [prompt, &tokens[..row.index]].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_held_against_their_engines_and_each_other() {
        let mut seen = Seen {
            of: Role::Reference,
            n_prompt: 3,
            tokens: &[1, 0],
            n_vocab: 2,
            limit: 1e-3,
            own: Role::BOTH.map(|role| (role, Own::default())).into(),
            compared: 0,
            beyond: Vec::new(),
        };
        seen.rows(0, Some(&[1.0, 2.0]), Some(&[1.0, 2.0]));
        seen.rows(1, Some(&[2.0, 1.0]), Some(&[1.0, 2.0]));
        // Behind the last token.
        seen.rows(2, Some(&[2.0, 1.0]), Some(&[1.0, 2.0]));
        let own = |role| (seen.own[&role].checked, seen.own[&role].suspects.clone());
        assert_eq!(own(Role::Reference), (2, vec![]));
        assert_eq!(own(Role::Candidate), (2, vec![1]));
        let [row] = &seen.beyond[..] else {
            panic!("{:?}", seen.beyond)
        };
        assert_eq!((seen.compared, row.index, row.worst.position), (2, 1, 3));
    }

    #[test]
    fn what_was_not_checked_is_incomplete_and_what_is_alike_is_said_once() {
        let row = RowBeyond {
            index: 1,
            nmse: Some(0.5),
            limit: 1e-3,
            worst: worst(4, &[0.0, 1.0], &[0.0, 3.0]),
        };
        assert_eq!(row.worst.element, 1);
        let check = |role| GenerationCheck {
            role,
            expected: 2,
            checked: 2,
            contradicted: Vec::new(),
            own_noise: None,
            comparable: 2,
            compared: 2,
            beyond: vec![row.clone()],
            amplified: None,
        };
        let mut generation = Generation {
            prompt: 0,
            reference: vec![1, 0],
            candidate: vec![1, 0],
            reference_text: None,
            candidate_text: None,
            first_mismatch: None,
            further: Vec::new(),
            checks: Role::BOTH.map(check).into(),
        };
        let outcomes = |generation: &Generation, accounted| {
            let findings = findings(generation, 4, accounted);
            let of = |f: &Finding| (f.outcome, f.role());
            findings.iter().map(of).collect::<Vec<_>>()
        };
        let nothing = Accounted::default();
        let differences = Accounted {
            differences: true,
            ..nothing
        };
        assert_eq!(outcomes(&generation, nothing), [(Outcome::Parity, None)]);
        assert_eq!(outcomes(&generation, differences), []);
        generation.checks[1].checked = 1;
        let candidate = Some(Role::Candidate);
        assert_eq!(
            outcomes(&generation, differences),
            [(Outcome::Incomplete, candidate)]
        );
        let all = Accounted {
            not_finite: true,
            ..differences
        };
        assert_eq!(outcomes(&generation, all), []);
        let (first, tokens) = first_beyond(&generation, &[7, 8, 9, 5]).unwrap();
        assert_eq!((first.position, first.reference), (4, Some(1.0)));
        assert_eq!(tokens, [7, 8, 9, 5, 1]);
    }

    #[test]
    fn who_contradicts_itself_is_excused_only_if_named() {
        let of_candidate = GenerationCheck {
            role: Role::Candidate,
            expected: 2,
            checked: 2,
            contradicted: vec![ContradictedToken {
                index: 1,
                token: 0,
                largest: 1,
                margin: 0.5,
            }],
            own_noise: None,
            comparable: 2,
            compared: 2,
            beyond: Vec::new(),
            amplified: None,
        };
        let generation = Generation {
            prompt: 0,
            reference: vec![1, 1],
            candidate: vec![1, 0],
            reference_text: None,
            candidate_text: None,
            first_mismatch: None,
            further: Vec::new(),
            checks: vec![of_candidate],
        };
        let found = |named: &[Role]| {
            let accounted = Accounted {
                differences: true,
                contradictions: named,
                ..Accounted::default()
            };
            let findings = findings(&generation, 4, accounted);
            findings.iter().map(Finding::role).collect::<Vec<_>>()
        };
        assert_eq!(found(&[Role::Reference]), [Some(Role::Candidate)]);
        assert_eq!(found(&[Role::Candidate]), []);
    }
}
