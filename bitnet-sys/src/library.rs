use std::ffi::CStr;
use std::sync::OnceLock;

use crate::error::Error;
use crate::{facts, ffi, log};

/// What was linked, and how it was built. All of it changes the library's speed or its last bits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LibraryFacts {
    /// Name of the pin (`2026-01`, `2024-11`, `llama.cpp`), or of the checkout.
    pub vintage: String,
    /// The package and its version, or the commit of the checkout (`-dirty` appended if its files were changed).
    pub revision: String,
    /// Where the source was when it was built.
    pub source_dir: String,
    /// First line of the C++ compiler's `--version`.
    pub compiler: String,
    /// CPU level that it was built for: `native`, `x86-64-v3` or `x86-64-v4`.
    pub cpu_level: String,
    /// Flags and definitions that `ggml.c` was compiled with.
    pub c_flags: String,
    /// Flags and definitions that BitNet's kernels were compiled with.
    pub cxx_flags: String,
    /// CMake's `GGML_*` options that are on.
    pub options: String,
    /// CPU features it was compiled for (`AVX2 = 1 | …`), as it says itself.
    pub cpu_features: String,
    /// Whether it repacks weights when it loads them, unless it is told not to.
    pub repacks: bool,
    /// Its flash attention unless it is told otherwise: `auto`, `false` or `true`.
    pub flash_attn: String,
}

/// What was linked, and how it was built.
pub fn library() -> LibraryFacts {
    // SAFETY: takes no arguments, and returns a string that is never null and stays valid.
    let cpu_features = unsafe { CStr::from_ptr(ffi::bn_system_info()) };
    // SAFETY: as above.
    let flash_attn = unsafe { CStr::from_ptr(ffi::bn_flash_attn()) };
    // SAFETY: takes no arguments.
    let repacks = unsafe { ffi::bn_repacks() };
    LibraryFacts {
        vintage: facts::VINTAGE.to_owned(),
        revision: facts::REVISION.to_owned(),
        source_dir: facts::SOURCE_DIR.to_owned(),
        compiler: facts::COMPILER.to_owned(),
        cpu_level: facts::CPU_LEVEL.to_owned(),
        c_flags: facts::C_FLAGS.to_owned(),
        cxx_flags: facts::CXX_FLAGS.to_owned(),
        options: facts::OPTIONS.to_owned(),
        cpu_features: cpu_features.to_string_lossy().trim().to_owned(),
        repacks,
        flash_attn: flash_attn.to_string_lossy().into_owned(),
    }
}

/// Quantises one token's activations to int8, as the library does before its ternary products; the scale, and the sum of
/// the codes. `None` if it has no such products.
///
/// # Panics
/// If `codes` is shorter than `x`.
pub fn quantize_i8(x: &[f32], codes: &mut [i8]) -> Option<(f32, i32)> {
    let codes = &mut codes[..x.len()];
    let (mut scale, mut sum) = (0.0, 0);
    // SAFETY: both slices have the length that is passed, which fits, as no slice is longer than isize::MAX bytes.
    let done = unsafe {
        ffi::bn_quantize_i8(
            x.as_ptr(),
            codes.as_mut_ptr(),
            x.len() as i64,
            &mut scale,
            &mut sum,
        )
    };
    done.then_some((scale, sum))
}

/// Initialises the library once per process.
pub(crate) fn init() -> Result<(), Error> {
    static DONE: OnceLock<Result<(), String>> = OnceLock::new();
    DONE.get_or_init(|| {
        // SAFETY: called once; the callback keeps to its contract and needs no user data.
        let ok = unsafe { ffi::bn_init(Some(log::on_log), std::ptr::null_mut()) };
        if ok { Ok(()) } else { Err(ffi::last_error()) }
    })
    .clone()
    .map_err(Error::Init)
}
