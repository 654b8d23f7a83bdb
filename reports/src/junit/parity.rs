//! Suites of taps and logits.

use std::collections::BTreeSet;

use quick_junit::TestSuite;

use super::{Judged, add, excuse, timed, took};
use crate::facts::{limit, mode_name, nmse};
use crate::model::{LogitsStats, Mode, Report, Source, TapResult, TapStats};
use crate::number;

const LOGITS: &str = "logits";

/// One suite per prompt and mode that was run, then one of the logits.
pub(super) fn suites(report: &Report) -> Vec<TestSuite> {
    let keys: BTreeSet<(usize, Mode)> = report
        .taps
        .iter()
        .flat_map(|entry| entry.modes().map(|(mode, _)| (entry.prompt, mode)))
        .collect();
    let mut suites: Vec<_> = keys
        .iter()
        .map(|&(prompt, mode)| {
            let took = took(report, Source::Taps, Some(prompt), Some(mode));
            timed(layers(report, prompt, mode), took)
        })
        .collect();
    suites.push(logits(report));
    suites
}

/// The taps of one prompt and mode, without the logits.
fn layers(report: &Report, prompt: usize, mode: Mode) -> TestSuite {
    let mut suite = TestSuite::new(format!("prompt {prompt}, {}", mode_name(mode)));
    let taps = || {
        let entries = report.taps.iter().filter(|e| e.prompt == prompt);
        let entries = entries.filter(|e| e.tap != LOGITS);
        entries.flat_map(move |entry| {
            let of_mode = entry.modes().filter(move |(of, _)| *of == mode);
            of_mode.map(move |(_, stats)| (entry, stats))
        })
    };
    let layers: BTreeSet<Option<usize>> = taps().map(|(entry, _)| entry.layer).collect();
    for layer in layers {
        let of_layer: Vec<_> = taps().filter(|(entry, _)| entry.layer == layer).collect();
        let name = layer.map_or("outside the layers".to_owned(), |l| format!("layer {l}"));
        add(&mut suite, &name, judge(report, mode, &of_layer));
    }
    suite
}

fn judge(report: &Report, mode: Mode, taps: &[(&TapResult, &TapStats)]) -> Judged {
    let mut beyond = Vec::new();
    let mut excused = Vec::new();
    for (entry, stats) in taps.iter().filter(|(_, stats)| stats.pass == Some(false)) {
        let known = excuse(report, |known| {
            known.tap == entry.tap
                && known.layer.is_none_or(|layer| entry.layer == Some(layer))
                && known.mode.is_none_or(|of| of == mode)
        });
        let line = line(entry, stats);
        match known {
            Some(why) => excused.push(format!("{line}; {why}")),
            None => beyond.push(line),
        }
    }
    let gated = taps
        .iter()
        .filter(|(_, stats)| stats.pass.is_some())
        .count();
    if !beyond.is_empty() {
        let message = format!(
            "{} of {} beyond the limit",
            beyond.len(),
            number::plural(gated as u64, "gated tap")
        );
        beyond.extend(excused);
        Judged::Failed(message, beyond)
    } else if gated == 0 {
        Judged::Skipped(format!("no tap has a limit in {} mode", mode_name(mode)))
    } else if excused.is_empty() {
        Judged::Passed
    } else {
        Judged::PassedWith(excused.join("\n"))
    }
}

/// `q_rope: NMSE 3.1e-1, limit 1.0e-12, position 5`, and how far a part of a row is beyond its own limit.
fn line(entry: &TapResult, stats: &TapStats) -> String {
    let non_finite = match stats.non_finite {
        0 => String::new(),
        n => format!(", {}", number::plural(n, "non-finite value")),
    };
    // Of a row that is within its limit as a whole.
    let parts = [
        ("a head", stats.head_share),
        ("an element", stats.element_share),
    ];
    let beyond = parts.into_iter().filter_map(|(part, share)| {
        let share = share.filter(|&share| share > 1.0)?;
        Some(format!(
            ", {part} {} times its limit",
            number::significant(share, 2)
        ))
    });
    let beyond: String = beyond.collect();
    format!(
        "{}: NMSE {}, limit {}, position {}{beyond}{non_finite}",
        entry.tap,
        nmse(stats).text(),
        limit(stats.limit),
        stats.worst_position
    )
}

/// A case per prompt and mode: the limit on the logits' NMSE, and what the distributions say.
fn logits(report: &Report) -> TestSuite {
    let mut suite = TestSuite::new(LOGITS);
    for entry in report.taps.iter().filter(|entry| entry.tap == LOGITS) {
        for (mode, stats) in entry.modes() {
            let mut judged = judge(report, mode, &[(entry, stats)]);
            let distribution = report
                .logits
                .iter()
                .filter(|logits| logits.prompt == entry.prompt)
                .find_map(|logits| logits.modes().find(|(of, _)| *of == mode));
            if let (Judged::Failed(_, details), Some((_, of))) = (&mut judged, distribution) {
                details.push(distribution_line(of));
            }
            let name = format!("prompt {}, {}", entry.prompt, mode_name(mode));
            add(&mut suite, &name, judged);
        }
    }
    if suite.test_cases.is_empty() {
        let why = Judged::Skipped(number::NOT_MEASURED.to_owned());
        add(&mut suite, "output distributions", why);
    }
    suite
}

fn distribution_line(stats: &LogitsStats) -> String {
    format!(
        "KL mean {}, max {} nats; same most likely token at {} of {}",
        number::or_not_measured(stats.kl_mean, number::error),
        number::or_not_measured(stats.kl_max, number::error),
        number::share(stats.top1_agreement),
        number::plural(stats.positions, "position")
    )
}
