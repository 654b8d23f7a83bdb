//! What the fuzz targets share: inputs that fall into parts, messages as they travel, and models of a few kilobytes.

mod model;

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::PathBuf;

pub use model::{MODELS, model, tokenizer_metadata};

/// Ends a part of an input; like [`FIELD`] it is no byte of UTF-8, so that it occurs in no JSON.
pub const PART: u8 = 0xFF;

/// Ends a field of a part.
pub const FIELD: u8 = 0xFE;

/// The parts of an input.
pub fn parts(input: &[u8]) -> impl Iterator<Item = &[u8]> {
    input.split(|&b| b == PART)
}

/// A part in fields.
pub fn fields(part: &[u8]) -> impl Iterator<Item = &[u8]> {
    part.split(|&b| b == FIELD)
}

/// Messages as they travel, from parts that are each a header and, after [`FIELD`], its payload. The lengths in front
/// are thus right whatever a mutation does to the rest; where the first byte is `!` the bytes behind it are taken as
/// they are, lengths and all.
pub fn wire(input: &[u8]) -> Vec<u8> {
    if let Some(raw) = input.strip_prefix(b"!") {
        return raw.to_vec();
    }
    let mut wire = Vec::new();
    for part in parts(input) {
        let at = part.iter().position(|&b| b == FIELD);
        let (header, payload) = match at {
            Some(at) => (&part[..at], &part[at + 1..]),
            None => (part, &[][..]),
        };
        push_frame(&mut wire, header, payload);
    }
    wire
}

/// Appends one message.
pub fn push_frame(wire: &mut Vec<u8>, header: &[u8], payload: &[u8]) {
    wire.extend_from_slice(&(header.len() as u32).to_le_bytes());
    wire.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    wire.extend_from_slice(header);
    wire.extend_from_slice(payload);
}

/// A file in memory, for what takes a path or a descriptor.
pub struct MemoryFile {
    file: File,
}

impl MemoryFile {
    /// A file of these bytes, to be read from the start.
    pub fn new(bytes: &[u8]) -> MemoryFile {
        let name = CString::default();
        // SAFETY: the name is a C string; the descriptor is checked, and owned by the file alone.
        let mut file = unsafe {
            let fd = memfd_create(name.as_ptr(), 1);
            assert!(fd >= 0, "memfd_create");
            File::from_raw_fd(fd)
        };
        file.write_all(bytes).expect("room in memory");
        std::io::Seek::rewind(&mut file).expect("a file seeks");
        MemoryFile { file }
    }

    /// Where it is found by name.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// The file itself.
    pub fn into_file(self) -> File {
        self.file
    }
}

unsafe extern "C" {
    fn memfd_create(name: *const std::ffi::c_char, flags: std::ffi::c_uint) -> std::ffi::c_int;
}
