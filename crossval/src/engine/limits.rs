//! What a worker may take.

use std::num::NonZero;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

/// Limits of every worker, as flags of the commands that start some.
#[derive(Clone, Copy, Debug, clap::Args)]
pub struct Limits {
    /// Longest that an engine may take for one message, seconds; then it is ended
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_TIMEOUT)]
    pub timeout: NonZero<u32>,
    /// Memory that an engine may allocate, such as 4GiB: its data and its threads' stacks, not the mapped model
    #[arg(long, value_name = "SIZE")]
    pub memory_limit: Option<ByteSize>,
}

const DEFAULT_TIMEOUT: NonZero<u32> = NonZero::new(600).unwrap();

/// Those of the command line.
static IN_FORCE: OnceLock<Limits> = OnceLock::new();

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            timeout: DEFAULT_TIMEOUT,
            memory_limit: None,
        }
    }
}

impl Limits {
    /// From now on every worker that is started is held to these. The first call counts.
    pub fn put_in_force(self) {
        let _ = IN_FORCE.set(self);
    }

    pub(super) fn in_force() -> Limits {
        IN_FORCE.get().copied().unwrap_or_default()
    }

    pub(super) fn memory_bytes(self) -> Option<u64> {
        self.memory_limit.map(|limit| limit.as_u64())
    }

    /// When a message that is waited for from now on must have come.
    pub(super) fn deadline(self) -> Instant {
        Instant::now() + Duration::from_secs(self.timeout.get().into())
    }

    /// What an engine that died had of memory, as an apposition.
    pub(super) fn of_memory(self) -> String {
        self.memory_limit.map_or(String::new(), |limit| {
            format!(", with {limit} of memory (--memory-limit),")
        })
    }
}
