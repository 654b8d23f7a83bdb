//! What engines are fed.

use crossval_protocol::EncodeOptions;
use reports::model::Prompt as PromptReport;
use sha2::{Digest, Sha256};

use crate::engine::Engine;
use crate::error::Error;
use crate::hex::hex;

/// A prompt, before tokenization.
#[derive(Clone, Debug)]
pub enum PromptSource {
    /// Text, and where it came from.
    Text {
        /// The text.
        text: String,
        /// `--prompt` or the file's path.
        source: String,
    },
    /// Token IDs from `--tokens`.
    Tokens(Vec<u32>),
    /// Text that the model's chat template has rendered.
    Rendered {
        /// As it was given.
        text: String,
        /// Where it came from.
        source: String,
        /// What is tokenized.
        rendered: String,
    },
    /// A prompt of a trace.
    Recorded {
        /// As it was given.
        text: Option<String>,
        /// As a chat template rendered it.
        rendered: Option<String>,
        /// Where it came from.
        source: String,
        /// Its token IDs.
        tokens: Vec<u32>,
        /// The engine whose tokenizer made them.
        tokenizer: Option<String>,
    },
}

impl PromptSource {
    /// Whether it is still to be tokenized.
    pub(crate) fn is_text(&self) -> bool {
        matches!(
            self,
            PromptSource::Text { .. } | PromptSource::Rendered { .. }
        )
    }
}

/// A prompt, tokenized.
#[derive(Clone, Debug)]
pub(crate) struct Prompt {
    /// As it was given, if it was a text.
    pub(crate) text: Option<String>,
    /// As a chat template rendered it.
    pub(crate) rendered: Option<String>,
    /// Where it came from.
    pub(crate) source: String,
    /// Token IDs, at least one.
    pub(crate) tokens: Vec<u32>,
}

impl Prompt {
    /// Token IDs alone.
    pub(crate) fn of_tokens(source: String, tokens: Vec<u32>) -> Prompt {
        Prompt {
            text: None,
            rendered: None,
            source,
            tokens,
        }
    }

    /// Its entry in a report, with its decode steps; `None` if there were none yet.
    pub(crate) fn report(self, steps: Option<&[u32]>) -> PromptReport {
        let sha256 = steps.map(|steps| sha256(&[&self.tokens, steps]));
        PromptReport {
            text: self.text,
            rendered: self.rendered,
            source: self.source,
            tokens: self.tokens,
            decode_tokens: steps.unwrap_or_default().to_vec(),
            sha256: sha256.unwrap_or_default(),
        }
    }
}

/// Prompts, and the engine that made their tokens, if one did.
pub(crate) struct Tokenized {
    pub(crate) prompts: Vec<Prompt>,
    pub(crate) tokenizer: Option<String>,
}

/// Tokenizes every prompt.
pub(crate) fn tokenize(
    sources: &[PromptSource],
    mut engine: Option<&mut Engine>,
    n_vocab: usize,
) -> Result<Tokenized, Error> {
    let mut tokenizer = None;
    let mut tokens_of = |text: &str, add_special| -> Result<Vec<u32>, Error> {
        let engine = engine
            .as_deref_mut()
            .ok_or_else(|| Error::Engine("no engine has a tokenizer: give --tokens".into()))?;
        let options = EncodeOptions {
            add_special,
            parse_special: true,
        };
        let (tokens, _) = engine
            .tokenize(text.as_bytes(), options)
            .map_err(|e| e.into_error(engine.label()))?;
        tokenizer = Some(engine.name().to_owned());
        Ok(tokens)
    };
    let mut recorded_tokenizer = None;
    let mut prompts = Vec::new();
    for source in sources {
        let (text, rendered, source, tokens) = match source {
            PromptSource::Tokens(tokens) => (None, None, "--tokens".to_owned(), tokens.clone()),
            PromptSource::Text { text, source } => {
                let tokens = tokens_of(text, true)?;
                (Some(text.clone()), None, source.clone(), tokens)
            }
            PromptSource::Rendered {
                text,
                source,
                rendered,
            } => {
                let tokens = tokens_of(rendered, false)?;
                let (text, rendered) = (text.clone(), rendered.clone());
                (Some(text), Some(rendered), source.clone(), tokens)
            }
            PromptSource::Recorded {
                text,
                rendered,
                source,
                tokens,
                tokenizer,
            } => {
                recorded_tokenizer.clone_from(tokenizer);
                let (text, rendered) = (text.clone(), rendered.clone());
                (text, rendered, source.clone(), tokens.clone())
            }
        };
        if tokens.is_empty() {
            return Err(Error::Usage(format!("prompt from {source}: no tokens")));
        }
        check_range(&tokens, n_vocab, &format!("prompt from {source}"))?;
        prompts.push(Prompt {
            text,
            rendered,
            source,
            tokens,
        });
    }
    Ok(Tokenized {
        prompts,
        tokenizer: tokenizer.or(recorded_tokenizer),
    })
}

pub(crate) fn check_range(tokens: &[u32], n_vocab: usize, what: &str) -> Result<(), Error> {
    match tokens.iter().find(|&&id| id as usize >= n_vocab) {
        Some(id) => Err(Error::Usage(format!(
            "{what}: token ID {id} is out of range, the vocabulary has {n_vocab} tokens"
        ))),
        None => Ok(()),
    }
}

/// SHA-256 over token IDs.
fn sha256(tokens: &[&[u32]]) -> String {
    let mut hasher = Sha256::new();
    for token in tokens.iter().copied().flatten() {
        hasher.update(token.to_le_bytes());
    }
    hex(&hasher.finalize())
}
