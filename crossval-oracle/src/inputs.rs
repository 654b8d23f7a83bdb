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
}

/// What a stage starts from, and what it may have started from by mistake.
pub fn needs(tap: Tap, layer: Option<usize>, n_layer: usize, sub_norms: bool) -> Vec<Need> {
    let stream = match layer {
        Some(0) => (Tap::Embd, None),
        Some(layer) => (Tap::LayerOut, Some(layer - 1)),
        None => (Tap::LayerOut, n_layer.checked_sub(1)),
    };
    let row = |tap| Need {
        at: (tap, layer),
        history: false,
    };
    let history = |tap| Need {
        at: (tap, layer),
        history: true,
    };
    let residual = Need {
        at: stream,
        history: false,
    };
    let mut needs = match tap {
        Tap::Embd => vec![],
        Tap::AttnNorm | Tap::FinalNorm => vec![residual],
        Tap::Q | Tap::K | Tap::V => vec![row(Tap::AttnNorm), residual],
        Tap::QRope => vec![row(Tap::Q)],
        Tap::KRope => vec![row(Tap::K)],
        Tap::KCache => vec![history(Tap::KRope), row(Tap::K), row(Tap::V)],
        Tap::VCache => vec![history(Tap::V), row(Tap::KRope)],
        Tap::AttnProbs => vec![row(Tap::QRope), history(Tap::KCache)],
        Tap::AttnOut => vec![row(Tap::AttnProbs), history(Tap::VCache)],
        Tap::AttnSubNorm => vec![row(Tap::AttnOut)],
        Tap::AttnProj => vec![row(Tap::AttnSubNorm), row(Tap::AttnOut)],
        Tap::FfnInp => vec![residual, row(Tap::AttnProj), row(Tap::AttnNorm)],
        Tap::FfnNorm => vec![row(Tap::FfnInp)],
        Tap::FfnGate | Tap::FfnUp => vec![row(Tap::FfnNorm), row(Tap::FfnInp)],
        Tap::FfnAct => vec![row(Tap::FfnGate), row(Tap::FfnUp)],
        Tap::FfnSubNorm => vec![row(Tap::FfnAct)],
        Tap::FfnDown => vec![row(Tap::FfnSubNorm), row(Tap::FfnAct)],
        Tap::LayerOut => vec![row(Tap::FfnInp), row(Tap::FfnDown), row(Tap::FfnNorm)],
        Tap::Logits => vec![row(Tap::FinalNorm), residual],
    };
    let has = |tap: Tap| sub_norms || !matches!(tap, Tap::AttnSubNorm | Tap::FfnSubNorm);
    needs.retain(|need| has(need.at.0));
    needs
}
