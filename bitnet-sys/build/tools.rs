//! Are the tools there? Asked before they are used, so that the answer is one line and not their panic.

use std::panic::{self, AssertUnwindSafe};
use std::process::Command;

/// The line that installs everything on Debian and its kin.
const INSTALL: &str = "apt-get install -y cmake make g++ libclang-dev";

/// The C++ compiler that will be used.
pub struct Compiler {
    /// First line of `--version`.
    pub version: String,
}

/// Checks CMake, make, the C++ compiler and libclang.
pub fn check() -> Result<Compiler, String> {
    let cmake = std::env::var("CMAKE").unwrap_or_else(|_| "cmake".into());
    if first_line(&cmake).is_none() {
        return Err(missing("CMake", &cmake));
    }
    if std::env::var_os("CMAKE_GENERATOR").is_none() && first_line("make").is_none() {
        return Err(missing("make", "make"));
    }
    let tool = cc::Build::new()
        .cpp(true)
        .cargo_metadata(false)
        .try_get_compiler()
        .map_err(|e| e.to_string())?;
    let path = tool.path().display().to_string();
    let version = first_line(&path).ok_or_else(|| missing("a C++ compiler", &path))?;
    quietly(bindgen::clang_version)
        .map_err(|e| format!("{} ({e})", missing("libclang", "libclang.so")))?;
    Ok(Compiler { version })
}

fn missing(what: &str, program: &str) -> String {
    format!(
        "the reference needs {what}, and `{program}` was not found. Install it: `{INSTALL}` (or let `cargo xtask setup` \
         do so), or build without the reference: `--no-default-features`"
    )
}

/// First line that `program --version` prints; `None` if it cannot be run.
fn first_line(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or_default().trim().to_owned())
}

/// What sets a compiler apart from others: how it describes itself, and the macros that it defines for the CPU at hand,
/// which name every extension that it would use there.
pub fn identity(compiler: &str) -> String {
    let run = |args: &[&str]| {
        let output = Command::new(compiler).args(args).output().ok()?;
        let text = || String::from_utf8_lossy(&output.stdout).into_owned();
        output.status.success().then(text)
    };
    let mut identity = run(&["--version"]).unwrap_or_default();
    // Compilers for Arm and POWER know only the latter.
    let macros = ["-march=native", "-mcpu=native"]
        .iter()
        .find_map(|cpu| run(&[cpu, "-dM", "-E", "-x", "c", "/dev/null"]));
    identity += &macros.unwrap_or_default();
    identity
}

/// Calls something that panics where it should return an error, and returns the panic's message.
pub fn quietly<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let result = panic::catch_unwind(AssertUnwindSafe(f));
    panic::set_hook(hook);
    result.map_err(|payload| {
        payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "unknown panic".to_owned())
    })
}
