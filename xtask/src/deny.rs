//! cargo-deny over every lock file: licences, bans and sources, for which the network is not needed; advisories on demand.

use std::env;

use anyhow::Result;

use crate::setup::STUBS;
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
    // Manifests that stand alone. BitNet.cpp is no dependency that cargo builds, but it is linked.
    let others = STUBS.map(|name| format!("third_party/bitnet-{name}/Cargo.toml"));
    let manifests = others.iter().map(String::as_str);
    for manifest in std::iter::once("Cargo.toml").chain(manifests) {
        // Also what is only for other systems, or nothing offline would find it.
        let fetch = ["fetch", "--quiet", "--locked", "--manifest-path", manifest];
        run_command(&mut cargo(&fetch))?;
        let mut command = cargo(&["deny", "--workspace", "--locked"]);
        command.args(["--manifest-path", manifest]);
        command.arg("--config").arg(root().join("deny.toml"));
        if arguments.advisories {
            command.args(["check", "advisories"]);
        } else {
            command.args(["--offline", "check", "--hide-inclusion-graph"]);
            // A licence that nothing has any more is to leave the list, which is that of the workspace.
            let unused = if manifest == "Cargo.toml" { "-D" } else { "-A" };
            command.args([unused, "license-not-encountered"]);
            command.args(["licenses", "bans", "sources"]);
        }
        run_command(&mut command)?;
    }
    Ok(())
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
        .env_remove("CARGO_TARGET_DIR");
    run_command(&mut command)
}
