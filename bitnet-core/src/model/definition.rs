//! How the models of an architecture compute, beyond what their files say: llama.cpp's graph builders (`build_bitnet`,
//! `build_bitnet_158`, `build_llama`). The oracle says it again in its own words.

use bitnet_model::Architecture;

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `i` with `i + dim / 2`.
    Neox,
    /// `2i` with `2i + 1`.
    Norm,
}

/// The function on the gate of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + exp(-x))`.
    Silu,
    /// `max(0, x)^2`.
    Relu2,
}

/// What the stages of a layer are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Definition {
    /// Which elements of a head rotate together.
    pub rope_style: RopeStyle,
    /// Function on the gate.
    pub activation: Activation,
}

impl Definition {
    /// That of an architecture.
    pub fn of(architecture: Architecture) -> Definition {
        let (rope_style, activation) = match architecture {
            Architecture::Bitnet => (RopeStyle::Neox, Activation::Silu),
            Architecture::Bitnet25 | Architecture::BitnetB158 => {
                (RopeStyle::Neox, Activation::Relu2)
            }
            Architecture::Llama => (RopeStyle::Norm, Activation::Silu),
        };
        Definition {
            rope_style,
            activation,
        }
    }
}
