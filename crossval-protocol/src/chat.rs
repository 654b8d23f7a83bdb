//! Chat templates are programs out of a model's file, so the driver has them rendered by a child process: a job as JSON on
//! its standard input, the texts as a JSON array on its standard output.

use serde::{Deserialize, Serialize};

/// The hidden subcommand of `crossval` that renders.
pub const COMMAND: &str = "render-chat";

/// What to render.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// `tokenizer.chat_template`.
    pub template: String,
    /// The text of the token that begins a sequence.
    pub bos: Option<String>,
    /// The text of the token that ends one.
    pub eos: Option<String>,
    /// Each becomes a conversation of one message of the user.
    pub contents: Vec<String>,
    /// Whether each is to end where the answer begins.
    pub generation_prompt: bool,
}
