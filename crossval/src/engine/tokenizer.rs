//! The tokenizer of a worker.

use std::path::Path;

use crossval_protocol::{DecodeOptions, EncodeOptions};

use super::{Engine, EngineError};
use crossval_protocol::{self as protocol, ErrorKind, MAX_TEXT, Request, Response, VocabFacts};

/// Errors are as [`EngineError`] says; a text that the tokenizer cannot read is refused.
impl Engine {
    /// Loads the vocabulary of a file alone; returns its facts and the time in milliseconds.
    pub fn load_vocab(&mut self, model: &Path) -> Result<(VocabFacts, f64), EngineError> {
        self.is_to(format!("loading the vocabulary of {}", model.display()));
        match self.request(&Request::LoadVocab {
            model: model.to_owned(),
        })? {
            Response::VocabLoaded { facts, load_ms } => Ok((facts, load_ms)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Text, which need not be UTF-8, to token IDs; with the time that the tokenizer took, in milliseconds, if the
    /// engine says so.
    pub fn tokenize(
        &mut self,
        text: &[u8],
        options: EncodeOptions,
    ) -> Result<(Vec<u32>, Option<f64>), EngineError> {
        self.is_to("tokenizing");
        self.begin_tokenize(text, options)?;
        self.end_tokenize()
    }

    /// Sends a text to be tokenized, without waiting for the tokens. A text of more than [`MAX_TEXT`] bytes is refused
    /// here.
    pub fn begin_tokenize(
        &mut self,
        text: &[u8],
        options: EncodeOptions,
    ) -> Result<(), EngineError> {
        if text.len() > MAX_TEXT {
            return Err(EngineError::Refused {
                kind: ErrorKind::Usage,
                message: format!(
                    "{} bytes, more than the {MAX_TEXT} that are tokenized at once",
                    text.len()
                ),
            });
        }
        let request = Request::Tokenize {
            add_special: options.add_special,
            parse_special: options.parse_special,
        };
        self.send(&request, text)
    }

    /// The answer to [`Engine::begin_tokenize`].
    pub fn end_tokenize(&mut self) -> Result<(Vec<u32>, Option<f64>), EngineError> {
        let ms = match self.response()? {
            Response::Tokens { ms } => ms,
            other => return Err(self.unexpected(&other)),
        };
        Ok((self.tokens()?, ms))
    }

    /// Token IDs to text, which need not be UTF-8.
    pub fn detokenize(
        &mut self,
        tokens: &[u32],
        options: DecodeOptions,
    ) -> Result<Vec<u8>, EngineError> {
        self.is_to("detokenizing");
        self.begin_detokenize(tokens, options)?;
        self.end_detokenize()
    }

    /// Sends tokens to be detokenized, without waiting for the text.
    pub fn begin_detokenize(
        &mut self,
        tokens: &[u32],
        options: DecodeOptions,
    ) -> Result<(), EngineError> {
        let request = Request::Detokenize {
            remove_special: options.remove_special,
            unparse_special: options.unparse_special,
        };
        self.send(&request, &protocol::token_bytes(tokens))
    }

    /// The answer to [`Engine::begin_detokenize`].
    pub fn end_detokenize(&mut self) -> Result<Vec<u8>, EngineError> {
        match self.response()? {
            Response::Text => Ok(self.take_payload()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What each token adds to a text that others precede; of a control token, its name.
    pub fn pieces(&mut self, tokens: &[u32]) -> Result<Vec<Vec<u8>>, EngineError> {
        self.is_to("writing out tokens");
        self.send(&Request::Pieces, &protocol::token_bytes(tokens))?;
        let lengths = match self.response()? {
            Response::Pieces { lengths } => lengths,
            other => return Err(self.unexpected(&other)),
        };
        let mut rest = self.payload.as_slice();
        let pieces: Option<Vec<Vec<u8>>> = lengths
            .iter()
            .map(|&n| {
                let (piece, after) = rest.split_at_checked(n)?;
                rest = after;
                Some(piece.to_vec())
            })
            .collect();
        match pieces {
            Some(pieces) if rest.is_empty() && pieces.len() == tokens.len() => Ok(pieces),
            _ => Err(self.broke_protocol(&format!(
                "{} bytes and {} lengths for {} tokens",
                self.payload.len(),
                lengths.len(),
                tokens.len()
            ))),
        }
    }
}
