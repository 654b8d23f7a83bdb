//! Prompts of one repetition, and whether what was generated from them follows from the engine's own logits.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, Instant};

use bitnet_model::random::Rng;
use crossval_protocol::Settings;
use reports::model::{Role, Test};
use reports::number;

use super::{Cores, Job, Timing, finding, timed_settings};
use crate::engine::{Failed, by};
use crate::session::own_logits::{Contradiction, contradiction};

/// Repetitions from which on one more has the prompt of the warm-up: its time is one that an engine may have kept, and of
/// three the median is another's.
const REPETITIONS_FOR_KNOWN: usize = 3;

/// Part of the time of a series that checking its tokens may take, of each engine.
const PART_TO_CHECK: u32 = 20;

/// Prompts that nobody has seen before.
pub(super) struct Fresh {
    seed: u64,
    n_vocab: usize,
}

impl Fresh {
    /// With a seed that an engine cannot know: the time, to the nanosecond.
    pub(super) fn new(n_vocab: usize) -> Fresh {
        let now = jiff::Timestamp::now().as_nanosecond() as u64;
        // As much of it as a number in JSON holds everywhere.
        let seed = Rng::new(now, "seed").next_u64() >> 11;
        Fresh { seed, n_vocab }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// `n` random token IDs, of a test at a number of threads in a repetition.
    pub(super) fn prompt(
        &self,
        test: Test,
        threads: usize,
        repetition: usize,
        n: usize,
    ) -> Vec<u32> {
        let mut rng = Rng::new(self.seed, &format!("{test}, {threads}, {repetition}"));
        (0..n)
            .map(|_| rng.below(self.n_vocab.max(1)) as u32)
            .collect()
    }

    /// The repetition that has the prompt of the warm-up again, if any has.
    pub(super) fn known(&self, threads: usize, repetitions: usize) -> Option<usize> {
        let mut rng = Rng::new(self.seed, &format!("known, {threads}"));
        (repetitions >= REPETITIONS_FOR_KNOWN).then(|| 1 + rng.below(repetitions))
    }
}

/// Tokens that an engine generated while it was timed.
pub(super) struct Claim {
    role: Role,
    test: Test,
    repetition: usize,
    prompt: Vec<u32>,
    tokens: Vec<u32>,
}

impl Claim {
    pub(super) fn new(role: Role, job: &Job, repetition: usize, tokens: Vec<u32>) -> Claim {
        Claim {
            role,
            test: job.test,
            repetition,
            prompt: job.prompt.to_vec(),
            tokens,
        }
    }
}

impl Timing<'_> {
    /// Holds what was claimed against logits: of every test at least one repetition, and others, in random order, as far
    /// as a part of the time that all `took` allows. Returns how many were checked, by role and test.
    pub(super) fn check(
        &mut self,
        cores: &Cores,
        took: Duration,
    ) -> Result<impl Fn(Role, Test) -> usize + use<>, Failed> {
        let mut claims = std::mem::take(&mut self.claims);
        let mut rng = Rng::new(self.fresh.seed, "checked");
        for i in (1..claims.len()).rev() {
            claims.swap(i, rng.below(i + 1));
        }
        self.progress.stage("checking the tokens");
        let mut checked: BTreeMap<(Role, Test), usize> = BTreeMap::new();
        for role in Role::BOTH {
            if claims.iter().all(|claim| claim.role != role) {
                continue;
            }
            let (mut engine, _) = self.start(role, cores)?;
            let settings = Settings {
                observe: true,
                ..timed_settings(self.plan.n_ctx, cores.threads, 0)
            };
            let configured = engine.configure(settings).map_err(by(role))?;
            let begun = Instant::now();
            let mut wrong: BTreeMap<Test, String> = BTreeMap::new();
            // One of each test in any case, the others while there is time.
            let (mut tests, mut others) = (BTreeMap::new(), Vec::new());
            for claim in claims.iter().filter(|claim| claim.role == role) {
                if let Entry::Vacant(first) = tests.entry(claim.test) {
                    first.insert(claim);
                } else {
                    others.push(claim);
                }
            }
            let time_is_up = || begun.elapsed() > took / PART_TO_CHECK;
            let others = others.into_iter().take_while(|_| !time_is_up());
            for claim in tests.into_values().chain(others) {
                if wrong.contains_key(&claim.test) {
                    continue;
                }
                engine.set_task(format!("checking the tokens of {}", claim.test));
                let found = contradiction(
                    &mut engine,
                    &claim.prompt,
                    &claim.tokens,
                    settings,
                    &configured,
                );
                if let Some(found) = found.map_err(by(role))? {
                    wrong.insert(claim.test, said(role, claim, found, cores.threads));
                }
                *checked.entry((role, claim.test)).or_default() += 1;
            }
            for (test, text) in wrong {
                self.findings
                    .push(finding(role, Some(test), cores.threads, text));
            }
        }
        Ok(move |role, test| checked.get(&(role, test)).copied().unwrap_or(0))
    }
}

fn said(role: Role, claim: &Claim, found: Contradiction, threads: usize) -> String {
    let which = match found.ahead {
        Some((ahead, margin)) => {
            let margin = number::significant(margin, 3);
            format!("ID {}, {margin} below ID {ahead}", found.token)
        }
        None => format!(
            "ID {}, where they are not finite or have no such ID",
            found.token
        ),
    };
    format!(
        "the {role} generates other tokens while it is timed than its logits say: {} at {}, repetition {}, token {}: {which}",
        claim.test,
        number::plural(threads as u64, "thread"),
        claim.repetition,
        found.index,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_repetitions_have_the_same_prompt() {
        let fresh = Fresh::new(512);
        let prompts = [
            fresh.prompt(Test::Prefill(20), 1, 1, 20),
            fresh.prompt(Test::Prefill(20), 1, 2, 20),
            fresh.prompt(Test::Prefill(20), 2, 1, 20),
            fresh.prompt(Test::Decode(20), 1, 1, 20),
            Fresh::new(512).prompt(Test::Prefill(20), 1, 1, 20),
        ];
        for (i, prompt) in prompts.iter().enumerate() {
            assert!(prompt.len() == 20 && prompt.iter().all(|&token| token < 512));
            assert!(!prompts[..i].contains(prompt));
        }
    }

    #[test]
    fn the_known_prompt_comes_back_only_where_others_make_the_median() {
        for _ in 0..20 {
            let fresh = Fresh::new(512);
            assert_eq!([1, 2].map(|n| fresh.known(1, n)), [None, None]);
            assert!((1..=3).contains(&fresh.known(1, 3).unwrap()));
            assert!(fresh.seed() < 1 << 53);
        }
    }
}
