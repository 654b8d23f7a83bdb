//! From a file to a [`Model`]: every tensor is looked for, checked and accounted for.

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, OnceLock};

use super::config::Config;
use super::linear::{Linear, Matrix};
use super::{Layer, Model};
use crate::Error;
use crate::gguf::{Gguf, TensorInfo, TensorType};
use crate::kernels::Kernel;

pub(super) fn load(gguf: Arc<Gguf>) -> Result<Model, Error> {
    let config = Config::read(&gguf)?;
    let mut loader = Loader {
        gguf: &gguf,
        used: HashSet::new(),
    };
    let (embd, vocab) = (config.n_embd, config.n_vocab);
    let embedding = loader.embedding("token_embd.weight", vocab, embd)?;
    let output = match config.tied_output {
        true => None,
        false => Some(loader.matrix("output.weight", vocab, embd)?),
    };
    let output_norm = loader.vector("output_norm.weight", embd)?;
    let rope_factors = loader.optional_vector("rope_freqs.weight", config.rope_dim / 2)?;
    if let Some(factor) = rope_factors.iter().flatten().find(|f| **f == 0.0) {
        let what = format!("tensor \"rope_freqs.weight\" divides angles by {factor}");
        return Err(Error::bad_file(gguf.path(), what));
    }
    let mut layers = Vec::new();
    for i in 0..config.n_layer {
        layers.push(loader.layer(&config, i)?);
    }
    loader.finish()?;
    Ok(Model {
        kernel: Kernel::select()?,
        gguf,
        config,
        embedding,
        layers,
        output_norm,
        output,
        decoded: AtomicUsize::new(0),
        compact_head: None,
        rope_factors,
    })
}

struct Loader<'a> {
    gguf: &'a Gguf,
    used: HashSet<&'a str>,
}

impl<'a> Loader<'a> {
    fn layer(&mut self, config: &Config, i: usize) -> Result<Layer, Error> {
        let Config { n_embd, n_ff, .. } = *config;
        let (q_dim, kv_dim) = (config.q_dim(), config.kv_dim());
        let name = |part: &str| format!("blk.{i}.{part}");
        let mut sub_norm = |part: &str, n| match config.sub_norms {
            true => self.vector(&name(part), n).map(Some),
            false => Ok(None),
        };
        Ok(Layer {
            trits: OnceLock::new(),
            attn_sub_norm: sub_norm("attn_sub_norm.weight", q_dim)?,
            ffn_sub_norm: sub_norm("ffn_sub_norm.weight", n_ff)?,
            attn_norm: self.vector(&name("attn_norm.weight"), n_embd)?,
            q: self.linear(&name("attn_q"), q_dim, n_embd)?,
            k: self.linear(&name("attn_k"), kv_dim, n_embd)?,
            v: self.linear(&name("attn_v"), kv_dim, n_embd)?,
            output: self.linear(&name("attn_output"), n_embd, q_dim)?,
            ffn_norm: self.vector(&name("ffn_norm.weight"), n_embd)?,
            gate: self.linear(&name("ffn_gate"), n_ff, n_embd)?,
            up: self.linear(&name("ffn_up"), n_ff, n_embd)?,
            down: self.linear(&name("ffn_down"), n_embd, n_ff)?,
        })
    }

    fn linear(&mut self, name: &str, rows: usize, columns: usize) -> Result<Linear, Error> {
        let scale = self.optional_vector(&format!("{name}.scale"), 1)?;
        Ok(Linear {
            weight: self.matrix(&format!("{name}.weight"), rows, columns)?,
            scale: scale.map(|scale| scale[0]),
            bias: self.optional_vector(&format!("{name}.bias"), rows)?,
        })
    }

    fn embedding(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, Error> {
        if let Some(info) = self.gguf.tensor(name)
            && let [_, file_rows] = info.shape[..]
            && file_rows != rows as u64
        {
            let what = format!("tensor {name:?} has {file_rows} rows for {rows} tokens");
            return Err(Error::bad_file(self.gguf.path(), what));
        }
        let matrix = self.matrix(name, rows, columns)?;
        if !matrix.is_embedding() {
            let what = format!("tensor {name:?}: I2_S is not supported for embeddings");
            return Err(Error::unsupported(self.gguf.path(), what));
        }
        Ok(matrix)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<Matrix, Error> {
        let info = self.required(name)?;
        self.check_shape(info, &[columns, rows])?;
        Matrix::new(self.gguf, info, rows, columns)
    }

    fn vector(&mut self, name: &str, n: usize) -> Result<Vec<f32>, Error> {
        let info = self.required(name)?;
        self.check_shape(info, &[n])?;
        if info.ty != TensorType::F32 {
            let what = format!("tensor {name:?} has type {}, F32 is due", info.ty);
            return Err(Error::unsupported(self.gguf.path(), what));
        }
        let data = self.gguf.data(info)?;
        let (values, _) = data.as_chunks();
        Ok(values.iter().map(|v| f32::from_le_bytes(*v)).collect())
    }

    fn optional_vector(&mut self, name: &str, n: usize) -> Result<Option<Vec<f32>>, Error> {
        match self.gguf.tensor(name) {
            Some(_) => self.vector(name, n).map(Some),
            None => Ok(None),
        }
    }

    fn required(&mut self, name: &str) -> Result<&'a TensorInfo, Error> {
        let Some(info) = self.gguf.tensor(name) else {
            return Err(self.unaccounted(format!("tensor {name:?} is missing")));
        };
        self.used.insert(&info.name);
        Ok(info)
    }

    fn check_shape(&self, info: &TensorInfo, want: &[usize]) -> Result<(), Error> {
        if info
            .shape
            .iter()
            .copied()
            .eq(want.iter().map(|&n| n as u64))
        {
            return Ok(());
        }
        let TensorInfo { name, shape, .. } = info;
        let what = format!("tensor {name:?} has shape {shape:?}, {want:?} is due");
        Err(Error::bad_file(self.gguf.path(), what))
    }

    /// Refuses tensors that nothing asked for: what is in the file is part of the model.
    fn finish(self) -> Result<(), Error> {
        let unused = |info: &&TensorInfo| !self.used.contains(info.name.as_str());
        match self.gguf.tensors().iter().find(unused) {
            None => Ok(()),
            Some(TensorInfo { name, .. }) => {
                Err(self.unaccounted(format!("tensor {name:?} is not part of the architecture")))
            }
        }
    }

    fn unaccounted(&self, what: String) -> Error {
        Error::missing_tensor(self.gguf.path(), what)
    }
}
