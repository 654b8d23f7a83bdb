//! One run with faults, and what came of it.

use std::path::PathBuf;

use bitnet_model::random::Rng;
use reports::Report;
use reports::model::{AtFault, Finding, Mode, Role, Source, Status};
use reports::outcome::Outcome;

use super::plan::{Draw, Faults, Who};
use super::{FaultAt, Injected, Proof, SelfTestOptions};
use crate::engine::EngineSpec;
use crate::error::Error;
use crate::parity::{self, Conditions, RunOptions, TextSource};
use crate::progress::Progress;
use crate::session::prompts::PromptSource;
use crate::session::settings::DECODE_STEPS;
use crate::speed::gate::{self, Baseline, Standard};
use crate::tokens::PASSAGE;

/// Tokens generated where something is.
const N_PREDICT: usize = 16;

/// The same where times are told, at most: half of their time is to be more than what may lie between two clocks.
const N_PREDICT_TIMED: usize = 256;

/// Strings generated where tokenizers are compared.
const STRINGS: u64 = 1000;

/// Tokens of the longer prompt, at most: more than a batch of the comparison.
const LONG_PROMPT: usize = 150;

/// The slowdown that is let through: the faults are of a third and more, and short runs scatter.
const LET_THROUGH: f64 = 0.1;

/// Runs of which the baseline is made, one more than the gate asks for.
const BASELINE_RUNS: usize = 6;

/// Faults, who has them, and in which modes they are compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trial {
    reference: Faults,
    candidate: Faults,
    /// What the engine with the faults does differently beside; the candidate, where there are none.
    behind: Option<String>,
    modes: Vec<Mode>,
    proof: Proof,
}

/// Carries trials out.
pub(super) struct Trials<'a> {
    options: &'a SelfTestOptions<'a>,
    /// What the speed is held against, once it was measured.
    baseline: Option<(PathBuf, Baseline)>,
}

impl Trial {
    /// The fault of a kind that is tried as the `slot`-th.
    pub(super) fn new(draw: &Draw, faults: Faults, slot: usize) -> Trial {
        let (in_candidate, mode) = match slot % 6 {
            0 => (true, Mode::Isolated),
            1 => (false, Mode::Isolated),
            2 => (true, Mode::Cumulative),
            3 => (false, Mode::Cumulative),
            4 => (true, Mode::Isolated),
            _ => (false, Mode::Isolated),
        };
        let modes = match draw.proof {
            Proof::Taps { in_logits: true } => vec![mode],
            Proof::Taps { in_logits: false } | Proof::Text | Proof::Tokenizer => {
                vec![Mode::Isolated]
            }
            Proof::Conditions => vec![Mode::Isolated, Mode::Cumulative],
            Proof::Generation | Proof::Times | Proof::Speed => vec![Mode::Cumulative],
        };
        let faults = match (draw.who, modes.as_slice()) {
            // What one layer does, the others may drown; it is one mistake of the engine's.
            (Who::ByTurns, [Mode::Cumulative]) => {
                faults.into_iter().map(FaultAt::everywhere).collect()
            }
            _ => faults,
        };
        let (reference, candidate) = match draw.who {
            Who::ByTurns if in_candidate => (Vec::new(), faults),
            Who::ByTurns => (faults, Vec::new()),
            Who::Candidate => (Vec::new(), faults),
            Who::Each => {
                let (first, last) = faults.split_at(1);
                (first.to_vec(), last.to_vec())
            }
        };
        Trial {
            reference,
            candidate,
            behind: draw.behind.clone(),
            modes,
            proof: draw.proof,
        }
    }

    fn of(&self, role: Role) -> &Faults {
        role.of(&self.reference, &self.candidate)
    }

    fn roles(&self) -> Vec<Role> {
        let faulty = |role: &Role| !self.of(*role).is_empty();
        Role::BOTH.into_iter().filter(faulty).collect()
    }

    /// The faults of an engine, as it takes them.
    fn text(&self, role: Role) -> Option<String> {
        let faults = self.of(role).iter().map(|f| f.fault.as_str());
        let honest = self.roles().is_empty() && role == Role::Candidate;
        let behind = self.behind.as_deref();
        let behind = behind.filter(|_| honest || !self.of(role).is_empty());
        let all: Vec<&str> = behind.into_iter().chain(faults).collect();
        (!all.is_empty()).then(|| all.join("+"))
    }

    /// All of them, in words.
    pub(super) fn faults(&self) -> String {
        let of_engines = Role::BOTH.into_iter().filter_map(|role| self.text(role));
        of_engines.collect::<Vec<_>>().join(", ")
    }

    /// Values changed by the engine that changed the fewest.
    pub(super) fn changed(&self, report: &Report) -> Option<u64> {
        let roles = self.roles().into_iter();
        let changed = roles.map(|role| report.engines.engine(role).changed_values.unwrap_or(0));
        changed.min()
    }

    /// What the run made of it.
    pub(super) fn judge(&self, draw: &Draw, report: &Report) -> Injected {
        let verdict = &report.verdict;
        let first = verdict.first_divergence.as_ref();
        let roles = self.roles();
        let detected = match self.proof {
            Proof::Speed => verdict.outcome() == Outcome::Performance,
            _ => verdict.status == Status::Fail,
        };
        let expected = match (self.proof, roles.as_slice()) {
            // Nobody is wrong who is slow.
            (Proof::Speed, _) => AtFault::None,
            (_, [Role::Reference]) => AtFault::Reference,
            (_, [Role::Candidate]) => AtFault::Candidate,
            _ => AtFault::Both,
        };
        // Nothing arbitrates between two tokenizers.
        let blamed = verdict.at_fault == expected
            || (self.proof == Proof::Tokenizer && verdict.at_fault == AtFault::Undetermined);
        let found = self.found(report);
        let (first_tap, first_layer) = match self.judged(report) {
            Some((tap, layer)) => (Some(tap), layer),
            None => (None, None),
        };
        let place = self.reference.iter().chain(&self.candidate).next();
        let hint = first.and_then(|f| f.hint.clone());
        Injected {
            fault: match roles.as_slice() {
                [_, _] => self.text(Role::Candidate).unwrap_or_default(),
                _ => self.faults(),
            },
            other_fault: match roles.as_slice() {
                [_, _] => self.text(Role::Reference),
                _ => None,
            },
            family: draw.family.clone(),
            kind: draw.name.clone(),
            roles,
            modes: self.modes.clone(),
            proof: self.proof.name(),
            tap: place.and_then(|p| p.tap).map(|tap| tap.to_string()),
            layer: place.and_then(|p| p.layer),
            changed_values: self.changed(report).unwrap_or(0),
            detected,
            located: detected && found.is_some(),
            blamed: detected && blamed,
            exit_code: verdict.exit_code,
            at_fault: verdict.at_fault,
            first_tap,
            first_layer,
            nmse: first.and_then(|f| f.nmse),
            hint: hint.or(found.flatten()),
            reasons: verdict.reasons.clone(),
        }
    }

    /// Where the first divergence is; of a cumulative one, where the engine with the fault leaves the oracle.
    fn judged(&self, report: &Report) -> Option<(String, Option<usize>)> {
        let first = report.verdict.first_divergence.as_ref()?;
        let judged = first
            .arbitration
            .as_ref()
            .filter(|_| first.mode == Mode::Cumulative);
        let mut judged = judged.into_iter().flat_map(|arbitration| {
            let roles = self.roles().into_iter();
            roles.map(|role| arbitration.judgement(role).clone())
        });
        Some(match judged.find(|j| !j.right) {
            Some(judgement) => (judgement.tap, judgement.layer),
            None => (first.tap.clone(), first.layer),
        })
    }

    /// Whether the faults were found where they are; with the sentence that says so, if a finding does.
    fn found(&self, report: &Report) -> Option<Option<String>> {
        if let Some((tap, layer)) = self.judged(report) {
            let at = |fault: &FaultAt| {
                fault.tap.is_some_and(|at| at.name() == tap) && fault.layer == layer
            };
            let earliest = [self.reference.first(), self.candidate.first()];
            if earliest.into_iter().flatten().any(at) {
                return Some(None);
            }
        }
        let findings = report.verdict.findings.iter();
        let mut wrong =
            findings.filter(|f| matches!(f.outcome, Outcome::Parity | Outcome::Performance));
        let finding = wrong.find(|finding| self.is_found_by(finding))?;
        Some(Some(finding.text.clone()))
    }

    /// Whether a finding is about a fault: it names its stage, or comes from what has to show it.
    fn is_found_by(&self, finding: &Finding) -> bool {
        let place = finding.place.clone().unwrap_or_default();
        let all = self.reference.iter().chain(&self.candidate);
        let stage = place.tap.as_deref().is_some_and(|tap| {
            let mut faults = all.clone();
            faults.any(|f| f.tap.is_some_and(|at| at.name() == tap) && f.layer == place.layer)
        });
        let named = place.role.is_some_and(|role| !self.of(role).is_empty());
        stage
            || match self.proof {
                Proof::Taps { .. } => false,
                // Where it is bound to is what it is found by: another number of threads, no taps, a batch.
                Proof::Conditions => named,
                Proof::Generation => finding.source == Source::Generation,
                Proof::Text => finding.source == Source::Perplexity,
                Proof::Tokenizer => finding.source == Source::Tokenizer,
                Proof::Times => finding.source == Source::Timing,
                Proof::Speed => finding.source == Source::Gate,
            }
    }
}

impl FaultAt {
    /// The same in every layer, which shows in the first.
    fn everywhere(self) -> FaultAt {
        match self.in_every_layer {
            Some(fault) => FaultAt {
                fault,
                layer: Some(0),
                in_every_layer: None,
                ..self
            },
            None => self,
        }
    }
}

impl<'a> Trials<'a> {
    pub(super) fn new(options: &'a SelfTestOptions<'a>) -> Trials<'a> {
        Trials {
            options,
            baseline: None,
        }
    }

    /// The run without a fault.
    ///
    /// # Errors
    /// Whatever keeps it from being carried out.
    pub(super) fn control(&mut self, proof: Proof, behind: Option<&str>) -> Result<Report, Error> {
        let nothing = Trial {
            reference: Vec::new(),
            candidate: Vec::new(),
            behind: behind.map(str::to_owned),
            modes: vec![Mode::Isolated, Mode::Cumulative],
            proof,
        };
        parity::run(&self.run_options(&nothing), Progress::silent())
    }

    /// The run with its faults.
    ///
    /// # Errors
    /// Whatever keeps it from being carried out.
    pub(super) fn run(&mut self, trial: &Trial) -> Result<Report, Error> {
        let options = self.run_options(trial);
        let mut report = parity::run(&options, Progress::silent())?;
        if trial.proof == Proof::Speed {
            self.gate(&mut report, &options)?;
        }
        Ok(report)
    }

    fn run_options(&self, trial: &Trial) -> RunOptions {
        let mut options = self.options.run.clone();
        let (setup, texts, scope) = (&mut options.setup, &mut options.texts, &mut options.scope);
        setup.candidate = EngineSpec::Rust {
            fault: trial.text(Role::Candidate),
        };
        if let Some(fault) = trial.text(Role::Reference) {
            let honest = setup.candidate == (EngineSpec::Rust { fault: None });
            // Not every reference takes values, and nothing needs them here.
            if honest && trial.modes == [Mode::Cumulative] {
                setup.candidate = setup.reference.clone();
            }
            setup.reference = EngineSpec::Rust { fault: Some(fault) };
        }
        scope.modes.clone_from(&trial.modes);
        scope.n_predict = 0;
        options.bench = false;
        match trial.proof {
            // Honest differences grow with the position.
            Proof::Taps { .. } if trial.behind.is_some() => {
                texts.prompts = vec![self.long_prompt()]
            }
            Proof::Taps { .. } => {}
            Proof::Conditions => {
                scope.n_predict = DECODE_STEPS;
                scope.conditions = Conditions::All;
                texts.prompts.insert(0, self.long_prompt());
            }
            Proof::Generation => scope.n_predict = N_PREDICT,
            Proof::Text => {
                texts.text = Some(TextSource {
                    // Long enough for a window, whatever the vocabulary.
                    text: PASSAGE.repeat(8),
                    source: "the built-in passage".to_owned(),
                    chunks: Some(1),
                });
            }
            Proof::Tokenizer => texts.strings = STRINGS,
            Proof::Times => {
                let n_ctx = self.options.n_ctx;
                scope.n_predict = N_PREDICT_TIMED.min(n_ctx / 2);
                options.bench = true;
                texts.prompts = vec![self.random_prompt(LONG_PROMPT.min(n_ctx * 2 / 5))];
            }
            Proof::Speed => {
                scope.n_predict = N_PREDICT;
                options.bench = true;
            }
        }
        options
    }

    fn long_prompt(&self) -> PromptSource {
        let n = self.options.n_ctx.saturating_sub(2 * DECODE_STEPS);
        self.random_prompt(LONG_PROMPT.min(n))
    }

    /// Random tokens, so that no prompt is like another.
    fn random_prompt(&self, n: usize) -> PromptSource {
        let seed = self.options.seed;
        let mut rng = Rng::new(seed, "prompt");
        let tokens = (0..n.max(1)).map(|_| rng.below(self.options.n_vocab) as u32);
        PromptSource::Tokens(tokens.collect())
    }

    /// Holds a run against the speeds of an engine that takes no longer than it must.
    fn gate(&mut self, report: &mut Report, options: &RunOptions) -> Result<(), Error> {
        let (path, baseline) = match self.baseline.take() {
            Some(measured) => measured,
            None => self.measure_baseline(options)?,
        };
        // An engine that has become slower has the name that it had before.
        let honest = EngineSpec::Rust { fault: None }.to_string();
        let named = |mut report: Report| {
            let name = std::mem::replace(&mut report.engines.candidate.name, honest.clone());
            let rows = report.bench.iter_mut().flat_map(|bench| &mut bench.rows);
            for row in rows.filter(|row| row.engine == name) {
                row.engine.clone_from(&honest);
            }
            report
        };
        let before = report.clone();
        *report = named(before);
        let standard = Standard {
            path: &path,
            baseline: Some(&baseline),
            max_regression: LET_THROUGH,
            update: false,
        };
        gate::apply(report, standard, &mut |_| {
            let again = parity::run(options, Progress::silent()).map(named);
            again.map_err(|e| e.to_string())
        });
        self.baseline = Some((path, baseline));
        Ok(())
    }

    fn measure_baseline(&self, options: &RunOptions) -> Result<(PathBuf, Baseline), Error> {
        let path = self.options.scratch.join("baseline.json");
        let mut options = options.clone();
        options.setup.candidate = EngineSpec::Rust { fault: None };
        let mut baseline = None;
        for _ in 0..BASELINE_RUNS {
            let report = parity::run(&options, Progress::silent())?;
            baseline = Some(Baseline::add(&path, &report, &[])?);
        }
        let nothing = || Error::Internal("no run for a baseline".to_owned());
        Ok((path, baseline.ok_or_else(nothing)?))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bitnet_model::tap::Tap;
    use reports::model::Place;

    use super::*;
    use crate::verdict::{Compared, conclude};

    fn draw(proof: Proof, who: Who) -> Draw {
        Draw {
            family: "family".to_owned(),
            name: "kind".to_owned(),
            proof,
            needs: None,
            may_change_nothing: true,
            behind: None,
            who,
            places: VecDeque::new(),
        }
    }

    fn at(tap: Tap, layer: usize) -> FaultAt {
        FaultAt {
            fault: format!("zero:{tap}:{layer}"),
            tap: Some(tap),
            layer: Some(layer),
            in_every_layer: Some(format!("zero:{tap}:*")),
        }
    }

    #[test]
    fn both_engines_have_faults_in_both_modes() {
        let draw = draw(Proof::Taps { in_logits: true }, Who::ByTurns);
        let trials = (0..4).map(|slot| Trial::new(&draw, vec![at(Tap::Q, 2)], slot));
        let trials: Vec<Trial> = trials.collect();
        let faults: Vec<String> = trials.iter().map(Trial::faults).collect();
        assert_eq!(faults, ["zero:q:2", "zero:q:2", "zero:q:*", "zero:q:*"]);
        let seen = trials.into_iter().map(|t| (t.roles(), t.modes));
        let seen: Vec<(Vec<Role>, Vec<Mode>)> = seen.collect();
        let [reference, candidate] = Role::BOTH.map(|role| vec![role]);
        let [isolated, cumulative] = [Mode::Isolated, Mode::Cumulative].map(|mode| vec![mode]);
        assert_eq!(
            seen,
            [
                (candidate.clone(), isolated.clone()),
                (reference.clone(), isolated),
                (candidate, cumulative.clone()),
                (reference, cumulative),
            ]
        );
    }

    #[test]
    fn two_faults_are_of_one_engine_or_of_each() {
        let pair = vec![at(Tap::Q, 0), at(Tap::K, 1)];
        let proof = Proof::Taps { in_logits: true };
        let one = Trial::new(&draw(proof, Who::Candidate), pair.clone(), 1);
        assert_eq!(one.text(Role::Candidate).unwrap(), "zero:q:0+zero:k:1");
        assert_eq!(one.roles(), [Role::Candidate]);
        let each = Trial::new(&draw(proof, Who::Each), pair, 1);
        assert_eq!(each.faults(), "zero:q:0, zero:k:1");
        assert_eq!(each.roles(), Role::BOTH);
    }

    /// A report with one finding, and nothing else.
    fn report(outcome: Outcome, source: Source, place: Option<Place>, at_fault: AtFault) -> Report {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/2b-4t.json");
        let mut report = reports::json::read(file.as_ref()).unwrap();
        let finding = Finding {
            outcome,
            source,
            place,
            text: "it is wrong".to_owned(),
        };
        let compared = Compared {
            ruling: Some(at_fault),
            ..Compared::default()
        };
        report.verdict = conclude(vec![finding], Some(compared));
        report
    }

    fn judged(proof: Proof, report: &Report) -> (bool, bool, bool) {
        let draw = draw(proof, Who::Candidate);
        let trial = Trial::new(&draw, vec![at(Tap::Q, 2)], 0);
        let Injected {
            detected,
            located,
            blamed,
            ..
        } = trial.judge(&draw, report);
        (detected, located, blamed)
    }

    #[test]
    fn a_fault_is_found_by_its_place_or_by_what_has_to_show_it() {
        let candidate = AtFault::Candidate;
        let parity = |source, place| report(Outcome::Parity, source, place, candidate);
        let stage = |layer| Place {
            tap: Some("q".to_owned()),
            layer: Some(layer),
            ..Place::default()
        };
        let taps = Proof::Taps { in_logits: true };
        let there = parity(Source::Noise, Some(stage(2)));
        assert_eq!(judged(taps, &there), (true, true, true));
        let elsewhere = parity(Source::Noise, Some(stage(1)));
        assert_eq!(judged(taps, &elsewhere), (true, false, true));
        for (proof, source) in [
            (Proof::Generation, Source::Generation),
            (Proof::Text, Source::Perplexity),
            (Proof::Tokenizer, Source::Tokenizer),
            (Proof::Times, Source::Timing),
        ] {
            assert_eq!(judged(proof, &parity(source, None)), (true, true, true));
            let other = parity(Source::Noise, None);
            assert_eq!(judged(proof, &other), (true, false, true), "{proof:?}");
        }
        for (role, located) in [(Role::Candidate, true), (Role::Reference, false)] {
            let named = parity(Source::Noise, Some(role.into()));
            assert_eq!(judged(Proof::Conditions, &named).1, located, "{role}");
        }
    }

    #[test]
    fn the_engine_with_the_fault_must_be_blamed() {
        let of = |at_fault, proof, source| {
            judged(proof, &report(Outcome::Parity, source, None, at_fault)).2
        };
        let taps = Proof::Taps { in_logits: true };
        assert!(of(AtFault::Candidate, taps, Source::Taps));
        for wrong in [
            AtFault::Reference,
            AtFault::Both,
            AtFault::Undetermined,
            AtFault::None,
        ] {
            assert!(!of(wrong, taps, Source::Taps), "{wrong:?}");
        }
        // Nothing arbitrates between tokenizers.
        assert!(of(
            AtFault::Undetermined,
            Proof::Tokenizer,
            Source::Tokenizer
        ));
        assert!(!of(AtFault::Reference, Proof::Tokenizer, Source::Tokenizer));
    }

    #[test]
    fn only_the_gate_shows_that_an_engine_is_slower() {
        let slower = report(Outcome::Performance, Source::Gate, None, AtFault::None);
        assert_eq!(judged(Proof::Speed, &slower), (true, true, true));
        let unjudged = report(Outcome::NoBaseline, Source::Gate, None, AtFault::None);
        assert_eq!(judged(Proof::Speed, &unjudged), (false, false, false));
    }
}
