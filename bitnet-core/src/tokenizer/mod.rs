//! Tokenizers from GGUF metadata: SentencePiece's merging ("llama", SPM), byte-level BPE ("gpt2") and WordPiece
//! ("bert", WPM).
//!
//! Token for token those of llama.cpp as BitNet.cpp pins it (`src/llama-vocab.cpp`, `llm_load_vocab`),
//! defaults for missing keys included. One thing there hangs on the order of a hash table: which of several normal
//! tokens that look like the same marker (`<PRE>` and `<fim-prefix>`) becomes the control token. What is not
//! implemented ("t5", "rwkv") is refused by name when the file is loaded.

mod bpe;
mod byte_level;
mod decode;
mod introsort;
mod pretokenize;
mod special;
mod spm;
mod stage;
#[cfg(test)]
mod tests;
mod unicode;
mod vocab;
mod wpm;

use crate::Error;
use crate::gguf::Metadata;
use bpe::Bpe;
pub use decode::{DecodeOptions, DecodeStream};
use pretokenize::Pretokenizer;
use special::Fragment;
use spm::Spm;
use unicode::Malformed;
use vocab::{Family, Vocab};

/// Largest text, bytes: positions are 32 bits, and SentencePiece's spaces three bytes long.
const MAX_TEXT: usize = 1 << 30;

/// A vocabulary and the algorithm that goes with it.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
}

#[derive(Debug)]
enum Model {
    Spm(Spm),
    Bpe(Box<Bpe>, Pretokenizer),
    Wpm(Wordpiece),
}

/// The special tokens of WordPiece, which always stand around a text.
#[derive(Clone, Copy, Debug)]
struct Wordpiece {
    cls: u32,
    sep: u32,
    unknown: u32,
}

/// How [`Tokenizer::encode`] treats special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Adds BOS and EOS where the file asks for them.
    pub add_special: bool,
    /// Reads control tokens that are spelt out in the text (`<|eot_id|>`) as such, not as text.
    pub parse_special: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that a file's metadata describes.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), with its name, for a tokenizer or pre-tokenizer that
    /// is not implemented; [`BadFile`](crate::ErrorKind::BadFile) for a file without one, missing keys and a vocabulary
    /// that contradicts itself.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, Error> {
        let Some(name) = metadata.tokenizer()? else {
            let what = "the model has no tokenizer (\"tokenizer.ggml.model\")";
            return Err(Error::bad_file(metadata.path(), what));
        };
        match name {
            "llama" => {
                let vocab = Vocab::load(metadata, Family::Spm)?;
                let spm = Spm::new(&vocab);
                Ok(Tokenizer {
                    vocab,
                    model: Model::Spm(spm),
                })
            }
            "gpt2" => {
                // No name means the same as "default" to llama.cpp, which warns of it.
                let name = metadata.optional::<&str>("tokenizer.ggml.pre")?;
                let name = name.filter(|name| !name.is_empty()).unwrap_or("default");
                let Some(pre) = Pretokenizer::by_name(name) else {
                    let what = format!("pre-tokenizer {name:?} is not supported");
                    return Err(Error::unsupported(metadata.path(), what));
                };
                let vocab = Vocab::load(metadata, Family::Bpe(&pre))?;
                let merges = metadata.required("tokenizer.ggml.merges")?;
                let bpe = Box::new(Bpe::new(&vocab, merges, pre.ignore_merges));
                Ok(Tokenizer {
                    vocab,
                    model: Model::Bpe(bpe, pre),
                })
            }
            "bert" => {
                let vocab = Vocab::load(metadata, Family::Wpm)?;
                let required = |id: Option<u32>, key: &str, default: u32| {
                    id.ok_or_else(|| {
                        let what = format!(
                            "{key:?} is missing, and its default, {default}, is outside the vocabulary"
                        );
                        Error::bad_file(metadata.path(), what)
                    })
                };
                let special = |key: &str, default: u32| {
                    let id = vocab.special_id(metadata, key, Some(default))?;
                    required(id, key, default)
                };
                let wpm = Wordpiece {
                    cls: special("tokenizer.ggml.cls_token_id", 101)?,
                    sep: special("tokenizer.ggml.seperator_token_id", 102)?,
                    unknown: required(vocab.unk, "tokenizer.ggml.unknown_token_id", 100)?,
                };
                Ok(Tokenizer {
                    vocab,
                    model: Model::Wpm(wpm),
                })
            }
            other => {
                let what = format!(
                    "tokenizer {other:?} is not supported (\"llama\", \"gpt2\" and \"bert\" are)"
                );
                Err(Error::unsupported(metadata.path(), what))
            }
        }
    }

    /// The token IDs of a text.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) where llama.cpp throws: text that is not UTF-8, but for SPM, which takes
    /// any bytes; and bytes that an SPM vocabulary has no token for.
    pub fn encode(
        &self,
        text: impl AsRef<[u8]>,
        options: EncodeOptions,
    ) -> Result<Vec<u32>, Error> {
        let text = text.as_ref();
        if text.len() > MAX_TEXT {
            let what = format!("a text of {} bytes, {MAX_TEXT} is the limit", text.len());
            return Err(Error::usage(what));
        }
        let mut ids = Vec::new();
        if options.add_special {
            ids.extend(self.first());
        }
        let mut after_special = true;
        for fragment in special::partition(&self.vocab, text, options.parse_special) {
            match fragment {
                Fragment::Special(id) => {
                    ids.push(id);
                    after_special = true;
                }
                Fragment::Text(range) => {
                    let start = range.start;
                    self.encode_fragment(&text[range], start, after_special, &mut ids)?;
                    after_special = false;
                }
            }
        }
        if options.add_special {
            ids.extend(self.last());
        }
        Ok(ids)
    }

    /// `start`: byte offset of the fragment in the text.
    fn encode_fragment(
        &self,
        text: &[u8],
        start: usize,
        after_special: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), Error> {
        let characters = || {
            unicode::normalize(text).map_err(|Malformed { at }| {
                let at = start + at;
                Error::usage(format!("the text is not UTF-8 at byte {at}"))
            })
        };
        match &self.model {
            Model::Spm(spm) => {
                let space = self.vocab.add_space_prefix && after_special;
                spm.encode(&self.vocab, text, space, ids).map_err(|byte| {
                    let what = format!("the vocabulary has no token for the byte 0x{byte:02X}");
                    Error::usage(what)
                })?;
            }
            Model::Bpe(bpe, pre) => bpe.encode(&self.vocab, pre, &characters()?, ids),
            Model::Wpm(wpm) => wpm::encode(&self.vocab, &characters()?, wpm.unknown, ids),
        }
        Ok(())
    }

    /// What is put before a text.
    fn first(&self) -> Option<u32> {
        match &self.model {
            Model::Wpm(wpm) => Some(wpm.cls),
            _ => self.vocab.bos.filter(|_| self.vocab.add_bos),
        }
    }

    /// What is put behind a text.
    fn last(&self) -> Option<u32> {
        match &self.model {
            Model::Wpm(wpm) => Some(wpm.sep),
            _ => self.vocab.eos.filter(|_| self.vocab.add_eos),
        }
    }

    /// What a token adds to a text that others precede; for a control token its name. `None` if the ID is
    /// outside the vocabulary.
    pub fn piece(&self, id: u32) -> Option<&[u8]> {
        self.vocab.pieces.get(id as usize)
    }

    /// Whether the token is a control or unknown token, which has a name but no text.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.is_control(id)
    }

    /// Number of tokens.
    pub fn n_vocab(&self) -> usize {
        self.vocab.len()
    }

    /// Beginning of sequence.
    pub fn bos(&self) -> Option<u32> {
        self.vocab.bos
    }

    /// End of sequence.
    pub fn eos(&self) -> Option<u32> {
        self.vocab.eos
    }

    /// End of turn.
    pub fn eot(&self) -> Option<u32> {
        self.vocab.eot
    }

    /// Whether [`EncodeOptions::add_special`] puts BOS in front.
    pub fn adds_bos(&self) -> bool {
        self.vocab.add_bos
    }

    /// Whether generation ends with this token: EOS, EOT, and their like.
    pub fn is_eog(&self, id: u32) -> bool {
        self.vocab.eog.contains(&id)
    }
}
