//! Flags of the commands that start engines.

use std::num::NonZero;

use bytesize::ByteSize;
use crossval::engine::{Launcher, Limits};

/// What an engine may take.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct LimitFlags {
    /// Longest that an engine may take for one message, seconds; then it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = Limits::TIMEOUT)]
    timeout: NonZero<u32>,
    /// Memory that an engine may allocate, such as 4GiB: its data and its threads' stacks, not the mapped model
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<ByteSize>,
}

impl LimitFlags {
    pub(super) fn launcher(self) -> Launcher {
        Launcher {
            limits: Limits {
                timeout: self.timeout,
                memory: self.memory_limit,
            },
            ..launcher()
        }
    }
}

/// Starts engines without limits of their own.
pub(super) fn launcher() -> Launcher {
    Launcher {
        has_reference: crossval_workers::has_reference(),
        ..Launcher::default()
    }
}
