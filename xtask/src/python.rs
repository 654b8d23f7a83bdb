//! The Python environment of the example worker, under the target folder.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::setup::{Need, install};
use crate::{root, run as run_command, target_dir};

const NEEDS: [Need; 1] = [Need {
    what: "Python 3 with venv",
    package: "python3-venv",
    present: || {
        // Debian's python3 has venv, but not what it needs.
        let mut python = Command::new("python3");
        python.args(["-c", "import venv, ensurepip"]);
        let status = python.stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|status| status.success())
    },
}];

/// Makes it, unless it is there with the packages wanted. Without it, the tests that need it say so and are skipped:
/// Python is no part of the build.
pub fn run() {
    if let Err(error) = make() {
        eprintln!("xtask: no Python environment, its tests will be SKIPPED: {error:#}");
    }
}

fn make() -> Result<()> {
    let requirements = root().join("examples/python/requirements.txt");
    let wanted =
        fs::read_to_string(&requirements).with_context(|| requirements.display().to_string())?;
    let dir = target_dir().join("python");
    let installed = dir.join("installed.txt");
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    install(
        &NEEDS,
        "on Fedora: `dnf install python3`; on macOS: `brew install python`",
    )?;
    run_command(
        Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&dir),
    )?;
    run_command(
        Command::new(dir.join("bin/python"))
            .args(["-m", "pip", "install", "--quiet"])
            .args(["--disable-pip-version-check", "--only-binary=:all:", "-r"])
            .arg(&requirements),
    )?;
    fs::write(&installed, wanted).with_context(|| installed.display().to_string())
}
