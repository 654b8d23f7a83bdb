//! When a fault is made.

use std::fmt;

use crossval_protocol::Settings;

/// When a fault is made. The text form follows an `@`: `@batches=9..16`, `@untapped`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// In batches of so many tokens, both ends included.
    Batches(usize, usize),
    /// At this position of the sequence and after it.
    FromPosition(usize),
    /// From the n-th evaluation on, counted from 1.
    FromEvaluation(u64),
    /// In the first n evaluations only: of a worker that is fresh.
    FirstEvaluations(u64),
    /// In every n-th evaluation.
    EveryEvaluation(u64),
    /// In sequences that start otherwise than the first did.
    OtherPrompt,
    /// With this number of threads.
    Threads(usize),
    /// Where no taps are asked for.
    Untapped,
    /// While tokens are generated.
    Generating,
    /// Where the driver has said that it will ask for no taps: while it takes times.
    Timed,
}

/// What is asked of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Asked {
    /// Taps.
    #[default]
    Tapped,
    /// The last logits alone.
    Untapped,
    /// The next token.
    Generating,
}

/// Under which circumstances an engine evaluates.
#[derive(Clone, Debug, Default)]
pub(crate) struct Circumstances {
    threads: usize,
    timed: bool,
    asked: Asked,
    evaluations: u64,
    n_tokens: usize,
    /// How the first sequence started.
    first_prompt: Vec<u32>,
    other_prompt: bool,
}

impl Circumstances {
    /// The engine is configured.
    pub(crate) fn configure(&mut self, settings: Settings) {
        self.threads = settings.threads;
        self.timed = !settings.observe;
    }

    /// A batch is about to be evaluated.
    pub(crate) fn begin(&mut self, asked: Asked, first_position: usize, tokens: &[u32]) {
        self.asked = asked;
        self.evaluations += 1;
        self.n_tokens = tokens.len();
        if first_position == 0 {
            if self.first_prompt.is_empty() {
                self.first_prompt = tokens.to_vec();
            }
            let mut both = self.first_prompt.iter().zip(tokens);
            self.other_prompt = both.any(|(first, now)| first != now);
        }
    }
}

impl Condition {
    /// Whether it holds at a position.
    pub(crate) fn holds(self, now: &Circumstances, position: usize) -> bool {
        match self {
            Condition::Always => true,
            Condition::Batches(from, to) => (from..=to).contains(&now.n_tokens),
            Condition::FromPosition(from) => position >= from,
            Condition::FromEvaluation(n) => now.evaluations >= n,
            Condition::FirstEvaluations(n) => now.evaluations <= n,
            Condition::EveryEvaluation(n) => now.evaluations.is_multiple_of(n),
            Condition::OtherPrompt => now.other_prompt,
            Condition::Threads(n) => now.threads == n,
            Condition::Untapped => now.asked != Asked::Tapped,
            Condition::Generating => now.asked == Asked::Generating,
            Condition::Timed => now.timed,
        }
    }

    /// The condition of that text form, without its `@`.
    pub fn named(text: &str) -> Option<Condition> {
        let Some((name, value)) = text.split_once('=') else {
            return Some(match text {
                "other-prompt" => Condition::OtherPrompt,
                "untapped" => Condition::Untapped,
                "generating" => Condition::Generating,
                "timed" => Condition::Timed,
                _ => return None,
            });
        };
        if name == "batches" {
            let (from, to) = value.split_once("..")?;
            return Some(Condition::Batches(from.parse().ok()?, to.parse().ok()?));
        }
        let n: u64 = value.parse().ok()?;
        Some(match name {
            "from-position" => Condition::FromPosition(n.try_into().ok()?),
            "from-evaluation" => Condition::FromEvaluation(n),
            "first-evaluations" => Condition::FirstEvaluations(n),
            "every-evaluation" if n > 0 => Condition::EveryEvaluation(n),
            "threads" => Condition::Threads(n.try_into().ok()?),
            _ => return None,
        })
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Always => Ok(()),
            Condition::Batches(from, to) => write!(f, "@batches={from}..{to}"),
            Condition::FromPosition(n) => write!(f, "@from-position={n}"),
            Condition::FromEvaluation(n) => write!(f, "@from-evaluation={n}"),
            Condition::FirstEvaluations(n) => write!(f, "@first-evaluations={n}"),
            Condition::EveryEvaluation(n) => write!(f, "@every-evaluation={n}"),
            Condition::OtherPrompt => f.write_str("@other-prompt"),
            Condition::Threads(n) => write!(f, "@threads={n}"),
            Condition::Untapped => f.write_str("@untapped"),
            Condition::Generating => f.write_str("@generating"),
            Condition::Timed => f.write_str("@timed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        for text in [
            "batches=9..16",
            "from-position=40",
            "from-evaluation=5",
            "first-evaluations=2",
            "every-evaluation=3",
            "other-prompt",
            "threads=2",
            "untapped",
            "generating",
            "timed",
        ] {
            let condition = Condition::named(text).unwrap();
            assert_eq!(condition.to_string(), format!("@{text}"));
        }
        for text in [
            "",
            "batches",
            "batches=9",
            "every-evaluation=0",
            "timed=1",
            "threads=x",
        ] {
            assert_eq!(Condition::named(text), None, "{text}");
        }
    }

    #[test]
    fn conditions_hold_where_they_say() {
        let mut now = Circumstances::default();
        now.configure(Settings {
            n_ctx: 32,
            n_ubatch: 32,
            threads: 2,
            observe: true,
            compact_head_budget: 0,
        });
        let holds = |now: &Circumstances, text: &str, position| {
            Condition::named(text).unwrap().holds(now, position)
        };
        now.begin(Asked::Tapped, 0, &[1, 2, 3]);
        for (text, at_0, at_2) in [
            ("batches=3..4", true, true),
            ("batches=1..2", false, false),
            ("from-position=2", false, true),
            ("from-evaluation=2", false, false),
            ("first-evaluations=1", true, true),
            ("every-evaluation=2", false, false),
            ("other-prompt", false, false),
            ("threads=2", true, true),
            ("threads=1", false, false),
            ("untapped", false, false),
            ("timed", false, false),
        ] {
            assert_eq!(
                (holds(&now, text, 0), holds(&now, text, 2)),
                (at_0, at_2),
                "{text}"
            );
        }
        // The same prompt in other batches, then a step, then another prompt.
        now.begin(Asked::Untapped, 0, &[1, 2]);
        assert!(!holds(&now, "other-prompt", 0) && holds(&now, "untapped", 0));
        assert!(holds(&now, "from-evaluation=2", 0) && holds(&now, "every-evaluation=2", 0));
        assert!(!holds(&now, "first-evaluations=1", 0));
        now.begin(Asked::Generating, 0, &[1, 7]);
        assert!(holds(&now, "other-prompt", 0) && holds(&now, "generating", 0));
        now.begin(Asked::Generating, 2, &[5]);
        assert!(holds(&now, "other-prompt", 2) && holds(&now, "untapped", 2));
        now.begin(Asked::Tapped, 0, &[1, 2, 3, 4]);
        assert!(!holds(&now, "other-prompt", 0));
    }
}
