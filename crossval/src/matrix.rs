//! One candidate against several references: a comparison with each, and who agrees with whom, the oracle among them.
//!
//! The pairs that no comparison covers (two references, the oracle and each) are compared by logits and tokens alone, in
//! cumulative mode, on the tokens of the first comparison.

use reports::Report;
use reports::model::{Finding, FurtherReference, Generation, Matrix, MatrixPair, Mode, Source};
use reports::outcome::Outcome;

use crate::engine::EngineSpec;
use crate::error::Error;
use crate::interrupt;
use crate::known::Ledger;
use crate::parity::{self, Conditions, RunOptions, Scope, Texts};
use crate::progress::Progress;
use crate::session::prompts::PromptSource;
use crate::session::setup::Setup;
use crate::verdict;

/// Size of a model up to which the oracle, which takes its time, is one of the engines, bytes.
const SMALL: u64 = 64 << 20;

/// Compares the candidate with the reference of `options` and with `further` ones. The report is that of the first
/// comparison, with the others in it; its status and reasons are about all of them, who is at fault about the first.
///
/// # Errors
/// [`Error::Usage`] for a reference that is given twice; as [`parity::run`], of the first comparison. A further
/// reference that cannot be compared is part of the report.
pub fn run(
    options: &RunOptions,
    further: &[EngineSpec],
    progress: Progress<'_>,
) -> Result<Report, Error> {
    for (i, reference) in further.iter().enumerate() {
        if *reference == options.setup.reference || further[..i].contains(reference) {
            return Err(Error::option(
                "reference",
                format!("{reference} is given twice"),
            ));
        }
    }
    let mut report = parity::run(options, progress)?;
    if further.is_empty() {
        return Ok(report);
    }
    let mut findings = Vec::new();
    for reference in further {
        let options = against(options, reference);
        let one = further_reference(reference, parity_or_interrupted(&options, progress));
        findings.extend(finding(&one));
        report.further.push(one);
    }
    report.matrix = Some(matrix(options, further, &report, progress));
    verdict::add(&mut report, findings);
    Ok(report)
}

fn against(options: &RunOptions, reference: &EngineSpec) -> RunOptions {
    let mut options = options.clone();
    options.setup.reference = reference.clone();
    options
}

fn parity_or_interrupted(options: &RunOptions, progress: Progress<'_>) -> Result<Report, String> {
    match interrupt::received() {
        Some(_) => Err("the run was interrupted".to_owned()),
        None => parity::run(options, progress).map_err(|e| e.to_string()),
    }
}

fn further_reference(reference: &EngineSpec, result: Result<Report, String>) -> FurtherReference {
    let (report, not_compared) = match result {
        Ok(report) => (Some(Box::new(report)), None),
        Err(why) => (None, Some(why)),
    };
    FurtherReference {
        reference: reference.to_string(),
        report,
        not_compared,
    }
}

/// What a further comparison means for the verdict; `None` if it passed.
fn finding(further: &FurtherReference) -> Option<Finding> {
    let (outcome, why) = match (&further.report, &further.not_compared) {
        (Some(report), _) => {
            let verdict = &report.verdict;
            (verdict.outcome(), verdict.reasons.first()?.clone())
        }
        (None, why) => (Outcome::Incomplete, why.clone()?),
    };
    Some(Finding {
        outcome,
        source: Source::Reference,
        // The engines of the report are others: who is wrong stands in the comparison.
        place: None,
        text: format!("against {}: {why}", further.reference),
    })
}

fn matrix(
    options: &RunOptions,
    further: &[EngineSpec],
    report: &Report,
    progress: Progress<'_>,
) -> Matrix {
    let Setup {
        reference,
        candidate,
        ..
    } = &options.setup;
    let mut engines = vec![candidate, reference];
    engines.extend(further);
    if report.model.size_bytes <= SMALL && !engines.contains(&&EngineSpec::Oracle) {
        engines.push(&EngineSpec::Oracle);
    }
    let mut pairs = Vec::new();
    for (i, &b) in engines.iter().enumerate() {
        for &a in &engines[i + 1..] {
            let compared = match (i, a) {
                (0, a) if a == reference => Some(Ok(report)),
                (0, a) => {
                    let of = |one: &&FurtherReference| one.reference == a.to_string();
                    report.further.iter().find(of).map(|one| match &one.report {
                        Some(report) => Ok(&**report),
                        None => Err(one.not_compared.clone().unwrap_or_default()),
                    })
                }
                _ => None,
            };
            pairs.push(match compared {
                Some(Ok(report)) => pair(a, b, report),
                Some(Err(why)) => not_compared(a, b, why),
                None => match parity_or_interrupted(&of_two(options, report, a, b), progress) {
                    Ok(report) => pair(a, b, &report),
                    Err(why) => not_compared(a, b, why),
                },
            });
        }
    }
    Matrix {
        engines: engines.iter().map(ToString::to_string).collect(),
        pairs,
    }
}

/// By logits and tokens alone.
fn of_two(
    options: &RunOptions,
    report: &Report,
    reference: &EngineSpec,
    candidate: &EngineSpec,
) -> RunOptions {
    let prompts = report.inputs.prompts.iter();
    RunOptions {
        setup: Setup {
            reference: reference.clone(),
            candidate: candidate.clone(),
            ..options.setup.clone()
        },
        texts: Texts {
            prompts: prompts
                .map(|p| PromptSource::Tokens(p.tokens.clone()))
                .collect(),
            chat: false,
            text: None,
            strings: 0,
        },
        scope: Scope {
            modes: vec![Mode::Cumulative],
            spot_check: None,
            conditions: Conditions::None,
            ..options.scope.clone()
        },
        known: Ledger::default(),
        bench: false,
        ..options.clone()
    }
}

fn pair(a: &EngineSpec, b: &EngineSpec, report: &Report) -> MatrixPair {
    let logits = report.taps.iter().filter(|t| t.tap == "logits");
    let logits = logits.filter_map(|t| t.cumulative.as_ref());
    let worst = logits.max_by(|x, y| {
        // What is not finite is worst.
        let rank = |nmse: Option<f64>| nmse.unwrap_or(f64::INFINITY);
        rank(x.nmse).total_cmp(&rank(y.nmse))
    });
    let generations = report.generation.iter();
    let generations: Vec<&Generation> = generations
        .flat_map(|first| [first].into_iter().chain(&first.further))
        .collect();
    let tokens =
        (!generations.is_empty()).then(|| generations.iter().map(|g| g.candidate.len()).sum());
    let equal = |g: &&Generation| {
        let first = g.first_mismatch.as_ref();
        first.map_or(g.candidate.len(), |mismatch| mismatch.index)
    };
    MatrixPair {
        a: a.to_string(),
        b: b.to_string(),
        status: Some(report.verdict.status),
        logits_nmse: worst.and_then(|stats| stats.nmse),
        limit: worst.and_then(|stats| stats.limit),
        tokens_equal: tokens.map(|_: usize| generations.iter().map(equal).sum()),
        tokens,
        not_compared: None,
    }
}

fn not_compared(a: &EngineSpec, b: &EngineSpec, why: String) -> MatrixPair {
    MatrixPair {
        a: a.to_string(),
        b: b.to_string(),
        status: None,
        logits_nmse: None,
        limit: None,
        tokens_equal: None,
        tokens: None,
        not_compared: Some(why),
    }
}
