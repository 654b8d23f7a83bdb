//! The driver: engines in workers, comparison, verdict.
//!
//! Each engine runs in a child process and speaks the [protocol](crossval_protocol); [`parity`] feeds both the same token
//! IDs, compares what streams back and writes a report; [`speed`] times them; [`verdict`] decides what it means.

pub mod compare;
pub mod engine;
pub mod environment;
mod error;
mod hex;
pub mod interrupt;
pub mod known;
pub mod parity;
pub mod profile;
pub mod progress;
pub mod record;
pub mod selftest;
pub mod session;
pub mod speed;
pub mod stats;
pub mod tokens;
pub mod verdict;

pub use error::Error;
