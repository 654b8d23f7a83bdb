//! The pieces of a SentencePiece model (`sentencepiece_model.proto`): field 1 of the message, each with its text (1), its
//! score (2) and its type (3), whose numbers are llama.cpp's.

use std::path::Path;

use bitnet_model::Error;

use super::{NORMAL, Token};

/// # Errors
/// It cannot be read, or is no such message.
pub(super) fn read(path: &Path) -> Result<Vec<Token>, Error> {
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, e))?;
    let bad = || Error::bad_file(path, "no SentencePiece model");
    let mut tokens = Vec::new();
    let mut message = Message(&bytes);
    while !message.0.is_empty() {
        if let (1, Field::Bytes(piece)) = message.field().ok_or_else(bad)? {
            tokens.push(token(piece).ok_or_else(bad)?);
        }
    }
    match tokens.is_empty() {
        true => Err(bad()),
        false => Ok(tokens),
    }
}

fn token(piece: &[u8]) -> Option<Token> {
    let mut token = Token {
        kind: NORMAL,
        ..Token::default()
    };
    let mut message = Message(piece);
    while !message.0.is_empty() {
        match message.field()? {
            (1, Field::Bytes(text)) => token.text = String::from_utf8(text.to_vec()).ok()?,
            (2, Field::Fixed32(score)) => token.score = f32::from_le_bytes(score),
            (3, Field::Varint(kind)) => token.kind = kind.try_into().ok()?,
            _ => (),
        }
    }
    Some(token)
}

/// What is left of a message of Protocol Buffers.
struct Message<'a>(&'a [u8]);

enum Field<'a> {
    Varint(u64),
    Fixed32([u8; 4]),
    Bytes(&'a [u8]),
    Fixed64,
}

impl<'a> Message<'a> {
    /// The next field, with its number.
    fn field(&mut self) -> Option<(u64, Field<'a>)> {
        let tag = self.varint()?;
        let field = match tag & 7 {
            0 => Field::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Field::Fixed64
            }
            2 => {
                let n = usize::try_from(self.varint()?).ok()?;
                Field::Bytes(self.take(n)?)
            }
            5 => Field::Fixed32(self.take(4)?.try_into().ok()?),
            _ => return None,
        };
        Some((tag >> 3, field))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.take(1)?.first_chunk()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// A message with these pieces, and fields of other kinds between them.
    pub(in super::super) fn model(pieces: &[(&str, f32, u8)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (text, score, kind) in pieces {
            let mut piece = vec![0x0a, text.len() as u8];
            piece.extend(text.as_bytes());
            piece.push(0x15);
            piece.extend(score.to_le_bytes());
            piece.extend([0x18, *kind]);
            out.extend([0x0a, piece.len() as u8]);
            out.extend(piece);
            // trainer_spec
            out.extend([0x12, 2, 0xff, 0xff]);
        }
        out
    }

    #[test]
    fn pieces_are_read() {
        let pieces = [
            ("<unk>", 0.0, 2),
            ("\u{2581}the", -3.5, 1),
            ("<0x0A>", 0.0, 6),
        ];
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&model(&pieces)).unwrap();
        let tokens = read(file.path()).unwrap();
        let read: Vec<_> = tokens
            .iter()
            .map(|t| (t.text.as_str(), t.score, t.kind as u8))
            .collect();
        assert_eq!(read, pieces);
        file.write_all(&[0x0a, 200]).unwrap();
        assert!(super::read(file.path()).is_err());
    }
}
