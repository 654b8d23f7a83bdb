//! Renders chat templates, in the [sandbox] of the workers.

use std::io::Read;

use bitnet_model::chat::{ChatTemplate, Message};
use crossval_protocol::chat::{COMMAND, Job};

use crate::{Error, sandbox};

/// The child: a job on standard input, the texts on standard output.
///
/// # Errors
/// [`Error::BadInput`] with the template's error.
pub fn serve() -> Result<(), Error> {
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

fn texts(job: Job) -> Result<Vec<String>, bitnet_model::Error> {
    let template = ChatTemplate::new(&job.template, job.bos.as_deref(), job.eos.as_deref())?;
    let render = |content| {
        let message = Message {
            role: "user".to_owned(),
            content,
        };
        template.render(&[message], job.generation_prompt)
    };
    job.contents.into_iter().map(render).collect()
}

#[cfg(all(test, feature = "reference"))]
mod tests {
    use std::path::Path;

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
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../bitnet-model/tests/data/chat");
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
