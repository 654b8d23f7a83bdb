//! Files that people write by hand.

use std::io;
use std::path::Path;

/// The text of a file, or what is wrong with it, to follow its name.
///
/// # Errors
/// In words: what the system says, or which byte is no UTF-8.
pub fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|e| in_words(&e))?;
    from_utf8(bytes)
}

/// Bytes as text, or what is wrong with them.
///
/// # Errors
/// In words: which byte is no UTF-8, and what the text probably is.
pub fn from_utf8(bytes: Vec<u8>) -> Result<String, String> {
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        let bytes = e.as_bytes();
        let line = bytes[..at].iter().filter(|&&b| b == b'\n').count() + 1;
        let byte = bytes.get(at).copied().unwrap_or_default();
        let what = format!("not UTF-8: byte 0x{byte:02x} at offset {at}, in line {line}");
        let encoding = match bytes {
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => Some("UTF-16"),
            bytes if bytes.contains(&0) => None,
            _ => Some("LATIN1"),
        };
        match encoding {
            Some(encoding) => format!("{what}; `iconv -f {encoding} -t UTF-8` may convert it"),
            None => format!("{what}; it is no text"),
        }
    })
}

/// What the system says, without its number and what stands behind that.
pub fn in_words(e: &io::Error) -> String {
    let what = e.to_string();
    let words = what.split_once(" (os error ").map(|(words, _)| words);
    words.unwrap_or(&what).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_that_is_no_text_is_named() {
        for (bytes, says) in [
            (
                &b"Il prit un\ncaf\xe9 noir"[..],
                "not UTF-8: byte 0xe9 at offset 14, in line 2; `iconv -f LATIN1 -t UTF-8` may convert it",
            ),
            (
                b"\xff\xfeO\0n\0",
                "not UTF-8: byte 0xff at offset 0, in line 1; `iconv -f UTF-16 -t UTF-8` may convert it",
            ),
            (
                b"GGUF\x03\0\0\0\xb6",
                "not UTF-8: byte 0xb6 at offset 8, in line 1; it is no text",
            ),
        ] {
            assert_eq!(from_utf8(bytes.to_vec()).unwrap_err(), says);
        }
        assert_eq!(from_utf8("café".into()).unwrap(), "café");
    }

    #[test]
    fn the_system_says_it_in_words() {
        let error = read(Path::new("/nonexistent")).unwrap_err();
        assert_eq!(error, "No such file or directory");
    }
}
