//! What two files say of their models beside the weights.

use bitnet_model::Hyperparameters;
use bitnet_model::gguf::{Array, Metadata, Value};
use serde::Serialize;

use crate::weights::Model;

/// A key that two files have different values for, or that one has alone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KeyDifference {
    /// The key.
    pub key: String,
    /// Its value in the first file; null where it is not there.
    pub a: Option<String>,
    /// And in the second.
    pub b: Option<String>,
    /// Whether another model follows from it, other tokens or another prompt.
    pub matters: bool,
    /// What there is to know of the difference; null where the values say it all.
    pub what: Option<String>,
}

/// Longer values are cut to this many characters.
const SHOWN: usize = 48;

/// Keys that say where a file comes from, or how it is stored.
fn is_about_the_file(key: &str) -> bool {
    let general = key.starts_with("general.") && key != "general.architecture";
    general || key.starts_with("split.") || key.starts_with("quantize.")
}

pub(super) fn compare(a: &dyn Model, b: &dyn Model) -> Vec<KeyDifference> {
    let shapes = [a, b].map(|model| model.hyperparameters().ok());
    let same_shape = match shapes {
        [Some(a), Some(b)] => same_computation(&a, &b),
        _ => false,
    };
    let (a, b) = (a.metadata(), b.metadata());
    let mut differences = Vec::new();
    for (key, value) in a.iter() {
        if let Some(other) = b.get(key)
            && other == value
        {
            continue;
        }
        differences.push(difference(key, Some(value), b.get(key), same_shape, a));
    }
    let of_b_alone = b.iter().filter(|(key, _)| a.get(key).is_none());
    differences
        .extend(of_b_alone.map(|(key, value)| difference(key, None, Some(value), same_shape, b)));
    differences
}

/// Whoever says it, the file or a default.
fn same_computation(a: &Hyperparameters, b: &Hyperparameters) -> bool {
    let mut a = a.clone();
    if a.activation.function == b.activation.function {
        a.activation = b.activation;
    }
    a == *b
}

fn difference(
    key: &str,
    a: Option<&Value>,
    b: Option<&Value>,
    same_shape: bool,
    metadata: &Metadata,
) -> KeyDifference {
    let architecture = metadata.str("general.architecture").unwrap_or_default();
    let of_shape = key
        .strip_prefix(architecture)
        .is_some_and(|rest| rest.starts_with('.'));
    let by_default = of_shape && same_shape && (a.is_none() || b.is_none());
    let what = match (a, b) {
        _ if by_default => Some("what it says is the default".to_owned()),
        _ if is_about_the_file(key) => Some("nothing of the model follows from it".to_owned()),
        (Some(Value::Array(a)), Some(Value::Array(b))) => Some(arrays(a, b)),
        (Some(Value::Str(a)), Some(Value::Str(b))) if a.len().max(b.len()) > SHOWN => {
            Some(texts(a, b))
        }
        (Some(a), Some(b)) if a.type_name() != b.type_name() => {
            Some(format!("{} and {}", a.type_name(), b.type_name()))
        }
        _ => None,
    };
    KeyDifference {
        key: key.to_owned(),
        a: a.map(shown),
        b: b.map(shown),
        matters: !by_default && !is_about_the_file(key),
        what,
    }
}

/// The first element that differs.
fn arrays(a: &Array, b: &Array) -> String {
    let (of_a, of_b) = (elements(a), elements(b));
    let differ: Vec<usize> = (0..of_a.len().min(of_b.len()))
        .filter(|&i| of_a[i] != of_b[i])
        .collect();
    let lengths = match of_a.len() == of_b.len() {
        true => String::new(),
        false => format!("{} elements in A, {} in B; ", of_a.len(), of_b.len()),
    };
    match differ.first() {
        Some(&i) => format!(
            "{lengths}{} elements differ, number {i} first: {} in A, {} in B",
            differ.len(),
            of_a[i],
            of_b[i]
        ),
        None => format!("{lengths}equal as far as both go"),
    }
}

fn elements(array: &Array) -> Vec<String> {
    match array {
        Array::U8(v) => v.iter().map(u8::to_string).collect(),
        Array::I8(v) => v.iter().map(i8::to_string).collect(),
        Array::U16(v) => v.iter().map(u16::to_string).collect(),
        Array::I16(v) => v.iter().map(i16::to_string).collect(),
        Array::U32(v) => v.iter().map(u32::to_string).collect(),
        Array::I32(v) => v.iter().map(i32::to_string).collect(),
        Array::U64(v) => v.iter().map(u64::to_string).collect(),
        Array::I64(v) => v.iter().map(i64::to_string).collect(),
        Array::F32(v) => v.iter().map(f32::to_string).collect(),
        Array::F64(v) => v.iter().map(f64::to_string).collect(),
        Array::Bool(v) => v.iter().map(bool::to_string).collect(),
        Array::Str(v) => {
            let quoted = v
                .iter()
                .map(|s| format!("{:?}", String::from_utf8_lossy(s)));
            quoted.collect()
        }
        Array::Array(v) => v
            .iter()
            .map(|nested| format!("{:?}", elements(nested)))
            .collect(),
    }
}

/// The first line that differs.
fn texts(a: &str, b: &str) -> String {
    let (of_a, of_b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    let n = of_a.len().max(of_b.len());
    let line = (0..n).find(|&i| of_a.get(i) != of_b.get(i));
    let Some(i) = line else {
        return "they differ in how lines end".to_owned();
    };
    let shown = |lines: &[&str]| match lines.get(i) {
        Some(line) => around(line, common(&of_a, &of_b, i)),
        None => "ends before".to_owned(),
    };
    format!(
        "line {}: {} in A, {} in B",
        i + 1,
        shown(&of_a),
        shown(&of_b)
    )
}

/// Characters that line `i` of both starts with.
fn common(a: &[&str], b: &[&str], i: usize) -> usize {
    let (Some(a), Some(b)) = (a.get(i), b.get(i)) else {
        return 0;
    };
    let same = a.chars().zip(b.chars()).take_while(|(a, b)| a == b);
    same.count()
}

/// A piece of a line, from a little before character `from`.
fn around(line: &str, from: usize) -> String {
    let start = from.saturating_sub(8);
    let piece: String = line.chars().skip(start).take(SHOWN).collect();
    format!("{piece:?}")
}

/// A scalar, or the length of an array.
fn shown(value: &Value) -> String {
    let text = match value {
        Value::Array(array) => return format!("{} of {}", array.len(), array.element_type()),
        scalar => scalar.scalar().unwrap_or_default(),
    };
    let escaped = text.escape_debug().to_string();
    match escaped.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{}…", &escaped[..cut]),
        None => escaped,
    }
}
