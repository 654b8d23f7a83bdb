//! Token parity: what both tokenizers make of the same texts.

use serde::Serialize;

use super::{Kind, State, Table};
use crate::model::{Report, TokenComparison, TokenParity, TokensOf};
use crate::number;

/// Token parity in words.
#[derive(Serialize)]
pub(crate) struct Tokenizer {
    pub sentences: Vec<String>,
    /// One row per text of the run.
    pub texts: Table,
    /// Per text on which the engines part: its name, and the tokens around that place.
    pub partings: Vec<(String, Table)>,
    /// One row per generated string that is shown.
    pub generated: Table,
    /// One row per token that is shown.
    pub pieces: Table,
}

/// `None` for a report from before there was such a section.
pub(super) fn tokenizer(report: &Report) -> Option<Tokenizer> {
    let parity = report.tokenizer.as_ref()?;
    Some(Tokenizer {
        sentences: sentences(report, parity),
        texts: texts(parity),
        partings: partings(parity),
        generated: generated(parity),
        pieces: pieces(parity),
    })
}

fn sentences(report: &Report, parity: &TokenParity) -> Vec<String> {
    let fed = match &parity.fed {
        Some(engine) => {
            format!("Both engines were fed the token IDs of {engine}, whatever the tokenizers say.")
        }
        None => "Both engines were fed the token IDs given.".to_owned(),
    };
    if let Some(why) = &parity.not_compared {
        return vec![fed, format!("The tokenizers were not compared: {why}.")];
    }
    let mut sentences = vec![fed];
    if !parity.texts.is_empty() {
        let equal = parity.texts.iter().filter(|text| text.comparison.equal);
        let (equal, all) = (equal.count() as u64, parity.texts.len() as u64);
        sentences.push(format!(
            "The tokenizers agree on {} of {} of the run.",
            number::count(equal),
            number::plural(all, "text")
        ));
    }
    let generated = &parity.generated;
    if let (Some(compared), Some(different)) = (generated.compared, generated.different) {
        let strings = number::plural(compared, "generated string");
        sentences.push(match different {
            0 => format!(
                "The tokenizers agree on {strings} (seed {}).",
                generated.seed
            ),
            n => format!(
                "The tokenizers differ on {} of {strings} (seed {}).",
                number::count(n),
                generated.seed
            ),
        });
    }
    if let Some(n @ 1..) = generated.different_pieces {
        let tokens = number::plural(report.model.n_vocab as u64, "token");
        sentences.push(format!(
            "Tokens with another text by themselves: {} of {tokens}.",
            number::count(n)
        ));
    }
    sentences
}

fn state(comparison: &TokenComparison) -> State {
    if comparison.equal {
        State::Pass
    } else {
        State::Fail
    }
}

fn texts(parity: &TokenParity) -> Table {
    let mut table = Table::new(&[
        ("Text", Kind::Text),
        ("Source", Kind::Code),
        ("Reference, tokens", Kind::Number),
        ("Candidate, tokens", Kind::Number),
        ("Difference", Kind::Text),
        ("Back to text", Kind::Text),
    ]);
    let count = |of: &TokensOf| of.tokens.map_or("refused".to_owned(), number::count);
    for text in &parity.texts {
        let comparison = &text.comparison;
        table.push(
            state(comparison),
            vec![
                text.name(),
                text.source.clone(),
                count(&comparison.reference),
                count(&comparison.candidate),
                difference(comparison),
                match comparison.same_text {
                    Some(true) => "same".to_owned(),
                    Some(false) => "differs".to_owned(),
                    None => number::NOT_MEASURED.to_owned(),
                },
            ],
        );
    }
    table
}

fn difference(comparison: &TokenComparison) -> String {
    comparison
        .difference()
        .unwrap_or_else(|| match &comparison.reference.refused {
            Some(_) => "none: both refuse it".to_owned(),
            None => "none".to_owned(),
        })
}

fn partings(parity: &TokenParity) -> Vec<(String, Table)> {
    let texts = parity.texts.iter().filter_map(|text| {
        let around = around(&text.comparison)?;
        Some((text.name(), around))
    });
    texts.collect()
}

/// The tokens around the first difference, side by side.
fn around(comparison: &TokenComparison) -> Option<Table> {
    let first = comparison.first_difference?;
    let mut table = Table::new(&[
        ("Token", Kind::Number),
        ("Reference", Kind::Code),
        ("Candidate", Kind::Code),
    ]);
    let (reference, candidate) = (&comparison.reference.around, &comparison.candidate.around);
    let indices: std::collections::BTreeSet<usize> = reference
        .iter()
        .chain(candidate)
        .map(|token| token.index)
        .collect();
    for index in indices {
        let cell = |tokens: &[crate::model::TokenAt]| {
            let token = tokens.iter().find(|token| token.index == index);
            token.map(ToString::to_string).unwrap_or_default()
        };
        let state = if index == first {
            State::Fail
        } else {
            State::Plain
        };
        table.push(
            state,
            vec![index.to_string(), cell(reference), cell(candidate)],
        );
    }
    Some(table)
}

fn generated(parity: &TokenParity) -> Table {
    let mut table = Table::new(&[
        ("String", Kind::Number),
        ("As little of it as differs", Kind::Code),
        ("BOS added", Kind::Text),
        ("Special tokens read", Kind::Text),
        ("Difference", Kind::Text),
    ]);
    let yes_no = |yes: bool| if yes { "yes" } else { "no" }.to_owned();
    for text in &parity.generated.first {
        table.push(
            State::Fail,
            vec![
                text.index.to_string(),
                text.text.clone(),
                yes_no(text.add_special),
                yes_no(text.parse_special),
                difference(&text.comparison),
            ],
        );
    }
    table
}

fn pieces(parity: &TokenParity) -> Table {
    let mut table = Table::new(&[
        ("Token ID", Kind::Number),
        ("Text of the reference", Kind::Code),
        ("Text of the candidate", Kind::Code),
    ]);
    for piece in &parity.generated.first_pieces {
        table.push(
            State::Fail,
            vec![
                piece.id.to_string(),
                piece.reference.clone(),
                piece.candidate.clone(),
            ],
        );
    }
    table
}
