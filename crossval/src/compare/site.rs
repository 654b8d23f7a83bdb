//! Where rows are compared.

use std::cmp::Ordering;
use std::fmt;

use bitnet_model::tap::Tap;
use reports::model::Mode;

/// One tap of one layer, prompt and mode, whatever the position. Ordered by prompt, then as in the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Site {
    /// Coupling of the engines.
    pub mode: Mode,
    /// Index of the prompt.
    pub prompt: usize,
    /// Layer; `None` outside the layers.
    pub layer: Option<usize>,
    /// The tap.
    pub tap: Tap,
}

/// Order of the stages between which nothing is reordered: embeddings, layers, head.
pub fn stage(tap: Tap, layer: Option<usize>) -> usize {
    match (tap, layer) {
        (Tap::Embd, _) => 0,
        (_, Some(layer)) => layer.saturating_add(1),
        (_, None) => usize::MAX,
    }
}

impl Ord for Site {
    fn cmp(&self, other: &Site) -> Ordering {
        let key = |s: &Site| (s.prompt, stage(s.tap, s.layer), s.tap, s.layer, s.mode);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Site {
    fn partial_cmp(&self, other: &Site) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = match self.mode {
            Mode::Isolated => "isolated",
            Mode::Cumulative => "cumulative",
        };
        write!(f, "{mode}, prompt {}, ", self.prompt)?;
        if let Some(layer) = self.layer {
            write!(f, "layer {layer}, ")?;
        }
        write!(f, "{}", self.tap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sites_follow_the_forward_pass() {
        let site = |tap, layer, mode| Site {
            mode,
            prompt: 0,
            layer,
            tap,
        };
        let (i, c) = (Mode::Isolated, Mode::Cumulative);
        let in_order = [
            site(Tap::Embd, None, i),
            site(Tap::Embd, None, c),
            site(Tap::AttnNorm, Some(0), i),
            site(Tap::LayerOut, Some(0), i),
            site(Tap::AttnNorm, Some(1), i),
            site(Tap::LayerOut, Some(99), c),
            site(Tap::FinalNorm, None, i),
            site(Tap::Logits, None, i),
        ];
        assert!(in_order.is_sorted());
        assert_eq!(
            in_order[2].to_string(),
            "isolated, prompt 0, layer 0, attn_norm"
        );
        assert_eq!(in_order[7].to_string(), "isolated, prompt 0, logits");
    }
}
