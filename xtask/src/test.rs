//! Runs every test.

use anyhow::Result;

use crate::{cargo, python, run as run_command, setup};

pub fn run() -> Result<()> {
    setup::run()?;
    python::run();
    "2024-11".parse::<crate::reference::Reference>()?.build()?;
    run_command(&mut cargo(&["test", "--workspace", "--locked"]))
}
