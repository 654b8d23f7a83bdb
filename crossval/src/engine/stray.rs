//! Text that a worker wrote where its messages belong.

use std::io::{self, Read};

/// Bytes of a message that are kept.
const KEPT: usize = 400;

/// Reads, and keeps the beginning.
pub(super) struct Kept<'a, R> {
    pub(super) pipe: &'a mut R,
    pub(super) beginning: &'a mut Vec<u8>,
}

impl<R: Read> Read for Kept<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.pipe.read(buffer)?;
        let room = KEPT.saturating_sub(self.beginning.len());
        self.beginning.extend_from_slice(&buffer[..n.min(room)]);
        Ok(n)
    }
}

/// The first line of what a message begins with, if that is text and no message: those begin with a length of which one
/// byte at least is 0.
pub(super) fn line(beginning: &[u8]) -> Option<String> {
    let line = beginning.split(|&b| b == b'\n').next()?;
    let ended = line.len() < beginning.len();
    let long_enough = ended || beginning.len() >= 4;
    let control = |b: &u8| b.is_ascii_control() && !matches!(b, b'\t' | b'\r' | b'\x1b');
    let text = match std::str::from_utf8(line) {
        Ok(text) => text,
        // It may be cut within a character.
        Err(e) if e.error_len().is_none() => {
            std::str::from_utf8(&line[..e.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return None,
    };
    let is_text = long_enough && !line.iter().any(control);
    is_text.then(|| text.trim_end().to_owned())
}

/// Reads on to the end of the line, as far as something comes before the pipe's deadline.
pub(super) fn read_line(pipe: &mut impl Read, beginning: &mut Vec<u8>) {
    let mut byte = [0];
    while beginning.len() < KEPT && !beginning.contains(&b'\n') {
        match pipe.read(&mut byte) {
            Ok(1) => beginning.push(byte[0]),
            _ => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_told_from_messages() {
        for (bytes, text) in [
            (
                &b"Loading weights ...\nmore"[..],
                Some("Loading weights ..."),
            ),
            (b"ok\n", Some("ok")),
            ("größer".as_bytes(), Some("größer")),
            // The first half of a character is left out.
            (&"größe".as_bytes()[..5], Some("gr\u{f6}")),
            (b"\x1b[1mhi\x1b[m\r\n", Some("\u{1b}[1mhi\u{1b}[m")),
            (b"\n", Some("")),
            (b"{", None),
            (b"", None),
            (b"\x7a\0\0\0\0\0\0\0{\"type\":\"hello\"}", None),
            (b"\x14\0\0\0", None),
            (b"\xff\xfe\xfd\xfc", None),
        ] {
            assert_eq!(line(bytes).as_deref(), text, "{bytes:?}");
        }
    }

    #[test]
    fn a_line_is_read_to_its_end() {
        let mut beginning = b"Load".to_vec();
        read_line(&mut &b"ing\nmore"[..], &mut beginning);
        assert_eq!(beginning, b"Loading\n");
        read_line(&mut &b""[..], &mut beginning);
        assert_eq!(line(&beginning).as_deref(), Some("Loading"));
    }
}
