//! Deliberate errors in an engine, to prove that the comparison sees them.
//!
//! Mistakes in a stage are put in by an observer: at one tap it replaces the engine's values by those of a copy of the
//! stage that makes the [`Mistake`]. Mistakes around the stages (in sampling, in the tokenizer, in what it says of its
//! times) are made by a backend that stands in front of the engine's. So the engine itself knows nothing of them, and
//! without one neither is there.
//!
//! The copies are written from the model's definition a second time, without anything of the oracle, which judges them: a
//! mistake in code that both used could hide. Weights are decoded as the engine decodes them.
//!
//! | module | what |
//! |---|---|
//! | `mistake` | the catalogue of mistakes in stages |
//! | `scope`, `condition` | which values of a stage, and when |
//! | `stages`, `product` | the stages of a layer, with a mistake or without |
//! | `weights` | tensors, row by row |
//! | `blocks` | weights as codes in blocks |
//! | `injector` | the observer, which remembers in `rows` what a stage starts from |
//! | `backend` | the backend in front of the engine's |
//! | `generation`, `tokenizer`, `times` | mistakes around the stages |
//! | `kinds` | kinds of faults, and where each can be |

mod backend;
mod blocks;
mod condition;
mod generation;
mod injector;
mod kinds;
mod mistake;
mod product;
mod rows;
mod scope;
mod stages;
mod times;
mod tokenizer;
mod weights;

use std::fmt;
use std::str::FromStr;

use bitnet_model::nearest::did_you_mean;
use bitnet_model::tap::Tap;

pub(crate) use self::backend::FaultyBackend;
pub(crate) use self::condition::Asked;
pub use self::condition::Condition;
pub use self::generation::GenerationMistake;
pub(crate) use self::injector::Injectors;
pub use self::kinds::{FaultKind, Place, Proof};
pub use self::mistake::Mistake;
pub use self::scope::Scope;
pub(crate) use self::times::Tampered;
pub use self::times::{Figure, TimingMistake};
pub use self::tokenizer::TokenizerMistake;

/// Faults of one engine. The text form is theirs, joined by `+`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

/// A fault: what is done wrong, and when, if it is about stages or generation. The text form is that of the act, then that of the condition:
/// `silu:ffn_act:4`, `negated:q:*@batches=9..16`, `second-best=3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What is done wrong.
    pub act: Act,
    /// When.
    pub when: Condition,
}

/// What is done wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Act {
    /// A stage is computed wrongly.
    Stage(StageFault),
    /// Tokens are chosen wrongly, from the n-th on, counted from 0. The text form is `MISTAKE=N`.
    Generation(GenerationMistake, usize),
    /// Texts are tokenized wrongly; which token it is about, of those that it can be about, counted from 0. The text form
    /// is `MISTAKE=N`.
    Tokenizer(TokenizerMistake, usize),
    /// A time is told wrongly. The text form is `MISTAKE=FIGURE`.
    Times(TimingMistake, Figure),
    /// Generation takes longer by so many percent. The text form is `slower=PERCENT`.
    Slower(u32),
}

/// A mistake in a stage, and where it is made. The text form is `MISTAKE:TAP[:LAYER][:SCOPE]`, with `*` for every layer:
/// `silu:ffn_act:4`, `other-pairing:q_rope:*`, `zero:attn_out:2:one-head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StageFault {
    /// What is done wrong.
    pub mistake: Mistake,
    /// At which tap.
    pub tap: Tap,
    /// In which layer; `None` for every one, or for a tap outside the layers.
    pub layer: Option<usize>,
    /// To which of its values.
    pub scope: Scope,
}

const SLOWER: &str = "slower";

impl Faults {
    /// Those of stages, with their conditions.
    pub(crate) fn of_stages(&self) -> Vec<(StageFault, Condition)> {
        let of_stages = self.0.iter().filter_map(|fault| match fault.act {
            Act::Stage(stage) => Some((stage, fault.when)),
            _ => None,
        });
        of_stages.collect()
    }
}

/// A string that is not a [`Fault`].
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown fault {0:?}{hint}: expected MISTAKE:TAP[:LAYER][:SCOPE] or MISTAKE=VALUE, then nothing or @CONDITION, such as \
     silu:ffn_act:4 or second-best=3@timed",
    hint = meant(.0)
)]
pub struct ParseFaultError(String);

/// What was probably meant by the name of a mistake, or by that of its tap.
fn meant(fault: &str) -> String {
    let act = fault.split_once('@').map_or(fault, |(act, _)| act);
    let mut parts = act.split([':', '=']);
    let name = parts.next().unwrap_or_default();
    let stages = Mistake::ALL.iter().map(|m| m.name());
    let around = GenerationMistake::ALL.into_iter().map(|m| m.name());
    let around = around.chain(TokenizerMistake::ALL.into_iter().map(|m| m.name()));
    let around = around.chain(TimingMistake::ALL.into_iter().map(|m| m.name()));
    let names: Vec<&str> = stages.chain(around).chain([SLOWER]).collect();
    let (wrong, known) = match (Mistake::named(name), parts.next()) {
        (Some(mistake), Some(tap)) => (tap, mistake.taps().iter().map(|t| t.name()).collect()),
        _ => (name, names),
    };
    match known.contains(&wrong) {
        true => String::new(),
        false => did_you_mean(wrong, known),
    }
}

impl FromStr for Faults {
    type Err = ParseFaultError;

    fn from_str(s: &str) -> Result<Faults, ParseFaultError> {
        s.split('+')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Faults)
    }
}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(s: &str) -> Result<Fault, ParseFaultError> {
        let parse = || {
            let (act, when) = match s.split_once('@') {
                Some((act, when)) => (act, Condition::named(when)?),
                None => (s, Condition::Always),
            };
            let act = match act.contains(':') {
                true => Act::Stage(act.parse().ok()?),
                false => around_the_stages(act)?,
            };
            let conditional = matches!(act, Act::Stage(_) | Act::Generation(..));
            (conditional || when == Condition::Always).then_some(Fault { act, when })
        };
        parse().ok_or_else(|| ParseFaultError(s.to_owned()))
    }
}

fn around_the_stages(text: &str) -> Option<Act> {
    let (name, value) = text.split_once('=')?;
    if let Some(mistake) = TimingMistake::named(name) {
        return Some(Act::Times(mistake, Figure::named(value)?));
    }
    if name == SLOWER {
        return Some(Act::Slower(value.parse().ok()?));
    }
    let n = value.parse().ok()?;
    let generation = GenerationMistake::named(name).map(|m| Act::Generation(m, n));
    generation.or_else(|| Some(Act::Tokenizer(TokenizerMistake::named(name)?, n)))
}

impl FromStr for StageFault {
    type Err = ParseFaultError;

    fn from_str(s: &str) -> Result<StageFault, ParseFaultError> {
        let parse = || {
            let mut parts = s.split(':');
            let mistake = Mistake::named(parts.next()?)?;
            let tap: Tap = parts.next()?.parse().ok()?;
            let mut layer = None;
            if tap.per_layer() {
                layer = match parts.next()? {
                    "*" => None,
                    layer => Some(layer.parse().ok()?),
                };
            }
            let scope = match parts.next() {
                Some(scope) => Scope::named(scope)?,
                None => Scope::Everywhere,
            };
            let fault = StageFault {
                mistake,
                tap,
                layer,
                scope,
            };
            (parts.next().is_none() && mistake.taps().contains(&tap)).then_some(fault)
        };
        parse().ok_or_else(|| ParseFaultError(s.to_owned()))
    }
}

impl fmt::Display for StageFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.mistake.name(), self.tap)?;
        match self.layer {
            Some(layer) => write!(f, ":{layer}")?,
            None if self.tap.per_layer() => f.write_str(":*")?,
            None => {}
        }
        match self.scope {
            Scope::Everywhere => Ok(()),
            scope => write!(f, ":{scope}"),
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Stage(fault) => fault.fmt(f),
            Act::Generation(mistake, n) => write!(f, "{}={n}", mistake.name()),
            Act::Tokenizer(mistake, n) => write!(f, "{}={n}", mistake.name()),
            Act::Times(mistake, figure) => write!(f, "{}={}", mistake.name(), figure.name()),
            Act::Slower(percent) => write!(f, "{SLOWER}={percent}"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.act, self.when)
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { "+" })?;
            fault.fmt(f)?;
        }
        Ok(())
    }
}

/// Why a fault could not be put in.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InjectError {
    /// The model could not be read.
    #[error(transparent)]
    Model(#[from] bitnet_model::Error),
    /// The stage starts from something that did not go by, or is not in the file.
    #[error("the stage with the fault lacks {0}")]
    Missing(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_round_trip() {
        for text in [
            "silu:ffn_act:4",
            "other-pairing:q_rope:*",
            "zero:attn_out:2:one-head",
            "zero:attn_out:2:head=1@batches=9..16",
            "scaled-by-half-again:logits",
            "negated:logits:last-elements=64@untapped",
            "second-best=3@timed",
            "merge-missing=2",
            "half-the-time=decode",
            "slower=50",
            "silu:ffn_act:4+half-the-time=load",
        ] {
            assert_eq!(text.parse::<Faults>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "silu",
            "silu:ffn_act",
            "silu:q:1",
            "silu:ffn_act:x",
            "silu:ffn_act:1:nowhere",
            "silu:ffn_act:1:one-head:more",
            "silu:ffn_act:1@",
            "silu:ffn_act:1@later",
            "silu:ffn_act:1+",
            "gremlins:q:1",
            "gremlins=1",
            "second-best",
            "second-best=x",
            "half-the-time=lunch",
            "slower=-1",
            "slower=50@timed",
        ] {
            assert!(text.parse::<Faults>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_was_meant_is_said() {
        for (text, says) in [
            ("sliu:ffn_act:1", "(did you mean \"silu\"?)"),
            ("silu:fnn_act:1", "(did you mean \"ffn_act\"?)"),
            ("secnd-best=3", "(did you mean \"second-best\"?)"),
            ("half-teh-time=load", "(did you mean \"half-the-time\"?)"),
        ] {
            let error = text.parse::<Faults>().unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
        let error = "gremlins".parse::<Faults>().unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }
}
