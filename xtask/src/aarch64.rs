//! Tests bitnet-model and bitnet-core on an emulated 64-bit Arm processor: correctness only, an emulator says nothing
//! about speed.

use std::env::consts::ARCH;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{Need, install, runs};
use crate::{cargo, root, run as run_command, target_dir};

const TARGET: &str = "aarch64-unknown-linux-gnu";

const NEEDS: [Need; 3] = [
    Need {
        what: "a linker for aarch64",
        package: "gcc-aarch64-linux-gnu",
        present: || runs("aarch64-linux-gnu-gcc", "--version"),
    },
    Need {
        what: "a C library for aarch64",
        package: "libc6-dev-arm64-cross",
        present: || Path::new("/usr/aarch64-linux-gnu/lib/libc.so.6").exists(),
    },
    Need {
        what: "QEMU's user-mode emulator for aarch64",
        package: "qemu-user-static",
        present: || runs("qemu-aarch64-static", "--version"),
    },
];

/// Builds the unit tests of bitnet-model and bitnet-core for aarch64 and runs them under QEMU, with the NEON kernel.
pub fn run() -> Result<()> {
    if ARCH != "x86_64" {
        bail!(
            "cross-compiles from x86-64; on {ARCH}, run `cargo test -p bitnet-model -p bitnet-core`"
        );
    }
    install(
        &NEEDS,
        "elsewhere, a GNU cross-compiler for aarch64 and QEMU's user mode, under Debian's names",
    )?;
    let target = target_dir().join("aarch64");
    let mut command = cargo(&["test", "--locked"]);
    command.args(["--package", "bitnet-model", "--package", "bitnet-core"]);
    // The kernels and what stands on them. Whole models under an emulator take ten minutes.
    command.args(["--lib", "--target", TARGET]);
    command.arg("--target-dir").arg(target.join("target"));
    if !rustup_has_target() {
        let debian = target.join("rust");
        if !debian.join("usr/bin/rustc").exists() {
            unpack_debian_rust(&debian).context(
                "no standard library for aarch64: run `rustup target add aarch64-unknown-linux-gnu`",
            )?;
        }
        command
            .env("RUSTC", debian.join("usr/bin/rustc"))
            .env("LD_LIBRARY_PATH", debian.join("usr/lib/x86_64-linux-gnu"));
    }
    let variable = |what| format!("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_{what}");
    command
        .env(variable("LINKER"), "aarch64-linux-gnu-gcc")
        .env(
            variable("RUNNER"),
            "qemu-aarch64-static -L /usr/aarch64-linux-gnu",
        )
        // Fails if the kernel is missing, so none passes by not running.
        .env("BITNET_KERNEL", "neon");
    run_command(&mut command)
}

/// Whether the rustc in use has the target's standard library.
fn rustup_has_target() -> bool {
    let output = Command::new("rustc")
        .current_dir(root())
        .args(["--print", "target-libdir", "--target", TARGET])
        .output();
    output.is_ok_and(|output| Path::new(String::from_utf8_lossy(&output.stdout).trim()).is_dir())
}

/// Unpacks Debian's newer Rust (`rustc-web`, kept for browsers), with the standard library of its arm64 port, into
/// `to`. Needs no root and leaves the system's packages alone.
fn unpack_debian_rust(to: &Path) -> Result<()> {
    let apt = Apt {
        state: to.with_extension("apt"),
    };
    fs::create_dir_all(apt.state.join("lists/partial"))?;
    fs::create_dir_all(apt.state.join("cache/archives/partial"))?;
    run_command(apt.command("apt-get").args(["update", "-qq"]))?;
    let mut packages = vec!["rustc-web:amd64".to_owned()];
    let mut i = 0;
    while i < packages.len() {
        for package in apt.rust_dependencies(&packages[i])? {
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
        i += 1;
    }
    packages.push("libstd-rust-web-dev:arm64".to_owned());
    let debs = apt.state.join("debs");
    fs::create_dir_all(&debs)?;
    run_command(
        apt.command("apt-get")
            .args(["download", "-qq"])
            .args(&packages)
            .current_dir(&debs),
    )?;
    let unpacked = to.with_extension("part");
    for deb in fs::read_dir(&debs)? {
        run_command(
            Command::new("dpkg-deb")
                .arg("-x")
                .arg(deb?.path())
                .arg(&unpacked),
        )?;
    }
    fs::remove_dir_all(&apt.state)?;
    Ok(fs::rename(&unpacked, to)?)
}

/// apt with lists of its own, for both architectures.
struct Apt {
    state: PathBuf,
}

impl Apt {
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for architecture in ["amd64", "arm64"] {
            command.arg(format!("-oAPT::Architectures::={architecture}"));
        }
        for (option, folder) in [("State::Lists", "lists"), ("Cache", "cache")] {
            let folder = self.state.join(folder);
            command.arg(format!("-oDir::{option}={}", folder.display()));
        }
        // Else it warns that its own user can't write here.
        command.arg("-oAPT::Sandbox::User=root");
        command
    }

    /// What `package` needs of Rust and LLVM, whose names carry their versions. The rest a Rust build has anyway.
    fn rust_dependencies(&self, package: &str) -> Result<Vec<String>> {
        let mut command = self.command("apt-cache");
        let output = command.args(["depends", package]).output()?;
        if !output.status.success() {
            bail!(
                "Debian's package {package} cannot be found: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let output = String::from_utf8_lossy(&output.stdout);
        let names = output
            .lines()
            .filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names
            .filter(|name| name.starts_with("libstd-rust") || name.starts_with("libllvm"))
            .map(|name| format!("{name}:amd64"))
            .collect())
    }
}
