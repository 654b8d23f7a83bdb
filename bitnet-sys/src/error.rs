use std::path::PathBuf;

use crate::facts::name;

/// Why the library could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The library could not be initialised.
    #[error("{library} cannot be initialised: {0}", library = name())]
    Init(String),
    /// The file could not be loaded.
    #[error("{}: {library} cannot load it: {reason}", path.display(), library = name())]
    Load {
        /// The file.
        path: PathBuf,
        /// The first error that it logged.
        reason: String,
        /// Everything that it logged meanwhile.
        log: Vec<String>,
    },
    /// The model file has no tokenizer.
    #[error("the model has no tokenizer")]
    NoTokenizer,
    /// The tokenizer failed.
    #[error("{library}'s tokenizer failed: {0}", library = name())]
    Tokenizer(String),
    /// A conversation could not be rendered.
    #[error("{library} cannot render the conversation: {0}", library = name())]
    Chat(String),
    /// A token ID outside the vocabulary.
    #[error("token {token} is outside the vocabulary of {n_vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Size of the vocabulary.
        n_vocab: u32,
    },
    /// A context of a model that was loaded without its weights.
    #[error("the model was loaded without its weights (vocab_only)")]
    VocabOnly,
    /// An option out of its range.
    #[error("{option}: must be between {low} and {high}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Smallest value.
        low: u32,
        /// Largest value.
        high: u32,
    },
    /// The context could not be made (too little memory, as a rule).
    #[error("{library} cannot make the context: {reason}", library = name())]
    Context {
        /// The first error that it logged.
        reason: String,
        /// Everything that it logged meanwhile.
        log: Vec<String>,
    },
    /// No tokens.
    #[error("no tokens to evaluate")]
    EmptyBatch,
    /// More tokens than one evaluation takes.
    #[error("{n_tokens} tokens in one evaluation, {limit} = {option} is the limit")]
    BatchTooLarge {
        /// Tokens given.
        n_tokens: usize,
        /// The limit.
        limit: u32,
        /// The option that sets it.
        option: &'static str,
    },
    /// The tokens do not follow on those in the KV cache.
    #[error("tokens at position {first}, but the KV cache ends at position {n_past}")]
    Position {
        /// Position of the first token.
        first: u32,
        /// Positions in the KV cache.
        n_past: u32,
    },
    /// The tokens go beyond the context.
    #[error("positions up to {end} do not fit the context of {n_ctx}")]
    ContextFull {
        /// One past the last position.
        end: usize,
        /// Size of the context.
        n_ctx: u32,
    },
    /// The evaluation failed.
    #[error("{library} failed to evaluate: {reason}", library = name())]
    Decode {
        /// The first error that it logged.
        reason: String,
        /// Everything that it logged meanwhile.
        log: Vec<String>,
    },
    /// The observer ended the evaluation.
    #[error("the observer ended the evaluation")]
    Stopped,
    /// The observer panicked.
    #[error("the observer panicked: {0}")]
    ObserverPanicked(String),
    /// An observer was given to a context without [`observe`](crate::ContextOptions::observe).
    #[error("the context was made without `observe`")]
    NotObservable,
    /// Logits that the last evaluation was not asked for.
    #[error("the last evaluation has no logits of its token {0}")]
    NoLogits(usize),
}
