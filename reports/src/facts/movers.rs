//! What stands out: speeds that changed against the baseline, taps near or beyond their limits, tests in which one
//! engine is surely faster.

use super::parity::{Parity, nmse};
use super::share::Share;
use super::speed::measured;
use super::{Kind, State, Table, gate, limit, mode_name, speed};
use crate::model::{GateResult, Report, Role, TimedPair};
use crate::number;

/// Taps shown.
const TAPS: usize = 5;

/// The series of the gate that changed, or seemed to.
pub(super) fn gated(report: &Report) -> Table {
    gate::table(report, |series| match series.result {
        GateResult::Improved
        | GateResult::Regressed
        | GateResult::NotConfirmed
        | GateResult::NotRepeated
        | GateResult::MachineChanged
        | GateResult::ReferenceChanged
        | GateResult::BothSlower => true,
        GateResult::Pass
        | GateResult::TooFewSamples
        | GateResult::TooNoisy
        | GateResult::Undecided
        | GateResult::NoBaseline
        | GateResult::NotMeasured => false,
    })
}

/// The gated taps that use up most of their limit, one row per mode and tap; those with equal bits are left out.
pub(super) fn taps(parity: &Parity<'_>) -> Table {
    let mut table = Table::new(&[
        ("Tap", Kind::Code),
        ("Mode", Kind::Text),
        ("Worst row", Kind::Text),
        ("NMSE", Kind::Number),
        ("Limit", Kind::Number),
        ("Share of the limit", Kind::Number),
    ]);
    let mut found = Vec::new();
    for &mode in &parity.modes {
        for &tap in &parity.taps {
            let gated = parity
                .column(mode, tap)
                .filter(|cell| cell.stats.pass.is_some());
            let shares = gated.filter_map(|cell| {
                let share = Share::new(nmse(cell.stats), cell.stats.limit)?;
                Some((rank(share)?, share, cell))
            });
            let worst = shares.reduce(|a, b| if b.0 > a.0 { b } else { a });
            found.extend(worst.map(|worst| (mode, tap, worst)));
        }
    }
    found.sort_by(|a, b| b.2.0.total_cmp(&a.2.0));
    for (mode, tap, (_, share, cell)) in found.into_iter().take(TAPS) {
        let state = if cell.failed() {
            State::Fail
        } else {
            State::Plain
        };
        table.push(
            state,
            vec![
                tap.to_owned(),
                mode_name(mode).to_owned(),
                parity.place(cell),
                nmse(cell.stats).text(),
                limit(cell.stats.limit),
                match share {
                    Share::Of(x) if x <= 1.0 => number::share(x),
                    Share::Of(x) => format!("{} times", number::significant(x, 2)),
                    Share::BitsDiffer => "bits differ".to_owned(),
                    Share::NotFinite => number::NOT_FINITE.to_owned(),
                    Share::NoLimit => limit(None),
                },
            ],
        );
    }
    table
}

/// Orders shares; `None` for equal bits, and where there is no limit.
fn rank(share: Share) -> Option<f64> {
    match share {
        Share::Of(x) => (x > 0.0).then_some(x),
        Share::BitsDiffer | Share::NotFinite => Some(f64::INFINITY),
        Share::NoLimit => None,
    }
}

/// Pairs below which the interval of a median says too little: from the least to the most of so many is not quite 95%.
const PAIRS: usize = 5;

/// Whether a test has too few pairs for its interval to say anything.
pub(super) fn few(pair: &TimedPair) -> bool {
    let rows = Role::BOTH.into_iter().filter_map(|role| pair.row(role));
    let mut samples = rows.filter_map(|row| Some(measured(row)?.0.samples.len()));
    // A report without samples does not say.
    samples.any(|n| n > 0 && n < PAIRS)
}

/// Which engine is surely faster: whether the interval of the ratio, of enough pairs, leaves out 1.
pub(super) fn surely_faster(pair: &TimedPair) -> Option<Role> {
    let ratio = pair.ratio.filter(|_| !few(pair))?;
    if ratio.low > 1.0 {
        Some(Role::Candidate)
    } else if ratio.high < 1.0 {
        Some(Role::Reference)
    } else {
        None
    }
}

/// The tests in which one engine is surely faster.
pub(super) fn tests(report: &Report) -> Table {
    speed::throughput(report, |pair| surely_faster(pair).is_some())
}
