//! What a run finds, source by source, for the verdict.

use bitnet_model::tap::Tap;
use reports::model::{
    Coverage, Divergence, Finding, Generation, KnownDeviation, Mode, Perplexity, Place, Role,
    Source, TokenParity,
};
use reports::number;
use reports::outcome::Outcome;

use super::broken;
use super::excuses::Excuses;
use super::greedy::{self, Accounted};
use super::taps::Rulings;
use crate::compare::site::Site;
use crate::compare::tap::Exceeded;
use crate::known;
use crate::session::prompts::Prompt;
use crate::speed::bench::Timed;

/// Taps with a row over its limit, in the order of the forward pass.
type Beyond<'a> = Vec<(Site, &'a Exceeded)>;

/// Everything that a run shows.
#[derive(Debug)]
pub(super) struct Shown<'a> {
    pub(super) exceeded: Beyond<'a>,
    /// What the engines were fed.
    pub(super) prompts: &'a [Prompt],
    /// Greedy generation, if it was asked for.
    pub(super) generation: Option<&'a Generation>,
    /// Expected and compared rows.
    pub(super) coverage: &'a Coverage,
    /// Whether the comparison ended where an engine failed: what is missing follows from that.
    pub(super) cut_short: bool,
    /// That the profile requires taps which an engine does not offer, if so.
    pub(super) required_not_compared: Option<String>,
    /// Places where the reference's two runs differ.
    pub(super) not_repeatable: &'a [String],
    /// That engines differ from themselves by more than they may, or what speaks for that.
    pub(super) too_noisy: Vec<Finding>,
    /// Tokens of a text to be scored, if one was given.
    pub(super) to_score: Option<usize>,
    /// What came of it.
    pub(super) perplexity: Option<&'a Perplexity>,
    /// Timings, if they were asked for.
    pub(super) timed: Option<&'a Timed>,
    /// Both tokenizers on the same texts.
    pub(super) tokens: &'a TokenParity,
    /// What the reference and the candidate are called.
    pub(super) engines: [&'a str; 2],
    /// Known deviations, and whether they occurred.
    pub(super) known: &'a [KnownDeviation],
    /// What they excuse.
    pub(super) excuses: &'a Excuses,
    /// What the oracle says of the others.
    pub(super) rulings: &'a Rulings,
}

impl Shown<'_> {
    /// Everything that makes the run other than a pass, beside the engines' `failures`.
    pub(super) fn findings(&self, failures: Vec<Finding>) -> Vec<Finding> {
        let failed = !failures.is_empty();
        let mut findings = failures;
        findings.extend(self.coverage());
        if !failed {
            findings.extend(self.perplexity());
        }
        findings.extend(self.required());
        findings.extend(self.repetition());
        findings.extend(self.taps());
        findings.extend(self.generation());
        findings.extend(self.generated_tokens());
        findings.extend(self.too_noisy.iter().cloned());
        findings.extend(self.timed.iter().flat_map(|timed| timed.findings.clone()));
        findings.extend(self.tokens());
        findings.extend(self.known.iter().filter_map(known::finding));
        findings
    }

    /// The earliest divergence: of those in which an engine is wrong if there are any, else of those that are not excused.
    pub(super) fn first_divergence(&self) -> Option<Divergence> {
        let (known, unknown) = self.by_excuse();
        let (right, wrong) = self.by_ruling(unknown);
        let first = first_divergence(&wrong).or_else(|| first_divergence(&right));
        first.or_else(|| first_divergence(&known))
    }

    /// Whether the engines differ anywhere, excused or not.
    pub(super) fn differ(&self) -> bool {
        !self.exceeded.is_empty() || self.excuses.generation(None)
    }

    /// Divergences that are excused, and the others.
    fn by_excuse(&self) -> (Beyond<'_>, Beyond<'_>) {
        let exceeded = self.exceeded.iter();
        // Of what is covered and not excused, the row that is not.
        let exceeded =
            exceeded.map(|&(site, row)| (site, self.excuses.against(&site).unwrap_or(row)));
        exceeded.partition(|(site, _)| self.excuses.site(site))
    }

    /// Divergences in which both engines are right and bits alone differ, and the others.
    fn by_ruling<'b>(&self, beyond: Beyond<'b>) -> (Beyond<'b>, Beyond<'b>) {
        let all = beyond.into_iter();
        all.partition(|(site, row)| row.limit == 0.0 && self.rulings.right(site))
    }

    fn coverage(&self) -> Vec<Finding> {
        let Coverage {
            expected,
            compared,
            missing,
            ..
        } = self.coverage;
        let mut findings = Vec::new();
        if *expected == 0 {
            let text = "nothing was to be compared: the engines have no tap in common";
            findings.push(incomplete(Source::Coverage, text.to_owned()));
        } else if let Some(first) = missing.first().filter(|_| !self.cut_short) {
            let text =
                format!("{compared} of {expected} rows were compared; the first missing: {first}");
            findings.push(incomplete(Source::Coverage, text));
        }
        findings
    }

    fn perplexity(&self) -> Option<Finding> {
        let expected = self.to_score?;
        let scored = self.perplexity.map_or(0, |p| p.tokens);
        if scored < expected {
            let text = format!("{scored} of {expected} tokens of the text were scored");
            return Some(incomplete(Source::Perplexity, text));
        }
        broken::perplexity_not_finite(self.perplexity)
    }

    fn required(&self) -> Option<Finding> {
        // Where there is nothing to compare at all, that is said already.
        let required = self.required_not_compared.clone();
        let required = required.filter(|_| self.coverage.expected > 0);
        required.map(|text| incomplete(Source::Coverage, text))
    }

    fn repetition(&self) -> Option<Finding> {
        let first = self.not_repeatable.first()?;
        let mut noisy = self.too_noisy.iter();
        if noisy.any(|f| f.outcome == Outcome::Parity && f.role() == Some(Role::Reference)) {
            return None;
        }
        let text = format!(
            "the reference does not repeat itself in {}; the first: {first}",
            number::plural(self.not_repeatable.len() as u64, "tap")
        );
        Some(Finding {
            place: Some(Role::Reference.into()),
            ..incomplete(Source::Noise, text)
        })
    }

    fn taps(&self) -> Vec<Finding> {
        let (_, unknown) = self.by_excuse();
        let (right, wrong) = self.by_ruling(unknown);
        let beyond = |rows: &[(Site, &Exceeded)], what: &str| {
            let first = first_divergence(rows)?;
            let layer = first
                .layer
                .map_or(String::new(), |l| format!("layer {l}, "));
            let nmse = first
                .nmse
                .map_or(number::NOT_FINITE.to_owned(), number::error);
            let text = format!(
                "{} {what}; the first: {layer}{} of prompt {} at position {}, NMSE {nmse}, limit {}",
                number::plural(rows.len() as u64, "tap"),
                first.tap,
                first.prompt,
                first.position,
                number::error(first.limit)
            );
            let place = Place {
                prompt: Some(first.prompt),
                position: Some(first.position),
                layer: first.layer,
                tap: Some(first.tap),
                ..Place::default()
            };
            Some(parity(Source::Taps, Some(place), text))
        };
        let not_the_same = "not the same bit for bit, as the profile asks, though the oracle finds both engines right";
        let findings = [
            beyond(&wrong, "beyond the limit"),
            beyond(&right, not_the_same),
        ];
        findings.into_iter().flatten().collect()
    }

    fn generations(&self) -> impl Iterator<Item = &Generation> {
        let generations = self.generation.into_iter();
        generations.flat_map(|g| [g].into_iter().chain(&g.further))
    }

    fn generation(&self) -> Vec<Finding> {
        let finding = |generation: &Generation| {
            let mismatch = generation.first_mismatch.as_ref()?;
            let text = format!(
                "generation from prompt {} differs at token {}, and that is no near tie of the logits there",
                generation.prompt, mismatch.index
            );
            let place = Place {
                prompt: Some(generation.prompt),
                ..Place::default()
            };
            (!mismatch.near_tie).then(|| parity(Source::Generation, Some(place), text))
        };
        let findings = self.generations().filter_map(finding);
        let held = |finding: &Finding| !self.excuses.generation(finding.role());
        findings.filter(held).collect()
    }

    /// What the logits say of every generated token.
    fn generated_tokens(&self) -> Vec<Finding> {
        let named = |role: &Role| self.excuses.generation(Some(*role));
        let named: Vec<Role> = Role::BOTH.into_iter().filter(named).collect();
        let of_prompt = |generation: &Generation| {
            let accounted = Accounted {
                differences: self.accounts_for_rows_of(generation),
                not_finite: !self.coverage.not_finite.is_empty(),
                contradictions: &named,
            };
            greedy::findings(generation, self.prompt(generation).len(), accounted)
        };
        self.generations().flat_map(of_prompt).collect()
    }

    /// The first row of logits before a generated token that is beyond its limit, where nothing accounts for it, and the
    /// tokens up to it.
    pub(super) fn first_beyond_generated(&self) -> Option<(Divergence, Vec<u32>)> {
        let mut generations = self.generations().filter(|g| !self.accounts_for_rows_of(g));
        generations.find_map(|generation| greedy::first_beyond(generation, self.prompt(generation)))
    }

    fn prompt(&self, generation: &Generation) -> &[u32] {
        let prompt = self.prompts.get(generation.prompt);
        prompt.map_or(&[], |prompt| &prompt.tokens)
    }

    /// Whether it is said already, or known, that the logits of the prompt differ.
    fn accounts_for_rows_of(&self, generation: &Generation) -> bool {
        let logits = Site {
            mode: Mode::Cumulative,
            prompt: generation.prompt,
            layer: None,
            tap: Tap::Logits,
        };
        self.excuses.generation(None) || self.exceeded.iter().any(|(site, _)| *site == logits)
    }

    fn tokens(&self) -> Option<Finding> {
        let first = self.tokens.first_difference()?;
        let [reference, candidate] = self.engines;
        let text =
            format!("the tokenizers of {reference} and {candidate} differ; the first: {first}");
        Some(parity(Source::Tokenizer, None, text))
    }
}

fn incomplete(source: Source, text: String) -> Finding {
    Finding {
        outcome: Outcome::Incomplete,
        source,
        place: None,
        text,
    }
}

fn parity(source: Source, place: Option<Place>, text: String) -> Finding {
    Finding {
        outcome: Outcome::Parity,
        source,
        place,
        text,
    }
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
        part: row.part.clone(),
    })
}

#[cfg(test)]
mod tests {
    use reports::model::{
        AtFault, ElementAt, GeneratedTexts, GenerationMismatch, PieceDifference, Status, Verdict,
    };

    use super::*;
    use crate::parity::measurements::TooNoisy;
    use crate::verdict::{Compared, conclude};

    fn decide(shown: &Shown) -> Verdict {
        let compared = Compared {
            first_divergence: shown.first_divergence(),
            differ: shown.differ(),
            ruling: None,
        };
        conclude(shown.findings(Vec::new()), Some(compared))
    }

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

    static NOTHING_EXCUSED: Excuses = Excuses::none();
    static NOTHING_HEARD: Rulings = Rulings::none();

    fn shown(coverage: &Coverage) -> Shown<'_> {
        Shown {
            exceeded: Vec::new(),
            prompts: &[],
            generation: None,
            coverage,
            cut_short: false,
            required_not_compared: None,
            not_repeatable: &[],
            too_noisy: Vec::new(),
            to_score: None,
            perplexity: None,
            timed: None,
            tokens: &NOT_COMPARED,
            engines: ["bitnet.cpp", "rust"],
            known: &[],
            excuses: &NOTHING_EXCUSED,
            rulings: &NOTHING_HEARD,
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
            part: None,
        }
    }

    #[test]
    fn nothing_wrong_is_a_pass() {
        let coverage = complete();
        let verdict = decide(&shown(&coverage));
        assert_eq!((verdict.status, verdict.exit_code), (Status::Pass, 0));
        assert!(verdict.reasons.is_empty() && verdict.at_fault == AtFault::None);
    }

    #[test]
    fn nothing_compared_is_never_a_pass() {
        let coverage = Coverage::default();
        let verdict = decide(&shown(&coverage));
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
        let mut shown = shown(&coverage);
        shown.exceeded = vec![(site(Mode::Isolated, 1, Tap::Q), &row)];
        let verdict = decide(&shown);
        assert_eq!(
            (verdict.status, verdict.exit_code),
            (Status::Incomplete, 20)
        );
        assert_eq!(verdict.reasons.len(), 2);
        assert!(verdict.first_divergence.is_some());
    }

    #[test]
    fn a_reference_that_is_blamed_for_its_noise_is_not_merely_incomplete() {
        let coverage = complete();
        let differs = ["prompt 0, layer 1, q".to_owned()];
        let mut shown = shown(&coverage);
        shown.not_repeatable = &differs;
        assert_eq!(decide(&shown).exit_code, 20);
        let noisy = |role| TooNoisy {
            role,
            varied: "threads 1 and 2".into(),
            generated: None,
            tap: Tap::Logits,
            nmse: 0.5,
            cap: 1e-2,
        };
        let noisy = |role| noisy(role).fault();
        shown.too_noisy = vec![noisy(Role::Candidate)];
        assert_eq!(decide(&shown).exit_code, 20);
        shown.too_noisy = vec![noisy(Role::Reference)];
        let verdict = decide(&shown);
        assert_eq!(
            (verdict.exit_code, verdict.at_fault),
            (10, AtFault::Reference)
        );
    }

    #[test]
    fn the_first_divergence_is_the_earliest_isolated_one() {
        let coverage = complete();
        let (early, late) = (row(2), row(5));
        let mut shown = shown(&coverage);
        shown.exceeded = vec![
            (site(Mode::Cumulative, 0, Tap::Q), &early),
            (site(Mode::Isolated, 1, Tap::FfnAct), &late),
            (site(Mode::Isolated, 4, Tap::KRope), &early),
            (site(Mode::Isolated, 4, Tap::QRope), &early),
        ];
        let verdict = decide(&shown);
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
                checks: Vec::new(),
            };
            let mut shown = shown(&coverage);
            shown.generation = Some(&generation);
            assert_eq!(decide(&shown).exit_code, exit_code);
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
        let mut shown = shown(&coverage);
        shown.tokens = &tokens;
        let verdict = decide(&shown);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Fail, 10));
        assert_eq!(verdict.at_fault, AtFault::Undetermined);
        let [reason] = &verdict.reasons[..] else {
            panic!("{:?}", verdict.reasons)
        };
        assert!(reason.contains("of bitnet.cpp and rust differ"), "{reason}");
        assert!(reason.contains("token 9 by itself"), "{reason}");
    }

    #[test]
    fn a_dead_engine_outranks_what_it_left_undone() {
        let mut coverage = complete();
        coverage.missing = vec!["x".into()];
        let shown = shown(&coverage);
        let dead = Finding {
            outcome: Outcome::Engine,
            source: Source::Engine,
            place: Some(Role::Reference.into()),
            text: "bitnet.cpp died with SIGSEGV while loading".into(),
        };
        let verdict = conclude(shown.findings(vec![dead]), None);
        assert_eq!((verdict.status, verdict.exit_code), (Status::Error, 30));
        assert!(verdict.reasons[0].contains("SIGSEGV"));
    }

    #[test]
    fn findings_say_what_found_them_and_where() {
        let coverage = complete();
        let row = row(2);
        let known = [KnownDeviation {
            tap: "q".into(),
            layer: Some(3),
            mode: None,
            at_fault: Some(AtFault::Reference),
            ceiling: None,
            reason: "r".into(),
            link: "l".into(),
            expires: "2027-01-31".into(),
            state: reports::model::KnownState::Unmatched,
            rows: 0,
            judged: 0,
            seed: None,
            refused: None,
            refused_to: None,
        }];
        let mut shown = shown(&coverage);
        shown.exceeded = vec![(site(Mode::Isolated, 1, Tap::Q), &row)];
        shown.too_noisy = vec![
            TooNoisy {
                role: Role::Candidate,
                varied: "threads 1 and 2".into(),
                generated: None,
                tap: Tap::Q,
                nmse: 1e-9,
                cap: 0.0,
            }
            .fault(),
        ];
        shown.known = &known;
        let verdict = decide(&shown);
        let sources: Vec<Source> = verdict.findings.iter().map(|f| f.source).collect();
        assert_eq!(sources, [Source::Taps, Source::Noise, Source::Known]);
        let texts: Vec<&String> = verdict.findings.iter().map(|f| &f.text).collect();
        assert!(texts.into_iter().eq(&verdict.reasons));
        let taps = verdict.findings[0].place.as_ref().unwrap();
        assert_eq!(
            (taps.prompt, taps.position, taps.layer, taps.tap.as_deref()),
            (Some(0), Some(2), Some(1), Some("q"))
        );
        assert_eq!(verdict.findings[1].role(), Some(Role::Candidate));
        assert_eq!(verdict.findings[2].place.as_ref().unwrap().layer, Some(3));
    }
}
