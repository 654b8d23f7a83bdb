//! The cross-validation report: data model, JSON Schema, HTML and Markdown writers, charts.
//!
//! Depends on no engine: a report renders again from its JSON alone.

pub mod model;
pub mod outcome;
