//! Where the scales of a model's weights are.

use std::collections::BTreeMap;
use std::fmt;

use crate::gguf::{Gguf, TensorType};
use crate::lint::is_matrix_of_layer;

/// How the layers' matrices of one type are scaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scales {
    /// Their type.
    pub ty: TensorType,
    /// How many there are.
    pub matrices: usize,
    /// How many of them have a `.scale` tensor, which their products are multiplied with.
    pub with_tensor: usize,
}

/// Of every type of a file's layers that has scales, or `.scale` tensors beside it; by name.
pub fn scales(gguf: &Gguf) -> BTreeMap<&'static str, Scales> {
    let mut types = BTreeMap::new();
    for matrix in gguf.tensors().iter().filter(|t| is_matrix_of_layer(t)) {
        let ty = matrix.ty;
        let scales: &mut Scales = types.entry(ty.name()).or_insert(Scales {
            ty,
            matrices: 0,
            with_tensor: 0,
        });
        scales.matrices += 1;
        let base = matrix.name.strip_suffix("weight");
        let tensor = base.and_then(|base| gguf.tensor(&format!("{base}scale")));
        scales.with_tensor += usize::from(tensor.is_some());
    }
    types.retain(|_, scales| scales.with_tensor > 0 || !scales.ty.is_float());
    types
}

impl fmt::Display for Scales {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ty {
            ty if ty.is_ternary() => f.write_str("one F32 per matrix")?,
            ty if ty.is_float() => f.write_str("none in the type")?,
            TensorType::Unknown(_) => f.write_str("not known here")?,
            ty => write!(f, "one F16 per {} weights", ty.block_len())?,
        }
        match self.with_tensor {
            0 if self.ty.is_ternary() => Ok(()),
            0 => f.write_str(", no .scale tensors"),
            n if n == self.matrices => f.write_str(", times that of a .scale tensor"),
            n => write!(
                f,
                ", times that of a .scale tensor in {n} of {} matrices",
                self.matrices
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_follows_from_types_and_tensors() {
        for (ty, with_tensor, says) in [
            (TensorType::I2_S, 0, "one F32 per matrix"),
            (
                TensorType::I2_S,
                7,
                "one F32 per matrix, times that of a .scale tensor",
            ),
            (
                TensorType::TQ2_0,
                0,
                "one F16 per 256 weights, no .scale tensors",
            ),
            (
                TensorType::Q2_0,
                7,
                "one F16 per 64 weights, times that of a .scale tensor",
            ),
            (
                TensorType::Q2_0_128,
                2,
                "one F16 per 128 weights, times that of a .scale tensor in 2 of 7 matrices",
            ),
            (
                TensorType::F16,
                7,
                "none in the type, times that of a .scale tensor",
            ),
        ] {
            let scales = Scales {
                ty,
                matrices: 7,
                with_tensor,
            };
            assert_eq!(scales.to_string(), says);
        }
    }
}
