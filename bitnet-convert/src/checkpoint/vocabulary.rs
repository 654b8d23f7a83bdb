//! The vocabulary of a checkpoint, as keys of GGUF: a SentencePiece model, or the byte-level BPE of `tokenizer.json`.

mod sentencepiece;

use std::path::Path;

use bitnet_model::Error;
use bitnet_model::gguf::{Array, Metadata, StringArray};
use serde_json::Value;

use super::config::Config;
use super::json::Json;

/// Types of tokens (`llama_token_type`).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// A token.
#[derive(Clone, Debug, Default, PartialEq)]
struct Token {
    text: String,
    score: f32,
    kind: i32,
}

/// How a text is cut before BPE: what `tokenizer.json` says, and the name that llama.cpp has for it.
const PRE: [(&str, &str); 4] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    ("digits byte-level", "smollm"),
    ("byte-level", "gpt-2"),
];

/// Writes the keys of the vocabulary, if there is one.
///
/// # Errors
/// The message names the file and what in it cannot be converted.
pub(super) fn write(
    folder: &Path,
    config: &Config,
    n_vocab: u32,
    metadata: &mut Metadata,
) -> Result<(), Error> {
    let tokenizer = Json::read_if_there(&folder.join("tokenizer.json"))?;
    let settings = Json::read_if_there(&folder.join("tokenizer_config.json"))?;
    let spm = folder.join("tokenizer.model");
    let mut tokens;
    let at;
    if spm.is_file() {
        at = spm;
        tokens = sentencepiece::read(&at)?;
        metadata.insert("tokenizer.ggml.model", "llama")?;
    } else if let Some(tokenizer) = &tokenizer {
        at = tokenizer.path().to_owned();
        tokens = of_json(tokenizer, metadata)?;
    } else {
        metadata.insert("tokenizer.ggml.model", "no_vocab")?;
        return Ok(());
    }
    add(&mut tokens, tokenizer.as_ref(), settings.as_ref(), &at)?;
    let n = n_vocab as usize;
    if tokens.len() > n {
        let what = format!(
            "{} tokens, and {n} embeddings by the configuration",
            tokens.len()
        );
        return Err(Error::bad_file(&at, what));
    }
    for i in tokens.len()..n {
        tokens.push(Token {
            text: format!("[PAD{i}]"),
            score: 0.0,
            kind: UNUSED,
        });
    }
    let texts: StringArray = tokens.iter().map(|token| token.text.as_str()).collect();
    metadata.insert("tokenizer.ggml.tokens", Array::Str(texts))?;
    if metadata.str("tokenizer.ggml.model")? == "llama" {
        let scores = tokens.iter().map(|token| token.score).collect();
        metadata.insert("tokenizer.ggml.scores", Array::F32(scores))?;
    }
    let kinds = tokens.iter().map(|token| token.kind).collect();
    metadata.insert("tokenizer.ggml.token_type", Array::I32(kinds))?;
    special(
        config,
        tokenizer.as_ref(),
        settings.as_ref(),
        &tokens,
        metadata,
    )?;
    template(folder, settings.as_ref(), metadata)
}

/// The vocabulary of a `tokenizer.json`.
fn of_json(tokenizer: &Json, metadata: &mut Metadata) -> Result<Vec<Token>, Error> {
    let refuse = |what: String| Error::unsupported(tokenizer.path(), what);
    let bad = |what: String| Error::bad_file(tokenizer.path(), what);
    let Some(model) = tokenizer.inner("model")? else {
        return Err(tokenizer.missing("model"));
    };
    let kind = model.optional_str("type")?.unwrap_or("BPE");
    if kind != "BPE" {
        return Err(refuse(format!("model.type {kind:?} is not supported")));
    }
    let vocab = model.object("vocab")?;
    let mut tokens = vec![Token::default(); vocab.len()];
    for (text, id) in vocab {
        let id = id.as_u64().and_then(|id| usize::try_from(id).ok());
        let token = id.and_then(|id| tokens.get_mut(id));
        let Some(token) = token else {
            return Err(bad(format!(
                "model.vocab: the ID of {text:?} is beyond the tokens that there are"
            )));
        };
        *token = Token {
            text: text.clone(),
            score: 0.0,
            kind: NORMAL,
        };
    }
    let merges = model.get("merges").and_then(Value::as_array);
    let merges: Option<Vec<(&str, &str)>> = merges.into_iter().flatten().map(merge).collect();
    let Some(merges) = merges else {
        return Err(bad(
            "model.merges: not every one is a pair of tokens".to_owned()
        ));
    };
    if model.optional_bool("byte_fallback")? == Some(true) {
        metadata.insert("tokenizer.ggml.model", "llama")?;
        by_merges(&mut tokens, &merges);
        return Ok(tokens);
    }
    let by = pre_tokenizer(tokenizer.get("pre_tokenizer"));
    let Some((_, pre)) = PRE.iter().find(|(says, _)| *says == by) else {
        return Err(refuse(format!(
            "pre_tokenizer: {by:?} is none that llama.cpp has a name for here"
        )));
    };
    metadata.insert("tokenizer.ggml.model", "gpt2")?;
    metadata.insert("tokenizer.ggml.pre", *pre)?;
    let merges: StringArray = merges.iter().map(|(a, b)| format!("{a} {b}")).collect();
    metadata.insert("tokenizer.ggml.merges", Array::Str(merges))?;
    Ok(tokens)
}

/// Older files write a merge as one string, newer ones as two.
fn merge(merge: &Value) -> Option<(&str, &str)> {
    match merge {
        Value::String(pair) => pair.split_once(' '),
        Value::Array(pair) => match &pair[..] {
            [a, b] => Some((a.as_str()?, b.as_str()?)),
            _ => None,
        },
        _ => None,
    }
}

/// SentencePiece joins the pair whose result scores best, BPE the one that comes first: a token scores by its first merge.
fn by_merges(tokens: &mut [Token], merges: &[(&str, &str)]) {
    let mut scores = std::collections::HashMap::new();
    for (rank, (a, b)) in merges.iter().enumerate() {
        scores.entry(format!("{a}{b}")).or_insert(-(rank as f32));
    }
    for token in tokens {
        token.score = scores.get(&token.text).copied().unwrap_or_default();
        if token.text.len() == 6 && token.text.starts_with("<0x") && token.text.ends_with('>') {
            token.kind = BYTE;
        }
    }
}

/// What a `pre_tokenizer` comes to: the regular expression of its split, or the steps without one.
fn pre_tokenizer(value: Option<&Value>) -> String {
    let mut steps = Vec::new();
    let Some(value) = value else {
        return String::new();
    };
    let of = |step: &Value| match step["type"].as_str() {
        Some("Split") => step["pattern"]["Regex"].as_str().map(str::to_owned),
        Some("Digits") => Some("digits".to_owned()),
        // After a split, it only turns bytes into characters.
        Some("ByteLevel") if step["use_regex"] == false => None,
        Some("ByteLevel") => Some("byte-level".to_owned()),
        Some(other) => Some(other.to_owned()),
        None => None,
    };
    match value["pretokenizers"].as_array() {
        Some(all) => steps.extend(all.iter().filter_map(of)),
        None => steps.extend(of(value)),
    }
    steps.join(" ")
}

/// Adds the tokens that were added to the vocabulary, over what is there.
fn add(
    tokens: &mut Vec<Token>,
    tokenizer: Option<&Json>,
    settings: Option<&Json>,
    at: &Path,
) -> Result<(), Error> {
    let of_tokenizer = tokenizer.and_then(|t| t.get("added_tokens")?.as_array());
    let of_tokenizer = of_tokenizer
        .into_iter()
        .flatten()
        .map(|token| (token["id"].as_u64(), token));
    let of_settings = settings.and_then(|s| s.get("added_tokens_decoder")?.as_object());
    let of_settings = of_settings
        .into_iter()
        .flatten()
        .map(|(id, token)| (id.parse().ok(), token));
    for (id, token) in of_tokenizer.chain(of_settings) {
        let (Some(id), Some(text)) = (id, token["content"].as_str()) else {
            return Err(Error::bad_file(
                at,
                "an added token has no ID or no content",
            ));
        };
        // As many as there are, not as many as a file says.
        if id > tokens.len() as u64 + 100_000 {
            return Err(Error::bad_file(
                at,
                format!("added token {text:?}: the ID {id} is far beyond the others"),
            ));
        }
        let id = id as usize;
        while tokens.len() <= id {
            tokens.push(Token {
                text: format!("[PAD{}]", tokens.len()),
                score: 0.0,
                kind: UNUSED,
            });
        }
        let kind = match token["special"] == true {
            true => CONTROL,
            false => USER_DEFINED,
        };
        // What a SentencePiece model says of its own tokens stays.
        if tokens[id].text != text || tokens[id].kind == NORMAL {
            tokens[id] = Token {
                text: text.to_owned(),
                score: tokens[id].score,
                kind,
            };
        }
    }
    Ok(())
}

/// The IDs of special tokens, and whether they are added.
fn special(
    config: &Config,
    tokenizer: Option<&Json>,
    settings: Option<&Json>,
    tokens: &[Token],
    metadata: &mut Metadata,
) -> Result<(), Error> {
    for (name, key, in_config) in [
        ("bos_token", "bos_token_id", Some("bos_token_id")),
        ("eos_token", "eos_token_id", Some("eos_token_id")),
        ("unk_token", "unknown_token_id", None),
        ("pad_token", "padding_token_id", Some("pad_token_id")),
    ] {
        let named = settings.and_then(|settings| settings.get(name));
        let text = named.and_then(|token| token.as_str().or(token["content"].as_str()));
        let by_name = text.and_then(|text| tokens.iter().position(|token| token.text == text));
        let by_id = in_config
            .map(|key| config.token(key))
            .transpose()?
            .flatten();
        let id = by_name.and_then(|id| u32::try_from(id).ok()).or(by_id);
        if let Some(id) = id {
            metadata.insert(&format!("tokenizer.ggml.{key}"), id)?;
        }
    }
    let says = |key| {
        settings
            .map(|settings| settings.optional_bool(key))
            .transpose()
    };
    let single = tokenizer.map(|t| added_around(t.get("post_processor")));
    let (before, after) = single.unwrap_or_default();
    for (key, by_template) in [("add_bos_token", before), ("add_eos_token", after)] {
        let said = says(key)?.flatten();
        metadata.insert(
            &format!("tokenizer.ggml.{key}"),
            said.unwrap_or(by_template),
        )?;
    }
    Ok(())
}

/// Whether special tokens come before a text, and after it, by a template of `tokenizer.json`.
fn added_around(post_processor: Option<&Value>) -> (bool, bool) {
    let Some(processor) = post_processor else {
        return (false, false);
    };
    let nested = processor["processors"].as_array();
    let all = nested.into_iter().flatten().chain([processor]);
    let single = all.filter_map(|p| p["single"].as_array()).next();
    let special = |piece: Option<&Value>| piece.is_some_and(|p| p.get("SpecialToken").is_some());
    single.map_or((false, false), |single| {
        (special(single.first()), special(single.last()))
    })
}

/// The chat template, in the settings or in a file of its own; of several, the default.
fn template(folder: &Path, settings: Option<&Json>, metadata: &mut Metadata) -> Result<(), Error> {
    let file = folder.join("chat_template.jinja");
    let in_settings = settings.and_then(|settings| settings.get("chat_template"));
    let text = match in_settings {
        _ if file.is_file() => {
            Some(std::fs::read_to_string(&file).map_err(|e| Error::io(&file, e))?)
        }
        Some(Value::String(text)) => Some(text.clone()),
        Some(Value::Array(all)) => {
            let default = all.iter().find(|template| template["name"] == "default");
            default.and_then(|template| Some(template["template"].as_str()?.to_owned()))
        }
        _ => None,
    };
    match text {
        Some(text) => metadata.insert("tokenizer.chat_template", text),
        None => Ok(()),
    }
}
