//! Runs every test.

use anyhow::Result;

use crate::cpu::CpuLevel;
use crate::reference::Reference;
use crate::{aarch64, asan, cargo, python, run as run_command, setup, valgrind};

#[derive(clap::Args)]
pub struct Arguments {
    /// Run what takes long, too: the tests of the command line that are ignored otherwise, then `aarch64`, `asan` and
    /// `valgrind`. The first and the last of these need x86-64.
    #[arg(long)]
    full: bool,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    setup::run()?;
    python::run();
    for pinned in ["2024-11", "llama.cpp"] {
        pinned.parse::<Reference>()?.build(CpuLevel::Native)?;
    }
    run_command(&mut cargo(&["test", "--workspace", "--locked"]))?;
    if arguments.full {
        let mut ignored = cargo(&["test", "--package", "bitnet-crossval", "--locked"]);
        run_command(ignored.args(["--test", "cli", "--", "--ignored"]))?;
        aarch64::run()?;
        asan::run()?;
        valgrind::run()?;
    }
    Ok(())
}
