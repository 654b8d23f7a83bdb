//! Engine names, and the programs behind them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::str::FromStr;

use bitnet_model::Activation;
use bitnet_model::nearest::{did_you_mean, nearest};

use super::{Launcher, command};
use crate::error::Error;

/// Engines that are a name and nothing else.
const NAMES: [&str; 4] = ["rust", BITNET_CPP, LLAMA_CPP, "oracle"];

/// The reference that this program is linked to.
const BITNET_CPP: &str = "bitnet.cpp";

/// What stands in front of a file or of a command.
const PREFIXES: [&str; 2] = ["trace", "exec"];

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
            BITNET_CPP => return Ok(EngineSpec::BitnetCpp),
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
            "unknown engine {s:?}{}: expected rust, bitnet.cpp, bitnet.cpp@NAME, llama.cpp, \
             oracle, trace:FILE or exec:COMMAND",
            meant(s)
        )))
    }
}

/// What was probably meant by the name of an engine, as a parenthesis; nothing if that cannot be said.
fn meant(name: &str) -> String {
    let parts = |separator| name.split_once(separator).unwrap_or((name, ""));
    let (prefix, rest) = parts(':');
    let (base, of_tree) = parts('@');
    let meant = if let (Some(prefix), false) = (nearest(prefix, PREFIXES), rest.is_empty()) {
        format!("{prefix}:{rest}")
    } else if let (Some(BITNET_CPP), false) = (nearest(base, NAMES), of_tree.is_empty()) {
        format!("{BITNET_CPP}@{of_tree}")
    } else if Path::new(name)
        .extension()
        .is_some_and(|e| e == "safetensors")
    {
        format!("trace:{name}")
    } else if Path::new(name).is_file() {
        format!("exec:{name}")
    } else {
        return did_you_mean(
            name,
            NAMES.into_iter().chain(["trace:FILE", "exec:COMMAND"]),
        );
    };
    match meant == name {
        // That name is taken, and what is behind it is not.
        true => String::new(),
        false => format!(" (did you mean {meant:?}?)"),
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

    /// What it is called in a sentence: that of a command without folders.
    pub(crate) fn label(&self) -> String {
        let EngineSpec::Exec(text) = self else {
            return self.to_string();
        };
        let words = command::words(text).unwrap_or_default();
        let words = words.iter().map(|word| {
            let name = Path::new(word).file_name().filter(|_| word.contains('/'));
            name.map_or(word.into(), |name| name.to_string_lossy())
        });
        words.collect::<Vec<_>>().join(" ")
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
                let this = this()?;
                let program = named_reference(&this, name).ok_or_else(|| {
                    let built = built_references(&this);
                    let meant = did_you_mean(name, built.iter().map(String::as_str));
                    let built = match built.as_slice() {
                        [] => String::new(),
                        built => format!("; built are {}", built.join(", ")),
                    };
                    Error::Engine(format!(
                        "engine {self}: not built{meant}; run `cargo xtask reference {name}` \
                         (or `{name}=DIR` for a checkout){built}"
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

/// Names of the references that were built, as after `bitnet.cpp@`, sorted.
pub fn built_references(this: &Path) -> Vec<String> {
    let folders = reference_folders(this);
    let entries = folders.iter().filter_map(|f| std::fs::read_dir(f).ok());
    let built = entries.flatten().filter_map(|entry| {
        let entry = entry.ok()?;
        let is_built = entry.path().join("crossval").is_file();
        is_built.then(|| entry.file_name())?.into_string().ok()
    });
    let mut names: Vec<String> = built.collect();
    names.sort();
    names.dedup();
    names
}

/// Folders that may hold reference workers, nearest first.
fn reference_folders(this: &Path) -> Vec<PathBuf> {
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

    #[test]
    fn a_command_is_called_by_its_words_without_folders() {
        for (name, label) in [
            ("rust", "rust"),
            ("bitnet.cpp@2024-11", "bitnet.cpp@2024-11"),
            ("exec:/opt/engines/mine", "mine"),
            (
                "exec:'/usr/bin/python3' ../w.py --fast",
                "python3 w.py --fast",
            ),
        ] {
            assert_eq!(name.parse::<EngineSpec>().unwrap().label(), label);
        }
    }

    #[test]
    fn what_was_probably_meant_is_said() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        for (name, meant) in [
            ("rsut", "rust"),
            ("Bitnet.cpp", "bitnet.cpp"),
            ("llama", "llama.cpp"),
            ("exce:python3 worker.py", "exec:python3 worker.py"),
            ("Trace:run.safetensors", "trace:run.safetensors"),
            ("bitnetcpp@2024-11", "bitnet.cpp@2024-11"),
            ("run.safetensors", "trace:run.safetensors"),
            (file, &format!("exec:{file}")),
            ("trace:", "trace:FILE"),
            ("exec", "exec:COMMAND"),
        ] {
            let error = name.parse::<EngineSpec>().unwrap_err().to_string();
            let says = format!("unknown engine {name:?} (did you mean {meant:?}?): expected");
            assert!(error.starts_with(&says), "{error}");
        }
        for name in ["gpu", "", "bitnet.cpp@../x", "http://localhost:8080"] {
            let error = name.parse::<EngineSpec>().unwrap_err().to_string();
            assert!(!error.contains("did you mean"), "{error}");
        }
    }
}
