//! The `crossval` binary: the provenance that the build script stamped, and the `crossval` crate.

use std::process::ExitCode;

use crossval::environment::Provenance;

fn main() -> ExitCode {
    crossval::cli::main(&Provenance {
        version: env!("CARGO_PKG_VERSION"),
        git_revision: option_env!("CROSSVAL_GIT_REVISION").unwrap_or(""),
        rustc: option_env!("CROSSVAL_RUSTC").unwrap_or(""),
        profile: option_env!("CROSSVAL_PROFILE").unwrap_or(""),
        target: option_env!("CROSSVAL_TARGET").unwrap_or(""),
        target_features: option_env!("CROSSVAL_TARGET_FEATURES").unwrap_or(""),
    })
}
