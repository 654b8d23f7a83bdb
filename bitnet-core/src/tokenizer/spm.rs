//! SentencePiece: merge the neighbours whose union is the highest-scoring token, until none is one.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use super::vocab::{SPACE, Vocab};

/// No neighbour.
const NONE: usize = usize::MAX;

struct Symbol {
    start: usize,
    /// 0 once merged into its left neighbour.
    len: usize,
    prev: usize,
    next: usize,
}

/// A possible merge; greatest is the highest score, then the leftmost.
struct Candidate {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
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
pub(super) fn encode(vocab: &Vocab, text: &str, space_prefix: bool, ids: &mut Vec<u32>) {
    let mut escaped = String::with_capacity(text.len() + text.len() / 2);
    if space_prefix {
        escaped.push_str(SPACE);
    }
    for (i, word) in text.split(' ').enumerate() {
        if i > 0 {
            escaped.push_str(SPACE);
        }
        escaped.push_str(word);
    }

    let mut symbols: Vec<Symbol> = Vec::new();
    for (i, (start, c)) in escaped.char_indices().enumerate() {
        symbols.push(Symbol {
            start,
            len: c.len_utf8(),
            prev: i.wrapping_sub(1),
            next: i + 1,
        });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = NONE;
    }

    let mut queue = BinaryHeap::new();
    for i in 1..symbols.len() {
        push(vocab, &escaped, &symbols, i - 1, i, &mut queue);
    }
    while let Some(c) = queue.pop() {
        let (left, right) = (&symbols[c.left], &symbols[c.right]);
        // Stale: one of the two has since been merged.
        if left.len == 0 || right.len == 0 || left.len + right.len != c.len {
            continue;
        }
        let (prev, next) = (left.prev, right.next);
        symbols[c.left].len = c.len;
        symbols[c.left].next = next;
        symbols[c.right].len = 0;
        if next != NONE {
            symbols[next].prev = c.left;
        }
        push(vocab, &escaped, &symbols, prev, c.left, &mut queue);
        push(vocab, &escaped, &symbols, c.left, next, &mut queue);
    }

    for s in symbols.iter().filter(|s| s.len > 0) {
        let text = &escaped.as_bytes()[s.start..s.start + s.len];
        match vocab.id(text) {
            Some(id) => ids.push(id),
            None => ids.extend(text.iter().filter_map(|&b| vocab.byte(b))),
        }
    }
}

fn push(
    vocab: &Vocab,
    text: &str,
    symbols: &[Symbol],
    left: usize,
    right: usize,
    queue: &mut BinaryHeap<Candidate>,
) {
    if left == NONE || right == NONE {
        return;
    }
    let (start, len) = (symbols[left].start, symbols[left].len + symbols[right].len);
    if len > vocab.max_text_len {
        return;
    }
    if let Some(id) = vocab.id(&text.as_bytes()[start..start + len]) {
        queue.push(Candidate {
            // -0.0 and 0.0 are one score.
            score: vocab.score(id) + 0.0,
            left,
            right,
            len,
        });
    }
}
