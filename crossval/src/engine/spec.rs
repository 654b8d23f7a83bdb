//! Engine names, and the programs behind them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use bitnet_model::Activation;

use super::{Launcher, command};
use crate::error::Error;

/// The pinned reference that is no BitNet.cpp, and goes by its own name.
const LLAMA_CPP: &str = "llama.cpp";

/// An engine, as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineSpec {
    /// `rust`: the engine of `bitnet-core`, with a deliberate error if one is named.
    Rust {
        /// To prove that the comparison sees it.
        fault: Option<String>,
    },
    /// `oracle`: f64 arithmetic from the model's definition, the arbiter.
    Oracle,
    /// `bitnet.cpp`: the reference that this binary links.
    BitnetCpp,
    /// `bitnet.cpp@NAME`, or `llama.cpp`: a reference built by `cargo xtask reference NAME`.
    BitnetCppNamed(String),
    /// `trace:FILE`: what `crossval record` wrote.
    Trace(PathBuf),
    /// `exec:COMMAND`: any program that speaks the worker protocol, and its arguments, as a shell splits them.
    Exec(String),
}

impl FromStr for EngineSpec {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "rust" => return Ok(EngineSpec::Rust { fault: None }),
            "oracle" => return Ok(EngineSpec::Oracle),
            "bitnet.cpp" => return Ok(EngineSpec::BitnetCpp),
            LLAMA_CPP => return Ok(EngineSpec::BitnetCppNamed(LLAMA_CPP.to_owned())),
            _ => {}
        }
        if let Some(path) = s.strip_prefix("trace:").filter(|path| !path.is_empty()) {
            return Ok(EngineSpec::Trace(path.into()));
        }
        if let Some(text) = s.strip_prefix("exec:").filter(|text| !text.is_empty()) {
            command::words(text)?;
            return Ok(EngineSpec::Exec(text.to_owned()));
        }
        if let Some(name) = s.strip_prefix("bitnet.cpp@")
            && !name.is_empty()
            && !name.contains(['/', '\\'])
            && name != ".."
        {
            return Ok(EngineSpec::BitnetCppNamed(name.to_owned()));
        }
        Err(Error::Usage(format!(
            "unknown engine {s:?}: expected rust, bitnet.cpp, bitnet.cpp@NAME, llama.cpp, \
             oracle, trace:FILE or exec:COMMAND"
        )))
    }
}

impl fmt::Display for EngineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineSpec::Rust { fault: None } => f.write_str("rust"),
            EngineSpec::Rust { fault: Some(fault) } => write!(f, "rust+{fault}"),
            EngineSpec::Oracle => f.write_str("oracle"),
            EngineSpec::BitnetCpp => f.write_str("bitnet.cpp"),
            EngineSpec::BitnetCppNamed(name) if name == LLAMA_CPP => f.write_str(LLAMA_CPP),
            EngineSpec::BitnetCppNamed(name) => write!(f, "bitnet.cpp@{name}"),
            EngineSpec::Trace(path) => write!(f, "trace:{}", path.display()),
            EngineSpec::Exec(text) => write!(f, "exec:{text}"),
        }
    }
}

/// This program, also where there is no /proc to ask.
pub fn this_program() -> io::Result<PathBuf> {
    std::env::current_exe().or_else(|e| {
        let name = std::env::args_os().next().ok_or(e)?;
        match Path::new(&name).parent() {
            // To be looked for in PATH.
            Some(folder) if folder.as_os_str().is_empty() => Ok(name.into()),
            _ => Path::new(&name).canonicalize(),
        }
    })
}

impl EngineSpec {
    /// The file, if this is a trace.
    pub fn trace(&self) -> Option<&Path> {
        match self {
            EngineSpec::Trace(path) => Some(path),
            _ => None,
        }
    }

    /// Whether this crate wrote its worker, which then tells the truth about a model.
    pub fn is_ours(&self) -> bool {
        !matches!(self, EngineSpec::Exec(_))
    }

    /// What starts its worker.
    pub(super) fn command(&self, launcher: &Launcher) -> Result<Command, Error> {
        let this = || {
            this_program().map_err(|e| Error::Internal(format!("cannot find this program: {e}")))
        };
        let mut command;
        let activation = launcher.activation.map(Activation::name);
        let activation = activation.map(|name| ["--activation", name]);
        let activation = activation.into_iter().flatten();
        match self {
            EngineSpec::Rust { fault } => {
                command = Command::new(this()?);
                command.args(["worker", "rust"]).args(activation);
                if let Some(fault) = fault {
                    command.args(["--fault", fault]);
                }
            }
            EngineSpec::Oracle => {
                command = Command::new(this()?);
                command.args(["worker", "oracle"]).args(activation);
            }
            EngineSpec::BitnetCpp => {
                if !launcher.has_reference {
                    return Err(Error::Engine(
                        "engine bitnet.cpp: this crossval was built without it \
                         (--no-default-features); build with `cargo build --release`"
                            .into(),
                    ));
                }
                command = Command::new(this()?);
                command.args(["worker", "bitnet.cpp"]).args(activation);
            }
            EngineSpec::BitnetCppNamed(name) => {
                let program = named_reference(&this()?, name).ok_or_else(|| {
                    Error::Engine(format!(
                        "engine {self}: not built; run `cargo xtask reference {name}` \
                         (or `{name}=DIR` for a checkout)"
                    ))
                })?;
                command = Command::new(program);
                command.args(["worker", "bitnet.cpp"]).args(activation);
            }
            EngineSpec::Trace(path) => {
                command = Command::new(this()?);
                command.args(["worker", "trace", "--file"]).arg(path);
            }
            EngineSpec::Exec(text) => command = command::command(text)?,
        }
        Ok(command)
    }
}

/// Finds `target/reference/NAME/crossval` beside this program or below the working directory.
fn named_reference(this: &Path, name: &str) -> Option<PathBuf> {
    reference_folders(this)
        .into_iter()
        .map(|folder| folder.join(name).join("crossval"))
        .find(|program| program.is_file())
}

/// Folders that may hold reference workers, nearest first.
pub fn reference_folders(this: &Path) -> Vec<PathBuf> {
    let beside = this.ancestors().map(|a| a.join("reference"));
    let below = std::env::current_dir().map(|d| d.join("target/reference"));
    beside.chain(below).filter(|f| f.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in [
            "rust",
            "oracle",
            "bitnet.cpp",
            "bitnet.cpp@2024-11",
            "llama.cpp",
            "trace:run.safetensors",
            "exec:/bin/cat",
            "exec:python3  worker.py --name 'a b'",
        ] {
            assert_eq!(name.parse::<EngineSpec>().unwrap().to_string(), name);
        }
        for name in [
            "",
            "Rust",
            "bitnet.cpp@",
            "bitnet.cpp@../x",
            "llama.cpp@mine",
            "trace:",
            "exec:",
            "exec:sh -c '",
        ] {
            let error = name.parse::<EngineSpec>().unwrap_err();
            assert_eq!(error.outcome().exit_code(), 64, "{name}");
        }
    }
}
