//! SentencePiece: merge the neighbours whose union is the highest-scoring token, until none is one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use hashbrown::HashSet;

use super::vocab::{SPACE, Vocab};

/// No neighbour.
const NONE: u32 = u32::MAX;

struct Symbol {
    start: u32,
    /// 0 once merged into its left neighbour.
    len: u32,
    prev: u32,
    next: u32,
}

/// A possible merge; greatest is the highest score, then the leftmost.
struct Candidate {
    score: f32,
    left: u32,
    right: u32,
    len: u32,
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        let by_score = self.score.total_cmp(&other.score);
        by_score.then_with(|| other.left.cmp(&self.left))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Candidate {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Candidate {}

/// Which characters stand side by side in any token.
///
/// Between two that never do, nothing merges, so that a text falls into short stretches that have nothing to do with
/// each other: mostly words, since tokens have their space in front.
#[derive(Debug)]
pub(super) struct Spm {
    neighbours: HashSet<(u32, u32)>,
}

impl Spm {
    pub fn new(vocab: &Vocab) -> Spm {
        let mut neighbours = HashSet::new();
        for text in vocab.texts() {
            let mut before = None;
            for character in characters(text) {
                let character = code(character);
                neighbours.extend(before.map(|before| (before, character)));
                before = Some(character);
            }
        }
        Spm { neighbours }
    }

    /// Appends the tokens of `text`; `space_prefix` puts a space in front of it first.
    ///
    /// # Errors
    /// A byte that no token stands for.
    pub fn encode(
        &self,
        vocab: &Vocab,
        text: &[u8],
        space_prefix: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), u8> {
        let text = escape(text, space_prefix);
        let mut scratch = Scratch::default();
        let mut start = 0;
        let mut end = 0;
        let mut before = None;
        for character in characters(&text) {
            let behind = code(character);
            if before.is_some_and(|before| !self.neighbours.contains(&(before, behind))) {
                encode_stretch(vocab, &text[start..end], &mut scratch, ids)?;
                start = end;
            }
            end += character.len();
            before = Some(behind);
        }
        encode_stretch(vocab, &text[start..], &mut scratch, ids)
    }
}

/// Buffers that are used again.
#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Candidate>,
}

fn encode_stretch(
    vocab: &Vocab,
    text: &[u8],
    scratch: &mut Scratch,
    ids: &mut Vec<u32>,
) -> Result<(), u8> {
    let Scratch { symbols, queue } = scratch;
    symbols.clear();
    let mut start = 0;
    for (i, character) in (0..).zip(characters(text)) {
        symbols.push(Symbol {
            start,
            len: character.len() as u32,
            prev: u32::wrapping_sub(i, 1),
            next: i + 1,
        });
        start += character.len() as u32;
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    for i in 1..symbols.len() as u32 {
        queue.extend(candidate(vocab, text, symbols, i - 1, i));
    }
    while let Some(c) = queue.pop() {
        let (left, right) = (&symbols[c.left as usize], &symbols[c.right as usize]);
        // Stale: one of the two has since been merged.
        if left.len == 0 || right.len == 0 || left.len + right.len != c.len {
            continue;
        }
        let (prev, next) = (left.prev, right.next);
        symbols[c.right as usize].len = 0;
        let merged = &mut symbols[c.left as usize];
        merged.len = c.len;
        merged.next = next;
        if next != NONE {
            symbols[next as usize].prev = c.left;
        }
        queue.extend(candidate(vocab, text, symbols, prev, c.left));
        queue.extend(candidate(vocab, text, symbols, c.left, next));
    }

    for s in symbols.iter().filter(|s| s.len > 0) {
        let text = &text[s.start as usize..][..s.len as usize];
        match vocab.id(text) {
            Some(id) => ids.push(id),
            None => {
                for &byte in text {
                    ids.push(vocab.byte(byte).ok_or(byte)?);
                }
            }
        }
    }
    Ok(())
}

/// The text with [`SPACE`] for each space.
fn escape(text: &[u8], space_prefix: bool) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len() + text.len() / 2);
    if space_prefix {
        escaped.extend_from_slice(SPACE.as_bytes());
    }
    for (i, word) in text.split(|&b| b == b' ').enumerate() {
        if i > 0 {
            escaped.extend_from_slice(SPACE.as_bytes());
        }
        escaped.extend_from_slice(word);
    }
    escaped
}

/// The characters, each as long as its first byte says: the text need not be UTF-8.
fn characters(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let len = match rest.first()? {
            0x00..=0xBF => 1,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
        };
        let character;
        (character, rest) = rest.split_at(len.min(rest.len()));
        Some(character)
    })
}

/// The bytes of a character as a number; its first byte gives its length away.
fn code(character: &[u8]) -> u32 {
    let mut bytes = [0; 4];
    bytes[..character.len()].copy_from_slice(character);
    u32::from_be_bytes(bytes)
}

/// The merge of two neighbours, if it is a token.
fn candidate(
    vocab: &Vocab,
    text: &[u8],
    symbols: &[Symbol],
    left: u32,
    right: u32,
) -> Option<Candidate> {
    if left == NONE || right == NONE {
        return None;
    }
    let Symbol { start, len, .. } = symbols[left as usize];
    let len = len + symbols[right as usize].len;
    if len as usize > vocab.max_text_len() {
        return None;
    }
    let id = vocab.id(&text[start as usize..][..len as usize])?;
    Some(Candidate {
        // -0.0 and 0.0 are one score.
        score: vocab.score(id) + 0.0,
        left,
        right,
        len,
    })
}
