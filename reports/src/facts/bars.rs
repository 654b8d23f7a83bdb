//! Timings and memory as bars.

use super::name_of;
use super::plots::plotted;
use super::speed::{Format, measured, memory_threads, threads, threads_on};
use crate::model::{Engine, Report, Role};
use crate::number;

/// One bar of a chart.
pub(crate) struct Bar {
    pub name: String,
    pub role: Role,
    pub value: f64,
    /// 95% interval of the median.
    pub interval: Option<(f64, f64)>,
    pub text: String,
}

/// Bars that share a scale.
pub(crate) struct BarGroup {
    pub title: String,
    pub bars: Vec<Bar>,
    /// A value that bars are seen against, and what it stands for.
    pub mark: Option<(f64, &'static str)>,
}

/// How the engines compare, before what each does.
fn ratio_bars(report: &Report) -> [BarGroup; 2] {
    let pairs = report.timed_pairs();
    let mut ratios = Vec::new();
    let mut shares = Vec::new();
    for pair in &pairs {
        let name = format!("{}, {}", pair.test, threads_on(report, pair.threads));
        ratios.extend(pair.ratio.map(|ratio| Bar {
            name: name.clone(),
            role: Role::Candidate,
            value: ratio.median,
            interval: Some((ratio.low, ratio.high)),
            text: number::times(ratio.median),
        }));
        for (role, row) in Role::BOTH.map(|role| (role, pair.row(role))) {
            let share = row.and_then(|row| row.roofline_share);
            shares.extend(share.map(|share| Bar {
                name: format!("{name}, {}", name_of(report, role)),
                role,
                value: share,
                interval: None,
                text: number::share(share),
            }));
        }
    }
    [
        (
            "Speed, candidate over reference: past the line it is faster",
            "equal speed",
            ratios,
        ),
        (
            "Share of the roofline: longer is better",
            "what the machine was measured to do",
            shares,
        ),
    ]
    .map(|(title, mark, bars)| BarGroup {
        title: title.to_owned(),
        bars,
        mark: Some((1.0, mark)),
    })
}

/// Everything timed that is not a line of [`super::plots::speeds`], then loading and memory.
pub(super) fn bars(report: &Report) -> Vec<BarGroup> {
    let mut groups: Vec<BarGroup> = Vec::new();
    let pairs = report.timed_pairs();
    for pair in pairs.iter().filter(|pair| !plotted(pair, &pairs)) {
        for (role, row) in Role::BOTH.map(|role| (role, pair.row(role))) {
            let Some((row, (m, format))) = row.and_then(|row| Some((row, measured(row)?))) else {
                continue;
            };
            let unit = if row.tps.is_some() {
                "tokens per second: longer is better"
            } else {
                "milliseconds: shorter is better"
            };
            let bar = Bar {
                name: format!(
                    "{}, {}",
                    name_of(report, role),
                    threads_on(report, pair.threads)
                ),
                role,
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
                    mark: None,
                }),
            }
        }
    }
    let worker_bars = |value: fn(&Engine) -> Option<f64>, format: Format| {
        let bars = report
            .engines
            .by_role()
            .into_iter()
            .filter_map(|(role, engine)| {
                let value = value(engine)?;
                Some(Bar {
                    name: name_of(report, role),
                    role,
                    value,
                    interval: None,
                    text: format(value),
                })
            });
        bars.collect::<Vec<_>>()
    };
    // Workers hold more while they compare: the two kinds of peak never share a scale.
    let (memory_title, memory) = match timed_memory_bars(report) {
        Some(bars) => ("Peak memory, timed runs: shorter is better", bars),
        None => {
            let bytes = |engine: &Engine| engine.peak_rss_bytes.map(|b| b as f64);
            (
                "Peak memory, comparing: shorter is better",
                worker_bars(bytes, number::bytes),
            )
        }
    };
    let load = worker_bars(|engine| engine.load_ms, number::milliseconds);
    for (title, bars) in [
        ("Model load: shorter is better", load),
        (memory_title, memory),
    ] {
        groups.push(BarGroup {
            title: title.to_owned(),
            bars,
            mark: None,
        });
    }
    let mut all = Vec::from(ratio_bars(report));
    all.extend(groups);
    all.retain(|group| !group.bars.is_empty());
    all
}

/// `None` unless both engines have one at every thread count.
fn timed_memory_bars(report: &Report) -> Option<Vec<Bar>> {
    let all_threads = memory_threads(report);
    let mut bars = Vec::new();
    for &n in &all_threads {
        for (role, bytes) in Role::BOTH.into_iter().zip(report.timed_memory(n)) {
            let value = bytes? as f64;
            let mut name = name_of(report, role);
            if all_threads.len() > 1 {
                name += &format!(", {}", threads(n));
            }
            bars.push(Bar {
                name,
                role,
                value,
                interval: None,
                text: number::bytes(value),
            });
        }
    }
    Some(bars).filter(|bars| !bars.is_empty())
}
