//! BitNet.cpp, or llama.cpp, through FFI: CMake build, C shim, bindings and a safe wrapper.
//!
//! The C++ tree is pinned (see `third_party/`) or named by `BITNET_CPP_DIR`; it is built as it is, and a shim with a C
//! ABI hides which generation of `llama.h` it carries. One tree is linked per build, since all of them export the same
//! symbols.
//!
//! | module | what |
//! |---|---|
//! | `model` | [`Model`]: loading, tokenizer, vocabulary |
//! | `context` | [`Context`]: evaluation, logits |
//! | `node` | [`Node`]: values of the graph, as they are computed |
//! | `chat` | the library's own renderer of chat templates |
//! | `library`, `facts` | what was built, from which source, with which flags |
//! | `log`, `error` | what the library prints, and what it refuses |
//! | `ffi` | the bindings |
//!
//! ```no_run
//! # #[cfg(feature = "reference")] fn f() -> Result<(), bitnet_sys::Error> {
//! use bitnet_sys::{Context, ContextOptions, LoadOptions, Logits, Model};
//! use std::{path::Path, sync::Arc};
//!
//! let model = Arc::new(Model::load(Path::new("model.gguf"), LoadOptions::default())?);
//! let tokens = model.tokenize("Once upon a time", true, false)?;
//! let mut context = Context::new(&model, ContextOptions::default())?;
//! context.decode(&tokens, 0, Logits::All, None)?;
//! println!("{:?}", context.logits(0)?);
//! # Ok(()) }
//! ```
//!
//! # What the process must bring
//! BitNet.cpp puts variable-length arrays of the size of a batch on its stacks: above about 256 tokens at 6912 rows
//! they exceed 8 MiB and the process dies with SIGSEGV. Start the process that calls [`Context::decode`] with a finite,
//! larger `RLIMIT_STACK` (256 MiB) and `OMP_STACKSIZE=256M`; with an unlimited one, OpenMP's threads fall back to
//! 2 MiB. A failed `GGML_ASSERT` aborts the process; no wrapper can catch that, so a caller that must survive runs
//! this crate in a child process.

#[cfg(feature = "reference")]
mod chat;
#[cfg(feature = "reference")]
mod context;
#[cfg(feature = "reference")]
mod error;
#[cfg(feature = "reference")]
mod facts;
#[cfg(feature = "reference")]
mod ffi;
#[cfg(feature = "reference")]
mod library;
#[cfg(feature = "reference")]
mod log;
#[cfg(feature = "reference")]
mod model;
#[cfg(feature = "reference")]
mod node;

#[cfg(feature = "reference")]
pub use self::{
    chat::apply_chat_template,
    context::{Context, ContextOptions, Logits},
    error::Error,
    facts::name,
    library::{LibraryFacts, library, quantize_i8},
    log::{LogLine, Severity, take_log},
    model::{LoadOptions, Model, ModelFacts},
    node::{Node, NodeInfo, NodeObserver, Source, Values, ValuesError},
};

/// Whether BitNet.cpp is part of this build (feature `reference`). Without it this function is all there is.
pub const fn available() -> bool {
    cfg!(feature = "reference")
}
