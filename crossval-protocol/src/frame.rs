//! Frames: a header in JSON and a payload, as they go through a pipe.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::message::{Response, VERSION};

/// Largest header, bytes.
pub const MAX_HEADER: usize = 16 << 20;

/// Largest payload, bytes.
pub const MAX_PAYLOAD: usize = 64 << 20;

/// Longest text of [`Request::Tokenize`](crate::Request::Tokenize), bytes: its tokens, of four bytes each, fit a payload even where there are twice
/// as many of them.
pub const MAX_TEXT: usize = MAX_PAYLOAD / 8;

/// Payloads up to this many bytes are written together with their header.
pub(crate) const SMALL_PAYLOAD: usize = 4 << 10;

/// Read lengths are trusted up to this many bytes.
pub(crate) const TRUSTED_LENGTH: usize = 64 << 10;

/// Pieces of a tap aim at this many bytes.
const TAP_FRAME_BYTES: usize = 4 << 20;

/// Rows of a tap that go into one frame, given the bytes of a row: as many as fit 4 MiB, at least one.
pub fn rows_per_frame(row_bytes: usize) -> usize {
    (TAP_FRAME_BYTES / row_bytes.max(1)).max(1)
}

/// Token IDs as they stand in a payload.
pub fn token_bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Token IDs from a payload; `None` if it ends within one.
pub fn tokens_from_bytes(payload: &[u8]) -> Option<Vec<u32>> {
    match payload.as_chunks() {
        (ids, []) => Some(ids.iter().map(|&id| u32::from_le_bytes(id)).collect()),
        _ => None,
    }
}

/// Why a frame could not be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The other side closed the pipe between frames.
    #[error("the pipe was closed")]
    Closed,
    /// The pipe broke, or was closed within a frame.
    #[error("the pipe broke: {0}")]
    Io(#[from] io::Error),
    /// A length beyond the cap.
    #[error("a frame announces {announced} bytes of {part}, more than {cap}")]
    TooLarge {
        /// `header` or `payload`.
        part: &'static str,
        /// Announced length.
        announced: usize,
        /// Largest allowed.
        cap: usize,
    },
    /// The header is not a message of this protocol.
    #[error("unreadable frame header {header:?}: {source}")]
    Header {
        /// Start of the header.
        header: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// A hello of another version than [`VERSION`].
    #[error("a hello of version {0} of the protocol, not {VERSION}")]
    Version(u32),
}

/// Write one frame and flush.
///
/// # Errors
/// Whatever writing to `out` returns; a frame over the caps is `InvalidInput`.
pub fn write_frame<T: Serialize>(
    out: &mut impl Write,
    message: &T,
    payload: &[u8],
) -> io::Result<()> {
    let header = serde_json::to_vec(message)?;
    if header.len() > MAX_HEADER || payload.len() > MAX_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "frame of {} + {} bytes is over the cap",
                header.len(),
                payload.len()
            ),
        ));
    }
    let mut head = Vec::with_capacity(8 + header.len() + SMALL_PAYLOAD);
    head.extend_from_slice(&(header.len() as u32).to_le_bytes());
    head.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    head.extend_from_slice(&header);
    // Every write may wake the other side.
    if payload.len() <= SMALL_PAYLOAD {
        head.extend_from_slice(payload);
        out.write_all(&head)?;
    } else {
        out.write_all(&head)?;
        out.write_all(payload)?;
    }
    out.flush()
}

/// Read the first frame of a worker, as [`read_frame`] does.
///
/// # Errors
/// [`FrameError::Version`], whatever else a hello of another version holds; those of [`read_frame`].
pub fn read_hello(input: &mut impl Read, payload: &mut Vec<u8>) -> Result<Response, FrameError> {
    #[derive(Deserialize)]
    struct Spoken {
        protocol: u32,
    }
    let header = read_parts(input, payload)?;
    match serde_json::from_slice(&header) {
        Ok(Spoken { protocol }) if protocol != VERSION => Err(FrameError::Version(protocol)),
        _ => parse(&header),
    }
}

/// Read one frame; the payload goes into `payload`, whose former content is dropped.
///
/// # Errors
/// [`FrameError::Closed`] at the end of the stream; the others as they say.
pub fn read_frame<T: DeserializeOwned>(
    input: &mut impl Read,
    payload: &mut Vec<u8>,
) -> Result<T, FrameError> {
    parse(&read_parts(input, payload)?)
}

/// Reads the payload of a frame into `payload`; returns its header.
fn read_parts(input: &mut impl Read, payload: &mut Vec<u8>) -> Result<Vec<u8>, FrameError> {
    let mut lengths = [0; 8];
    read_exact_or_closed(input, &mut lengths)?;
    let [header_len, payload_len] = [0, 4].map(|at| {
        u32::from_le_bytes([
            lengths[at],
            lengths[at + 1],
            lengths[at + 2],
            lengths[at + 3],
        ]) as usize
    });
    for (part, announced, cap) in [
        ("header", header_len, MAX_HEADER),
        ("payload", payload_len, MAX_PAYLOAD),
    ] {
        if announced > cap {
            return Err(FrameError::TooLarge {
                part,
                announced,
                cap,
            });
        }
    }
    let mut header = Vec::new();
    read_into(input, &mut header, header_len)?;
    read_into(input, payload, payload_len)?;
    Ok(header)
}

fn parse<T: DeserializeOwned>(header: &[u8]) -> Result<T, FrameError> {
    serde_json::from_slice(header).map_err(|source| FrameError::Header {
        header: String::from_utf8_lossy(&header[..header.len().min(120)]).into_owned(),
        source,
    })
}

/// Grows `buffer` only as bytes arrive, so that a lying length costs next to no memory.
fn read_into(input: &mut impl Read, buffer: &mut Vec<u8>, len: usize) -> io::Result<()> {
    buffer.clear();
    buffer.reserve(len.min(TRUSTED_LENGTH));
    let got = input.by_ref().take(len as u64).read_to_end(buffer)?;
    if got == len {
        Ok(())
    } else {
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

fn read_exact_or_closed(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), FrameError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) if filled == 0 => return Err(FrameError::Closed),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}
