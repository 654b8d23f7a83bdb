//! Every row under every condition, against the other engine's and against the engine's own.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use reports::model::{History, Own, Role};

use super::plan::{Batch, Fed, Key, Pass, Step};
use super::rows::{Answer, Asking, Row};
use crate::compare::logits::{max_difference, most_likely};
use crate::compare::tap::row_nmse;
use crate::compare::worst::Worst;

/// What has been compared so far.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) met: BTreeMap<Key, Met>,
    kept: [HashMap<(Fed, usize), Vec<Kept>>; 2],
    /// Passes by their number.
    passes: HashMap<Pass, usize>,
    evaluations: BTreeMap<History, u64>,
    repeats: [Repeats; 2],
}

/// Rows of an engine that it was asked for again, in the same way.
#[derive(Clone, Copy, Debug, Default)]
struct Repeats {
    rows: u64,
    /// Those that were the same.
    exact: u64,
}

/// Which row of which evaluation of which pass.
type Origin = (usize, usize, Row);

/// A row of an engine.
struct Kept {
    origin: Origin,
    row: Vec<f32>,
}

/// What came of one condition.
#[derive(Clone, Debug, Default)]
pub(super) struct Met {
    /// Rows that were to be compared, and that were.
    pub(super) expected: u64,
    pub(super) rows: u64,
    /// Rows that an engine did not send.
    pub(super) missing: [u64; 2],
    /// Rows that are finite in neither engine: nothing can be said about them.
    pub(super) not_finite: u64,
    pub(super) largest_batch: usize,
    pub(super) largest_position: usize,
    pub(super) between: Worst,
    /// Where that row is.
    pub(super) parting: Option<Parting>,
    pub(super) own: [Own<Worst>; 2],
    /// Of each engine, the row that is worst where something was varied.
    pub(super) strayed: [Option<Straying>; 2],
    /// Engines that generated another token than their own logits say.
    pub(super) contradicted: Vec<Role>,
}

/// A row, and how it came about.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Parting {
    pub(super) fed: Fed,
    pub(super) position: usize,
    /// Sizes of the batches from position 0 on, up to the row's.
    pub(super) cut: Vec<usize>,
}

/// A row, and the two ways in which it came about.
#[derive(Clone, Debug)]
pub(super) struct Straying {
    pub(super) fed: Fed,
    pub(super) position: usize,
    /// The first, which others are held against, and this one.
    origins: [Origin; 2],
}

/// How a row came about.
pub(super) struct Way<'a> {
    pub(super) pass: &'a Pass,
    /// Sizes of the batches from position 0 on, up to the row's.
    pub(super) cut: Vec<usize>,
}

impl Tally {
    /// Both ways in which a row came about.
    pub(super) fn ways(&self, straying: &Straying) -> Option<[Way<'_>; 2]> {
        let way = |(number, index, _): Origin| {
            let mut passes = self.passes.iter();
            let (pass, _) = passes.find(|&(_, &n)| n == number)?;
            let cut = pass.cut(index);
            Some(Way { pass, cut })
        };
        let [first, other] = straying.origins;
        Some([way(first)?, way(other)?])
    }

    /// The longest history of a worker, evaluations.
    pub(super) fn evaluations(&self) -> u64 {
        self.evaluations.values().copied().max().unwrap_or(0)
    }

    /// Whether an engine answers with the same bits when asked the same again: one that adds up in another order each time
    /// hardly ever does.
    pub(super) fn repeats_bits(&self, role: Role) -> bool {
        let Repeats { rows, exact } = self.repeats[role.of(0, 1)];
        exact > rows / 10
    }

    fn met(&mut self, step: &Step, first: usize, batch: Batch) -> &mut Met {
        let met = self.met.entry(step.pass.key(first, batch, step.worker));
        let met = met.or_default();
        met.largest_batch = met.largest_batch.max(batch.size);
        met.largest_position = met.largest_position.max(first + batch.size - 1);
        met
    }

    /// Whether a step would meet no combination of batch, place, way of asking and worker for the first time.
    pub(super) fn has_met(&self, step: &Step) -> bool {
        let met: BTreeSet<_> = self.met.keys().map(Key::combination).collect();
        let mut keys = step.keys();
        keys.all(|key| met.contains(&key.combination()))
    }

    /// Counts an evaluation of both engines.
    pub(super) fn evaluated(&mut self, worker: History) {
        *self.evaluations.entry(worker).or_default() += 1;
    }

    /// What the engines answered in evaluation `index` of a pass.
    pub(super) fn add(
        &mut self,
        step: &Step,
        index: usize,
        asking: &Asking,
        mut answers: [Answer; 2],
    ) {
        let n_passes = self.passes.len();
        let pass = *self.passes.entry(step.pass.clone()).or_insert(n_passes);
        let mut met = self.met(step, asking.first, asking.batch).clone();
        for at in asking.expected() {
            met.expected += 1;
            let rows = answers.each_mut().map(|answer| answer.take(at));
            for (missing, row) in met.missing.iter_mut().zip(&rows) {
                *missing += u64::from(row.is_none());
            }
            let [Some(reference), Some(candidate)] = rows else {
                continue;
            };
            met.rows += 1;
            let place = (step.pass.fed, at.position());
            let finite = [&reference, &candidate].map(|row| row.iter().all(|x| x.is_finite()));
            match finite {
                [false, false] => met.not_finite += 1,
                both => {
                    let nmse = match both {
                        [true, true] => row_nmse(&reference, &candidate),
                        _ => f64::NAN,
                    };
                    if met.between.add(nmse) {
                        met.parting = Some(Parting {
                            fed: step.pass.fed,
                            position: at.position(),
                            cut: step.pass.cut(index),
                        });
                    }
                }
            }
            let origin = (pass, index, at);
            for (role, row) in [reference, candidate].into_iter().enumerate() {
                let (kept, own) = (&mut self.kept[role], &mut met.own[role]);
                if !finite[role] {
                    // The other engine shows that it need not be so.
                    if finite[1 - role] {
                        own.varied.add(f64::NAN);
                    }
                    continue;
                }
                let kept = kept.entry(place).or_default();
                if let Some(first) = kept.first().filter(|first| first.origin != origin)
                    && own.varied.add(row_nmse(&first.row, &row))
                {
                    met.strayed[role] = Some(Straying {
                        fed: step.pass.fed,
                        position: at.position(),
                        origins: [first.origin, origin],
                    });
                }
                if let Some(same) = kept.iter().find(|kept| kept.origin == origin) {
                    let nmse = row_nmse(&same.row, &row);
                    own.repeated.add(nmse);
                    self.repeats[role].rows += 1;
                    self.repeats[role].exact += u64::from(nmse == 0.0);
                } else {
                    kept.push(Kept { origin, row });
                }
            }
        }
        *self.met(step, asking.first, asking.batch) = met;
    }

    /// What an engine generated after `batch` tokens: one token, the most likely by its logits, which the same pass asked
    /// for before. Where they are missing or not finite, that is counted there.
    pub(super) fn generated(&mut self, role: Role, step: &Step, batch: Batch, tokens: &[u32]) {
        let kept = &self.kept[role.of(0, 1)];
        let Some(rows) = kept.get(&(step.pass.fed, batch.size - 1)) else {
            return;
        };
        let follows = follows(rows, tokens);
        let met = self.met(step, 0, batch);
        met.expected += 1;
        met.rows += 1;
        if !follows {
            met.contradicted.push(role);
        }
    }
}

/// Whether the one token is the most likely by one of these rows, or as near to it as they are to each other.
fn follows(rows: &[Kept], tokens: &[u32]) -> bool {
    let &[token] = tokens else { return false };
    let rows = || rows.iter().map(|kept| kept.row.as_slice());
    let noise = rows().flat_map(|a| rows().map(|b| max_difference(a, b)));
    let noise = noise.fold(0.0, f64::max);
    rows().any(|row| {
        let of_token = row.get(token as usize);
        let most = most_likely(row).and_then(|most| row.get(most));
        of_token
            .zip(most)
            .is_some_and(|(&x, &most)| f64::from(most) - f64::from(x) <= 2.0 * noise)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bitnet_model::tap::Tap;
    use reports::model::Asked;

    use super::*;

    const BATCH: Batch = Batch {
        size: 2,
        asked: Asked::Logits,
    };

    fn step(worker: History, n_ubatch: usize) -> Step {
        let pass = Pass {
            fed: Fed::Probe,
            n_ctx: 64,
            n_ubatch,
            batches: vec![BATCH],
        };
        Step { worker, pass }
    }

    /// Two rows of each engine.
    fn add(tally: &mut Tally, step: &Step, reference: [[f32; 2]; 2], candidate: [[f32; 2]; 2]) {
        let asking = Asking {
            first: 0,
            batch: BATCH,
            taps: &[Tap::Logits],
            n_vocab: 2,
        };
        let answer = |rows: [[f32; 2]; 2]| Answer {
            tapped: (0..).zip(rows.map(Vec::from)).collect(),
            last: None,
        };
        tally.add(step, 0, &asking, [answer(reference), answer(candidate)]);
    }

    #[test]
    fn rows_are_held_against_the_other_engines_and_their_own() {
        let (fresh, used) = (step(History::Fresh, 64), step(History::Used, 64));
        let cut_otherwise = step(History::Used, 32);
        let rows = [[1.0, 0.0], [0.0, 1.0]];
        let half = [[1.0, 0.0], [0.0, 0.5]];
        let mut tally = Tally::default();
        add(&mut tally, &fresh, rows, rows);
        add(&mut tally, &used, rows, half);
        let of =
            |tally: &Tally, step: &Step| tally.met[&step.pass.key(0, BATCH, step.worker)].clone();
        let met = of(&tally, &used);
        assert_eq!((met.expected, met.rows, met.largest_position), (2, 2, 1));
        assert_eq!(met.between.0, Some(0.25));
        let parting = Parting {
            fed: Fed::Probe,
            position: 1,
            cut: vec![2],
        };
        assert_eq!(met.parting, Some(parting));
        // The same was asked.
        assert_eq!(met.own.map(|own| own.repeated.0), [Some(0.0), Some(0.25)]);
        assert!(met.own.iter().all(|own| own.varied.0.is_none()));
        // One row in two is the same, which is enough to know that both could be.
        assert!(Role::BOTH.into_iter().all(|role| tally.repeats_bits(role)));
        add(&mut tally, &cut_otherwise, rows, half);
        let met = of(&tally, &cut_otherwise);
        assert_eq!(met.own[1].varied.0, Some(0.25));
        let noisy = [[1.0, 0.1], [0.1, 1.0]];
        let mut tally = Tally::default();
        add(&mut tally, &fresh, rows, rows);
        add(&mut tally, &used, noisy, rows);
        assert!(!tally.repeats_bits(Role::Reference) && tally.repeats_bits(Role::Candidate));
        assert_eq!(of(&tally, &fresh).between.0, Some(0.0));
    }

    #[test]
    fn what_is_missing_or_not_finite_is_not_compared() {
        let used = step(History::Used, 64);
        let rows = [[1.0, 0.0], [0.0, 1.0]];
        let nan = [[f32::NAN, 0.0], [0.0, 1.0]];
        let met = |reference, candidate| {
            let mut tally = Tally::default();
            add(&mut tally, &used, reference, candidate);
            tally.met.into_values().next().expect("a condition")
        };
        // One engine shows that the other need not be so.
        let one = met(rows, nan);
        assert!(one.own[1].varied.exceeds(1.0) && !one.own[0].varied.exceeds(0.0));
        assert!(one.between.exceeds(1.0) && one.not_finite == 0);
        let both = met(nan, nan);
        assert_eq!((both.not_finite, both.between.0), (1, Some(0.0)));

        let asking = Asking {
            first: 0,
            batch: BATCH,
            taps: &[Tap::Logits],
            n_vocab: 2,
        };
        let whole = Answer {
            tapped: BTreeMap::from([(0, vec![1.0, 0.0]), (1, vec![1.0, 0.0])]),
            last: None,
        };
        let mut tally = Tally::default();
        tally.add(&used, 0, &asking, [whole, Answer::default()]);
        let met = tally.met.into_values().next().expect("a condition");
        assert_eq!((met.expected, met.rows, met.missing), (2, 0, [0, 2]));
    }

    #[test]
    fn a_token_follows_from_the_rows_as_far_as_they_agree() {
        let kept = |row: [f32; 3]| Kept {
            origin: (0, 0, Row::Tapped(0)),
            row: row.to_vec(),
        };
        let same = [kept([1.0, 0.9, 0.0]), kept([1.0, 0.9, 0.0])];
        assert!(follows(&same, &[0]));
        assert!(!follows(&same, &[1]));
        let noisy = [kept([1.0, 0.9, 0.0]), kept([0.94, 0.9, 0.0])];
        assert!(follows(&noisy, &[1]) && !follows(&noisy, &[2]));
        for tokens in [&[][..], &[3], &[0, 0]] {
            assert!(!follows(&same, tokens));
        }
    }
}
