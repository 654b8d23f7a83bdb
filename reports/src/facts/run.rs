//! The run itself: model, inputs, engines, machine, command.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Failure, Kind, State, Table, limit, output, text_or_not_measured, verdict};
use crate::model::{Activation, ActivationSource, Engine, Report};
use crate::number;

/// Characters of a prompt shown in the table of prompts.
const EXCERPT: usize = 160;

pub(super) fn model(report: &Report) -> Table {
    let model = &report.model;
    let types = model
        .tensor_types
        .iter()
        .map(|(name, n)| format!("{} {name}", number::count(*n as u64)))
        .collect::<Vec<_>>();
    let size = |n: usize| number::count(n as u64);
    let mut pairs = vec![
        ("Path", model.path.clone()),
        ("Size", number::bytes(model.size_bytes as f64)),
        ("SHA-256", model.sha256.clone()),
        ("Name", text_or_not_given(model.name.as_deref())),
        ("Architecture", model.architecture.clone()),
        (
            "Shape",
            format!(
                "{} layers, {} wide, feed-forward {}, {} query heads, {} key/value heads",
                size(model.n_layer),
                size(model.n_embd),
                size(model.n_ff),
                size(model.n_head),
                size(model.n_head_kv)
            ),
        ),
        ("Vocabulary", number::plural(model.n_vocab as u64, "token")),
        (
            "Trained context",
            number::plural(model.n_ctx_train as u64, "token"),
        ),
        ("Tensors", types.join(", ")),
    ];
    let activation = model.activation.as_ref();
    pairs.extend(activation.map(|activation| ("Activation", taken(activation))));
    Table::pairs(pairs)
}

fn taken(activation: &Activation) -> String {
    let source = match activation.source {
        ActivationSource::File => "as the file says",
        ActivationSource::Architecture => "as every file of its architecture",
        ActivationSource::Assumed => "assumed: the file does not say",
        ActivationSource::Override => "as the command line says",
    };
    format!("{}, {source}", activation.function)
}

fn text_or_not_given(text: Option<&str>) -> String {
    text.unwrap_or("none in the file").to_owned()
}

pub(super) fn inputs(report: &Report) -> Table {
    let inputs = &report.inputs;
    if report.not_compared.is_some() {
        let rooflines = report.bench.iter().flat_map(|bench| &bench.roofline);
        let threads: Vec<String> = rooflines.map(|r| r.threads.to_string()).collect();
        return Table::pairs(vec![
            ("Tokens to generate", inputs.n_predict.to_string()),
            ("Threads per engine", threads.join(", ")),
        ]);
    }
    let modes = inputs.modes.iter().map(|&mode| super::mode_name(mode));
    Table::pairs(vec![
        (
            "Token IDs by",
            inputs.tokenizer.as_deref().map_or_else(
                || "given, no tokenizer used".to_owned(),
                |engine| format!("the tokenizer of {engine}"),
            ),
        ),
        ("Modes", modes.collect::<Vec<_>>().join(", ")),
        ("Decode steps compared", inputs.decode_steps.to_string()),
        ("Tokens to generate", inputs.n_predict.to_string()),
        ("Threads per engine", inputs.threads.to_string()),
        ("Profile", inputs.profile.name.clone()),
    ])
}

/// A prompt in full.
#[derive(Serialize)]
pub(crate) struct PromptDetail<'a> {
    pub index: usize,
    pub text: Option<&'a str>,
    pub rendered: Option<&'a str>,
    pub tokens: String,
    pub decode_tokens: String,
}

pub(super) fn prompt_details(report: &Report) -> Vec<PromptDetail<'_>> {
    (0..)
        .zip(&report.inputs.prompts)
        .map(|(index, prompt)| PromptDetail {
            index,
            text: prompt.text.as_deref(),
            rendered: prompt.rendered.as_deref(),
            tokens: output::join(&prompt.tokens),
            decode_tokens: output::join(&prompt.decode_tokens),
        })
        .collect()
}

pub(super) fn prompts(report: &Report) -> Table {
    let prompts = &report.inputs.prompts;
    let mut columns = vec![
        ("Prompt", Kind::Number),
        ("Source", Kind::Code),
        ("Tokens", Kind::Number),
        ("Decode steps", Kind::Number),
        ("Text", Kind::Text),
        ("SHA-256 of the IDs", Kind::Code),
    ];
    let any_rendered = prompts.iter().any(|p| p.rendered.is_some());
    if any_rendered {
        columns.push(("As the chat template renders it", Kind::Code));
    }
    let mut table = Table::new(&columns);
    for (index, prompt) in prompts.iter().enumerate() {
        let mut cells = vec![
            index.to_string(),
            prompt.source.clone(),
            number::count(prompt.tokens.len() as u64),
            number::count(prompt.decode_tokens.len() as u64),
            excerpt(prompt.text.as_deref().unwrap_or("token IDs given")),
            prompt.sha256.clone(),
        ];
        if any_rendered {
            cells.push(prompt.rendered.as_deref().map(excerpt).unwrap_or_default());
        }
        table.push(State::Plain, cells);
    }
    table
}

fn excerpt(text: &str) -> String {
    if text.chars().count() > EXCERPT {
        text.chars().take(EXCERPT - 1).chain(['…']).collect()
    } else {
        text.to_owned()
    }
}

pub(super) fn limits(report: &Report) -> Table {
    let profile = &report.inputs.profile;
    let mut table = Table::new(&[("Tap", Kind::Code), ("Largest NMSE of a row", Kind::Number)]);
    for (tap, nmse) in &profile.isolated_nmse {
        table.push(State::Plain, vec![tap.clone(), limit(Some(*nmse))]);
    }
    if let Some(nmse) = profile.cumulative_logits_nmse {
        let name = "logits, cumulative".to_owned();
        table.push(State::Plain, vec![name, limit(Some(nmse))]);
    }
    table
}

type Pairs = fn(&Engine) -> &BTreeMap<String, String>;

/// What both engines say about themselves, side by side.
pub(super) fn engines(report: &Report) -> Table {
    let (reference, candidate) = (&report.engines.reference, &report.engines.candidate);
    let mut table = Table::new(&[
        ("", Kind::Text),
        ("Reference", Kind::Code),
        ("Candidate", Kind::Code),
    ]);
    let mut push = |name: &str, of: &dyn Fn(&Engine) -> String| {
        table.push(
            State::Plain,
            vec![name.to_owned(), of(reference), of(candidate)],
        );
    };
    push("engine", &|engine| engine.name.clone());
    push("version", &|engine| {
        text_or_not_measured(engine.version.as_deref())
    });
    let settings: Pairs = |engine| &engine.settings;
    let build: Pairs = |engine| &engine.build;
    for map in [settings, build] {
        let keys = map(reference)
            .keys()
            .chain(map(candidate).keys())
            .collect::<std::collections::BTreeSet<_>>();
        for key in keys {
            push(key, &|engine| {
                map(engine).get(key).cloned().unwrap_or_default()
            });
        }
    }
    table
}

pub(super) fn failures(report: &Report) -> Vec<Failure<'_>> {
    let engines = report.engines.by_role().into_iter();
    let failures = engines.filter_map(|(role, engine)| {
        Some(Failure {
            sentence: verdict::failure(role, engine)?,
            log_tail: engine.failure.as_ref()?.log_tail.as_slice(),
        })
    });
    failures.collect()
}

pub(super) fn environment(report: &Report) -> Table {
    let environment = &report.environment;
    Table::pairs(vec![
        ("Started", report.created.clone()),
        ("crossval", environment.crossval_version.clone()),
        (
            "Git revision",
            environment
                .git_revision
                .clone()
                .unwrap_or_else(|| "built outside a checkout".to_owned()),
        ),
        ("rustc", environment.rustc.clone()),
        ("Build profile", environment.profile.clone()),
        ("Target", environment.target.clone()),
        (
            "Features at compile time",
            environment.target_features.join(" "),
        ),
        ("Operating system", environment.os.clone()),
        ("CPU", text_or_not_measured(environment.cpu.as_deref())),
        ("CPU features found", environment.cpu_features.join(" ")),
        ("Logical CPUs", environment.cpus.to_string()),
        (
            "Memory",
            number::or_not_measured(environment.memory_bytes.map(|b| b as f64), number::bytes),
        ),
    ])
}

/// The command line, quoted for a POSIX shell.
pub(super) fn command(report: &Report) -> String {
    report
        .command
        .iter()
        .map(|word| quote(word))
        .collect::<Vec<_>>()
        .join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn shell_quoting() {
        let cases = [
            ("--model", "--model"),
            ("a b", "'a b'"),
            ("", "''"),
            ("it's", r"'it'\''s'"),
            ("$(rm)", "'$(rm)'"),
            ("~/x", "'~/x'"),
        ];
        for (word, want) in cases {
            assert_eq!(quote(word), want);
        }
    }
}
