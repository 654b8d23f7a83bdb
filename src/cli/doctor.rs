//! `crossval doctor`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crossval_protocol::{Graph, ModelFacts};
use reports::outcome::Outcome;

use super::limits::launcher;
use super::terminal::{Terminal, table};
use crossval::Error;
use crossval::engine::{EngineError, EngineSpec, reference_folders, this_program};
use crossval::environment::{self, Provenance};

/// What a build of the reference needs, and the Debian package that has it.
const TOOLS: [(&str, &str); 2] = [("cmake", "cmake"), ("c++", "g++")];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// List the nodes of the graphs that a reference makes of this model, and what each is taken for
    #[arg(long, value_name = "MODEL")]
    graph: Option<PathBuf>,
    /// The reference: bitnet.cpp, or bitnet.cpp@NAME
    #[arg(long, requires = "graph", default_value = "bitnet.cpp")]
    reference: String,
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    match &args.graph {
        Some(model) => graphs(model, args.reference.parse()?, terminal),
        None => toolchain(provenance, terminal),
    }
}

/// Lists what a reference evaluates for a model, to be read and to be reported.
fn graphs(model: &Path, spec: EngineSpec, terminal: Terminal) -> Result<Outcome, Error> {
    let mut engine = launcher().start(&spec, None)?;
    if !engine.hello().graphs {
        return Err(Error::Option {
            option: "reference",
            what: format!("engine {spec} has no graphs to list"),
        });
    }
    let failed = |e: EngineError| e.into_error(&spec.to_string());
    let (facts, _) = engine.load(model).map_err(failed)?;
    let graphs = engine.graphs().map_err(failed)?;
    let version = engine.hello().version.as_deref();
    terminal.print_always(&format!(
        "{spec} ({}), {}\n{}\n",
        version.unwrap_or("version unknown"),
        model.display(),
        shape(&facts)
    ))?;
    for graph in &graphs.graphs {
        terminal.print_always(&format!("\n{graph}"))?;
    }
    let not_offered = graphs.not_offered.iter();
    let mut ends: Vec<String> = not_offered
        .map(|(tap, reason)| format!("not offered: {tap}: {}", reason.escape_debug()))
        .collect();
    ends.extend(graphs.graphs.iter().filter_map(Graph::not_understood));
    if ends.is_empty() {
        ends.push("every node was understood, every tap was found".to_owned());
    }
    terminal.print_always(&format!("\n{}\n", ends.join("\n")))?;
    Ok(Outcome::Pass)
}

/// The sizes that shapes are made of.
fn shape(facts: &ModelFacts) -> String {
    let sizes = [
        ("n_layer", facts.n_layer),
        ("n_embd", facts.n_embd),
        ("n_ff", facts.n_ff),
        ("n_head", facts.n_head),
        ("n_head_kv", facts.n_head_kv),
        ("n_vocab", facts.n_vocab),
    ];
    let sizes = sizes.map(|(name, size)| format!("{name} {size}"));
    format!("{}, {}", facts.architecture, sizes.join(", "))
}

fn toolchain(provenance: &Provenance, terminal: Terminal) -> Result<Outcome, Error> {
    let environment = environment::describe(provenance);
    terminal.print(&format!(
        "crossval {} ({}, {}, {})\n",
        environment.crossval_version,
        environment
            .git_revision
            .as_deref()
            .unwrap_or("revision unknown"),
        environment.profile,
        environment.rustc
    ))?;
    terminal.print(&format!(
        "{}, {} CPUs, {}\n",
        environment.cpu.as_deref().unwrap_or("CPU unknown"),
        environment.cpus,
        environment.os
    ))?;
    terminal.print(&format!(
        "CPU features  {}\n\n",
        environment.cpu_features.join(" ")
    ))?;

    let mut tools = table(&["tool", "found"]);
    for (tool, package) in TOOLS {
        let found = version(tool).unwrap_or_else(|| format!("missing: {package}"));
        tools.add_row([tool, &found]);
    }
    let libclang = libclang().unwrap_or_else(|| "missing: libclang-dev".to_owned());
    tools.add_row(["libclang", &libclang]);
    terminal.print(&format!("{tools}\n\n"))?;

    let mut reference = false;
    for spec in &built() {
        match launcher().start(spec, None) {
            Ok(engine) => {
                reference |= *spec == EngineSpec::BitnetCpp;
                let hello = engine.hello();
                terminal.print(&format!(
                    "{spec}  {}\n",
                    hello.version.as_deref().unwrap_or("version unknown")
                ))?;
                terminal.print(&format!(
                    "  architectures  {}\n",
                    hello.architectures.join(" ")
                ))?;
                for (key, value) in &hello.build {
                    terminal.print(&format!("  {key:13}  {}\n", value.trim()))?;
                }
            }
            Err(e) => terminal.print(&format!("{spec}  {e}\n"))?,
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

/// The engines that can be started here, or could be, were they built.
pub(super) fn built() -> Vec<EngineSpec> {
    let mut specs = vec![EngineSpec::Rust { fault: None }, EngineSpec::BitnetCpp];
    specs.extend(named_references());
    specs
}

fn named_references() -> Vec<EngineSpec> {
    let Ok(this) = this_program() else {
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
