//! Workers: the engines of this repository behind [`crossval_protocol`], one per process, each in a [sandbox].
//!
//! | engine | what |
//! |---|---|
//! | `rust` | `bitnet-core`, with a deliberate [fault] if one is named |
//! | `bitnet.cpp` | the BitNet.cpp that is linked in (feature `reference`) |
//! | `oracle` | the arbiter as an engine |
//! | `trace` | what `crossval record` wrote |
//!
//! | module | what |
//! |---|---|
//! | `rust`, `bitnet_cpp`, `oracle`, `trace` | each engine's [`Backend`] |
//! | `nodes` | which node of BitNet.cpp's graph is which tap |
//! | [`fault`] | deliberate mistakes, for `crossval selftest` |
//! | [`product`], `kernels`, `graph_products` | matrix products by themselves, for benchmarks: of the Rust engine, of BitNet.cpp |
//! | [`chat`] | renders chat templates, in a sandbox too |
//! | [`sandbox`] | what a worker may not do |
//!
//! `crossval worker ENGINE` is [`serve`]. Over any other pipes:
//! ```
//! use crossval_protocol::{Request, write_frame};
//!
//! let mut requests = Vec::new();
//! write_frame(&mut requests, &Request::Quit, &[])?;
//! crossval_workers::serve_over("oracle", None, std::io::Cursor::new(requests), std::io::sink())?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#[cfg(feature = "reference")]
mod bitnet_cpp;
pub mod chat;
pub mod fault;
#[cfg(feature = "reference")]
mod graph_products;
mod kernels;
#[cfg(any(feature = "reference", test))]
mod nodes;
mod oracle;
pub mod product;
mod rust;
pub mod sandbox;
#[cfg(test)]
mod tests;
mod trace;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use bitnet_model::Activation;
use crossval_protocol::{self as protocol, Backend};

use self::fault::{Faults, FaultyBackend, Injectors, Tampered};

/// Why a worker could not serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What it was started with.
    #[error("{0}")]
    Usage(String),
    /// A file that it was given.
    #[error("{0}")]
    BadInput(String),
    /// Pipes, or a driver that does not keep to the protocol.
    #[error("internal error: {0}")]
    Internal(String),
}

/// Whether `bitnet.cpp` is one of the engines.
pub fn has_reference() -> bool {
    bitnet_sys::available()
}

/// Serves the engine on standard input and output until the driver quits or closes the pipe, in a [`sandbox`]. `file` is
/// the trace. Faults are for the engine `rust`. `activation` is what the model is taken to have, whatever its file says.
///
/// # Errors
/// If the engine is not part of this build, or the pipes cannot be set up.
pub fn serve(
    engine: &str,
    faults: Option<&Faults>,
    file: Option<&Path>,
    activation: Option<Activation>,
) -> Result<(), Error> {
    let facts = [(sandbox::FACT.to_owned(), sandbox::enter())].into();
    let served = match (engine, faults, file) {
        ("rust", Some(faults), None) => serve_with(faults, activation, facts)?,
        (engine, None, file) => protocol::serve(&mut *backend(engine, file, activation)?, facts),
        _ => return Err(no_worker(engine)),
    };
    served.map_err(|e| Error::Internal(format!("worker {engine}: {e}")))
}

/// Serves the engine `rust` with faults.
fn serve_with(
    faults: &Faults,
    activation: Option<Activation>,
    facts: BTreeMap<String, String>,
) -> Result<io::Result<()>, Error> {
    let engine = rust::RustBackend::new(Injectors::new(faults.of_stages()), activation)?;
    let mut backend = FaultyBackend::new(engine, faults, facts);
    let (times, changed) = backend.times();
    let pipes = || {
        let input = io::stdin().as_fd().try_clone_to_owned()?;
        let output = io::stdout().as_fd().try_clone_to_owned()?;
        Ok((File::from(input), File::from(output)))
    };
    Ok(pipes().and_then(|(input, output)| {
        protocol::serve_over(&mut backend, input, Tampered::new(output, times, changed))
    }))
}

/// Serves the engine to a driver at the other end of `input` and `output`, in this process and in no sandbox.
///
/// # Errors
/// If the engine is not part of this build, or the driver does not keep to the protocol.
pub fn serve_over(
    engine: &str,
    file: Option<&Path>,
    input: impl Read + 'static,
    output: impl Write + 'static,
) -> Result<(), Error> {
    let mut backend = backend(engine, file, None)?;
    protocol::serve_over(&mut *backend, input, output)
        .map_err(|e| Error::Internal(format!("worker {engine}: {e}")))
}

fn backend(
    engine: &str,
    file: Option<&Path>,
    activation: Option<Activation>,
) -> Result<Box<dyn Backend>, Error> {
    Ok(match (engine, file) {
        ("rust", None) => Box::new(rust::RustBackend::new(Injectors::default(), activation)?),
        ("oracle", None) => Box::new(oracle::OracleBackend::new(activation)),
        #[cfg(feature = "reference")]
        ("bitnet.cpp", None) => Box::new(bitnet_cpp::BitnetCppBackend::new(activation)),
        ("trace", Some(file)) => Box::new(trace::TraceBackend::new(file)?),
        _ => return Err(no_worker(engine)),
    })
}

fn no_worker(engine: &str) -> Error {
    Error::Usage(format!("no worker for engine {engine:?}"))
}
