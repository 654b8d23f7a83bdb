//! Cuts special tokens out of the raw text.

use super::vocab::Vocab;

/// A stretch of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'a> {
    Special(u32),
    Text(&'a str),
}

/// The text in order, with special tokens recognised: longer ones win, among equals the lower ID, and each
/// from left to right. Control tokens count only if `parse_control`; user-defined ones always do.
pub(super) fn partition<'a>(
    vocab: &Vocab,
    text: &'a str,
    parse_control: bool,
) -> Vec<Fragment<'a>> {
    let mut fragments = Vec::new();
    if !text.is_empty() {
        fragments.push(Fragment::Text(text));
    }
    for special in &vocab.special {
        if special.control && !parse_control {
            continue;
        }
        // A token that is not UTF-8 cannot occur in text that is.
        let Ok(needle) = std::str::from_utf8(&special.text) else {
            continue;
        };
        if !text.contains(needle) {
            continue;
        }
        let mut cut = Vec::with_capacity(fragments.len());
        for fragment in fragments {
            let Fragment::Text(mut rest) = fragment else {
                cut.push(fragment);
                continue;
            };
            while let Some(at) = rest.find(needle) {
                let (mut left, mut right) = (&rest[..at], &rest[at + needle.len()..]);
                if special.strip_left {
                    left = left.trim_end_matches(is_space);
                }
                if special.strip_right {
                    right = right.trim_start_matches(is_space);
                }
                if !left.is_empty() {
                    cut.push(Fragment::Text(left));
                }
                cut.push(Fragment::Special(special.id));
                rest = right;
            }
            if !rest.is_empty() {
                cut.push(Fragment::Text(rest));
            }
        }
        fragments = cut;
    }
    fragments
}

/// C's `isspace` in the "C" locale; `char::is_ascii_whitespace` lacks the vertical tab.
fn is_space(c: char) -> bool {
    matches!(c, '\t'..='\r' | ' ')
}
