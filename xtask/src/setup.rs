//! Installs what the build of the references needs, and fetches their source.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::{cargo, run as run_command};

/// Something that must be installed.
pub struct Need {
    pub what: &'static str,
    /// Debian's package of it.
    pub package: &'static str,
    pub present: fn() -> bool,
}

/// What the build needs.
const NEEDS: [Need; 4] = [
    Need {
        what: "CMake",
        package: "cmake",
        present: || runs(&variable("CMAKE", "cmake"), "--version"),
    },
    Need {
        what: "make",
        package: "make",
        present: || runs("make", "--version"),
    },
    Need {
        what: "a C++ compiler",
        package: "g++",
        present: || runs(&variable("CXX", "c++"), "--version"),
    },
    Need {
        what: "libclang",
        package: "libclang-dev",
        present: has_libclang,
    },
];

/// What checks from npm need.
const NODE: [Need; 2] = [
    Need {
        what: "Node.js",
        package: "nodejs",
        present: || runs("node", "--version"),
    },
    Need {
        what: "npm",
        package: "npm",
        present: || runs("npm", "--version"),
    },
];

/// The pinned source trees by name, and the folders of their stub manifests.
pub const STUBS: [(&str, &str); 3] = [
    ("2026-01", "bitnet-2026-01"),
    ("2024-11", "bitnet-2024-11"),
    ("llama.cpp", "llama.cpp"),
];

pub fn run() -> Result<()> {
    install(
        &NEEDS,
        "on Fedora: `dnf install cmake make gcc-c++ clang-devel`; on macOS: `brew install cmake llvm`",
    )?;
    for (_, folder) in STUBS {
        let manifest = format!("third_party/{folder}/Cargo.toml");
        run_command(&mut cargo(&[
            "fetch",
            "--quiet",
            "--locked",
            "--manifest-path",
            &manifest,
        ]))?;
    }
    Ok(())
}

/// Installs Node.js and npm.
pub fn install_node() -> Result<()> {
    let elsewhere = "on Fedora: `dnf install nodejs npm`; on macOS: `brew install node`";
    install(&NODE, elsewhere)
}

/// Installs what is missing through apt where it may; else says what to type, `elsewhere` on other systems.
pub fn install(needs: &[Need], elsewhere: &str) -> Result<()> {
    let missing = || -> Vec<&Need> { needs.iter().filter(|need| !(need.present)()).collect() };
    let needed = missing();
    if needed.is_empty() {
        return Ok(());
    }
    let join = |f: fn(&Need) -> &str, by| {
        needed
            .iter()
            .map(|need| f(need))
            .collect::<Vec<_>>()
            .join(by)
    };
    let (what, packages) = (join(|need| need.what, ", "), join(|need| need.package, " "));
    eprintln!("xtask: missing: {what}");
    if !runs("apt-get", "--version") {
        bail!(
            "{what} must be installed first. On Debian or Ubuntu: `apt-get install -y {packages}`; {elsewhere}"
        );
    }
    if !is_root() {
        bail!("{what} must be installed first: `sudo apt-get install -y {packages}`");
    }
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdout(Stdio::null());
        run_command(&mut command)
    };
    apt(&["update", "-qq"])?;
    let mut args = vec!["install", "-y", "-qq", "--no-install-recommends"];
    args.extend(needed.iter().map(|need| need.package));
    apt(&args)?;
    let still: Vec<_> = missing().iter().map(|need| need.what).collect();
    if !still.is_empty() {
        bail!(
            "installed {packages}, but {} cannot be found",
            still.join(", ")
        );
    }
    Ok(())
}

/// An environment variable, or `default` where it is not set or empty.
pub fn variable(name: &str, default: &str) -> String {
    env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

/// Whether rustup has a nightly toolchain, with which comes AddressSanitizer.
pub fn has_nightly() -> bool {
    runs("rustup run nightly rustc", "--version")
}

/// Whether a program can be run; `program` may carry arguments of its own, as `CXX="ccache g++"` does.
pub fn runs(program: &str, arg: &str) -> bool {
    let mut words = program.split_whitespace();
    words.next().is_some_and(|program| {
        let status = Command::new(program)
            .args(words)
            .arg(arg)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    })
}

fn is_root() -> bool {
    let output = Command::new("id").arg("-u").output();
    output.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

/// Whether libclang lies where bindgen looks for it.
fn has_libclang() -> bool {
    if let Some(path) = env::var_os("LIBCLANG_PATH") {
        let path = PathBuf::from(path);
        return path.is_file() || holds_libclang(&path);
    }
    let mut dirs: Vec<PathBuf> = Vec::new();
    if let Ok(output) = Command::new("llvm-config").arg("--libdir").output() {
        dirs.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    for dir in [
        "/usr/lib",
        "/usr/lib64",
        "/usr/local/lib",
        "/opt/homebrew/opt/llvm/lib",
        "/usr/local/opt/llvm/lib",
    ] {
        dirs.push(dir.into());
    }
    // Debian keeps it in /usr/lib/llvm-N/lib and links to it from /usr/lib/TRIPLE.
    for entry in fs::read_dir("/usr/lib").into_iter().flatten().flatten() {
        dirs.push(entry.path());
        dirs.push(entry.path().join("lib"));
    }
    dirs.iter().any(|dir| holds_libclang(dir))
}

fn holds_libclang(dir: &Path) -> bool {
    fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .any(|entry| is_libclang(&entry.file_name().to_string_lossy()))
}

/// `libclang-cpp.so`, which LLVM's own packages bring, is another library.
fn is_libclang(name: &str) -> bool {
    let library = name
        .strip_prefix("libclang")
        .and_then(|rest| rest.chars().next());
    matches!(library, Some('.' | '-'))
        && !name.contains("-cpp.")
        && (name.contains(".so") || name.ends_with(".dylib"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libclang_is_told_from_its_neighbours() {
        for name in [
            "libclang.so",
            "libclang-14.so.1",
            "libclang-14.so.14.0.6",
            "libclang.dylib",
        ] {
            assert!(is_libclang(name), "{name}");
        }
        for name in [
            "libclang-cpp.so.14",
            "libclang-cpp.so",
            "libclangBasic.a",
            "libclang.a",
        ] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
