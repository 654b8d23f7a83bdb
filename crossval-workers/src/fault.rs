//! Deliberate errors in the engine under test, to prove that the comparison sees them.
//!
//! An observer puts them in: at one tap it replaces the engine's values by those of a copy of the stage that makes a
//! [`Mistake`]. So the engine itself knows nothing of them, and without one no observer is there.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use bitnet_model::gguf::Gguf;
use bitnet_model::tap::{Tap, TapData, TapView};
use clap::ValueEnum;
use half::f16;

use crossval_oracle::inputs::{Inputs, TapAt, needs};
use crossval_oracle::mistakes::Mistake;
use crossval_oracle::wrong::Stage;
use crossval_oracle::{Batch, Oracle, OracleError};

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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
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
    /// Its name on the command line.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or(String::new(), |v| v.get_name().to_owned())
    }

    fn row(self, batch: Batch, position: usize) -> bool {
        let n = batch.tokens.len();
        let index = position - batch.first_position;
        match self {
            Scope::LastPosition => index + 1 == n,
            Scope::BatchTail => index >= n / 4 * 4,
            Scope::OneTokenBatches => n == 1,
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

/// A kind of fault: what is done wrong, to which values, and where.
#[derive(Clone, Debug)]
pub struct Kind {
    /// What is done wrong.
    pub mistake: String,
    /// To which values of a stage; `None` for all of them.
    pub scope: Option<String>,
    /// Stages at which it can be.
    pub taps: Vec<Tap>,
    /// What must be there for it to have consequences; `None` if it always has.
    pub needs: Option<&'static str>,
}

/// Scopes that narrow a fault down, and the mistake that they are tried with.
const SCOPES: [(Scope, Mistake); 6] = [
    (Scope::LastPosition, Mistake::ScaledByHalfAgain),
    (Scope::BatchTail, Mistake::Negated),
    (Scope::OneTokenBatches, Mistake::ScaledByHalfAgain),
    (Scope::OneHead, Mistake::Zero),
    (Scope::OneHead, Mistake::ScaledByHalfAgain),
    (Scope::OneThread, Mistake::Zero),
];

/// Every kind.
pub fn kinds() -> Vec<Kind> {
    let everywhere = Mistake::all().iter().map(|&m| (Scope::Everywhere, m));
    let kind = |(scope, mistake): (Scope, Mistake)| Kind {
        mistake: mistake.name(),
        scope: (scope != Scope::Everywhere).then(|| scope.name()),
        taps: mistake
            .taps()
            .iter()
            .copied()
            .filter(|tap| scope != Scope::OneHead || tap.has_heads())
            .collect(),
        needs: mistake.precondition(),
    };
    everywhere.chain(SCOPES).map(kind).collect()
}

/// NMSE of a row that another order of f32 operations may give: a norm's factor is rounded four times, (2.5 * 2^-24)^2. A mistake that does no more
/// is none.
const ROUNDING: f64 = 3e-14;

/// A string that is not a [`Fault`].
#[derive(Debug, thiserror::Error)]
#[error("unknown fault {0:?}: expected MISTAKE:TAP[:LAYER][:SCOPE], such as silu:ffn_act:4")]
pub struct ParseFaultError(String);

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(s: &str) -> Result<Fault, ParseFaultError> {
        let parse = || {
            let mut parts = s.split(':');
            let mistake = Mistake::from_str(parts.next()?, false).ok()?;
            let tap: Tap = parts.next()?.parse().ok()?;
            let mut layer = None;
            if tap.per_layer() {
                layer = match parts.next()? {
                    "*" => None,
                    layer => Some(layer.parse().ok()?),
                };
            }
            let scope = match parts.next() {
                Some(scope) => Scope::from_str(scope, false).ok()?,
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
        write!(f, "{}:{}", self.mistake.name(), self.tap)?;
        match self.layer {
            Some(layer) => write!(f, ":{layer}")?,
            None if self.tap.per_layer() => f.write_str(":*")?,
            None => {}
        }
        match self.scope {
            Scope::Everywhere => Ok(()),
            scope => write!(f, ":{}", scope.name()),
        }
    }
}

/// Puts a fault into the values that pass by.
pub(crate) struct Injector {
    fault: Fault,
    oracle: Oracle,
    inputs: Inputs,
    first_position: usize,
    tokens: Vec<u32>,
    changed: u64,
}

impl Injector {
    /// For the model of an open file.
    pub(crate) fn new(fault: Fault, gguf: Arc<Gguf>) -> Result<Injector, OracleError> {
        Ok(Injector {
            fault,
            oracle: Oracle::new(gguf)?,
            inputs: Inputs::default(),
            first_position: 0,
            tokens: Vec::new(),
            changed: 0,
        })
    }

    /// A batch is about to be evaluated.
    pub(crate) fn begin(&mut self, first_position: usize, tokens: &[u32]) {
        if first_position == 0 {
            self.inputs.clear();
        } else {
            self.inputs.keep_cache();
        }
        self.first_position = first_position;
        self.tokens = tokens.to_vec();
    }

    /// Values changed so far.
    pub(crate) fn changed(&self) -> u64 {
        self.changed
    }

    /// Alters the values of a tap, if it is the one.
    pub(crate) fn alter(&mut self, view: &mut TapView<'_>) -> Result<(), OracleError> {
        let Fault {
            mistake,
            tap,
            layer,
            scope,
        } = self.fault;
        let at = (view.tap, view.layer);
        if view.tap != tap || layer.is_some_and(|layer| Some(layer) != view.layer) {
            return Ok(());
        }
        let batch = Batch {
            first_position: self.first_position,
            tokens: &self.tokens,
        };
        let rounding = self.oracle.roundings(at)?.remove(0);
        for row in 0..view.n_tokens {
            let position = view.first_position + row;
            if !scope.row(batch, position) {
                continue;
            }
            let positions = position..position + 1;
            let right = self
                .oracle
                .stage(at, batch, positions, &self.inputs, rounding)?;
            let Some(right) = right.first() else { continue };
            let stage = Stage {
                oracle: &self.oracle,
                at,
                batch,
                position,
                inputs: &self.inputs,
                right,
            };
            let Some(wrong) = stage.done_wrong(mistake) else {
                continue;
            };
            let heads = self.oracle.heads(tap).max(1);
            let energy: f64 = right.iter().map(|v| v * v).sum();
            let error: f64 = right.iter().zip(&wrong).map(|(r, w)| (w - r).powi(2)).sum();
            if error <= ROUNDING * energy {
                continue;
            }
            let rounding = 1e-12 * (energy / right.len() as f64).sqrt();
            for (i, (wrong, right)) in wrong.iter().zip(right).enumerate() {
                // Where the mistake changes nothing but the last bits of f64, the engine's own rounding stays.
                if (wrong - right).abs() <= rounding || !scope.element(i, view.width, heads) {
                    continue;
                }
                let i = row * view.width + i;
                self.changed += u64::from(match &mut view.data {
                    TapData::F32(values) => replace(&mut values[i], *wrong as f32),
                    TapData::F16(values) => replace(&mut values[i], f16::from_f64(*wrong)),
                });
            }
        }
        Ok(())
    }

    /// Remembers what a tap has become, if the fault's stage starts from it.
    pub(crate) fn remember(&mut self, view: &TapView<'_>) {
        let at = (view.tap, view.layer);
        if !self.starts_from(at) {
            return;
        }
        for row in 0..view.n_tokens {
            let values = row * view.width..(row + 1) * view.width;
            let row_values = match &view.data {
                TapData::F32(all) => all[values].iter().map(|&v| f64::from(v)).collect(),
                TapData::F16(all) => all[values].iter().map(|&v| f64::from(v)).collect(),
            };
            self.inputs.put(at, view.first_position + row, row_values);
        }
    }

    fn starts_from(&self, at: TapAt) -> bool {
        let h = self.oracle.hyper();
        let layers = match self.fault.layer {
            None if self.fault.tap.per_layer() => (0..h.n_layer).map(Some).collect(),
            layer => vec![layer],
        };
        layers.into_iter().any(|layer| {
            let needs = needs(self.fault.tap, layer, h.n_layer, h.sub_norms);
            needs.iter().any(|need| need.at == at)
        })
    }
}

fn replace<T: Copy + PartialEq>(value: &mut T, by: T) -> bool {
    let changed = *value != by;
    *value = by;
    changed
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
}
