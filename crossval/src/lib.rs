//! The driver: engines in workers, comparison, verdict.
//!
//! Each engine runs in a child process and speaks the [protocol](crossval_protocol); [`parity`] feeds both the same token
//! IDs, compares what streams back and writes a report; [`speed`] times them; [`verdict`] decides what it means.
//! No engine is linked here.
//!
//! | module | what |
//! |---|---|
//! | [`engine`] | names of engines, and their processes |
//! | [`session`] | two engines on a model: started, fed, kept in step, held against themselves |
//! | [`compare`] | arithmetic on rows of values, and the list of those expected; knows no process |
//! | [`parity`] | `crossval run` |
//! | [`tokens`] | `crossval tokenize` |
//! | [`speed`] | `crossval bench` and `gate`, the roofline |
//! | [`record`], [`selftest`] | the commands of those names |
//! | [`conformance`] | `crossval check-worker` |
//! | [`profile`], [`known`] | limits, and divergences that are excused |
//! | [`verdict`] | what comes of findings: the one place where red is decided |
//! | [`stats`], [`environment`], [`interrupt`], [`progress`], [`text_file`] | what several of these need |
//!
//! ```no_run
//! use crossval::parity::{self, RunOptions};
//! use crossval::progress::Progress;
//!
//! /// The exit code of the same run with the oracle as candidate.
//! fn by_the_oracle(mut options: RunOptions) -> Result<u8, crossval::Error> {
//!     options.setup.candidate = "oracle".parse()?;
//!     let report = parity::run(&options, Progress::silent())?;
//!     Ok(report.verdict.exit_code)
//! }
//! ```

pub mod compare;
pub mod conformance;
pub mod engine;
pub mod environment;
mod error;
mod evidence;
mod hex;
pub mod interrupt;
pub mod known;
pub mod matrix;
pub mod parity;
pub mod profile;
pub mod progress;
pub mod record;
pub mod selftest;
pub mod session;
pub mod speed;
pub mod stats;
mod stopwatch;
pub mod text_file;
pub mod tokens;
pub mod verdict;

pub use error::Error;
