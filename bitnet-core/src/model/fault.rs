//! Deliberate errors, for proving that a comparison can fail. They change the model, never the forward pass.

use std::fmt;
use std::str::FromStr;

use super::{Activation, Layer, Model, RopeStyle};
use crate::Error;

/// Which sub-norm of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubNorm {
    /// Before the output projection.
    Attn,
    /// Before the down projection.
    Ffn,
}

/// A deliberate error. The text form is given with each.
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// `rope-pairing`: the other [`RopeStyle`].
    RopePairing,
    /// `skip-attn-sub-norm:LAYER`, `skip-ffn-sub-norm:LAYER`: the sub-norm is left out.
    SkipSubNorm {
        /// The layer, from 0.
        layer: usize,
        /// Which of the two.
        which: SubNorm,
    },
    /// `weight-scale:LAYER:TENSOR:FACTOR`: the products of a matrix (`attn_q`, `ffn_down`, …), or the gammas of a
    /// norm (`attn_norm`, …), come out multiplied.
    WeightScale {
        /// The layer, from 0.
        layer: usize,
        /// The tensor's name between `blk.N.` and `.weight`.
        tensor: String,
        /// The factor.
        factor: f32,
    },
    /// `activation:LAYER`: the other [`Activation`].
    Activation {
        /// The layer, from 0.
        layer: usize,
    },
}

/// A string that is not a [`Fault`].
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown fault {0:?} (known: rope-pairing, skip-attn-sub-norm:LAYER, skip-ffn-sub-norm:LAYER, \
     weight-scale:LAYER:TENSOR:FACTOR, activation:LAYER)"
)]
pub struct ParseFaultError(String);

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let layer = |text: &str| text.parse::<usize>().ok();
        let parts: Vec<_> = s.split(':').collect();
        let fault = match parts[..] {
            ["rope-pairing"] => Some(Fault::RopePairing),
            ["skip-attn-sub-norm", l] => layer(l).map(|layer| Fault::SkipSubNorm {
                layer,
                which: SubNorm::Attn,
            }),
            ["skip-ffn-sub-norm", l] => layer(l).map(|layer| Fault::SkipSubNorm {
                layer,
                which: SubNorm::Ffn,
            }),
            ["weight-scale", l, tensor, factor] => {
                layer(l)
                    .zip(factor.parse().ok())
                    .map(|(layer, factor)| Fault::WeightScale {
                        layer,
                        tensor: tensor.to_owned(),
                        factor,
                    })
            }
            ["activation", l] => layer(l).map(|layer| Fault::Activation { layer }),
            _ => None,
        };
        fault.ok_or_else(|| ParseFaultError(s.to_owned()))
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::RopePairing => f.write_str("rope-pairing"),
            Fault::SkipSubNorm { layer, which } => match which {
                SubNorm::Attn => write!(f, "skip-attn-sub-norm:{layer}"),
                SubNorm::Ffn => write!(f, "skip-ffn-sub-norm:{layer}"),
            },
            Fault::WeightScale {
                layer,
                tensor,
                factor,
            } => write!(f, "weight-scale:{layer}:{tensor}:{factor}"),
            Fault::Activation { layer } => write!(f, "activation:{layer}"),
        }
    }
}

impl Model {
    /// Puts a deliberate error into the model.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if the model has no such layer or tensor.
    pub fn inject(&mut self, fault: &Fault) -> Result<(), Error> {
        match fault {
            Fault::RopePairing => {
                let style = &mut self.config.rope_style;
                *style = match style {
                    RopeStyle::Neox => RopeStyle::Norm,
                    RopeStyle::Norm => RopeStyle::Neox,
                };
            }
            Fault::SkipSubNorm { layer, which } => {
                let layer = self.layer_mut(*layer, fault)?;
                let gamma = match which {
                    SubNorm::Attn => &mut layer.attn_sub_norm,
                    SubNorm::Ffn => &mut layer.ffn_sub_norm,
                };
                gamma.take().ok_or_else(|| no_place(fault))?;
            }
            Fault::WeightScale {
                layer,
                tensor,
                factor,
            } => scale(self.layer_mut(*layer, fault)?, tensor, *factor)
                .ok_or_else(|| no_place(fault))?,
            Fault::Activation { layer } => {
                let activation = &mut self.layer_mut(*layer, fault)?.activation;
                *activation = match activation {
                    Activation::Silu => Activation::Relu2,
                    Activation::Relu2 => Activation::Silu,
                };
            }
        }
        Ok(())
    }

    fn layer_mut(&mut self, layer: usize, fault: &Fault) -> Result<&mut Layer, Error> {
        self.layers.get_mut(layer).ok_or_else(|| no_place(fault))
    }
}

fn no_place(fault: &Fault) -> Error {
    Error::usage(format!(
        "fault {fault}: the model has no such layer or tensor"
    ))
}

/// Multiplies a matrix' products or a norm's gammas; `None` if the layer has no such tensor.
fn scale(layer: &mut Layer, tensor: &str, factor: f32) -> Option<()> {
    let linear = match tensor {
        "attn_q" => &mut layer.q,
        "attn_k" => &mut layer.k,
        "attn_v" => &mut layer.v,
        "attn_output" => &mut layer.output,
        "ffn_gate" => &mut layer.gate,
        "ffn_up" => &mut layer.up,
        "ffn_down" => &mut layer.down,
        _ => {
            let gamma = match tensor {
                "attn_norm" => &mut layer.attn_norm,
                "ffn_norm" => &mut layer.ffn_norm,
                "attn_sub_norm" => layer.attn_sub_norm.as_mut()?,
                "ffn_sub_norm" => layer.ffn_sub_norm.as_mut()?,
                _ => return None,
            };
            gamma.iter_mut().for_each(|g| *g *= factor);
            return Some(());
        }
    };
    linear.scale = Some(linear.scale.unwrap_or(1.0) * factor);
    Some(())
}
