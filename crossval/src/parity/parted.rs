//! Logits that differ between the engines where no taps were compared: the oracle says who is wrong there.

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use crossval_protocol::Settings;
use reports::model::{Amplified, AtFault, Divergence, Finding, Mode, Role, Source, WrongStage};
use reports::outcome::Outcome;

use super::amplified::noted;
use super::arbitration::{NoRuling, arbitrate};
use super::court::Oracle;
use super::excuses::Blame;
use super::inquiry::{Answer, Inquiry, Way};
use super::plan::Plan;
use super::spot_check::seed_of_now;
use crate::compare::tap::Beyond;
use crate::engine::Failed;
use crate::session::batches::Sequence;
use crate::session::loaded::Loaded;
use crate::session::setup::Setup;

/// Rows that are heard, at most, where the model grows roundings to more than is measured of them.
pub(super) const HEARINGS: usize = 8;

/// Engines that differ from each other.
#[derive(Clone, Debug)]
pub(super) struct Parted {
    pub(super) source: Source,
    pub(super) text: String,
    /// Rows where they differ, the one where they differ most first.
    pub(super) rows: Vec<PartedRow>,
}

/// A row of logits in which they differ.
#[derive(Clone, Debug)]
pub(super) struct PartedRow {
    /// The tokens up to it, and the others of its batch.
    pub(super) tokens: Vec<u32>,
    pub(super) position: usize,
    /// The batches that it came about in, tokens: engines round differently in others. Those of the settings if empty.
    pub(super) cut: Vec<usize>,
    pub(super) n_ctx: usize,
    /// How far apart it is, where it is that what counts.
    pub(super) nmse: Option<f64>,
}

/// What the oracle says of them.
#[derive(Debug, PartialEq)]
enum Heard {
    Wrong(AtFault),
    Amplified(Amplified),
    Nothing,
}

impl Parted {
    /// That they differ, whoever is wrong.
    pub(super) fn undetermined(&self) -> Finding {
        self.finding(None)
    }

    /// A finding for each engine that is wrong, or one that names none where the oracle finds none; or what speaks for both
    /// where the model grows roundings to that: of each row, that it is no more than they come to, or that every stage of
    /// both engines is right.
    pub(super) fn findings(
        &self,
        engines: &mut Loaded,
        setup: &Setup,
        plan: &Plan,
    ) -> (Vec<Finding>, Option<Amplified>) {
        let heard = engines.attempt(|engines| {
            let one = |row: &PartedRow| row.hear(engines, setup, plan);
            hear(&self.rows, one)
        });
        let wrong: &[Role] = match heard {
            Some(Heard::Wrong(AtFault::Reference)) => &[Role::Reference],
            Some(Heard::Wrong(AtFault::Candidate)) => &[Role::Candidate],
            Some(Heard::Wrong(AtFault::Both)) => &Role::BOTH,
            Some(Heard::Amplified(amplified)) => {
                let note = noted(&amplified, &self.text, "of both engines", None);
                return (vec![note], Some(amplified));
            }
            _ => return (vec![self.undetermined()], None),
        };
        let findings = wrong.iter().map(|&role| self.finding(Some(role)));
        (findings.collect(), None)
    }

    fn finding(&self, role: Option<Role>) -> Finding {
        Finding {
            outcome: Outcome::Parity,
            source: self.source,
            place: role.map(Role::into),
            text: match role {
                Some(role) => format!("{}: the oracle finds the {role} wrong there", self.text),
                None => self.text.clone(),
            },
        }
    }
}

/// Who is wrong in rows that are apart, the worst first.
fn hear(
    rows: &[PartedRow],
    mut hear: impl FnMut(&PartedRow) -> Result<Heard, Failed>,
) -> Result<Heard, Failed> {
    let mut heard: Option<Amplified> = None;
    let mut right: Vec<&PartedRow> = Vec::new();
    for row in rows {
        let of_both = row.nmse.zip(heard.as_ref());
        if of_both.is_some_and(|(nmse, heard)| heard.covers(nmse)) {
            break;
        }
        // In other batches its roundings came to more, and were no more than that.
        if right.iter().any(|worse| worse.same_tokens(row)) {
            continue;
        }
        if right.len() == HEARINGS {
            return Ok(Heard::Nothing);
        }
        match hear(row)? {
            Heard::Amplified(more) => heard = Some(together(heard, more)),
            other => return Ok(other),
        }
        right.push(row);
    }
    Ok(heard.map_or(Heard::Nothing, Heard::Amplified))
}

/// What speaks for a row, and for rows worse than it.
pub(super) fn together(worse: Option<Amplified>, row: Amplified) -> Amplified {
    let Some(mut all) = worse else { return row };
    all.rows += row.rows;
    all.stages += row.stages;
    if row.limit > all.limit {
        all.limit = row.limit;
        all.roundings = row.roundings;
    }
    all
}

impl PartedRow {
    /// Whether both are of the same position of the same tokens.
    fn same_tokens(&self, other: &PartedRow) -> bool {
        let of_both = [self, other].map(|row| row.tokens.get(..=row.position));
        of_both[0].is_some() && of_both[0] == of_both[1]
    }

    /// Who is wrong, by the oracle, from both engines' values in the same context.
    fn hear(&self, engines: &mut Loaded, setup: &Setup, plan: &Plan) -> Result<Heard, Failed> {
        let largest = self.cut.iter().copied().max().unwrap_or(0);
        let settings = Settings {
            n_ctx: self.n_ctx,
            n_ubatch: plan.settings.n_ubatch.max(largest),
            ..plan.settings
        };
        let plan = Plan {
            settings,
            ..plan.clone()
        };
        let sequence = Sequence::cut(&self.tokens, &self.cut);
        let mut row = Divergence {
            prompt: 0,
            position: self.position,
            layer: None,
            tap: Tap::Logits.to_string(),
            mode: Mode::Cumulative,
            element: 0,
            reference: None,
            candidate: None,
            oracle: None,
            nmse: None,
            limit: plan.profile.cumulative_logits,
            hint: None,
            part: None,
            arbitration: None,
        };
        // Nothing is drawn by a court that judges one row.
        let mut oracle = Oracle::new(setup, &plan, 0);
        let Ok(court) = oracle.court() else {
            return Ok(Heard::Nothing);
        };
        engines.configure(settings)?;
        let pair = &mut engines.pair();
        match arbitrate(&mut row, pair, court, &plan, sequence, false)? {
            None => return Ok(Heard::Nothing),
            Some(at_fault) if Blame::of(at_fault) != Blame::default() => {
                return Ok(Heard::Wrong(at_fault));
            }
            Some(_) => {}
        }
        let Some(nmse) = self.nmse else {
            return Ok(Heard::Nothing);
        };
        let mut inquiry = Inquiry {
            court,
            plan: &plan,
            ways: Way::of_both(sequence, settings),
            prompt: 0,
            compared: false,
            rng: &mut Rng::new(seed_of_now(), "conditions"),
        };
        let rows = [Beyond {
            position: row.position,
            nmse,
        }];
        match inquiry.about(pair, &rows) {
            Ok(Answer::Right(amplified)) => Ok(Heard::Amplified(amplified)),
            Ok(Answer::Wrong(stages)) => Ok(Heard::Wrong(at_fault_in(&stages))),
            Ok(Answer::Open(_)) | Err(NoRuling::Oracle(_)) => Ok(Heard::Nothing),
            Err(NoRuling::Engine(failed)) => Err(failed),
        }
    }
}

/// Whose stages these are.
fn at_fault_in(wrong: &[WrongStage]) -> AtFault {
    let of = |role: Role| wrong.iter().any(|stage| stage.engine == role.name());
    Blame::by(of).at_fault()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row, the last of its tokens.
    fn row(tokens: &[u32], nmse: f64) -> PartedRow {
        PartedRow {
            tokens: tokens.to_vec(),
            position: tokens.len() - 1,
            cut: Vec::new(),
            n_ctx: tokens.len(),
            nmse: Some(nmse),
        }
    }

    /// Rows of different tokens.
    fn heard(rows: &[f64], of: impl Fn(f64) -> Heard) -> (Heard, usize) {
        let rows = rows.iter().zip(0..);
        let rows: Vec<PartedRow> = rows.map(|(&nmse, token)| row(&[token], nmse)).collect();
        let mut n = 0;
        let heard = hear(&rows, |row| {
            n += 1;
            Ok(of(row.nmse.unwrap()))
        });
        (heard.unwrap_or(Heard::Nothing), n)
    }

    /// Of one row, every stage of which is right.
    fn right(nmse: f64, limit: f64) -> Amplified {
        Amplified {
            rows: 1,
            nmse: Some(nmse),
            stages: 10,
            roundings: Vec::new(),
            limit: Some(limit),
        }
    }

    #[test]
    fn rows_are_heard_until_roundings_account_for_the_rest() {
        let of = |nmse| Heard::Amplified(right(nmse, 2e-3));
        let all = Amplified {
            rows: 2,
            stages: 20,
            ..right(5e-3, 2e-3)
        };
        assert_eq!(
            heard(&[5e-3, 3e-3, 2e-3, 1e-3], of),
            (Heard::Amplified(all), 2)
        );
        let more = |nmse| Heard::Amplified(right(nmse, if nmse < 4e-3 { 3e-3 } else { 1e-3 }));
        let (Heard::Amplified(all), 2) = heard(&[5e-3, 3e-3, 2.5e-3], more) else {
            panic!("two rows");
        };
        assert_eq!((all.nmse, all.limit), (Some(5e-3), Some(3e-3)));
    }

    #[test]
    fn one_row_that_is_wrong_or_open_is_enough() {
        let of = |other: fn() -> Heard| {
            move |nmse| match nmse > 4e-3 {
                true => Heard::Amplified(right(nmse, 1e-3)),
                false => other(),
            }
        };
        let wrong = || Heard::Wrong(AtFault::Candidate);
        let rows = [5e-3, 3e-3, 2e-3];
        assert_eq!(heard(&rows, of(wrong)), (wrong(), 2));
        assert_eq!(heard(&rows, of(|| Heard::Nothing)), (Heard::Nothing, 2));
    }

    #[test]
    fn rows_that_nobody_has_heard_are_not_passed_over() {
        let of = |nmse| Heard::Amplified(right(nmse, 1e-3));
        let rows: Vec<f64> = (0..=HEARINGS).map(|i| 9e-3 - 1e-4 * i as f64).collect();
        assert_eq!(heard(&rows, of), (Heard::Nothing, HEARINGS));
    }

    /// But the same row in other batches, where it is less far apart, is.
    #[test]
    fn a_row_that_came_about_otherwise_is_heard_once() {
        let worst = row(&[1, 2], 9e-3);
        let longer = PartedRow {
            tokens: vec![1, 2, 3],
            nmse: Some(8e-3),
            ..worst.clone()
        };
        let other = row(&[2, 2], 7e-3);
        let mut n = 0;
        let heard = hear(&[worst, longer, other], |row| {
            n += 1;
            Ok(Heard::Amplified(right(row.nmse.unwrap(), 1e-3)))
        });
        let Ok(Heard::Amplified(all)) = heard else {
            panic!("every stage is right");
        };
        assert_eq!((all.rows, n), (2, 2));
    }
}
