//! Random choices that are the same on every machine.

use std::ops::RangeInclusive;

use bitnet_model::random::Rng;

/// What decides.
pub(super) struct Dice(Rng);

impl Dice {
    /// A stream of its own for every seed and name.
    pub fn new(seed: u64, name: &str) -> Dice {
        Dice(Rng::new(seed, name))
    }

    /// From 0, below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        self.0.below(n)
    }

    pub fn within(&mut self, range: RangeInclusive<usize>) -> usize {
        range.start() + self.below(range.end() - range.start() + 1)
    }

    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }

    pub fn char(&mut self, run: RangeInclusive<char>) -> char {
        let (first, last) = (u32::from(*run.start()), u32::from(*run.end()));
        let offset = self.below((last - first + 1) as usize) as u32;
        // Only a run across the surrogates has holes.
        char::from_u32(first + offset).unwrap_or(*run.start())
    }

    pub fn char_of(&mut self, all: &str) -> char {
        let at = self.below(all.chars().count());
        all.chars().nth(at).unwrap_or(' ')
    }

    /// Bytes: mostly up to a hundred, now and then a few thousand.
    pub fn length(&mut self) -> usize {
        match self.below(100) {
            0 => self.within(600..=4000),
            1..10 => self.within(100..=600),
            _ => self.within(1..=100),
        }
    }
}
