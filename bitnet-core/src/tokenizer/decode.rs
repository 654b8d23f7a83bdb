//! From token IDs back to text.

use super::Tokenizer;

/// How [`Tokenizer::decode`] treats special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leaves out the BOS and EOS that [`EncodeOptions::add_special`](super::EncodeOptions::add_special) adds.
    pub remove_special: bool,
    /// Writes control tokens out by their names.
    pub unparse_special: bool,
}

impl Tokenizer {
    /// The text of token IDs, as `llama_detokenize` writes it: their pieces, less one space in front where encoding
    /// puts one there, and cleaned up where the vocabulary asks for that. It need not be UTF-8.
    /// IDs outside the vocabulary have no text.
    pub fn decode(&self, ids: &[u32], options: DecodeOptions) -> Vec<u8> {
        let mut ids = ids;
        let mut strip = self.vocab.add_space_prefix;
        if options.remove_special {
            if let (true, Some((&first, rest))) = (self.vocab.add_bos, ids.split_first())
                && Some(first) == self.vocab.bos
            {
                (ids, strip) = (rest, false);
            }
            if let (true, Some((&last, rest))) = (self.vocab.add_eos, ids.split_last())
                && Some(last) == self.vocab.eos
            {
                ids = rest;
            }
        }
        let mut text = Vec::new();
        for &id in ids {
            let piece = self.visible_piece(id, options.unparse_special);
            let stripped = piece.strip_prefix(b" ").filter(|_| strip);
            text.extend_from_slice(stripped.unwrap_or(piece));
            // The first token takes the chance with it, even if it writes nothing.
            strip = false;
        }
        if self.vocab.clean_spaces {
            text = clean_spaces(text);
        }
        text
    }

    /// Decodes token by token, for text that is shown while it is generated.
    pub fn stream(&self, unparse_special: bool) -> DecodeStream<'_> {
        DecodeStream {
            tokenizer: self,
            unparse_special,
            pending: Vec::new(),
        }
    }

    fn visible_piece(&self, id: u32, unparse_special: bool) -> &[u8] {
        match unparse_special || !self.is_control(id) {
            true => self.piece(id).unwrap_or_default(),
            false => b"",
        }
    }
}

/// Turns tokens into whole characters: the bytes of one that is spread over several tokens wait for the last.
///
/// The text is that of the pieces as they are. Unlike [`Tokenizer::decode`] it keeps a space in front and cleans
/// nothing up, since that would need the tokens to come.
#[derive(Clone, Debug)]
pub struct DecodeStream<'a> {
    tokenizer: &'a Tokenizer,
    unparse_special: bool,
    /// The beginning of a character.
    pending: Vec<u8>,
}

impl DecodeStream<'_> {
    /// What the token adds to the text. Bytes that can be part of no character become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        let piece = self.tokenizer.visible_piece(id, self.unparse_special);
        self.pending.extend_from_slice(piece);
        let complete = match self.pending.utf8_chunks().last() {
            Some(last) if is_beginning(last.invalid()) => self.pending.len() - last.invalid().len(),
            _ => self.pending.len(),
        };
        let text = String::from_utf8_lossy(&self.pending[..complete]).into_owned();
        self.pending.drain(..complete);
        text
    }

    /// Ends the text; a character that is still incomplete becomes U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }
}

/// Whether the bytes, which are no character, could become one if more followed.
fn is_beginning(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|e| e.error_len().is_none())
}

/// Takes out spaces before `?`, `!`, `.`, `,`, around a lone apostrophe, and before the contractions 's, 'm, 're and
/// 've, in three passes: Hugging Face's `clean_up_tokenization_spaces` as `llama_detokenize` does it.
fn clean_spaces(text: Vec<u8>) -> Vec<u8> {
    let text = drop_spaces(&text, |rest| match rest {
        [b'?' | b'!' | b'.' | b',', ..] => Some(1),
        _ => None,
    });
    // The space behind goes, too.
    let text = drop_spaces(&text, |rest| rest.starts_with(b"' ").then_some(2));
    drop_spaces(&text, |rest| match rest {
        [b'\'', b's' | b'm', ..] => Some(1),
        [b'\'', b'r' | b'v', b'e', ..] => Some(1),
        _ => None,
    })
}

/// Takes out each space that a match follows; of the match, of so many bytes, only the first is kept.
fn drop_spaces(text: &[u8], matches: impl Fn(&[u8]) -> Option<usize>) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    let mut after_space = false;
    while at < text.len() {
        let len = matches(&text[at..]).filter(|_| after_space);
        if len.is_some() {
            out.pop();
        }
        out.push(text[at]);
        // A space that a match has swallowed is none to the next.
        after_space = text[at] == b' ';
        at += len.unwrap_or(1);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_cleaned_up() {
        for (text, want) in [
            ("a ? b ! c . d , e", "a? b! c. d, e"),
            (" . .", ".."),
            ("a ' b", "a'b"),
            ("a ' ' b", "a'' b"),
            ("a '", "a '"),
            (
                "it 's I 'm we 're I 've he 'd we 'll don 't",
                "it's I'm we're I've he 'd we 'll don 't",
            ),
            ("x 'r", "x 'r"),
            ("", ""),
            (" ", " "),
        ] {
            let got = clean_spaces(text.as_bytes().to_vec());
            assert_eq!(String::from_utf8_lossy(&got), want, "{text:?}");
        }
    }
}
