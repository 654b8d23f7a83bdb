//! How a model computes: llama.cpp's graph builders (`build_bitnet`, `build_bitnet_158`, `build_llama`, `qwen3`). The
//! oracle says it again in its own words.

use bitnet_model::{Architecture, Hyperparameters};

pub use bitnet_model::Activation;

/// Which elements of a head rotate together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeStyle {
    /// `i` with `i + dim / 2`.
    Neox,
    /// `2i` with `2i + 1`.
    Norm,
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
    /// That of a model.
    pub fn of(hyperparameters: &Hyperparameters) -> Definition {
        Definition {
            rope_style: match hyperparameters.architecture {
                Architecture::Bitnet
                | Architecture::Bitnet25
                | Architecture::BitnetB158
                | Architecture::Qwen3 => RopeStyle::Neox,
                Architecture::Llama => RopeStyle::Norm,
            },
            activation: hyperparameters.activation.function,
        }
    }
}
