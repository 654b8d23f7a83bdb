//! Two engines, and their roles.

use reports::model::Role;

use crate::engine::Engine;

/// Two engines side by side.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The engine compared against.
    pub reference: &'a mut Engine,
    /// The engine under test.
    pub candidate: &'a mut Engine,
}

impl Pair<'_> {
    /// The engine in a role.
    pub(crate) fn engine(&mut self, role: Role) -> &mut Engine {
        match role {
            Role::Reference => self.reference,
            Role::Candidate => self.candidate,
        }
    }

    /// Says what both are asked to do next.
    pub(crate) fn set_task(&mut self, task: &str) {
        self.reference.set_task(task);
        self.candidate.set_task(task);
    }

    /// The first that has a tokenizer, and its role.
    pub(crate) fn tokenizer(&mut self) -> Option<(Role, &mut Engine)> {
        let role = Role::BOTH
            .into_iter()
            .find(|&role| self.engine(role).hello().tokenizer)?;
        Some((role, self.engine(role)))
    }
}
