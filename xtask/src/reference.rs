//! Builds `crossval` once more, linked to another BitNet.cpp: all of them export the same symbols, so each needs a
//! program of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context, Error, Result, bail, ensure};

use crate::setup::STUBS;
use crate::{cargo, run, target_dir};

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
            None if STUBS.contains(&name) => None,
            None => bail!(
                "{name} is not pinned here ({} are); name its folder: {name}=DIR",
                STUBS.join(", ")
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
    pub fn build(&self) -> Result<()> {
        let target = target_dir().join("reference");
        let build = target.join(format!("{}-build", self.name));
        let mut command = cargo(&["build", "--release", "--locked", "--bin", "crossval"]);
        command
            .arg("--target-dir")
            .arg(&build)
            .env("BITNET_CPP_REFERENCE", &self.name);
        match &self.dir {
            Some(dir) => command.env("BITNET_CPP_DIR", dir),
            None => command.env_remove("BITNET_CPP_DIR"),
        };
        run(&mut command)?;

        let dir = target.join(&self.name);
        fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        let (built, program) = (build.join("release/crossval"), dir.join("crossval"));
        // Renamed into place: a program that is running cannot be overwritten.
        let new = dir.join("crossval.new");
        fs::copy(&built, &new)
            .with_context(|| format!("{} to {}", built.display(), new.display()))?;
        fs::rename(&new, &program).with_context(|| program.display().to_string())?;
        eprintln!("xtask: bitnet.cpp@{} is {}", self.name, program.display());
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
}
