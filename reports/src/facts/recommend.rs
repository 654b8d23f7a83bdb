//! Which engine for what, as far as the figures bear it out, and how far they do.

use super::conclusion::memory;
use super::movers::{few, surely_faster};
use super::name_of;
use super::speed::threads_on;
use crate::model::{AtFault, BenchRatio, Report, Role, Status, Test, TimedPair};
use crate::number;

type Purpose = (&'static str, fn(Test) -> bool);

/// What one may want an engine for, and the tests that speak about it.
const PURPOSES: [Purpose; 4] = [
    ("Reading prompts", |test| matches!(test, Test::Prefill(_))),
    ("Generating text", |test| matches!(test, Test::Decode(_))),
    ("A short wait for the first token", |test| {
        test == Test::TimeToFirstToken
    }),
    ("Starting often", |test| {
        matches!(test, Test::Load(_) | Test::FirstToken(_))
    }),
];

/// A sentence per purpose that something was measured for.
pub(super) fn by_purpose(report: &Report) -> Vec<String> {
    let pairs = report.timed_pairs();
    let speeds = PURPOSES.iter().filter_map(|&(purpose, kind)| {
        let tests: Vec<(&TimedPair, &BenchRatio)> = pairs
            .iter()
            .filter(|pair| pair.test.parse().is_ok_and(kind))
            .filter_map(|pair| Some((pair, pair.ratio?)))
            .collect();
        (!tests.is_empty()).then(|| format!("{purpose}: {}.", fastest(report, &tests)))
    });
    let mut sentences: Vec<String> = speeds.collect();
    sentences.extend(memory(report).map(|(winner, figures)| {
        let engine = match winner {
            Some(role) => named(report, role),
            None => "neither needs less at every thread count".to_owned(),
        };
        format!("Little memory: {engine}, by one reading each: {figures}.")
    }));
    sentences
}

/// `rust, surely faster in all 4 tests, by 1.21x at least (pp64 at 2 threads)`.
fn fastest(report: &Report, tests: &[(&TimedPair, &BenchRatio)]) -> String {
    let all = tests.len() as u64;
    let surely = Role::BOTH.map(|role| {
        let won = tests
            .iter()
            .filter(|(pair, _)| surely_faster(pair) == Some(role));
        (role, won.collect::<Vec<_>>())
    });
    let won: Vec<_> = surely.iter().filter(|(_, won)| !won.is_empty()).collect();
    match won.as_slice() {
        [] if tests.iter().all(|(pair, _)| few(pair)) => {
            "not to be told by so few pairs".to_owned()
        }
        [] => {
            let test = number::plural(all, "test");
            format!("either, as the intervals of {test} hold equal speed")
        }
        [(role, won)] => {
            // The closest call of them.
            let closeness = |ratio: &BenchRatio| role.of(-ratio.median, ratio.median);
            let closest = won
                .iter()
                .min_by(|a, b| closeness(a.1).total_cmp(&closeness(b.1)));
            let least = closest.map_or(String::new(), |(pair, ratio)| {
                format!(
                    "; {} over {} where it is closest, {} ({} at {})",
                    name_of(report, Role::Candidate),
                    name_of(report, Role::Reference),
                    number::times(ratio.median),
                    pair.test,
                    threads_on(report, pair.threads)
                )
            });
            format!(
                "{}, surely faster in {} of {}{least}",
                named(report, *role),
                number::count(won.len() as u64),
                number::plural(all, "test")
            )
        }
        several => {
            let several = several.iter().map(|(role, won)| {
                let tests: Vec<String> = won
                    .iter()
                    .map(|(pair, _)| {
                        format!("{} at {}", pair.test, threads_on(report, pair.threads))
                    })
                    .collect();
                format!("{} for {}", named(report, *role), tests.join(", "))
            });
            several.collect::<Vec<_>>().join("; ")
        }
    }
}

/// An engine's name, with what the run holds against it.
fn named(report: &Report, role: Role) -> String {
    let name = name_of(report, role);
    let wrong = match report.verdict.at_fault {
        AtFault::Both => true,
        AtFault::Candidate => role == Role::Candidate,
        AtFault::Reference => role == Role::Reference,
        AtFault::None | AtFault::Undetermined => false,
    };
    match wrong {
        true => format!("{name} (which is at fault in this run)"),
        false => name,
    }
}

/// How far the recommendations reach; empty where there are none.
pub(super) fn limits(report: &Report) -> Vec<String> {
    let Some(bench) = &report.bench else {
        return Vec::new();
    };
    let machine = &report.environment;
    let cpu = machine.cpu.as_deref().unwrap_or("a CPU without a name");
    let mut tests: Vec<&str> = Vec::new();
    for pair in report.timed_pairs() {
        if pair.ratio.is_some() && !tests.contains(&pair.test) {
            tests.push(pair.test);
        }
    }
    let mut limits = vec![format!(
        "They rest on one machine ({cpu}, {}), one model ({}) and these tests: {}.",
        number::plural(machine.cpus as u64, "logical CPU"),
        report.model.file_name(),
        tests.join(", ")
    )];
    let pairs = report.timed_pairs();
    let enough = pairs
        .iter()
        .filter(|pair| pair.ratio.is_some() && !few(pair));
    let unsure = enough.filter(|pair| surely_faster(pair).is_none());
    match unsure.count() as u64 {
        0 => {}
        n => limits.push(format!(
            "The intervals of {} of {} hold equal speed.",
            number::count(n),
            number::plural(bench.ratios.len() as u64, "ratio")
        )),
    }
    if pairs.iter().any(few) {
        limits
            .push("Of tests with fewer than five pairs no engine is said to be faster.".to_owned());
    }
    if machine.profile != "release" {
        limits.push(format!(
            "crossval, and with it any engine of its own, was built with the profile {}.",
            machine.profile
        ));
    }
    match (&report.not_compared, report.verdict.status) {
        (Some(_), _) => limits.push("Values were not compared in this run.".to_owned()),
        (None, Status::Pass) => {}
        (None, status) => limits.push(format!("The run itself is no pass: {}.", status.name())),
    }
    limits
}
