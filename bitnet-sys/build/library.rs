//! CMake, the shim, the bindings, and what to link.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key};
use crate::cpu::CpuLevel;
use crate::source::Source;
use crate::tools::{self, quietly};
use crate::{cargo_var, fail};

/// Of how libraries are kept: another one makes all of them anew.
const FORMAT: &str = "1";

/// The folder that CMake built in.
pub struct Build {
    pub dir: PathBuf,
    cache: String,
}

impl Build {
    /// The entries `(name, type, value)` of CMake's cache.
    pub fn cache(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.cache.lines().filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let (name, kind) = key.split_once(':')?;
            (!name.starts_with(['#', '/'])).then_some((name, kind, value))
        })
    }

    fn cached(&self, name: &str) -> Option<&str> {
        self.cache()
            .find(|entry| entry.0 == name)
            .map(|entry| entry.2)
    }
}

/// Builds the target `llama` and what it depends on, optimised in every profile: an unoptimised reference is neither
/// the one that people run nor one to be timed. CMake is configured in any case, which takes seconds, and says how each
/// file would be compiled; what was compiled so before is taken from the user's cache.
pub fn build_cmake(source: &Source, level: CpuLevel) -> Result<Build, String> {
    // CMake keeps options and objects from one configuration to the next: a folder for each tree and level.
    let mut folder = Key::default();
    folder.add("root", source.root.to_string_lossy().as_bytes());
    folder.add("level", level.name());
    let mut config = cmake::Config::new("cmake");
    config
        .out_dir(Path::new(&cargo_var("OUT_DIR")?).join(folder.finish()))
        .profile("Release")
        .define("BITNET_DIR", &source.root)
        .define("LLAMA_DIR", &source.llama)
        .define("CPU_LEVEL", level.name());
    let dir = run(&mut config, "configured", source).join("build");
    let path = dir.join("CMakeCache.txt");
    let cache = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let build = Build { dir, cache };

    let (kept, key) = (Cache::of_user(|name| env::var_os(name)), build.key(source)?);
    let lib = build.dir.join("lib");
    let error = |e| format!("{}: {e}", lib.display());
    if let Some(kept) = &kept
        && kept.take(&key, &lib).map_err(error)?
    {
        println!("taken from {}", kept.entry(&key).display());
        return Ok(build);
    }
    // What was taken before is newer than objects that it was not made of. The folder is CMake's, which made it.
    if lib.exists() {
        fs::remove_dir_all(&lib).map_err(error)?;
    }
    fs::create_dir_all(&lib).map_err(error)?;
    run(config.always_configure(false), "llama", source);
    if let Some(Err(e)) = kept.map(|kept| kept.keep(&key, &lib)) {
        println!("cargo::warning=the built reference is not kept for other builds: {e}");
    }
    Ok(build)
}

/// Configures and builds a target; returns CMake's folder.
fn run(config: &mut cmake::Config, target: &str, source: &Source) -> PathBuf {
    quietly(|| config.build_target(target).build()).unwrap_or_else(|_| {
        fail(&format!(
            "the reference does not build from {}; see above",
            source.root.display()
        ))
    })
}

impl Build {
    /// Stands for all that the libraries depend on: the source, every command that compiles a part of it, and what the
    /// compilers make of them. Where the source and the build lie does not count.
    fn key(&self, source: &Source) -> Result<String, String> {
        let mut key = Key::default();
        key.add("format", FORMAT);
        key.add_tree(&source.root, &source.parts())?;
        let path = self.dir.join("compile_commands.json");
        let mut commands =
            fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        for (place, name) in [(&self.dir, "BUILD"), (&source.root, "SOURCE")] {
            commands = commands.replace(&*place.to_string_lossy(), name);
        }
        key.add("commands", commands);
        for language in ["C", "CXX"] {
            if let Some(compiler) = self.cached(&format!("CMAKE_{language}_COMPILER")) {
                key.add("compiler", tools::identity(compiler));
            }
        }
        Ok(key.finish())
    }
}

/// Compiles the shim against the tree's headers.
pub fn build_shim(source: &Source) -> Result<(), String> {
    let header = source.llama.join("include/llama.h");
    let text = fs::read_to_string(&header).map_err(|e| format!("{}: {e}", header.display()))?;
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .file("shim/shim.cpp")
        .include("shim")
        .include(source.llama.join("include"))
        .include(source.llama.join("ggml/include"))
        // llama.h marks functions as deprecated that are the only ones of their kind in other generations.
        .flag_if_supported("-Wno-deprecated-declarations")
        .flag_if_supported("-Wno-unused-parameter");
    for (declared, define) in [
        ("llama_vocab_n_tokens", "BN_VOCAB_API"),
        ("llama_memory_clear", "BN_MEMORY_API"),
        ("llama_kv_self_clear", "BN_KV_SELF_API"),
        ("enum llama_load_mode ", "BN_LOAD_MODE"),
        ("flash_attn_type;", "BN_FLASH_ATTN_TYPE"),
        ("use_extra_bufts;", "BN_EXTRA_BUFTS"),
    ] {
        if text.contains(declared) {
            build.define(define, None);
        }
    }
    build.try_compile("bitnet_shim").unwrap_or_else(|e| {
        let header = header.display();
        fail(&format!(
            "shim/shim.cpp does not compile against {header}, which may be of a generation that it does not know: {e}"
        ))
    });
    Ok(())
}

/// Tells cargo what to link, dependants first.
pub fn link(build: &Build) -> Result<(), String> {
    let lib = build.dir.join("lib");
    println!("cargo::rustc-link-search=native={}", lib.display());
    for name in ["llama", "ggml", "ggml-cpu", "ggml-base"] {
        if lib.join(format!("lib{name}.a")).is_file() {
            println!("cargo::rustc-link-lib=static={name}");
        }
    }
    if build.cached("GGML_OPENMP") == Some("ON") {
        for name in build
            .cached("OpenMP_CXX_LIB_NAMES")
            .unwrap_or_default()
            .split(';')
        {
            let Some(path) = build.cached(&format!("OpenMP_{name}_LIBRARY")) else {
                continue;
            };
            if let Some(dir) = Path::new(path).parent().filter(|_| name != "pthread") {
                println!("cargo::rustc-link-search=native={}", dir.display());
                println!("cargo::rustc-link-lib={name}");
            }
        }
    }
    Ok(())
}

/// Writes `bindings.rs`, made from the shim's header.
pub fn write_bindings() -> Result<(), String> {
    let path = Path::new(&cargo_var("OUT_DIR")?).join("bindings.rs");
    bindgen::Builder::default()
        .header("shim/shim.h")
        .allowlist_item("(bn|BN)_.*")
        .prepend_enum_name(false)
        .layout_tests(false)
        .formatter(bindgen::Formatter::None)
        .generate()
        .map_err(|e| format!("shim/shim.h: {e}"))?
        .write_to_file(&path)
        .map_err(|e| format!("{}: {e}", path.display()))
}
