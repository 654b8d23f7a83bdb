//! The places in the forward pass at which engines are compared, and the observer that sees them.

use std::fmt;
use std::str::FromStr;

use half::f16;
use serde::{Deserialize, Serialize};

/// A named place in the forward pass.
///
/// Every tap is a matrix of `n_tokens` rows; the width of a row is given per tap below
/// (`n_embd`, `n_ff`, `n_vocab`, head counts and `head_dim` as in the model's [`Config`](crate::model::Config)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tap {
    /// Token embeddings, `n_embd`.
    Embd,
    /// RMS norm before attention, after gamma, `n_embd`.
    AttnNorm,
    /// Query projection, after scale and bias, before RoPE, `n_head * head_dim`.
    Q,
    /// Key projection, after scale and bias, before RoPE, `n_head_kv * head_dim`.
    K,
    /// Value projection, after scale and bias, `n_head_kv * head_dim`.
    V,
    /// Query after RoPE, `n_head * head_dim`.
    QRope,
    /// Key after RoPE, `n_head_kv * head_dim`.
    KRope,
    /// Key rows as stored in the F16 KV cache, `n_head_kv * head_dim`.
    KCache,
    /// Value rows as stored in the F16 KV cache, `n_head_kv * head_dim`.
    VCache,
    /// Attention probabilities, `n_head * n_kv` with `n_kv = first_position + n_tokens`, head-major;
    /// masked entries are 0.
    AttnProbs,
    /// Heads' outputs side by side, `n_head * head_dim`.
    AttnOut,
    /// Sub-norm of the attention output (BitNet families), `n_head * head_dim`.
    AttnSubNorm,
    /// Output projection, after scale and bias, `n_embd`.
    AttnProj,
    /// Residual stream after attention, `n_embd`.
    FfnInp,
    /// RMS norm before the feed-forward network, after gamma, `n_embd`.
    FfnNorm,
    /// Gate projection, after scale and bias, `n_ff`.
    FfnGate,
    /// Up projection, after scale and bias, `n_ff`.
    FfnUp,
    /// `act(gate) * up`, `n_ff`.
    FfnAct,
    /// Sub-norm of `FfnAct` (BitNet families), `n_ff`.
    FfnSubNorm,
    /// Down projection, after scale and bias, `n_embd`.
    FfnDown,
    /// Residual stream after the layer, `n_embd`.
    LayerOut,
    /// RMS norm before the output head, `n_embd`.
    FinalNorm,
    /// Logits, `n_vocab`.
    Logits,
}

impl Tap {
    /// Every tap, in the order of the forward pass.
    pub const ALL: [Tap; 23] = [
        Tap::Embd,
        Tap::AttnNorm,
        Tap::Q,
        Tap::K,
        Tap::V,
        Tap::QRope,
        Tap::KRope,
        Tap::KCache,
        Tap::VCache,
        Tap::AttnProbs,
        Tap::AttnOut,
        Tap::AttnSubNorm,
        Tap::AttnProj,
        Tap::FfnInp,
        Tap::FfnNorm,
        Tap::FfnGate,
        Tap::FfnUp,
        Tap::FfnAct,
        Tap::FfnSubNorm,
        Tap::FfnDown,
        Tap::LayerOut,
        Tap::FinalNorm,
        Tap::Logits,
    ];

    /// The stable name, as in reports and on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Tap::Embd => "embd",
            Tap::AttnNorm => "attn_norm",
            Tap::Q => "q",
            Tap::K => "k",
            Tap::V => "v",
            Tap::QRope => "q_rope",
            Tap::KRope => "k_rope",
            Tap::KCache => "k_cache",
            Tap::VCache => "v_cache",
            Tap::AttnProbs => "attn_probs",
            Tap::AttnOut => "attn_out",
            Tap::AttnSubNorm => "attn_sub_norm",
            Tap::AttnProj => "attn_proj",
            Tap::FfnInp => "ffn_inp",
            Tap::FfnNorm => "ffn_norm",
            Tap::FfnGate => "ffn_gate",
            Tap::FfnUp => "ffn_up",
            Tap::FfnAct => "ffn_act",
            Tap::FfnSubNorm => "ffn_sub_norm",
            Tap::FfnDown => "ffn_down",
            Tap::LayerOut => "layer_out",
            Tap::FinalNorm => "final_norm",
            Tap::Logits => "logits",
        }
    }

    /// The taps whose values the stage starts from, in models that have them; keys and values of all positions.
    pub fn sources(self) -> &'static [Tap] {
        match self {
            Tap::Embd => &[],
            Tap::AttnNorm => &[Tap::Embd, Tap::LayerOut],
            Tap::Q | Tap::K | Tap::V => &[Tap::AttnNorm],
            Tap::QRope => &[Tap::Q],
            Tap::KRope => &[Tap::K],
            Tap::KCache => &[Tap::KRope],
            Tap::VCache => &[Tap::V],
            Tap::AttnProbs => &[Tap::QRope, Tap::KCache],
            Tap::AttnOut => &[Tap::AttnProbs, Tap::VCache],
            Tap::AttnSubNorm => &[Tap::AttnOut],
            Tap::AttnProj => &[Tap::AttnSubNorm, Tap::AttnOut],
            Tap::FfnInp => &[Tap::Embd, Tap::LayerOut, Tap::AttnProj],
            Tap::FfnNorm => &[Tap::FfnInp],
            Tap::FfnGate | Tap::FfnUp => &[Tap::FfnNorm],
            Tap::FfnAct => &[Tap::FfnGate, Tap::FfnUp],
            Tap::FfnSubNorm => &[Tap::FfnAct],
            Tap::FfnDown => &[Tap::FfnSubNorm, Tap::FfnAct],
            Tap::LayerOut => &[Tap::FfnInp, Tap::FfnDown],
            Tap::FinalNorm => &[Tap::LayerOut],
            Tap::Logits => &[Tap::FinalNorm],
        }
    }

    /// Whether the tap occurs once per layer (the others occur once per evaluation).
    pub fn per_layer(self) -> bool {
        !matches!(self, Tap::Embd | Tap::FinalNorm | Tap::Logits)
    }

    /// Whether the tap's values are F16 (the KV cache) rather than F32.
    pub fn is_f16(self) -> bool {
        matches!(self, Tap::KCache | Tap::VCache)
    }
}

impl fmt::Display for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A string that is not the name of a tap.
#[derive(Debug, thiserror::Error)]
#[error("unknown tap {0:?}")]
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
        }
        assert!("l_out".parse::<Tap>().is_err());
    }
}
