//! Many random strings through both tokenizers.

use crossval_protocol::EncodeOptions;
use reports::model::Role;

use super::compare::{Compared, compare};
use super::escape;
use super::generate::{Case, Generator, Vocabulary};
use crate::engine::{Failed, by};
use crate::progress::Progress;
use crate::session::pair::Pair;
use crossval_protocol::VocabFacts;

/// Mismatches that are shrunk and kept; the others are counted.
const KEPT: usize = 5;

/// Comparisons spent on shrinking one string.
const SHRINKING_STEPS: usize = 2_000;

/// What to try.
#[derive(Clone, Debug)]
pub struct FuzzOptions {
    /// Number of strings.
    pub count: u64,
    /// Equal seeds, vocabularies and corpora give equal strings.
    pub seed: u64,
    /// Text for slices; a built-in passage if there is none.
    pub corpus: Option<Vec<u8>>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct FuzzReport {
    /// Strings compared.
    pub strings: u64,
    /// Their length in all.
    pub bytes: u64,
    /// Tokens that the reference made of them.
    pub tokens: u64,
    /// Strings that both engines refused.
    pub refused_by_both: u64,
    /// Strings on which the engines differ.
    pub different: u64,
    /// The first of them.
    pub mismatches: Vec<Mismatch>,
    /// Tokens whose text by themselves differs.
    pub different_pieces: u64,
    /// The first of them.
    pub piece_mismatches: Vec<PieceMismatch>,
}

/// A string on which the engines differ.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Its number; with the seed it gives the string.
    pub index: u64,
    /// How special tokens were treated.
    pub options: EncodeOptions,
    /// Length of the string as generated, bytes.
    pub generated_bytes: usize,
    /// As little of it as still differs.
    pub text: Vec<u8>,
    /// What the engines make of that.
    pub comparison: Compared,
}

/// A token whose text by itself differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceMismatch {
    /// The token.
    pub id: u32,
    /// The reference's text.
    pub reference: Vec<u8>,
    /// The candidate's.
    pub candidate: Vec<u8>,
}

impl FuzzReport {
    /// Whether nothing differs.
    pub fn equal(&self) -> bool {
        self.different == 0 && self.different_pieces == 0
    }
}

/// Compares the texts of all tokens, then both engines on `options.count` strings.
///
/// # Errors
/// If an engine dies or breaks the protocol: its task says on which string.
pub fn fuzz(
    pair: &mut Pair<'_>,
    vocab: &VocabFacts,
    options: FuzzOptions,
    progress: Progress<'_>,
) -> Result<FuzzReport, Failed> {
    let [reference, candidate] = pieces(pair, vocab.n_vocab)?;
    let different = (0..).zip(reference.iter().zip(&candidate));
    let different = different.filter(|(_, (r, c))| r != c);
    let piece_mismatches: Vec<PieceMismatch> = different
        .map(|(id, (r, c))| PieceMismatch {
            id,
            reference: r.clone(),
            candidate: c.clone(),
        })
        .collect();
    // What one engine has got wrong is in the strings as the other has it, too.
    let mut texts = candidate;
    texts.extend(piece_mismatches.iter().map(|piece| piece.reference.clone()));
    let mut report = FuzzReport {
        strings: 0,
        bytes: 0,
        tokens: 0,
        refused_by_both: 0,
        different: 0,
        mismatches: Vec::new(),
        different_pieces: piece_mismatches.len() as u64,
        piece_mismatches: piece_mismatches.into_iter().take(KEPT).collect(),
    };
    let vocabulary = Vocabulary {
        special: vocab.special.iter().map(|s| s.clone().into()).collect(),
        pieces: texts,
    };
    let generator = Generator::new(options.seed, vocabulary, options.corpus);
    for index in 0..options.count {
        let mut string = FuzzedString {
            pair,
            seed: options.seed,
            index,
        };
        let case = generator.case(index);
        let comparison = string.compare(&case.text, case.options)?;
        report.strings += 1;
        report.bytes += case.text.len() as u64;
        match (&comparison.reference, &comparison.candidate) {
            (Ok(tokens), _) => report.tokens += tokens.len() as u64,
            (Err(_), Err(_)) => report.refused_by_both += 1,
            _ => {}
        }
        if !comparison.equal() {
            report.different += 1;
            if report.mismatches.len() < KEPT {
                let (text, comparison) = string.shrink(&case, comparison)?;
                report.mismatches.push(Mismatch {
                    index,
                    options: case.options,
                    generated_bytes: case.text.len(),
                    text,
                    comparison,
                });
            }
        }
        progress.done(1);
    }
    Ok(report)
}

/// The text of every token by itself, of the reference and the candidate.
fn pieces(pair: &mut Pair<'_>, n_vocab: usize) -> Result<[Vec<Vec<u8>>; 2], Failed> {
    let ids: Vec<u32> = (0..).take(n_vocab).collect();
    Ok([
        pair.reference.pieces(&ids).map_err(by(Role::Reference))?,
        pair.candidate.pieces(&ids).map_err(by(Role::Candidate))?,
    ])
}

/// The string that the engines are at.
struct FuzzedString<'a, 'b> {
    pair: &'a mut Pair<'b>,
    seed: u64,
    index: u64,
}

impl FuzzedString<'_, '_> {
    fn compare(&mut self, text: &[u8], options: EncodeOptions) -> Result<Compared, Failed> {
        let (index, seed, escaped) = (self.index, self.seed, escape(text));
        let task = format!("tokenizing string {index} of seed {seed}: \"{escaped}\"");
        self.pair.set_task(&task);
        compare(self.pair, text, options)
    }

    /// Leaves out what is not needed for the engines to differ: halves, then quarters, down to characters.
    fn shrink(
        &mut self,
        case: &Case,
        mut comparison: Compared,
    ) -> Result<(Vec<u8>, Compared), Failed> {
        let mut units = units(&case.text);
        let mut steps = 0;
        let mut size = units.len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            let mut shorter = false;
            while at < units.len() && steps < SHRINKING_STEPS {
                steps += 1;
                let end = (at + size).min(units.len());
                let rest = [&units[..at], &units[end..]].concat();
                let of_rest = self.compare(&rest.concat(), case.options)?;
                if of_rest.equal() {
                    at = end;
                } else {
                    (comparison, units, shorter) = (of_rest, rest, true);
                }
            }
            // What could not be left out before may be superfluous now.
            if size > 1 || !shorter {
                size /= 2;
            }
        }
        Ok((units.concat(), comparison))
    }
}

/// Characters, and bytes that belong to none.
fn units(text: &[u8]) -> Vec<Vec<u8>> {
    let chunks = text.utf8_chunks().flat_map(|chunk| {
        let characters = chunk.valid().chars().map(|c| c.to_string().into_bytes());
        let bytes = chunk.invalid().iter().map(|&byte| vec![byte]);
        characters.chain(bytes)
    });
    chunks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_characters_and_stray_bytes() {
        let text = "aé\u{1f600}".as_bytes();
        assert_eq!(units(text).len(), 3);
        let broken = [text, b"\xf0\x9f", b"b"].concat();
        assert_eq!(units(&broken).len(), 6);
        assert_eq!(units(&broken).concat(), broken);
    }
}
