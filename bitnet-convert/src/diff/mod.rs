//! Two files held against each other: their keys, and every tensor of one with that of the same name in the other.
//!
//! Where tensors differ, mistakes that converters are known to make are tried on the weights: another scale or its inverse,
//! codes that stand for others, rows or columns in another order, another packing, the weights of another tensor.

mod fingerprint;
mod measure;
mod metadata;
mod order;
mod tensor;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::io;

use bitnet_model::gguf::TensorInfo;
use bitnet_model::layout::{EMBEDDING, OUTPUT};
use bitnet_model::{Error, ErrorKind};
use serde::Serialize;

use crate::weights::{Model, Weights};
use fingerprint::{Fingerprint, Symbols};
pub use metadata::KeyDifference;
pub use tensor::{Finding, Likeness};

/// What differs between two files, A and B.
#[derive(Clone, Debug, Serialize)]
pub struct Diff {
    /// Keys whose values differ.
    pub keys: Vec<KeyDifference>,
    /// Tensors that differ, or whose types do.
    pub tensors: Vec<TensorDifference>,
    /// Tensors of both files that are equal.
    pub equal_tensors: usize,
}

/// A tensor that two files do not have alike.
#[derive(Clone, Debug, Serialize)]
pub struct TensorDifference {
    /// Its name.
    pub name: String,
    /// As the first file has it; null where that has none.
    pub a: Option<Stored>,
    /// As the second has it.
    pub b: Option<Stored>,
    /// Whether the weights are the same.
    pub likeness: Likeness,
    /// The share of equal codes, where both are ternary.
    pub equal_codes: Option<f64>,
    /// The factor that makes B of A, by least squares.
    pub factor: Option<f64>,
    /// Squares of the differences over those of A.
    pub nmse: Option<f64>,
    /// What explains it.
    pub findings: Vec<Finding>,
}

/// How a file stores a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stored {
    /// The name of its type.
    #[serde(rename = "type")]
    pub ty: String,
    /// Row length first.
    pub shape: Vec<u64>,
    /// Of the whole tensor, from behind its weights and from a tensor `<name>.scale`; null if there is none.
    pub scale: Option<f32>,
}

impl Diff {
    /// Whether both files hold the same model, up to the types of its tensors.
    pub fn is_same(&self) -> bool {
        let keys = self.keys.iter().all(|key| !key.matters);
        keys && self
            .tensors
            .iter()
            .all(|t| t.likeness != Likeness::Different)
    }
}

/// Sizes that heads have, whatever a file says.
const HEADS: [usize; 6] = [64, 128, 32, 80, 96, 256];

/// Holds two models against each other. `done` is told the bytes that were gone through, and stops it by `false`.
///
/// # Errors
/// The data of a tensor cannot be read, or it was stopped.
pub fn diff(
    a: &dyn Model,
    b: &dyn Model,
    mut done: impl FnMut(u64) -> bool,
) -> Result<Diff, Error> {
    let mut done = |bytes| match done(bytes) {
        true => Ok(()),
        false => Err(Error::io(a.path(), io::ErrorKind::Interrupted.into())),
    };
    let mut heads: Vec<usize> = [a, b]
        .into_iter()
        .filter_map(|model| Some(model.hyperparameters().ok()?.head_dim))
        .collect();
    heads.extend(HEADS);
    let mut diff = Diff {
        keys: metadata::compare(a, b),
        tensors: Vec::new(),
        equal_tensors: 0,
    };
    let mut unexplained = Vec::new();
    for info in a.tensors() {
        if is_scale_of_another(a, info) {
            continue;
        }
        let other = b.tensor(&info.name);
        let (difference, prints) = match other {
            Some(other) => pair(a, b, (info, other), &heads)?,
            None => (alone(a, b, info, true)?, None),
        };
        done(info.size + other.map_or(0, |other| other.size))?;
        let Some(difference) = difference else {
            diff.equal_tensors += 1;
            continue;
        };
        if let Some(prints) = prints {
            unexplained.push((diff.tensors.len(), prints));
        }
        diff.tensors.push(difference);
    }
    for info in b.tensors() {
        if a.tensor(&info.name).is_none() && !is_scale_of_another(b, info) {
            diff.tensors.extend(alone(a, b, info, false)?);
            done(info.size)?;
        }
    }
    exchanged(a, &mut diff.tensors, &unexplained)?;
    let different = |tensor: &&mut TensorDifference| tensor.likeness == Likeness::Different;
    for tensor in diff.tensors.iter_mut().filter(different) {
        if tensor.findings.is_empty() {
            let what = "nothing that is tried here explains it";
            tensor.findings.push(Finding::new("unexplained", what));
        }
    }
    Ok(diff)
}

/// Whether a tensor is part of the matrix that it scales.
fn is_scale_of_another(model: &dyn Model, info: &TensorInfo) -> bool {
    let matrix = info.name.strip_suffix(".scale");
    let matrix = matrix.and_then(|name| model.tensor(&format!("{name}.weight")));
    matrix.is_some_and(|matrix| {
        let weights = model.weights(matrix).ok().flatten();
        weights.is_some_and(|weights| weights.beside.is_some())
    })
}

type Prints = [Fingerprint; 2];

fn pair(
    a: &dyn Model,
    b: &dyn Model,
    (of_a, of_b): (&TensorInfo, &TensorInfo),
    heads: &[usize],
) -> Result<(Option<TensorDifference>, Option<Prints>), Error> {
    let difference = |likeness, findings| TensorDifference {
        name: of_a.name.clone(),
        a: Some(stored(a, of_a)),
        b: Some(stored(b, of_b)),
        likeness,
        equal_codes: None,
        factor: None,
        nmse: None,
        findings,
    };
    let (wa, wb) = match (read(a, of_a)?, read(b, of_b)?) {
        (Ok(wa), Ok(wb)) => (wa, wb),
        (Err(why), _) | (_, Err(why)) => {
            let not = vec![Finding::new("not-read", format!("not compared: {why}"))];
            return Ok((Some(difference(Likeness::Different, not)), None));
        }
    };
    let compared = tensor::compare(&wa, &wb, heads);
    if compared.likeness == Likeness::Equal && of_a.ty == of_b.ty {
        return Ok((None, None));
    }
    let difference = TensorDifference {
        equal_codes: compared.equal_codes,
        factor: compared.factor,
        nmse: compared.nmse,
        ..difference(compared.likeness, compared.findings)
    };
    Ok((Some(difference), compared.unexplained))
}

/// The weights of a tensor, or why they cannot be read.
fn read<'a>(
    model: &'a dyn Model,
    info: &'a TensorInfo,
) -> Result<Result<Weights<'a>, String>, Error> {
    match model.weights(info) {
        Ok(Some(weights)) => Ok(Ok(weights)),
        Ok(None) => Ok(Err(format!("{} is no type that is read here", info.ty))),
        Err(e) if e.kind() == ErrorKind::Unsupported => Ok(Err(e.to_string())),
        Err(e) => Err(e),
    }
}

/// A tensor that one file has alone. An output matrix is none where it repeats the embeddings.
fn alone(
    a: &dyn Model,
    b: &dyn Model,
    info: &TensorInfo,
    in_a: bool,
) -> Result<Option<TensorDifference>, Error> {
    let (name, has) = if in_a { ("A", a) } else { ("B", b) };
    let mut findings = vec![Finding::new("alone", format!("only {name} has it"))];
    if info.name == OUTPUT
        && let Some(embedding) = has.tensor(EMBEDDING)
        && let (Some(head), Some(embedding)) = (has.weights(info)?, has.weights(embedding)?)
    {
        let compared = tensor::compare(&embedding, &head, &[]);
        if compared.likeness != Likeness::Different {
            return Ok(None);
        }
        let other = if in_a { "B" } else { "A" };
        findings = vec![Finding::new(
            "untied",
            format!(
                "only {name} has it, and it is not its embeddings, which are the output matrix of {other}"
            ),
        )];
    }
    let stored = Some(stored(has, info));
    let (a, b) = if in_a { (stored, None) } else { (None, stored) };
    Ok(Some(TensorDifference {
        name: info.name.clone(),
        a,
        b,
        likeness: Likeness::Different,
        equal_codes: None,
        factor: None,
        nmse: None,
        findings,
    }))
}

fn stored(model: &dyn Model, info: &TensorInfo) -> Stored {
    let weights = model.weights(info).ok().flatten();
    let scaled = weights.filter(|w| w.beside.is_some() || info.ty.is_ternary());
    Stored {
        ty: info.ty.to_string(),
        shape: info.shape.clone(),
        scale: scaled.map(|weights| weights.scale()),
    }
}

/// Finds tensors of B that hold what A has under another name.
fn exchanged(
    a: &dyn Model,
    tensors: &mut [TensorDifference],
    unexplained: &[(usize, Prints)],
) -> Result<(), Error> {
    let different: HashSet<String> = unexplained
        .iter()
        .map(|(index, _)| tensors[*index].name.clone())
        .collect();
    for (index, [_, of_b]) in unexplained {
        let among = unexplained
            .iter()
            .find(|(other, [of_a, _])| other != index && of_a == of_b);
        let mut found = among.map(|(other, _)| tensors[*other].name.clone());
        if found.is_none() {
            found = neighbour(a, &tensors[*index], of_b, &different)?;
        }
        if let Some(found) = found {
            let sentence = format!("it holds what A has as {found}");
            tensors[*index].findings = vec![Finding::new("exchanged", sentence)];
        }
    }
    Ok(())
}

/// A tensor of the same layer and shape in A with the weights that B has under this name.
fn neighbour(
    a: &dyn Model,
    difference: &TensorDifference,
    of_b: &Fingerprint,
    different: &HashSet<String>,
) -> Result<Option<String>, Error> {
    let layer = |name: &str| name.rsplitn(3, '.').nth(2).map(str::to_owned);
    let Some(of_layer) = layer(&difference.name) else {
        return Ok(None);
    };
    for info in a.tensors() {
        let alike = layer(&info.name).as_ref() == Some(&of_layer)
            && difference.b.as_ref().is_some_and(|b| b.shape == info.shape)
            && !different.contains(&info.name);
        if !alike {
            continue;
        }
        let Some(weights) = a.weights(info)? else {
            continue;
        };
        let Some([symbols, _]) = Symbols::of(&weights, &weights) else {
            continue;
        };
        if Fingerprint::of(&weights, symbols) == *of_b {
            return Ok(Some(info.name.clone()));
        }
    }
    Ok(None)
}
