//! From a file to a [`Model`], once it holds what its layout says.

use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use bitnet_model::layout::{self, EMBEDDING, OUTPUT, ROPE_FACTORS};
use bitnet_model::{Hyperparameters, Tap};

use super::definition::{Activation, Definition};
use super::linear::{Linear, Matrix};
use super::{Layer, Model};
use crate::Error;
use crate::gguf::{Gguf, TensorInfo};
use crate::kernels::Kernel;
use crate::quant;

pub(super) fn load(gguf: Arc<Gguf>, activation: Option<Activation>) -> Result<Model, Error> {
    let hyperparameters = Hyperparameters::read_as(&gguf, activation)?;
    layout::check(&gguf, &hyperparameters)?;
    let loader = Loader { gguf: &gguf };
    let embedding = loader.embedding()?;
    let output = match hyperparameters.tied_output {
        true => None,
        false => Some(loader.matrix(OUTPUT)?),
    };
    let rope_factors = loader.optional_vector(ROPE_FACTORS)?;
    if let Some(factor) = rope_factors.iter().flatten().find(|f| **f == 0.0) {
        let what = format!("tensor {ROPE_FACTORS:?} divides angles by {factor}");
        return Err(Error::bad_file(gguf.path(), what));
    }
    let layers = (0..hyperparameters.n_layer).map(|i| loader.layer(&hyperparameters, i));
    Ok(Model {
        kernel: Kernel::select()?,
        definition: Definition::of(&hyperparameters),
        embedding,
        layers: layers.collect::<Result<_, Error>>()?,
        output_norm: loader.vector("output_norm.weight")?,
        output,
        decoded: AtomicUsize::new(0),
        compact_head: None,
        rope_factors,
        hyperparameters,
        gguf,
    })
}

/// Takes tensors out of a file that was held to its layout.
struct Loader<'a> {
    gguf: &'a Gguf,
}

impl<'a> Loader<'a> {
    fn layer(&self, hyperparameters: &Hyperparameters, i: usize) -> Result<Layer, Error> {
        let name = |part: &str| format!("blk.{i}.{part}");
        let norm_of = |tap, part: &str| match hyperparameters.architecture.has(tap) {
            true => self.vector(&name(part)).map(Some),
            false => Ok(None),
        };
        Ok(Layer {
            trits: OnceLock::new(),
            q_norm: norm_of(Tap::QNorm, "attn_q_norm.weight")?,
            k_norm: norm_of(Tap::KNorm, "attn_k_norm.weight")?,
            attn_sub_norm: norm_of(Tap::AttnSubNorm, "attn_sub_norm.weight")?,
            ffn_sub_norm: norm_of(Tap::FfnSubNorm, "ffn_sub_norm.weight")?,
            attn_norm: self.vector(&name("attn_norm.weight"))?,
            q: self.linear(&name("attn_q"))?,
            k: self.linear(&name("attn_k"))?,
            v: self.linear(&name("attn_v"))?,
            output: self.linear(&name("attn_output"))?,
            ffn_norm: self.vector(&name("ffn_norm.weight"))?,
            gate: self.linear(&name("ffn_gate"))?,
            up: self.linear(&name("ffn_up"))?,
            down: self.linear(&name("ffn_down"))?,
        })
    }

    fn linear(&self, name: &str) -> Result<Linear, Error> {
        let scale = self.optional_vector(&format!("{name}.scale"))?;
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"))?,
            scale: scale.map(|scale| scale[0]),
            bias: self.optional_vector(&format!("{name}.bias"))?,
        })
    }

    fn embedding(&self) -> Result<Matrix, Error> {
        let matrix = self.matrix(EMBEDDING)?;
        if !matrix.is_embedding() {
            let ty = matrix.ty();
            let what = format!("tensor {EMBEDDING:?}: {ty} is not supported for embeddings");
            return Err(Error::unsupported(self.gguf.path(), what));
        }
        Ok(matrix)
    }

    fn matrix(&self, name: &str) -> Result<Matrix, Error> {
        let info = self.required(name)?;
        let [columns, rows] = info.shape[..] else {
            let what = format!("tensor {name:?} is no matrix");
            return Err(Error::bad_file(self.gguf.path(), what));
        };
        Matrix::new(self.gguf, info, rows as usize, columns as usize)
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, Error> {
        let info = self.required(name)?;
        let mut values = vec![0.0; info.n_elements() as usize];
        let decoded = quant::dequantize_row(info.ty, self.gguf.data(info)?, &mut values);
        decoded.map(|()| values).ok_or_else(|| {
            let what = format!("tensor {name:?}: {} is not supported for vectors", info.ty);
            Error::unsupported(self.gguf.path(), what)
        })
    }

    fn optional_vector(&self, name: &str) -> Result<Option<Vec<f32>>, Error> {
        match self.gguf.tensor(name) {
            Some(_) => self.vector(name).map(Some),
            None => Ok(None),
        }
    }

    fn required(&self, name: &str) -> Result<&'a TensorInfo, Error> {
        self.gguf.tensor(name).ok_or_else(|| {
            Error::missing_tensor(self.gguf.path(), format!("tensor {name:?} is missing"))
        })
    }
}
