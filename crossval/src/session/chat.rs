//! Prompts as the model's chat template writes them (`--chat`): each text becomes one message of the user.
//!
//! A template is a program out of the model's file, so it runs in a child process whose memory and time are bounded, and
//! in the sandbox of the workers.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use crossval_protocol::VocabFacts;
use crossval_protocol::chat::{COMMAND, Job};

use super::prompts::PromptSource;
use crate::engine::{bound, ending, this_program};
use crate::error::Error;

const MEMORY_BYTES: u64 = 1 << 30;
const CPU_SECONDS: u64 = 10;

/// The prompts, rendered for a model with this vocabulary.
///
/// # Errors
/// [`Error::Usage`] if a prompt is token IDs; what [`render`] says.
pub(crate) fn render_prompts(
    sources: Vec<PromptSource>,
    model: &Path,
    vocab: Option<&VocabFacts>,
) -> Result<Vec<PromptSource>, Error> {
    let (mut texts, mut origins) = (Vec::new(), Vec::new());
    for prompt in sources {
        let PromptSource::Text { text, source } = prompt else {
            return Err(Error::option(
                "chat",
                "the prompts are token IDs, and no text to render",
            ));
        };
        texts.push(text);
        origins.push(source);
    }
    let rendered = render(&texts, model, vocab)?;
    let prompts = texts.into_iter().zip(origins).zip(rendered);
    Ok(prompts
        .map(|((text, source), rendered)| PromptSource::Rendered {
            text,
            source,
            rendered,
        })
        .collect())
}

/// Each text as one message of the user, rendered for a model with this vocabulary: to be tokenized as it stands, with
/// special tokens parsed and none added. Where the tokenizer adds BOS and the template does not, it is in front.
///
/// # Errors
/// [`Error::Usage`] if the model has no template; [`Error::BadInput`] if the template fails.
pub fn render(
    texts: &[String],
    model: &Path,
    vocab: Option<&VocabFacts>,
) -> Result<Vec<String>, Error> {
    let Some((vocab, template)) = vocab.and_then(|v| Some((v, v.chat_template.clone()?))) else {
        let what = format!(
            "{} has no chat template (tokenizer.chat_template)",
            model.display()
        );
        return Err(Error::option("chat", what));
    };
    let job = Job {
        template,
        bos: vocab.bos.clone(),
        eos: vocab.eos.clone(),
        contents: texts.to_vec(),
        generation_prompt: true,
    };
    let rendered =
        in_child(&job).map_err(|what| Error::BadInput(format!("{}: {what}", model.display())))?;
    if rendered.len() != texts.len() {
        return Err(Error::Internal(format!(
            "{} texts became {}",
            texts.len(),
            rendered.len()
        )));
    }
    let bos = vocab.bos.as_deref().filter(|_| vocab.add_bos);
    let missing = |text: &str| bos.filter(|bos| !text.starts_with(bos)).unwrap_or_default();
    Ok(rendered
        .into_iter()
        .map(|text| format!("{}{text}", missing(&text)))
        .collect())
}

/// What the template makes of the job, or why it makes nothing.
pub(super) fn in_child(job: &Job) -> Result<Vec<String>, String> {
    let failed = |e: &dyn std::fmt::Display| format!("its chat template cannot be rendered: {e}");
    let json = serde_json::to_vec(job).map_err(|e| failed(&e))?;
    let this = this_program().map_err(|e| failed(&e))?;
    let mut command = Command::new(this);
    command
        .arg(COMMAND)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    bound(&mut command, MEMORY_BYTES, CPU_SECONDS);
    let mut child = command.spawn().map_err(|e| failed(&e))?;
    // Dropped at the end, which closes it. If the child is gone, its status says more than the pipe.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(&json);
    }
    let output = child.wait_with_output().map_err(|e| failed(&e))?;
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).map_err(|e| failed(&e));
    }
    let log = String::from_utf8_lossy(&output.stderr);
    Err(match log.strip_prefix("error: ") {
        Some(message) => message.trim_end().to_owned(),
        None => format!(
            "chat template: rendering it {}; it may take {CPU_SECONDS} s and {} GiB",
            ending(output.status),
            MEMORY_BYTES >> 30
        ),
    })
}
