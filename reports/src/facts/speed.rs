//! Timings and memory.

use super::{Kind, State, Table};
use crate::model::{Bench, BenchRatio, BenchRow, Engine, Measured, Report};
use crate::number;

/// Which engine a bar belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Reference,
    Candidate,
}

/// One bar of a chart.
pub(crate) struct Bar {
    pub name: String,
    pub side: Side,
    pub value: f64,
    /// 95% interval of the median.
    pub interval: Option<(f64, f64)>,
    pub text: String,
}

/// Bars that share a scale.
pub(crate) struct BarGroup {
    pub title: String,
    pub bars: Vec<Bar>,
}

/// The rows of both engines for one test and thread count.
struct Pair<'a> {
    test: &'a str,
    threads: usize,
    reference: Option<&'a BenchRow>,
    candidate: Option<&'a BenchRow>,
    ratio: Option<&'a BenchRatio>,
}

fn pairs<'a>(report: &'a Report, bench: &'a Bench) -> Vec<Pair<'a>> {
    let mut keys: Vec<(&str, usize)> = Vec::new();
    let rows = bench.rows.iter().map(|r| (r.test.as_str(), r.threads));
    let ratios = bench.ratios.iter().map(|r| (r.test.as_str(), r.threads));
    for key in rows.chain(ratios) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    keys.into_iter()
        .map(|(test, threads)| {
            let mut of_test = bench
                .rows
                .iter()
                .filter(|r| r.test == test && r.threads == threads);
            // An engine compared with itself has two rows of one name: the reference's comes first.
            let reference = of_test
                .clone()
                .find(|r| r.engine == report.engines.reference.name);
            let candidate = of_test.rfind(|r| r.engine == report.engines.candidate.name);
            let same = reference
                .zip(candidate)
                .is_some_and(|(a, b)| std::ptr::eq(a, b));
            Pair {
                test,
                threads,
                reference,
                candidate: candidate.filter(|_| !same),
                ratio: bench
                    .ratios
                    .iter()
                    .find(|r| r.test == test && r.threads == threads),
            }
        })
        .collect()
}

type Format = fn(f64) -> String;

fn measured(row: &BenchRow) -> Option<(&Measured, Format)> {
    let tps = row.tps.as_ref();
    let ms = row.ms.as_ref();
    tps.map(|m| (m, number::tokens_per_second as Format))
        .or(ms.map(|m| (m, number::milliseconds as Format)))
}

/// `97.1 t/s (96.0 to 98.3)`: the unit once, where all three share it.
fn interval(m: &Measured, format: Format) -> String {
    let median = format(m.median);
    let unit = median.split_once(' ').map(|(_, unit)| format!(" {unit}"));
    let end = |x| {
        let text = format(x);
        let bare = unit.as_ref().and_then(|unit| text.strip_suffix(unit));
        bare.map(str::to_owned).unwrap_or(text)
    };
    format!("{median} ({} to {})", end(m.low), end(m.high))
}

pub(super) fn throughput(report: &Report) -> Table {
    let Some(bench) = &report.bench else {
        return Table::default();
    };
    let mut table = Table::new(&[
        ("Test", Kind::Code),
        ("Threads", Kind::Number),
        ("Reference", Kind::Number),
        ("Candidate", Kind::Number),
        ("Candidate / reference", Kind::Number),
    ]);
    for pair in pairs(report, bench) {
        let cell = |row: Option<&BenchRow>| {
            row.and_then(measured).map_or_else(
                || number::NOT_MEASURED.to_owned(),
                |(m, format)| interval(m, format),
            )
        };
        let ratio = |x| number::significant(x, 3);
        table.push(
            State::Plain,
            vec![
                pair.test.to_owned(),
                pair.threads.to_string(),
                cell(pair.reference),
                cell(pair.candidate),
                pair.ratio.map_or_else(
                    || number::NOT_MEASURED.to_owned(),
                    |r| {
                        format!(
                            "{}x ({} to {})",
                            ratio(r.median),
                            ratio(r.low),
                            ratio(r.high)
                        )
                    },
                ),
            ],
        );
    }
    table
}

/// Load time, memory and CPU time of both workers.
pub(super) fn workers(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Engine", Kind::Code),
        ("Model load", Kind::Number),
        ("Peak memory, comparing", Kind::Number),
        ("Peak memory, timed runs", Kind::Number),
        ("CPU time, comparing", Kind::Number),
    ]);
    for (side, engine) in sides(report) {
        table.push(
            State::Plain,
            vec![
                engine.name.clone(),
                number::or_not_measured(engine.load_ms, number::milliseconds),
                number::or_not_measured(engine.peak_rss_bytes.map(|b| b as f64), number::bytes),
                number::or_not_measured(
                    timed_memory(report, side).map(|b| b as f64),
                    number::bytes,
                ),
                number::or_not_measured(engine.cpu_seconds, |s| number::milliseconds(s * 1000.0)),
            ],
        );
    }
    table
}

fn sides(report: &Report) -> [(Side, &Engine); 2] {
    [
        (Side::Reference, &report.engines.reference),
        (Side::Candidate, &report.engines.candidate),
    ]
}

fn timed_memory(report: &Report, side: Side) -> Option<u64> {
    let memory = &report.bench.as_ref()?.memory;
    let same_name = report.engines.reference.name == report.engines.candidate.name;
    let entry = match side {
        Side::Reference => memory
            .iter()
            .find(|m| m.engine == report.engines.reference.name),
        Side::Candidate if same_name && memory.len() < 2 => None,
        Side::Candidate => memory
            .iter()
            .rfind(|m| m.engine == report.engines.candidate.name),
    };
    entry.map(|m| m.peak_rss_bytes)
}

pub(super) fn notes(report: &Report) -> Vec<String> {
    let Some(bench) = &report.bench else {
        return Vec::new();
    };
    let mut notes = vec![format!(
        "Medians of {} with 95% bootstrap intervals; a ratio above 1 means that the candidate is faster.",
        number::plural(bench.repetitions as u64, "interleaved pair"),
    )];
    for (engine, reproduced) in &bench.tokens_reproduced {
        notes.push(if *reproduced {
            format!("The {engine} generated the same tokens while timed as without timing.")
        } else {
            format!("The {engine} generated other tokens while timed than without timing.")
        });
    }
    notes
}

pub(super) fn bars(report: &Report) -> Vec<BarGroup> {
    let mut groups: Vec<BarGroup> = Vec::new();
    if let Some(bench) = &report.bench {
        for pair in pairs(report, bench) {
            let rows = [
                (Side::Reference, pair.reference),
                (Side::Candidate, pair.candidate),
            ];
            for (side, row) in rows {
                let Some((row, (m, format))) = row.and_then(|row| Some((row, measured(row)?)))
                else {
                    continue;
                };
                let unit = if row.tps.is_some() {
                    "tokens per second"
                } else {
                    "milliseconds"
                };
                let bar = Bar {
                    name: format!(
                        "{}, {}",
                        row.engine,
                        number::plural(pair.threads as u64, "thread")
                    ),
                    side,
                    value: m.median,
                    interval: Some((m.low, m.high)),
                    text: format(m.median),
                };
                let title = format!("{}, {unit}", pair.test);
                match groups.iter_mut().find(|group| group.title == title) {
                    Some(group) => group.bars.push(bar),
                    None => groups.push(BarGroup {
                        title,
                        bars: vec![bar],
                    }),
                }
            }
        }
    }
    let worker_bars = |value: &dyn Fn(Side, &Engine) -> Option<f64>, format: Format| {
        sides(report)
            .into_iter()
            .filter_map(|(side, engine)| {
                let value = value(side, engine)?;
                Some(Bar {
                    name: engine.name.clone(),
                    side,
                    value,
                    interval: None,
                    text: format(value),
                })
            })
            .collect::<Vec<_>>()
    };
    // Workers hold more while they compare: the two kinds of peak never share a scale.
    let timed = sides(report).map(|(side, _)| timed_memory(report, side));
    let (memory_title, memory) = if timed.iter().all(Option::is_some) {
        let bytes = |side, _: &Engine| timed_memory(report, side).map(|b| b as f64);
        (
            "peak memory, timed runs",
            worker_bars(&bytes, number::bytes),
        )
    } else {
        let bytes = |_, engine: &Engine| engine.peak_rss_bytes.map(|b| b as f64);
        ("peak memory, comparing", worker_bars(&bytes, number::bytes))
    };
    for (title, bars) in [
        (
            "model load",
            worker_bars(&|_, engine| engine.load_ms, number::milliseconds),
        ),
        (memory_title, memory),
    ] {
        if !bars.is_empty() {
            groups.push(BarGroup {
                title: title.to_owned(),
                bars,
            });
        }
    }
    groups
}
