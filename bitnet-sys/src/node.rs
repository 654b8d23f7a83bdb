use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::ops::ControlFlow;
use std::panic::{self, AssertUnwindSafe};

use half::f16;

use crate::ffi;

/// Sees the nodes of the compute graph, in the order in which they are evaluated.
pub trait NodeObserver {
    /// Asked once per node, before it is evaluated. Whatever is wanted splits the graph there, so that its data is
    /// seen before later nodes reuse the memory.
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool;

    /// Called with the data of every node that was wanted, before anything is computed from it. `Break` ends the evaluation with
    /// [`Error::Stopped`](crate::Error::Stopped).
    fn node(&mut self, node: &mut Node<'_>) -> ControlFlow<()>;
}

/// What is known of a node before it is evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NodeInfo<'a> {
    /// The tensor's name, such as `Qcur-0`. Names repeat within one graph.
    pub name: &'a str,
    /// ggml's name of the operation (of the unary operation, where it is one): `MUL_MAT`, `ROPE`, `SILU`.
    pub op: &'a str,
    /// How many nodes with the same name and operation came before it in this evaluation.
    pub occurrence: u32,
    /// Elements per dimension, fastest first.
    pub shape: [i64; 4],
    /// Bytes from one element to the next, per dimension.
    pub strides: [usize; 4],
    /// ggml's name of the type: `f32`, `f16`, `i32`.
    pub type_name: &'a str,
    /// Another for every tensor of one evaluation.
    pub id: usize,
    /// What it is computed from, in the library's order.
    pub sources: &'a [Source<'a>],
}

/// What a node is computed from: another node, a weight, an input, a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Source<'a> {
    /// As the node's, if it is one.
    pub id: usize,
    /// The tensor's name: of a weight, that in the file.
    pub name: &'a str,
    /// ggml's name of the type.
    pub type_name: &'a str,
    /// Elements per dimension, fastest first.
    pub shape: [i64; 4],
    strides: [usize; 4],
    memory: Memory,
}

/// An evaluated node.
#[derive(Debug)]
pub struct Node<'a> {
    /// What was known before.
    pub info: NodeInfo<'a>,
    memory: Memory,
}

/// Where the values of a tensor lie, for the time of a callback; null if not in host memory. Tensors may share memory, so
/// that no reference to it may outlive a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Memory {
    start: *mut u8,
    len: usize,
}

/// The values of a tensor in logical order: the first dimension fastest, whatever the strides.
#[derive(Clone, Debug, PartialEq)]
pub enum Values {
    /// Type `f32`.
    F32(Vec<f32>),
    /// Type `f16`.
    F16(Vec<f16>),
}

/// Why a node's values cannot be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValuesError {
    /// Not a type with plain values.
    #[error("node {name} is of type {type_name}, not f32 or f16")]
    Type {
        /// The node.
        name: String,
        /// Its type.
        type_name: String,
    },
    /// The data does not lie in host memory.
    #[error("the data of node {name} does not lie in host memory")]
    NoData {
        /// The node.
        name: String,
    },
    /// The shape and strides point beyond the data.
    #[error("the shape of node {name} points beyond its data")]
    OutOfBounds {
        /// The node.
        name: String,
    },
    /// It is no `SET_ROWS`, whose second source says which rows it writes.
    #[error("node {name} does not say which rows it writes")]
    NoRows {
        /// The node.
        name: String,
    },
}

impl Node<'_> {
    /// The memory from the first to the last element, in its own layout; `None` if it does not lie in host memory.
    pub fn bytes(&self) -> Option<&[u8]> {
        self.memory.bytes()
    }

    /// The values in logical order, gathered through the strides.
    ///
    /// # Errors
    /// [`ValuesError`], naming the node.
    pub fn values(&self) -> Result<Values, ValuesError> {
        let (shape, strides) = (self.info.shape, self.info.strides);
        self.read(
            |bytes| gather(bytes, shape, strides, f32::from_ne_bytes),
            |bytes| gather(bytes, shape, strides, f16::from_ne_bytes),
        )
    }

    /// Of a `SET_ROWS`, whose tensor is all that it writes into: the rows that it has just written, one after the other,
    /// in the order in which its first source has them.
    ///
    /// # Errors
    /// [`ValuesError`], naming the node.
    pub fn written(&self) -> Result<Values, ValuesError> {
        let offsets = self.offsets_written()?;
        self.read(
            |bytes| values_at(bytes, &offsets, f32::from_ne_bytes),
            |bytes| values_at(bytes, &offsets, f16::from_ne_bytes),
        )
    }

    /// Where in memory those rows' elements begin.
    fn offsets_written(&self) -> Result<Vec<usize>, ValuesError> {
        let name = || self.info.name.to_owned();
        let rows = match self.info.sources {
            [_, rows, ..] if self.info.op == "SET_ROWS" => rows.indices(),
            _ => None,
        };
        let rows = rows.ok_or_else(|| ValuesError::NoRows { name: name() })?;
        let offsets = offsets_of_rows(self.info.shape, self.info.strides, &rows);
        offsets.ok_or_else(|| ValuesError::OutOfBounds { name: name() })
    }

    fn read(
        &self,
        f32s: impl FnOnce(&[u8]) -> Option<Vec<f32>>,
        f16s: impl FnOnce(&[u8]) -> Option<Vec<f16>>,
    ) -> Result<Values, ValuesError> {
        let name = || self.info.name.to_owned();
        let bytes = self
            .bytes()
            .ok_or_else(|| ValuesError::NoData { name: name() })?;
        let values = match self.info.type_name {
            "f32" => f32s(bytes).map(Values::F32),
            "f16" => f16s(bytes).map(Values::F16),
            other => {
                return Err(ValuesError::Type {
                    name: name(),
                    type_name: other.to_owned(),
                });
            }
        };
        values.ok_or_else(|| ValuesError::OutOfBounds { name: name() })
    }
}

impl Node<'_> {
    /// Has the evaluation go on with other values than the node's own, in the order of [`Node::values`].
    ///
    /// # Errors
    /// [`ValuesError`], naming the node, whose values may then be replaced in part.
    pub fn replace(&mut self, values: &Values) -> Result<(), ValuesError> {
        let shape = self.info.shape.map(|n| usize::try_from(n).unwrap_or(0));
        let (name, ty) = (self.info.name, self.info.type_name);
        let strides = self.info.strides;
        let offsets = (0..shape.iter().product::<usize>()).map(|index| {
            let mut rest = index;
            let mut offset = 0usize;
            for (n, stride) in shape.into_iter().zip(strides) {
                offset = offset.checked_add((rest % n).checked_mul(stride)?)?;
                rest /= n;
            }
            Some(offset)
        });
        write(&mut self.memory, (name, ty), offsets, values)
    }

    /// As [`Node::replace`], of the rows that a `SET_ROWS` has just written, in the order of [`Node::written`].
    ///
    /// # Errors
    /// As there.
    pub fn replace_written(&mut self, values: &Values) -> Result<(), ValuesError> {
        let offsets = self.offsets_written()?;
        let (name, ty) = (self.info.name, self.info.type_name);
        write(
            &mut self.memory,
            (name, ty),
            offsets.into_iter().map(Some),
            values,
        )
    }
}

/// Writes values to offsets of a node's memory, as many as there are.
fn write(
    memory: &mut Memory,
    (name, type_name): (&str, &str),
    offsets: impl Iterator<Item = Option<usize>>,
    values: &Values,
) -> Result<(), ValuesError> {
    let name = || name.to_owned();
    let bytes = memory.bytes_mut();
    let bytes = bytes.ok_or_else(|| ValuesError::NoData { name: name() })?;
    let written = match (values, type_name) {
        (Values::F32(values), "f32") => scatter(bytes, offsets, values, |v| v.to_ne_bytes()),
        (Values::F16(values), "f16") => scatter(bytes, offsets, values, |v| v.to_ne_bytes()),
        _ => {
            return Err(ValuesError::Type {
                name: name(),
                type_name: type_name.to_owned(),
            });
        }
    };
    written.ok_or_else(|| ValuesError::OutOfBounds { name: name() })
}

/// `None` if there are more or fewer values than offsets, or one lies beyond the end.
fn scatter<const N: usize, T: Copy>(
    bytes: &mut [u8],
    mut offsets: impl Iterator<Item = Option<usize>>,
    values: &[T],
    value: impl Fn(T) -> [u8; N],
) -> Option<()> {
    for &v in values {
        let at = bytes.get_mut(offsets.next()??..)?;
        *at.first_chunk_mut::<N>()? = value(v);
    }
    offsets.next().is_none().then_some(())
}

impl Source<'_> {
    /// Its values as numbers of rows.
    fn indices(&self) -> Option<Vec<usize>> {
        let (bytes, shape, strides) = (self.memory.bytes()?, self.shape, self.strides);
        let indices = match self.type_name {
            "i64" => gather(bytes, shape, strides, i64::from_ne_bytes)?,
            "i32" => gather(bytes, shape, strides, |b| i64::from(i32::from_ne_bytes(b)))?,
            _ => return None,
        };
        let indices = indices.into_iter().map(usize::try_from);
        indices.collect::<Result<_, _>>().ok()
    }
}

/// Where the elements of some rows of a tensor of two dimensions begin, one row after the other.
fn offsets_of_rows(shape: [i64; 4], strides: [usize; 4], rows: &[usize]) -> Option<Vec<usize>> {
    let [width, height, 1, 1] = shape else {
        return None;
    };
    let (width, height) = (usize::try_from(width).ok()?, usize::try_from(height).ok()?);
    let mut offsets = Vec::new();
    for &row in rows {
        let start = row.checked_mul(strides[1]).filter(|_| row < height)?;
        for i in 0..width {
            offsets.push(i.checked_mul(strides[0])?.checked_add(start)?);
        }
    }
    Some(offsets)
}

fn values_at<const N: usize, T>(
    bytes: &[u8],
    offsets: &[usize],
    value: impl Fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    let at = |&offset: &usize| Some(value(*bytes.get(offset..)?.first_chunk::<N>()?));
    offsets.iter().map(at).collect()
}

fn gather<const N: usize, T>(
    bytes: &[u8],
    shape: [i64; 4],
    strides: [usize; 4],
    value: impl Fn([u8; N]) -> T,
) -> Option<Vec<T>> {
    let mut dims = [0usize; 4];
    for (dim, n) in dims.iter_mut().zip(shape) {
        *dim = usize::try_from(n).ok()?;
    }
    let count = dims.iter().try_fold(1usize, |a, &n| a.checked_mul(n))?;
    if count == 0 {
        return Some(Vec::new());
    }
    let end = dims.iter().zip(strides).try_fold(N, |end, (&n, stride)| {
        (n - 1).checked_mul(stride)?.checked_add(end)
    })?;
    if end > bytes.len() {
        return None;
    }
    // Every offset below is at most `end - N`.
    let mut values = Vec::with_capacity(count);
    for i3 in 0..dims[3] {
        for i2 in 0..dims[2] {
            for i1 in 0..dims[1] {
                let row = bytes.get(i3 * strides[3] + i2 * strides[2] + i1 * strides[1]..)?;
                if strides[0] == N {
                    let row = row.get(..dims[0] * N)?;
                    values.extend(row.as_chunks::<N>().0.iter().map(|&b| value(b)));
                } else {
                    for i0 in 0..dims[0] {
                        values.push(value(*row.get(i0 * strides[0]..)?.first_chunk::<N>()?));
                    }
                }
            }
        }
    }
    Some(values)
}

/// An observer at work during one evaluation.
pub(crate) struct Watch<'a> {
    observer: &'a mut dyn NodeObserver,
    /// Nodes seen per name and operation.
    seen: HashMap<(String, String), u32>,
    /// Occurrence of the node that was asked about last: the one whose data comes next, if any.
    occurrence: u32,
    /// What the observer said when it panicked.
    pub(crate) panic: Option<String>,
}

impl<'a> Watch<'a> {
    pub(crate) fn new(observer: &'a mut dyn NodeObserver) -> Self {
        Watch {
            observer,
            seen: HashMap::new(),
            occurrence: 0,
            panic: None,
        }
    }

    fn see(&mut self, node: &ffi::bn_node, ask: bool) -> ffi::bn_answer {
        let tensor = &node.tensor;
        let [name, op, type_name] = texts(tensor);
        if ask {
            let seen = self
                .seen
                .entry((name.to_string(), op.to_string()))
                .or_insert(0);
            self.occurrence = *seen;
            *seen += 1;
        }
        let sources = node.sources.iter().take(node.n_sources as usize);
        let sources: Vec<_> = sources.map(|source| (source, texts(source))).collect();
        let sources: Vec<Source<'_>> = sources
            .iter()
            .map(|(source, [name, _, type_name])| Source {
                id: source.id.addr(),
                name,
                type_name,
                shape: source.shape,
                strides: source.strides,
                memory: Memory::of(source),
            })
            .collect();
        let info = NodeInfo {
            name: &name,
            op: &op,
            occurrence: self.occurrence,
            shape: tensor.shape,
            strides: tensor.strides,
            type_name: &type_name,
            id: tensor.id.addr(),
            sources: &sources,
        };
        if ask {
            return if self.observer.wants(&info) {
                ffi::BN_TAKE
            } else {
                ffi::BN_SKIP
            };
        }
        let memory = Memory::of(tensor);
        match self.observer.node(&mut Node { info, memory }) {
            ControlFlow::Continue(()) => ffi::BN_TAKE,
            ControlFlow::Break(()) => ffi::BN_STOP,
        }
    }
}

/// Name, operation and type.
fn texts(tensor: &ffi::bn_tensor) -> [Cow<'_, str>; 3] {
    // SAFETY: ggml's names are NUL-terminated (the tensor's within its fixed array) and outlive the callback.
    let text = |s: *const c_char| unsafe { CStr::from_ptr(s) }.to_string_lossy();
    [text(tensor.name), text(tensor.op), text(tensor.type_name)]
}

impl Memory {
    fn of(tensor: &ffi::bn_tensor) -> Memory {
        Memory {
            start: tensor.data.cast(),
            len: tensor.n_bytes,
        }
    }

    fn bytes(&self) -> Option<&[u8]> {
        // SAFETY: the tensor was just evaluated, or is what that was computed from; it lies in host memory and spans
        // `len` bytes. The library does not touch it before the callback returns, and the crate takes no other
        // reference to it while it borrows this one.
        (!self.start.is_null()).then(|| unsafe { std::slice::from_raw_parts(self.start, self.len) })
    }

    fn bytes_mut(&mut self) -> Option<&mut [u8]> {
        // SAFETY: as above; that of a node just evaluated is memory that the library writes to.
        (!self.start.is_null())
            .then(|| unsafe { std::slice::from_raw_parts_mut(self.start, self.len) })
    }
}

/// The node callback of the shim.
///
/// # Safety
/// `node` must be valid, and `user_data` a [`Watch`] that nothing else uses meanwhile.
pub(crate) unsafe extern "C" fn on_node(
    node: *const ffi::bn_node,
    ask: bool,
    user_data: *mut c_void,
) -> ffi::bn_answer {
    // SAFETY: by the contract of this function.
    let (node, watch) = unsafe { (&*node, &mut *user_data.cast::<Watch<'_>>()) };
    // A panic must not unwind through C++.
    match panic::catch_unwind(AssertUnwindSafe(|| watch.see(node, ask))) {
        Ok(answer) => answer,
        Err(payload) => {
            let message = payload
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| payload.downcast_ref::<&str>().copied());
            watch.panic = Some(message.unwrap_or("no message").to_owned());
            ffi::BN_STOP
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gathers_through_strides() {
        let bytes: Vec<u8> = (0..6u16).flat_map(u16::to_ne_bytes).collect();
        let read = |shape, strides| gather(&bytes, shape, strides, u16::from_ne_bytes);
        assert_eq!(
            read([3, 2, 1, 1], [2, 6, 12, 12]),
            Some(vec![0, 1, 2, 3, 4, 5])
        );
        assert_eq!(
            read([2, 3, 1, 1], [6, 2, 12, 12]),
            Some(vec![0, 3, 1, 4, 2, 5]),
            "transposed"
        );
        assert_eq!(
            read([2, 2, 1, 1], [2, 6, 12, 12]),
            Some(vec![0, 1, 3, 4]),
            "padded rows"
        );
        assert_eq!(read([0, 2, 1, 1], [2, 6, 12, 12]), Some(vec![]));
        assert_eq!(read([3, 3, 1, 1], [2, 6, 12, 12]), None, "beyond the end");
        assert_eq!(read([-1, 1, 1, 1], [2, 2, 2, 2]), None);
        assert_eq!(read([i64::MAX, 2, 1, 1], [usize::MAX, 2, 2, 2]), None);
    }

    #[test]
    fn rows_come_in_the_order_they_are_named_in() {
        let bytes: Vec<u8> = (0..6u16).flat_map(u16::to_ne_bytes).collect();
        let read = |shape, strides, rows: &[usize]| {
            let offsets = offsets_of_rows(shape, strides, rows)?;
            values_at(&bytes, &offsets, u16::from_ne_bytes)
        };
        let rows_of_two = ([2, 3, 1, 1], [2, 4, 12, 12]);
        assert_eq!(
            read(rows_of_two.0, rows_of_two.1, &[2, 0]),
            Some(vec![4, 5, 0, 1])
        );
        assert_eq!(
            read([1, 6, 1, 1], [2, 2, 12, 12], &[1, 4]),
            Some(vec![1, 4]),
            "elements, as of a transposed cache"
        );
        assert_eq!(read(rows_of_two.0, rows_of_two.1, &[3]), None);
        assert_eq!(read([2, 4, 1, 1], [2, 4, 16, 16], &[3]), None, "no data");
        assert_eq!(read([2, 3, 2, 1], [2, 4, 12, 24], &[0]), None);
        assert_eq!(read([2, i64::MAX, 1, 1], [2, 4, 1, 1], &[usize::MAX]), None);
    }
}
