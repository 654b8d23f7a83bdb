//! What the contents of a report come to, whatever its verdict says: a pass that its own tables do not bear out is none.

use reports::model::{
    Amplified, Coverage, Finding, FurtherReference, Generation, KnownDeviation, KnownState, Mode,
    Report, Role, Source, Status, TapResult, TapStats,
};
use reports::number;
use reports::outcome::Outcome;

use crate::known;
use crate::session::loaded::failure;

/// Name of the tap.
const LOGITS: &str = "logits";

/// What is wrong with a report by its contents, if it passes by what it `states`. One that does not pass says what it says.
pub fn unsaid(report: &Report, stated: &[Finding]) -> Vec<Finding> {
    match Outcome::worst_of(stated.iter().map(|finding| finding.outcome)) {
        Outcome::Pass => contents(report),
        _ => Vec::new(),
    }
}

fn contents(report: &Report) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    let of_engines = report.engines.by_role().into_iter();
    findings.extend(of_engines.filter_map(|(role, engine)| failure(role, engine)));
    if report.not_compared.is_none() {
        findings.extend(coverage(&report.coverage));
    }
    findings.extend(taps(report));
    let generations = report.generation.iter();
    let generations = generations.flat_map(|g| [g].into_iter().chain(&g.further));
    findings.extend(generations.flat_map(|g| generation(g, &report.known)));
    findings.extend(conditions(report));
    findings.extend(tokenizers(report));
    findings.extend(oracle(report));
    findings.extend(timed(report));
    findings.extend(perplexity(report));
    findings.extend(report.known.iter().filter_map(known::finding));
    findings.extend(report.further.iter().filter_map(further));
    findings.extend(verdict(report, &findings));
    for finding in &mut findings {
        finding.text = format!("the verdict hides that {}", finding.text);
    }
    findings
}

fn found(outcome: Outcome, source: Source, text: String) -> Finding {
    Finding {
        outcome,
        source,
        place: None,
        text,
    }
}

/// Whether a known deviation that occurred excuses something.
fn excused(known: &[KnownDeviation], of: impl Fn(&KnownDeviation) -> bool) -> bool {
    let mut matched = known.iter().filter(|k| k.state == KnownState::Matched);
    matched.any(of)
}

fn is_of_logits(known: &KnownDeviation) -> bool {
    known.tap == LOGITS && known.mode != Some(Mode::Isolated)
}

fn coverage(coverage: &Coverage) -> Option<Finding> {
    let lists = [&coverage.missing, &coverage.not_finite, &coverage.vacuous];
    let first = lists.into_iter().flatten().next();
    let (expected, compared) = (coverage.expected, coverage.compared);
    if expected > 0 && compared >= expected && first.is_none() {
        return None;
    }
    let first = first.map_or(String::new(), |first| {
        format!("; the first missing: {first}")
    });
    let text = format!("{compared} of {expected} rows were compared{first}");
    Some(found(Outcome::Incomplete, Source::Coverage, text))
}

fn taps(report: &Report) -> Option<Finding> {
    let beyond = |tap: &TapResult| {
        let excused = |mode: Mode| {
            excused(&report.known, |known| {
                known.tap == tap.tap
                    && known.layer.is_none_or(|layer| Some(layer) == tap.layer)
                    && known.mode.is_none_or(|known| known == mode)
            })
        };
        let mut modes = tap.modes();
        modes.any(|(mode, stats)| fails(stats) && !excused(mode))
    };
    let mut beyond = report.taps.iter().filter(|tap| beyond(tap));
    let first = beyond.next()?;
    let layer = first
        .layer
        .map_or(String::new(), |l| format!("layer {l}, "));
    let text = format!(
        "{} beyond the limit; the first: {layer}{} of prompt {}",
        number::plural(1 + beyond.count() as u64, "tap"),
        first.tap,
        first.prompt
    );
    Some(found(Outcome::Parity, Source::Taps, text))
}

/// By what it says, or by its figures.
fn fails(stats: &TapStats) -> bool {
    let beyond = |limit: f64| {
        let shares = [stats.head_share, stats.element_share];
        let parts = shares.into_iter().flatten().any(|share| share > 1.0);
        stats.nmse.is_none_or(|nmse| nmse > limit) || parts
    };
    match stats.pass {
        Some(pass) => {
            let spoken_for =
                stats.allowed.is_some() || stats.amplified.as_ref().is_some_and(speaks);
            !pass || !spoken_for && stats.limit.is_some_and(beyond)
        }
        None => false,
    }
}

/// Whether it shows that rows beyond a limit are no fault.
fn speaks(amplified: &Amplified) -> bool {
    amplified.nmse.is_some() && amplified.stages > 0 || amplified.within()
}

fn generation(generation: &Generation, known: &[KnownDeviation]) -> Vec<Finding> {
    let prompt = generation.prompt;
    let excused = excused(known, |known| {
        known.tap == known::GENERATION || is_of_logits(known)
    });
    let mut findings = Vec::new();
    let mut find = |outcome, text| findings.push(found(outcome, Source::Generation, text));
    let parted = match &generation.first_mismatch {
        Some(mismatch) => !mismatch.near_tie,
        None => generation.reference != generation.candidate,
    };
    if parted && !excused {
        let text = format!("the engines generated different tokens from prompt {prompt}");
        find(Outcome::Parity, text);
    }
    for check in &generation.checks {
        let role = check.role;
        let n = role.of(&generation.reference, &generation.candidate).len();
        if n != check.expected || check.checked < n || check.compared < check.comparable {
            let text = format!(
                "not every token that the {role} was to generate from prompt {prompt} was checked"
            );
            find(Outcome::Incomplete, text);
        }
        let within = check.beyond.is_empty() || check.amplified.as_ref().is_some_and(speaks);
        if !(check.contradicted.is_empty() && within || excused) {
            let text = format!(
                "tokens that the {role} generated from prompt {prompt} do not follow from the logits"
            );
            find(Outcome::Parity, text);
        }
    }
    findings
}

fn conditions(report: &Report) -> Option<Finding> {
    // Where those of the prompts are known to differ, so do others.
    if excused(&report.known, is_of_logits) {
        return None;
    }
    let compared = report.conditions.iter().flat_map(|c| &c.compared);
    let fails = compared.filter(|c| !c.pass || c.rows < c.expected);
    let n = fails.count() as u64;
    let text = format!(
        "the logits differ, or were not compared, in {}",
        number::plural(n, "other condition")
    );
    (n > 0).then(|| found(Outcome::Parity, Source::Conditions, text))
}

fn timed(report: &Report) -> Option<Finding> {
    let bench = report.bench.as_ref()?;
    let mut all = bench.tokens_reproduced.values();
    let mut of_tests = bench.tokens.iter();
    let others = all.any(|same| !same)
        || of_tests.any(|test| !(test.reference_reproduced && test.candidate_reproduced));
    let text = "an engine generated other tokens while it was timed than before".to_owned();
    others.then(|| found(Outcome::Parity, Source::Timing, text))
}

fn perplexity(report: &Report) -> Option<Finding> {
    let perplexity = report.perplexity.as_ref()?;
    let outcome = match (perplexity.reference, perplexity.candidate) {
        (Some(_), Some(_)) => return None,
        (None, None) => Outcome::Incomplete,
        _ => Outcome::Parity,
    };
    let text = "a perplexity is not finite".to_owned();
    Some(found(outcome, Source::Perplexity, text))
}

fn further(further: &FurtherReference) -> Option<Finding> {
    let reference = &further.reference;
    let (outcome, why) = match (&further.report, &further.not_compared) {
        (Some(report), _) => {
            let stated = report.findings();
            let unsaid = unsaid(report, &stated);
            let all = || stated.iter().chain(&unsaid);
            let worst = Outcome::worst_of(all().map(|finding| finding.outcome));
            let first = all().find(|finding| finding.outcome != Outcome::Pass)?;
            (worst, first.text.clone())
        }
        (None, why) => (
            Outcome::Incomplete,
            why.clone().unwrap_or("it was not compared".to_owned()),
        ),
    };
    Some(found(
        outcome,
        Source::Reference,
        format!("against {reference}: {why}"),
    ))
}

fn tokenizers(report: &Report) -> Option<Finding> {
    let tokens = report.tokenizer.as_ref()?;
    let generated = &tokens.generated;
    let counted = [generated.different, generated.different_pieces];
    let differ =
        tokens.first_difference().is_some() || counted.into_iter().flatten().any(|n| n > 0);
    let text = "the tokenizers differ".to_owned();
    differ.then(|| found(Outcome::Parity, Source::Tokenizer, text))
}

fn oracle(report: &Report) -> Vec<Finding> {
    let check = report.spot_check.iter();
    let wrong = check.flat_map(|check| &check.wrong);
    let unexcused = wrong.filter(|wrong| {
        let judged = &wrong.judgement;
        !excused(&report.known, |known| known.tap == judged.tap)
    });
    let engines = Role::BOTH.map(|role| role.name());
    let engines = engines.into_iter().filter(|&engine| {
        let mut wrong = unexcused.clone();
        wrong.any(|wrong| wrong.engine == engine)
    });
    let text = |engine| format!("the oracle finds the {engine} wrong");
    let found = |engine| found(Outcome::Parity, Source::Oracle, text(engine));
    engines.map(found).collect()
}

/// A verdict that contradicts itself, where nothing else is wrong. What a gate before made of it is not its own.
fn verdict(report: &Report, wrong: &[Finding]) -> Option<Finding> {
    if !wrong.is_empty() {
        return None;
    }
    let status = match report.gate {
        Some(_) => Status::Pass,
        None => report.verdict.status,
    };
    let (outcome, text) = match status {
        Status::Pass if report.verdict.first_divergence.is_none() => return None,
        Status::Pass if excused(&report.known, |_| true) => return None,
        Status::Pass => (Outcome::Parity, "the engines differ by more than the limit"),
        Status::Fail => (Outcome::Parity, "the run failed"),
        Status::Incomplete => (Outcome::Incomplete, "the run is incomplete"),
        Status::Error => (Outcome::Engine, "the run could not be carried out"),
    };
    Some(found(outcome, Source::Unknown, text.to_owned()))
}
