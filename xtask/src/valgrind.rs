//! valgrind's memcheck over what is unsafe: mapped files, the kernels, and BitNet.cpp behind its FFI. It sees
//! uninitialised values, which AddressSanitizer does not.

use std::env::consts::ARCH;
use std::fs;
use std::process::Command;

use anyhow::{Result, bail, ensure};

use crate::setup::{Need, install, runs};
use crate::{cargo, demo, root, run as run_command, setup, target_dir};

const NEEDS: [Need; 2] = [
    Need {
        what: "valgrind",
        package: "valgrind",
        present: || runs("valgrind", "--version"),
    },
    Need {
        what: "the C library's symbols, which valgrind needs",
        package: "libc6-dbg",
        present: || std::path::Path::new("/usr/lib/debug/.build-id").is_dir(),
    },
];

/// Exit code of a program in which memcheck found something.
const FOUND: &str = "99";

/// Runs the unit tests of bitnet-model and bitnet-core, the tests of bitnet-sys, and both engines on the bundled model.
pub fn run() -> Result<()> {
    if ARCH != "x86_64" {
        bail!("knows the kernels of x86-64 only");
    }
    setup::run()?;
    install(&NEEDS, "elsewhere, under the same name")?;
    let folder = target_dir().join("valgrind");
    let suppressions = root().join("xtask/valgrind.supp");
    let options = [
        "--quiet".to_owned(),
        format!("--error-exitcode={FOUND}"),
        "--leak-check=full".to_owned(),
        "--show-leak-kinds=definite".to_owned(),
        "--errors-for-leak-kinds=definite".to_owned(),
        format!("--suppressions={}", suppressions.display()),
    ];
    let valgrind = format!("valgrind {}", options.join(" "));
    let for_avx2 = |args: &[&str]| {
        let mut command = cargo(args);
        command
            .args(["--locked", "--target-dir"])
            .arg(&folder)
            .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", &valgrind)
            .env("CMAKE_TOOLCHAIN_FILE", root().join("xtask/avx2.cmake"))
            .env("BITNET_KERNEL", "avx2");
        command
    };
    // bitnet-core's other tests run whole models, as the demo does, and would take half an hour.
    let mut units = for_avx2(&["test", "--lib"]);
    run_command(units.args(["--package", "bitnet-model", "--package", "bitnet-core"]))?;
    let mut tests = for_avx2(&["test", "--lib", "--tests"]);
    // valgrind runs one thread at a time anyhow, and BitNet.cpp has one log for all of them.
    tests.args(["--package", "bitnet-sys", "--", "--test-threads=1"]);
    run_command(&mut tests)?;

    run_command(&mut for_avx2(&["build", "--bin", "crossval"]))?;
    let logs = folder.join("logs");
    if logs.exists() {
        fs::remove_dir_all(&logs)?;
    }
    fs::create_dir_all(&logs)?;
    // What the driver keeps of a worker's standard error is not all of it.
    let mut command = Command::new("valgrind");
    command
        .args(&options)
        .args(["--trace-children=yes", "--vgdb=no"])
        .arg(format!("--log-file={}/%p", logs.display()))
        .arg(folder.join("debug/crossval"));
    demo::arguments(&mut command, &folder.join("report"));
    command.arg("--no-bench").env("BITNET_KERNEL", "avx2");
    run_command(&mut command)?;
    let mut processes = 0;
    for log in fs::read_dir(&logs)? {
        let log = log?.path();
        let found = fs::read_to_string(&log)?;
        // `--PID--` begins what is no finding: that it knows no Landlock, so the workers do without.
        let sound = !found.lines().any(|line| line.starts_with("=="));
        ensure!(sound, "{}: {found}", log.display());
        processes += 1;
    }
    // The driver and two workers at least.
    ensure!(processes > 2, "valgrind has watched {processes} processes");
    Ok(())
}
