//! Checks report pages in a browser: accessibility by axe-core, errors, overflow, and use without JavaScript.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::setup::{Need, install, install_node, runs, variable};
use crate::{root, run as run_command, target_dir};

const CHROMIUM: Need = Need {
    what: "Chromium",
    package: "chromium",
    present: || runs(&chromium(), "--version"),
};

/// What the check consists of, copied to where its packages are installed.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "check.mjs"];

#[derive(Args)]
pub struct Arguments {
    /// Pages to check, as `crossval run` writes them
    #[arg(required = true, value_name = "REPORT.html")]
    pages: Vec<PathBuf>,
    /// Folder for a picture of every page, size and theme
    #[arg(long, value_name = "DIR")]
    screenshots: Option<PathBuf>,
}

/// The browser's program: `chromium`, unless the variable `CHROMIUM` names another.
fn chromium() -> String {
    variable("CHROMIUM", "chromium")
}

pub fn run(arguments: &Arguments) -> Result<()> {
    for page in &arguments.pages {
        if !page.is_file() {
            bail!("{}: no such file", page.display());
        }
    }
    install_node()?;
    let elsewhere = "elsewhere, set CHROMIUM to the program of Chrome or Chromium";
    install(&[CHROMIUM], elsewhere)?;
    let dir = prepare()?;
    let mut check = Command::new("node");
    check.arg(dir.join("check.mjs"));
    check.arg(find(&chromium())?);
    check.arg(arguments.screenshots.as_deref().unwrap_or(Path::new("")));
    check.args(&arguments.pages);
    let status = check.status().context("cannot run `node`")?;
    if !status.success() {
        bail!("the pages have faults");
    }
    Ok(())
}

/// Installs axe-core and playwright-core, at the versions of the lock file, under the target folder.
fn prepare() -> Result<PathBuf> {
    let source = root().join("xtask/a11y");
    let dir = target_dir().join("a11y");
    let lock = |dir: &Path| fs::read(dir.join("node_modules/.lock")).ok();
    let wanted = fs::read(source.join("package-lock.json")).context("xtask/a11y")?;
    fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
    for file in FILES {
        fs::copy(source.join(file), dir.join(file))
            .with_context(|| format!("xtask/a11y/{file}"))?;
    }
    if lock(&dir).as_ref() != Some(&wanted) {
        run_command(Command::new("npm").current_dir(&dir).args([
            "ci",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
        ]))?;
        fs::write(dir.join("node_modules/.lock"), wanted)
            .with_context(|| dir.display().to_string())?;
    }
    Ok(dir)
}

/// The path of a program, which Playwright wants.
fn find(program: &str) -> Result<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return Ok(path.to_owned());
    }
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
        .with_context(|| format!("{program} is not in PATH"))
}
