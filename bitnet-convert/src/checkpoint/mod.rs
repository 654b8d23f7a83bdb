//! A checkpoint of Hugging Face: a folder with `config.json`, safetensors and a tokenizer, seen as what GGUF makes of it.
//!
//! Ternary weights come packed, four codes in a byte from rows a quarter of the tensor apart, with a scale that multiplies or
//! divides (`pack_weights`, `AutoBitLinear` and `BitLinear` of transformers' `integrations/bitnet.py`), or as the master
//! weights that training keeps.

mod config;
mod json;
mod names;
mod shards;
#[cfg(test)]
mod tests;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bitnet_model::gguf::{Gguf, Metadata, TensorInfo, TensorType, Writer};
use bitnet_model::layout::OUTPUT;
use bitnet_model::{Error, Hyperparameters, lint};
use half::{bf16, f16};
use safetensors::Dtype;

use crate::weights::{Levels, Model, Rows, Weights, ternary};
use config::{Config, Matrices};
use shards::{Place, Shards};

/// An open checkpoint.
#[derive(Debug)]
pub struct Checkpoint {
    folder: PathBuf,
    config: Config,
    metadata: Metadata,
    shards: Shards,
    tensors: Vec<TensorInfo>,
    /// What each is called in the checkpoint, by its name in GGUF.
    names: BTreeMap<String, String>,
}

impl Checkpoint {
    /// Opens a checkpoint, reads what it says of itself, and maps its weights.
    ///
    /// # Errors
    /// The message names the file, and the key or tensor that is missing, damaged or cannot be converted.
    pub fn open(folder: &Path) -> Result<Checkpoint, Error> {
        let config = Config::read(folder)?;
        let shards = Shards::open(folder)?;
        let name = folder.canonicalize().ok();
        let name = name
            .as_deref()
            .and_then(Path::file_name)
            .unwrap_or_default();
        let mut metadata = Metadata::new(folder);
        config.write(&name.to_string_lossy(), &mut metadata)?;
        let arch = config.architecture.name();
        let n_vocab = metadata.u32(&format!("{arch}.vocab_size"))?;
        vocabulary::write(folder, &config, n_vocab, &mut metadata)?;
        let mut checkpoint = Checkpoint {
            folder: folder.to_owned(),
            config,
            metadata,
            shards,
            tensors: Vec::new(),
            names: BTreeMap::new(),
        };
        checkpoint.add_tensors()?;
        Ok(checkpoint)
    }

    fn add_tensors(&mut self) -> Result<(), Error> {
        let mut tensors = Vec::new();
        for name in self.shards.names() {
            let Some(place) = self.shards.place(name) else {
                continue;
            };
            if names::is_no_weight(name) || (self.config.tied && name == "lm_head.weight") {
                continue;
            }
            let refuse = |what: String| {
                Error::unsupported(self.shards.path(place), format!("tensor {name:?} {what}"))
            };
            let Some(in_gguf) = names::in_gguf(name) else {
                return Err(refuse("is none of a model that is known here".to_owned()));
            };
            let (ty, packed) = match place.dtype {
                Dtype::F32 => (TensorType::F32, 1),
                Dtype::F16 => (TensorType::F16, 1),
                Dtype::BF16 => (TensorType::BF16, 1),
                Dtype::U8 if place.shape.len() == 2 => (TensorType::I2_S, PACKED),
                other => {
                    return Err(refuse(format!(
                        "is of type {other:?}, which is not read here"
                    )));
                }
            };
            let mut shape: Vec<u64> = place.shape.iter().rev().map(|&n| n as u64).collect();
            if let Some(rows) = shape.get_mut(1) {
                *rows *= packed;
            }
            if shape.contains(&0) || shape.is_empty() || shape.len() > 2 {
                return Err(refuse(format!(
                    "is of shape {:?}, which is not read here",
                    place.shape
                )));
            }
            tensors.push(TensorInfo {
                name: in_gguf.clone(),
                shape,
                ty,
                part: place.file,
                offset: place.offset as u64,
                size: place.size as u64,
            });
            if let Some(other) = self.names.insert(in_gguf, name.to_owned()) {
                let what = format!("tensors {name:?} and {other:?} are the same one in GGUF");
                return Err(Error::bad_file(&self.folder, what));
            }
        }
        tensors.sort_by_key(|info| order(&info.name));
        self.tensors = tensors;
        Ok(())
    }

    fn place(&self, info: &TensorInfo) -> Result<(&str, &Place), Error> {
        let found = self.names.get(&info.name).and_then(|name| {
            let place = self.shards.place(name)?;
            Some((name.as_str(), place))
        });
        found.ok_or_else(|| {
            let what = format!("tensor {:?} is not of this checkpoint", info.name);
            Error::usage(what)
        })
    }

    /// The scale of packed codes.
    fn scale(&self, name: &str, place: &Place) -> Result<f32, Error> {
        let scale_name = format!("{}_scale", name);
        let bad = |what: &str| {
            Err(Error::bad_file(
                self.shards.path(place),
                format!("tensor {scale_name:?} {what}"),
            ))
        };
        let Some(scale) = self.shards.place(&scale_name) else {
            return bad("is missing, and the weights are packed");
        };
        if scale.shape.iter().product::<usize>() != 1 {
            return bad("is not one number");
        }
        let mut value = [0.0];
        if floats(scale.dtype, self.shards.data(scale), &mut value).is_none() {
            return bad("is no float");
        }
        let [scale] = value;
        Ok(match self.config.matrices {
            Matrices::Divided => 1.0 / scale,
            Matrices::Multiplied | Matrices::Plain => scale,
        })
    }

    /// The heads whose rows change places.
    fn interleaved(&self, name: &str) -> Option<usize> {
        let of_queries_or_keys = [".attn_q.", ".attn_k."]
            .iter()
            .any(|part| name.contains(part));
        (self.config.interleaves() && of_queries_or_keys).then_some(self.config.head_dim as usize)
    }
}

/// Codes in a byte.
const PACKED: u64 = 4;

/// As converters of llama.cpp put tensors: the embeddings, the layers by their number, the rest.
fn order(name: &str) -> (u8, u32, String) {
    let layer = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.')?.0.parse().ok());
    let part = match (name, layer) {
        ("token_embd.weight", _) => 0,
        (_, Some(_)) => 1,
        _ => 2,
    };
    (part, layer.unwrap_or_default(), name.to_owned())
}

impl Model for Checkpoint {
    fn path(&self) -> &Path {
        &self.folder
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    fn weights<'a>(&'a self, info: &'a TensorInfo) -> Result<Option<Weights<'a>>, Error> {
        let (name, place) = self.place(info)?;
        let rows = OfCheckpoint {
            shards: &self.shards,
            place,
            columns: info.shape.first().map_or(1, |&n| n as usize),
            heads: self.interleaved(&info.name),
            unit: None,
        };
        if info.ty == TensorType::I2_S {
            return Ok(Some(Weights::new(info, self.scale(name, place)?, rows)));
        }
        if self.config.matrices == Matrices::Plain || !lint::is_matrix_of_layer(info) {
            return Ok(Some(Weights::new(info, 1.0, rows)));
        }
        let mean = Weights::new(info, 1.0, rows.clone()).mean_magnitude();
        let mean = (mean as f32).max(LEAST_MEAN);
        let unit = Some(mean);
        let mut weights = Weights::new(info, mean, OfCheckpoint { unit, ..rows });
        weights.levels = Levels::Ternary;
        Ok(Some(weights))
    }

    fn hyperparameters(&self) -> Result<Hyperparameters, Error> {
        // What a file would be that has these keys, and an output matrix or none.
        let mut writer = Writer::new(self.metadata.clone())?;
        let head = self.tensor(OUTPUT).is_some();
        if head {
            writer.tensor(OUTPUT, &[1], TensorType::F32)?;
        }
        let mut writer = writer.begin(Vec::new())?;
        if head {
            writer.write_tensor(|out| out.write_all(&[0; 4]))?;
        }
        Hyperparameters::read(&Gguf::from_bytes(&self.folder, writer.finish()?)?)
    }
}

/// Of magnitudes (`WeightQuant` of transformers).
const LEAST_MEAN: f32 = 1e-5;

#[derive(Clone)]
struct OfCheckpoint<'a> {
    shards: &'a Shards,
    place: &'a Place,
    columns: usize,
    /// Values per head, if the halves of each are to be interleaved.
    heads: Option<usize>,
    /// What master weights are rounded to as multiples of it, -1, 0 or 1.
    unit: Option<f32>,
}

impl Rows for OfCheckpoint<'_> {
    fn decode(&self, r: usize, out: &mut [f32]) {
        let r = match self.heads {
            Some(dim) => r / dim * dim + r % 2 * (dim / 2) + r % dim / 2,
            None => r,
        };
        let data = self.shards.data(self.place);
        if self.place.dtype == Dtype::U8 {
            let rows = data.len() / self.columns;
            let shift = 2 * (r / rows);
            let row = &data[r % rows * self.columns..][..self.columns];
            for (out, byte) in out.iter_mut().zip(row) {
                *out = f32::from(byte >> shift & 3) - 1.0;
            }
            return;
        }
        let bytes = self.columns * self.place.dtype.bitsize() / 8;
        if floats(self.place.dtype, &data[r * bytes..][..bytes], out).is_none() {
            out.fill(f32::NAN);
        }
        if let Some(unit) = self.unit {
            for v in out {
                *v = ternary(*v, unit);
            }
        }
    }

    fn release(&self) {
        self.shards.release(self.place);
    }

    fn bytes(&self) -> Option<&[u8]> {
        None
    }
}

/// Decodes floats; `None` if they are none.
fn floats(dtype: Dtype, bytes: &[u8], out: &mut [f32]) -> Option<()> {
    match dtype {
        Dtype::F32 => {
            for (out, v) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f32::from_le_bytes(*v);
            }
        }
        Dtype::F16 => {
            for (out, v) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = f16::from_le_bytes(*v).to_f32();
            }
        }
        Dtype::BF16 => {
            for (out, v) in out.iter_mut().zip(bytes.as_chunks().0) {
                *out = bf16::from_le_bytes(*v).to_f32();
            }
        }
        _ => return None,
    }
    Some(())
}
