//! What is odd about a chat template, seen by rendering it: where its prompts end.

use bitnet_model::gguf::{Metadata, StringArray};
use bitnet_model::lint::Remark;
use crossval_protocol::chat::Job;

use super::chat::in_child;

/// What is looked for: names of lints beside those of [`bitnet_model::lint`], and what each looks for.
pub const LINTS: [(&str, &str); 3] = [
    (
        "chat-template-broken",
        "a chat template that cannot be rendered",
    ),
    (
        "chat-no-turn",
        "a chat template whose prompts do not end with the assistant's turn",
    ),
    (
        "chat-ends",
        "a chat template whose prompts end with the token that ends a text",
    ),
];

/// What a user says.
const MESSAGE: &str = "Who wrote Emma?";

/// What there is to know of the chat template, if the file has one.
pub fn remarks(metadata: &Metadata) -> Vec<Remark> {
    let Ok(template) = metadata.str("tokenizer.chat_template") else {
        return Vec::new();
    };
    let eos = token(metadata, "tokenizer.ggml.eos_token_id");
    let rendered = |generation_prompt| {
        let job = Job {
            template: template.to_owned(),
            bos: token(metadata, "tokenizer.ggml.bos_token_id"),
            eos: eos.clone(),
            contents: vec![MESSAGE.to_owned()],
            generation_prompt,
        };
        in_child(&job).map(|texts| texts.into_iter().next().unwrap_or_default())
    };
    match rendered(true).and_then(|prompt| Ok((prompt, rendered(false)?))) {
        Ok((prompt, without)) => ending(&prompt, &without, eos.as_deref(), metadata),
        Err(why) => vec![remark(
            0,
            why,
            "Look up the template of the checkpoint: `--chat` does not work with this one.",
        )],
    }
}

fn remark(lint: usize, sentence: String, next_step: &'static str) -> Remark {
    Remark {
        id: LINTS[lint].0,
        sentence,
        next_step,
    }
}

/// What speaks against a prompt; `without` is the same text without the start of the answer.
fn ending(prompt: &str, without: &str, eos: Option<&str>, metadata: &Metadata) -> Vec<Remark> {
    let mut remarks = Vec::new();
    let tail = prompt.rsplit_once(MESSAGE).map_or(prompt, |(_, tail)| tail);
    if prompt == without && only_marks(tail, metadata) {
        remarks.push(remark(
            1,
            format!("the chat template's prompt ends with {tail:?} after what the user said, which names no turn of the assistant"),
            "Expect the model to speak for the user; look up the template of the checkpoint.",
        ));
    }
    if let Some(eos) = eos.filter(|eos| !eos.is_empty() && prompt.trim_end().ends_with(eos)) {
        remarks.push(remark(
            2,
            format!("the chat template's prompt ends with {eos:?}, the token that ends a text"),
            "Expect an empty or unrelated answer; look up the template of the checkpoint.",
        ));
    }
    remarks
}

/// Whether there is nothing in a text but white space and control tokens.
fn only_marks(text: &str, metadata: &Metadata) -> bool {
    let mut left = text.trim();
    let tokens: Option<&StringArray> = metadata.optional("tokenizer.ggml.tokens").ok().flatten();
    let kinds: Option<&[i32]> = metadata
        .optional("tokenizer.ggml.token_type")
        .ok()
        .flatten();
    let control = |left: &str| {
        let (tokens, kinds) = (tokens?, kinds?);
        let control = tokens
            .iter()
            .zip(kinds)
            .filter(|(_, kind)| **kind == CONTROL);
        let of_text =
            control.filter(|(text, _)| !text.is_empty() && left.as_bytes().starts_with(text));
        of_text.map(|(text, _)| text.len()).max()
    };
    while let Some(n) = control(left) {
        left = left[n..].trim_start();
    }
    left.is_empty()
}

/// `llama_token_type`.
const CONTROL: i32 = 3;

fn token(metadata: &Metadata, key: &str) -> Option<String> {
    let id: u32 = metadata.optional(key).ok()??;
    let tokens: &StringArray = metadata.optional("tokenizer.ggml.tokens").ok()??;
    let text = tokens.get(id as usize)?;
    String::from_utf8(text.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_model::gguf::Array;

    use super::*;

    fn found(prompt: &str, without: &str) -> Vec<&'static str> {
        let mut metadata = Metadata::new(Path::new("m"));
        let tokens: StringArray = ["a", "</s>", "<|end|>"].iter().collect();
        metadata
            .insert("tokenizer.ggml.tokens", Array::Str(tokens))
            .unwrap();
        metadata
            .insert("tokenizer.ggml.token_type", Array::I32(vec![1, 3, 3]))
            .unwrap();
        let remarks = ending(prompt, without, Some("</s>"), &metadata);
        remarks.iter().map(|remark| remark.id).collect()
    }

    #[test]
    fn prompts_end_with_the_turn_of_the_assistant() {
        let user = format!("User: {MESSAGE}");
        let ends = |with: &str, without: &str| {
            found(&format!("{user}{with}"), &format!("{user}{without}"))
        };
        assert_eq!(ends("<|end|>Assistant: ", "<|end|>"), [""; 0]);
        // Which is there in any case, or is a token.
        assert_eq!(ends(" [/INST]", " [/INST]"), [""; 0]);
        assert_eq!(ends("<|end|>\n<|end|>", "<|end|>"), [""; 0]);
        assert_eq!(ends("<|end|>\n", "<|end|>\n"), ["chat-no-turn"]);
        assert_eq!(ends("", ""), ["chat-no-turn"]);
        assert_eq!(ends("Assistant: </s>", ""), ["chat-ends"]);
        assert_eq!(ends("</s>\n", "</s>\n"), ["chat-no-turn", "chat-ends"]);
    }
}
