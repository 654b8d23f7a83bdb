//! The cross-validation report: data model, JSON Schema, charts, and the writers of HTML, Markdown, JUnit, CSV, JSON
//! lines and for a terminal; and two reports side by side.
//!
//! Depends on no engine: a report renders again from its JSON alone. Every string in a report counts as
//! untrusted: the writers escape all of them, and no report that parses makes a writer panic.

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
pub use write::{Format, write_comparison, write_dir};
