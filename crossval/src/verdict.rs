//! What came of a run: the one place where red is decided.

use std::cmp::Reverse;

use reports::model::{
    AtFault, Bench, BenchTokens, Coverage, Divergence, Generation, KnownDeviation, Mode,
    Perplexity, Status, TokenParity, Verdict,
};
use reports::number;
use reports::outcome::Outcome;

use crate::compare::site::Site;
use crate::compare::tap::Exceeded;
use crate::known::{complaint, excuses_generation, excuses_site};

/// Everything that can make a run other than a pass.
#[derive(Debug)]
pub struct Findings<'a> {
    /// Engines that failed: one sentence each.
    pub failures: Vec<String>,
    /// Taps with a row over its limit, in the order of the forward pass.
    pub exceeded: Vec<(Site, &'a Exceeded)>,
    /// Greedy generation, if it was asked for.
    pub generation: Option<&'a Generation>,
    /// Expected and compared rows.
    pub coverage: &'a Coverage,
    /// Taps that the profile requires and an engine does not offer.
    pub required_not_compared: Vec<String>,
    /// Places where the reference's two runs differ.
    pub not_repeatable: &'a [String],
    /// How an engine that must not differ from itself does.
    pub candidate_noise: Vec<String>,
    /// Tokens of a text to be scored, and what came of it, if one was given.
    pub text: Option<(usize, Option<&'a Perplexity>)>,
    /// Timings, if they were asked for.
    pub bench: Option<&'a Bench>,
    /// Both tokenizers on the same texts.
    pub tokens: &'a TokenParity,
    /// Names of the reference and the candidate.
    pub engines: [&'a str; 2],
    /// Known deviations, and whether they occurred.
    pub known: &'a [KnownDeviation],
}

/// Decides.
pub fn decide(findings: &Findings) -> Verdict {
    let mut reasons: Vec<(Outcome, String)> = Vec::new();
    for failure in &findings.failures {
        reasons.push((Outcome::Engine, failure.clone()));
    }
    reasons.extend(incompleteness(findings));
    let (known, unknown): (Vec<_>, Vec<_>) = findings
        .exceeded
        .iter()
        .copied()
        .partition(|(site, _)| excuses_site(findings.known, site));
    let first_unknown = first_divergence(&unknown);
    reasons.extend(disagreement(findings, &unknown, first_unknown.as_ref()));
    let first_divergence = first_unknown.or_else(|| first_divergence(&known));
    let differ = first_divergence.is_some() || excuses_generation(findings.known);
    conclude(reasons, first_divergence, differ)
}

/// Decides on engines that were timed and not compared. A pass says that everything was measured, and that each engine
/// generated the same tokens timed and untimed.
pub fn of_bench(failures: Vec<String>, bench: Option<&Bench>) -> Verdict {
    let mut reasons: Vec<(Outcome, String)> = Vec::new();
    let failures = failures.into_iter();
    reasons.extend(failures.map(|failure| (Outcome::Engine, failure)));
    let others = bench.into_iter().flat_map(not_reproduced);
    reasons.extend(others.map(|reason| (Outcome::Parity, reason)));
    if bench.is_none() && reasons.is_empty() {
        reasons.push((Outcome::Incomplete, "nothing was timed".to_owned()));
    }
    let fails = |role: &str| {
        let same = bench.and_then(|b| b.tokens_reproduced.get(role));
        same == Some(&false)
    };
    let mut verdict = conclude(reasons, None, false);
    if verdict.status == Status::Fail {
        verdict.at_fault = match (fails("reference"), fails("candidate")) {
            (true, true) => AtFault::Both,
            (true, false) => AtFault::Reference,
            _ => AtFault::Candidate,
        };
    }
    verdict
}

/// Adds what else was found, most severe first; sorts it so, too.
pub fn add(verdict: &mut Verdict, found: &mut [(Outcome, String)]) {
    found.sort_by_key(|(outcome, _)| Reverse(outcome.severity()));
    let before = Outcome::of_exit_code(verdict.exit_code);
    let outcome = found
        .iter()
        .fold(before, |worst, &(outcome, _)| worst.worst(outcome));
    let more = found.iter().map(|(_, reason)| reason.clone());
    if found
        .first()
        .is_some_and(|(first, _)| first.severity() > before.severity())
    {
        verdict.reasons = more.chain(verdict.reasons.drain(..)).collect();
    } else {
        verdict.reasons.extend(more);
    }
    set(verdict, outcome);
}

/// What it comes to, whatever the reasons.
pub fn set(verdict: &mut Verdict, outcome: Outcome) {
    (verdict.status, verdict.exit_code) = (status(outcome), outcome.exit_code());
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

fn conclude(
    reasons: Vec<(Outcome, String)>,
    first_divergence: Option<Divergence>,
    differ: bool,
) -> Verdict {
    let outcome = reasons
        .iter()
        .fold(Outcome::Pass, |worst, &(outcome, _)| worst.worst(outcome));
    Verdict {
        status: status(outcome),
        exit_code: outcome.exit_code(),
        reasons: reasons.into_iter().map(|(_, reason)| reason).collect(),
        // Agreement as far as an incomplete run went clears nobody, and nothing arbitrates a difference.
        at_fault: if outcome == Outcome::Pass && !differ {
            AtFault::None
        } else {
            AtFault::Undetermined
        },
        first_divergence,
    }
}

fn incompleteness(findings: &Findings) -> Vec<(Outcome, String)> {
    let mut reasons = Vec::new();
    let Coverage {
        expected,
        compared,
        missing,
        not_finite,
        ..
    } = findings.coverage;
    if *expected == 0 {
        reasons.push("nothing was to be compared: the engines have no tap in common".to_owned());
    } else if let Some(first) = missing.first() {
        reasons.push(format!(
            "{compared} of {expected} rows were compared; the first missing: {first}"
        ));
    }
    if let Some(first) = not_finite.first() {
        reasons.push(format!("values that are NaN or infinite in {first}"));
    }
    if let Some((expected, perplexity)) = findings.text
        && findings.failures.is_empty()
    {
        let scored = perplexity.map_or(0, |p| p.tokens);
        let finite = perplexity.is_some_and(|p| p.reference.is_some() && p.candidate.is_some());
        if scored < expected {
            reasons.push(format!(
                "{scored} of {expected} tokens of the text were scored"
            ));
        } else if !finite {
            reasons.push("the perplexity of the text is not finite".to_owned());
        }
    }
    if !findings.required_not_compared.is_empty() {
        reasons.push(format!(
            "required by the profile and not offered by an engine: {}",
            findings.required_not_compared.join(", ")
        ));
    }
    if let Some(first) = findings.not_repeatable.first() {
        reasons.push(format!(
            "the reference does not repeat itself in {}; the first: {first}",
            number::plural(findings.not_repeatable.len() as u64, "tap")
        ));
    }
    reasons
        .into_iter()
        .map(|r| (Outcome::Incomplete, r))
        .collect()
}

fn disagreement(
    findings: &Findings,
    unknown: &[(Site, &Exceeded)],
    first: Option<&Divergence>,
) -> Vec<(Outcome, String)> {
    let mut reasons = Vec::new();
    if let Some(first) = first {
        let layer = first
            .layer
            .map_or(String::new(), |l| format!("layer {l}, "));
        let nmse = first
            .nmse
            .map_or(number::NOT_FINITE.to_owned(), number::error);
        reasons.push(format!(
            "{} beyond the limit; the first: {layer}{} of prompt {} at position {}, NMSE {nmse}, \
             limit {}",
            number::plural(unknown.len() as u64, "tap"),
            first.tap,
            first.prompt,
            first.position,
            number::error(first.limit)
        ));
    }
    let generations = findings
        .generation
        .into_iter()
        .flat_map(|g| [g].into_iter().chain(&g.further));
    for generation in generations {
        if let Some(m) = &generation.first_mismatch
            && !m.near_tie
            && !excuses_generation(findings.known)
        {
            reasons.push(format!(
                "generation from prompt {} differs at token {}, and that is no near tie of the logits there",
                generation.prompt, m.index
            ));
        }
    }
    for noise in &findings.candidate_noise {
        reasons.push(format!("the candidate differs from itself, {noise}"));
    }
    reasons.extend(findings.bench.into_iter().flat_map(not_reproduced));
    if let Some(first) = findings.tokens.first_difference() {
        let [reference, candidate] = findings.engines;
        reasons.push(format!(
            "the tokenizers of {reference} and {candidate} differ; the first: {first}"
        ));
    }
    reasons.extend(findings.known.iter().filter_map(complaint));
    reasons.into_iter().map(|r| (Outcome::Parity, r)).collect()
}

/// Engines that generated other tokens while they were timed than untimed.
fn not_reproduced(bench: &Bench) -> Vec<String> {
    let mut reasons = Vec::new();
    for (role, _) in bench.tokens_reproduced.iter().filter(|(_, same)| !**same) {
        let differs = |t: &&BenchTokens| match role.as_str() {
            "reference" => !t.reference_reproduced,
            _ => !t.candidate_reproduced,
        };
        let place = bench
            .tokens
            .iter()
            .find(differs)
            .map_or(String::new(), |t| {
                let threads = number::plural(t.threads as u64, "thread");
                format!("; the first: {} at {threads}", t.test)
            });
        reasons.push(format!(
            "the {role} generated other tokens while it was timed than before{place}"
        ));
    }
    reasons
}

/// The earliest by position, then by the order of the forward pass; isolated before cumulative, since it shows
/// where an error is made.
fn first_divergence(exceeded: &[(Site, &Exceeded)]) -> Option<Divergence> {
    let (site, row) = exceeded.iter().min_by_key(|(site, row)| {
        (
            site.mode != Mode::Isolated,
            site.prompt,
            row.position,
            *site,
        )
    })?;
    Some(Divergence {
        prompt: site.prompt,
        position: row.position,
        layer: site.layer,
        tap: site.tap.to_string(),
        mode: site.mode,
        element: row.at.element,
        reference: row.at.reference,
        candidate: row.at.candidate,
        oracle: None,
        nmse: row.nmse,
        limit: row.limit,
        hint: None,
        arbitration: None,
    })
}

#[cfg(test)]
mod tests {
    use bitnet_model::tap::Tap;
    use reports::model::{ElementAt, GeneratedTexts, GenerationMismatch, PieceDifference};

    use super::*;

    fn complete() -> Coverage {
        Coverage {
            expected: 10,
            compared: 10,
            ..Coverage::default()
        }
    }

    static NOT_COMPARED: TokenParity = TokenParity {
        fed: None,
        not_compared: None,
        texts: Vec::new(),
        generated: GeneratedTexts {
            seed: 0,
            compared: None,
            different: None,
            first: Vec::new(),
            different_pieces: None,
            first_pieces: Vec::new(),
        },
    };

    fn findings(coverage: &Coverage) -> Findings<'_> {
        Findings {
            failures: Vec::new(),
            exceeded: Vec::new(),
            generation: None,
            coverage,
            required_not_compared: Vec::new(),
            not_repeatable: &[],
            candidate_noise: Vec::new(),
            text: None,
            bench: None,
            tokens: &NOT_COMPARED,
            engines: ["bitnet.cpp", "rust"],
            known: &[],
        }
    }

    fn site(mode: Mode, layer: usize, tap: Tap) -> Site {
        Site {
            prompt: 0,
            tap,
            layer: Some(layer),
            mode,
        }
    }

    fn row(position: usize) -> Exceeded {
        Exceeded {
            position,
            at: ElementAt {
                position,
                element: 3,
                reference: Some(1.0),
                candidate: Some(2.0),
            },
            nmse: Some(0.5),
            limit: 1e-12,
        }
    }

    #[test]
    fn nothing_wrong_is_a_pass() {
        let coverage = complete();
        let verdict = decide(&findings(&coverage));
        assert_eq!((verdict.status, verdict.exit_code), (Status::Pass, 0));
        assert!(verdict.reasons.is_empty() && verdict.at_fault == AtFault::None);
    }

    #[test]
    fn nothing_compared_is_never_a_pass() {
        let coverage = Coverage::default();
        let verdict = decide(&findings(&coverage));
        assert_eq!(
            (verdict.status, verdict.exit_code),
            (Status::Incomplete, 20)
        );
    }

    #[test]
    fn a_missing_row_is_incomplete_even_beside_a_failure_to_agree() {
        let mut coverage = complete();
        coverage.compared = 9;
        coverage.missing = vec!["isolated, prompt 0, layer 1, q, positions 3..4".into()];
        let row = row(0);
        let mut findings = findings(&coverage);
        findings.exceeded = vec![(site(Mode::Isolated, 1, Tap::Q), &row)];
        let verdict = decide(&findings);
        assert_eq!(
            (verdict.status, verdict.exit_code),
            (Status::Incomplete, 20)
        );
        assert_eq!(verdict.reasons.len(), 2);
        assert!(verdict.first_divergence.is_some());
    }

    #[test]
    fn what_is_not_finite_was_not_compared() {
        let mut coverage = complete();
        coverage.not_finite = vec!["isolated, prompt 0, layer 1, q, positions 3..4".into()];
        let verdict = decide(&findings(&coverage));
        assert_eq!(
            (verdict.status, verdict.exit_code),
            (Status::Incomplete, 20)
        );
        assert!(verdict.reasons[0].contains("layer 1, q"));
    }

    #[test]
    fn the_first_divergence_is_the_earliest_isolated_one() {
        let coverage = complete();
        let (early, late) = (row(2), row(5));
        let mut findings = findings(&coverage);
        findings.exceeded = vec![
            (site(Mode::Cumulative, 0, Tap::Q), &early),
            (site(Mode::Isolated, 1, Tap::FfnAct), &late),
            (site(Mode::Isolated, 4, Tap::KRope), &early),
            (site(Mode::Isolated, 4, Tap::QRope), &early),
        ];
        let verdict = decide(&findings);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Fail, 10));
        let first = verdict.first_divergence.unwrap();
        assert_eq!(
            (first.tap.as_str(), first.layer, first.position),
            ("q_rope", Some(4), 2)
        );
        assert_eq!(verdict.at_fault, AtFault::Undetermined);
    }

    #[test]
    fn generation_fails_unless_it_is_a_near_tie() {
        let coverage = complete();
        for (near_tie, exit_code) in [(true, 0), (false, 10)] {
            let generation = Generation {
                prompt: 0,
                reference: vec![1, 2],
                candidate: vec![1, 3],
                reference_text: None,
                candidate_text: None,
                first_mismatch: Some(GenerationMismatch {
                    index: 1,
                    reference: Some(2),
                    candidate: Some(3),
                    margin: Some(0.1),
                    max_logit_difference: Some(0.2),
                    near_tie,
                }),
                further: Vec::new(),
            };
            let mut findings = findings(&coverage);
            findings.generation = Some(&generation);
            assert_eq!(decide(&findings).exit_code, exit_code);
        }
    }

    #[test]
    fn tokenizers_that_differ_fail_and_blame_nobody() {
        let coverage = complete();
        let mut tokens = NOT_COMPARED.clone();
        tokens.generated.different_pieces = Some(1);
        tokens.generated.first_pieces = vec![PieceDifference {
            id: 9,
            reference: " a".into(),
            candidate: "a".into(),
        }];
        let mut findings = findings(&coverage);
        findings.tokens = &tokens;
        let verdict = decide(&findings);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Fail, 10));
        assert_eq!(verdict.at_fault, AtFault::Undetermined);
        let [reason] = &verdict.reasons[..] else {
            panic!("{:?}", verdict.reasons)
        };
        assert!(reason.contains("of bitnet.cpp and rust differ"), "{reason}");
        assert!(reason.contains("token 9 by itself"), "{reason}");
    }

    #[test]
    fn an_engine_that_generates_other_tokens_while_timed_is_at_fault() {
        let tokens = BenchTokens {
            threads: 2,
            test: "tg64".into(),
            count: 65,
            reference: "0".into(),
            candidate: "0".into(),
            first_mismatch: None,
            reference_reproduced: true,
            candidate_reproduced: true,
        };
        let mut bench = Bench {
            repetitions: 1,
            rows: Vec::new(),
            ratios: Vec::new(),
            memory: Vec::new(),
            tokens_reproduced: [("reference".into(), true), ("candidate".into(), true)].into(),
            tokens: vec![tokens],
            roofline: Vec::new(),
            work: None,
            notes: Vec::new(),
            compact_heads: Vec::new(),
            kernels: Vec::new(),
        };
        let verdict = of_bench(Vec::new(), Some(&bench));
        assert_eq!((verdict.status, verdict.exit_code), (Status::Pass, 0));
        // That the engines differ from each other is no failure of a benchmark.
        bench.tokens[0].first_mismatch = Some(3);
        assert_eq!(of_bench(Vec::new(), Some(&bench)).exit_code, 0);
        bench.tokens[0].candidate_reproduced = false;
        bench.tokens_reproduced.insert("candidate".into(), false);
        let verdict = of_bench(Vec::new(), Some(&bench));
        assert_eq!((verdict.status, verdict.exit_code), (Status::Fail, 10));
        assert_eq!(verdict.at_fault, AtFault::Candidate);
        assert!(verdict.reasons[0].ends_with("the first: tg64 at 2 threads"));
        let verdict = of_bench(vec!["rust died with SIGSEGV".into()], None);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Error, 30));
        assert_eq!(of_bench(Vec::new(), None).exit_code, 20);
    }

    #[test]
    fn a_dead_engine_outranks_what_it_left_undone() {
        let mut coverage = complete();
        coverage.missing = vec!["x".into()];
        let mut findings = findings(&coverage);
        findings.failures = vec!["bitnet.cpp died with SIGSEGV while loading".into()];
        let verdict = decide(&findings);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Error, 30));
        assert!(verdict.reasons[0].contains("SIGSEGV"));
    }
}
