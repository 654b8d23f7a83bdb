//! Records of taps.

use serde_json::json;

use super::Column;
use crate::model::{ElementAt, Mode, Prompt, Report, TapResult, TapStats};

/// One tap in one mode.
pub(super) struct Row<'a> {
    report: &'a Report,
    entry: &'a TapResult,
    mode: Mode,
    stats: &'a TapStats,
}

impl<'a> Row<'a> {
    fn prompt(&self) -> Option<&'a Prompt> {
        self.report.inputs.prompts.get(self.entry.prompt)
    }

    fn at(&self) -> Option<&'a ElementAt> {
        self.stats.max_abs_at.as_ref()
    }
}

pub(super) fn rows(report: &Report) -> Vec<Row<'_>> {
    let rows = report.taps.iter().flat_map(|entry| {
        entry.modes().map(move |(mode, stats)| Row {
            report,
            entry,
            mode,
            stats,
        })
    });
    rows.collect()
}

pub(super) fn columns<'a>() -> Vec<Column<Row<'a>>> {
    vec![
        ("created", |r| json!(r.report.created)),
        ("model_sha256", |r| json!(r.report.model.sha256)),
        ("reference", |r| json!(r.report.engines.reference.name)),
        ("candidate", |r| json!(r.report.engines.candidate.name)),
        ("prompt", |r| json!(r.entry.prompt)),
        ("prompt_sha256", |r| {
            json!(r.prompt().map(|prompt| &prompt.sha256))
        }),
        ("layer", |r| json!(r.entry.layer)),
        ("tap", |r| json!(r.entry.tap)),
        ("mode", |r| json!(r.mode)),
        ("rows", |r| json!(r.stats.rows)),
        ("bit_equal", |r| json!(r.stats.bit_equal)),
        ("nmse", |r| json!(r.stats.nmse)),
        ("worst_position", |r| json!(r.stats.worst_position)),
        ("nmse_prefill", |r| json!(r.stats.nmse_prefill)),
        ("nmse_decode", |r| json!(r.stats.nmse_decode)),
        ("nmse_aggregate", |r| json!(r.stats.nmse_aggregate)),
        ("cosine", |r| json!(r.stats.cosine)),
        ("max_abs", |r| json!(r.stats.max_abs)),
        ("max_abs_position", |r| json!(r.at().map(|at| at.position))),
        ("max_abs_element", |r| json!(r.at().map(|at| at.element))),
        ("max_abs_reference", |r| {
            json!(r.at().and_then(|at| at.reference))
        }),
        ("max_abs_candidate", |r| {
            json!(r.at().and_then(|at| at.candidate))
        }),
        ("non_finite", |r| json!(r.stats.non_finite)),
        ("code_flip_rate", |r| json!(r.stats.code_flip_rate)),
        ("max_quantiser_steps", |r| {
            json!(r.stats.max_quantiser_steps)
        }),
        ("limit", |r| json!(r.stats.limit)),
        ("pass", |r| json!(r.stats.pass)),
    ]
}
