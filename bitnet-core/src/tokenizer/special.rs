//! Cuts special tokens out of the raw text.

use std::ops::Range;

use memchr::memmem;

use super::vocab::Vocab;

/// A stretch of the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fragment {
    Special(u32),
    Text(Range<usize>),
}

/// The text in order, with special tokens recognised: longer ones win, among equals as
/// [`introsort`](super::introsort) orders them, and each from left to right. Control tokens count only if `parse_control`; user-defined ones always do.
pub(super) fn partition(vocab: &Vocab, text: &[u8], parse_control: bool) -> Vec<Fragment> {
    let mut fragments = Vec::new();
    if !text.is_empty() {
        fragments.push(Fragment::Text(0..text.len()));
    }
    for special in &vocab.special {
        if special.control && !parse_control {
            continue;
        }
        let finder = memmem::Finder::new(&special.text);
        if finder.find(text).is_none() {
            continue;
        }
        let mut cut = Vec::with_capacity(fragments.len());
        for fragment in fragments {
            let Fragment::Text(mut rest) = fragment else {
                cut.push(fragment);
                continue;
            };
            while let Some(at) = finder.find(&text[rest.clone()]) {
                let start = rest.start + at;
                let (mut left, mut right) =
                    (rest.start..start, start + special.text.len()..rest.end);
                if special.strip_left {
                    left.end -= spaces(text[left.clone()].iter().rev());
                }
                if special.strip_right {
                    right.start += spaces(text[right.clone()].iter());
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

/// How many bytes C's `isspace` takes in the "C" locale.
fn spaces<'a>(bytes: impl Iterator<Item = &'a u8>) -> usize {
    bytes
        .take_while(|b| matches!(b, b'\t'..=b'\r' | b' '))
        .count()
}
