//! Chat templates: what a model's file says (`tokenizer.chat_template`) about how a conversation becomes one text.
//!
//! They are written in Jinja2 for Hugging Face transformers' `apply_chat_template`, whose environment is that of
//! [`ChatTemplate`]: blocks trimmed, Python's string methods, `raise_exception`, `strftime_now`, a `tojson` that
//! escapes nothing for HTML, loop controls.

mod environment;
#[cfg(test)]
mod tests;

use std::path::Path;

use minijinja::value::Serde;
use minijinja::{Environment, ErrorKind, context};
use serde::{Deserialize, Serialize};

use crate::error::Error;
use environment::{BoundedText, Refused};

/// Instructions that a rendering may take. Templates take some hundred, and some ten per message.
const FUEL: u64 = 1_000_000;

/// Bytes of the longest text that a template may make.
const MAX_TEXT: usize = 16 << 20;

const NAME: &str = "chat_template";

/// A template, compiled.
///
/// It is a program from a file: how many instructions it takes and how long a text it writes is bounded, but not the
/// memory that it takes, and not the time of a single instruction. Where the file is not to be trusted, render in a
/// process whose memory and time are.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

/// One turn of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl ChatTemplate {
    /// Compiles a template. `bos` and `eos` are the texts of those tokens, as it may write them; empty if `None`.
    ///
    /// # Errors
    /// [`BadFile`](crate::ErrorKind::BadFile), naming the line, for what is not Jinja2.
    pub fn new(source: &str, bos: Option<&str>, eos: Option<&str>) -> Result<ChatTemplate, Error> {
        let mut environment = environment::huggingface();
        environment.set_fuel(Some(FUEL));
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|e| describe(&e))?;
        Ok(ChatTemplate {
            environment,
            bos: bos.unwrap_or_default().to_owned(),
            eos: eos.unwrap_or_default().to_owned(),
        })
    }

    /// The conversation as one text. `add_generation_prompt` has it end where the assistant's answer begins.
    ///
    /// The text is to be tokenized with special tokens parsed, and without BOS if it begins with its text.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) if the template refuses the conversation (`raise_exception`);
    /// [`BadFile`](crate::ErrorKind::BadFile), naming the line, if it fails or does not come to an end.
    pub fn render(
        &self,
        messages: &[Message],
        add_generation_prompt: bool,
    ) -> Result<String, Error> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|e| describe(&e))?;
        let variables = context! {
            messages => Serde(messages),
            add_generation_prompt,
            bos_token => &self.bos,
            eos_token => &self.eos,
            // Defined, as transformers has it: templates ask whether they are none.
            tools => (),
            documents => (),
        };
        let mut text = BoundedText::new(MAX_TEXT);
        match template.render_captured_to(variables, &mut text) {
            Ok(_) => text
                .into_string()
                .ok_or_else(|| bad(None, "its text is not UTF-8".to_owned())),
            Err(_) if text.is_full() => Err(bad(
                None,
                format!("its text is longer than {MAX_TEXT} bytes"),
            )),
            Err(e) => Err(describe(&e)),
        }
    }
}

fn bad(line: Option<usize>, what: String) -> Error {
    let place = match line {
        Some(line) => format!("chat template, line {line}"),
        None => "chat template".to_owned(),
    };
    Error::bad_file(Path::new(&place), what)
}

fn describe(e: &minijinja::Error) -> Error {
    if let Some(refused) = std::error::Error::source(e).and_then(|s| s.downcast_ref::<Refused>()) {
        return Error::usage(format!("chat template: it refuses the messages: {refused}"));
    }
    let what = match (e.kind(), e.detail()) {
        (ErrorKind::OutOfFuel, _) => {
            format!("it does not come to an end within {FUEL} instructions")
        }
        (kind, Some(detail)) => format!("{kind}: {detail}"),
        (kind, None) => kind.to_string(),
    };
    bad(e.line(), what)
}
