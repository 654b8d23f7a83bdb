//! cargo-deny over every lock file: licences, bans and sources, for which the network is not needed; advisories on demand.

use std::env;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{cargo, root, run as run_command};

/// The version that is installed where there is none.
const VERSION: &str = "0.20.2";

#[derive(clap::Args)]
pub struct Arguments {
    /// Check for known vulnerabilities instead. Fetches RustSec's database.
    #[arg(long)]
    advisories: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    install()?;
    for manifest in manifests()? {
        // Also what is only for other systems, or nothing offline would find it.
        let fetch = ["fetch", "--quiet", "--locked", "--manifest-path", &manifest];
        run_command(&mut cargo(&fetch))?;
        let mut command = cargo(&["deny", "--workspace", "--locked"]);
        command.args(["--manifest-path", &manifest]);
        command.arg("--config").arg(root().join("deny.toml"));
        if arguments.advisories {
            command.args(["check", "advisories"]);
        } else {
            command.args(["--offline", "check", "--hide-inclusion-graph"]);
            // The list is that of the workspace, and leaves out what nothing has any more.
            let unused = if manifest == "Cargo.toml" { "-D" } else { "-A" };
            command.args([unused, "license-not-encountered"]);
            command.args(["-A", "license-exception-not-encountered"]);
            command.args(["licenses", "bans", "sources"]);
        }
        run_command(&mut command)?;
    }
    Ok(())
}

/// One for each lock file of the repository. BitNet.cpp's are among them, which cargo does not build but we link.
fn manifests() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root())
        .args(["ls-files", "Cargo.lock", "*/Cargo.lock"]);
    let output = git.output().context("cannot run git")?;
    let text = String::from_utf8(output.stdout)?;
    let manifests: Vec<_> = text
        .lines()
        .map(|lock| lock.replace(".lock", ".toml"))
        .collect();
    ensure!(
        !manifests.is_empty(),
        "git knows no lock file in {}",
        root().display()
    );
    Ok(manifests)
}

/// Builds cargo-deny once, into cargo's own folder of programs: some three minutes on two cores.
fn install() -> Result<()> {
    let version = cargo(&["deny", "--version"]).output();
    if version.is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    let package = format!("cargo-deny@{VERSION}");
    let mut command = cargo(&["install", "--locked", &package]);
    // Built in a folder that is removed again.
    command
        .current_dir(env::temp_dir())
        .env_remove("CARGO_TARGET_DIR")
        // It is built more often than its speed matters.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
        .env("CARGO_PROFILE_RELEASE_LTO", "off");
    run_command(&mut command)
}
