//! Tests that stand for their kind.

use super::name_of;
use super::speed::measured;
use crate::model::{Report, Role, Test, TimedPair};

pub(super) fn prefill(test: Test) -> bool {
    matches!(test, Test::Prefill(_))
}

pub(super) fn decode(test: Test) -> bool {
    matches!(test, Test::Decode(_))
}

/// The test that stands for its kind: the one at most threads that had CPUs of their own and, of these, with most tokens.
pub(super) fn representative(report: &Report, kind: fn(Test) -> bool) -> Option<TimedPair<'_>> {
    let pairs = report.timed_pairs().into_iter();
    let of_kind = pairs.filter_map(|pair| {
        let test: Test = pair.test.parse().ok()?;
        let known = pair.ratio.is_some() || both(&pair).is_some();
        (kind(test) && known).then_some((test, pair))
    });
    let best = of_kind.max_by_key(|(test, pair)| {
        let alone = report.shared_cpus(pair.threads).is_none();
        let threads = pair.threads as i64;
        (alone, if alone { threads } else { -threads }, test.tokens())
    });
    best.map(|(_, pair)| pair)
}

/// The medians of both engines, if they are in one unit: the reference's, the candidate's.
fn both(pair: &TimedPair) -> Option<[String; 2]> {
    let (reference, candidate) = (pair.reference?, pair.candidate?);
    let ((a, of_a), (b, of_b)) = (measured(reference)?, measured(candidate)?);
    (reference.tps.is_some() == candidate.tps.is_some()).then(|| [of_a(a.median), of_b(b.median)])
}

/// `rust 24900 t/s, bitnet.cpp 19100 t/s`.
pub(super) fn figures(report: &Report, pair: &TimedPair) -> Option<String> {
    let [reference, candidate] = both(pair)?;
    let [of_reference, of_candidate] = Role::BOTH.map(|role| name_of(report, role));
    Some(format!(
        "{of_candidate} {candidate}, {of_reference} {reference}"
    ))
}
