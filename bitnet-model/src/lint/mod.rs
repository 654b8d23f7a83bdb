//! Files that are not what they say, or that engines read in different ways: one line of [`LINTS`] each.

mod vintages;

use std::collections::BTreeSet;

use crate::activation::{Chosen, KEY, Source};
use crate::error::ErrorKind;
use crate::gguf::{Gguf, TensorInfo, TensorType, Tiles, Tiling};
use crate::{Architecture, Hyperparameters, layout};
use vintages::{SIZES, VINTAGES, Vintage};

/// Something to know of a file before anybody runs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    /// Name of the lint.
    pub id: &'static str,
    /// What is the matter.
    pub sentence: String,
    /// What to do about it.
    pub next_step: &'static str,
}

/// Something to look for.
struct Lint {
    id: &'static str,
    looks_for: &'static str,
    /// Whether it is the file that is at fault, and not who reads it.
    of_file: bool,
    /// What is the matter with a file; nothing where its condition does not hold.
    says: fn(&Gguf) -> Option<String>,
    next_step: &'static str,
}

const LINTS: &[Lint] = &[
    Lint {
        id: "architecture-unknown",
        looks_for: "a vintage that does not know the architecture",
        of_file: false,
        says: architecture_unknown,
        next_step: "Run it in a vintage that knows the architecture.",
    },
    Lint {
        id: "activation-assumed",
        looks_for: "an activation that the file does not name",
        of_file: false,
        says: |gguf| activation_assumed(architecture(gguf)?, activation(gguf)?),
        next_step: "Look up hidden_act in the checkpoint's config.json; `crossval run --activation` decides.",
    },
    Lint {
        id: "activation-unknown",
        looks_for: "an activation that nobody here computes",
        of_file: false,
        says: activation_unknown,
        next_step: "No engine here computes it; `crossval run --activation` takes the model to have another.",
    },
    Lint {
        id: "activation-otherwise",
        looks_for: "vintages that compute another activation",
        of_file: false,
        says: activation_otherwise,
        next_step: "Expect a difference at ffn_act with these, which is theirs if the model's activation is right.",
    },
    Lint {
        id: "file-type-ambiguous",
        looks_for: "a file type that vintages read differently",
        of_file: false,
        says: file_type_ambiguous,
        next_step: "Go by the types of the tensors, which decide; the file type is a label.",
    },
    Lint {
        id: "file-type-wrong",
        looks_for: "a file type that nobody knows, or that most matrices do not have",
        of_file: true,
        says: file_type_wrong,
        next_step: "Convert it again, with a converter that writes the type asked for, or go by the types of the tensors.",
    },
    Lint {
        id: "tensor-type-ambiguous",
        looks_for: "tensor types that vintages read differently",
        of_file: true,
        says: tensor_type_ambiguous,
        next_step: "Run it in the vintage that wrote it: any other computes garbage or refuses it.",
    },
    Lint {
        id: "tensor-type-unknown",
        looks_for: "tensor types that a vintage does not know",
        of_file: false,
        says: tensor_type_unknown,
        next_step: "Run it in a vintage that knows the type, or convert it to one that all know, such as F16.",
    },
    Lint {
        id: "tiles-assumed",
        looks_for: "weights in tiles, whose sizes no file holds",
        of_file: false,
        says: tiles_assumed,
        next_step: "Compare kernel_config.ini of the BitNet.cpp that converted it; with other tiles it is another model.",
    },
    Lint {
        id: "shape-refused",
        looks_for: "keys and shapes that contradict each other or the architecture",
        of_file: true,
        says: shape_refused,
        next_step: "Convert it again; an engine that loads it computes something else than its keys say.",
    },
    Lint {
        id: "norm-type-refused",
        looks_for: "norms that a vintage cannot multiply by",
        of_file: false,
        says: norm_type_refused,
        next_step: "Run it in a vintage that multiplies by F16, or convert the norms to F32, which loses nothing.",
    },
    Lint {
        id: "pre-tokenizer-refused",
        looks_for: "a pre-tokenizer that a vintage refuses",
        of_file: false,
        says: pre_tokenizer_refused,
        next_step: "Run it in a vintage that knows the pre-tokenizer; another name may stand for another splitting of words.",
    },
    Lint {
        id: "pre-tokenizer-missing",
        looks_for: "byte-level BPE without a pre-tokenizer",
        of_file: true,
        says: pre_tokenizer_missing,
        next_step: "Compare its tokens with those of the checkpoint's own tokenizer.",
    },
];

/// Names of the lints, and what each looks for.
pub fn all() -> impl Iterator<Item = (&'static str, &'static str)> {
    LINTS.iter().map(|lint| (lint.id, lint.looks_for))
}

/// Lints by which it is the file that is at fault, and not who reads it.
pub fn faults(gguf: &Gguf) -> Vec<&'static str> {
    let lints = LINTS.iter().filter(|lint| lint.of_file);
    let found = lints.filter(|lint| (lint.says)(gguf).is_some());
    found.map(|lint| lint.id).collect()
}

/// What there is to know of a file.
pub fn remarks(gguf: &Gguf) -> Vec<Remark> {
    let said = LINTS.iter().filter_map(|lint| {
        Some(Remark {
            id: lint.id,
            sentence: (lint.says)(gguf)?,
            next_step: lint.next_step,
        })
    });
    said.collect()
}

/// That nobody says what a model's activation is, where it may be another.
pub fn activation_assumed(architecture: Architecture, activation: Chosen) -> Option<String> {
    let others = architecture.other_activations().iter();
    let with: Vec<String> = others.map(|other| format!("with {other}")).collect();
    (activation.source == Source::Assumed).then(|| {
        format!(
            "the file has no {architecture}.{KEY}, and files of this architecture exist with {usual} and {with}: {usual} \
             is assumed",
            usual = activation.function,
            with = with.join(" and "),
        )
    })
}

fn architecture(gguf: &Gguf) -> Option<Architecture> {
    Architecture::named(gguf.metadata().str("general.architecture").ok()?)
}

/// What our engines take the activation for; `None` where they refuse the file.
fn activation(gguf: &Gguf) -> Option<Chosen> {
    Hyperparameters::read(gguf)
        .ok()
        .map(|model| model.activation)
}

fn architecture_unknown(gguf: &Gguf) -> Option<String> {
    let architecture = architecture(gguf)?;
    let lacks = vintages(|vintage| vintage.activation(architecture).is_none())?;
    Some(format!("architecture {architecture} is unknown to {lacks}"))
}

fn activation_unknown(gguf: &Gguf) -> Option<String> {
    let key = format!("{}.{KEY}", architecture(gguf)?);
    let name = gguf.metadata().optional::<&str>(&key).ok()??;
    let known = crate::Activation::named(name).is_some();
    (!known).then(|| format!("{key} is {name:?}, which no engine here computes"))
}

fn activation_otherwise(gguf: &Gguf) -> Option<String> {
    let architecture = architecture(gguf)?;
    let Chosen { function, source } = activation(gguf)?;
    let own = |vintage: &Vintage| vintage.activation(architecture);
    let otherwise = vintages(|vintage| own(vintage).is_some_and(|other| other != function))?;
    let computed: BTreeSet<String> = VINTAGES
        .iter()
        .filter_map(own)
        .filter(|other| *other != function)
        .map(|other| other.to_string())
        .collect();
    let computed: Vec<String> = computed.into_iter().collect();
    let taken = match source {
        Source::File => "said by the file to be",
        _ => "taken for",
    };
    Some(format!(
        "the activation is {taken} {function}; what {otherwise} computes is {}, whatever the file says",
        computed.join(" or ")
    ))
}

fn file_type(gguf: &Gguf) -> Option<u32> {
    gguf.metadata().optional("general.file_type").ok()?
}

fn file_type_ambiguous(gguf: &Gguf) -> Option<String> {
    let id = file_type(gguf)?;
    let meanings = Meanings::of(|vintage| vintage.file_type(id));
    meanings.differ().then(|| {
        format!(
            "general.file_type {id} is {}; the matrices are {}",
            meanings.sentence(),
            types_of_matrices(gguf)
        )
    })
}

fn file_type_wrong(gguf: &Gguf) -> Option<String> {
    let id = file_type(gguf)?;
    let meanings = Meanings::of(|vintage| vintage.file_type(id));
    let may_be = |tensor: &TensorInfo| {
        let types = Meanings::of(|vintage| vintage.tensor_type(tensor.ty.id()));
        let mut types = types.0.iter().map(|(name, _)| name);
        types.any(|name| meanings.0.iter().any(|(of, _)| of == name))
    };
    let (right, all) = matrices(gguf).fold((0, 0), |(right, all): (u64, u64), tensor| {
        let n = tensor.n_elements();
        let right_here = if may_be(tensor) { n } else { 0 };
        (right.saturating_add(right_here), all.saturating_add(n))
    });
    if all == 0 {
        return None;
    }
    let they_are = types_of_matrices(gguf);
    if meanings.0.is_empty() {
        return (!vintages::is_of_several_types(id)).then(|| {
            format!("general.file_type {id} stands for nothing that is known; the matrices are {they_are}")
        });
    }
    let what = match right {
        0 => "no matrix is",
        right if right < all - right => "less than half of the matrices are",
        _ => return None,
    };
    let says = meanings.sentence();
    Some(format!(
        "general.file_type {id} says {says}, and {what}: they are {they_are}"
    ))
}

fn tensor_type_ambiguous(gguf: &Gguf) -> Option<String> {
    // A type may be one id in two layouts, too.
    let ambiguous = |tensor: &&TensorInfo| {
        let meanings = Meanings::of(|vintage| vintage.tensor_type(tensor.ty.id()));
        meanings.differ() || layouts(&meanings).len() > 1
    };
    let tensor = gguf.tensors().iter().find(ambiguous)?;
    let id = tensor.ty.id();
    let meanings = Meanings::of(|vintage| vintage.tensor_type(id));
    let n = gguf.tensors().iter().filter(|t| t.ty.id() == id).count();
    let fitting: Vec<&str> = layouts(&meanings)
        .into_iter()
        .filter(|(_, size)| fits(gguf, tensor, *size))
        .map(|(name, _)| name)
        .collect();
    let fitting = match fitting[..] {
        [] => "none of these, by its size".to_owned(),
        [name] => format!("{name}, by its size"),
        _ => "more than one of these, by its size".to_owned(),
    };
    let taken = match tensor.ty {
        TensorType::Unknown(_) => "and is not read here".to_owned(),
        known => format!("and is read as {known}"),
    };
    Some(format!(
        "tensor type {id} is {}; {:?}, one of {n} of that type, can be {fitting}, {taken}",
        meanings.sentence(),
        tensor.name
    ))
}

/// The layouts that a type id may stand for.
fn layouts(meanings: &Meanings) -> Vec<(&'static str, vintages::Size)> {
    let sizes = SIZES.iter();
    let of = sizes.filter(|(name, ..)| meanings.0.iter().any(|(of, _)| of == name));
    of.map(|&(_, layout, size)| (layout, size)).collect()
}

/// Whether a tensor is as large as a layout makes it, but for the padding behind it.
fn fits(gguf: &Gguf, tensor: &TensorInfo, size: vintages::Size) -> bool {
    let Some((&columns, rows)) = tensor.shape.split_first() else {
        return false;
    };
    let rows = rows.iter().try_fold(1u64, |all, &n| all.checked_mul(n));
    let bytes = rows.and_then(|rows| size(columns, rows));
    bytes.is_some_and(|bytes| {
        tensor
            .size
            .checked_sub(bytes)
            .is_some_and(|more| more < gguf.alignment())
    })
}

fn tensor_type_unknown(gguf: &Gguf) -> Option<String> {
    let ids: BTreeSet<u32> = gguf.tensors().iter().map(|t| t.ty.id()).collect();
    let unknown = ids.into_iter().filter_map(|id| {
        let lacks = vintages(|vintage| vintage.tensor_type(id).is_none())?;
        let meanings = Meanings::of(|vintage| vintage.tensor_type(id));
        Some(match meanings.0[..] {
            [] => format!("tensor type {id} is unknown to {lacks}"),
            _ => format!(
                "tensor type {id} ({}) is unknown to {lacks}",
                meanings.names()
            ),
        })
    });
    let unknown: Vec<String> = unknown.collect();
    (!unknown.is_empty()).then(|| unknown.join("; "))
}

/// Each shape in tiles, with the sizes that it is taken to have, and others that it may have.
pub fn tiles_assumed(gguf: &Gguf) -> Option<String> {
    let said = |tensor: &TensorInfo| {
        let tiling = tensor.tiling()?;
        let sizes = |Tiles { bm, bk, bmm }| format!("bm {bm}, bk {bk}, bmm {bmm}");
        let rows = tensor.shape.get(1)?;
        let of = format!("{} of {rows} rows of {}", tensor.ty, tensor.shape[0]);
        Some(match tiling {
            Ok(Tiling {
                tiles,
                preset: None,
                ..
            }) => format!("{of}: {}", sizes(*tiles)),
            Ok(Tiling {
                tiles,
                preset: Some(preset),
                ..
            }) => {
                format!(
                    "{of}: {} (and not {}, as preset_kernels has them)",
                    sizes(*tiles),
                    sizes(*preset)
                )
            }
            Err(_) => format!("{of}: none are known"),
        })
    };
    let all: BTreeSet<String> = gguf.tensors().iter().filter_map(said).collect();
    let all: Vec<String> = all.into_iter().collect();
    (!all.is_empty()).then(|| {
        format!(
            "where weights lie follows from tile sizes of BitNet.cpp's kernels, which the file does not have; those of \
             setup_env.py are assumed: {}",
            all.join("; ")
        )
    })
}

/// Heads that do not divide, tensors that are missing or of another shape; what is sound and not supported is none.
fn shape_refused(gguf: &Gguf) -> Option<String> {
    architecture(gguf)?;
    let checked = Hyperparameters::read(gguf).and_then(|model| layout::check(gguf, &model));
    let refused = checked
        .err()
        .filter(|e| e.kind() != ErrorKind::Unsupported)?;
    let text = refused.to_string();
    let place = format!("{}: ", gguf.path().display());
    Some(text.strip_prefix(&place).unwrap_or(&text).to_owned())
}

fn norm_type_refused(gguf: &Gguf) -> Option<String> {
    let is_norm = |t: &&TensorInfo| t.shape.len() == 1 && t.name.ends_with("norm.weight");
    let mut norms = gguf.tensors().iter().filter(is_norm);
    let norm = norms.find(|t| t.ty == TensorType::F16)?;
    let abort = vintages(|vintage| !vintage.f16_norms)?;
    Some(format!(
        "norm weights are F16, {:?} the first of them: {abort} abort where they multiply by them",
        norm.name
    ))
}

/// The vocabulary's pre-tokenizer, which is looked at in byte-level BPE alone: the file's, if it names one.
fn pre_tokenizer(gguf: &Gguf) -> Option<Option<&str>> {
    let metadata = gguf.metadata();
    let of_bpe = metadata.str("tokenizer.ggml.model").ok()? == "gpt2";
    let pre = metadata.optional::<&str>("tokenizer.ggml.pre").ok()?;
    // Of no name, engines make what they make of no key.
    of_bpe.then_some(pre.filter(|name| !name.is_empty()))
}

fn pre_tokenizer_refused(gguf: &Gguf) -> Option<String> {
    let name = pre_tokenizer(gguf)??;
    let refuse = vintages(|vintage| !vintage.knows_pre_tokenizer(name))?;
    Some(format!("pre-tokenizer {name:?} is refused by {refuse}"))
}

fn pre_tokenizer_missing(gguf: &Gguf) -> Option<String> {
    let missing = pre_tokenizer(gguf)?.is_none();
    missing.then(|| {
        "the vocabulary is byte-level BPE without tokenizer.ggml.pre: engines fall back to a pre-tokenizer that may not be \
         the model's"
            .to_owned()
    })
}

/// The matrices of the layers, of which a file type speaks.
fn matrices(gguf: &Gguf) -> impl Iterator<Item = &TensorInfo> {
    let tensors = gguf.tensors().iter();
    tensors.filter(|t| is_matrix_of_layer(t))
}

/// Whether a tensor is one of those.
pub fn is_matrix_of_layer(tensor: &TensorInfo) -> bool {
    tensor.name.starts_with("blk.") && tensor.shape.len() == 2
}

fn types_of_matrices(gguf: &Gguf) -> String {
    let names: BTreeSet<String> = matrices(gguf).map(|t| t.ty.to_string()).collect();
    list(&names.into_iter().collect::<Vec<_>>())
}

/// What vintages take a number for: each meaning, with those that have it.
struct Meanings(Vec<(&'static str, Vec<&'static str>)>);

impl Meanings {
    fn of(meaning: impl Fn(&Vintage) -> Option<&'static str>) -> Meanings {
        let mut meanings: Vec<(&str, Vec<&str>)> = Vec::new();
        for vintage in VINTAGES {
            let Some(name) = meaning(vintage) else {
                continue;
            };
            match meanings.iter_mut().find(|(of, _)| *of == name) {
                Some((_, of)) => of.push(vintage.name),
                None => meanings.push((name, vec![vintage.name])),
            }
        }
        Meanings(meanings)
    }

    fn differ(&self) -> bool {
        self.0.len() > 1
    }

    fn names(&self) -> String {
        let names: Vec<&str> = self.0.iter().map(|(name, _)| *name).collect();
        names.join(" or ")
    }

    fn sentence(&self) -> String {
        let in_each = |(name, of): &(&str, Vec<&str>)| match self.differ() {
            true => format!("{name} in {}", list(of)),
            false => (*name).to_owned(),
        };
        let all: Vec<String> = self.0.iter().map(in_each).collect();
        all.join(", ")
    }
}

/// The vintages of which something holds, if there are any.
fn vintages(holds: impl Fn(&Vintage) -> bool) -> Option<String> {
    let those = VINTAGES.iter().filter(|vintage| holds(vintage));
    let names: Vec<&str> = those.map(|vintage| vintage.name).collect();
    (!names.is_empty()).then(|| list(&names))
}

fn list(names: &[impl AsRef<str>]) -> String {
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.split_last() {
        Some((last, [])) => (*last).to_owned(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests;
