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

    /// Called with the data of every node that was wanted. `Break` ends the evaluation with
    /// [`Error::Stopped`](crate::Error::Stopped).
    fn node(&mut self, node: &Node<'_>) -> ControlFlow<()>;
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
}

/// An evaluated node.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// What was known before.
    pub info: NodeInfo<'a>,
    bytes: Option<&'a [u8]>,
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
}

impl<'a> Node<'a> {
    /// The memory from the first to the last element, in its own layout; `None` if it does not lie in host memory.
    pub fn bytes(&self) -> Option<&'a [u8]> {
        self.bytes
    }

    /// The values in logical order, gathered through the strides.
    ///
    /// # Errors
    /// [`ValuesError`], naming the node.
    pub fn values(&self) -> Result<Values, ValuesError> {
        let name = || self.info.name.to_owned();
        let bytes = self
            .bytes
            .ok_or_else(|| ValuesError::NoData { name: name() })?;
        let (shape, strides) = (self.info.shape, self.info.strides);
        let values = match self.info.type_name {
            "f32" => gather(bytes, shape, strides, f32::from_ne_bytes).map(Values::F32),
            "f16" => gather(bytes, shape, strides, f16::from_ne_bytes).map(Values::F16),
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
        // SAFETY: ggml's names are NUL-terminated (the tensor's within its fixed array) and outlive the callback.
        let text = |s: *const c_char| unsafe { CStr::from_ptr(s) }.to_string_lossy();
        let (name, op, type_name) = (text(node.name), text(node.op), text(node.type_name));
        if ask {
            let seen = self
                .seen
                .entry((name.to_string(), op.to_string()))
                .or_insert(0);
            self.occurrence = *seen;
            *seen += 1;
        }
        let info = NodeInfo {
            name: &name,
            op: &op,
            occurrence: self.occurrence,
            shape: node.shape,
            strides: node.strides,
            type_name: &type_name,
        };
        if ask {
            return if self.observer.wants(&info) {
                ffi::BN_TAKE
            } else {
                ffi::BN_SKIP
            };
        }
        let bytes = (!node.data.is_null()).then(|| {
            // SAFETY: the tensor was just evaluated, lies in host memory and spans n_bytes; nothing writes to it
            // before the callback returns.
            unsafe { std::slice::from_raw_parts(node.data.cast::<u8>(), node.n_bytes) }
        });
        match self.observer.node(&Node { info, bytes }) {
            ControlFlow::Continue(()) => ffi::BN_TAKE,
            ControlFlow::Break(()) => ffi::BN_STOP,
        }
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
}
