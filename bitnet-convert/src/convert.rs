//! A model with its matrices in another type.
//!
//! Ternary weights keep their codes; their scale goes where it stays whole: behind an I2_S tensor, into the blocks of TQ1_0
//! and TQ2_0 where F16 holds it, and else into a tensor `<name>.scale` beside blocks of scale 1. Floats are made ternary by
//! the mean of their magnitudes (BitNet b1.58, arXiv:2402.17764), or taken for ternary where they are.

use std::io::{self, Write};
use std::path::Path;

use bitnet_model::Error;
use bitnet_model::gguf::{Metadata, TensorInfo, TensorType, Writer};
use bitnet_model::lint;
use half::f16;

use crate::encode;
use crate::weights::{Levels, Model, Weights, scale_beside, ternary};

/// A type that a model's matrices can be converted to.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The type.
    pub ty: TensorType,
    /// Its name in converters.
    pub name: &'static str,
    /// What `general.file_type` calls it: llama.cpp's `llama_ftype`, and I2_S as BitNet.cpp's converters write it.
    pub file_type: u32,
}

const fn target(ty: TensorType, name: &'static str, file_type: u32) -> Target {
    Target {
        ty,
        name,
        file_type,
    }
}

/// Every type that a model's matrices can be converted to.
pub const TARGETS: [Target; 6] = [
    target(TensorType::I2_S, "i2_s", 40),
    target(TensorType::TQ2_0, "tq2_0", 37),
    target(TensorType::TQ1_0, "tq1_0", 36),
    target(TensorType::F16, "f16", 1),
    target(TensorType::BF16, "bf16", 32),
    target(TensorType::F32, "f32", 0),
];

/// What is written as a tensor.
#[derive(Clone, Copy)]
enum Plan {
    /// The scale of the matrix before it.
    Value(f32),
    /// A tensor of the model.
    Weights(Encoding),
}

/// How a tensor is written.
#[derive(Clone, Copy)]
enum Encoding {
    /// As it is.
    Keep,
    /// In floats, every scale applied.
    Floats,
    /// In codes; blocks have these scales.
    Codes(Scales),
}

/// How codes come about and are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scales {
    /// A weight that is at least half of this in magnitude is not 0.
    unit: f32,
    /// Behind the tensor.
    trailer: f32,
    /// In every block, if it is one and the same.
    block: Option<f16>,
}

/// Writes `model` with its matrices as `ty`: those of the layers, and of floats the embeddings and the output too. `done` is
/// told the bytes that were read, and stops it by `false`.
///
/// # Errors
/// The message names the tensor: [`Unsupported`](bitnet_model::ErrorKind::Unsupported) if the type cannot hold it,
/// [`Io`](bitnet_model::ErrorKind::Io) if `out` fails, which lies at `path`.
pub fn convert(
    model: &dyn Model,
    ty: TensorType,
    path: &Path,
    out: impl Write,
    mut done: impl FnMut(u64) -> bool,
) -> Result<(), Error> {
    let mut writer = Writer::new(metadata(model, ty, path)?)?;
    let mut plans = Vec::new();
    for info in model.tensors() {
        for (name, shape, ty, plan) in plan(model, info, ty)? {
            writer
                .tensor(&name, &shape, ty)
                .map_err(|e| Error::unsupported(model.path(), e.to_string()))?;
            plans.push((info, ty, plan));
        }
    }
    let mut writer = writer.begin(out)?;
    for (info, ty, plan) in plans {
        let encoding = match plan {
            Plan::Value(v) => {
                writer.write_tensor(|out| out.write_all(&v.to_le_bytes()))?;
                continue;
            }
            Plan::Weights(encoding) => encoding,
        };
        let mut fault = None;
        let Some(weights) = model.weights(info)? else {
            continue;
        };
        let written = writer.write_tensor(|out| write(&weights, encoding, ty, out, &mut fault));
        if let Some(what) = fault {
            let what = format!("tensor {:?}: {what}", info.name);
            return Err(Error::unsupported(model.path(), what));
        }
        written?;
        if !done(info.size) {
            return Err(Error::io(path, io::ErrorKind::Interrupted.into()));
        }
    }
    writer.finish()?;
    Ok(())
}

fn metadata(model: &dyn Model, ty: TensorType, path: &Path) -> Result<Metadata, Error> {
    let mut metadata = Metadata::new(path);
    let target = TARGETS.iter().find(|target| target.ty == ty);
    let file_type = target.map(|target| target.file_type);
    for (key, value) in model.metadata().iter() {
        if key.starts_with("split.") {
            continue;
        }
        match (key, file_type) {
            ("general.file_type", Some(file_type)) => metadata.insert(key, file_type)?,
            _ => metadata.insert(key, value.clone())?,
        }
    }
    if let (None, Some(file_type)) = (metadata.get("general.file_type"), file_type) {
        metadata.insert("general.file_type", file_type)?;
    }
    Ok(metadata)
}

type Planned = (String, Vec<u64>, TensorType, Plan);

/// The tensors that one becomes: itself, none for a scale that goes elsewhere, or two.
fn plan(model: &dyn Model, info: &TensorInfo, ty: TensorType) -> Result<Vec<Planned>, Error> {
    let refused =
        |what: &str| Error::unsupported(model.path(), format!("tensor {:?}: {what}", info.name));
    let matrix = info
        .name
        .strip_suffix(".scale")
        .map(|name| format!("{name}.weight"));
    if let Some(matrix) = matrix.and_then(|name| model.tensor(&name))
        && let Some(weights) = model.weights(matrix)?
        && weights.beside.is_some()
        && !is_kept(&weights, ty)
    {
        return Ok(Vec::new());
    }
    let Some(weights) = model.weights(info)? else {
        return Err(refused(&format!("its type, {}, is not read here", info.ty)));
    };
    let itself = |ty, encoding| {
        let plan = Plan::Weights(encoding);
        (info.name.clone(), info.shape.clone(), ty, plan)
    };
    if is_kept(&weights, ty) {
        return Ok(vec![itself(info.ty, Encoding::Keep)]);
    }
    let ty = becomes(&weights, ty);
    if ty.is_float() {
        return Ok(vec![itself(ty, Encoding::Floats)]);
    }
    let (scales, beside) = scales(&weights, ty).map_err(refused)?;
    let mut planned = vec![itself(ty, Encoding::Codes(scales))];
    if let (Some(scale), Some(name)) = (beside, scale_beside(&info.name)) {
        planned.push((name, vec![1], TensorType::F32, Plan::Value(scale)));
    }
    Ok(planned)
}

/// The type that a tensor gets. What is no GGUF gets the types that converters write: norms in F32, embeddings and output in
/// F16.
fn becomes(weights: &Weights, ty: TensorType) -> TensorType {
    let info = weights.info;
    let matrix = info.shape.len() == 2;
    if lint::is_matrix_of_layer(info) || (ty.is_float() && matrix) {
        ty
    } else if weights.are_of_gguf() {
        info.ty
    } else if matrix {
        TensorType::F16
    } else {
        TensorType::F32
    }
}

fn is_kept(weights: &Weights, ty: TensorType) -> bool {
    weights.are_of_gguf() && becomes(weights, ty) == weights.info.ty
}

/// Where the scale of a tensor goes, and the one beside it.
fn scales(weights: &Weights, ty: TensorType) -> Result<(Scales, Option<f32>), &'static str> {
    let (unit, level) = level(weights)?;
    let scale = level * weights.scale();
    if !scale.is_finite() {
        return Err("its scale is not finite");
    }
    let half = f16::from_f32(scale);
    let (trailer, block, beside) = if ty.is_ternary() {
        (scale, None, None)
    } else if half.to_f32() == scale {
        (1.0, Some(half), None)
    } else {
        (1.0, Some(f16::ONE), Some(scale))
    };
    let scales = Scales {
        unit,
        trailer,
        block,
    };
    Ok((scales, beside))
}

/// What weights are divided by to be codes, and what those then stand for; the scale of the whole tensor aside.
fn level(weights: &Weights) -> Result<(f32, f32), &'static str> {
    // Rows are codes; other ternary types have their scales in them.
    if weights.info.ty.is_ternary()
        || (weights.levels == Levels::Ternary && weights.info.ty.is_float())
    {
        return Ok((1.0, 1.0));
    }
    let (mut least, mut largest) = (f32::INFINITY, 0f32);
    let (mut finite, mut sum) = (true, 0.0);
    weights.for_each_row(|_, row| {
        sum += row.iter().map(|v| f64::from(v.abs())).sum::<f64>();
        for v in row.iter().map(|v| v.abs()) {
            finite &= v.is_finite();
            largest = largest.max(v);
            if v > 0.0 {
                least = least.min(v);
            }
        }
    });
    if !finite {
        return Err("not every weight is finite");
    }
    // All are 0, or of one magnitude.
    if largest == 0.0 || least == largest {
        return Ok((largest.max(f32::MIN_POSITIVE), largest));
    }
    match weights.levels {
        Levels::Ternary => Err("its blocks have different scales, which one for all does not hold"),
        Levels::Integers => {
            Err("it has more than three levels, and was never trained to have three")
        }
        Levels::Float => {
            let mean = (sum / weights.info.n_elements() as f64) as f32;
            Ok((mean, mean))
        }
    }
}

fn write(
    weights: &Weights,
    encoding: Encoding,
    ty: TensorType,
    out: &mut dyn Write,
    fault: &mut Option<&'static str>,
) -> io::Result<()> {
    match encoding {
        Encoding::Keep => match weights.copy_to(out) {
            Some(copied) => copied,
            None => Err(io::ErrorKind::InvalidData.into()),
        },
        Encoding::Floats => write_floats(weights, ty, out, fault),
        Encoding::Codes(scales) => write_codes(weights, scales, ty, out),
    }
}

fn write_floats(
    weights: &Weights,
    ty: TensorType,
    out: &mut dyn Write,
    fault: &mut Option<&'static str>,
) -> io::Result<()> {
    let Some(float) = encode::float(ty) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let scale = weights.scale();
    let (mut scaled, mut bytes) = (Vec::new(), Vec::new());
    let mut written = Ok(());
    weights.for_each_row(|_, row| {
        if written.is_err() {
            return;
        }
        scaled.clear();
        scaled.extend(row.iter().map(|v| v * scale));
        bytes.clear();
        if encode::floats(&scaled, float, &mut bytes).is_none() {
            *fault = Some("the type does not hold weights as large as some of it");
        }
        written = out.write_all(&bytes);
    });
    written
}

fn write_codes(
    weights: &Weights,
    scales: Scales,
    ty: TensorType,
    out: &mut dyn Write,
) -> io::Result<()> {
    let of_blocks = scales.block.unwrap_or(f16::ONE);
    let (mut codes, mut bytes) = (Vec::new(), Vec::new());
    let mut written = Ok(());
    weights.for_each_row(|_, row| {
        if written.is_err() {
            return;
        }
        codes.clear();
        codes.extend(row.iter().map(|v| ternary(*v, scales.unit) as i8));
        bytes.clear();
        written = match encode::codes(&codes, ty, of_blocks, &mut bytes) {
            Some(()) => out.write_all(&bytes),
            None => Err(io::ErrorKind::InvalidData.into()),
        };
    });
    written?;
    let mut trailer = [0; 32];
    trailer[..4].copy_from_slice(&scales.trailer.to_le_bytes());
    let n = ty
        .layout()
        .map_or(0, |layout| layout.trailer_bytes as usize);
    out.write_all(&trailer[..n])
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use bitnet_model::gguf::Gguf;

    use super::*;
    use crate::diff::diff;

    fn tiny() -> Gguf {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf");
        Gguf::open(Path::new(path)).unwrap()
    }

    fn converted(from: &Gguf, ty: TensorType) -> Gguf {
        let path = PathBuf::from("memory.gguf");
        let mut bytes = Vec::new();
        convert(from, ty, &path, &mut bytes, |_| true).unwrap();
        Gguf::from_bytes(&path, bytes).unwrap()
    }

    /// Rows of the bundled model are no multiple of 256.
    fn wide() -> Gguf {
        let tiny = tiny();
        let mut metadata = Metadata::new(Path::new("wide.gguf"));
        for (key, value) in tiny.metadata().iter() {
            metadata.insert(key, value.clone()).unwrap();
        }
        let down = tiny.tensor("blk.0.ffn_down.weight").unwrap();
        let mut writer = Writer::new(metadata).unwrap();
        writer.tensor(&down.name, &down.shape, down.ty).unwrap();
        let mut writer = writer.begin(Vec::new()).unwrap();
        let data = tiny.data(down).unwrap();
        writer.write_tensor(|out| out.write_all(data)).unwrap();
        Gguf::from_bytes(Path::new("wide.gguf"), writer.finish().unwrap()).unwrap()
    }

    #[test]
    fn floats_come_back_as_the_codes_that_they_were() {
        let tiny = tiny();
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            let floats = converted(&tiny, ty);
            assert!(diff(&tiny, &floats, |_| true).unwrap().is_same(), "{ty}");
            let back = converted(&floats, TensorType::I2_S);
            let diff = diff(&tiny, &back, |_| true).unwrap();
            let codes = diff.tensors.iter().filter_map(|t| t.equal_codes);
            assert!(codes.into_iter().all(|share| share == 1.0), "{ty}");
            if ty == TensorType::F32 {
                assert_eq!(
                    diff.equal_tensors,
                    tiny.tensors().len() - 1,
                    "the embeddings are F32"
                );
            }
        }
    }

    #[test]
    fn scales_that_blocks_do_not_hold_stand_beside_them() {
        let wide = wide();
        for ty in [TensorType::TQ1_0, TensorType::TQ2_0] {
            let blocks = converted(&wide, ty);
            assert_eq!(blocks.tensors().len(), 2);
            let scale = blocks.tensor("blk.0.ffn_down.scale").unwrap();
            assert_eq!(scale.shape, [1]);
            assert!(diff(&wide, &blocks, |_| true).unwrap().is_same());
            let back = converted(&blocks, TensorType::I2_S);
            let [tensor] = back.tensors() else {
                panic!("{:?}", back.tensors());
            };
            let same = wide.data(&wide.tensors()[0]).unwrap() == back.data(tensor).unwrap();
            assert!(same, "{ty}");
        }
    }

    #[test]
    fn what_a_type_does_not_hold_is_named() {
        let mut bytes = Vec::new();
        let error = convert(
            &tiny(),
            TensorType::TQ2_0,
            Path::new("x"),
            &mut bytes,
            |_| true,
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("tensor \"blk.0.attn_q.weight\""), "{error}");
        assert!(error.contains("rows of 128 elements"), "{error}");
    }
}
