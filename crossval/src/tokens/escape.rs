//! Bytes that need not be UTF-8, as people and shells read them.

use std::fmt::Write;

/// Readable and reversible: characters that print as they are, others as in a Rust literal (`\n`, `\u{200d}`), bytes
/// that are no character as `\xF0`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '\'' | '"' => out.push(c),
                _ => out.extend(c.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            let _ = write!(out, "\\x{byte:02X}");
        }
    }
    out
}

/// For POSIX `printf`, in single quotes: every byte that is not plain ASCII in octal.
pub fn printf_argument(bytes: &[u8]) -> String {
    let mut out = String::new();
    for &byte in bytes {
        match byte {
            b' ' | b'.' | b',' | b'<' | b'>' | b'|' | b'_' => out.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            _ => {
                let _ = write!(out, "\\{byte:03o}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_shows() {
        let text = b"it's \\n\n\xe2\x82\xac\xe2\x82 \xe2\x80\x8d\0";
        assert_eq!(escape(text), r"it's \\n\n€\xE2\x82 \u{200d}\0");
    }

    #[test]
    fn printf_gives_the_bytes_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        let output = std::process::Command::new("printf")
            .arg(printf_argument(&bytes))
            .output()
            .unwrap();
        assert!(output.stdout == bytes);
        assert!(!printf_argument(&bytes).contains(['\'', '%']));
    }
}
