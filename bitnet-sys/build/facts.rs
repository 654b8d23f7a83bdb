//! What the reports say about this build of the library.

use std::fs;
use std::path::Path;

use crate::cargo_var;
use crate::cpu::CpuLevel;
use crate::library::Build;
use crate::source::Source;
use crate::tools::Compiler;

/// Writes `facts.rs`: one string constant per fact.
pub fn write(
    source: &Source,
    build: &Build,
    compiler: &Compiler,
    level: CpuLevel,
) -> Result<(), String> {
    let mut options: Vec<String> = build
        .cache()
        .filter(|(name, kind, value)| {
            name.starts_with("GGML_") && *kind == "BOOL" && *value == "ON"
        })
        .map(|(name, _, value)| format!("{name}={value}"))
        .collect();
    options.sort();
    let facts = [
        ("VINTAGE", source.vintage.clone()),
        ("REVISION", source.revision.clone()),
        ("SOURCE_DIR", source.root.display().to_string()),
        ("COMPILER", compiler.version.clone()),
        ("CPU_LEVEL", level.name().to_owned()),
        ("C_FLAGS", flags(build, &["/ggml.c"])?),
        // BitNet's kernels; newer forks keep them elsewhere.
        (
            "CXX_FLAGS",
            flags(
                build,
                &["/ggml-bitnet-mad.cpp", "/ggml-cpu.cpp", "/llama.cpp"],
            )?,
        ),
        ("OPTIONS", options.join(" ")),
    ];
    let text: String = facts
        .iter()
        .map(|(name, value)| format!("pub(crate) const {name}: &str = {value:?};\n"))
        .collect();
    let path = Path::new(&cargo_var("OUT_DIR")?).join("facts.rs");
    fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
}

/// The flags that the first of these files was really compiled with, from CMake's compilation database, without paths.
fn flags(build: &Build, files: &[&str]) -> Result<String, String> {
    let path = build.dir.join("compile_commands.json");
    let error = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let text = fs::read_to_string(&path).map_err(|e| error(&e))?;
    let commands: serde_json::Value = serde_json::from_str(&text).map_err(|e| error(&e))?;
    let entries = commands.as_array().map(Vec::as_slice).unwrap_or_default();
    let command = files
        .iter()
        .find_map(|end| {
            let entry = entries
                .iter()
                .find(|e| e["file"].as_str().is_some_and(|f| f.ends_with(end)))?;
            entry["command"].as_str()
        })
        .ok_or_else(|| error(&format!("no command compiles {files:?}")))?;
    let mut flags = Vec::new();
    let mut words = command.split_whitespace().skip(1);
    while let Some(word) = words.next() {
        match word {
            "-o" | "-c" | "-isystem" => drop(words.next()),
            _ if word.starts_with("-I") => {}
            _ => flags.push(word),
        }
    }
    Ok(flags.join(" "))
}
