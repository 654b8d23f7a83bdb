//! Logits that differ between the engines where no taps were compared: the oracle says who is wrong there.

use bitnet_model::tap::Tap;
use crossval_protocol::Settings;
use reports::model::{AtFault, Divergence, Finding, Mode, Role, Source};
use reports::outcome::Outcome;

use super::arbitration::arbitrate;
use super::court::Oracle;
use super::plan::Plan;
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
}

impl Parted {
    /// That they differ, whoever is wrong.
    pub(super) fn undetermined(&self) -> Finding {
        self.finding(None)
    }

    /// A finding for each engine that is wrong, or one that names none where the oracle finds none.
    pub(super) fn findings(
        &self,
        engines: &mut Loaded,
        setup: &Setup,
        plan: &Plan,
    ) -> Vec<Finding> {
        let ruling = engines.attempt(|engines| self.arbitrate(engines, setup, plan));
        let wrong: &[Role] = match ruling.flatten() {
            Some(AtFault::Reference) => &[Role::Reference],
            Some(AtFault::Candidate) => &[Role::Candidate],
            Some(AtFault::Both) => &Role::BOTH,
            _ => return vec![self.undetermined()],
        };
        wrong.iter().map(|&role| self.finding(Some(role))).collect()
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
    fn arbitrate(
        &self,
        engines: &mut Loaded,
        setup: &Setup,
        plan: &Plan,
    ) -> Result<Option<AtFault>, Failed> {
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
            return Ok(None);
        };
        engines.configure(settings)?;
        arbitrate(&mut row, &mut engines.pair(), court, &plan, sequence, false)
    }
}
