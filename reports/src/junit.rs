//! The report as JUnit XML, for CI systems that show test results.
//!
//! A suite per prompt and mode, with a case per layer; one each for logits, spot check, generation, tokenizers, gate, conditions, coverage and
//! engines, and one of what was timed. Times are those of the run by the driver's clock: of a suite, and of a case where they
//! are its own; a case that was timed as a test has the time of one repetition. Skipped is what was not judged, and says why: no case passes because nothing was looked at. A last suite
//! repeats the verdict, so that the file is never greener than the run.

mod parity;

use std::time::Duration;

use quick_junit::{NonSuccessKind, TestCase, TestCaseStatus, TestSuite};

use crate::error::Error;
use crate::facts::{
    Facts, Parity, State, conditions_sentence, failure, gate_rows, measured, reasons_of_conditions,
    series_sentence, stage, threads_on,
};
use crate::model::{
    BenchRow, Engines, Gate, GateResult, KnownDeviation, KnownState, Mode, Report, Role, Source,
    Status, TokenComparison,
};
use crate::number;

/// The report as JUnit XML.
///
/// # Errors
/// [`Error::Junit`] would be a fault of this crate.
pub fn render(report: &Report) -> Result<String, Error> {
    let parity = Parity::new(report);
    let facts = Facts::new(report, &parity);
    let mut junit = quick_junit::Report::new(facts.title.as_str());
    let whole = report.took.as_ref().and_then(|took| seconds(took.seconds));
    junit.time = whole;
    let mut suites = Vec::new();
    if report.not_compared.is_none() {
        suites.extend(parity::suites(report));
        let judging = took(report, Source::Oracle, None, None);
        suites.extend(spot_check(report).map(|suite| timed(suite, judging)));
        suites.push(generation(report, &facts));
        let of = |part| took(report, part, None, None);
        suites.push(timed(tokenizer(report), of(Source::Tokenizer)));
        suites.push(timed(conditions(report), of(Source::Conditions)));
        suites.push(coverage(report));
    }
    suites.extend(timings(report));
    let gated = report.gate.as_ref();
    suites.extend(gated.map(|held| gate(held, gate_rows(report))));
    suites.push(engines(&report.engines));
    suites.push(verdict(report, &facts));
    junit.add_test_suites(suites);
    Ok(junit.to_string()?)
}

/// What came of a case.
enum Judged {
    Passed,
    /// A note on something that passes and is worth knowing.
    PassedWith(String),
    /// A message on one line, and lines of detail.
    Failed(String, Vec<String>),
    Errored(String, Vec<String>),
    /// Not judged, and why.
    Skipped(String),
}

/// Adds a case to a suite.
fn add(suite: &mut TestSuite, name: &str, judged: Judged) {
    let non_success = |kind, message: String, details: Vec<String>| {
        let mut status = TestCaseStatus::non_success(kind);
        status.set_message(message);
        if !details.is_empty() {
            status.set_description(details.join("\n"));
        }
        status
    };
    let mut note = None;
    let status = match judged {
        Judged::Passed => TestCaseStatus::success(),
        Judged::PassedWith(text) => {
            note = Some(text);
            TestCaseStatus::success()
        }
        Judged::Failed(message, details) => non_success(NonSuccessKind::Failure, message, details),
        Judged::Errored(message, details) => non_success(NonSuccessKind::Error, message, details),
        Judged::Skipped(why) => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(why);
            status
        }
    };
    let mut case = TestCase::new(name, status);
    case.set_classname(suite.name.clone());
    if let Some(note) = note {
        case.set_system_out(note);
    }
    suite.add_test_case(case);
}

fn seconds(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

/// How long a part of the run took.
fn took(
    report: &Report,
    part: Source,
    prompt: Option<usize>,
    mode: Option<Mode>,
) -> Option<Duration> {
    seconds(report.took.as_ref()?.of(part, prompt, mode)?)
}

/// The suite with the time of a part of the run, which is that of its case if it has but one.
fn timed(mut suite: TestSuite, took: Option<Duration>) -> TestSuite {
    suite.time = took;
    if let [case] = suite.test_cases.as_mut_slice() {
        case.time = took;
    }
    suite
}

/// A case per timed test and engine, with the time of one repetition.
fn timings(report: &Report) -> Option<TestSuite> {
    let pairs = report.timed_pairs();
    let mut suite = TestSuite::new("timing");
    for pair in &pairs {
        for (role, row) in Role::BOTH.map(|role| (role, pair.row(role))) {
            let Some(row) = row else { continue };
            let threads = threads_on(report, pair.threads);
            let name = format!(
                "{}, {threads}, {role} ({})",
                pair.test,
                report.engines.engine(role).called()
            );
            let judged = match measured(row) {
                Some((m, format)) => {
                    let (median, interval) = m.written(format);
                    Judged::PassedWith(format!("{median} ({interval})"))
                }
                None => Judged::Skipped(number::NOT_MEASURED.to_owned()),
            };
            add(&mut suite, &name, judged);
            if let Some(case) = suite.test_cases.last_mut() {
                case.time = repetition(row);
            }
        }
    }
    suite.time = took(report, Source::Timing, None, None);
    (!suite.test_cases.is_empty()).then_some(suite)
}

/// What one repetition took: by the driver's clock, else what the engine measured.
fn repetition(row: &BenchRow) -> Option<Duration> {
    let ms = row.driver_ms.or(row.ms.as_ref().map(|ms| ms.median));
    seconds(ms? / 1e3)
}

fn generation(report: &Report, facts: &Facts<'_>) -> TestSuite {
    let mut suite = TestSuite::new("generation");
    for generated in &facts.generations {
        let judged = match generated.state {
            State::Pass => Judged::Passed,
            State::Plain => Judged::PassedWith(generated.sentence.clone()),
            State::Fail if generated.contradicts => {
                Judged::Failed(generated.sentence.clone(), Vec::new())
            }
            State::Fail => match excuse(report, |known| known.tap == "generation") {
                Some(why) => Judged::PassedWith(format!("{}\n{why}", generated.sentence)),
                None => Judged::Failed(generated.sentence.clone(), Vec::new()),
            },
        };
        add(&mut suite, &format!("prompt {}", generated.prompt), judged);
        if let Some(case) = suite.test_cases.last_mut() {
            case.time = took(report, Source::Generation, Some(generated.prompt), None);
        }
    }
    if facts.generations.is_empty() {
        let why = Judged::Skipped(number::NOT_MEASURED.to_owned());
        add(&mut suite, "greedy generation", why);
    }
    suite.time = took(report, Source::Generation, None, None);
    suite
}

/// The first matched known deviation that is meant, as a phrase.
fn excuse(report: &Report, meant: impl Fn(&KnownDeviation) -> bool) -> Option<String> {
    let mut matched = report
        .known
        .iter()
        .filter(|known| known.state == KnownState::Matched);
    let known = matched.find(|known| meant(known))?;
    Some(format!(
        "known deviation until {}: {} ({})",
        known.expires, known.reason, known.link
    ))
}

fn tokenizer(report: &Report) -> TestSuite {
    let mut suite = TestSuite::new("tokenizer");
    let skipped = |why: &str| Judged::Skipped(why.to_owned());
    let Some(parity) = &report.tokenizer else {
        add(
            &mut suite,
            "texts of the run",
            skipped(number::NOT_MEASURED),
        );
        return suite;
    };
    if let Some(why) = &parity.not_compared {
        add(&mut suite, "texts of the run", skipped(why));
        return suite;
    }
    let judge = |comparison: &TokenComparison| match comparison.difference() {
        Some(difference) => Judged::Failed(difference, Vec::new()),
        None => Judged::Passed,
    };
    for text in &parity.texts {
        add(&mut suite, &text.name(), judge(&text.comparison));
    }
    let generated = &parity.generated;
    let strings = match (generated.compared, generated.different) {
        (Some(1..), Some(0)) => Judged::Passed,
        (Some(compared @ 1..), Some(different)) => Judged::Failed(
            format!(
                "differ on {} of {}",
                number::count(different),
                number::plural(compared, "string")
            ),
            generated
                .first
                .iter()
                .filter_map(|text| {
                    let difference = text.comparison.difference()?;
                    Some(format!(
                        "string {} ({:?}): {difference}",
                        text.index, text.text
                    ))
                })
                .collect(),
        ),
        _ => skipped(number::NOT_MEASURED),
    };
    let name = format!("generated strings of seed {}", generated.seed);
    add(&mut suite, &name, strings);
    let pieces = match generated.different_pieces {
        Some(0) => Judged::Passed,
        Some(different) => Judged::Failed(
            format!("{} with another text", number::plural(different, "token")),
            generated
                .first_pieces
                .iter()
                .map(|p| format!("token {}: {:?}, {:?}", p.id, p.reference, p.candidate))
                .collect(),
        ),
        None => skipped(number::NOT_MEASURED),
    };
    add(&mut suite, "single tokens", pieces);
    suite
}

/// One case: the logits under other conditions.
fn conditions(report: &Report) -> TestSuite {
    let mut suite = TestSuite::new("conditions");
    let reasons = reasons_of_conditions(report);
    let compared = report
        .conditions
        .as_ref()
        .filter(|c| c.not_compared.is_none());
    let judged = match (reasons.split_first(), conditions_sentence(report)) {
        (Some((first, more)), _) => Judged::Failed(first.clone(), more.to_vec()),
        (None, Some(covered)) if compared.is_some() => Judged::PassedWith(covered),
        (None, why) => Judged::Skipped(why.unwrap_or_else(|| number::NOT_MEASURED.to_owned())),
    };
    add(&mut suite, "logits", judged);
    suite
}

/// The rows that are missing as skipped cases, and whether all are there.
fn coverage(report: &Report) -> TestSuite {
    let coverage = &report.coverage;
    let mut suite = TestSuite::new("coverage");
    let all = if coverage.missing.is_empty() && coverage.compared == coverage.expected {
        match coverage.expected {
            0 => Judged::Skipped("no rows were to be compared".to_owned()),
            _ => Judged::Passed,
        }
    } else {
        let message = format!(
            "{} of {} compared",
            number::count(coverage.compared),
            number::plural(coverage.expected, "row")
        );
        Judged::Failed(message, Vec::new())
    };
    add(&mut suite, "rows compared", all);
    let finite = if coverage.not_finite.is_empty() {
        match coverage.compared {
            0 => Judged::Skipped("no rows were compared".to_owned()),
            _ => Judged::Passed,
        }
    } else {
        let message = "values that are NaN or infinite".to_owned();
        Judged::Failed(message, coverage.not_finite.clone())
    };
    add(&mut suite, "finite values", finite);
    for row in &coverage.missing {
        add(&mut suite, row, Judged::Skipped("missing".to_owned()));
    }
    for (engine, taps) in &coverage.not_offered {
        for tap in taps {
            add(
                &mut suite,
                tap,
                Judged::Skipped(format!("not offered by {engine}")),
            );
        }
    }
    suite
}

fn gate(gate: &Gate, rows: Option<(u64, u64)>) -> TestSuite {
    let mut suite = TestSuite::new("gate");
    if let Some(rows) = rows {
        let judged = if rows.0 < rows.1 {
            Judged::Failed(Gate::rows_sentence(rows), Vec::new())
        } else {
            Judged::Passed
        };
        add(&mut suite, "no fewer rows than the baseline", judged);
    }
    for series in &gate.series {
        let sentence = series_sentence(series);
        let judged = match series.result {
            GateResult::Pass => Judged::Passed,
            GateResult::Improved | GateResult::NotConfirmed => Judged::PassedWith(sentence),
            GateResult::Regressed => Judged::Failed(sentence, Vec::new()),
            GateResult::NotRepeated
            | GateResult::TooFewSamples
            | GateResult::TooNoisy
            | GateResult::NoBaseline
            | GateResult::NotMeasured
            | GateResult::MachineChanged
            | GateResult::Undecided
            | GateResult::ReferenceChanged
            | GateResult::BothSlower => Judged::Skipped(sentence),
        };
        add(&mut suite, &series.name(), judged);
    }
    if gate.series.is_empty() {
        let why = match (rows, gate.reasons.as_slice()) {
            (_, reasons @ [_, ..]) if rows.is_none() || !gate.changed.is_empty() => {
                reasons.join("; ")
            }
            _ => "no speed was held against the baseline".to_owned(),
        };
        add(&mut suite, "speed", Judged::Skipped(why));
    }
    suite
}

/// The oracle on rows of each engine.
fn spot_check(report: &Report) -> Option<TestSuite> {
    let check = report.spot_check.as_ref()?;
    let mut suite = TestSuite::new("spot check");
    for (role, engine) in report.engines.by_role() {
        let wrong = check.wrong.iter().filter(|w| w.engine == role.name());
        let wrong: Vec<String> = wrong
            .map(|w| {
                let place = stage(w.judgement.layer, &w.judgement.tap);
                let found = w.judgement.findings.join("; ");
                format!(
                    "prompt {}, position {}, {place}: {found}",
                    w.prompt, w.position
                )
            })
            .collect();
        let judged = match &check.not_judged {
            _ if !wrong.is_empty() => {
                let n = number::plural(wrong.len() as u64, "stage");
                Judged::Failed(format!("the oracle finds {n} wrong"), wrong)
            }
            Some(why) => Judged::Skipped(why.clone()),
            None => Judged::Passed,
        };
        add(&mut suite, &format!("{role} ({})", engine.called()), judged);
    }
    Some(suite)
}

fn engines(engines: &Engines) -> TestSuite {
    let mut suite = TestSuite::new("engines");
    for (role, engine) in engines.by_role() {
        let log = engine.failure.iter().flat_map(|failure| &failure.log_tail);
        let judged = match failure(role, engine) {
            Some(sentence) => Judged::Errored(sentence, log.cloned().collect()),
            None => Judged::Passed,
        };
        add(&mut suite, &format!("{role} ({})", engine.called()), judged);
    }
    suite
}

fn verdict(report: &Report, facts: &Facts<'_>) -> TestSuite {
    let mut suite = TestSuite::new("verdict");
    let headline = facts.verdict.headline.clone();
    let reasons = report.verdict.reasons.clone();
    let judged = match report.verdict.status {
        Status::Error => Judged::Errored(headline, reasons),
        Status::Pass if report.verdict.exit_code == 0 => Judged::PassedWith(headline),
        _ => Judged::Failed(headline, reasons),
    };
    add(&mut suite, "verdict", judged);
    suite
}
