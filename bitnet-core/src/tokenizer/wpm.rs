//! WordPiece: words without accents and capitals, each cut into the longest tokens from the left.

use super::unicode::{self, Class};
use super::vocab::{SPACE, Vocab};

/// Appends the tokens of a [normalized](unicode::normalize) text; `unknown` stands for a word that no tokens make up.
pub(super) fn encode(vocab: &Vocab, text: &[u8], unknown: u32, ids: &mut Vec<u32>) {
    let mut word = Vec::new();
    for code in unicode::codes(text).map(unicode::base) {
        let class = Class::of(code);
        if class == Class::Space {
            finish(vocab, &mut word, unknown, ids);
            continue;
        }
        if code == 0 || code == 0xFFFD || class == Class::Control {
            continue;
        }
        let alone = class == Class::Punctuation
            || (class == Class::Symbol && code < 0x7F)
            || is_chinese(code);
        if alone {
            finish(vocab, &mut word, unknown, ids);
        }
        if word.is_empty() {
            word.extend_from_slice(SPACE.as_bytes());
        }
        unicode::push_code(unicode::lowercase(code), &mut word);
        if alone {
            finish(vocab, &mut word, unknown, ids);
        }
    }
    finish(vocab, &mut word, unknown, ids);
}

/// Appends the tokens of a word, which begins with [`SPACE`], and empties it.
fn finish(vocab: &Vocab, word: &mut Vec<u8>, unknown: u32, ids: &mut Vec<u32>) {
    let before = ids.len();
    let mut rest = word.as_slice();
    while !rest.is_empty() {
        let found = vocab
            .text_lens
            .iter()
            .find_map(|&len| Some((vocab.id(rest.get(..len)?)?, len)));
        let Some((id, len)) = found else {
            ids.truncate(before);
            ids.push(unknown);
            break;
        };
        ids.push(id);
        rest = &rest[len..];
    }
    word.clear();
}

/// Ideographs that are words of their own, as in BERT's tokenizer.
fn is_chinese(code: u32) -> bool {
    matches!(
        code,
        0x4E00..=0x9FFF
            | 0x3400..=0x4DBF
            | 0x2_0000..=0x2_A6DF
            | 0x2_A700..=0x2_B73F
            | 0x2_B740..=0x2_B81F
            // Hugging Face's tokenizer begins here too, not at 2B820.
            | 0x2_B920..=0x2_CEAF
            | 0xF900..=0xFAFF
            | 0x2_F800..=0x2_FA1F
    )
}
