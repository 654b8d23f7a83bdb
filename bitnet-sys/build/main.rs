//! Builds BitNet.cpp, or llama.cpp, and the shim, and writes the bindings and the facts of the build to `OUT_DIR`.
//!
//! What is missing is reported in one line that says what to do; `cargo` prints it after `error:`.

#[cfg(feature = "reference")]
mod cache;
#[cfg(feature = "reference")]
mod cpu;
#[cfg(feature = "reference")]
mod facts;
#[cfg(feature = "reference")]
mod library;
#[cfg(feature = "reference")]
mod source;
#[cfg(feature = "reference")]
mod tools;

fn main() {
    println!("cargo::rerun-if-changed=build");
    #[cfg(feature = "reference")]
    if let Err(message) = run() {
        println!("cargo::error={}", message.replace('\n', " "));
    }
}

#[cfg(feature = "reference")]
fn run() -> Result<(), String> {
    for path in ["shim", "cmake"] {
        println!("cargo::rerun-if-changed={path}");
    }
    for name in [
        "CC",
        "CXX",
        "CFLAGS",
        "CXXFLAGS",
        "CMAKE",
        "CMAKE_GENERATOR",
        "LIBCLANG_PATH",
        CPU,
    ] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let compiler = tools::check()?;
    let source = source::find()?;
    let level = cpu_level()?;
    let build = library::build_cmake(&source, level)?;
    library::build_shim(&source)?;
    library::link(&build)?;
    library::write_bindings()?;
    facts::write(&source, &build, &compiler, level)
}

/// Names the CPU level; `native` if it is not set.
#[cfg(feature = "reference")]
const CPU: &str = "BITNET_CPP_CPU";

#[cfg(feature = "reference")]
fn cpu_level() -> Result<cpu::CpuLevel, String> {
    let name = std::env::var(CPU).ok().filter(|name| !name.is_empty());
    let level: cpu::CpuLevel = match name {
        Some(name) => name.parse().map_err(|e| format!("{CPU}={e}"))?,
        None => return Ok(cpu::CpuLevel::default()),
    };
    let arch = cargo_var("CARGO_CFG_TARGET_ARCH")?;
    match level.is_of(&arch) {
        true => Ok(level),
        false => Err(format!("{CPU}={}: no CPU level of {arch}", level.name())),
    }
}

/// Ends the build as failed by one of its tools: cargo then shows what that tool printed, and this line below it.
#[cfg(feature = "reference")]
fn fail(message: &str) -> ! {
    eprintln!("{message}");
    std::process::exit(1)
}

/// The value of a variable that cargo sets for build scripts.
#[cfg(feature = "reference")]
fn cargo_var(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|e| format!("{name}: {e}"))
}
