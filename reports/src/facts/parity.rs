//! Taps: the worst row per layer and tap, over all prompts.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use super::{Kind, State, Table, limit, mode_name};
use crate::model::{Mode, Report, TapStats};
use crate::number::{self, NOT_FINITE, NOT_MEASURED};

/// The worst prompt of one layer and tap.
#[derive(Clone, Copy)]
pub(crate) struct Cell<'a> {
    pub prompt: usize,
    pub layer: Option<usize>,
    pub stats: &'a TapStats,
    /// Positions of the prefill; the decode steps follow.
    prefill: usize,
}

/// The taps of a report by mode, tap and layer.
pub(crate) struct Parity<'a> {
    pub(super) report: &'a Report,
    /// Tap names, in the order of the forward pass.
    pub taps: Vec<&'a str>,
    /// Layers, ascending.
    pub layers: Vec<usize>,
    /// Modes that were run.
    pub modes: Vec<Mode>,
    cells: BTreeMap<(Mode, &'a str, Option<usize>), Cell<'a>>,
}

/// An NMSE as far as it is known, ordered from harmless to bad.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
pub(crate) enum Level {
    NotMeasured,
    Value(f64),
    NotFinite,
}

impl Level {
    pub(crate) fn max(self, other: Level) -> Level {
        if other.partial_cmp(&self) == Some(Ordering::Greater) {
            other
        } else {
            self
        }
    }

    pub(crate) fn text(self) -> String {
        match self {
            Level::NotMeasured => NOT_MEASURED.to_owned(),
            Level::Value(x) => number::error(x),
            Level::NotFinite => NOT_FINITE.to_owned(),
        }
    }
}

/// Every tap that has a limit, by prompt, layer and mode.
pub(crate) fn gated(report: &Report) -> impl Iterator<Item = &TapStats> {
    let modes = report.taps.iter().flat_map(|entry| entry.modes());
    let stats = modes.map(|(_, stats)| stats);
    stats.filter(|stats| stats.pass.is_some())
}

/// Whether rows beyond the limit are not held against the engines: roundings that the model's types allow bring them apart.
pub(crate) fn is_spoken_for(stats: &TapStats) -> bool {
    stats.pass == Some(true) && (stats.allowed.is_some() || stats.amplified.is_some())
}

/// The NMSE of the worst row. A row that was compared and has none is not finite.
pub(crate) fn nmse(stats: &TapStats) -> Level {
    match stats.nmse {
        Some(x) if x.is_finite() => Level::Value(x),
        None if stats.rows == 0 => Level::NotMeasured,
        _ => Level::NotFinite,
    }
}

impl Cell<'_> {
    /// The NMSE of one phase. Its null means that there are no such rows, unless the worst row, which has no
    /// finite NMSE, lies in that phase.
    fn phase(&self, decode: bool) -> Level {
        let value = if decode {
            self.stats.nmse_decode
        } else {
            self.stats.nmse_prefill
        };
        match value {
            Some(x) if x.is_finite() => Level::Value(x),
            Some(_) => Level::NotFinite,
            None if nmse(self.stats) == Level::NotFinite
                && (self.stats.worst_position >= self.prefill) == decode =>
            {
                Level::NotFinite
            }
            None => Level::NotMeasured,
        }
    }

    pub(crate) fn failed(&self) -> bool {
        self.stats.pass == Some(false)
    }

    fn worse_than(&self, other: &Cell<'_>) -> bool {
        match self.failed().cmp(&other.failed()) {
            Ordering::Equal => {
                nmse(self.stats).partial_cmp(&nmse(other.stats)) == Some(Ordering::Greater)
            }
            order => order == Ordering::Greater,
        }
    }

    fn result(&self) -> (String, State) {
        result(
            self.stats.pass,
            self.stats.bit_equal && self.stats.rows > 0,
            self.stats.non_finite,
        )
    }
}

/// The largest value; empty where the figure does not apply.
pub(super) fn largest(
    values: impl Iterator<Item = Option<f64>>,
    format: fn(f64) -> String,
) -> String {
    values
        .flatten()
        .reduce(f64::max)
        .map_or(String::new(), format)
}

fn result(pass: Option<bool>, bit_equal: bool, non_finite: u64) -> (String, State) {
    let (mut text, state) = match pass {
        Some(true) => ("pass".to_owned(), State::Pass),
        Some(false) => ("fail".to_owned(), State::Fail),
        None => ("not gated".to_owned(), State::Plain),
    };
    if bit_equal {
        text += ", bit-equal";
    }
    if non_finite > 0 {
        text += &format!(", {}", number::plural(non_finite, "non-finite value"));
    }
    (text, state)
}

impl<'a> Parity<'a> {
    pub(crate) fn new(report: &'a Report) -> Parity<'a> {
        let mut taps = Vec::new();
        let mut seen = BTreeSet::new();
        let mut layers = BTreeSet::new();
        let mut cells: BTreeMap<(Mode, &str, Option<usize>), Cell<'_>> = BTreeMap::new();
        for entry in &report.taps {
            if seen.insert(entry.tap.as_str()) {
                taps.push(entry.tap.as_str());
            }
            layers.extend(entry.layer);
            for (mode, stats) in entry.modes() {
                let cell = Cell {
                    prompt: entry.prompt,
                    layer: entry.layer,
                    stats,
                    prefill: report
                        .inputs
                        .prompts
                        .get(entry.prompt)
                        .map_or(usize::MAX, |prompt| prompt.tokens.len()),
                };
                cells
                    .entry((mode, entry.tap.as_str(), entry.layer))
                    .and_modify(|worst| {
                        if cell.worse_than(worst) {
                            *worst = cell;
                        }
                    })
                    .or_insert(cell);
            }
        }
        let modes = [Mode::Isolated, Mode::Cumulative]
            .into_iter()
            .filter(|&mode| cells.keys().any(|key| key.0 == mode))
            .collect();
        Parity {
            report,
            taps,
            layers: layers.into_iter().collect(),
            modes,
            cells,
        }
    }

    pub(crate) fn cell(&self, mode: Mode, tap: &'a str, layer: Option<usize>) -> Option<&Cell<'a>> {
        self.cells.get(&(mode, tap, layer))
    }

    /// The cells of one tap, by layer.
    pub(crate) fn column(&self, mode: Mode, tap: &'a str) -> impl Iterator<Item = &Cell<'a>> {
        self.cells
            .range((mode, tap, None)..=(mode, tap, Some(usize::MAX)))
            .map(|(_, cell)| cell)
    }

    /// The worst of one tap over all layers.
    pub(crate) fn worst(&self, mode: Mode, tap: &'a str) -> Option<&Cell<'a>> {
        let cells = self.column(mode, tap);
        cells.reduce(|a, b| if b.worse_than(a) { b } else { a })
    }

    /// `layer 3, position 5`, with the prompt where there are several.
    pub(crate) fn place(&self, cell: &Cell<'_>) -> String {
        let mut parts = Vec::new();
        if let Some(layer) = cell.layer {
            parts.push(format!("layer {layer}"));
        }
        if self.report.inputs.prompts.len() > 1 {
            parts.push(format!("prompt {}", cell.prompt));
        }
        parts.push(format!("position {}", cell.stats.worst_position));
        parts.join(", ")
    }

    /// Per mode, one row per tap; each figure is the worst over all layers and prompts.
    pub(crate) fn tap_tables(&self) -> Vec<(String, Table)> {
        self.modes
            .iter()
            .map(|&mode| {
                let about = match mode {
                    Mode::Isolated => "every stage starts from the reference's inputs",
                    Mode::Cumulative => "the candidate runs on its own values",
                };
                (
                    format!("{}: {about}", mode_name(mode)),
                    self.tap_table(mode),
                )
            })
            .collect()
    }

    fn tap_table(&self, mode: Mode) -> Table {
        let floor = self
            .report
            .noise_floor
            .as_ref()
            .filter(|_| mode == Mode::Cumulative);
        let mut columns = vec![
            ("Tap", Kind::Code),
            ("Worst row", Kind::Text),
            ("NMSE prefill", Kind::Number),
            ("NMSE decode", Kind::Number),
            ("Cosine", Kind::Number),
            ("Max abs", Kind::Number),
            ("Codes flipped", Kind::Number),
            ("Max steps", Kind::Number),
            ("Limit", Kind::Number),
        ];
        if floor.is_some() {
            columns.push(("Noise floor", Kind::Number));
        }
        columns.push(("Result", Kind::Text));
        let mut table = Table::new(&columns);
        for &tap in &self.taps {
            let cells: Vec<_> = self.column(mode, tap).collect();
            let Some(worst) = self.worst(mode, tap) else {
                continue;
            };
            let phase = |decode| {
                cells
                    .iter()
                    .map(|cell| cell.phase(decode))
                    .fold(Level::NotMeasured, Level::max)
                    .text()
            };
            let extreme = |values: Vec<Option<f64>>, pick: fn(f64, f64) -> f64, format| {
                number::or_not_measured(values.into_iter().flatten().reduce(pick), format)
            };
            let (mut text, state) = result(
                worst.stats.pass,
                cells.iter().all(|c| c.stats.bit_equal && c.stats.rows > 0),
                cells
                    .iter()
                    .fold(0, |n, c| n.saturating_add(c.stats.non_finite)),
            );
            if state == State::Fail && cells.len() > 1 {
                let failed = cells.iter().filter(|cell| cell.failed()).count();
                text += &format!(" ({failed} of {} layers)", cells.len());
            }
            let mut row = vec![
                tap.to_owned(),
                self.place(worst),
                phase(false),
                phase(true),
                extreme(
                    cells.iter().map(|c| c.stats.cosine).collect(),
                    f64::min,
                    number::cosine,
                ),
                extreme(
                    cells.iter().map(|c| c.stats.max_abs).collect(),
                    f64::max,
                    number::error,
                ),
                largest(cells.iter().map(|c| c.stats.code_flip_rate), number::share),
                largest(
                    cells.iter().map(|c| c.stats.max_quantiser_steps),
                    number::error,
                ),
                limit(worst.stats.limit),
            ];
            if let Some(floor) = floor {
                row.push(number::or_not_measured(
                    floor.nmse.get(tap).copied(),
                    number::error,
                ));
            }
            row.push(text);
            table.push(state, row);
        }
        table
    }

    /// One row per layer and tap, both modes side by side, each from its worst prompt.
    pub(crate) fn layer_table(&self) -> Table {
        let mut table = Table::new(&[
            ("Layer", Kind::Number),
            ("Tap", Kind::Code),
            ("Isolated NMSE", Kind::Number),
            ("Limit", Kind::Number),
            ("Result", Kind::Text),
            ("Isolated max abs", Kind::Number),
            ("Cumulative NMSE", Kind::Number),
            ("Cumulative cosine", Kind::Number),
            ("Cumulative max abs", Kind::Number),
        ]);
        for layer in self.columns() {
            for &tap in &self.taps {
                let isolated = self.cell(Mode::Isolated, tap, layer.0);
                let cumulative = self.cell(Mode::Cumulative, tap, layer.0);
                if !self.belongs(tap, layer) || (isolated.is_none() && cumulative.is_none()) {
                    continue;
                }
                let nmse = |cell: Option<&Cell<'_>>| {
                    cell.map_or(Level::NotMeasured, |c| nmse(c.stats)).text()
                };
                let max_abs = |cell: Option<&Cell<'_>>| {
                    number::or_not_measured(cell.and_then(|c| c.stats.max_abs), number::error)
                };
                // Logits have their limit in cumulative mode.
                let gated = [isolated, cumulative]
                    .into_iter()
                    .flatten()
                    .find(|cell| cell.stats.pass.is_some())
                    .or(isolated)
                    .or(cumulative);
                let (text, state) =
                    gated.map_or_else(|| result(None, false, 0), |cell| cell.result());
                table.push(
                    state,
                    vec![
                        layer.0.map_or_else(|| "-".to_owned(), |l| l.to_string()),
                        tap.to_owned(),
                        nmse(isolated),
                        limit(gated.and_then(|cell| cell.stats.limit)),
                        text,
                        max_abs(isolated),
                        nmse(cumulative),
                        number::or_not_measured(
                            cumulative.and_then(|c| c.stats.cosine),
                            number::cosine,
                        ),
                        max_abs(cumulative),
                    ],
                );
            }
        }
        table
    }

    /// The stations of the forward pass: what comes before the layers, the layers, what comes after. The
    /// flag tells the two ends apart.
    pub(crate) fn columns(&self) -> Vec<(Option<usize>, bool)> {
        let mut columns = vec![(None, false)];
        columns.extend(self.layers.iter().map(|&layer| (Some(layer), false)));
        columns.push((None, true));
        columns.retain(|&column| self.taps.iter().any(|tap| self.belongs(tap, column)));
        columns
    }

    /// Whether the tap has a value in that column of [`Parity::columns`].
    pub(crate) fn belongs(&self, tap: &'a str, (layer, after): (Option<usize>, bool)) -> bool {
        let has = |tap: &str, layer| {
            self.modes
                .iter()
                .any(|&m| self.cell(m, tap, layer).is_some())
        };
        if layer.is_some() {
            return has(tap, layer);
        }
        let index = |wanted: &dyn Fn(&'a str) -> bool| self.taps.iter().position(|tap| wanted(tap));
        let first_layered = index(&|tap| self.layers.iter().any(|&l| has(tap, Some(l))));
        has(tap, None) && (index(&|other| other == tap) > first_layered) == after
    }
}

/// The kind of computation that a tap ends, for charts with one line per kind.
pub(crate) fn tap_group(tap: &str) -> &'static str {
    match tap {
        "attn_norm" | "q_norm" | "k_norm" | "attn_sub_norm" | "ffn_norm" | "ffn_sub_norm"
        | "final_norm" => "norms",
        "q" | "k" | "v" | "attn_proj" | "ffn_gate" | "ffn_up" | "ffn_down" => "projections",
        "q_rope" | "k_rope" | "k_cache" | "v_cache" => "RoPE and KV cache",
        "attn_probs" | "attn_out" => "attention",
        "ffn_act" => "activation",
        "embd" | "ffn_inp" | "layer_out" => "residual stream",
        _ => "other",
    }
}
