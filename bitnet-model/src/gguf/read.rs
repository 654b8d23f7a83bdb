//! Parsing: every count is checked against the bytes that are left before anything is allocated for it.

use std::collections::HashMap;
use std::path::Path;

use super::foreign;
use super::metadata::{Array, Metadata, StringArray, Value};
use super::types::{TensorType, element_count};
use super::{DEFAULT_ALIGNMENT, MAGIC, TensorInfo};
use crate::error::Error;

/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMS: u32 = 4;
/// ggml's `GGML_MAX_NAME`.
const MAX_NAME: usize = 64;
/// Arrays nest this deep at most; the format sets no limit, the stack does.
const MAX_DEPTH: usize = 8;

/// Everything in front of the tensor data, as far as it was read.
#[derive(Debug)]
pub(super) struct Header {
    pub version: u32,
    pub alignment: u64,
    pub metadata: Metadata,
    pub tensors: Vec<TensorInfo>,
    pub index: HashMap<String, usize>,
}

struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    pos: usize,
}

impl<'a> Cursor<'a> {
    fn bad(&self, at: usize, what: impl std::fmt::Display) -> Error {
        Error::bad_file(self.path, format!("{what} (at byte {at})"))
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.pos
    }

    fn take(&mut self, n: u64, what: &str) -> Result<&'a [u8], Error> {
        let fits = usize::try_from(n).ok().filter(|&n| n <= self.remaining());
        let Some(n) = fits else {
            return Err(Error::bad_file(
                self.path,
                format!(
                    "file is truncated: {what} at byte {} takes {n} bytes, the file ends at {}",
                    self.pos,
                    self.bytes.len()
                ),
            ));
        };
        let taken = &self.bytes[self.pos..self.pos + n];
        self.pos += n;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Error> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64, what)?);
        Ok(out)
    }

    fn u32(&mut self, what: &str) -> Result<u32, Error> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, Error> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn string(&mut self, what: &str) -> Result<&'a [u8], Error> {
        let len = self.u64(what)?;
        self.take(len, what)
    }

    fn utf8(&mut self, what: &str) -> Result<&'a str, Error> {
        let at = self.pos;
        let bytes = self.string(what)?;
        std::str::from_utf8(bytes).map_err(|e| self.bad(at, format!("{what} is not UTF-8: {e}")))
    }

    fn bool(&mut self, what: &str) -> Result<bool, Error> {
        match self.array(what)? {
            [0u8] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.bad(self.pos - 1, format!("{what} is a bool of {other}"))),
        }
    }

    fn value(&mut self, key: &str) -> Result<Value, Error> {
        let what = &format!("value of {key:?}");
        let at = self.pos;
        Ok(match self.u32(what)? {
            0 => Value::U8(u8::from_le_bytes(self.array(what)?)),
            1 => Value::I8(i8::from_le_bytes(self.array(what)?)),
            2 => Value::U16(u16::from_le_bytes(self.array(what)?)),
            3 => Value::I16(i16::from_le_bytes(self.array(what)?)),
            4 => Value::U32(u32::from_le_bytes(self.array(what)?)),
            5 => Value::I32(i32::from_le_bytes(self.array(what)?)),
            6 => Value::F32(f32::from_le_bytes(self.array(what)?)),
            7 => Value::Bool(self.bool(what)?),
            8 => Value::Str(self.utf8(what)?.to_owned()),
            9 => Value::Array(self.array_value(what, 1)?),
            10 => Value::U64(u64::from_le_bytes(self.array(what)?)),
            11 => Value::I64(i64::from_le_bytes(self.array(what)?)),
            12 => Value::F64(f64::from_le_bytes(self.array(what)?)),
            id => return Err(self.bad(at, format!("{what} has unknown type {id}"))),
        })
    }

    fn numbers<T, const N: usize>(
        &mut self,
        n: u64,
        what: &str,
        from: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, Error> {
        let bytes = n
            .checked_mul(N as u64)
            .ok_or_else(|| self.bad(self.pos, format!("{what}: an array of {n} elements")))?;
        let (chunks, _) = self.take(bytes, what)?.as_chunks::<N>();
        Ok(chunks.iter().map(|&chunk| from(chunk)).collect())
    }

    fn array_value(&mut self, what: &str, depth: usize) -> Result<Array, Error> {
        let at = self.pos;
        let ty = self.u32(what)?;
        let n = self.u64(what)?;
        Ok(match ty {
            0 => Array::U8(self.take(n, what)?.to_vec()),
            1 => Array::I8(self.numbers(n, what, i8::from_le_bytes)?),
            2 => Array::U16(self.numbers(n, what, u16::from_le_bytes)?),
            3 => Array::I16(self.numbers(n, what, i16::from_le_bytes)?),
            4 => Array::U32(self.numbers(n, what, u32::from_le_bytes)?),
            5 => Array::I32(self.numbers(n, what, i32::from_le_bytes)?),
            6 => Array::F32(self.numbers(n, what, f32::from_le_bytes)?),
            7 => {
                self.require_at_least(n, 1, what)?;
                Array::Bool((0..n).map(|_| self.bool(what)).collect::<Result<_, _>>()?)
            }
            8 => {
                self.require_at_least(n, 8, what)?;
                let mut strings = StringArray::default();
                for _ in 0..n {
                    strings.push(self.string(what)?);
                }
                Array::Str(strings)
            }
            9 if depth >= MAX_DEPTH => {
                let what = format!("{what} nests arrays deeper than {MAX_DEPTH}");
                return Err(self.bad(at, what));
            }
            9 => {
                self.require_at_least(n, 12, what)?;
                let nested = (0..n).map(|_| self.array_value(what, depth + 1));
                Array::Array(nested.collect::<Result<_, _>>()?)
            }
            10 => Array::U64(self.numbers(n, what, u64::from_le_bytes)?),
            11 => Array::I64(self.numbers(n, what, i64::from_le_bytes)?),
            12 => Array::F64(self.numbers(n, what, f64::from_le_bytes)?),
            id => return Err(self.bad(at, format!("{what} is an array of unknown type {id}"))),
        })
    }

    /// Refuses a count of things that take at least `size` bytes each if the file cannot hold them.
    fn require_at_least(&self, count: u64, size: u64, what: &str) -> Result<(), Error> {
        let available = self.remaining() as u64 / size;
        if count > available {
            return Err(Error::bad_file(
                self.path,
                format!(
                    "file is truncated or damaged: {what} at byte {} has {count} elements, \
                     the file ends at {}",
                    self.pos,
                    self.bytes.len()
                ),
            ));
        }
        Ok(())
    }

    /// A tensor info with its offset still relative to the data section, and what is wrong with its shape; its size is then
    /// 0, as that of a type that is not known.
    fn tensor_info(&mut self) -> Result<(TensorInfo, Option<Error>), Error> {
        let at = self.pos;
        let name = self.utf8("tensor name")?.to_owned();
        if name.is_empty() || name.len() > MAX_NAME {
            let n = name.len();
            let what = format!("tensor name {name:?} has {n} bytes, 1 to {MAX_NAME} are allowed");
            return Err(self.bad(at, what));
        }
        let what = &format!("info of tensor {name:?}");
        let n_dims = self.u32(what)?;
        if n_dims > MAX_DIMS {
            return Err(self.bad(
                at,
                format!("tensor {name:?} has {n_dims} dimensions, at most {MAX_DIMS} are allowed"),
            ));
        }
        let shape = self.numbers(n_dims.into(), what, u64::from_le_bytes)?;
        let ty = TensorType::from_id(self.u32(what)?);
        let offset = self.u64(what)?;
        let size = match ty {
            TensorType::Unknown(_) => element_count(&shape).map(|_| 0),
            _ if ty.shares_id() => element_count(&shape).map(|_| 0),
            known => element_count(&shape).and_then(|_| known.data_size(&shape)),
        };
        let wrong = |why| self.bad(at, format!("tensor {name:?}: {why}"));
        let (size, wrong) = match size {
            Ok(size) => (size, None),
            Err(why) => (0, Some(wrong(why))),
        };
        let info = TensorInfo {
            name,
            shape,
            ty,
            part: 0,
            offset,
            size,
        };
        Ok((info, wrong))
    }
}

/// Parses a file up to its tensor data, and checks where that data lies.
pub(super) fn parse(bytes: &[u8], path: &Path) -> Result<Header, Error> {
    match parse_partly(bytes, path) {
        (header, None) => Ok(header),
        (_, Some(fault)) => Err(fault),
    }
}

/// What can be read of a file, and the first thing that is wrong with it: places of tensors mean nothing then.
pub(super) fn parse_partly(bytes: &[u8], path: &Path) -> (Header, Option<Error>) {
    let mut header = Header {
        version: 0,
        alignment: DEFAULT_ALIGNMENT,
        metadata: Metadata::new(path),
        tensors: Vec::new(),
        index: HashMap::new(),
    };
    let fault = header.read(bytes, path).err();
    (header, fault)
}

impl Header {
    fn read(&mut self, bytes: &[u8], path: &Path) -> Result<(), Error> {
        let mut c = Cursor {
            path,
            bytes,
            pos: 0,
        };
        if !bytes.starts_with(MAGIC) {
            let what = foreign::what_it_is(bytes);
            return Err(Error::bad_file(path, format!("not a GGUF file: {what}")));
        }
        c.pos = MAGIC.len();
        let version = c.u32("version")?;
        match version {
            2 | 3 => self.version = version,
            _ if matches!(version.swap_bytes(), 1..=3) => {
                let what = "big-endian GGUF: turn it round with gguf-py's gguf_convert_endian.py";
                return Err(Error::unsupported(path, what));
            }
            _ => {
                let what = format!("GGUF version {version} (2 and 3 are supported)");
                return Err(Error::unsupported(path, what));
            }
        }
        let n_tensors = c.u64("tensor count")?;
        let n_kv = c.u64("metadata count")?;
        // A metadata entry takes at least 13 bytes, a tensor info at least 24.
        c.require_at_least(n_kv, 13, "metadata")?;
        c.require_at_least(n_tensors, 24, "the list of tensors")?;

        for _ in 0..n_kv {
            let at = c.pos;
            let key = c.utf8("metadata key")?;
            if key.is_empty() {
                return Err(c.bad(at, "a metadata key is empty"));
            }
            let value = c.value(key)?;
            self.metadata.insert(key, value)?;
        }
        self.alignment = match self.metadata.optional::<u32>("general.alignment")? {
            None => DEFAULT_ALIGNMENT,
            Some(a) if a.is_power_of_two() => a.into(),
            Some(a) => {
                return Err(Error::bad_file(
                    path,
                    format!("metadata key \"general.alignment\" is {a}, not a power of two"),
                ));
            }
        };

        let mut wrong = None;
        for _ in 0..n_tensors {
            let at = c.pos;
            let (info, wrong_here) = c.tensor_info()?;
            wrong = wrong.or(wrong_here);
            let index = self.tensors.len();
            if self.index.insert(info.name.clone(), index).is_some() {
                return Err(c.bad(at, format!("tensor {:?} occurs twice", info.name)));
            }
            self.tensors.push(info);
        }
        if let Some(wrong) = wrong {
            return Err(wrong);
        }
        let data_start = (c.pos as u64).next_multiple_of(self.alignment);
        let file_size = bytes.len() as u64;
        place(
            &mut self.tensors,
            data_start,
            self.alignment,
            file_size,
            path,
        )
    }
}

/// Settles the types of tensors, in the order of their offsets, whose ids stand for several: the one that takes the room up
/// to the next tensor, but for padding. Where more than one does, since the tensor is small, or none, since the file is cut
/// off, the one of most other tensors with that id; without any, that which is written today, or none.
fn settle(order: &mut [&mut TensorInfo], alignment: u64, data_size: u64) {
    let ends = order.iter().skip(1).map(|t| t.offset).chain([data_size]);
    let rooms: Vec<u64> = ends
        .zip(&*order)
        .map(|(end, t)| end.saturating_sub(t.offset))
        .collect();
    let fitting: Vec<Vec<TensorType>> = rooms
        .iter()
        .zip(&*order)
        .map(|(room, t)| {
            let fits = |ty: &TensorType| {
                let size = ty.data_size(&t.shape).ok();
                let padding = size.and_then(|size| room.checked_sub(size));
                padding.is_some_and(|padding| padding < alignment)
            };
            let types = TensorType::of_id(t.ty.id()).filter(|_| t.ty.shares_id());
            types.filter(fits).collect()
        })
        .collect();
    let sure = |ty: &TensorType| fitting.iter().filter(|fit| fit[..] == [*ty]).count();
    for (t, fit) in order
        .iter_mut()
        .zip(&fitting)
        .filter(|(t, _)| t.ty.shares_id())
    {
        let id = t.ty.id();
        let mut types: Vec<TensorType> = match fit[..] {
            [] => TensorType::of_id(id).filter(|ty| sure(ty) > 0).collect(),
            _ => fit.clone(),
        };
        types.sort_by_key(|ty| std::cmp::Reverse(sure(ty)));
        let settled = types
            .into_iter()
            .find_map(|ty| Some((ty, ty.data_size(&t.shape).ok()?)));
        (t.ty, t.size) = settled.unwrap_or((TensorType::Unknown(id), 0));
    }
}

/// Makes offsets absolute, gives tensors of unknown type the bytes up to the next tensor, and checks that all
/// of them are aligned, inside the file, and apart.
fn place(
    tensors: &mut [TensorInfo],
    data_start: u64,
    alignment: u64,
    file_size: u64,
    path: &Path,
) -> Result<(), Error> {
    let mut order: Vec<&mut TensorInfo> = tensors.iter_mut().collect();
    order.sort_by_key(|t| t.offset);
    settle(&mut order, alignment, file_size.saturating_sub(data_start));
    let mut end_before = data_start;
    let mut before: Option<String> = None;
    for i in 0..order.len() {
        let next = order.get(i + 1).map(|t| t.offset);
        let t = &mut order[i];
        let name = &t.name;
        let relative = t.offset;
        if !relative.is_multiple_of(alignment) {
            return Err(Error::bad_file(
                path,
                format!(
                    "tensor {name:?}: offset {relative} is not a multiple of the alignment {alignment}"
                ),
            ));
        }
        let outside = |size: u64| {
            Error::bad_file(
                path,
                format!(
                    "file is truncated or damaged: tensor {name:?} has {size} bytes at offset {relative} \
                     of the data section, which starts at byte {data_start}; the file ends at {file_size}"
                ),
            )
        };
        let offset = data_start
            .checked_add(relative)
            .ok_or_else(|| outside(t.size))?;
        if offset > file_size {
            return Err(outside(t.size));
        }
        if let TensorType::Unknown(_) = t.ty {
            let next = next.and_then(|n| data_start.checked_add(n));
            t.size = next.unwrap_or(file_size).min(file_size) - offset;
        }
        let end = offset
            .checked_add(t.size)
            .filter(|&end| end <= file_size)
            .ok_or_else(|| outside(t.size))?;
        if let Some(before) = before.filter(|_| offset < end_before) {
            return Err(Error::bad_file(
                path,
                format!("tensors {before:?} and {name:?} overlap at byte {offset}"),
            ));
        }
        t.offset = offset;
        end_before = end;
        before = Some(t.name.clone());
    }
    Ok(())
}
