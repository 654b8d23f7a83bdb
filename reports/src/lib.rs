//! The cross-validation report: data model, JSON Schema, charts, and the writers of HTML, Markdown, JUnit, CSV, JSON
//! lines and for a terminal; and two reports side by side.
//!
//! Depends on no engine: a report renders again from its JSON alone. Every string in a report counts as
//! untrusted: the writers escape all of them, and no report that parses makes a writer panic.
//!
//! | module | what |
//! |---|---|
//! | [`model`] | the report as data; the JSON Schema follows from it |
//! | [`outcome`] | outcomes, their exit codes and their order |
//! | [`json`], [`html`], [`markdown`], [`junit`], [`records`], [`terminal`] | the writers |
//! | `facts`, [`number`] | what a report says, in words and figures that the writers share |
//! | `chart` | charts as SVG |
//! | [`comparison`] | two reports side by side |
//! | `write`, `staged` | files that are replaced whole or not at all |
//!
//! ```
//! # let path = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/2b-4t.json"));
//! let report = reports::json::read(path)?;
//! let comment = reports::markdown::render(&report);
//! assert!(comment.contains(&report.engines.candidate.name));
//! # Ok::<(), reports::Error>(())
//! ```

#![forbid(unsafe_code)]

mod chart;
pub mod comparison;
mod error;
mod facts;
pub mod html;
pub mod json;
pub mod junit;
pub mod markdown;
pub mod model;
pub mod number;
pub mod outcome;
pub mod records;
mod staged;
pub mod terminal;
mod write;

pub use error::Error;
pub use model::Report;
pub use staged::StagedFile;
pub use write::{Format, render, write_comparison, write_dir};
