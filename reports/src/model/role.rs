//! The two parts that an engine can have in a run.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Arbitration, Engine, Engines, Judgement, Perplexity};

/// Which of the two engines.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The engine that is compared against.
    Reference,
    /// The engine under test.
    Candidate,
}

impl Role {
    /// Both, in the order in which reports name them.
    pub const BOTH: [Role; 2] = [Role::Reference, Role::Candidate];

    /// Its name in the JSON.
    pub fn name(self) -> &'static str {
        self.of("reference", "candidate")
    }

    /// What belongs to it.
    pub fn of<T>(self, reference: T, candidate: T) -> T {
        match self {
            Role::Reference => reference,
            Role::Candidate => candidate,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Engines {
    /// The engine in a role.
    pub fn engine(&self, role: Role) -> &Engine {
        role.of(&self.reference, &self.candidate)
    }

    /// The same, to be changed.
    pub fn engine_mut(&mut self, role: Role) -> &mut Engine {
        role.of(&mut self.reference, &mut self.candidate)
    }

    /// Both, each with its role.
    pub fn by_role(&self) -> [(Role, &Engine); 2] {
        Role::BOTH.map(|role| (role, self.engine(role)))
    }
}

impl Arbitration {
    /// What was found of the engine in a role.
    pub fn judgement(&self, role: Role) -> &Judgement {
        role.of(&self.reference, &self.candidate)
    }
}

impl Perplexity {
    /// That of the engine in a role; `None` if not finite.
    pub fn of(&self, role: Role) -> Option<f64> {
        role.of(self.reference, self.candidate)
    }
}

#[cfg(test)]
mod tests {
    use super::Role;

    #[test]
    fn a_role_has_one_name() {
        for role in Role::BOTH {
            assert_eq!(serde_json::to_value(role).unwrap(), role.name());
            assert_eq!(role.to_string(), role.name());
        }
        assert_eq!(Role::BOTH.map(Role::name), ["reference", "candidate"]);
    }
}
