//! Which tensors a model's file must hold, and in which shapes: what the taps of its architecture apply, the
//! embeddings, and what may follow a product or stretch a rotation. Everything else is refused, since what is in the
//! file is part of the model.

use std::collections::HashSet;

use crate::error::Error;
use crate::gguf::{Gguf, TensorInfo};
use crate::hyperparameters::Hyperparameters;
use crate::tap::{Tap, Weight};

/// The token embeddings, `[n_embd, n_vocab]`.
pub const EMBEDDING: &str = "token_embd.weight";

/// The output matrix, where it is not the embeddings: `[n_embd, n_vocab]`.
pub const OUTPUT: &str = "output.weight";

/// One divisor per pair of a head's rotation, where the file has it.
pub const ROPE_FACTORS: &str = "rope_freqs.weight";

/// The name of the matrix of the logits in a file.
pub fn head(gguf: &Gguf) -> &'static str {
    match gguf.tensor(OUTPUT) {
        Some(_) => OUTPUT,
        None => EMBEDDING,
    }
}

/// The name of the tensor that the stage of a tap applies; `None` if it applies none.
pub fn weight_name(gguf: &Gguf, tap: Tap, layer: Option<usize>) -> Option<String> {
    Some(match (tap.weight()?, layer) {
        (Weight::Head, _) => head(gguf).to_owned(),
        (Weight::Norm(name) | Weight::HeadNorm(name) | Weight::Matrix(name), layer) => {
            match layer {
                Some(layer) => format!("blk.{layer}.{name}.weight"),
                None => format!("{name}.weight"),
            }
        }
    })
}

/// The tap whose stage applies the tensor of that name, `blk.N.attn_q.weight` or the head; `None` for norms and all else.
pub fn product_of(gguf: &Gguf, tensor: &str) -> Option<Tap> {
    if tensor == head(gguf) {
        return Some(Tap::Logits);
    }
    let (_, part) = tensor.strip_prefix("blk.")?.split_once('.')?;
    let part = part.strip_suffix(".weight")?;
    let applies = |tap: &Tap| matches!(tap.weight(), Some(Weight::Matrix(name)) if name == part);
    Tap::ALL.into_iter().find(applies)
}

/// Holds a file to the layout of its model: every tensor that must be there is, in its shape, vectors are floats, and
/// there is none that nothing applies.
///
/// # Errors
/// The message names the tensor: [`MissingTensor`](crate::ErrorKind::MissingTensor),
/// [`BadFile`](crate::ErrorKind::BadFile) for another shape, [`Unsupported`](crate::ErrorKind::Unsupported) for a vector
/// of another type.
pub fn check(gguf: &Gguf, model: &Hyperparameters) -> Result<(), Error> {
    let mut checker = Checker {
        gguf,
        used: HashSet::new(),
    };
    checker.embedding(model)?;
    if !model.tied_output {
        checker.matrix(OUTPUT, model.n_vocab, model.n_embd)?;
    }
    let outside = Tap::ALL.into_iter().filter(|tap| !tap.per_layer());
    for tap in outside {
        if let Some(Weight::Norm(name)) = tap.weight() {
            checker.vector(&format!("{name}.weight"), model.width(tap, 0))?;
        }
    }
    checker.optional_vector(ROPE_FACTORS, model.rope_dim / 2)?;
    let taps = model.architecture.taps();
    for layer in 0..model.n_layer {
        for &tap in taps.iter().filter(|tap| tap.per_layer()) {
            checker.layer(model, layer, tap)?;
        }
    }
    checker.nothing_else()
}

struct Checker<'a> {
    gguf: &'a Gguf,
    used: HashSet<&'a str>,
}

impl Checker<'_> {
    fn layer(&mut self, model: &Hyperparameters, layer: usize, tap: Tap) -> Result<(), Error> {
        match tap.weight() {
            Some(Weight::Norm(name)) => {
                self.vector(&format!("blk.{layer}.{name}.weight"), model.width(tap, 0))
            }
            Some(Weight::HeadNorm(name)) => {
                self.vector(&format!("blk.{layer}.{name}.weight"), model.head_dim)
            }
            Some(Weight::Matrix(name)) => {
                let base = format!("blk.{layer}.{name}");
                let rows = model.width(tap, 0);
                let columns = tap.sources().first().map_or(0, |&tap| model.width(tap, 0));
                self.optional_vector(&format!("{base}.scale"), 1)?;
                self.matrix(&format!("{base}.weight"), rows, columns)?;
                self.optional_vector(&format!("{base}.bias"), rows)
            }
            Some(Weight::Head) | None => Ok(()),
        }
    }

    /// Of embeddings, it is the vocabulary that does not fit.
    fn embedding(&mut self, model: &Hyperparameters) -> Result<(), Error> {
        let rows = model.n_vocab;
        if let Some(info) = self.gguf.tensor(EMBEDDING)
            && let [_, file_rows] = info.shape[..]
            && file_rows != rows as u64
        {
            let what = format!("tensor {EMBEDDING:?} has {file_rows} rows for {rows} tokens");
            return Err(Error::bad_file(self.gguf.path(), what));
        }
        self.matrix(EMBEDDING, rows, model.n_embd)
    }

    fn matrix(&mut self, name: &str, rows: usize, columns: usize) -> Result<(), Error> {
        self.required(name, &[columns, rows]).map(|_| ())
    }

    fn vector(&mut self, name: &str, n: usize) -> Result<(), Error> {
        let info = self.required(name, &[n])?;
        if !info.ty.is_float() {
            let what = format!("tensor {name:?} has type {}, a float is due", info.ty);
            return Err(Error::unsupported(self.gguf.path(), what));
        }
        Ok(())
    }

    fn optional_vector(&mut self, name: &str, n: usize) -> Result<(), Error> {
        match self.gguf.tensor(name) {
            Some(_) => self.vector(name, n),
            None => Ok(()),
        }
    }

    fn required(&mut self, name: &str, want: &[usize]) -> Result<&TensorInfo, Error> {
        let Some(info) = self.gguf.tensor(name) else {
            return Err(self.unaccounted(format!("tensor {name:?} is missing")));
        };
        self.used.insert(&info.name);
        let due = want.iter().map(|&n| n as u64);
        if !info.shape.iter().copied().eq(due) {
            let shape = &info.shape;
            let what = format!("tensor {name:?} has shape {shape:?}, {want:?} is due");
            return Err(Error::bad_file(self.gguf.path(), what));
        }
        Ok(info)
    }

    fn nothing_else(&self) -> Result<(), Error> {
        let unused = |info: &&TensorInfo| !self.used.contains(info.name.as_str());
        match self.gguf.tensors().iter().find(unused) {
            None => Ok(()),
            Some(TensorInfo { name, .. }) => {
                let mut what = format!("tensor {name:?} is not part of the architecture");
                let is_norm = |t: &&TensorInfo| is_norm_of_inputs(&t.name);
                let norms = self.gguf.tensors().iter().filter(is_norm).count();
                if is_norm_of_inputs(name) {
                    what.push_str(&format!(
                        ": it is one of {norms} norms of what a matrix is multiplied with, as BitNet embeddings have, \
                         which no engine here computes"
                    ));
                }
                Err(self.unaccounted(what))
            }
        }
    }

    fn unaccounted(&self, what: String) -> Error {
        Error::missing_tensor(self.gguf.path(), what)
    }
}

/// As the converter of BitNet embeddings names them: one before each matrix of a layer.
fn is_norm_of_inputs(name: &str) -> bool {
    name.strip_suffix(".weight")
        .is_some_and(|name| name.ends_with("_norm_in"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn norms_of_inputs_are_told_by_their_names() {
        for (name, is) in [
            ("blk.0.attn_q_norm_in.weight", true),
            ("blk.0.attn_q_norm.weight", false),
            ("blk.0.norm_in.extra", false),
        ] {
            assert_eq!(super::is_norm_of_inputs(name), is, "{name}");
        }
    }

    use super::*;

    #[test]
    fn tensors_and_taps_name_each_other() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf");
        let gguf = Gguf::open(&path).unwrap();
        for tap in Tap::ALL.into_iter().filter(|tap| tap.is_product()) {
            let layer = tap.per_layer().then_some(3);
            let name = weight_name(&gguf, tap, layer).unwrap();
            assert!(gguf.tensor(&name).is_some(), "{name}");
            assert_eq!(product_of(&gguf, &name), Some(tap));
        }
        for name in [
            "blk.0.attn_norm.weight",
            "blk.0.attn_q.bias",
            "attn_q.weight",
        ] {
            assert_eq!(product_of(&gguf, name), None);
        }
        let norm = weight_name(&gguf, Tap::FinalNorm, None);
        assert_eq!(norm.as_deref(), Some("output_norm.weight"));
    }
}
