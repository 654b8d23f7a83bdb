//! Deliberate errors in the engine under test, to prove that the comparison sees them.
//!
//! An observer puts them in: at one tap it replaces the engine's values by those of a copy of the stage that makes a
//! [`Mistake`]. So the engine itself knows nothing of them, and without one no observer is there.
//!
//! The copies are written from the model's definition a second time, without anything of the oracle, which judges them: a
//! mistake in code that both used could hide. Weights are decoded as the engine decodes them.
//!
//! | module | what |
//! |---|---|
//! | `mistake` | the catalogue |
//! | `stages`, `product` | the stages of a layer, with a mistake or without |
//! | `weights` | tensors, row by row |
//! | `injector` | the observer, which remembers in `rows` what a stage starts from |

mod injector;
mod mistake;
mod product;
mod rows;
mod stages;
mod weights;

use std::fmt;
use std::str::FromStr;

use bitnet_model::tap::Tap;

pub(crate) use self::injector::Injector;
pub use self::mistake::Mistake;

/// A mistake, and where it is made. The text form is `MISTAKE:TAP[:LAYER][:SCOPE]`, with `*` for every layer:
/// `silu:ffn_act:4`, `other-pairing:q_rope:*`, `zero:attn_out:2:one-head`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fault {
    /// What is done wrong.
    pub mistake: Mistake,
    /// At which tap.
    pub tap: Tap,
    /// In which layer; `None` for every one, or for a tap outside the layers.
    pub layer: Option<usize>,
    /// To which of its values.
    pub scope: Scope,
}

/// Which values of a stage a fault concerns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scope {
    /// All of them.
    #[default]
    Everywhere,
    /// The last row of each batch.
    LastPosition,
    /// The rows behind the last multiple of four in a batch: what a blocked kernel has left over.
    BatchTail,
    /// Batches of one token.
    OneTokenBatches,
    /// The last head.
    OneHead,
    /// The second half of each row: the share of one of two threads.
    OneThread,
}

impl Scope {
    /// Every one.
    pub const ALL: [Scope; 6] = [
        Scope::Everywhere,
        Scope::LastPosition,
        Scope::BatchTail,
        Scope::OneTokenBatches,
        Scope::OneHead,
        Scope::OneThread,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Scope::Everywhere => "everywhere",
            Scope::LastPosition => "last-position",
            Scope::BatchTail => "batch-tail",
            Scope::OneTokenBatches => "one-token-batches",
            Scope::OneHead => "one-head",
            Scope::OneThread => "one-thread",
        }
    }

    /// The scope of that name.
    pub fn named(name: &str) -> Option<Scope> {
        Scope::ALL.into_iter().find(|scope| scope.name() == name)
    }

    /// Whether a row of a batch of `n_tokens` belongs.
    fn row(self, row: usize, n_tokens: usize) -> bool {
        match self {
            Scope::LastPosition => row + 1 == n_tokens,
            Scope::BatchTail => row >= n_tokens / 4 * 4,
            Scope::OneTokenBatches => n_tokens == 1,
            Scope::Everywhere | Scope::OneHead | Scope::OneThread => true,
        }
    }

    /// Whether an element of a row belongs; `heads` are those that the row is made of.
    fn element(self, element: usize, width: usize, heads: usize) -> bool {
        match self {
            Scope::OneHead => element >= width / heads * (heads - 1),
            Scope::OneThread => element >= width / 2,
            _ => true,
        }
    }
}

/// A kind of fault, for whoever draws places for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultKind {
    /// What is done wrong.
    pub mistake: &'static str,
    /// To which values; `None` for all of a stage.
    pub scope: Option<&'static str>,
    /// At which taps, in models that have them.
    pub taps: Vec<Tap>,
    /// What must be there for it to have consequences; `None` if it always has.
    pub needs: Option<&'static str>,
}

impl FaultKind {
    /// Every kind, in the catalogue's order.
    pub fn all() -> Vec<FaultKind> {
        let everywhere = Mistake::ALL.iter().map(|&m| (m, Scope::Everywhere));
        let kinds = everywhere.chain(mistake::NARROWED.iter().copied());
        let kind = |(mistake, scope): (Mistake, Scope)| {
            let taps = mistake.taps().iter().copied();
            FaultKind {
                mistake: mistake.name(),
                scope: (scope != Scope::Everywhere).then(|| scope.name()),
                taps: taps
                    .filter(|tap| scope != Scope::OneHead || tap.has_heads())
                    .collect(),
                needs: mistake.needs(),
            }
        };
        kinds.map(kind).collect()
    }

    /// In words.
    pub fn name(&self) -> String {
        match self.scope {
            None => self.mistake.to_owned(),
            Some(scope) => format!("{}, {scope}", self.mistake),
        }
    }

    /// The text form of the fault of this kind at a tap, in a layer or in every one.
    pub fn at(&self, tap: Tap, layer: Option<usize>) -> String {
        text_form(self.mistake, tap, layer, self.scope)
    }
}

fn text_form(mistake: &str, tap: Tap, layer: Option<usize>, scope: Option<&str>) -> String {
    let layer = match layer {
        Some(layer) => format!(":{layer}"),
        None if tap.per_layer() => ":*".to_owned(),
        None => String::new(),
    };
    let scope = scope.map_or(String::new(), |scope| format!(":{scope}"));
    format!("{mistake}:{tap}{layer}{scope}")
}

/// A string that is not a [`Fault`].
#[derive(Debug, thiserror::Error)]
#[error("unknown fault {0:?}: expected MISTAKE:TAP[:LAYER][:SCOPE], such as silu:ffn_act:4")]
pub struct ParseFaultError(String);

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(s: &str) -> Result<Fault, ParseFaultError> {
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
            let fault = Fault {
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

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scope = (self.scope != Scope::Everywhere).then(|| self.scope.name());
        f.write_str(&text_form(self.mistake.name(), self.tap, self.layer, scope))
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
            "scaled-by-half-again:logits",
            "negated:logits:last-position",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "silu",
            "silu:ffn_act",
            "silu:q:1",
            "silu:ffn_act:x",
            "silu:ffn_act:1:nowhere",
            "silu:ffn_act:1:one-head:more",
            "gremlins:q:1",
        ] {
            assert!(text.parse::<Fault>().is_err(), "{text}");
        }
    }

    #[test]
    fn kinds_are_faults_wherever_they_can_be() {
        for kind in FaultKind::all() {
            assert!(!kind.taps.is_empty(), "{}", kind.name());
            for &tap in &kind.taps {
                for layer in [None, tap.per_layer().then_some(2)] {
                    let text = kind.at(tap, layer);
                    let fault: Fault = text.parse().unwrap();
                    assert_eq!((fault.tap, fault.layer), (tap, layer), "{text}");
                    assert_eq!(fault.to_string(), text);
                }
            }
        }
    }

    #[test]
    fn names_are_distinct() {
        for &mistake in Mistake::ALL {
            assert_eq!(Mistake::named(mistake.name()), Some(mistake));
        }
        for scope in Scope::ALL {
            assert_eq!(Scope::named(scope.name()), Some(scope));
        }
    }

    #[test]
    fn scopes() {
        let rows = |scope: Scope, n| (0..n).filter(|&i| scope.row(i, n)).collect::<Vec<_>>();
        assert_eq!(rows(Scope::LastPosition, 6), [5]);
        assert_eq!(rows(Scope::BatchTail, 6), [4, 5]);
        assert!(rows(Scope::BatchTail, 4).is_empty());
        assert!(rows(Scope::OneTokenBatches, 6).is_empty());
        assert_eq!(rows(Scope::OneTokenBatches, 1), [0]);
        assert_eq!(rows(Scope::OneHead, 2), [0, 1]);
        let elements = |scope: Scope| (0..12).filter(move |&i| scope.element(i, 12, 4));
        assert!(elements(Scope::OneHead).eq(9..12));
        assert!(elements(Scope::OneThread).eq(6..12));
        assert!(elements(Scope::Everywhere).eq(0..12));
    }
}
