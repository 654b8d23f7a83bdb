//! Logits that differ between the engines where no taps were compared: the oracle says who is wrong there.

use bitnet_model::random::Rng;
use bitnet_model::tap::Tap;
use crossval_protocol::Settings;
use reports::model::{Amplified, AtFault, Divergence, Finding, Mode, Role, Source};
use reports::outcome::Outcome;

use super::amplified::noted;
use super::arbitration::{NoRuling, arbitrate};
use super::court::Oracle;
use super::excuses::Blame;
use super::inquiry::{Answer, Inquiry};
use super::plan::Plan;
use super::spot_check::seed_of_now;
use crate::compare::tap::Beyond;
use crate::engine::Failed;
use crate::session::batches::Sequence;
use crate::session::loaded::Loaded;
use crate::session::setup::Setup;

/// Engines that differ from each other.
#[derive(Clone, Debug)]
pub(super) struct Parted {
    pub(super) source: Source,
    pub(super) text: String,
    /// The tokens up to the row where they differ most.
    pub(super) tokens: Vec<u32>,
    pub(super) n_ctx: usize,
    /// How far apart the row is, where it is that what counts.
    pub(super) nmse: Option<f64>,
}

/// What the oracle says of them.
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
    /// where the model grows roundings to that.
    pub(super) fn findings(
        &self,
        engines: &mut Loaded,
        setup: &Setup,
        plan: &Plan,
    ) -> (Vec<Finding>, Option<Amplified>) {
        let heard = engines.attempt(|engines| self.hear(engines, setup, plan));
        let wrong: &[Role] = match heard {
            Some(Heard::Wrong(AtFault::Reference)) => &[Role::Reference],
            Some(Heard::Wrong(AtFault::Candidate)) => &[Role::Candidate],
            Some(Heard::Wrong(AtFault::Both)) => &Role::BOTH,
            Some(Heard::Amplified(amplified)) => {
                return (vec![noted(&amplified, &self.text, None)], Some(amplified));
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

    /// Who is wrong, by the oracle, from both engines' values in the same context.
    fn hear(&self, engines: &mut Loaded, setup: &Setup, plan: &Plan) -> Result<Heard, Failed> {
        let settings = Settings {
            n_ctx: self.n_ctx,
            ..plan.settings
        };
        let plan = Plan {
            settings,
            ..plan.clone()
        };
        let sequence = Sequence {
            prompt: &self.tokens,
            steps: &[],
        };
        let mut row = Divergence {
            prompt: 0,
            position: self.tokens.len().saturating_sub(1),
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
            sequence,
            prompt: 0,
            rng: &mut Rng::new(seed_of_now(), "conditions"),
        };
        let rows = [Beyond {
            position: row.position,
            nmse,
        }];
        match inquiry.about(pair, &rows) {
            Ok(Answer::Right(amplified)) if amplified.within() => Ok(Heard::Amplified(amplified)),
            Ok(_) | Err(NoRuling::Oracle(_)) => Ok(Heard::Nothing),
            Err(NoRuling::Engine(failed)) => Err(failed),
        }
    }
}
