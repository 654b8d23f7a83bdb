//! Writing: header first, then the tensors' data in order, streamed.

use std::io::{self, Write};
use std::path::PathBuf;

use super::metadata::{Array, Metadata, Value};
use super::types::TensorType;
use super::{DEFAULT_ALIGNMENT, MAGIC, TensorInfo};
use crate::error::Error;

/// Collects what the head of a GGUF v3 file says; [`begin`](Writer::begin) then writes it.
#[derive(Debug)]
pub struct Writer {
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    end: u64,
}

impl Writer {
    /// A file with this metadata and no tensors yet. `metadata.path()` names the file in errors.
    ///
    /// # Errors
    /// If `general.alignment` is there but not a `uint32` power of two.
    pub fn new(metadata: Metadata) -> Result<Writer, Error> {
        let writer = Writer {
            metadata,
            tensors: Vec::new(),
            end: 0,
        };
        if !writer.alignment()?.is_power_of_two() {
            return Err(Error::usage("general.alignment is not a power of two"));
        }
        Ok(writer)
    }

    fn alignment(&self) -> Result<u64, Error> {
        let alignment = self.metadata.optional::<u32>("general.alignment")?;
        Ok(alignment.map_or(DEFAULT_ALIGNMENT, u64::from))
    }

    /// Appends a tensor (`shape[0]` is the row length).
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage), naming the tensor, if its type cannot hold the shape or the name
    /// is taken.
    pub fn tensor(&mut self, name: &str, shape: &[u64], ty: TensorType) -> Result<(), Error> {
        let usage = |why: String| Error::usage(format!("tensor {name:?}: {why}"));
        if self.tensors.iter().any(|t| t.name == name) {
            return Err(usage("occurs twice".to_owned()));
        }
        let size = ty.data_size(shape).map_err(usage)?;
        let offset = self.end;
        self.end = offset
            .checked_add(size)
            .and_then(|end| end.checked_next_multiple_of(self.alignment().ok()?))
            .ok_or_else(|| usage("the file gets too large".to_owned()))?;
        self.tensors.push(TensorInfo {
            name: name.to_owned(),
            shape: shape.to_vec(),
            ty,
            part: 0,
            offset,
            size,
        });
        Ok(())
    }

    /// Bytes of tensor data that the file will hold, padding aside.
    pub fn data_size(&self) -> u64 {
        self.tensors.iter().map(|t| t.size).sum()
    }

    /// Writes the head of the file.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if `out` fails.
    pub fn begin<W: Write>(self, mut out: W) -> Result<TensorWriter<W>, Error> {
        let alignment = self.alignment()?;
        let path = self.metadata.path().to_owned();
        let mut head = Vec::new();
        head.extend_from_slice(MAGIC);
        head.extend_from_slice(&3u32.to_le_bytes());
        head.extend_from_slice(&(self.tensors.len() as u64).to_le_bytes());
        head.extend_from_slice(&(self.metadata.len() as u64).to_le_bytes());
        for (key, value) in self.metadata.iter() {
            put_string(&mut head, key.as_bytes());
            put_value(&mut head, value);
        }
        for t in &self.tensors {
            put_string(&mut head, t.name.as_bytes());
            head.extend_from_slice(&(t.shape.len() as u32).to_le_bytes());
            t.shape
                .iter()
                .for_each(|d| head.extend_from_slice(&d.to_le_bytes()));
            head.extend_from_slice(&t.ty.id().to_le_bytes());
            head.extend_from_slice(&t.offset.to_le_bytes());
        }
        if !self.tensors.is_empty() {
            head.resize((head.len() as u64).next_multiple_of(alignment) as usize, 0);
        }
        out.write_all(&head).map_err(|e| Error::io(&path, e))?;
        Ok(TensorWriter {
            path,
            out,
            tensors: self.tensors.into_iter(),
            alignment,
        })
    }
}

/// Writes the tensors' data, in the order in which they were declared.
#[derive(Debug)]
pub struct TensorWriter<W> {
    path: PathBuf,
    out: W,
    tensors: std::vec::IntoIter<TensorInfo>,
    alignment: u64,
}

impl<W: Write> TensorWriter<W> {
    /// The tensor whose data is due; its offset counts from the start of the data section.
    pub fn next_tensor(&self) -> Option<&TensorInfo> {
        self.tensors.as_slice().first()
    }

    /// Writes the data of the next tensor: `fill` writes exactly its size. Padding follows by itself.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if `out` or `fill` fails; [`Usage`](crate::ErrorKind::Usage) if no tensor
    /// is due or `fill` writes another number of bytes.
    pub fn write_tensor(
        &mut self,
        fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), Error> {
        let Some(info) = self.tensors.next() else {
            return Err(Error::usage("more tensor data than tensors declared"));
        };
        let mut counted = Counted {
            out: &mut self.out,
            written: 0,
        };
        fill(&mut counted).map_err(|e| Error::io(&self.path, e))?;
        if counted.written != info.size {
            return Err(Error::usage(format!(
                "tensor {:?} takes {} bytes, {} were written",
                info.name, info.size, counted.written
            )));
        }
        let padding = info.size.next_multiple_of(self.alignment) - info.size;
        io::copy(&mut io::Read::take(io::repeat(0), padding), &mut self.out)
            .map_err(|e| Error::io(&self.path, e))?;
        Ok(())
    }

    /// Flushes, and hands the output back.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) if `out` fails; [`Usage`](crate::ErrorKind::Usage) if a tensor's data was
    /// not written.
    pub fn finish(mut self) -> Result<W, Error> {
        if let Some(info) = self.tensors.next() {
            return Err(Error::usage(format!(
                "tensor {:?} was not written",
                info.name
            )));
        }
        self.out.flush().map_err(|e| Error::io(&self.path, e))?;
        Ok(self.out)
    }
}

struct Counted<W> {
    out: W,
    written: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn put_string(out: &mut Vec<u8>, s: &[u8]) {
    out.extend_from_slice(&(s.len() as u64).to_le_bytes());
    out.extend_from_slice(s);
}

fn put_value(out: &mut Vec<u8>, value: &Value) {
    macro_rules! number {
        ($id:literal, $v:expr) => {{
            out.extend_from_slice(&u32::to_le_bytes($id));
            out.extend_from_slice(&$v.to_le_bytes());
        }};
    }
    match value {
        Value::U8(v) => number!(0, v),
        Value::I8(v) => number!(1, v),
        Value::U16(v) => number!(2, v),
        Value::I16(v) => number!(3, v),
        Value::U32(v) => number!(4, v),
        Value::I32(v) => number!(5, v),
        Value::F32(v) => number!(6, v),
        Value::Bool(v) => number!(7, u8::from(*v)),
        Value::Str(v) => {
            out.extend_from_slice(&8u32.to_le_bytes());
            put_string(out, v.as_bytes());
        }
        Value::Array(v) => {
            out.extend_from_slice(&9u32.to_le_bytes());
            put_array(out, v);
        }
        Value::U64(v) => number!(10, v),
        Value::I64(v) => number!(11, v),
        Value::F64(v) => number!(12, v),
    }
}

fn put_array(out: &mut Vec<u8>, array: &Array) {
    let mut head = |id: u32| {
        out.extend_from_slice(&id.to_le_bytes());
        out.extend_from_slice(&(array.len() as u64).to_le_bytes());
    };
    macro_rules! numbers {
        ($id:literal, $values:expr) => {{
            head($id);
            $values
                .iter()
                .for_each(|v| out.extend_from_slice(&v.to_le_bytes()));
        }};
    }
    match array {
        Array::U8(a) => numbers!(0, a),
        Array::I8(a) => numbers!(1, a),
        Array::U16(a) => numbers!(2, a),
        Array::I16(a) => numbers!(3, a),
        Array::U32(a) => numbers!(4, a),
        Array::I32(a) => numbers!(5, a),
        Array::F32(a) => numbers!(6, a),
        Array::Bool(a) => {
            head(7);
            out.extend(a.iter().map(|&v| u8::from(v)));
        }
        Array::Str(a) => {
            head(8);
            a.iter().for_each(|s| put_string(out, s));
        }
        Array::Array(a) => {
            head(9);
            a.iter().for_each(|nested| put_array(out, nested));
        }
        Array::U64(a) => numbers!(10, a),
        Array::I64(a) => numbers!(11, a),
        Array::F64(a) => numbers!(12, a),
    }
}
