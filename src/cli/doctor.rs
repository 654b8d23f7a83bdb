//! `crossval doctor`.

use std::path::{Path, PathBuf};
use std::process::Command;

use crossval_protocol::{Graph, Graphs, Hello, ModelFacts};
use reports::model::Environment;
use reports::outcome::Outcome;
use serde::Serialize;

use super::limits::launcher;
use super::terminal::{Terminal, table};
use crossval::Error;
use crossval::engine::{EngineError, EngineSpec, built_references, this_program};
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
    /// Print all of it as JSON, and nothing else
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Checkup {
    schema: &'static str,
    environment: Environment,
    tools: Vec<Tool>,
    engines: Vec<Built>,
}

#[derive(Debug, Serialize)]
struct Tool {
    name: &'static str,
    /// Its version, or where it lies; null if it is missing.
    found: Option<String>,
    /// What to install then.
    package: &'static str,
}

#[derive(Debug, Serialize)]
struct Built {
    engine: String,
    /// What it says of itself; null if it does not start.
    hello: Option<Hello>,
    /// Why it does not.
    error: Option<String>,
}

/// What `--graph` prints with `--json`.
#[derive(Serialize)]
struct Listing<'a> {
    schema: &'static str,
    engine: String,
    version: Option<&'a str>,
    model: String,
    facts: &'a ModelFacts,
    #[serde(flatten)]
    graphs: &'a Graphs,
}

pub(super) fn run(
    args: Args,
    provenance: &Provenance,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    match &args.graph {
        Some(model) => graphs(model, args.reference.parse()?, args.json, terminal),
        None => {
            let checkup = examine(provenance);
            match args.json {
                true => terminal.print_json(&checkup)?,
                false => terminal.print(&checkup.text())?,
            }
            Ok(checkup.outcome())
        }
    }
}

/// Lists what a reference evaluates for a model, to be read and to be reported.
fn graphs(
    model: &Path,
    spec: EngineSpec,
    json: bool,
    terminal: Terminal,
) -> Result<Outcome, Error> {
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
    if json {
        terminal.print_json(&Listing {
            schema: "crossval.graphs/1",
            engine: spec.to_string(),
            version,
            model: model.display().to_string(),
            facts: &facts,
            graphs: &graphs,
        })?;
        return Ok(Outcome::Pass);
    }
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

/// Looks at the machine, the tools and every engine that can be started here.
fn examine(provenance: &Provenance) -> Checkup {
    let tools = TOOLS.map(|(name, package)| Tool {
        name,
        found: version(name),
        package,
    });
    let libclang = Tool {
        name: "libclang",
        found: libclang(),
        package: "libclang-dev",
    };
    let engines = built().into_iter().map(|spec| {
        let started = launcher().start(&spec, None);
        let (hello, error) = match started {
            Ok(engine) => (Some(engine.hello().clone()), None),
            Err(e) => (None, Some(e.to_string())),
        };
        Built {
            engine: spec.to_string(),
            hello,
            error,
        }
    });
    Checkup {
        schema: "crossval.doctor/1",
        environment: environment::describe(provenance),
        tools: tools.into_iter().chain([libclang]).collect(),
        engines: engines.collect(),
    }
}

impl Checkup {
    fn outcome(&self) -> Outcome {
        let reference = EngineSpec::BitnetCpp.to_string();
        let mut engines = self.engines.iter();
        match engines.any(|built| built.engine == reference && built.hello.is_some()) {
            true => Outcome::Pass,
            false => Outcome::Engine,
        }
    }

    fn text(&self) -> String {
        let environment = &self.environment;
        let revision = environment.git_revision.as_deref();
        let mut out = format!(
            "crossval {} ({}, {}, {})\n{}, {} CPUs, {}\nCPU features  {}\n\n",
            environment.crossval_version,
            revision.unwrap_or("revision unknown"),
            environment.profile,
            environment.rustc,
            environment.cpu.as_deref().unwrap_or("CPU unknown"),
            environment.cpus,
            environment.os,
            environment.cpu_features.join(" ")
        );
        let mut tools = table(&["tool", "found"]);
        for tool in &self.tools {
            let missing = || format!("missing: {}", tool.package);
            let found = tool.found.clone().unwrap_or_else(missing);
            tools.add_row([tool.name, &found]);
        }
        out.push_str(&format!("{tools}\n\n"));
        for Built {
            engine,
            hello,
            error,
        } in &self.engines
        {
            let Some(hello) = hello else {
                let why = error.as_deref().unwrap_or("it does not start");
                out.push_str(&format!("{engine}  {why}\n"));
                continue;
            };
            let version = hello.version.as_deref().unwrap_or("version unknown");
            let architectures = hello.architectures.join(" ");
            out.push_str(&format!(
                "{engine}  {version}\n  architectures  {architectures}\n"
            ));
            for (key, value) in &hello.build {
                out.push_str(&format!("  {key:13}  {}\n", value.trim()));
            }
        }
        out
    }
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
    let names = this_program().map_or(Vec::new(), |this| built_references(&this));
    names.into_iter().map(EngineSpec::BitnetCppNamed).collect()
}
