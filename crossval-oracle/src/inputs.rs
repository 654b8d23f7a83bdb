//! Values of taps, by place: what the oracle's stages start from.

use std::collections::{BTreeMap, HashMap};

use bitnet_model::tap::Tap;

/// A tap of one layer.
pub type TapAt = (Tap, Option<usize>);

/// Rows of taps, as they stood when a stage started.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    rows: HashMap<TapAt, BTreeMap<usize, Vec<f64>>>,
}

impl Inputs {
    /// Puts a row, in place of a former one.
    pub fn put(&mut self, at: TapAt, position: usize, row: Vec<f64>) {
        self.rows.entry(at).or_default().insert(position, row);
    }

    /// The row at a position.
    pub fn row(&self, at: TapAt, position: usize) -> Option<&[f64]> {
        Some(self.rows.get(&at)?.get(&position)?)
    }

    /// The rows from position 0 up to `end`, all of them.
    pub fn history(&self, at: TapAt, end: usize) -> Option<Vec<&[f64]>> {
        (0..end).map(|position| self.row(at, position)).collect()
    }

    /// Every row, by tap and position.
    pub fn iter(&self) -> impl Iterator<Item = (TapAt, usize, &[f64])> {
        let rows = self.rows.iter();
        rows.flat_map(|(&at, rows)| rows.iter().map(move |(&p, row)| (at, p, row.as_slice())))
    }

    /// Forgets all but the cache: what an evaluation leaves for the next.
    pub fn keep_cache(&mut self) {
        self.rows.retain(|(tap, _), _| tap.is_f16());
    }

    /// Forgets the sequence.
    pub fn clear(&mut self) {
        self.rows.clear();
    }
}

/// An input of a stage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Which tap.
    pub at: TapAt,
    /// Every position up to the end of the batch, rather than the stage's own.
    pub history: bool,
    /// What the stage starts from, rather than what it may have started from by mistake.
    pub own: bool,
}

/// Norms that not every model has.
pub(super) const OPTIONAL: [Tap; 4] = [Tap::QNorm, Tap::KNorm, Tap::AttnSubNorm, Tap::FfnSubNorm];

/// What a stage starts from, and what it may have started from by mistake.
///
/// Which rows there are to choose from is all that this takes from the table of taps: what the stage makes of them is
/// the oracle's own, and one that is not there leaves it without an answer.
///
/// `norms` are those that not every model has, of which this one has them; other taps among them do not matter.
pub fn needs(tap: Tap, layer: Option<usize>, n_layer: usize, norms: &[Tap]) -> Vec<Need> {
    let stream = match layer {
        Some(0) => (Tap::Embd, None),
        Some(layer) => (Tap::LayerOut, Some(layer - 1)),
        None => (Tap::LayerOut, n_layer.checked_sub(1)),
    };
    let by_mistake: &[Tap] = match tap {
        Tap::Q | Tap::K | Tap::V | Tap::Logits => &[Tap::LayerOut],
        Tap::KCache => &[Tap::KNorm, Tap::K, Tap::V],
        Tap::VCache => &[Tap::KRope],
        Tap::FfnInp => &[Tap::AttnNorm],
        Tap::FfnGate | Tap::FfnUp => &[Tap::FfnInp],
        Tap::LayerOut => &[Tap::FfnNorm],
        _ => &[],
    };
    let has = |tap: Tap| !OPTIONAL.contains(&tap) || norms.contains(&tap);
    let mut needs: Vec<Need> = Vec::new();
    let sources = tap.sources().iter().map(|&source| (source, true));
    for (source, own) in sources.chain(by_mistake.iter().map(|&source| (source, false))) {
        let at = match source {
            Tap::Embd | Tap::LayerOut => stream,
            source => (source, layer),
        };
        if has(source) && needs.iter().all(|need| need.at != at) {
            // A product or rotation takes one row: the norm's, in models that have it.
            let one = tap.is_product() || matches!(tap, Tap::QRope | Tap::KRope);
            let own = own && (needs.is_empty() || !one);
            // A cache may hold the row of another position, and attention reads all of it.
            let history = source.is_f16() || tap.is_f16() && own;
            needs.push(Need { at, history, own });
        }
    }
    needs
}

/// What a stage is computed from where not all of its inputs are there: of stages before it in the same layer, whose
/// own inputs are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// What there is. Positions up to the stage's own are enough of a history.
    pub needs: Vec<Need>,
    /// Stages whose rows are computed from that, nearest first.
    pub between: Vec<TapAt>,
}

impl Origin {
    /// Looks for the nearest rows that `has` says are there, by tap and whether all positions are asked for. `None` if
    /// that takes more than the layer: its input is not there. The embeddings follow from the tokens.
    pub fn of(
        at: TapAt,
        n_layer: usize,
        norms: &[Tap],
        has: impl Fn(TapAt, bool) -> bool,
    ) -> Option<Origin> {
        let mut origin = Origin::default();
        let mut open = vec![(at, false)];
        while let Some((stage, history)) = open.pop() {
            for need in needs(stage.0, stage.1, n_layer, norms) {
                // A cache's row is computed from its own position; that it might be another's is asked of what is there.
                let all = history || need.at.0.is_f16();
                if has(need.at, all) {
                    if need.own || stage == at {
                        let history = need.history && stage == at || all;
                        origin.put(Need { history, ..need });
                    }
                } else if need.own && need.at.0 == Tap::LayerOut {
                    return None;
                } else if need.own && !open.contains(&(need.at, all)) {
                    if !origin.between.contains(&need.at) {
                        origin.between.push(need.at);
                    }
                    open.push((need.at, all));
                }
            }
        }
        Some(origin)
    }

    fn put(&mut self, need: Need) {
        match self.needs.iter_mut().find(|n| n.at == need.at) {
            Some(before) => before.history |= need.history,
            None => self.needs.push(need),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SUB_NORMS: &[Tap] = &[Tap::AttnSubNorm, Tap::FfnSubNorm];

    #[test]
    fn a_stage_goes_back_to_what_is_there_and_no_further_than_its_layer() {
        let of = |at, there: &[TapAt]| {
            let origin = Origin::of(at, 4, SUB_NORMS, |at, _| there.contains(&at))?;
            let needs = origin.needs.iter().map(|n| (n.at, n.history));
            Some((needs.collect::<Vec<_>>(), origin.between.len()))
        };
        let at = |tap| (tap, Some(2));
        let before = (Tap::LayerOut, Some(1));
        assert_eq!(of((Tap::Embd, None), &[]), Some((vec![], 0)));
        // Keys and values of all positions, from what the layer takes.
        let whole = of(at(Tap::LayerOut), &[before]);
        assert_eq!(whole, Some((vec![(before, true)], 19)));
        assert_eq!(of(at(Tap::LayerOut), &[]), None);
        let last = (Tap::LayerOut, Some(3));
        let head = of((Tap::Logits, None), &[last]);
        assert_eq!(head, Some((vec![(last, false)], 1)));
        let near = [at(Tap::FfnInp), at(Tap::FfnAct), before];
        let (needs, between) = of(at(Tap::LayerOut), &near).unwrap();
        let expected = [(at(Tap::FfnInp), false), (at(Tap::FfnAct), false)];
        assert_eq!((&needs[..], between), (&expected[..], 2));
        // The first layer's input follows from the tokens.
        let first = of((Tap::AttnNorm, Some(0)), &[]);
        assert_eq!(first, Some((vec![], 1)));
    }

    #[test]
    fn stages_start_from_the_layer_before_the_cache_and_their_own_layer() {
        let of = |tap, layer, norms: &[Tap]| -> Vec<(TapAt, bool)> {
            let needs = needs(tap, layer, 4, norms);
            needs.iter().map(|need| (need.at, need.history)).collect()
        };
        let at = |tap| (tap, Some(2));
        let stream = ((Tap::LayerOut, Some(1)), false);
        assert_eq!(of(Tap::Embd, None, SUB_NORMS), []);
        assert_eq!(
            of(Tap::AttnNorm, Some(0), SUB_NORMS),
            [((Tap::Embd, None), false)]
        );
        assert_eq!(of(Tap::AttnNorm, Some(2), SUB_NORMS), [stream]);
        assert_eq!(
            of(Tap::FinalNorm, None, SUB_NORMS),
            [((Tap::LayerOut, Some(3)), false)]
        );
        assert_eq!(
            of(Tap::FfnInp, Some(2), SUB_NORMS),
            [
                stream,
                (at(Tap::AttnProj), false),
                (at(Tap::AttnNorm), false)
            ]
        );
        assert_eq!(
            of(Tap::AttnProbs, Some(2), SUB_NORMS),
            [(at(Tap::QRope), false), (at(Tap::KCache), true)]
        );
        assert_eq!(
            of(Tap::KCache, Some(2), SUB_NORMS),
            [
                (at(Tap::KRope), true),
                (at(Tap::K), false),
                (at(Tap::V), false)
            ]
        );
        assert_eq!(
            of(Tap::FfnDown, Some(2), SUB_NORMS),
            [(at(Tap::FfnSubNorm), false), (at(Tap::FfnAct), false)]
        );
        assert_eq!(of(Tap::FfnDown, Some(2), &[]), [(at(Tap::FfnAct), false)]);
        assert_eq!(of(Tap::QRope, Some(2), SUB_NORMS), [(at(Tap::Q), false)]);
        let heads = &[Tap::QNorm, Tap::KNorm];
        assert_eq!(
            of(Tap::KRope, Some(2), heads),
            [(at(Tap::KNorm), false), (at(Tap::K), false)]
        );
        let own = |tap, norms: &[Tap]| -> Vec<TapAt> {
            let needs = needs(tap, Some(2), 4, norms).into_iter();
            needs.filter(|need| need.own).map(|need| need.at).collect()
        };
        assert_eq!(own(Tap::KRope, heads), [at(Tap::KNorm)]);
        assert_eq!(own(Tap::AttnProj, SUB_NORMS), [at(Tap::AttnSubNorm)]);
    }
}
