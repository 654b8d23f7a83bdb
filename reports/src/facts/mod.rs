//! What a report says, as text and tables that every writer states alike. Nothing here but is computed from
//! the report.

mod bars;
mod checks;
mod conclusion;
mod conditions;
mod coverage;
mod gate;
mod glance;
mod implementations;
mod kernels;
mod known;
mod matrix;
mod movers;
mod next;
mod noise;
mod output;
mod parity;
mod perplexity;
mod plots;
mod products;
mod recommend;
mod representative;
mod run;
mod share;
mod speed;
mod spot_check;
mod summary;
mod tokenizer;
mod verdict;
mod worst;

use serde::Serialize;

use crate::model::{Mode, Report, Role, Test, TimedPair};
use crate::number;

pub(crate) use bars::{Bar, BarGroup};
use conclusion::Advantages;
pub(crate) use conditions::{reasons as reasons_of_conditions, sentence as conditions_sentence};
pub(crate) use gate::{judged_by, rows as gate_rows, sentence as series_sentence};
pub(crate) use glance::DATE;
use glance::Tile;
use output::Generated;
pub(crate) use output::{LogitsCurve, generations_of};
pub(crate) use parity::{Cell, Level, Parity, gated, nmse, tap_group};
pub(crate) use plots::{Plot, PlotLine, PlotPoint};
use run::PromptDetail;
pub(crate) use share::{Shade, Share};
pub(crate) use speed::{bench_notes, measured, threads_cell, threads_on};
pub(crate) use spot_check::found as found_by_oracle;
pub(crate) use tokenizer::Tokenizer;
use verdict::Verdict;
pub(crate) use verdict::{at_fault, excused, failure, headline, stage};
use worst::WorstOfMode;

/// A report, digested.
#[derive(Serialize)]
pub(crate) struct Facts<'a> {
    pub title: String,
    pub verdict: Verdict,
    /// The answers to what is asked first.
    pub tiles: Vec<Tile>,
    /// What they are about: name and value.
    pub about: Vec<(&'static str, String)>,
    /// Both as a table.
    pub glance: Table,
    /// What to do next, one sentence per step; empty after a pass.
    pub next: Vec<String>,
    /// Why no values were compared; then only what was timed is shown.
    pub not_compared: Option<&'a str>,
    /// The ledger of known deviations, as it was applied.
    pub known: Table,
    /// What came of further references.
    pub further: Table,
    /// Who agrees with whom.
    pub matrix: Table,
    /// Per mode that was run: its title and one row per tap.
    pub taps: Vec<(String, Table)>,
    pub noise_floor: Option<&'a str>,
    /// One row per tap: the engines against each other, and each against itself.
    pub noise: Table,
    /// What the oracle says of rows whether or not the engines agree.
    pub spot_check: Option<String>,
    /// One row per stage that it finds wrong.
    pub wrong_stages: Table,
    /// One row per layer and tap.
    pub layers: Table,
    pub logits: Table,
    pub disagreements: Table,
    /// Where the distributions differ most, token by token.
    pub worst: Vec<WorstOfMode>,
    pub perplexity: Table,
    /// What other conditions the logits were compared under.
    pub conditions_note: Option<String>,
    /// One row per size of batch and way of asking.
    pub conditions: Table,
    pub generations: Vec<Generated>,
    pub tokenizer: Option<Tokenizer>,
    pub throughput: Table,
    /// One row per engine, test and thread count.
    pub latency: Table,
    /// One row per matrix product timed by itself.
    pub kernels: Table,
    /// One row per quantiser of activations timed by itself.
    pub quantiser_times: Table,
    /// One row per thread count.
    pub roofline: Table,
    /// One row per thread count, where `workers` is empty.
    pub memory: Table,
    pub workers: Table,
    /// One row per series of the gate; empty without a baseline.
    pub gate: Table,
    /// What the gate held the run against.
    pub gate_notes: Vec<String>,
    /// Sentences about the measurement itself.
    pub bench_notes: Vec<String>,
    pub coverage: Table,
    pub missing: &'a [String],
    pub not_finite: &'a [String],
    pub prompts: Table,
    pub prompt_details: Vec<PromptDetail<'a>>,
    pub inputs: Table,
    pub limits: Table,
    pub model: Table,
    pub engines: Table,
    pub failures: Vec<Failure<'a>>,
    pub environment: Table,
    /// The command line, quoted for a POSIX shell.
    pub command: String,
}

/// What stands out in a report, and what it comes to.
#[derive(Serialize)]
pub(crate) struct Digest {
    /// The conclusion first, then speed, loading and memory.
    pub summary: Vec<String>,
    /// The engines side by side.
    pub implementations: Table,
    /// Series of the gate that changed.
    pub gated: Table,
    /// Gated taps that use up most of their limit.
    pub taps: Table,
    /// Tests in which one engine is surely faster.
    pub tests: Table,
    pub tensor_types: Table,
    /// One row per tap that feeds an int8 quantiser.
    pub quantisers: Table,
    /// One row per tap that is a matrix product.
    pub products: Table,
    /// Tests other than loading.
    pub throughput: Table,
    pub loading: Table,
    /// The reference's and the candidate's.
    pub advantages: [Advantages; 2],
    /// Which engine for what, a sentence per purpose.
    pub purposes: Vec<String>,
    /// How far those reach.
    pub evidence: Vec<String>,
    pub conclusion: String,
}

/// A worker that failed.
#[derive(Serialize)]
pub(crate) struct Failure<'a> {
    pub sentence: String,
    pub log_tail: &'a [String],
}

/// A table of plain text.
#[derive(Default, Serialize)]
pub(crate) struct Table {
    pub columns: Vec<Column>,
    pub rows: Vec<Row>,
}

/// A column's title and kind.
#[derive(Serialize)]
pub(crate) struct Column {
    pub title: String,
    pub kind: Kind,
}

/// What a column holds, which decides alignment and typeface.
#[derive(Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Kind {
    Text,
    Number,
    /// Identifiers and hashes.
    Code,
    /// An address; a link if [`is_web_address`].
    Link,
}

/// A row's cells, one per column, and whether it is marked.
#[derive(Serialize)]
pub(crate) struct Row {
    pub cells: Vec<String>,
    pub state: State,
}

/// How a row is marked, beside what its cells say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    Plain,
    Pass,
    Fail,
}

impl Table {
    pub(crate) fn new(columns: &[(&str, Kind)]) -> Table {
        Table {
            columns: columns
                .iter()
                .map(|&(title, kind)| Column {
                    title: title.to_owned(),
                    kind,
                })
                .collect(),
            rows: Vec::new(),
        }
    }

    /// Name and value, one pair a row.
    fn pairs<Name: Into<String>>(pairs: Vec<(Name, String)>) -> Table {
        let mut table = Table::new(&[("", Kind::Text), ("", Kind::Code)]);
        for (name, value) in pairs {
            table.push(State::Plain, vec![name.into(), value]);
        }
        table
    }

    pub(crate) fn push(&mut self, state: State, cells: Vec<String>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(Row { cells, state });
    }
}

impl<'a> Facts<'a> {
    pub(crate) fn new(report: &'a Report, parity: &Parity<'a>) -> Facts<'a> {
        Facts {
            title: format!(
                "{} {} {}: {}",
                report.engines.candidate.called(),
                match report.not_compared {
                    Some(_) => "timed beside",
                    None => "against",
                },
                report.engines.reference.called(),
                report.model.file_name()
            ),
            verdict: Verdict::new(report, parity),
            tiles: glance::tiles(report),
            about: glance::about(report),
            glance: glance::table(report),
            next: next::steps(report),
            not_compared: report.not_compared.as_deref(),
            known: known::table(report),
            further: matrix::further(report),
            matrix: matrix::matrix(report),
            taps: parity.tap_tables(),
            noise_floor: report.noise_floor.as_ref().map(|n| n.description.as_str()),
            noise: noise::table(report, parity),
            spot_check: spot_check::sentence(report),
            wrong_stages: spot_check::table(report),
            layers: parity.layer_table(),
            logits: output::logits(report),
            disagreements: output::disagreements(report),
            worst: worst::positions(report),
            perplexity: perplexity::table(report),
            conditions_note: conditions::sentence(report),
            conditions: conditions::table(report),
            generations: output::generations(report),
            tokenizer: tokenizer::tokenizer(report),
            throughput: speed::throughput(report, |_| true),
            latency: speed::latency(report),
            kernels: kernels::table(report),
            quantiser_times: kernels::quantisers(report),
            roofline: speed::roofline(report),
            memory: speed::memory(report),
            workers: speed::workers(report),
            gate: gate::table(report, |_| true),
            gate_notes: report.gate.iter().flat_map(gate::notes).collect(),
            bench_notes: bench_notes(report),
            coverage: coverage::table(report),
            missing: &report.coverage.missing,
            not_finite: &report.coverage.not_finite,
            prompts: run::prompts(report),
            prompt_details: run::prompt_details(report),
            inputs: run::inputs(report),
            limits: run::limits(report),
            model: run::model(report),
            engines: run::engines(report),
            failures: run::failures(report),
            environment: run::environment(report),
            command: run::command(report),
        }
    }

    /// The KL of every prompt by position, for charts.
    pub(crate) fn logits_curves(report: &'a Report) -> Vec<LogitsCurve<'a>> {
        output::curves(report)
    }

    pub(crate) fn digest(report: &'a Report, parity: &Parity<'a>) -> Digest {
        let loading =
            |pair: &TimedPair| matches!(pair.test.parse(), Ok(Test::Load(_) | Test::FirstToken(_)));
        Digest {
            summary: summary::sentences(report),
            implementations: implementations::table(report),
            gated: movers::gated(report),
            taps: movers::taps(parity),
            tests: movers::tests(report),
            tensor_types: products::tensor_types(report),
            quantisers: products::quantisers(parity),
            products: products::products(parity),
            throughput: speed::throughput(report, |pair| !loading(pair)),
            loading: speed::throughput(report, loading),
            advantages: conclusion::advantages(report),
            purposes: recommend::by_purpose(report),
            evidence: recommend::limits(report),
            conclusion: conclusion::conclusion(report),
        }
    }

    /// The benchmark's bars, for charts.
    pub(crate) fn bars(report: &'a Report) -> Vec<BarGroup> {
        bars::bars(report)
    }

    /// Throughput by threads and by prompt length, for charts.
    pub(crate) fn speeds(report: &'a Report) -> Vec<Plot> {
        plots::speeds(report)
    }

    /// The distributions of the times between tokens, for charts.
    pub(crate) fn latencies(report: &'a Report) -> Vec<Plot> {
        plots::latencies(report)
    }
}

/// What an engine is called, with its part in the run where both have the same.
pub(crate) fn name_of(report: &Report, role: Role) -> String {
    let engines = &report.engines;
    let name = engines.engine(role).called();
    match engines.reference.called() == engines.candidate.called() {
        true => format!("{name} ({role})"),
        false => name.to_owned(),
    }
}

/// The mode's name as in the report.
pub(crate) fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Isolated => "isolated",
        Mode::Cumulative => "cumulative",
    }
}

/// A limit on the NMSE; 0 means bit for bit.
pub(crate) fn limit(x: Option<f64>) -> String {
    match x {
        None => "none".to_owned(),
        Some(0.0) => "0 (bit for bit)".to_owned(),
        Some(x) => number::error(x),
    }
}

/// Whether text may become a hyperlink: `http` or `https`, in the characters of RFC 3986 only.
pub(crate) fn is_web_address(text: &str) -> bool {
    let (scheme, rest) = text.split_once("://").unwrap_or_default();
    (scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http"))
        && !rest.is_empty()
        && rest
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b))
}

fn text_or_not_measured(text: Option<&str>) -> String {
    text.unwrap_or(number::NOT_MEASURED).to_owned()
}

#[cfg(test)]
mod tests {
    use super::is_web_address;

    #[test]
    fn only_the_web_is_linked_to() {
        for good in ["https://example.org/issues/7?a=b#c", "HTTP://x"] {
            assert!(is_web_address(good), "{good}");
        }
        for bad in [
            "",
            "https://",
            "javascript:alert(1)",
            "javascript://x/%0aalert(1)",
            " https://x",
            "https://x\"onclick=y",
            "https://x>y",
            "https://x y",
            "https://é.example",
            "//example.org",
        ] {
            assert!(!is_web_address(bad), "{bad}");
        }
    }
}
