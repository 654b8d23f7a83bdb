//! Mistakes in the tokenizer.

use std::collections::{BTreeMap, HashMap};

use crossval_protocol::{Backend, DecodeOptions, EncodeOptions, Refusal};

/// A way of getting texts and tokens wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenizerMistake {
    /// No BOS.
    BosLeftOut,
    /// BOS twice.
    BosTwice,
    /// Special tokens that are spelt out are read as text.
    SpecialNotParsed,
    /// Special tokens that are spelt out are always read as such.
    SpecialAlwaysParsed,
    /// One token is never merged: its two parts stay.
    MergeMissing,
    /// One token has the ID after its own.
    IdOffByOne,
    /// One token by itself has another text.
    PieceWrong,
    /// Capital letters become small ones.
    CaseFolded,
    /// Spaces in front are dropped.
    LeadingSpaceDropped,
    /// Spaces at the end are dropped.
    TrailingSpaceDropped,
    /// A text ends before its first NUL.
    EndsAtNul,
    /// Line breaks become spaces.
    LineBreaksAreSpaces,
    /// The last token is left out.
    LastTokenLeftOut,
    /// The last byte of a text made from tokens is left out.
    TextCutShort,
    /// The names of special tokens are left out of texts made from tokens.
    SpecialNamesLeftOut,
}

impl TokenizerMistake {
    /// Every one.
    pub const ALL: [TokenizerMistake; 15] = [
        TokenizerMistake::BosLeftOut,
        TokenizerMistake::BosTwice,
        TokenizerMistake::SpecialNotParsed,
        TokenizerMistake::SpecialAlwaysParsed,
        TokenizerMistake::MergeMissing,
        TokenizerMistake::IdOffByOne,
        TokenizerMistake::PieceWrong,
        TokenizerMistake::CaseFolded,
        TokenizerMistake::LeadingSpaceDropped,
        TokenizerMistake::TrailingSpaceDropped,
        TokenizerMistake::EndsAtNul,
        TokenizerMistake::LineBreaksAreSpaces,
        TokenizerMistake::LastTokenLeftOut,
        TokenizerMistake::TextCutShort,
        TokenizerMistake::SpecialNamesLeftOut,
    ];

    /// Its name in a fault's text form.
    pub fn name(self) -> &'static str {
        match self {
            TokenizerMistake::BosLeftOut => "bos-left-out",
            TokenizerMistake::BosTwice => "bos-twice",
            TokenizerMistake::SpecialNotParsed => "special-not-parsed",
            TokenizerMistake::SpecialAlwaysParsed => "special-always-parsed",
            TokenizerMistake::MergeMissing => "merge-missing",
            TokenizerMistake::IdOffByOne => "id-off-by-one",
            TokenizerMistake::PieceWrong => "piece-wrong",
            TokenizerMistake::CaseFolded => "case-folded",
            TokenizerMistake::LeadingSpaceDropped => "leading-space-dropped",
            TokenizerMistake::TrailingSpaceDropped => "trailing-space-dropped",
            TokenizerMistake::EndsAtNul => "ends-at-nul",
            TokenizerMistake::LineBreaksAreSpaces => "line-breaks-are-spaces",
            TokenizerMistake::LastTokenLeftOut => "last-token-left-out",
            TokenizerMistake::TextCutShort => "text-cut-short",
            TokenizerMistake::SpecialNamesLeftOut => "special-names-left-out",
        }
    }

    /// The mistake of that name.
    pub fn named(name: &str) -> Option<TokenizerMistake> {
        TokenizerMistake::ALL.into_iter().find(|m| m.name() == name)
    }

    /// Whether the number of a fault says which token it is about.
    pub(super) fn of_one_token(self) -> bool {
        matches!(
            self,
            TokenizerMistake::MergeMissing
                | TokenizerMistake::IdOffByOne
                | TokenizerMistake::PieceWrong
        )
    }

    /// What must be there for it to have consequences; `None` if it always has.
    pub(super) fn needs(self) -> Option<&'static str> {
        match self {
            TokenizerMistake::BosLeftOut | TokenizerMistake::BosTwice => {
                Some("a vocabulary with BOS in front")
            }
            TokenizerMistake::SpecialNotParsed
            | TokenizerMistake::SpecialAlwaysParsed
            | TokenizerMistake::SpecialNamesLeftOut => Some("a vocabulary with special tokens"),
            TokenizerMistake::MergeMissing => Some("tokens made of two others"),
            TokenizerMistake::CaseFolded
            | TokenizerMistake::LeadingSpaceDropped
            | TokenizerMistake::TrailingSpaceDropped
            | TokenizerMistake::EndsAtNul
            | TokenizerMistake::LineBreaksAreSpaces => {
                Some("a tokenizer that tells the texts apart")
            }
            _ => None,
        }
    }
}

/// A tokenizer with one mistake, in front of an engine's.
pub(super) struct FaultyTokenizer {
    mistake: TokenizerMistake,
    /// Which token, of those that it can be about.
    nth: usize,
    /// Two tokens whose texts together are that of a third.
    parts: HashMap<u32, [u32; 2]>,
    /// Tokens that it can be about, as they were met, with their number.
    met: BTreeMap<u32, usize>,
    n_vocab: usize,
    changed: u64,
}

impl FaultyTokenizer {
    pub(super) fn new(mistake: TokenizerMistake, nth: usize) -> FaultyTokenizer {
        FaultyTokenizer {
            mistake,
            nth,
            parts: HashMap::new(),
            met: BTreeMap::new(),
            n_vocab: 0,
            changed: 0,
        }
    }

    /// Answers changed so far.
    pub(super) fn changed(&self) -> u64 {
        self.changed
    }

    /// The engine has loaded a vocabulary.
    pub(super) fn load(&mut self, engine: &mut dyn Backend, n_vocab: usize) -> Result<(), Refusal> {
        self.n_vocab = n_vocab;
        if self.mistake != TokenizerMistake::MergeMissing {
            return Ok(());
        }
        let ids = 0..n_vocab as u32;
        let pieces = ids
            .map(|id| engine.piece(id))
            .collect::<Result<Vec<_>, _>>()?;
        let of_text: HashMap<&[u8], u32> = pieces.iter().map(Vec::as_slice).zip(0..).collect();
        for (piece, id) in pieces.iter().zip(0..) {
            let parts = (1..piece.len()).rev().find_map(|at| {
                let (head, tail) = piece.split_at(at);
                Some([*of_text.get(head)?, *of_text.get(tail)?])
            });
            self.parts.extend(parts.map(|parts| (id, parts)));
        }
        Ok(())
    }

    /// Whether the mistake is about a token; the `nth` that it could be about as texts go by.
    fn is_about(&mut self, id: u32) -> bool {
        let may_be = match self.mistake {
            TokenizerMistake::MergeMissing => self.parts.contains_key(&id),
            TokenizerMistake::IdOffByOne => true,
            _ => false,
        };
        let n = self.met.len();
        may_be && *self.met.entry(id).or_insert(n) == self.nth
    }

    pub(super) fn tokenize(
        &mut self,
        engine: &mut dyn Backend,
        text: &[u8],
        options: EncodeOptions,
    ) -> Result<Vec<u32>, Refusal> {
        let right = engine.tokenize(text, options);
        let wrong = self.tokenize_wrongly(engine, text, options);
        let same = match (&right, &wrong) {
            (Ok(right), Ok(wrong)) => right == wrong,
            (Err(_), Err(_)) => true,
            _ => false,
        };
        self.changed += u64::from(!same);
        wrong
    }

    fn tokenize_wrongly(
        &mut self,
        engine: &mut dyn Backend,
        text: &[u8],
        options: EncodeOptions,
    ) -> Result<Vec<u32>, Refusal> {
        let EncodeOptions {
            mut add_special,
            mut parse_special,
        } = options;
        let mut text = text.to_vec();
        match self.mistake {
            TokenizerMistake::BosLeftOut => add_special = false,
            TokenizerMistake::SpecialNotParsed => parse_special = false,
            TokenizerMistake::SpecialAlwaysParsed => parse_special = true,
            TokenizerMistake::CaseFolded => text.make_ascii_lowercase(),
            TokenizerMistake::LeadingSpaceDropped => text = text.trim_ascii_start().to_vec(),
            TokenizerMistake::TrailingSpaceDropped => text = text.trim_ascii_end().to_vec(),
            TokenizerMistake::EndsAtNul => {
                let end = text.iter().position(|&byte| byte == 0);
                text.truncate(end.unwrap_or(text.len()));
            }
            TokenizerMistake::LineBreaksAreSpaces => {
                for byte in text.iter_mut().filter(|byte| **byte == b'\n') {
                    *byte = b' ';
                }
            }
            _ => {}
        }
        let options = EncodeOptions {
            add_special,
            parse_special,
        };
        let mut tokens = engine.tokenize(&text, options)?;
        match self.mistake {
            TokenizerMistake::BosTwice if add_special => {
                let bare = EncodeOptions {
                    add_special: false,
                    ..options
                };
                let bare = engine.tokenize(&text, bare)?;
                if tokens.get(1..=bare.len()) == Some(&bare) {
                    tokens.splice(..0, tokens.first().copied());
                }
            }
            TokenizerMistake::LastTokenLeftOut if tokens.len() > 1 => {
                tokens.pop();
            }
            _ => {}
        }
        let mut out = Vec::new();
        for id in tokens {
            match self.is_about(id) {
                false => out.push(id),
                true if self.mistake == TokenizerMistake::MergeMissing => {
                    out.extend(self.parts[&id]);
                }
                true => out.push((id + 1) % self.n_vocab as u32),
            }
        }
        Ok(out)
    }

    pub(super) fn detokenize(
        &mut self,
        engine: &mut dyn Backend,
        ids: &[u32],
        options: DecodeOptions,
    ) -> Result<Vec<u8>, Refusal> {
        let right = engine.detokenize(ids, options)?;
        let mut wrong = right.clone();
        match self.mistake {
            TokenizerMistake::TextCutShort => {
                wrong.pop();
            }
            TokenizerMistake::SpecialNamesLeftOut => {
                let options = DecodeOptions {
                    unparse_special: false,
                    ..options
                };
                wrong = engine.detokenize(ids, options)?;
            }
            _ => {}
        }
        self.changed += u64::from(wrong != right);
        Ok(wrong)
    }

    pub(super) fn piece(&mut self, engine: &mut dyn Backend, id: u32) -> Result<Vec<u8>, Refusal> {
        let mut piece = engine.piece(id)?;
        let wrong = self.mistake == TokenizerMistake::PieceWrong;
        if wrong && id as usize == self.nth % self.n_vocab.max(1) {
            piece.push(b'?');
            self.changed += 1;
        }
        Ok(piece)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Faults, FaultyBackend, Injectors};
    use super::*;
    use crate::rust::RustBackend;

    /// A vocabulary with BOS.
    const SPM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/vocab-spm.gguf");

    fn engine(faults: &Faults) -> FaultyBackend<RustBackend> {
        let engine = RustBackend::new(Injectors::default(), None).unwrap();
        let mut engine = FaultyBackend::new(engine, faults, BTreeMap::new());
        engine.load_vocab(Path::new(SPM)).unwrap();
        engine
    }

    /// Tokens, the text made from them, and all pieces.
    fn answers(
        engine: &mut FaultyBackend<RustBackend>,
        text: &str,
    ) -> (Vec<u32>, Vec<u8>, Vec<Vec<u8>>) {
        let options = EncodeOptions {
            add_special: true,
            parse_special: text.starts_with('<'),
        };
        let unparsed = DecodeOptions {
            remove_special: false,
            unparse_special: true,
        };
        let tokens = engine.tokenize(text.as_bytes(), options).unwrap();
        let ids = [1, 300, 301];
        let text = engine.detokenize(&ids, unparsed).unwrap();
        let pieces = (0..400).map(|id| engine.piece(id).unwrap()).collect();
        (tokens, text, pieces)
    }

    #[test]
    fn each_mistake_changes_what_it_says_and_nothing_else() {
        let mut right = engine(&Faults::default());
        let plain = "Once upon a time";
        for mistake in TokenizerMistake::ALL {
            let text = match mistake {
                TokenizerMistake::SpecialNotParsed => "<s>Once",
                TokenizerMistake::SpecialAlwaysParsed => "Once<s>",
                TokenizerMistake::CaseFolded => "ONCE",
                TokenizerMistake::LeadingSpaceDropped => "  Once",
                TokenizerMistake::TrailingSpaceDropped => "Once  ",
                TokenizerMistake::EndsAtNul => "Once\0more",
                TokenizerMistake::LineBreaksAreSpaces => "Once\nmore",
                _ => plain,
            };
            let faults: Faults = format!("{}=1", mistake.name()).parse().unwrap();
            let mut wrong = engine(&faults);
            let (of_right, of_wrong) = (answers(&mut right, text), answers(&mut wrong, text));
            let same = (
                of_right.0 == of_wrong.0,
                of_right.1 == of_wrong.1,
                of_right.2 == of_wrong.2,
            );
            let expected = match mistake {
                TokenizerMistake::PieceWrong => (true, true, false),
                TokenizerMistake::TextCutShort | TokenizerMistake::SpecialNamesLeftOut => {
                    (true, false, true)
                }
                _ => (false, true, true),
            };
            assert_eq!(same, expected, "{mistake:?}");
            assert!(wrong.changed_values().unwrap() > 0, "{mistake:?}");
            if text != plain {
                let mut wrong = engine(&faults);
                assert_eq!(answers(&mut wrong, "once"), answers(&mut right, "once"));
                assert_eq!(wrong.changed_values(), Some(0), "{mistake:?}");
            }
            assert_eq!(TokenizerMistake::named(mistake.name()), Some(mistake));
        }
    }

    #[test]
    fn a_merge_that_is_missing_leaves_its_two_parts() {
        let options = EncodeOptions {
            add_special: false,
            parse_special: false,
        };
        let text = b"the the the";
        let right = engine(&Faults::default()).tokenize(text, options).unwrap();
        let mut faulty = engine(&"merge-missing=0".parse().unwrap());
        let wrong = faulty.tokenize(text, options).unwrap();
        assert!(wrong.len() > right.len(), "{right:?} {wrong:?}");
        let decoded = faulty.detokenize(&wrong, DecodeOptions::default());
        let of_right = faulty.detokenize(&right, DecodeOptions::default());
        assert_eq!(decoded.unwrap(), of_right.unwrap());
    }
}
