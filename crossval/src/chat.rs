//! Prompts as the model's chat template writes them (`--chat`): each text becomes one message of the user.
//!
//! A template is a program out of the model's file, so it runs in a child process whose memory and time are bounded, and
//! in the [sandbox] of the workers.

use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use bitnet_core::chat::{ChatTemplate, Message};
use serde::{Deserialize, Serialize};

use crate::engine::{bound, ending, this_program};
use crate::error::Error;
use crate::protocol::VocabFacts;
use crate::run::PromptSource;
use crate::worker::sandbox;

/// The hidden subcommand that [`serve`]s.
pub(crate) const COMMAND: &str = "render-chat";

const MEMORY_BYTES: u64 = 1 << 30;
const CPU_SECONDS: u64 = 10;

#[derive(Debug, Serialize, Deserialize)]
struct Job {
    template: String,
    bos: Option<String>,
    eos: Option<String>,
    contents: Vec<String>,
}

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
            return Err(Error::Usage(
                "--chat: the prompts are token IDs, and no text to render".into(),
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
pub(crate) fn render(
    texts: &[String],
    model: &Path,
    vocab: Option<&VocabFacts>,
) -> Result<Vec<String>, Error> {
    let Some((vocab, template)) = vocab.and_then(|v| Some((v, v.chat_template.clone()?))) else {
        return Err(Error::Usage(format!(
            "--chat: {} has no chat template (tokenizer.chat_template)",
            model.display()
        )));
    };
    let job = Job {
        template,
        bos: vocab.bos.clone(),
        eos: vocab.eos.clone(),
        contents: texts.to_vec(),
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
fn in_child(job: &Job) -> Result<Vec<String>, String> {
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

/// The child: a job on standard input, the texts on standard output.
///
/// # Errors
/// [`Error::BadInput`] with the template's error.
pub(crate) fn serve() -> Result<(), Error> {
    let broken = |e: &dyn std::fmt::Display| Error::Internal(format!("{COMMAND}: {e}"));
    sandbox::enter();
    let mut json = Vec::new();
    std::io::stdin()
        .read_to_end(&mut json)
        .map_err(|e| broken(&e))?;
    let job: Job = serde_json::from_slice(&json).map_err(|e| broken(&e))?;
    let rendered = texts(job).map_err(|e| Error::BadInput(e.to_string()))?;
    serde_json::to_writer(std::io::stdout().lock(), &rendered).map_err(|e| broken(&e))
}

fn texts(job: Job) -> Result<Vec<String>, bitnet_core::Error> {
    let template = ChatTemplate::new(&job.template, job.bos.as_deref(), job.eos.as_deref())?;
    let render = |content| {
        let message = Message {
            role: "user".to_owned(),
            content,
        };
        template.render(&[message], true)
    };
    job.contents.into_iter().map(render).collect()
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use super::*;

    fn message(role: &str, content: &str) -> Message {
        Message {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }

    /// The reference has no Jinja2: by marks in a template it chooses one of its own renderings. Where it knows the
    /// template, ours is equal, given what it leaves out: BOS, for which ours is given the empty text.
    #[test]
    fn as_the_reference_has_it() {
        let template = |name: &str| {
            let folder =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-core/tests/data/chat");
            std::fs::read_to_string(folder.join(name)).unwrap()
        };
        let dialogue = [
            message("user", "Hello"),
            message("assistant", "Hi there"),
            message("user", "  Who are you?\n"),
        ];
        let with_system = [&[message("system", "Be brief.")], &dialogue[..]].concat();
        for (name, eos, messages) in [
            ("llama-3.jinja", "", &with_system[..]),
            ("qwen2.jinja", "", &with_system),
            // Taken for Falcon 3's, which has no EOS.
            ("zephyr.jinja", "", &with_system),
            ("gemma.jinja", "", &dialogue),
            ("mistral-7b-v0.2.jinja", "</s>", &dialogue),
            ("openchat-3.5.jinja", "", &dialogue),
        ] {
            let source = template(name);
            let pairs: Vec<(&str, &str)> = messages
                .iter()
                .map(|m| (m.role.as_str(), m.content.as_str()))
                .collect();
            // Mistral's ends where the answer begins in any case.
            for add_prompt in [true, false] {
                let reference =
                    bitnet_sys::apply_chat_template(&source, &pairs, add_prompt).unwrap();
                let ours = ChatTemplate::new(&source, None, Some(eos)).unwrap();
                let ours = ours.render(messages, add_prompt).unwrap();
                assert_eq!(Some(ours), reference, "{name}");
            }
        }
        // Of the two templates of the 2B-4T model it does not know the one, and has another text for the other.
        let user = [("user", "Hello")];
        let of = |name| bitnet_sys::apply_chat_template(&template(name), &user, true).unwrap();
        assert_eq!(of("bitnet-2b-4t.jinja"), None);
        if bitnet_sys::library().vintage == "2026-01" {
            let text = "User: Hello<|eot_id|>Assistant: ";
            assert_eq!(of("bitnet-2b-4t-gguf.jinja").as_deref(), Some(text));
        }
    }
}
