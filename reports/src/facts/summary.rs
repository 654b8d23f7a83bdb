//! What a run comes to, in sentences: the verdict, then the speeds.

use super::conclusion::{conclusion, memory};
use super::movers::surely_faster;
use super::name_of;
use super::representative::{decode, figures, prefill, representative};
use super::speed::threads_on;
use crate::model::{BenchRatio, Cache, Report, Role, Test, TimedPair};
use crate::number;

/// The conclusion, one sentence on the speeds of all tests, and one each on loading and memory, where they were measured.
pub(super) fn sentences(report: &Report) -> Vec<String> {
    let mut sentences = vec![conclusion(report)];
    sentences.extend(speed(report));
    let warm = |test| test == Test::Load(Cache::Warm);
    let load = representative(report, warm);
    sentences.extend(load.and_then(|pair| {
        let ratio = pair.ratio.map_or(String::new(), |r| {
            let [median, low, high] = [r.median, r.low, r.high].map(number::times);
            format!("; {median} the speed ({low} to {high})")
        });
        Some(format!(
            "Loading the model: {}{ratio}.",
            figures(report, &pair)?
        ))
    }));
    let peak = memory(report);
    sentences.extend(peak.map(|(_, figures)| format!("Peak memory in timed runs: {figures}.")));
    sentences
}

/// Which engine is surely faster, how often, and from where to where the ratios run.
fn speed(report: &Report) -> Option<String> {
    let pairs = report.timed_pairs();
    let ratios: Vec<(&TimedPair, &BenchRatio)> = pairs
        .iter()
        .filter_map(|pair| Some((pair, pair.ratio?)))
        .collect();
    let by_median = |a: &&(&TimedPair, &BenchRatio), b: &&(&TimedPair, &BenchRatio)| {
        a.1.median.total_cmp(&b.1.median)
    };
    let (least, most) = (
        ratios.iter().min_by(by_median)?,
        ratios.iter().max_by(by_median)?,
    );
    let faster = Role::BOTH.map(|role| {
        let surely = ratios
            .iter()
            .filter(|(pair, _)| surely_faster(pair) == Some(role));
        match surely.count() as u64 {
            0 => "none".to_owned(),
            n => number::count(n),
        }
    });
    let place = |(pair, ratio): &(&TimedPair, &BenchRatio)| {
        format!(
            "{} ({}, {})",
            number::times(ratio.median),
            pair.test,
            threads_on(report, pair.threads)
        )
    };
    let range = match ratios.len() {
        1 => place(least),
        _ => format!("from {} to {}", place(least), place(most)),
    };
    let [reference, candidate] = Role::BOTH.map(|role| name_of(report, role));
    Some(format!(
        "Of {}, {candidate} is surely faster in {} and {reference} in {}, by the 95% intervals of the ratios; the speed \
         of {candidate} over that of {reference} is {range}.",
        number::plural(ratios.len() as u64, "timed test"),
        faster[1],
        faster[0],
    ))
}

/// `rust decodes at 3.86x (3.28x to 4.02x) and prefills at 1.31x (1.24x to 2.09x) the speed of bitnet.cpp on tiny.gguf: tg32
/// at 2 threads, pp128 at 2 threads`; `None` where neither was held against the other engine's.
pub(super) fn result(report: &Report) -> Option<String> {
    let tests = [
        ("decodes", decode as fn(Test) -> bool),
        ("prefills", prefill),
    ];
    let mut says = Vec::new();
    let mut places = Vec::new();
    for (verb, kind) in tests {
        let Some(pair) = representative(report, kind) else {
            continue;
        };
        let Some(ratio) = pair.ratio else { continue };
        let [median, low, high] = [ratio.median, ratio.low, ratio.high].map(number::times);
        says.push(format!("{verb} at {median} ({low} to {high})"));
        let threads = threads_on(report, pair.threads);
        places.push(format!("{} at {threads}", pair.test));
    }
    let [reference, candidate] = Role::BOTH.map(|role| name_of(report, role));
    (!says.is_empty()).then(|| {
        format!(
            "{candidate} {} the speed of {reference} on {}: {}",
            says.join(" and "),
            report.model.file_name(),
            places.join(", ")
        )
    })
}
