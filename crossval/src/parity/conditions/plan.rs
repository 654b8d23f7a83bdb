//! Which conditions there are, and in which passes over the context they are met.

use std::collections::BTreeSet;

use bitnet_model::random::Rng;
use crossval_protocol::{ModelFacts, Settings};
use reports::model::{Asked, History, Stretch};

use crate::session::settings::COMPARED_UBATCH;

/// Largest batch, tokens: twice what the taps are compared in. Engines reserve memory for a row of logits per token.
const LARGEST_BATCH: usize = 2 * COMPARED_UBATCH;

/// Sizes of batches that engines have been seen to go other ways for, tokens.
const CLASSES: [SizeClass; 5] = [
    SizeClass::of("1", 1, 1),
    SizeClass::of("2-8", 2, 8),
    SizeClass::of("9-32", 9, 32),
    SizeClass::of("33-128", 33, COMPARED_UBATCH),
    SizeClass::of("above 128", COMPARED_UBATCH + 1, LARGEST_BATCH),
];

/// Rows of logits that every other condition is held against, bytes.
const KEPT_BYTES: usize = 64 << 20;

/// Tokens of a pass that costs little.
const FEW_TOKENS: usize = 32;

/// Evaluations of one token in a row.
const STEPS: usize = 64;

/// A prompt that the engine itself has to cut.
pub(super) const CUT_BY_ENGINE: &str = "above n_ubatch";

/// A range of sizes of batches.
#[derive(Clone, Copy)]
struct SizeClass {
    name: &'static str,
    smallest: usize,
    largest: usize,
}

impl SizeClass {
    const fn of(name: &'static str, smallest: usize, largest: usize) -> SizeClass {
        SizeClass {
            name,
            smallest,
            largest,
        }
    }

    fn n_sizes(self) -> usize {
        self.largest - self.smallest + 1
    }

    /// One of its sizes that is no larger than `most`.
    fn draw(self, most: usize, rng: &mut Rng) -> Option<usize> {
        let largest = self.largest.min(most);
        (self.smallest <= largest).then(|| self.smallest + rng.below(largest - self.smallest + 1))
    }
}

/// The sizes of a class in parts as large as each other, of which none is drawn twice before each was drawn once: faults
/// are of some sizes in a row.
struct Deck {
    class: SizeClass,
    parts: Vec<SizeClass>,
}

impl Deck {
    const PARTS: usize = 8;

    fn of(class: SizeClass) -> Deck {
        let parts = Vec::new();
        Deck { class, parts }
    }

    /// A size that is no larger than `most`.
    fn draw(&mut self, most: usize, rng: &mut Rng) -> Option<usize> {
        for fresh in [false, true] {
            if fresh {
                self.shuffle(rng);
            }
            let fits = self.parts.iter().position(|part| part.smallest <= most);
            if let Some(part) = fits {
                return self.parts.remove(part).draw(most, rng);
            }
        }
        None
    }

    fn shuffle(&mut self, rng: &mut Rng) {
        let SizeClass { name, smallest, .. } = self.class;
        let n_sizes = self.class.n_sizes();
        let n = Deck::PARTS.min(n_sizes);
        let start = |part| smallest + part * n_sizes / n;
        let parts = (0..n).map(|part| SizeClass::of(name, start(part), start(part + 1) - 1));
        self.parts = parts.collect();
        self.parts.sort_by_cached_key(|_| rng.next_u64());
    }
}

/// The class of a batch.
fn class(size: usize) -> &'static str {
    let class = CLASSES.iter().find(|class| size <= class.largest);
    class.map_or(CLASSES[CLASSES.len() - 1].name, |class| class.name)
}

/// Where in the context a batch lies.
fn stretch(first: usize, size: usize, n_ctx: usize) -> Stretch {
    if first == 0 {
        Stretch::Start
    } else if first >= last_quarter(n_ctx) || first + size == n_ctx {
        Stretch::End
    } else {
        Stretch::Middle
    }
}

fn last_quarter(n_ctx: usize) -> usize {
    n_ctx - n_ctx / 4
}

/// A condition, by which results are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub(super) batch: &'static str,
    pub(super) place: Stretch,
    pub(super) asked: Asked,
    pub(super) context: usize,
    pub(super) worker: History,
}

impl Key {
    /// It, whatever the size of the context.
    pub(super) fn combination(&self) -> (&'static str, Stretch, Asked, History) {
        (self.batch, self.place, self.asked, self.worker)
    }
}

/// What is fed to the engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Fed {
    /// The tokens drawn for this.
    Probe,
    /// Others, so that something else was there before.
    Before,
    /// A prompt of the run and its decode steps, of which the candidate has seen the reference's values.
    Prompt(usize),
}

/// One evaluation, or a prompt for a generated token, which starts anew from position 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Batch {
    pub(super) size: usize,
    pub(super) asked: Asked,
}

/// Evaluations from position 0 on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pass {
    pub(super) fed: Fed,
    pub(super) n_ctx: usize,
    pub(super) n_ubatch: usize,
    pub(super) batches: Vec<Batch>,
}

impl Pass {
    fn new(fed: Fed, n_ctx: usize, batches: Vec<Batch>) -> Pass {
        Pass {
            fed,
            n_ctx,
            n_ubatch: LARGEST_BATCH.min(n_ctx),
            batches,
        }
    }

    /// The settings that it needs, but for the threads.
    pub(super) fn settings(&self, threads: usize) -> Settings {
        Settings {
            n_ctx: self.n_ctx,
            n_ubatch: self.n_ubatch,
            threads,
            observe: self.batches.iter().all(|b| b.asked != Asked::Unobserved),
            compact_head_budget: 0,
        }
    }

    /// Positions that it takes.
    pub(super) fn n_tokens(&self) -> usize {
        let ends = self.placed().map(|(first, batch)| first + batch.size);
        ends.max().unwrap_or(0)
    }

    /// The batches with the positions of their first tokens.
    pub(super) fn placed(&self) -> impl Iterator<Item = (usize, Batch)> {
        let mut end = 0;
        self.batches.iter().map(move |&batch| {
            let first = match batch.asked {
                Asked::Generated => 0,
                _ => end,
            };
            end = first + batch.size;
            (first, batch)
        })
    }

    /// Sizes of the batches from position 0 on, up to batch `index`.
    pub(super) fn cut(&self, index: usize) -> Vec<usize> {
        let mut cut = Vec::new();
        for (first, batch) in self.placed().take(index + 1) {
            if first == 0 {
                cut.clear();
            }
            cut.push(batch.size);
        }
        cut
    }

    /// The classes of its batches.
    fn classes(&self) -> BTreeSet<&'static str> {
        let batches = self.batches.iter().filter(|b| b.asked != Asked::Generated);
        batches.map(|batch| class(batch.size)).collect()
    }

    /// The condition that a batch is evaluated in.
    pub(super) fn key(&self, first: usize, batch: Batch, worker: History) -> Key {
        let cut = batch.asked == Asked::Generated;
        Key {
            batch: if cut {
                CUT_BY_ENGINE
            } else {
                class(batch.size)
            },
            place: stretch(first, batch.size, self.n_ctx),
            asked: batch.asked,
            context: self.n_ctx,
            worker,
        }
    }
}

/// A pass, and the worker that makes it.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) worker: History,
    pub(super) pass: Pass,
}

impl Step {
    /// The conditions that it meets.
    pub(super) fn keys(&self) -> impl Iterator<Item = Key> {
        let placed = self.pass.placed();
        placed.map(|(first, batch)| self.pass.key(first, batch, self.worker))
    }
}

/// What the conditions are made for.
pub(super) struct Subject<'a> {
    pub(super) facts: &'a ModelFacts,
    /// Those of the comparison of the taps.
    pub(super) settings: Settings,
    /// Tokens of each prompt, and of its decode steps.
    pub(super) prompts: Vec<(usize, usize)>,
    /// How logits can be asked for, of both engines: row by row first if they can, without taps last.
    pub(super) asked: Vec<Asked>,
}

impl Subject<'_> {
    /// The fewest that say something: a small batch of each kind, untapped and tapped, in a used worker and a fresh one.
    pub(super) fn few(&self, rng: &mut Rng) -> Vec<Step> {
        let n_ctx_train = self.facts.n_ctx_train;
        let mut sizes = Vec::new();
        for class in &CLASSES[..3] {
            let room = n_ctx_train - sizes.iter().sum::<usize>();
            sizes.extend(class.draw(room, rng));
        }
        let n = sizes.iter().sum::<usize>();
        let n_ctx = n.next_multiple_of(32).min(n_ctx_train);
        let small = |asked: Asked| {
            let batches = sizes.iter().map(|&size| Batch { size, asked });
            Pass::new(Fed::Probe, n_ctx, batches.collect())
        };
        let mut steps = Vec::new();
        let mut step = |worker, pass| steps.push(Step { worker, pass });
        step(History::Fresh, small(Asked::LastLogits));
        if let Some(mut prompt) = self.prompt(0, Asked::AllTaps) {
            let mut end = 0;
            prompt.batches.retain(|batch| {
                end += batch.size;
                end <= COMPARED_UBATCH
            });
            step(History::Used, prompt.clone());
            step(History::Fresh, prompt);
        }
        let whole = Batch {
            size: n,
            asked: self.asked[0],
        };
        step(History::Used, Pass::new(Fed::Probe, n_ctx, vec![whole]));
        step(History::Used, small(Asked::LastLogits));
        step(History::Used, small(self.asked[0]));
        if let Some(pass) = self.generation(n, n_ctx, Asked::Unobserved) {
            step(History::Used, pass);
        }
        steps
    }

    /// What a sample goes on with after `few`: sizes of batches that were not met there, then what costs least.
    pub(super) fn more(&self, n_ctx: usize, few: &[Step], rng: &mut Rng) -> Vec<Step> {
        let mut steps = self.steps(n_ctx, false, rng);
        steps.sort_by(|a, b| self.cost(&a.pass).total_cmp(&self.cost(&b.pass)));
        let mut met: BTreeSet<_> = few.iter().flat_map(|step| step.pass.classes()).collect();
        let (mut first, more): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(|step| {
            let classes = step.pass.classes();
            let new = !classes.is_subset(&met);
            met.extend(classes);
            new
        });
        first.extend(more);
        first
    }

    /// Conditions in a context of `n_ctx` tokens, in a fresh worker and in a used one. If they are to be `thorough`, large
    /// batches are asked in every way everywhere, and everything is done twice in each worker; else large batches are
    /// asked in another way at each place, what takes few tokens is done twice in each worker, and of what goes through
    /// the whole context one pass is made in both workers, and of the others every other one in each.
    pub(super) fn steps(&self, n_ctx: usize, thorough: bool, rng: &mut Rng) -> Vec<Step> {
        let whole = self.whole(Fed::Probe, n_ctx);
        let mut passes = covering(n_ctx, &self.asked, thorough, rng);
        passes.extend(covering(n_ctx, &[Asked::Unobserved], thorough, rng));
        let other = (n_ctx / 2).next_multiple_of(32);
        let mut of_other = match other < n_ctx {
            true => covering(other, &self.asked, thorough, rng),
            false => Vec::new(),
        };
        if !thorough {
            of_other.sort_by_key(Pass::n_tokens);
            of_other.truncate(1);
        }
        let mut again = passes.clone();
        again.retain(|pass| thorough || pass.n_tokens() <= FEW_TOKENS);
        let prompts = || 0..self.prompts.len();
        // In the context in which their taps were compared, and in this one.
        let in_this = prompts().filter_map(|index| {
            let prompt = self.prompt(index, Asked::LastLogits)?;
            (prompt.n_tokens() <= n_ctx).then_some(Pass { n_ctx, ..prompt })
        });
        let prompts = prompts().filter_map(|index| self.prompt(index, Asked::AllTaps));
        let prompts: Vec<Pass> = prompts.chain(in_this).collect();
        let mut steps = Vec::new();
        for worker in [History::Fresh, History::Used] {
            let mut push = |passes: &[Pass]| {
                let passes = passes.iter().cloned();
                steps.extend(passes.map(|pass| Step { worker, pass }));
            };
            push(&prompts);
            match worker {
                History::Fresh => push(std::slice::from_ref(&whole)),
                History::Used => push(&[self.whole(Fed::Before, n_ctx)]),
            }
            let mut far = 0;
            let mine = passes.iter().filter(|pass| {
                let whole = pass.n_tokens() == n_ctx;
                far += usize::from(whole);
                thorough || !whole || far == 1 || far % 2 == usize::from(worker == History::Used)
            });
            push(&mine.cloned().collect::<Vec<_>>());
            push(&of_other);
            if worker == History::Used {
                push(&[self.one_by_one(n_ctx)]);
                let n = CLASSES[2].draw(n_ctx, rng).unwrap_or(n_ctx);
                for asked in [Asked::LastLogits, Asked::Unobserved] {
                    push(self.generation(n, n_ctx, asked).as_slice());
                }
            }
            push(&again);
            if thorough || worker == History::Used {
                push(&prompts);
            }
            if thorough {
                push(&of_other);
                push(std::slice::from_ref(&whole));
            }
        }
        steps
    }

    /// As much of the context as rows are kept of, in large batches, row by row if that can be asked for; then its rest.
    fn whole(&self, fed: Fed, n_ctx: usize) -> Pass {
        let kept = KEPT_BYTES / (size_of::<f32>() * self.facts.n_vocab);
        let batches = (0..n_ctx).step_by(COMPARED_UBATCH).map(|first| Batch {
            size: COMPARED_UBATCH.min(n_ctx - first),
            asked: match first < kept {
                true => self.asked[0],
                false => Asked::LastLogits,
            },
        });
        Pass::new(fed, n_ctx, batches.collect())
    }

    /// Many evaluations of one token, as in generation.
    fn one_by_one(&self, n_ctx: usize) -> Pass {
        let asked = self.asked.iter().copied().cycle();
        let batches = asked.take(STEPS.min(n_ctx));
        let batches = batches.map(|asked| Batch { size: 1, asked });
        Pass::new(Fed::Probe, n_ctx, batches.collect())
    }

    /// A prompt of the run in the batches in which its taps were compared.
    fn prompt(&self, index: usize, asked: Asked) -> Option<Pass> {
        let &(n_prompt, n_steps) = self.prompts.get(index)?;
        let Settings {
            n_ctx, n_ubatch, ..
        } = self.settings;
        let sizes = (0..n_prompt).step_by(n_ubatch);
        let sizes = sizes.map(|first| n_ubatch.min(n_prompt - first));
        let sizes = sizes.chain(std::iter::repeat_n(1, n_steps));
        Some(Pass {
            fed: Fed::Prompt(index),
            n_ctx,
            n_ubatch,
            batches: sizes.map(|size| Batch { size, asked }).collect(),
        })
    }

    /// The logits of `n` tokens, which are more than the largest batch, and a token generated from them after the same cut.
    /// `asked` says whether engines are told that nobody observes it.
    fn generation(&self, n: usize, n_ctx: usize, asked: Asked) -> Option<Pass> {
        if n < 2 || n == n_ctx {
            return None;
        }
        let n_ubatch = (n / 2).min(32);
        let cut = (0..n).step_by(n_ubatch).map(|first| Batch {
            size: n_ubatch.min(n - first),
            asked,
        });
        let generated = Batch {
            size: n,
            asked: Asked::Generated,
        };
        let batches = cut.chain([generated]).collect();
        Some(Pass {
            n_ubatch,
            ..Pass::new(Fed::Probe, n_ctx, batches)
        })
    }

    /// What a pass costs, multiply-accumulates.
    pub(super) fn cost(&self, pass: &Pass) -> f64 {
        let ModelFacts {
            n_layer,
            n_embd,
            n_ff,
            n_head,
            n_head_kv,
            n_vocab,
            ..
        } = self.facts;
        let [embd, ff, vocab, layers] = [n_embd, n_ff, n_vocab, n_layer].map(|&n| n as f64);
        let kv = embd * *n_head_kv as f64 / (*n_head).max(1) as f64;
        let token = layers * (2.0 * embd * (embd + kv) + 3.0 * embd * ff);
        pass.placed()
            .map(|(first, Batch { size, asked })| {
                let (first, n) = (first as f64, size as f64);
                let rows = match asked {
                    Asked::Logits | Asked::BesideTaps | Asked::AllTaps => n,
                    _ => 1.0,
                };
                let attention = 2.0 * layers * embd * n * (first + n / 2.0);
                n * token + attention + rows * vocab * embd
            })
            .sum()
    }
}

/// Passes in which batches of every class start at position 0, amid the context and in its last quarter, asked in each of
/// these ways: the smallest ones in every size. Unless they are to be `thorough`, large batches are asked in one of the
/// ways at each place, and where there is but one, at one place.
fn covering(n_ctx: usize, asked: &[Asked], thorough: bool, rng: &mut Rng) -> Vec<Pass> {
    let n_places = Stretch::ALL.len();
    let turns = CLASSES.map(|_| rng.below(n_places));
    let mut decks: Vec<[Deck; 5]> = asked.iter().map(|_| CLASSES.map(Deck::of)).collect();
    let mut open = |place: usize, most: usize| {
        let mut batches = Vec::new();
        for (index, (class, turn)) in CLASSES.into_iter().zip(turns).enumerate() {
            for (way, &asked_so) in asked.iter().enumerate() {
                let turn = (turn + place) % n_places;
                if !thorough && class.largest > FEW_TOKENS && turn != way {
                    continue;
                }
                // The ways share the sizes of the larger ones.
                let (deck, n) = match class.n_sizes() {
                    few if few <= Deck::PARTS => (way, few.div_ceil(n_places)),
                    _ => (0, 1),
                };
                let deck = &mut decks[deck][index];
                let sizes = (0..n).filter_map(|_| deck.draw(most, rng));
                batches.extend(sizes.map(|size| Batch {
                    size,
                    asked: asked_so,
                }));
            }
        }
        batches.sort_by_cached_key(|_| rng.next_u64());
        batches
    };
    let mut starts = open(0, n_ctx);
    let mut middles = open(1, n_ctx.saturating_sub(2));
    let mut ends = open(2, n_ctx.saturating_sub(1));
    let filler = |size| Batch {
        size,
        asked: asked[asked.len() - 1],
    };
    let mut passes = Vec::new();
    while !(starts.is_empty() && middles.is_empty() && ends.is_empty()) {
        // One that is too large for the last quarter has it for itself.
        let mut tail: Vec<Batch> = ends.pop().into_iter().collect();
        let mut room = n_ctx - sum(&tail);
        while let Some(next) = take(&mut ends, (n_ctx / 4).saturating_sub(sum(&tail))) {
            tail.push(next);
            room -= next.size;
        }
        let head = take(&mut starts, room).unwrap_or(filler(1));
        room -= head.size;
        let mut middle = Vec::new();
        // The last of them must not end where the context does.
        let most = room.saturating_sub(usize::from(tail.is_empty()));
        while head.size + sum(&middle) < last_quarter(n_ctx)
            && let Some(next) = take(&mut middles, most - sum(&middle))
        {
            middle.push(next);
            room -= next.size;
        }
        let mut batches = vec![head];
        let fill = |batches: &mut Vec<Batch>, mut n: usize| {
            while n > 0 {
                let size = n.min(COMPARED_UBATCH);
                batches.push(filler(size));
                n -= size;
            }
        };
        let before = match tail.is_empty() || middle.is_empty() {
            true => 0,
            false => room.min((n_ctx / 2).saturating_sub(head.size + sum(&middle))),
        };
        fill(&mut batches, before);
        batches.extend(middle);
        if !tail.is_empty() {
            fill(&mut batches, room - before);
        }
        batches.extend(tail);
        passes.push(Pass::new(Fed::Probe, n_ctx, batches));
    }
    passes
}

fn sum(batches: &[Batch]) -> usize {
    batches.iter().map(|batch| batch.size).sum()
}

/// Takes the largest that is no larger than `most`.
fn take(batches: &mut Vec<Batch>, most: usize) -> Option<Batch> {
    let fits = batches.iter().enumerate().filter(|(_, b)| b.size <= most);
    let (index, _) = fits.max_by_key(|(_, batch)| batch.size)?;
    Some(batches.remove(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ASKED: [Asked; 3] = [Asked::Logits, Asked::BesideTaps, Asked::LastLogits];

    /// Batch, place and way of asking, of all batches.
    fn met(passes: &[Pass]) -> BTreeSet<(&'static str, Stretch, Asked)> {
        let keys = passes.iter().flat_map(|pass| {
            let placed = pass.placed();
            placed.map(|(first, batch)| pass.key(first, batch, History::Used))
        });
        keys.map(|key| (key.batch, key.place, key.asked)).collect()
    }

    #[test]
    fn a_generated_token_starts_anew() {
        let batch = |size, asked| Batch { size, asked };
        let batches = vec![
            batch(2, Asked::Logits),
            batch(3, Asked::Logits),
            batch(5, Asked::Generated),
            batch(1, Asked::Logits),
        ];
        let pass = Pass::new(Fed::Probe, 64, batches);
        assert_eq!([pass.cut(0), pass.cut(1)], [vec![2], vec![2, 3]]);
        assert_eq!(pass.cut(3), [5, 1]);
    }

    #[test]
    fn thorough_passes_meet_every_class_everywhere_in_every_way() {
        for seed in 0..20 {
            for n_ctx in [1, 2, 3, 8, 31, 64, 255, 256, 512, 4096] {
                let passes = covering(n_ctx, &ASKED, true, &mut Rng::new(seed, "test"));
                for pass in &passes {
                    let largest = pass.batches.iter().map(|b| b.size).max();
                    assert!(pass.n_tokens() <= n_ctx && largest <= Some(pass.n_ubatch));
                }
                let met = met(&passes);
                for class in CLASSES {
                    for (place, beside) in Stretch::ALL.into_iter().zip([0, 2, 1]) {
                        // In the smallest contexts the last quarter begins at once.
                        if class.smallest + beside > n_ctx || n_ctx < 8 {
                            continue;
                        }
                        for asked in ASKED {
                            let wanted = (class.name, place, asked);
                            assert!(met.contains(&wanted), "{n_ctx}: {wanted:?}");
                        }
                    }
                }
                assert!(passes.len() <= 25, "{n_ctx}: {}", passes.len());
            }
        }
    }

    #[test]
    fn other_passes_meet_every_two_of_class_place_and_way() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed, "test");
            let passes = covering(256, &ASKED, false, &mut rng);
            let met_here = met(&passes);
            let pairs = |of: &BTreeSet<(&'static str, Stretch, Asked)>| {
                let placed: BTreeSet<_> = of.iter().map(|m| (m.0, m.1)).collect();
                let asked: BTreeSet<_> = of.iter().map(|m| (m.0, m.2)).collect();
                (placed.len(), asked.len())
            };
            assert_eq!(pairs(&met_here), (15, 15), "{met_here:?}");
            let tokens: usize = passes.iter().map(Pass::n_tokens).sum();
            assert!(tokens <= 8 * 256, "{tokens}");
            let unobserved = met(&covering(256, &[Asked::Unobserved], false, &mut rng));
            let classes: BTreeSet<_> = unobserved.iter().map(|m| m.0).collect();
            assert_eq!(classes.len(), CLASSES.len());
            let small = passes.iter().flat_map(|pass| &pass.batches);
            let small = small.filter(|batch| batch.size <= CLASSES[1].largest);
            let small: BTreeSet<_> = small.map(|batch| (batch.size, batch.asked)).collect();
            assert_eq!(small.len(), CLASSES[1].largest * ASKED.len(), "{small:?}");
        }
    }
}
