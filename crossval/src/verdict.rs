//! What came of a run: the one place where red is decided. Whoever looks for something returns findings; here they are
//! concluded from.

use std::cmp::Reverse;

use reports::model::{AtFault, Divergence, Finding, Report, Role, Source, Status, Verdict};
use reports::outcome::Outcome;

use crate::interrupt::{self, Interruption};

/// What a comparison of values shows beside its findings.
#[derive(Debug, Default)]
pub struct Compared {
    /// The earliest place where the engines differ by more than the limit, excused or not.
    pub first_divergence: Option<Divergence>,
    /// Whether the engines differ anywhere, excused or not.
    pub differ: bool,
    /// The engine that the oracle finds wrong, if it was asked.
    pub ruling: Option<AtFault>,
}

/// Decides what came of a run. `compared` is `None` if no values were compared. At fault is whom the oracle or a finding
/// names.
pub fn conclude(findings: Vec<Finding>, compared: Option<Compared>) -> Verdict {
    let ruling = compared.as_ref().and_then(|compared| compared.ruling);
    let at_fault = named(&findings, ruling).or_else(|| ruling.filter(|_| settled(&findings)));
    let differ = compared.as_ref().is_some_and(|compared| compared.differ);
    let of_engine = |f: &&Finding| f.source != Source::ModelFile && f.outcome != Outcome::Pass;
    let mut of_engines = findings.iter().filter(of_engine);
    // Agreement as far as an incomplete run went clears nobody, and nothing arbitrates a difference.
    let unsettled = match of_engines.next() {
        None if !differ => AtFault::None,
        _ => AtFault::Undetermined,
    };
    let mut verdict = Verdict {
        status: Status::Pass,
        exit_code: 0,
        reasons: Vec::new(),
        findings: Vec::new(),
        at_fault: at_fault.unwrap_or(unsettled),
        first_divergence: compared.and_then(|compared| compared.first_divergence),
    };
    revise(&mut verdict, findings);
    verdict
}

/// Concludes again, from other findings. Which engine is wrong does not depend on what changes later: a baseline, a signal.
pub fn revise(verdict: &mut Verdict, mut findings: Vec<Finding>) {
    findings.sort_by_key(|finding| Reverse(finding.outcome.severity()));
    let outcome = Outcome::worst_of(findings.iter().map(|finding| finding.outcome));
    verdict.status = status(outcome);
    verdict.exit_code = outcome.exit_code();
    verdict.reasons = findings.iter().map(|f| f.text.clone()).collect();
    verdict.findings = findings;
}

/// Concludes again, with what else was found.
pub fn add(report: &mut Report, more: impl IntoIterator<Item = Finding>) {
    let mut findings = report.findings().into_owned();
    findings.extend(more);
    revise(&mut report.verdict, findings);
}

/// Marks a report as what was there when a signal came: an engine that was ended for it has not failed.
pub fn interrupted(report: &mut Report, interruption: Interruption) {
    let mut findings = report.findings().into_owned();
    let mut during = None;
    for role in Role::BOTH {
        if let Some(failure) = report.engines.engine_mut(role).failure.take() {
            let of_failure = |f: &Finding| f.source == Source::Engine && f.role() == Some(role);
            findings.retain(|finding| !of_failure(finding));
            during.get_or_insert(failure.during);
        }
    }
    findings.push(Finding {
        outcome: interruption.outcome(),
        source: Source::Interruption,
        place: None,
        text: interrupt::sentence(interruption, during.as_deref()),
    });
    revise(&mut report.verdict, findings);
}

fn status(outcome: Outcome) -> Status {
    match outcome {
        Outcome::Pass => Status::Pass,
        Outcome::Parity | Outcome::Performance | Outcome::ParityAndPerformance => Status::Fail,
        Outcome::Incomplete | Outcome::NoBaseline | Outcome::Interrupted | Outcome::Terminated => {
            Status::Incomplete
        }
        _ => Status::Error,
    }
}

/// The engines that the oracle or parity findings name, if any does.
fn named(findings: &[Finding], ruling: Option<AtFault>) -> Option<AtFault> {
    let parity = findings.iter().filter(|f| f.outcome == Outcome::Parity);
    let named: Vec<Role> = parity.filter_map(Finding::role).collect();
    let ruled = |role: Role| {
        ruling == Some(AtFault::Both)
            || ruling == Some(role.of(AtFault::Reference, AtFault::Candidate))
    };
    match Role::BOTH.map(|role| named.contains(&role) || ruled(role)) {
        [true, true] => Some(AtFault::Both),
        [true, false] => Some(AtFault::Reference),
        [false, true] => Some(AtFault::Candidate),
        [false, false] => None,
    }
}

/// Whether the oracle, which judges a tap, has judged all that differs: tokens follow from the taps.
fn settled(findings: &[Finding]) -> bool {
    let mut parity = findings.iter().filter(|f| f.outcome == Outcome::Parity);
    parity.all(|f| matches!(f.source, Source::Taps | Source::Generation))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(outcome: Outcome, source: Source, role: Option<Role>, text: &str) -> Finding {
        Finding {
            outcome,
            source,
            place: role.map(Into::into),
            text: text.to_owned(),
        }
    }

    #[test]
    fn the_worst_stands_first_whoever_found_it() {
        let findings = vec![
            finding(Outcome::NoBaseline, Source::Gate, None, "gate"),
            finding(Outcome::Parity, Source::Taps, None, "taps"),
            finding(Outcome::Incomplete, Source::Coverage, None, "rows"),
            finding(Outcome::Parity, Source::Generation, None, "tokens"),
        ];
        let verdict = conclude(findings, Some(Compared::default()));
        assert_eq!(verdict.reasons, ["rows", "taps", "tokens", "gate"]);
        assert_eq!(
            (verdict.status, verdict.exit_code),
            (Status::Incomplete, 20)
        );
    }

    #[test]
    fn a_ruling_says_who_is_at_fault_and_nothing_else_clears_anybody() {
        let taps = || vec![finding(Outcome::Parity, Source::Taps, None, "taps")];
        let file = || {
            vec![finding(
                Outcome::Incomplete,
                Source::ModelFile,
                None,
                "file",
            )]
        };
        let at_fault = |findings, differ, ruling| {
            let compared = Compared {
                differ,
                ruling,
                ..Compared::default()
            };
            conclude(findings, Some(compared)).at_fault
        };
        let ruling = Some(AtFault::Reference);
        assert_eq!(at_fault(taps(), true, ruling), AtFault::Reference);
        assert_eq!(at_fault(taps(), true, None), AtFault::Undetermined);
        assert_eq!(at_fault(Vec::new(), true, None), AtFault::Undetermined);
        assert_eq!(at_fault(Vec::new(), false, None), AtFault::None);
        assert_eq!(at_fault(file(), false, None), AtFault::None);
    }

    #[test]
    fn at_fault_is_whom_the_oracle_or_a_finding_names() {
        let parity = |source, role| finding(Outcome::Parity, source, role, "x");
        let at_fault = |findings, ruling| {
            let compared = Compared {
                differ: true,
                ruling,
                ..Compared::default()
            };
            conclude(findings, Some(compared)).at_fault
        };
        let candidate = || parity(Source::Generation, Some(Role::Candidate));
        let reference = || parity(Source::Noise, Some(Role::Reference));
        let nobody = || parity(Source::Perplexity, None);
        let taps = || parity(Source::Taps, None);
        assert_eq!(at_fault(vec![candidate()], None), AtFault::Candidate);
        assert_eq!(
            at_fault(vec![nobody(), reference()], None),
            AtFault::Reference
        );
        assert_eq!(
            at_fault(vec![reference(), candidate()], None),
            AtFault::Both
        );
        for (ruling, want) in [
            (AtFault::Reference, AtFault::Both),
            (AtFault::Candidate, AtFault::Candidate),
            (AtFault::None, AtFault::Candidate),
            (AtFault::Undetermined, AtFault::Candidate),
        ] {
            assert_eq!(at_fault(vec![taps(), candidate()], Some(ruling)), want);
        }
        let none = Some(AtFault::None);
        assert_eq!(at_fault(vec![taps()], none), AtFault::None);
        assert_eq!(
            at_fault(vec![taps(), nobody()], none),
            AtFault::Undetermined
        );
        // Rows that one engine left out are no parity failure, and nothing about the other.
        let left_out = finding(
            Outcome::Incomplete,
            Source::Coverage,
            Some(Role::Candidate),
            "x",
        );
        assert_eq!(at_fault(vec![left_out], None), AtFault::Undetermined);
    }

    #[test]
    fn an_engine_that_was_ended_for_a_signal_has_not_failed() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/2b-4t.json");
        let mut report = reports::json::read(file.as_ref()).unwrap();
        let died = "rust was interrupted by SIGINT, while timing";
        report.engines.candidate.failure = Some(reports::model::EngineFailure {
            message: died.to_owned(),
            signal: Some("SIGKILL".to_owned()),
            exit_code: None,
            during: "timing".to_owned(),
            log_tail: Vec::new(),
            refused_model: false,
        });
        let findings = vec![
            finding(Outcome::Engine, Source::Engine, Some(Role::Candidate), died),
            // The same words, from elsewhere.
            finding(Outcome::Incomplete, Source::Coverage, None, died),
        ];
        report.verdict = conclude(findings, Some(Compared::default()));
        interrupted(&mut report, Interruption::TERMINATED);
        let verdict = &report.verdict;
        assert_eq!(report.engines.candidate.failure, None);
        assert_eq!(
            (verdict.status, verdict.exit_code),
            (Status::Incomplete, 143)
        );
        let said = ["interrupted by SIGTERM, while timing", died];
        assert_eq!(verdict.reasons, said);
        assert_eq!(verdict.at_fault, AtFault::Undetermined);
    }
}
