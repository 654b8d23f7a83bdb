//! GGUF files, byte by byte, right or wrong.

use std::path::Path;

use bitnet_core::gguf::{Array, Gguf, Value};

use crate::TINY;

/// What a file is made of. Nothing is checked: counts, lengths and offsets say what they are told to.
pub(crate) struct File {
    pub magic: &'static [u8],
    pub version: u32,
    /// If it is to be a lie.
    pub n_tensors: Option<u64>,
    /// If it is to be a lie.
    pub n_kv: Option<u64>,
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    pub tensors: Vec<Tensor>,
    /// Cuts the file to this many bytes; from the end if negative.
    pub cut: Option<isize>,
}

#[derive(Clone)]
pub(crate) struct Tensor {
    pub name: Vec<u8>,
    /// If it is to be a lie.
    pub name_len: Option<u64>,
    pub dims: Vec<u64>,
    /// If it is to be a lie.
    pub n_dims: Option<u32>,
    pub ty: u32,
    /// If it is not to lie behind the tensor before.
    pub offset: Option<u64>,
    pub data: Vec<u8>,
}

impl File {
    /// The bundled model.
    pub fn bundled() -> File {
        let gguf = Gguf::open(Path::new(TINY)).expect("the bundled model");
        let entries = gguf.metadata().iter();
        let entries = entries.map(|(key, value)| (key.into(), encode(value)));
        let tensors = gguf.tensors().iter().map(|info| Tensor {
            name: info.name.clone().into_bytes(),
            name_len: None,
            dims: info.shape.clone(),
            n_dims: None,
            ty: info.ty.id(),
            offset: None,
            data: gguf.data(info).expect("data").to_vec(),
        });
        File {
            magic: b"GGUF",
            version: 3,
            n_tensors: None,
            n_kv: None,
            entries: entries.collect(),
            tensors: tensors.collect(),
            cut: None,
        }
    }

    /// Gives a key a value: type and bytes, as the functions below make them.
    pub fn set(&mut self, key: &str, value: Vec<u8>) {
        match self.entries.iter_mut().find(|(k, _)| k == key.as_bytes()) {
            Some((_, old)) => *old = value,
            None => self.push(key.as_bytes(), value),
        }
    }

    pub fn push(&mut self, key: &[u8], value: Vec<u8>) {
        self.entries.push((key.to_owned(), value));
    }

    pub fn remove(&mut self, key: &str) {
        self.entries.retain(|(k, _)| k != key.as_bytes());
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        let mut tensors = self.tensors.iter_mut();
        let found = tensors.find(|t| t.name == name.as_bytes());
        found.expect("a tensor of the bundled model")
    }

    pub fn push_tensor(&mut self, name: &str, dims: &[u64], ty: u32, data: Vec<u8>) {
        self.tensors.push(Tensor {
            name: name.into(),
            name_len: None,
            dims: dims.to_vec(),
            n_dims: None,
            ty,
            offset: None,
            data,
        });
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = self.magic.to_vec();
        out.extend(self.version.to_le_bytes());
        let counts = [
            (self.n_tensors, self.tensors.len()),
            (self.n_kv, self.entries.len()),
        ];
        for (lie, n) in counts {
            out.extend(lie.unwrap_or(n as u64).to_le_bytes());
        }
        for (key, value) in &self.entries {
            out.extend((key.len() as u64).to_le_bytes());
            out.extend_from_slice(key);
            out.extend_from_slice(value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            let Tensor { name, dims, .. } = tensor;
            let name_len = tensor.name_len.unwrap_or(name.len() as u64);
            out.extend(name_len.to_le_bytes());
            out.extend_from_slice(name);
            out.extend(tensor.n_dims.unwrap_or(dims.len() as u32).to_le_bytes());
            out.extend(dims.iter().flat_map(|dim| dim.to_le_bytes()));
            out.extend(tensor.ty.to_le_bytes());
            let offset = tensor.offset.unwrap_or(data.len() as u64);
            out.extend(offset.to_le_bytes());
            data.extend_from_slice(&tensor.data);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        match self.cut {
            Some(cut @ 0..) => out.truncate(cut.unsigned_abs()),
            Some(cut) => out.truncate(out.len() - cut.unsigned_abs()),
            None => {}
        }
        out
    }
}

/// A value's type and bytes.
fn encode(value: &Value) -> Vec<u8> {
    match value {
        Value::U32(x) => u32(*x),
        Value::F32(x) => f32(*x),
        Value::Bool(x) => typed(7, &[u8::from(*x)]),
        Value::Str(text) => string(text.as_bytes()),
        Value::Array(Array::Str(list)) => strings(list.iter()),
        Value::Array(Array::F32(list)) => f32s(list),
        Value::Array(Array::I32(list)) => i32s(list),
        other => unreachable!("no {} in the bundled model", other.type_name()),
    }
}

pub(crate) fn typed(ty: u32, value: &[u8]) -> Vec<u8> {
    [&ty.to_le_bytes()[..], value].concat()
}

pub(crate) fn u32(value: u32) -> Vec<u8> {
    typed(4, &value.to_le_bytes())
}

pub(crate) fn u64(value: u64) -> Vec<u8> {
    typed(10, &value.to_le_bytes())
}

pub(crate) fn f32(value: f32) -> Vec<u8> {
    typed(6, &value.to_le_bytes())
}

/// A length, and bytes that may be fewer.
pub(crate) fn counted(len: u64, bytes: &[u8]) -> Vec<u8> {
    [&len.to_le_bytes()[..], bytes].concat()
}

pub(crate) fn string(text: &[u8]) -> Vec<u8> {
    typed(8, &counted(text.len() as u64, text))
}

/// An array that says to have `len` elements of type `ty`.
pub(crate) fn array(ty: u32, len: u64, elements: &[u8]) -> Vec<u8> {
    typed(9, &typed(ty, &counted(len, elements)))
}

pub(crate) fn strings<'a>(list: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let list: Vec<Vec<u8>> = list
        .into_iter()
        .map(|s| counted(s.len() as u64, s))
        .collect();
    array(8, list.len() as u64, &list.concat())
}

pub(crate) fn f32s(list: &[f32]) -> Vec<u8> {
    let bytes: Vec<u8> = list.iter().flat_map(|x| x.to_le_bytes()).collect();
    array(6, list.len() as u64, &bytes)
}

pub(crate) fn i32s(list: &[i32]) -> Vec<u8> {
    let bytes: Vec<u8> = list.iter().flat_map(|x| x.to_le_bytes()).collect();
    array(5, list.len() as u64, &bytes)
}
