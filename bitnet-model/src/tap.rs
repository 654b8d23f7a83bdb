//! The places in the forward pass at which engines are compared, in one table, and the observer that sees them.

use std::fmt;
use std::str::FromStr;

use half::f16;
use serde::{Deserialize, Serialize};

use crate::nearest::did_you_mean;

/// How many values a row of a tap holds, as [`Hyperparameters::width`](crate::Hyperparameters::width) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// `n_embd`.
    Embd,
    /// `n_head * head_dim`, the query heads side by side.
    Heads,
    /// `n_head_kv * head_dim`, the key/value heads side by side.
    KvHeads,
    /// `n_head * n_kv` with `n_kv = first_position + n_tokens`, head-major; masked entries are 0.
    Probabilities,
    /// `n_ff`.
    Ff,
    /// `n_vocab`.
    Vocab,
}

/// The tensor that a stage applies, by its name in the file without `blk.N.` and `.weight`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// The factors of a norm.
    Norm(&'static str),
    /// The factors of a norm of each head by itself, the same for all.
    HeadNorm(&'static str),
    /// The matrix of a product, which a `.scale` and a `.bias` may follow.
    Matrix(&'static str),
    /// The matrix of the logits: `output`, or `token_embd` where there is none.
    Head,
}

/// A row of the table.
struct Entry {
    name: &'static str,
    per_layer: bool,
    width: Width,
    is_f16: bool,
    sources: &'static [Tap],
    weight: Option<Weight>,
}

const fn outside(name: &'static str, width: Width, sources: &'static [Tap]) -> Entry {
    Entry {
        name,
        per_layer: false,
        width,
        is_f16: false,
        sources,
        weight: None,
    }
}

const fn layer(name: &'static str, width: Width, sources: &'static [Tap]) -> Entry {
    Entry {
        per_layer: true,
        ..outside(name, width, sources)
    }
}

impl Entry {
    const fn f16(self) -> Entry {
        Entry {
            is_f16: true,
            ..self
        }
    }

    const fn of(self, weight: Weight) -> Entry {
        Entry {
            weight: Some(weight),
            ..self
        }
    }
}

/// Makes the enum, the list of all, and the table from one list.
macro_rules! taps {
    ($($(#[$doc:meta])* $tap:ident = $entry:expr;)*) => {
        /// A named place in the forward pass.
        ///
        /// Every tap is a matrix of `n_tokens` rows, each of [`Tap::width`] values.
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(into = "&'static str", try_from = "String")]
        pub enum Tap {
            $($(#[$doc])* $tap,)*
        }

        impl Tap {
            /// Every tap, in the order of the forward pass.
            pub const ALL: [Tap; TABLE.len()] = [$(Tap::$tap),*];
        }

        const TABLE: &[Entry] = {
            use Tap::*;
            use Weight::{Head, HeadNorm, Matrix, Norm};
            &[$($entry),*]
        };
    };
}

taps! {
    /// Token embeddings.
    Embd = outside("embd", Width::Embd, &[]);
    /// RMS norm before attention, after gamma.
    AttnNorm = layer("attn_norm", Width::Embd, &[Embd, LayerOut]).of(Norm("attn_norm"));
    /// Query projection, after scale and bias.
    Q = layer("q", Width::Heads, &[AttnNorm]).of(Matrix("attn_q"));
    /// Key projection, after scale and bias.
    K = layer("k", Width::KvHeads, &[AttnNorm]).of(Matrix("attn_k"));
    /// Value projection, after scale and bias.
    V = layer("v", Width::KvHeads, &[AttnNorm]).of(Matrix("attn_v"));
    /// RMS norm of each query head, after gamma (Qwen3).
    QNorm = layer("q_norm", Width::Heads, &[Q]).of(HeadNorm("attn_q_norm"));
    /// RMS norm of each key head, after gamma (Qwen3).
    KNorm = layer("k_norm", Width::KvHeads, &[K]).of(HeadNorm("attn_k_norm"));
    /// Query after RoPE.
    QRope = layer("q_rope", Width::Heads, &[QNorm, Q]);
    /// Key after RoPE.
    KRope = layer("k_rope", Width::KvHeads, &[KNorm, K]);
    /// Key rows as stored in the F16 KV cache.
    KCache = layer("k_cache", Width::KvHeads, &[KRope]).f16();
    /// Value rows as stored in the F16 KV cache.
    VCache = layer("v_cache", Width::KvHeads, &[V]).f16();
    /// Attention probabilities.
    AttnProbs = layer("attn_probs", Width::Probabilities, &[QRope, KCache]);
    /// Heads' outputs side by side.
    AttnOut = layer("attn_out", Width::Heads, &[AttnProbs, VCache]);
    /// Sub-norm of the attention output (BitNet families).
    AttnSubNorm = layer("attn_sub_norm", Width::Heads, &[AttnOut]).of(Norm("attn_sub_norm"));
    /// Output projection, after scale and bias.
    AttnProj = layer("attn_proj", Width::Embd, &[AttnSubNorm, AttnOut]).of(Matrix("attn_output"));
    /// Residual stream after attention.
    FfnInp = layer("ffn_inp", Width::Embd, &[Embd, LayerOut, AttnProj]);
    /// RMS norm before the feed-forward network, after gamma.
    FfnNorm = layer("ffn_norm", Width::Embd, &[FfnInp]).of(Norm("ffn_norm"));
    /// Gate projection, after scale and bias.
    FfnGate = layer("ffn_gate", Width::Ff, &[FfnNorm]).of(Matrix("ffn_gate"));
    /// Up projection, after scale and bias.
    FfnUp = layer("ffn_up", Width::Ff, &[FfnNorm]).of(Matrix("ffn_up"));
    /// `act(gate) * up`.
    FfnAct = layer("ffn_act", Width::Ff, &[FfnGate, FfnUp]);
    /// Sub-norm of `FfnAct` (BitNet families).
    FfnSubNorm = layer("ffn_sub_norm", Width::Ff, &[FfnAct]).of(Norm("ffn_sub_norm"));
    /// Down projection, after scale and bias.
    FfnDown = layer("ffn_down", Width::Embd, &[FfnSubNorm, FfnAct]).of(Matrix("ffn_down"));
    /// Residual stream after the layer.
    LayerOut = layer("layer_out", Width::Embd, &[FfnInp, FfnDown]);
    /// RMS norm before the output head.
    FinalNorm = outside("final_norm", Width::Embd, &[LayerOut]).of(Norm("output_norm"));
    /// Logits.
    Logits = outside("logits", Width::Vocab, &[FinalNorm]).of(Head);
}

impl Tap {
    /// What every transformer has, whatever its stages are.
    pub const OUTLINE: [Tap; 4] = [Tap::Embd, Tap::LayerOut, Tap::FinalNorm, Tap::Logits];

    fn entry(self) -> &'static Entry {
        &TABLE[self as usize]
    }

    /// The stable name, as in reports and on the wire.
    pub fn name(self) -> &'static str {
        self.entry().name
    }

    /// The taps whose values the stage starts from, in models that have them; keys and values of all positions.
    pub fn sources(self) -> &'static [Tap] {
        self.entry().sources
    }

    /// Whether the tap occurs once per layer (the others occur once per evaluation).
    pub fn per_layer(self) -> bool {
        self.entry().per_layer
    }

    /// Whether the tap's values are F16 (the KV cache) rather than F32.
    pub fn is_f16(self) -> bool {
        self.entry().is_f16
    }

    /// Values of a row.
    pub fn width(self) -> Width {
        self.entry().width
    }

    /// The tensor that the stage applies, if it applies one.
    pub fn weight(self) -> Option<Weight> {
        self.entry().weight
    }

    /// Whether the stage is a matrix product.
    pub fn is_product(self) -> bool {
        matches!(self.weight(), Some(Weight::Matrix(_) | Weight::Head))
    }

    /// Whether rows are made of heads. A norm over them makes one row of all.
    pub fn has_heads(self) -> bool {
        let as_wide = matches!(
            self.width(),
            Width::Heads | Width::KvHeads | Width::Probabilities
        );
        as_wide && !matches!(self.weight(), Some(Weight::Norm(_)))
    }
}

impl From<Tap> for &'static str {
    fn from(tap: Tap) -> &'static str {
        tap.name()
    }
}

impl TryFrom<String> for Tap {
    type Error = UnknownTap;

    fn try_from(name: String) -> Result<Tap, UnknownTap> {
        name.parse()
    }
}

/// Every place that `taps` are at in a model of `n_layer` layers, in the order of the forward pass.
pub fn sites(taps: &[Tap], n_layer: usize) -> impl Iterator<Item = (Option<usize>, Tap)> + '_ {
    let outside = |tap: Tap| (!tap.per_layer()).then_some((None, tap));
    let before = taps.iter().filter(|&&t| t == Tap::Embd);
    let after = taps.iter().filter(|&&t| t != Tap::Embd);
    let layers = if taps.iter().any(|t| t.per_layer()) {
        0..n_layer
    } else {
        0..0
    };
    let within = layers.flat_map(|layer| {
        let per_layer = taps.iter().filter(|t| t.per_layer());
        per_layer.map(move |&tap| (Some(layer), tap))
    });
    before
        .filter_map(move |&t| outside(t))
        .chain(within)
        .chain(after.filter_map(move |&t| outside(t)))
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A string that is not the name of a tap.
#[derive(Debug, thiserror::Error)]
#[error("unknown tap {0:?}{hint}", hint = did_you_mean(.0, Tap::ALL.map(Tap::name)))]
pub struct UnknownTap(String);

impl FromStr for Tap {
    type Err = UnknownTap;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        Tap::ALL
            .into_iter()
            .find(|tap| tap.name() == s)
            .ok_or_else(|| UnknownTap(s.to_owned()))
    }
}

/// The values of one tap for the tokens of one evaluation, row-major, in place.
#[derive(Debug)]
pub enum TapData<'a> {
    /// Every tap but the KV cache.
    F32(&'a mut [f32]),
    /// [`Tap::KCache`] and [`Tap::VCache`]: the rows just written.
    F16(&'a mut [f16]),
}

/// One tap of one evaluation, as handed to an [`Observer`].
#[derive(Debug)]
pub struct TapView<'a> {
    /// Which tap.
    pub tap: Tap,
    /// The layer, counted from 0; `None` for taps outside the layers.
    pub layer: Option<usize>,
    /// Position of the first row in the sequence.
    pub first_position: usize,
    /// Rows in `data`.
    pub n_tokens: usize,
    /// Values per row.
    pub width: usize,
    /// `n_tokens * width` values.
    pub data: TapData<'a>,
}

/// Why an observer stopped the evaluation.
pub type ObserverError = Box<dyn std::error::Error + Send + Sync>;

/// Sees every tap of an evaluation in order, and may overwrite it: what it leaves in `data` is what the
/// forward pass goes on with. One mechanism serves looking (cumulative) and overwriting (isolated).
pub trait Observer {
    /// Called once per tap and layer, as soon as its values are complete.
    ///
    /// # Errors
    /// An error ends the evaluation, which returns it.
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for tap in Tap::ALL {
            assert_eq!(tap.name().parse::<Tap>().unwrap(), tap);
            let debug = format!("{tap:?}").to_lowercase();
            assert_eq!(tap.name().replace('_', ""), debug, "one name per variant");
            let json = serde_json::to_string(&tap).unwrap();
            assert_eq!(json, format!("\"{tap}\""));
            assert_eq!(serde_json::from_str::<Tap>(&json).unwrap(), tap);
        }
        assert!("l_out".parse::<Tap>().is_err());
        assert!(serde_json::from_str::<Tap>("\"l_out\"").is_err());
    }

    #[test]
    fn a_stage_starts_from_what_came_before_or_from_the_layer_before() {
        for tap in Tap::ALL {
            for &source in tap.sources() {
                assert!(source < tap || source == Tap::LayerOut, "{source} of {tap}");
            }
        }
    }

    #[test]
    fn sites_follow_the_forward_pass() {
        let taps = [Tap::Embd, Tap::KCache, Tap::AttnProbs, Tap::Logits];
        let expected = [
            (None, Tap::Embd),
            (Some(0), Tap::KCache),
            (Some(0), Tap::AttnProbs),
            (Some(1), Tap::KCache),
            (Some(1), Tap::AttnProbs),
            (None, Tap::Logits),
        ];
        assert!(sites(&taps, 2).eq(expected));
        assert_eq!(sites(&[Tap::Embd], usize::MAX).count(), 1);
    }
}
