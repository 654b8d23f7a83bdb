//! The `crossval` binary: the provenance that the build script stamped, and the `crossval` crate.

#![forbid(unsafe_code)]

use std::process::ExitCode;

mod cli;

use crossval::environment::Provenance;

fn main() -> ExitCode {
    cli::main(&Provenance {
        version: env!("CARGO_PKG_VERSION"),
        git_revision: option_env!("CROSSVAL_GIT_REVISION").unwrap_or(""),
        rustc: env!("CROSSVAL_RUSTC"),
        profile: env!("CROSSVAL_PROFILE"),
        target: env!("CROSSVAL_TARGET"),
        target_features: env!("CROSSVAL_TARGET_FEATURES"),
    })
}
