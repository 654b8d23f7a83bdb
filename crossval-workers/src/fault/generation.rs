//! Mistakes in generating: another token than the logits say.

use bitnet_core::sampling::greedy;
use bitnet_model::random::Rng;

/// A way of getting the next token wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GenerationMistake {
    /// The second most likely token.
    SecondBest,
    /// The token once chosen, for ever.
    OneTokenForEver,
    /// The least likely token.
    LeastLikely,
    /// The ID after that of the most likely token.
    NextId,
    /// A random token.
    DrawnAtRandom,
    /// No token that was generated before.
    NoRepetition,
    /// The most likely token of the step before.
    StepLate,
    /// The last token of the prompt is not evaluated.
    PromptCutShort,
    /// A prompt that was there before is not evaluated: the answers of then are given.
    AnswersStored,
}

impl GenerationMistake {
    /// Every one.
    pub const ALL: [GenerationMistake; 9] = [
        GenerationMistake::SecondBest,
        GenerationMistake::OneTokenForEver,
        GenerationMistake::LeastLikely,
        GenerationMistake::NextId,
        GenerationMistake::DrawnAtRandom,
        GenerationMistake::NoRepetition,
        GenerationMistake::StepLate,
        GenerationMistake::PromptCutShort,
        GenerationMistake::AnswersStored,
    ];

    /// Its name in a fault's text form.
    pub fn name(self) -> &'static str {
        match self {
            GenerationMistake::SecondBest => "second-best",
            GenerationMistake::OneTokenForEver => "one-token-for-ever",
            GenerationMistake::LeastLikely => "least-likely",
            GenerationMistake::NextId => "next-id",
            GenerationMistake::DrawnAtRandom => "drawn-at-random",
            GenerationMistake::NoRepetition => "no-repetition",
            GenerationMistake::StepLate => "step-late",
            GenerationMistake::PromptCutShort => "prompt-cut-short",
            GenerationMistake::AnswersStored => "answers-stored",
        }
    }

    /// The mistake of that name.
    pub fn named(name: &str) -> Option<GenerationMistake> {
        GenerationMistake::ALL
            .into_iter()
            .find(|m| m.name() == name)
    }

    /// What must be there for it to have consequences; `None` if it always has.
    pub(super) fn needs(self) -> Option<&'static str> {
        match self {
            GenerationMistake::NoRepetition => Some("a token that is generated twice"),
            _ => None,
        }
    }

    /// The token chosen by mistake, from the logits of this step; `before` are the tokens chosen so far, `late` the most
    /// likely one of the step before.
    pub(super) fn choose(self, logits: &[f32], before: &[u32], late: Option<u32>) -> u32 {
        let best = greedy(logits);
        let without = |excluded: &[u32]| {
            let mut left = logits.to_vec();
            for &token in excluded {
                left[token as usize] = f32::NEG_INFINITY;
            }
            greedy(&left)
        };
        match self {
            GenerationMistake::SecondBest => without(&[best]),
            GenerationMistake::OneTokenForEver => before.last().copied().unwrap_or(best),
            GenerationMistake::LeastLikely => {
                let negated: Vec<f32> = logits.iter().map(|v| -v).collect();
                greedy(&negated)
            }
            GenerationMistake::NextId => (best + 1) % logits.len() as u32,
            GenerationMistake::DrawnAtRandom => {
                // The same of the same, so that the engine repeats itself.
                Rng::new(before.len() as u64, "fault").below(logits.len()) as u32
            }
            GenerationMistake::NoRepetition => without(before),
            GenerationMistake::StepLate => late.unwrap_or(best),
            GenerationMistake::PromptCutShort | GenerationMistake::AnswersStored => best,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_chosen_as_the_mistake_says() {
        let logits = [0.0, 3.0, -1.0, 2.0];
        let choose =
            |mistake: GenerationMistake, before: &[u32]| mistake.choose(&logits, before, Some(2));
        for (mistake, token) in [
            (GenerationMistake::SecondBest, 3),
            (GenerationMistake::OneTokenForEver, 0),
            (GenerationMistake::LeastLikely, 2),
            (GenerationMistake::NextId, 2),
            (GenerationMistake::NoRepetition, 3),
            (GenerationMistake::StepLate, 2),
            (GenerationMistake::PromptCutShort, 1),
            (GenerationMistake::AnswersStored, 1),
        ] {
            assert_eq!(choose(mistake, &[1, 0]), token, "{mistake:?}");
            assert_eq!(GenerationMistake::named(mistake.name()), Some(mistake));
        }
        let random = |n| choose(GenerationMistake::DrawnAtRandom, &[0; 8][..n]);
        assert!((1..8).any(|n| random(n) != random(0)));
        assert_eq!(choose(GenerationMistake::OneTokenForEver, &[]), 1);
    }
}
