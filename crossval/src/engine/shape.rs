//! Whether what a worker sends of an evaluation has the shape that was asked for.

use bitnet_model::tap::{Tap, Width};
use crossval_protocol::{EvalRequest, ModelFacts, TapHeader};

/// What the rows of a model measure, as its worker has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    n_layer: usize,
    n_embd: usize,
    n_ff: usize,
    n_head: usize,
    n_head_kv: usize,
    n_vocab: usize,
}

impl From<&ModelFacts> for Sizes {
    fn from(facts: &ModelFacts) -> Sizes {
        Sizes {
            n_layer: facts.n_layer,
            n_embd: facts.n_embd,
            n_ff: facts.n_ff,
            n_head: facts.n_head,
            n_head_kv: facts.n_head_kv,
            n_vocab: facts.n_vocab,
        }
    }
}

/// An evaluation that was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    first_position: usize,
    n_tokens: usize,
    last_logits: bool,
}

impl From<&EvalRequest<'_>> for Asked {
    fn from(request: &EvalRequest) -> Asked {
        Asked {
            first_position: request.first_position,
            n_tokens: request.tokens.len(),
            last_logits: request.last_logits,
        }
    }
}

impl Asked {
    /// What a piece of a tap is that it must not be, if so. Without `sizes`, nobody knows its width.
    pub(super) fn misfit(&self, piece: &TapHeader, sizes: Option<Sizes>) -> Option<String> {
        let TapHeader { tap, layer, .. } = *piece;
        let end = self.first_position + self.n_tokens;
        let rows = piece.first_position..piece.first_position.saturating_add(piece.rows);
        if rows.start < self.first_position || rows.end > end {
            return Some(format!(
                "{}: positions {}..{}, where {}..{end} were asked for",
                place(piece),
                rows.start,
                rows.end,
                self.first_position
            ));
        }
        if tap.per_layer() != layer.is_some() {
            let has = if tap.per_layer() { "lies in" } else { "has" };
            let no = if layer.is_some() { "no" } else { "a" };
            return Some(match layer {
                Some(layer) => format!("{tap} of layer {layer}: it {has} {no} layer"),
                None => format!("{tap} without a layer: it {has} {no} layer"),
            });
        }
        let sizes = sizes?;
        if let Some(layer) = layer.filter(|&layer| layer >= sizes.n_layer) {
            let n = sizes.n_layer;
            return Some(format!("{tap} of layer {layer}, where the model has {n}"));
        }
        let wrong = |is: String| {
            let width = piece.width;
            Some(format!(
                "{}: rows of {width} values, not {is}",
                place(piece)
            ))
        };
        match sizes.width(tap, end) {
            Expected::Values(n) if piece.width != n => wrong(n.to_string()),
            Expected::Heads(n) if !piece.width.is_multiple_of(n) => wrong(format!("of {n} heads")),
            _ => None,
        }
    }

    /// That the last token's logits are missing, or too few or too many.
    pub(super) fn misfit_of_logits(&self, bytes: usize, sizes: Option<Sizes>) -> Option<String> {
        let n_vocab = sizes?.n_vocab;
        let wrong = self.last_logits && bytes != n_vocab * 4;
        wrong.then(|| {
            format!(
                "{bytes} bytes of the last token's logits, not {}: {n_vocab} values of 4",
                n_vocab * 4
            )
        })
    }
}

/// What a row may measure.
enum Expected {
    Values(usize),
    /// So many, of a width that the worker does not say.
    Heads(usize),
}

impl Sizes {
    fn width(self, tap: Tap, n_kv: usize) -> Expected {
        match tap.width() {
            Width::Embd => Expected::Values(self.n_embd),
            Width::Ff => Expected::Values(self.n_ff),
            Width::Vocab => Expected::Values(self.n_vocab),
            Width::Probabilities => Expected::Values(self.n_head * n_kv),
            Width::Heads => Expected::Heads(self.n_head.max(1)),
            Width::KvHeads => Expected::Heads(self.n_head_kv.max(1)),
        }
    }
}

/// `layer 2, ffn_act from position 5`.
pub(super) fn place(piece: &TapHeader) -> String {
    let layer = piece
        .layer
        .map_or(String::new(), |layer| format!("layer {layer}, "));
    format!(
        "{layer}{} from position {}",
        piece.tap, piece.first_position
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        n_layer: 2,
        n_embd: 8,
        n_ff: 12,
        n_head: 4,
        n_head_kv: 2,
        n_vocab: 100,
    };

    const ASKED: Asked = Asked {
        first_position: 3,
        n_tokens: 2,
        last_logits: true,
    };

    fn piece(tap: Tap, layer: Option<usize>, width: usize) -> TapHeader {
        TapHeader {
            tap,
            layer,
            first_position: 3,
            rows: 2,
            width,
        }
    }

    #[test]
    fn what_was_asked_for_fits() {
        for (tap, layer, width) in [
            (Tap::Embd, None, 8),
            (Tap::Logits, None, 100),
            (Tap::Q, Some(0), 8),
            (Tap::KCache, Some(1), 4),
            (Tap::AttnProbs, Some(1), 4 * 5),
            (Tap::FfnAct, Some(1), 12),
        ] {
            let piece = piece(tap, layer, width);
            assert_eq!(ASKED.misfit(&piece, Some(SIZES)), None, "{tap}");
        }
        assert_eq!(ASKED.misfit_of_logits(400, Some(SIZES)), None);
    }

    #[test]
    fn whatever_does_not_fit_is_named() {
        let of = piece;
        let at = |first_position, rows| TapHeader {
            first_position,
            rows,
            ..piece(Tap::Q, Some(0), 8)
        };
        for (piece, says) in [
            (
                of(Tap::FfnAct, Some(1), 11),
                "layer 1, ffn_act from position 3: rows of 11 values, not 12",
            ),
            (
                of(Tap::AttnProbs, Some(1), 8),
                "layer 1, attn_probs from position 3: rows of 8 values, not 20",
            ),
            (
                of(Tap::Q, Some(0), 9),
                "layer 0, q from position 3: rows of 9 values, not of 4 heads",
            ),
            (
                of(Tap::Q, Some(2), 8),
                "q of layer 2, where the model has 2",
            ),
            (of(Tap::Q, None, 8), "q without a layer: it lies in a layer"),
            (
                of(Tap::Embd, Some(0), 8),
                "embd of layer 0: it has no layer",
            ),
            (
                at(3, 3),
                "layer 0, q from position 3: positions 3..6, where 3..5 were asked for",
            ),
            (
                at(2, 2),
                "layer 0, q from position 2: positions 2..4, where 3..5 were asked for",
            ),
        ] {
            assert_eq!(ASKED.misfit(&piece, Some(SIZES)).as_deref(), Some(says));
        }
        let logits = ASKED.misfit_of_logits(396, Some(SIZES));
        let says = "396 bytes of the last token's logits, not 400: 100 values of 4";
        assert_eq!(logits.as_deref(), Some(says));
    }
}
