//! One text through both tokenizers, and back.

use crossval_protocol::{DecodeOptions, EncodeOptions};
use reports::model::Role;

use crate::engine::{Engine, EngineError, Failed, by};
use crate::session::pair::Pair;

/// How tokens are turned back into text for the comparison.
pub const DECODINGS: [DecodeOptions; 2] = [
    DecodeOptions {
        remove_special: false,
        unparse_special: true,
    },
    DecodeOptions {
        remove_special: true,
        unparse_special: false,
    },
];

/// What an engine answered, or why it refused to.
pub type Answer<T> = Result<T, String>;

/// What both made of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared {
    /// Token IDs of the reference.
    pub reference: Answer<Vec<u32>>,
    /// Token IDs of the candidate.
    pub candidate: Answer<Vec<u32>>,
    /// Where the same tokens, the reference's, became another text.
    pub texts: Vec<TextDifference>,
}

/// Two texts of the same tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextDifference {
    /// How special tokens were treated.
    pub options: DecodeOptions,
    /// The reference's text.
    pub reference: Answer<Vec<u8>>,
    /// The candidate's.
    pub candidate: Answer<Vec<u8>>,
}

impl Compared {
    /// Whether both gave the same tokens and from them the same texts, or both refused.
    pub fn equal(&self) -> bool {
        match (&self.reference, &self.candidate) {
            (Ok(r), Ok(c)) => r == c && self.texts.is_empty(),
            (Err(_), Err(_)) => true,
            _ => false,
        }
    }

    /// Index of the first token that differs, or that one has and the other has not.
    pub fn first_difference(&self) -> Option<usize> {
        let (r, c) = (self.reference.as_ref().ok()?, self.candidate.as_ref().ok()?);
        let common = r.iter().zip(c).take_while(|(r, c)| r == c).count();
        (common < r.len().max(c.len())).then_some(common)
    }
}

/// Tokenizes a text, of [`MAX_TEXT`](crossval_protocol::MAX_TEXT) bytes at most, in both engines at the same time, and
/// turns the reference's tokens back into text.
///
/// # Errors
/// If an engine dies or breaks the protocol.
pub fn compare(pair: &mut Pair, text: &[u8], options: EncodeOptions) -> Result<Compared, Failed> {
    let [reference, candidate] = both(
        pair,
        |engine| engine.begin_tokenize(text, options),
        |engine| Ok(engine.end_tokenize()?.0),
    )?;
    let mut texts = Vec::new();
    if let (Ok(tokens), Ok(_)) = (&reference, &candidate) {
        for options in DECODINGS {
            let [reference, candidate] = both(
                pair,
                |engine| engine.begin_detokenize(tokens, options),
                |engine| engine.end_detokenize(),
            )?;
            if reference != candidate {
                texts.push(TextDifference {
                    options,
                    reference,
                    candidate,
                });
            }
        }
    }
    Ok(Compared {
        reference,
        candidate,
        texts,
    })
}

/// One request to both. Neither is left with an answer that nobody has read, whatever the other does.
fn both<T>(
    pair: &mut Pair,
    begin: impl Fn(&mut Engine) -> Result<(), EngineError>,
    end: impl Fn(&mut Engine) -> Result<T, EngineError>,
) -> Result<[Answer<T>; 2], Failed> {
    let begun = Role::BOTH.map(|role| (role, begin(pair.engine(role))));
    let [reference, candidate] = begun.map(|(role, begun)| {
        // What could not be sent has not been refused by the tokenizer.
        begun.map_err(by(role))?;
        match end(pair.engine(role)) {
            Ok(answer) => Ok(Ok(answer)),
            Err(EngineError::Refused { message, .. }) => Ok(Err(message)),
            Err(e) => Err(by(role)(e)),
        }
    });
    Ok([reference?, candidate?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(reference: &[u32], candidate: &[u32]) -> Compared {
        Compared {
            reference: Ok(reference.to_vec()),
            candidate: Ok(candidate.to_vec()),
            texts: Vec::new(),
        }
    }

    #[test]
    fn the_first_difference_may_be_an_end() {
        for (reference, candidate, first) in [
            (&[][..], &[][..], None),
            (&[1, 2], &[1, 2], None),
            (&[1, 2], &[1, 3], Some(1)),
            (&[1, 2], &[1, 2, 3], Some(2)),
            (&[1], &[], Some(0)),
        ] {
            let compared = compared(reference, candidate);
            assert_eq!(compared.first_difference(), first);
            assert_eq!(compared.equal(), first.is_none());
        }
    }

    #[test]
    fn one_refusal_is_a_difference_and_two_are_none() {
        let mut compared = compared(&[1], &[1]);
        compared.candidate = Err("not UTF-8".into());
        assert!(!compared.equal());
        compared.reference = Err("invalid character".into());
        assert!(compared.equal());
        assert_eq!(compared.first_difference(), None);
    }

    #[test]
    fn another_text_is_a_difference() {
        let mut compared = compared(&[1], &[1]);
        compared.texts.push(TextDifference {
            options: DECODINGS[0],
            reference: Ok(b" a".to_vec()),
            candidate: Ok(b"a".to_vec()),
        });
        assert!(!compared.equal());
    }
}
