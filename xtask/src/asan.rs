//! AddressSanitizer over what is unsafe: mapped files, the kernels, and BitNet.cpp behind its FFI.

use std::process::Command;

use anyhow::{Context, Result};

use crate::setup::has_nightly;
use crate::{cargo, demo, root, run as run_command, setup, target_dir};

const FLAGS: &str = "-fsanitize=address -fno-omit-frame-pointer";

/// Runs the tests of bitnet-model, bitnet-core and bitnet-sys, and both engines on the bundled model, with C++ and, where
/// rustup has a nightly toolchain, Rust instrumented. The stable toolchain links the C++ compiler's runtime instead:
/// Rust's own reads and writes are then unchecked, but its allocations are watched where C++ uses them.
pub fn run() -> Result<()> {
    setup::run()?;
    let nightly = has_nightly();
    if !nightly {
        eprintln!(
            "xtask: no nightly toolchain (rustup toolchain install nightly): only C++ is instrumented"
        );
    }
    // Named, or the flags would be for build scripts too.
    let target = host()?;
    let folder = target_dir().join("asan");
    let instrumented = |args: &[&str]| {
        let mut command = if nightly {
            let mut command = Command::new("rustup");
            command
                .current_dir(root())
                .args(["run", "nightly", "cargo"])
                .args(args);
            command
        } else {
            cargo(args)
        };
        let flag = if nightly {
            "-Zsanitizer=address"
        } else {
            "-Clink-arg=-fsanitize=address"
        };
        let variable = target.to_uppercase().replace('-', "_");
        command
            .args(["--locked", "--target", &target, "--target-dir"])
            .arg(&folder)
            .env(format!("CARGO_TARGET_{variable}_RUSTFLAGS"), flag)
            .env("CFLAGS", FLAGS)
            .env("CXXFLAGS", FLAGS);
        command
    };
    let mut tests = instrumented(&["test", "--lib", "--tests"]);
    tests
        .args(["--package", "bitnet-model"])
        .args(["--package", "bitnet-core", "--package", "bitnet-sys"])
        // Suppressions go by the names of functions, which binutils know where LLVM's tools are missing.
        .env("ASAN_OPTIONS", "allow_addr2line=1")
        .env(
            "LSAN_OPTIONS",
            format!("suppressions={}", root().join("xtask/leaks.supp").display()),
        );
    run_command(&mut tests)?;

    run_command(&mut instrumented(&["build", "--bin", "crossval"]))?;
    let mut command = Command::new(folder.join(&target).join("debug/crossval"));
    demo::arguments(&mut command, &folder.join("report"));
    // Leaks are looked for by a process of its own, which a worker may not start; the tests look for them.
    command
        .arg("--no-bench")
        .env("ASAN_OPTIONS", "detect_leaks=0");
    run_command(&mut command)
}

/// The target triple of this machine.
fn host() -> Result<String> {
    let output = Command::new("rustc")
        .current_dir(root())
        .arg("-vV")
        .output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}
