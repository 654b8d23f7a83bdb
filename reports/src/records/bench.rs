//! Records of timings.

use serde_json::json;

use super::Column;
use crate::model::{
    BenchRatio, BenchRoofline, BenchRow, BenchTokens, Engine, Measured, Report, Role, TimedPair,
};

/// One engine's test.
pub(super) struct Row<'a> {
    report: &'a Report,
    pair: TimedPair<'a>,
    role: Role,
    row: &'a BenchRow,
    peak_rss_bytes: Option<u64>,
}

impl<'a> Row<'a> {
    fn engine(&self) -> &'a Engine {
        self.report.engines.engine(self.role)
    }

    /// The unit and the figures.
    fn measured(&self) -> Option<(&'static str, &'a Measured)> {
        let tps = self.row.tps.as_ref().map(|tps| ("t/s", tps));
        tps.or(self.row.ms.as_ref().map(|ms| ("ms", ms)))
    }

    fn ratio(&self) -> Option<&'a BenchRatio> {
        self.pair.ratio.filter(|_| self.role == Role::Candidate)
    }

    fn roofline(&self) -> Option<&'a BenchRoofline> {
        let rooflines = &self.report.bench.as_ref()?.roofline;
        rooflines.iter().find(|r| r.threads == self.row.threads)
    }

    /// What was generated, the hash of this engine's tokens, and whether it generated them every time.
    fn tokens(&self) -> Option<(&'a BenchTokens, &'a str, bool)> {
        let tokens = self.pair.tokens?;
        Some(self.role.of(
            (tokens, &tokens.reference, tokens.reference_reproduced),
            (tokens, &tokens.candidate, tokens.candidate_reproduced),
        ))
    }
}

pub(super) fn rows(report: &Report) -> Vec<Row<'_>> {
    let mut rows = Vec::new();
    for pair in report.timed_pairs() {
        let memory = report.memory_of(&pair);
        for (role, peak_rss_bytes) in Role::BOTH.into_iter().zip(memory) {
            rows.extend(pair.row(role).map(|row| Row {
                report,
                pair,
                role,
                row,
                peak_rss_bytes,
            }));
        }
    }
    rows
}

pub(super) fn columns<'a>() -> Vec<Column<Row<'a>>> {
    vec![
        ("created", |r| json!(r.report.created)),
        ("crossval_version", |r| {
            json!(r.report.environment.crossval_version)
        }),
        ("git_revision", |r| json!(r.report.environment.git_revision)),
        ("cpu", |r| json!(r.report.environment.cpu)),
        ("cpus", |r| json!(r.roofline().map(|r| &r.cpus))),
        ("model", |r| json!(r.report.model.name)),
        ("model_path", |r| json!(r.report.model.path)),
        ("model_size", |r| json!(r.report.model.size_bytes)),
        ("model_sha256", |r| json!(r.report.model.sha256)),
        ("architecture", |r| json!(r.report.model.architecture)),
        ("engine", |r| json!(r.row.engine)),
        ("role", |r| json!(r.role)),
        ("engine_version", |r| json!(r.engine().version)),
        ("threads", |r| json!(r.row.threads)),
        ("test", |r| json!(r.row.test)),
        ("unit", |r| json!(r.measured().map(|(unit, _)| unit))),
        ("median", |r| json!(r.measured().map(|(_, m)| m.median))),
        ("low", |r| json!(r.measured().map(|(_, m)| m.low))),
        ("high", |r| json!(r.measured().map(|(_, m)| m.high))),
        ("samples", |r| json!(r.measured().map(|(_, m)| &m.samples))),
        ("ratio", |r| json!(r.ratio().map(|r| r.median))),
        ("ratio_low", |r| json!(r.ratio().map(|r| r.low))),
        ("ratio_high", |r| json!(r.ratio().map(|r| r.high))),
        ("roofline_share", |r| json!(r.row.roofline_share)),
        ("read_bytes_per_second", |r| {
            json!(r.roofline().and_then(|r| r.read_bytes_per_second))
        }),
        ("int8_macs_per_second", |r| {
            json!(r.roofline().and_then(|r| r.int8_macs_per_second))
        }),
        ("inter_token_p50_ms", |r| {
            json!(r.row.inter_token.as_ref().map(|t| t.p50))
        }),
        ("inter_token_p95_ms", |r| {
            json!(r.row.inter_token.as_ref().map(|t| t.p95))
        }),
        ("inter_token_p99_ms", |r| {
            json!(r.row.inter_token.as_ref().map(|t| t.p99))
        }),
        ("cpu_seconds", |r| json!(r.row.cpu_seconds)),
        ("energy", |r| json!(r.row.energy)),
        ("peak_rss_bytes", |r| json!(r.peak_rss_bytes)),
        ("tokens", |r| json!(r.tokens().map(|(t, _, _)| t.count))),
        ("tokens_xxh3", |r| {
            json!(r.tokens().map(|(_, hash, _)| hash))
        }),
        ("tokens_reproduced", |r| {
            json!(r.tokens().map(|(_, _, reproduced)| reproduced))
        }),
        ("first_mismatch", |r| {
            json!(r.tokens().and_then(|(t, _, _)| t.first_mismatch))
        }),
        ("inter_token_samples_ms", |r| {
            json!(r.row.inter_token.as_ref().map(|t| &t.samples))
        }),
    ]
}
