//! Builds `crossval` once more, linked to another BitNet.cpp or to llama.cpp: all of them export the same symbols, so each
//! needs a program of its own.

use std::env::consts::ARCH;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

use crate::cpu::CpuLevel;
use crate::setup::STUBS;
use crate::{cargo, run as run_command, setup, target_dir};

#[derive(clap::Args)]
pub struct Arguments {
    /// A pinned tree (`2024-11`, `llama.cpp`), or a name of your choice with the folder of a checkout.
    #[arg(value_name = "NAME[=DIR]")]
    reference: Reference,
    /// The CPU to build for: `native`, whatever this one has, or `x86-64-v3` or `x86-64-v4`. Takes the place of what was
    /// built by this name for another CPU.
    #[arg(long = "cpu", value_name = "LEVEL", default_value = "native", value_parser = cpu_level)]
    level: CpuLevel,
}

/// A CPU level that can be built for here.
fn cpu_level(name: &str) -> Result<CpuLevel, String> {
    let level: CpuLevel = name.parse()?;
    match level.is_of(ARCH) {
        true => Ok(level),
        false => Err(format!("{name}: no CPU level of {ARCH}")),
    }
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    arguments.reference.build(arguments.level)
}

/// A source tree by name.
#[derive(Clone)]
pub struct Reference {
    name: String,
    /// The checkout; `None` for a pinned tree.
    dir: Option<PathBuf>,
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let (name, dir) = match s.split_once('=') {
            Some((name, dir)) => (name, Some(dir)),
            None => (s, None),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !name.is_empty() && !name.starts_with('.') && name.chars().all(plain),
            "{name:?}: a name is made of letters, digits, `-`, `_` and `.`"
        );
        let dir = match dir {
            Some(dir) => Some(
                Path::new(dir)
                    .canonicalize()
                    .with_context(|| dir.to_owned())?,
            ),
            None if STUBS.iter().any(|(pinned, _)| *pinned == name) => None,
            None => bail!(
                "{name} is not pinned here ({} are); name its folder: {name}=DIR",
                STUBS.map(|(pinned, _)| pinned).join(", ")
            ),
        };
        Ok(Reference {
            name: name.to_owned(),
            dir,
        })
    }
}

impl Reference {
    /// Builds `target/reference/NAME/crossval`.
    pub fn build(&self, level: CpuLevel) -> Result<()> {
        let target = target_dir().join("reference");
        fs::create_dir_all(&target).with_context(|| target.display().to_string())?;
        // All share what does not depend on the library. Another one must not be built before this one is copied.
        let build = target.join(".build");
        let lock = target.join(".lock");
        let lock = File::create(&lock).with_context(|| lock.display().to_string())?;
        lock.lock()?;
        let mut command = cargo(&["build", "--release", "--locked", "--bin", "crossval"]);
        command
            .arg("--target-dir")
            .arg(&build)
            .env("BITNET_CPP_REFERENCE", &self.name)
            .env("BITNET_CPP_CPU", level.name());
        match &self.dir {
            Some(dir) => command.env("BITNET_CPP_DIR", dir),
            None => command.env_remove("BITNET_CPP_DIR"),
        };
        run_command(&mut command)?;

        let dir = target.join(&self.name);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let (built, program) = (build.join("release/crossval"), dir.join("crossval"));
        // Renamed into place: a program that is running cannot be overwritten.
        let new = dir.join("crossval.new");
        fs::copy(&built, &new)
            .with_context(|| format!("{} to {}", built.display(), new.display()))?;
        fs::rename(&new, &program).with_context(|| program.display().to_string())?;
        let engine = match self.name.as_str() {
            "llama.cpp" => "llama.cpp".to_owned(),
            name => format!("bitnet.cpp@{name}"),
        };
        eprintln!("xtask: {engine} is {}", program.display());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_folders() {
        let pinned: Reference = "2024-11".parse().unwrap();
        assert_eq!((pinned.name.as_str(), pinned.dir), ("2024-11", None));
        let llama: Reference = "llama.cpp".parse().unwrap();
        assert_eq!((llama.name.as_str(), llama.dir), ("llama.cpp", None));
        let checkout: Reference = "mine=/".parse().unwrap();
        assert_eq!(
            (checkout.name.as_str(), checkout.dir),
            ("mine", Some(PathBuf::from("/")))
        );
        for bad in [
            "",
            "2023-01",
            "../x=/",
            "a b=/",
            "mine=/no/such/folder",
            ".=/",
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_stub_for_every_name() {
        for (name, folder) in STUBS {
            let stub = crate::root().join("third_party").join(folder);
            for file in ["Cargo.toml", "Cargo.lock", "lib.rs"] {
                assert!(stub.join(file).is_file(), "{name}: {file}");
            }
        }
    }

    #[test]
    fn a_cpu_level_that_this_machine_could_have() {
        assert_eq!(cpu_level("native"), Ok(CpuLevel::Native));
        assert_eq!(cpu_level("x86-64-v3").is_ok(), ARCH == "x86_64");
        assert!(cpu_level("x86-64-v2").unwrap_err().contains("I2_S"));
    }
}
