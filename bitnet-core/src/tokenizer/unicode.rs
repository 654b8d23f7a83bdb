//! Characters as the reference sees them: Unicode 15.1, and a laxer UTF-8.

use std::borrow::Cow;

use unicode_normalization::UnicodeNormalization;
use unicode_properties::{GeneralCategory, GeneralCategoryGroup, UnicodeGeneralCategory};

/// What pre-tokenizers distinguish: general categories, with `White_Space` apart from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Letter,
    Number,
    Space,
    Punctuation,
    Symbol,
    /// Controls, format characters, surrogates and private use.
    Control,
    /// Marks and what Unicode 15.1 has not assigned.
    Other,
}

impl Class {
    pub fn of(code: u32) -> Class {
        let Some(c) = char::from_u32(code) else {
            return Class::Control;
        };
        match c {
            'a'..='z' | 'A'..='Z' => return Class::Letter,
            '0'..='9' => return Class::Number,
            '\t'..='\r'
            | ' '
            | '\u{85}'
            | '\u{A0}'
            | '\u{1680}'
            | '\u{2000}'..='\u{200A}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{202F}'
            | '\u{205F}'
            | '\u{3000}' => return Class::Space,
            _ => {}
        }
        match c.general_category_group() {
            GeneralCategoryGroup::Letter => Class::Letter,
            GeneralCategoryGroup::Number => Class::Number,
            GeneralCategoryGroup::Punctuation => Class::Punctuation,
            GeneralCategoryGroup::Symbol => Class::Symbol,
            GeneralCategoryGroup::Other if is_assigned(c) => Class::Control,
            _ => Class::Other,
        }
    }
}

/// Whether Unicode 15.1 knows the character; tables of later versions must leave others alone.
fn is_assigned(c: char) -> bool {
    c.general_category() != GeneralCategory::Unassigned
}

/// The character without its accents: the first of its canonical decomposition.
pub(super) fn base(code: u32) -> u32 {
    if code < 0x80 {
        return code;
    }
    match char::from_u32(code).filter(|&c| is_assigned(c)) {
        Some(c) => std::iter::once(c).nfd().next().map_or(code, u32::from),
        None => code,
    }
}

/// The lower case, of one character.
pub(super) fn lowercase(code: u32) -> u32 {
    if let Ok(ascii) = u8::try_from(code)
        && ascii.is_ascii()
    {
        return ascii.to_ascii_lowercase().into();
    }
    match char::from_u32(code).filter(|&c| is_assigned(c)) {
        Some(c) => c.to_lowercase().next().map_or(code, u32::from),
        None => code,
    }
}

/// Where and how a text is not what [`normalize`] takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Byte offset.
    pub at: usize,
}

/// The text with every character encoded in its shortest form.
///
/// Like llama.cpp, this takes overlong encodings for the characters that they stand for, and lets surrogates pass.
/// Other malformed sequences, and code points beyond U+10FFFF, it refuses.
pub(super) fn normalize(text: &[u8]) -> Result<Cow<'_, [u8]>, Malformed> {
    if std::str::from_utf8(text).is_ok() {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let (code, len) = lax_code(&text[at..]).ok_or(Malformed { at })?;
        push_code(code, &mut out);
        at += len;
    }
    Ok(Cow::Owned(out))
}

/// The first code point of a text that need not be in shortest form, and its length in bytes.
fn lax_code(text: &[u8]) -> Option<(u32, usize)> {
    let first = *text.first()?;
    let (bits, len) = match first {
        0x00..=0x7F => (first, 1),
        0xC0..=0xDF => (first & 0x1F, 2),
        0xE0..=0xEF => (first & 0x0F, 3),
        0xF0..=0xF7 => (first & 0x07, 4),
        _ => return None,
    };
    let mut code = u32::from(bits);
    for &byte in text.get(1..len)? {
        if byte & 0xC0 != 0x80 {
            return None;
        }
        code = code << 6 | u32::from(byte & 0x3F);
    }
    (code <= 0x10_FFFF).then_some((code, len))
}

/// Appends a code point, surrogates included, in UTF-8.
pub(super) fn push_code(code: u32, out: &mut Vec<u8>) {
    match char::from_u32(code) {
        Some(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        None => out.extend_from_slice(&[
            0xE0 | (code >> 12) as u8,
            0x80 | (code >> 6 & 0x3F) as u8,
            0x80 | (code & 0x3F) as u8,
        ]),
    }
}

/// The code points of a [normalized](normalize) text.
pub(super) fn codes(text: &[u8]) -> impl Iterator<Item = u32> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (code, len) = lax_code(rest)?;
        rest = &rest[len..];
        Some(code)
    })
}

/// Bytes of a code point in UTF-8.
pub(super) fn len_utf8(code: u32) -> usize {
    match code {
        0..=0x7F => 1,
        0x80..=0x7FF => 2,
        0x800..=0xFFFF => 3,
        _ => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_15_1_is_known() {
        assert_eq!(unicode_properties::UNICODE_VERSION, (15, 1, 0));
        // GARAY CAPITAL LETTER A, of Unicode 16.
        assert_eq!(
            (Class::of(0x10D50), lowercase(0x10D50)),
            (Class::Other, 0x10D50)
        );
        assert_eq!((lowercase('É'.into()), base('É'.into())), (0xE9, 0x45));
        assert_eq!(base('각'.into()), u32::from('ᄀ'));
        assert_eq!(Class::of(0xD800), Class::Control);
        assert_eq!(Class::of(0xE000), Class::Control);
        assert_eq!(Class::of(0x10FFFF), Class::Other);
        assert_eq!(Class::of(0x301), Class::Other);
    }

    #[test]
    fn malformed_text_is_refused_where_the_reference_throws() {
        assert_eq!(normalize(b"a\xC0\x80b").unwrap().as_ref(), b"a\0b");
        assert_eq!(
            normalize(b"\xE0\x81\x81\xF0\x80\x80\x80").unwrap().as_ref(),
            b"A\0"
        );
        assert_eq!(
            normalize(b"\xED\xA0\x80").unwrap().as_ref(),
            b"\xED\xA0\x80"
        );
        for (text, at) in [
            (&b"ab\x80"[..], 2),
            (b"a\xC3", 1),
            (b"\xE2\x82", 0),
            (b"\xE2(\x82", 0),
            (b"\xF4\x90\x80\x80", 0),
            (b"ok\xF8\x88\x80\x80\x80", 2),
        ] {
            assert_eq!(normalize(text), Err(Malformed { at }), "{text:?}");
        }
    }
}
