//! Byte-level byte-pair encoding: words of a pre-tokenizer, bytes written as printable characters, neighbours
//! merged in the order of the merge list.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hashbrown::HashMap;

use super::byte_level::byte_to_char;
use super::pretokenize::Pretokenizer;
use super::vocab::{Vocab, until_nul};
use crate::gguf::StringArray;

/// No neighbour; also the ID of a text that occurs in no merge and is no token.
const NONE: u32 = u32::MAX;

/// The merge table over interned texts: tokens keep their IDs, other texts get those above.
#[derive(Debug)]
pub(super) struct Bpe {
    /// (left, right) -> (rank, merged)
    merges: HashMap<(u32, u32), (u32, u32)>,
    /// The text of each byte, interned.
    bytes: [u32; 256],
    ignore_merges: bool,
}

#[derive(Clone, Copy)]
struct Symbol {
    /// The interned text, or `NONE`.
    id: u32,
    start: u32,
    /// In bytes of the word, 0 once merged into the left neighbour.
    len: u32,
    prev: u32,
    next: u32,
}

/// A possible merge; the least is the lowest rank, then the leftmost.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: u32,
    right: u32,
    len: u32,
    merged: u32,
}

impl Bpe {
    pub fn new(vocab: &Vocab, merges: &StringArray, ignore_merges: bool) -> Bpe {
        let mut extra: HashMap<Box<[u8]>, u32> = HashMap::new();
        let mut intern = |text: &[u8]| {
            vocab.id(text).unwrap_or_else(|| {
                let next = (vocab.len() + extra.len()) as u32;
                *extra.entry(text.into()).or_insert(next)
            })
        };
        let mut table = HashMap::with_capacity(merges.len());
        let mut merged = Vec::new();
        for (rank, merge) in merges.iter().map(until_nul).enumerate() {
            // The separator is the first space behind the first character.
            let Some(at) = merge.iter().skip(1).position(|&b| b == b' ') else {
                continue;
            };
            let (left, right) = (&merge[..at + 1], &merge[at + 2..]);
            merged.clear();
            merged.extend_from_slice(left);
            merged.extend_from_slice(right);
            let pair = (intern(left), intern(right));
            let merged = intern(&merged);
            table.entry(pair).or_insert((rank as u32, merged));
        }
        let mut bytes = [NONE; 256];
        for byte in 0..=255u8 {
            let mut buffer = [0; 4];
            let text = byte_to_char(byte).encode_utf8(&mut buffer).as_bytes();
            bytes[usize::from(byte)] = vocab
                .id(text)
                .or_else(|| extra.get(text).copied())
                .unwrap_or(NONE);
        }
        Bpe {
            merges: table,
            bytes,
            ignore_merges,
        }
    }

    /// Appends the tokens of a [normalized](super::unicode::normalize) text.
    pub fn encode(&self, vocab: &Vocab, pre: &Pretokenizer, text: &[u8], ids: &mut Vec<u32>) {
        let mut encoded = String::new();
        let mut scratch = Scratch::default();
        for word in pre.split(text) {
            if self.ignore_merges {
                encoded.clear();
                encoded.extend(word.iter().map(|&b| byte_to_char(b)));
                if let Some(id) = vocab.id(encoded.as_bytes()) {
                    ids.push(id);
                    continue;
                }
            }
            self.encode_word(vocab, word, &mut scratch, ids);
        }
    }

    fn encode_word(&self, vocab: &Vocab, word: &[u8], scratch: &mut Scratch, ids: &mut Vec<u32>) {
        let Scratch { symbols, queue } = scratch;
        symbols.clear();
        queue.clear();
        for (i, &byte) in word.iter().enumerate() {
            let i = i as u32;
            symbols.push(Symbol {
                id: self.bytes[usize::from(byte)],
                start: i,
                len: 1,
                prev: i.wrapping_sub(1),
                next: i + 1,
            });
        }
        if let Some(last) = symbols.last_mut() {
            last.next = NONE;
        }
        for i in 1..symbols.len() as u32 {
            self.push(symbols, i - 1, i, queue);
        }
        while let Some(Reverse(c)) = queue.pop() {
            let (left, right) = (symbols[c.left as usize], symbols[c.right as usize]);
            // Stale: one of the two has since been merged.
            if left.len == 0 || right.len == 0 || left.len + right.len != c.len {
                continue;
            }
            let merged = &mut symbols[c.left as usize];
            merged.id = c.merged;
            merged.len = c.len;
            merged.next = right.next;
            symbols[c.right as usize].len = 0;
            if right.next != NONE {
                symbols[right.next as usize].prev = c.left;
            }
            self.push(symbols, left.prev, c.left, queue);
            self.push(symbols, c.left, right.next, queue);
        }
        for s in symbols.iter().filter(|s| s.len > 0) {
            if (s.id as usize) < vocab.len() {
                ids.push(s.id);
                continue;
            }
            // No token, although merged: llama.cpp falls back to tokens of the single bytes of its text.
            let bytes = &word[s.start as usize..(s.start + s.len) as usize];
            let mut buffer = [0; 4];
            for c in bytes.iter().map(|&b| byte_to_char(b)) {
                let text = c.encode_utf8(&mut buffer).as_bytes();
                ids.extend(text.iter().filter_map(|&b| vocab.id(&[b])));
            }
        }
    }

    fn push(
        &self,
        symbols: &[Symbol],
        left: u32,
        right: u32,
        queue: &mut BinaryHeap<Reverse<Candidate>>,
    ) {
        if left == NONE || right == NONE {
            return;
        }
        let (l, r) = (symbols[left as usize], symbols[right as usize]);
        if let Some(&(rank, merged)) = self.merges.get(&(l.id, r.id)) {
            queue.push(Reverse(Candidate {
                rank,
                left,
                right,
                len: l.len + r.len,
                merged,
            }));
        }
    }
}

#[derive(Default)]
struct Scratch {
    symbols: Vec<Symbol>,
    queue: BinaryHeap<Reverse<Candidate>>,
}
