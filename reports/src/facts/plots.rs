//! Throughput by threads and by prompt length, and times between tokens, as lines.

use super::name_of;
use super::speed::threads_on;
use crate::model::{InterToken, Report, Role, Test, TimedPair};
use crate::number;

/// Those that make a line; fewer are bars.
const SEVERAL: usize = 3;
/// Points per line of a distribution.
const POINTS: usize = 200;

/// Lines over a numeric axis.
pub(crate) struct Plot {
    pub title: String,
    pub x_name: &'static str,
    pub y_name: &'static str,
    /// The ticks of x are those of the points: whole numbers, and few.
    pub at_points: bool,
    pub lines: Vec<PlotLine>,
}

/// One engine's line.
pub(crate) struct PlotLine {
    pub name: String,
    pub role: Role,
    pub path: Vec<(f64, f64)>,
    pub points: Vec<PlotPoint>,
}

/// A figure on a line.
pub(crate) struct PlotPoint {
    pub x: f64,
    pub y: f64,
    /// 95% interval of `y`.
    pub interval: Option<(f64, f64)>,
    pub text: String,
}

/// Tokens of the prompt of a test of prefill.
fn prompt_length(test: &str) -> Option<usize> {
    match test.parse() {
        Ok(Test::Prefill(tokens)) => Some(tokens),
        _ => None,
    }
}

fn has_throughput(pair: &TimedPair<'_>) -> bool {
    let rows = [pair.reference, pair.candidate].into_iter().flatten();
    rows.into_iter().any(|row| row.tps.is_some())
}

/// The pairs of one test.
fn same_test(a: &TimedPair<'_>, b: &TimedPair<'_>) -> bool {
    a.test == b.test
}

/// Prefills at one thread count.
fn same_threads(a: &TimedPair<'_>, b: &TimedPair<'_>) -> bool {
    let prefill = |pair: &TimedPair<'_>| prompt_length(pair.test).is_some();
    a.threads == b.threads && prefill(a) && prefill(b)
}

/// Those that share a chart with `pair`; empty unless there are [`SEVERAL`].
fn together<'a, 'b>(
    pair: &TimedPair<'a>,
    pairs: &'b [TimedPair<'a>],
    same: fn(&TimedPair<'_>, &TimedPair<'_>) -> bool,
) -> Vec<&'b TimedPair<'a>> {
    let mut found: Vec<_> = pairs
        .iter()
        .filter(|other| has_throughput(other) && same(pair, other))
        .collect();
    if found.len() < SEVERAL {
        found.clear();
    }
    found
}

/// Whether `pair` is part of one of [`speeds`].
pub(super) fn plotted(pair: &TimedPair<'_>, pairs: &[TimedPair<'_>]) -> bool {
    let several = |same| !together(pair, pairs, same).is_empty();
    has_throughput(pair) && (several(same_test) || several(same_threads))
}

/// Tokens per second of each test at several thread counts, then of prefill at several lengths.
pub(super) fn speeds(report: &Report) -> Vec<Plot> {
    let pairs = report.timed_pairs();
    let mut plots: Vec<Plot> = Vec::new();
    let mut push = |plot: Plot| {
        let known = plots.iter().any(|known| known.title == plot.title);
        if !known && plot.lines.iter().any(|line| !line.points.is_empty()) {
            plots.push(plot);
        }
    };
    for pair in &pairs {
        let of_test = together(pair, &pairs, same_test);
        push(Plot {
            title: format!(
                "{}, tokens per second by threads: higher is better",
                pair.test
            ),
            x_name: "threads",
            y_name: "t/s",
            at_points: true,
            lines: lines(report, &of_test, |pair| pair.threads),
        });
    }
    for pair in &pairs {
        let prefills = together(pair, &pairs, same_threads);
        push(Plot {
            title: format!(
                "Prefill at {}, tokens per second by prompt length: higher is better",
                threads_on(report, pair.threads)
            ),
            x_name: "tokens of the prompt",
            y_name: "t/s",
            at_points: true,
            lines: lines(report, &prefills, |pair| {
                prompt_length(pair.test).unwrap_or(0)
            }),
        });
    }
    plots
}

fn lines(
    report: &Report,
    pairs: &[&TimedPair<'_>],
    x: impl Fn(&TimedPair<'_>) -> usize,
) -> Vec<PlotLine> {
    let line = |role| {
        let name = name_of(report, role);
        let mut points: Vec<_> = pairs
            .iter()
            .filter_map(|pair| {
                let row = pair.row(role)?;
                let tps = row.tps.as_ref()?;
                let (median, interval) = tps.written(number::tokens_per_second);
                let at = format!("{}, {}", pair.test, threads_on(report, pair.threads));
                Some(PlotPoint {
                    x: x(pair) as f64,
                    y: tps.median,
                    interval: Some((tps.low, tps.high)),
                    text: format!("{name}, {at}: {median}, 95% interval {interval}"),
                })
            })
            .collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        PlotLine {
            name,
            role,
            path: points.iter().map(|point| (point.x, point.y)).collect(),
            points,
        }
    };
    let mut lines: Vec<_> = Role::BOTH.into_iter().map(line).collect();
    lines.retain(|line| !line.points.is_empty());
    lines
}

/// The share of decode steps that took no longer than a time, one plot per test and thread count; only of those whose
/// steps the report holds.
pub(super) fn latencies(report: &Report) -> Vec<Plot> {
    let pairs = report.timed_pairs();
    let plots = pairs.iter().map(|pair| {
        let steps: Vec<_> = Role::BOTH
            .into_iter()
            .filter_map(|role| Some((role, Steps::new(pair.row(role)?.inter_token.as_ref()?)?)))
            .collect();
        // A few steps may be far slower than all others: they are counted, not drawn.
        let ends = steps.iter().map(|(_, steps)| steps.times[steps.rank(0.95)]);
        let end = 1.25 * ends.fold(0.0, f64::max);
        Plot {
            title: format!(
                "{} at {}, time between tokens: steeper and further left is better",
                pair.test,
                threads_on(report, pair.threads)
            ),
            x_name: "milliseconds",
            y_name: "share of steps",
            at_points: false,
            lines: steps
                .iter()
                .map(|(role, steps)| steps.line(&name_of(report, *role), *role, end))
                .collect(),
        }
    });
    plots.filter(|plot| !plot.lines.is_empty()).collect()
}

/// Decode steps by the time that they took, ascending.
struct Steps<'a> {
    times: Vec<f64>,
    summary: &'a InterToken,
}

impl Steps<'_> {
    fn new(summary: &InterToken) -> Option<Steps<'_>> {
        let all = summary.samples.iter().copied();
        let mut times: Vec<f64> = all.filter(|ms| ms.is_finite() && *ms >= 0.0).collect();
        times.sort_by(f64::total_cmp);
        (!times.is_empty()).then_some(Steps { times, summary })
    }

    /// Index of a quantile, by nearest rank.
    fn rank(&self, share: f64) -> usize {
        let rank = (share * self.times.len() as f64).ceil() as usize;
        rank.clamp(1, self.times.len()) - 1
    }

    fn line(&self, engine: &str, role: Role, end: f64) -> PlotLine {
        let n = self.times.len();
        let indices = (0..n).step_by(n.div_ceil(POINTS)).chain([n - 1]);
        let shown = |(x, _): &(f64, f64)| *x <= end;
        let beyond = match self.times.iter().filter(|ms| **ms > end).count() as u64 {
            0 => String::new(),
            n => format!(", {} beyond the chart", number::count(n)),
        };
        let path = indices.map(|i| (self.times[i], (i + 1) as f64 / n as f64));
        let points = [
            (0.5, self.summary.p50),
            (0.95, self.summary.p95),
            (0.99, self.summary.p99),
        ];
        PlotLine {
            name: format!(
                "{engine} ({}{beyond}; the slowest {})",
                number::plural(n as u64, "step"),
                number::milliseconds(self.times[n - 1])
            ),
            role,
            path: path.filter(shown).collect(),
            points: points
                .into_iter()
                .filter(|(_, ms)| (0.0..=end).contains(ms))
                .map(|(share, ms)| PlotPoint {
                    x: ms,
                    y: share,
                    interval: None,
                    text: format!(
                        "{engine}: p{:.0} {}",
                        share * 100.0,
                        number::milliseconds(ms)
                    ),
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_by_nearest_rank() {
        let summary = InterToken {
            p50: 2.0,
            p95: 4.0,
            p99: 400.0,
            samples: vec![4.0, 1.0, f64::NAN, 3.0, 2.0],
        };
        let steps = Steps::new(&summary).unwrap();
        assert_eq!(steps.times, [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(steps.times[steps.rank(0.5)], 2.0);
        assert_eq!(steps.times[steps.rank(0.99)], 4.0);
        let line = steps.line("rust", Role::Candidate, 4.2);
        assert_eq!(
            line.path,
            [(1.0, 0.25), (2.0, 0.5), (3.0, 0.75), (4.0, 1.0), (4.0, 1.0)]
        );
        assert_eq!(line.points.len(), 2, "p99 lies beyond the end");
        assert_eq!(line.name, "rust (4 steps; the slowest 4.00 ms)");
        let line = steps.line("rust", Role::Candidate, 2.5);
        assert_eq!(line.path, [(1.0, 0.25), (2.0, 0.5)]);
        assert_eq!(
            line.name,
            "rust (4 steps, 2 beyond the chart; the slowest 4.00 ms)"
        );
        let none = InterToken {
            samples: Vec::new(),
            ..summary
        };
        assert!(Steps::new(&none).is_none());
    }

    #[test]
    fn prompt_lengths() {
        assert_eq!(prompt_length("pp512"), Some(512));
        assert_eq!(prompt_length("pp128 cold"), None);
        assert_eq!(prompt_length("tg64"), None);
    }
}
