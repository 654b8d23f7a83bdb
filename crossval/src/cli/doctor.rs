//! `crossval doctor`.

use std::process::Command;

use reports::outcome::Outcome;

use super::inspect::table;
use crate::engine::{Engine, EngineSpec, reference_folders};
use crate::environment::{self, Provenance};
use crate::error::Error;

/// What a build of the reference needs, and the Debian package that has it.
const TOOLS: [(&str, &str); 2] = [("cmake", "cmake"), ("c++", "g++")];

pub(super) fn run(provenance: &Provenance) -> Result<Outcome, Error> {
    let environment = environment::describe(provenance);
    println!(
        "crossval {} ({}, {}, {})",
        environment.crossval_version,
        environment
            .git_revision
            .as_deref()
            .unwrap_or("revision unknown"),
        environment.profile,
        environment.rustc
    );
    println!(
        "{}, {} CPUs, {}",
        environment.cpu.as_deref().unwrap_or("CPU unknown"),
        environment.cpus,
        environment.os
    );
    println!("CPU features  {}\n", environment.cpu_features.join(" "));

    let mut tools = table(&["tool", "found"]);
    for (tool, package) in TOOLS {
        let found = version(tool).unwrap_or_else(|| format!("missing: {package}"));
        tools.add_row([tool, &found]);
    }
    let libclang = libclang().unwrap_or_else(|| "missing: libclang-dev".to_owned());
    tools.add_row(["libclang", &libclang]);
    println!("{tools}\n");

    let mut specs = vec![EngineSpec::Rust { fault: None }, EngineSpec::BitnetCpp];
    specs.extend(named_references());
    let mut reference = false;
    for spec in &specs {
        match Engine::start(spec, None) {
            Ok(engine) => {
                reference |= *spec == EngineSpec::BitnetCpp;
                let hello = engine.hello();
                println!(
                    "{spec}  {}",
                    hello.version.as_deref().unwrap_or("version unknown")
                );
                println!("  architectures  {}", hello.architectures.join(" "));
                for (key, value) in &hello.build {
                    println!("  {key:13}  {}", value.trim());
                }
            }
            Err(e) => println!("{spec}  {e}"),
        }
    }
    Ok(if reference {
        Outcome::Pass
    } else {
        Outcome::Engine
    })
}

fn version(tool: &str) -> Option<String> {
    let output = Command::new(tool).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.lines().next()?.to_owned())
}

/// The library that bindgen loads, as the dynamic linker knows it.
fn libclang() -> Option<String> {
    let output = Command::new("ldconfig").arg("-p").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .find(|l| l.trim_start().starts_with("libclang"))?;
    Some(line.rsplit("=> ").next()?.to_owned())
}

fn named_references() -> Vec<EngineSpec> {
    let Ok(this) = std::env::current_exe() else {
        return Vec::new();
    };
    let mut names: Vec<String> = reference_folders(&this)
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flatten()
        .filter_map(|entry| {
            let entry = entry.ok()?;
            entry
                .path()
                .join("crossval")
                .is_file()
                .then(|| entry.file_name())?
                .into_string()
                .ok()
        })
        .collect();
    names.sort();
    names.dedup();
    names.into_iter().map(EngineSpec::BitnetCppNamed).collect()
}
