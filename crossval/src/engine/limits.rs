//! What a worker may take.

use std::num::NonZero;
use std::time::{Duration, Instant};

use bytesize::ByteSize;

/// Limits of a worker.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest that an engine may take for one message, seconds; then it is ended.
    pub timeout: NonZero<u32>,
    /// Memory that an engine may allocate: its data and its threads' stacks, not the mapped model.
    pub memory: Option<ByteSize>,
}

impl Limits {
    /// What an engine may take for one message where nothing else is asked for, seconds.
    pub const TIMEOUT: NonZero<u32> = NonZero::new(600).unwrap();

    pub(super) fn memory_bytes(self) -> Option<u64> {
        self.memory.map(|limit| limit.as_u64())
    }

    /// When a message that is waited for from now on must have come.
    pub(super) fn deadline(self) -> Instant {
        Instant::now() + Duration::from_secs(self.timeout.get().into())
    }

    /// What an engine that died had of memory, as an apposition.
    pub(super) fn of_memory(self) -> String {
        self.memory.map_or(String::new(), |limit| {
            format!(", with {limit} of memory (--memory-limit),")
        })
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            timeout: Limits::TIMEOUT,
            memory: None,
        }
    }
}
