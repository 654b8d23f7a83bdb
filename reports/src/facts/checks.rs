//! What the logits say of generated tokens.

use crate::model::{Generation, GenerationCheck, KnownState, Mode, Report};
use crate::number;

/// Whether an engine generated what its own logits do not say, or not as much as was asked for.
pub(super) fn contradict(generation: &Generation) -> bool {
    let mut checks = generation.checks.iter();
    checks.any(|check| {
        let tokens = tokens(generation, check);
        !check.contradicted.is_empty() || check.checked < tokens || tokens != check.expected
    })
}

/// Whether the engines' logits before the tokens differ by more than they may, and no known deviation excuses that.
pub(super) fn beyond(generation: &Generation, report: &Report) -> bool {
    let excused = report.known.iter().any(|known| {
        let logits = known.tap == "logits" && known.mode != Some(Mode::Isolated);
        known.state == KnownState::Matched && (logits || known.tap == "generation")
    });
    let beyond = |check: &GenerationCheck| !check.beyond.is_empty();
    !excused && generation.checks.iter().any(beyond)
}

/// One sentence per thing that was found; of two right engines, that all is right.
pub(super) fn sentences(generation: &Generation) -> Vec<String> {
    let mut sentences: Vec<String> = generation
        .checks
        .iter()
        .flat_map(|check| of_check(generation, check))
        .collect();
    if sentences.is_empty() && !generation.checks.is_empty() {
        sentences.push("Every token follows from the logits of its own engine.".to_owned());
    }
    sentences
}

fn of_check(generation: &Generation, check: &GenerationCheck) -> Vec<String> {
    let role = check.role;
    let n = tokens(generation, check);
    let mut sentences = Vec::new();
    if n != check.expected {
        let expected = number::plural(check.expected as u64, "token");
        sentences.push(format!("The {role} generated {n} of {expected}."));
    }
    if let Some(first) = check.contradicted.first() {
        sentences.push(format!(
            "The {role} contradicts its own logits in {}; the first at index {}, where token {} is ahead of its {} by {}.",
            number::plural(check.contradicted.len() as u64, "token"),
            first.index,
            first.largest,
            first.token,
            number::significant(first.margin, 3)
        ));
    }
    if check.checked < n {
        sentences.push(format!(
            "{} of the {role}'s {} were held against its own logits.",
            check.checked,
            number::plural(n as u64, "token")
        ));
    }
    if let Some(first) = check.beyond.first() {
        sentences.push(format!(
            "{} of logits before the {role}'s tokens beyond the limit; the first before index {}.",
            number::plural(check.beyond.len() as u64, "row"),
            first.index
        ));
    }
    if check.compared < n {
        sentences.push(format!(
            "{} of logits before the {role}'s tokens not compared.",
            number::plural((n - check.compared) as u64, "row")
        ));
    }
    sentences
}

fn tokens(generation: &Generation, check: &GenerationCheck) -> usize {
    let tokens = check.role.of(&generation.reference, &generation.candidate);
    tokens.len()
}
