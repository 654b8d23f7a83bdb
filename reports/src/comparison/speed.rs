//! What was timed and weighed.

use super::{Direction, Reading, Subject, factor_two, keys, ordered};
use crate::facts::measured;
use crate::model::{BenchKernel, BenchRow, Engine, Measured, Report, Role, TimedPair};
use crate::number;

/// A reading of memory that moved by no more than this share of it is unchanged.
const MEMORY: f64 = 0.05;

pub(super) fn subjects(a: &Report, b: &Report) -> [Subject; 4] {
    [timed(a, b), kernels(a, b), memory(a, b), load(a, b)]
}

fn threads(n: usize) -> String {
    number::plural(n as u64, "thread")
}

/// Both engines' tests and their ratios.
fn timed(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new("Speed");
    let (pairs_a, pairs_b) = (a.timed_pairs(), b.timed_pairs());
    let key = |pair: &TimedPair| (pair.test.to_owned(), pair.threads);
    let all = |pairs: &[TimedPair]| pairs.iter().map(key).collect::<Vec<_>>();
    for wanted in keys(&all(&pairs_a), &all(&pairs_b)) {
        let find = |pairs: &[TimedPair<'_>]| pairs.iter().position(|pair| key(pair) == wanted);
        let (in_a, in_b) = (find(&pairs_a), find(&pairs_b));
        let name = format!("{}, {}", wanted.0, threads(wanted.1));
        let ratio = |pairs: &[TimedPair], at: Option<usize>| {
            let ratio = pairs[at?].ratio?;
            let (median, low, high) = (ratio.median, ratio.low, ratio.high);
            Some(Reading::interval(median, low, high, number::times))
        };
        let ratios = (ratio(&pairs_a, in_a), ratio(&pairs_b, in_b));
        let more = |a: &Reading, b: &Reading| apart(a, b, true);
        subject.figure(&format!("{name}, ratio"), None, ratios, more);
        for role in Role::BOTH {
            let of_role = |pairs: &[TimedPair], at: Option<usize>| row(pairs[at?].row(role)?);
            let (a, b) = (of_role(&pairs_a, in_a), of_role(&pairs_b, in_b));
            // Another unit is another test.
            let faster = a
                .as_ref()
                .or(b.as_ref())
                .is_some_and(|(_, per_second)| *per_second);
            let reading = |row: Option<(Reading, bool)>| row.map(|(reading, _)| reading);
            let figures = (reading(a), reading(b));
            subject.figure(&format!("{name}, {role}"), None, figures, |a, b| {
                apart(a, b, faster)
            });
        }
    }
    subject
}

/// A test's figure, and whether more of it is better.
fn row(row: &BenchRow) -> Option<(Reading, bool)> {
    let (m, format) = measured(row)?;
    Some((of_measured(m, format), row.tps.is_some()))
}

fn of_measured(m: &Measured, format: fn(f64) -> String) -> Reading {
    let (median, interval) = m.written(format);
    Reading {
        text: format!("{median} ({interval})"),
        ..Reading::interval(m.median, m.low, m.high, format)
    }
}

/// How a figure changed whose intervals do not overlap.
fn apart(a: &Reading, b: &Reading, more_is_better: bool) -> Option<Direction> {
    let (a_low, a_high, b_low, b_high) = (a.low?, a.high?, b.low?, b.high?);
    let grew = b_low > a_high;
    if !grew && b_high >= a_low {
        return None;
    }
    Some(if grew == more_is_better {
        Direction::Better
    } else {
        Direction::Worse
    })
}

/// Matrix products timed by themselves.
fn kernels(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new("Kernels");
    let all = |report: &Report| -> Vec<(String, Reading)> {
        let kernels = report.bench.iter().flat_map(|bench| &bench.kernels);
        let reading = |k: &BenchKernel| (kernel_name(k), of_measured(&k.ms, number::milliseconds));
        kernels.map(reading).collect()
    };
    let (a, b) = (all(a), all(b));
    let names = |all: &[(String, Reading)]| all.iter().map(|(n, _)| n.clone()).collect::<Vec<_>>();
    for name in keys(&names(&a), &names(&b)) {
        let find = |all: &[(String, Reading)]| {
            let found = all.iter().find(|(of, _)| *of == name);
            found.map(|(_, reading)| reading.clone())
        };
        subject.figure(&name, None, (find(&a), find(&b)), |a, b| apart(a, b, false));
    }
    subject
}

fn kernel_name(kernel: &BenchKernel) -> String {
    // The candidate's has none, as in older reports.
    let role = match kernel.role {
        Some(Role::Reference) => ", reference",
        _ => "",
    };
    format!(
        "{} {} x {}, {}, {}{role}",
        kernel.weights,
        kernel.rows,
        kernel.columns,
        number::plural(kernel.tokens as u64, "token"),
        kernel.kernel
    )
}

/// Peak memory of the timed runs by thread count, and of the workers that were compared.
fn memory(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new("Memory");
    let reading = |bytes: u64| Reading::number(bytes as f64, number::bytes);
    let less = |a: &Reading, b: &Reading| {
        let (a, b) = (a.value?, b.value?);
        ((b - a).abs() > MEMORY * a).then(|| ordered(b, a))?
    };
    let counts = |report: &Report| {
        let memory = report.bench.iter().flat_map(|bench| &bench.memory);
        let counts = memory.map(|m| m.threads.unwrap_or(report.inputs.threads));
        let mut counts: Vec<usize> = counts.collect();
        counts.sort_unstable();
        counts.dedup();
        counts
    };
    for n in keys(&counts(a), &counts(b)) {
        let timed = a.timed_memory(n).into_iter().zip(b.timed_memory(n));
        for (role, (a, b)) in Role::BOTH.into_iter().zip(timed) {
            let name = format!("timed runs, {}, {role}", threads(n));
            subject.figure(&name, None, (a.map(reading), b.map(reading)), less);
        }
    }
    for (role, (a, b)) in engines(a, b) {
        let peaks = (a.peak_rss_bytes.map(reading), b.peak_rss_bytes.map(reading));
        subject.figure(&format!("comparing, {role}"), None, peaks, less);
    }
    subject
}

fn engines<'a>(a: &'a Report, b: &'a Report) -> [(Role, (&'a Engine, &'a Engine)); 2] {
    Role::BOTH.map(|role| (role, (a.engines.engine(role), b.engines.engine(role))))
}

/// The workers' load times: single readings.
fn load(a: &Report, b: &Report) -> Subject {
    let mut subject = Subject::new("Loading");
    for (role, (a, b)) in engines(a, b) {
        let reading = |e: &Engine| e.load_ms.map(|x| Reading::number(x, number::milliseconds));
        let figures = (reading(a), reading(b));
        subject.figure(&format!("model load, {role}"), None, figures, |a, b| {
            factor_two(a.value?, b.value?)
        });
    }
    subject
}
