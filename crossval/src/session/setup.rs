//! Which engines run which model.

use std::path::PathBuf;

use reports::model::Role;

use crate::engine::{Engine, EngineSpec, Failed, Launcher, by};

/// Two engines and a model, before anything is started.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How workers are started.
    pub launcher: Launcher,
    /// The GGUF file.
    pub model: PathBuf,
    /// The engine compared against.
    pub reference: EngineSpec,
    /// The engine under test.
    pub candidate: EngineSpec,
}

impl Setup {
    /// The engine in a role.
    pub fn spec(&self, role: Role) -> &EngineSpec {
        role.of(&self.reference, &self.candidate)
    }

    /// One more worker of an engine, with the model loaded, and how long that took, milliseconds. With `cpus`, it is
    /// pinned to those.
    pub(crate) fn start_another(
        &self,
        role: Role,
        cpus: Option<&[usize]>,
    ) -> Result<(Engine, f64), Failed> {
        let engine = self.launcher.start_another(self.spec(role), cpus);
        let mut engine = engine.map_err(by(role))?;
        let (_, load_ms) = engine.load(&self.model).map_err(by(role))?;
        Ok((engine, load_ms))
    }
}
