//! One text through both tokenizers, and back.

use crossval_protocol::{DecodeOptions, EncodeOptions};

use crate::engine::{Engine, EngineError};
use crate::session::lockstep::Side;

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

/// Two engines with a vocabulary loaded.
#[derive(Debug)]
pub struct Pair<'a> {
    /// The engine compared against.
    pub reference: &'a mut Engine,
    /// The engine under test.
    pub candidate: &'a mut Engine,
}

/// What both made of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
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

impl Comparison {
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

impl Pair<'_> {
    /// Tokenizes a text, of [`MAX_TEXT`](crossval_protocol::MAX_TEXT) bytes at most, in both engines at the same time, and turns
    /// the reference's tokens back into text.
    ///
    /// # Errors
    /// If an engine dies or breaks the protocol.
    pub fn compare(&mut self, text: &[u8], options: EncodeOptions) -> Result<Comparison, Side> {
        let [reference, candidate] = self.both(
            |engine| engine.begin_tokenize(text, options),
            |engine| Ok(engine.end_tokenize()?.0),
        )?;
        let mut texts = Vec::new();
        if let (Ok(tokens), Ok(_)) = (&reference, &candidate) {
            for options in DECODINGS {
                let [reference, candidate] = self.both(
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
        Ok(Comparison {
            reference,
            candidate,
            texts,
        })
    }

    /// One request to both. Neither is left with an answer that nobody has read, whatever the other does.
    fn both<T>(
        &mut self,
        begin: impl Fn(&mut Engine) -> Result<(), EngineError>,
        end: impl Fn(&mut Engine) -> Result<T, EngineError>,
    ) -> Result<[Answer<T>; 2], Side> {
        let begun = [begin(self.reference), begin(self.candidate)];
        let answer = |engine: &mut Engine, begun: Result<(), EngineError>| {
            // What could not be sent has not been refused by the tokenizer.
            begun?;
            match end(engine) {
                Ok(answer) => Ok(Ok(answer)),
                Err(EngineError::Refused { message, .. }) => Ok(Err(message)),
                Err(e) => Err(e),
            }
        };
        let [of_reference, of_candidate] = begun;
        let reference = answer(self.reference, of_reference);
        let candidate = answer(self.candidate, of_candidate);
        Ok([
            reference.map_err(Side::Reference)?,
            candidate.map_err(Side::Candidate)?,
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comparison(reference: &[u32], candidate: &[u32]) -> Comparison {
        Comparison {
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
            let comparison = comparison(reference, candidate);
            assert_eq!(comparison.first_difference(), first);
            assert_eq!(comparison.equal(), first.is_none());
        }
    }

    #[test]
    fn one_refusal_is_a_difference_and_two_are_none() {
        let mut comparison = comparison(&[1], &[1]);
        comparison.candidate = Err("not UTF-8".into());
        assert!(!comparison.equal());
        comparison.reference = Err("invalid character".into());
        assert!(comparison.equal());
        assert_eq!(comparison.first_difference(), None);
    }

    #[test]
    fn another_text_is_a_difference() {
        let mut comparison = comparison(&[1], &[1]);
        comparison.texts.push(TextDifference {
            options: DECODINGS[0],
            reference: Ok(b" a".to_vec()),
            candidate: Ok(b"a".to_vec()),
        });
        assert!(!comparison.equal());
    }
}
