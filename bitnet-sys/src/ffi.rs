//! Bindings of `shim/shim.h`, made by bindgen.
#![allow(missing_docs, non_camel_case_types, dead_code, clippy::all)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));

/// Reason of the last failure on this thread.
pub(crate) fn last_error() -> String {
    // SAFETY: the pointer is never null and the string lives until the next call on this thread.
    unsafe { std::ffi::CStr::from_ptr(bn_last_error()) }
        .to_string_lossy()
        .into_owned()
}
