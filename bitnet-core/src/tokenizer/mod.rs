//! Tokenizers from GGUF metadata: SentencePiece unigram merging ("llama") and byte-level BPE ("gpt2").
//!
//! Token for token those of llama.cpp as BitNet.cpp pins it (`src/llama-vocab.cpp`, `llm_load_vocab`),
//! defaults for missing keys included. What is not implemented is refused by name when the file is loaded.

mod bpe;
mod pretokenize;
mod special;
mod spm;
#[cfg(test)]
mod tests;
mod vocab;

use crate::error::Error;
use crate::gguf::Metadata;
use bpe::Bpe;
use pretokenize::Pretokenizer;
use special::Fragment;
use vocab::{Family, Vocab};

/// A vocabulary and the algorithm that goes with it.
#[derive(Debug)]
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
}

#[derive(Debug)]
enum Model {
    Spm,
    Bpe(Box<Bpe>, Pretokenizer),
}

/// How [`Tokenizer::encode`] treats special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Adds BOS and EOS where the file asks for them.
    pub add_special: bool,
    /// Reads control tokens that are spelt out in the text (`<|eot_id|>`) as such, not as text.
    pub parse_special: bool,
}

/// How [`Tokenizer::decode`] treats special tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeOptions {
    /// Leaves out the BOS and EOS that [`EncodeOptions::add_special`] adds.
    pub remove_special: bool,
    /// Writes control tokens out by their names.
    pub unparse_special: bool,
}

impl Tokenizer {
    /// Builds the tokenizer that a file's metadata describes.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported), with its name, for a tokenizer or pre-tokenizer that
    /// is not implemented; [`BadFile`](crate::ErrorKind::BadFile) for missing keys and a vocabulary that
    /// contradicts itself.
    pub fn from_gguf(metadata: &Metadata) -> Result<Tokenizer, Error> {
        match metadata.str("tokenizer.ggml.model")? {
            "llama" => Ok(Tokenizer {
                vocab: Vocab::load(metadata, Family::Spm)?,
                model: Model::Spm,
            }),
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
            other => {
                let what =
                    format!("tokenizer {other:?} is not supported (\"llama\" and \"gpt2\" are)");
                Err(Error::unsupported(metadata.path(), what))
            }
        }
    }

    /// The token IDs of a text, which need not be UTF-8 if the tokenizer works on bytes, as SentencePiece does.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) where llama.cpp throws: for text that byte-level BPE cannot read as
    /// characters, and for bytes that the vocabulary has no token for.
    pub fn encode(
        &self,
        text: impl AsRef<[u8]>,
        options: EncodeOptions,
    ) -> Result<Vec<u32>, Error> {
        let text = std::str::from_utf8(text.as_ref()).map_err(|e| Error::usage(e.to_string()))?;
        let mut ids = Vec::new();
        if options.add_special && self.vocab.add_bos {
            ids.extend(self.vocab.bos);
        }
        let mut after_special = true;
        for fragment in special::partition(&self.vocab, text, options.parse_special) {
            match fragment {
                Fragment::Special(id) => {
                    ids.push(id);
                    after_special = true;
                }
                Fragment::Text(text) => {
                    match &self.model {
                        Model::Spm => {
                            let space = self.vocab.add_space_prefix && after_special;
                            spm::encode(&self.vocab, text, space, &mut ids);
                        }
                        Model::Bpe(bpe, pre) => bpe.encode(&self.vocab, pre, text, &mut ids),
                    }
                    after_special = false;
                }
            }
        }
        if options.add_special && self.vocab.add_eos {
            ids.extend(self.vocab.eos);
        }
        Ok(ids)
    }

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
            if options.unparse_special || !self.is_control(id) {
                let piece = self.piece(id).unwrap_or_default();
                let stripped = piece.strip_prefix(b" ").filter(|_| strip);
                text.extend_from_slice(stripped.unwrap_or(piece));
            }
            strip = false;
        }
        text
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
