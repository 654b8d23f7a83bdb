//! Token parity of the two engines of a run. It is apart from the numbers: for those, both are fed one list of IDs.

use crossval_protocol::EncodeOptions;
use reports::model::{
    GeneratedText, GeneratedTexts, PieceDifference, Role, TokenAt, TokenComparison, TokenParity,
    TokenizedText, TokensOf,
};

use super::Fed;
use crate::engine::{Engine, EngineError, Failed, by};
use crate::progress::Progress;
use crate::session::loaded::Loaded;
use crate::session::pair::Pair;
use crate::session::prompts::PromptSource;
use crate::tokens::{self, Answer, Compared, FuzzOptions, escape};

/// Of the generated strings: they are those of `crossval tokenize --fuzz`.
const SEED: u64 = 0;

/// Tokens shown before and after the first that differs.
const CONTEXT: usize = 3;

/// Nothing was compared, for a reason.
pub(super) fn not_compared(fed: Option<String>, why: String) -> TokenParity {
    TokenParity {
        fed,
        not_compared: Some(why),
        texts: Vec::new(),
        generated: GeneratedTexts {
            seed: SEED,
            compared: None,
            different: None,
            first: Vec::new(),
            different_pieces: None,
            first_pieces: Vec::new(),
        },
    }
}

/// Compares both tokenizers on the texts of the run, and on generated strings.
///
/// # Errors
/// The engine that failed.
pub(super) fn compare(
    engines: &mut Loaded,
    fed: &Fed,
    progress: Progress<'_>,
) -> Result<TokenParity, Failed> {
    let vocab = match engines.comparable_vocab() {
        Ok(vocab) => vocab.clone(),
        Err(why) => return Ok(not_compared(fed.tokenizer.clone(), why)),
    };
    progress.stage("tokenizing");
    let mut pair = engines.pair();
    let mut texts = Vec::new();
    for (index, source) in fed.sources.iter().enumerate() {
        let (text, source, add_special) = match source {
            PromptSource::Text { text, source } => (text, source, true),
            PromptSource::Rendered {
                rendered, source, ..
            } => (rendered, source, false),
            PromptSource::Tokens(_) | PromptSource::Recorded { .. } => continue,
        };
        let options = EncodeOptions {
            add_special,
            parse_special: true,
        };
        let task = format!("tokenizing prompt {index}");
        texts.push(TokenizedText {
            prompt: Some(index),
            source: source.clone(),
            comparison: compare_text(&mut pair, text, options, &task)?,
        });
    }
    if let Some(text) = fed.text {
        let options = EncodeOptions {
            add_special: true,
            parse_special: false,
        };
        let task = format!("tokenizing {}", text.source);
        texts.push(TokenizedText {
            prompt: None,
            source: text.source.clone(),
            comparison: compare_text(&mut pair, &text.text, options, &task)?,
        });
    }
    let fuzzed = FuzzOptions {
        count: fed.strings,
        seed: SEED,
        corpus: None,
    };
    progress.steps(fed.strings);
    let found = tokens::fuzz(&mut pair, &vocab, fuzzed, progress)?;
    let mut first = Vec::new();
    for mismatch in found.mismatches {
        first.push(GeneratedText {
            index: mismatch.index,
            text: escape(&mismatch.text),
            add_special: mismatch.options.add_special,
            parse_special: mismatch.options.parse_special,
            comparison: describe(&mut pair, mismatch.comparison)?,
        });
    }
    Ok(TokenParity {
        fed: fed.tokenizer.clone(),
        not_compared: None,
        texts,
        generated: GeneratedTexts {
            seed: SEED,
            compared: Some(found.strings),
            different: Some(found.different),
            first,
            different_pieces: Some(found.different_pieces),
            first_pieces: found
                .piece_mismatches
                .iter()
                .map(|piece| PieceDifference {
                    id: piece.id,
                    reference: escape(&piece.reference),
                    candidate: escape(&piece.candidate),
                })
                .collect(),
        },
    })
}

fn compare_text(
    pair: &mut Pair,
    text: &str,
    options: EncodeOptions,
    task: &str,
) -> Result<TokenComparison, Failed> {
    pair.set_task(task);
    let comparison = tokens::compare(pair, text.as_bytes(), options)?;
    describe(pair, comparison)
}

fn describe(pair: &mut Pair, comparison: Compared) -> Result<TokenComparison, Failed> {
    let first = comparison.first_difference();
    let both = comparison.reference.is_ok() && comparison.candidate.is_ok();
    let equal = comparison.equal();
    Ok(TokenComparison {
        equal,
        reference: of_engine(pair.reference, comparison.reference, first)
            .map_err(by(Role::Reference))?,
        candidate: of_engine(pair.candidate, comparison.candidate, first)
            .map_err(by(Role::Candidate))?,
        first_difference: first,
        same_text: both.then_some(comparison.texts.is_empty()),
    })
}

fn of_engine(
    engine: &mut Engine,
    answer: Answer<Vec<u32>>,
    first: Option<usize>,
) -> Result<TokensOf, EngineError> {
    let ids = match answer {
        Ok(ids) => ids,
        Err(why) => {
            return Ok(TokensOf {
                refused: Some(why),
                tokens: None,
                around: Vec::new(),
            });
        }
    };
    let around = match first {
        Some(first) => around(engine, &ids, first)?,
        None => Vec::new(),
    };
    Ok(TokensOf {
        refused: None,
        tokens: Some(ids.len() as u64),
        around,
    })
}

fn around(engine: &mut Engine, ids: &[u32], first: usize) -> Result<Vec<TokenAt>, EngineError> {
    let from = first.saturating_sub(CONTEXT).min(ids.len());
    let to = (first + 1 + CONTEXT).min(ids.len());
    let ids = &ids[from..to];
    let pieces = match engine.pieces(ids) {
        Ok(pieces) => pieces.iter().map(|piece| Some(escape(piece))).collect(),
        // As for an ID that is outside the vocabulary.
        Err(EngineError::Refused { .. }) => vec![None; ids.len()],
        Err(e) => return Err(e),
    };
    let tokens = ids.iter().zip(pieces).enumerate();
    Ok(tokens
        .map(|(i, (&id, piece))| TokenAt {
            index: from + i,
            id,
            piece,
        })
        .collect())
}
