//! Cross-validates the bundled model.

use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::{cargo, line, root, run as run_command, setup};

const OUT: &str = "crossval-report";

pub fn run() -> Result<ExitCode> {
    setup::run()?;
    run_command(&mut cargo(&[
        "build",
        "--release",
        "--locked",
        "--bin",
        "crossval",
    ]))?;
    let mut command = cargo(&[
        "run",
        "--quiet",
        "--release",
        "--locked",
        "--bin",
        "crossval",
        "--",
    ]);
    arguments(&mut command, &root().join(OUT));
    let line = line(&command);
    eprintln!("xtask: {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot run `{line}`"))?;
    let report = root().join(OUT).join("report.html");
    if report.is_file() {
        eprintln!("xtask: the report is {}", report.display());
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// What `crossval` is asked for, with the report in `out`.
pub fn arguments(command: &mut Command, out: &Path) {
    command
        .current_dir(root())
        .args(["run", "--model", "assets/tiny-bitnet.gguf"])
        .args(["--prompt", "Once upon a time there was a little dog"])
        .arg("--out")
        .arg(out);
}
