//! Metadata: the key-value pairs at the head of a GGUF file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::Error;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `uint8`
    U8(u8),
    /// `int8`
    I8(i8),
    /// `uint16`
    U16(u16),
    /// `int16`
    I16(i16),
    /// `uint32`
    U32(u32),
    /// `int32`
    I32(i32),
    /// `float32`
    F32(f32),
    /// `bool`
    Bool(bool),
    /// `string`, UTF-8
    Str(String),
    /// `array`
    Array(Array),
    /// `uint64`
    U64(u64),
    /// `int64`
    I64(i64),
    /// `float64`
    F64(f64),
}

/// An array of one element type.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Of `uint8`.
    U8(Vec<u8>),
    /// Of `int8`.
    I8(Vec<i8>),
    /// Of `uint16`.
    U16(Vec<u16>),
    /// Of `int16`.
    I16(Vec<i16>),
    /// Of `uint32`.
    U32(Vec<u32>),
    /// Of `int32`.
    I32(Vec<i32>),
    /// Of `float32`.
    F32(Vec<f32>),
    /// Of `bool`.
    Bool(Vec<bool>),
    /// Of `string`.
    Str(StringArray),
    /// Of arrays.
    Array(Vec<Array>),
    /// Of `uint64`.
    U64(Vec<u64>),
    /// Of `int64`.
    I64(Vec<i64>),
    /// Of `float64`.
    F64(Vec<f64>),
}

/// Many byte strings in two allocations. Vocabularies hold pieces that are not UTF-8 on their own, so these
/// are bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringArray {
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl StringArray {
    /// Appends a string.
    pub fn push(&mut self, s: &[u8]) {
        self.bytes.extend_from_slice(s);
        self.ends.push(self.bytes.len());
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all strings together.
    pub fn total_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The string at `index`.
    pub fn get(&self, index: usize) -> Option<&[u8]> {
        let end = *self.ends.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }

    /// The strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let s = &self.bytes[start..end];
            start = end;
            s
        })
    }
}

impl<S: AsRef<[u8]>> FromIterator<S> for StringArray {
    fn from_iter<I: IntoIterator<Item = S>>(strings: I) -> Self {
        let mut array = StringArray::default();
        for s in strings {
            array.push(s.as_ref());
        }
        array
    }
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::U8(a) => a.len(),
            Array::I8(a) => a.len(),
            Array::U16(a) => a.len(),
            Array::I16(a) => a.len(),
            Array::U32(a) => a.len(),
            Array::I32(a) => a.len(),
            Array::F32(a) => a.len(),
            Array::Bool(a) => a.len(),
            Array::Str(a) => a.len(),
            Array::Array(a) => a.len(),
            Array::U64(a) => a.len(),
            Array::I64(a) => a.len(),
            Array::F64(a) => a.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element type, as the GGUF specification calls it.
    pub fn element_type(&self) -> &'static str {
        match self {
            Array::U8(_) => "uint8",
            Array::I8(_) => "int8",
            Array::U16(_) => "uint16",
            Array::I16(_) => "int16",
            Array::U32(_) => "uint32",
            Array::I32(_) => "int32",
            Array::F32(_) => "float32",
            Array::Bool(_) => "bool",
            Array::Str(_) => "string",
            Array::Array(_) => "array",
            Array::U64(_) => "uint64",
            Array::I64(_) => "int64",
            Array::F64(_) => "float64",
        }
    }
}

impl Value {
    /// A scalar as text; `None` for an array.
    pub fn scalar(&self) -> Option<String> {
        Some(match self {
            Value::U8(x) => x.to_string(),
            Value::I8(x) => x.to_string(),
            Value::U16(x) => x.to_string(),
            Value::I16(x) => x.to_string(),
            Value::U32(x) => x.to_string(),
            Value::I32(x) => x.to_string(),
            Value::U64(x) => x.to_string(),
            Value::I64(x) => x.to_string(),
            Value::F32(x) => x.to_string(),
            Value::F64(x) => x.to_string(),
            Value::Bool(x) => x.to_string(),
            Value::Str(s) => s.clone(),
            Value::Array(_) => return None,
        })
    }

    /// The type, as the GGUF specification calls it: `uint32`, `array of string`.
    pub fn type_name(&self) -> String {
        let scalar = match self {
            Value::U8(_) => "uint8",
            Value::I8(_) => "int8",
            Value::U16(_) => "uint16",
            Value::I16(_) => "int16",
            Value::U32(_) => "uint32",
            Value::I32(_) => "int32",
            Value::F32(_) => "float32",
            Value::Bool(_) => "bool",
            Value::Str(_) => "string",
            Value::Array(a) => return format!("array of {}", a.element_type()),
            Value::U64(_) => "uint64",
            Value::I64(_) => "int64",
            Value::F64(_) => "float64",
        };
        scalar.to_owned()
    }
}

/// A Rust type that a metadata value can be read as. The match is exact, as in llama.cpp: a `uint64` is not
/// accepted where a `uint32` is due.
pub trait FromValue<'a>: Sized {
    /// The GGUF type that is due.
    const TYPE: &'static str;
    /// The value, if it has that type.
    fn from_value(value: &'a Value) -> Option<Self>;
}

macro_rules! scalar {
    ($rust:ty, $variant:ident, $name:literal) => {
        impl FromValue<'_> for $rust {
            const TYPE: &'static str = $name;
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::$variant(v) => Some(*v),
                    _ => None,
                }
            }
        }
        impl From<$rust> for Value {
            fn from(v: $rust) -> Value {
                Value::$variant(v)
            }
        }
    };
}

macro_rules! reference {
    ($rust:ty, $pattern:pat => $v:ident, $name:literal) => {
        impl<'a> FromValue<'a> for &'a $rust {
            const TYPE: &'static str = $name;
            fn from_value(value: &'a Value) -> Option<Self> {
                match value {
                    $pattern => Some($v),
                    _ => None,
                }
            }
        }
    };
}

scalar!(u32, U32, "uint32");
scalar!(i32, I32, "int32");
scalar!(u64, U64, "uint64");
scalar!(f32, F32, "float32");
scalar!(bool, Bool, "bool");
reference!(str, Value::Str(v) => v, "string");
reference!([f32], Value::Array(Array::F32(v)) => v, "array of float32");
reference!([i32], Value::Array(Array::I32(v)) => v, "array of int32");
reference!([u32], Value::Array(Array::U32(v)) => v, "array of uint32");
reference!([u8], Value::Array(Array::U8(v)) => v, "array of uint8");
reference!(StringArray, Value::Array(Array::Str(v)) => v, "array of string");

impl From<&str> for Value {
    fn from(v: &str) -> Value {
        Value::Str(v.to_owned())
    }
}

impl From<String> for Value {
    fn from(v: String) -> Value {
        Value::Str(v)
    }
}

impl From<Array> for Value {
    fn from(v: Array) -> Value {
        Value::Array(v)
    }
}

/// The key-value pairs of a file, in its order.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// No entries yet; `path` names the file in errors.
    pub fn new(path: &Path) -> Metadata {
        Metadata {
            path: path.to_owned(),
            ..Metadata::default()
        }
    }

    /// The file that the entries belong to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends an entry.
    ///
    /// # Errors
    /// [`BadFile`](crate::ErrorKind::BadFile) if the key is there already.
    pub fn insert(&mut self, key: &str, value: impl Into<Value>) -> Result<(), Error> {
        if self.index.contains_key(key) {
            return Err(Error::bad_file(
                &self.path,
                format!("metadata key {key:?} occurs twice"),
            ));
        }
        self.index.insert(key.to_owned(), self.entries.len());
        self.entries.push((key.to_owned(), value.into()));
        Ok(())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Keys and values in the file's order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value of a key that may be absent.
    ///
    /// # Errors
    /// [`BadFile`](crate::ErrorKind::BadFile), naming the key, if it has another type.
    pub fn optional<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<Option<T>, Error> {
        self.get(key)
            .map(|value| {
                T::from_value(value).ok_or_else(|| {
                    let (has, want) = (value.type_name(), T::TYPE);
                    Error::bad_file(
                        &self.path,
                        format!("metadata key {key:?} has type {has}, not {want}"),
                    )
                })
            })
            .transpose()
    }

    /// What kind of tokenizer the file has (`tokenizer.ggml.model`): `llama`, `gpt2`, `bert`, …; `None` if it has none: the
    /// key is missing, or says so as llama.cpp writes it, `none` or `no_vocab`.
    ///
    /// # Errors
    /// [`BadFile`](crate::ErrorKind::BadFile) if the key is no string.
    pub fn tokenizer(&self) -> Result<Option<&str>, Error> {
        let name: Option<&str> = self.optional("tokenizer.ggml.model")?;
        Ok(name.filter(|name| !matches!(*name, "none" | "no_vocab")))
    }

    /// The value of a key that must be there.
    ///
    /// # Errors
    /// [`BadFile`](crate::ErrorKind::BadFile), naming the key, if it is missing or has another type.
    pub fn required<'a, T: FromValue<'a>>(&'a self, key: &str) -> Result<T, Error> {
        self.optional(key)?.ok_or_else(|| {
            Error::bad_file(
                &self.path,
                format!("metadata key {key:?} ({}) is missing", T::TYPE),
            )
        })
    }

    /// [`required`](Self::required) `uint32`.
    ///
    /// # Errors
    /// As [`required`](Self::required).
    pub fn u32(&self, key: &str) -> Result<u32, Error> {
        self.required(key)
    }

    /// [`required`](Self::required) `float32`.
    ///
    /// # Errors
    /// As [`required`](Self::required).
    pub fn f32(&self, key: &str) -> Result<f32, Error> {
        self.required(key)
    }

    /// [`required`](Self::required) `bool`.
    ///
    /// # Errors
    /// As [`required`](Self::required).
    pub fn bool(&self, key: &str) -> Result<bool, Error> {
        self.required(key)
    }

    /// [`required`](Self::required) `string`.
    ///
    /// # Errors
    /// As [`required`](Self::required).
    pub fn str(&self, key: &str) -> Result<&str, Error> {
        self.required(key)
    }
}
