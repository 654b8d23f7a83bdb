//! SentencePiece: merge the neighbours whose union is the highest-scoring token, until none is one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

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

/// Appends the tokens of `text`; `space_prefix` puts a space in front of it first.
///
/// # Errors
/// A byte that no token stands for.
pub(super) fn encode(
    vocab: &Vocab,
    text: &[u8],
    space_prefix: bool,
    ids: &mut Vec<u32>,
) -> Result<(), u8> {
    let text = escape(text, space_prefix);
    let mut symbols = characters(&text);
    let mut candidates = Vec::with_capacity(symbols.len());
    for i in 1..symbols.len() as u32 {
        candidates.extend(candidate(vocab, &text, &symbols, i - 1, i));
    }
    let mut queue = BinaryHeap::from(candidates);
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
        queue.extend(candidate(vocab, &text, &symbols, prev, c.left));
        queue.extend(candidate(vocab, &text, &symbols, c.left, next));
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

/// One symbol per character, as long as its first byte says: the text need not be UTF-8.
fn characters(text: &[u8]) -> Vec<Symbol> {
    let mut symbols = Vec::with_capacity(text.len());
    let mut start = 0;
    while start < text.len() {
        let len = match text[start] {
            0x00..=0xBF => 1,
            0xC0..=0xDF => 2,
            0xE0..=0xEF => 3,
            0xF0..=0xFF => 4,
        };
        let len = len.min(text.len() - start);
        let i = symbols.len() as u32;
        symbols.push(Symbol {
            start: start as u32,
            len: len as u32,
            prev: i.wrapping_sub(1),
            next: i + 1,
        });
        start += len;
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }
    symbols
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
    if len as usize > vocab.max_text_len {
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
