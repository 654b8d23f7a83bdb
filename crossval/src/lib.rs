//! Cross-validation driver: engines in workers, comparison, verdict, command line.
//!
//! Each engine runs in a child process and speaks the [`protocol`]; [`run`] feeds both the same token IDs,
//! compares what streams back and writes a report; [`verdict`] decides what it means.

pub mod bench;
mod chat;
pub mod cli;
pub mod compare;
pub mod engine;
pub mod environment;
mod error;
pub mod fault;
pub mod gate;
mod interrupt;
pub mod known;
pub mod oracle;
pub mod profile;
pub mod protocol;
mod regular_file;
pub mod roofline;
pub mod run;
pub mod selftest;
mod stats;
pub mod synth;
pub mod tokens;
pub mod trace;
pub mod verdict;
pub mod worker;

pub use error::Error;
