//! The vocabulary: texts, scores, attributes, special tokens.

use std::collections::BTreeSet;
use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::byte_level::decode_text;
use super::introsort;
use super::pretokenize::Pretokenizer;
use crate::Error;
use crate::gguf::{Metadata, StringArray};

/// What a token is, from `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
    /// Unused and undefined tokens: never produced by decoding, though their text still encodes.
    Other,
}

/// The tokenizer's family, as far as it decides defaults.
#[derive(Clone, Copy, Debug)]
pub(super) enum Family<'a> {
    Spm,
    Bpe(&'a Pretokenizer),
    Wpm,
}

#[derive(Debug)]
pub(super) struct Vocab {
    /// As in the file, except that empty ones are named as llama.cpp names them.
    texts: StringArray,
    /// What each token decodes to.
    pub pieces: StringArray,
    index: TextIndex,
    scores: Vec<f32>,
    kinds: Vec<Kind>,
    /// The lengths that occur, longest first.
    pub text_lens: Vec<usize>,
    pub bos: Option<u32>,
    pub eos: Option<u32>,
    pub eot: Option<u32>,
    pub unk: Option<u32>,
    pub eog: BTreeSet<u32>,
    pub add_bos: bool,
    pub add_eos: bool,
    pub add_space_prefix: bool,
    /// Decoding cleans up spaces.
    pub clean_spaces: bool,
    /// Tokens that are cut out of the text before anything else: longest first.
    pub special: Vec<Special>,
}

/// A token that is recognised in the raw text.
#[derive(Clone, Debug)]
pub(super) struct Special {
    pub id: u32,
    pub text: Box<[u8]>,
    /// Only where control tokens are to be parsed.
    pub control: bool,
    /// Swallows white space in front.
    pub strip_left: bool,
    /// Swallows white space behind.
    pub strip_right: bool,
}

/// A special role, the keys that give it an ID (a later one overrides), and the texts that imply it.
struct Role {
    keys: &'static [&'static str],
    texts: &'static [&'static str],
}

const EOT: Role = Role {
    keys: &["tokenizer.ggml.eot_token_id"],
    texts: &[
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<EOT>",
        "<｜end▁of▁sentence｜>",
    ],
};
const EOM: Role = Role {
    keys: &["tokenizer.ggml.eom_token_id"],
    texts: &["<|eom_id|>"],
};
const FIM_PAD: Role = Role {
    keys: &["tokenizer.ggml.fim_pad_token_id"],
    texts: &["<|fim_pad|>", "<fim-pad>", "<PAD>"],
};
const FIM_REP: Role = Role {
    keys: &["tokenizer.ggml.fim_rep_token_id"],
    texts: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>"],
};
const FIM_SEP: Role = Role {
    keys: &["tokenizer.ggml.fim_sep_token_id"],
    texts: &["<|file_sep|>"],
};
/// Roles that only make their token a control token.
const FIM: [Role; 3] = [
    Role {
        keys: &[
            "tokenizer.ggml.fim_pre_token_id",
            "tokenizer.ggml.prefix_token_id",
        ],
        texts: &["<|fim_prefix|>", "<fim-prefix>", "<｜fim▁begin｜>", "<PRE>"],
    },
    Role {
        keys: &[
            "tokenizer.ggml.fim_suf_token_id",
            "tokenizer.ggml.suffix_token_id",
        ],
        texts: &["<|fim_suffix|>", "<fim-suffix>", "<｜fim▁hole｜>", "<SUF>"],
    },
    Role {
        keys: &[
            "tokenizer.ggml.fim_mid_token_id",
            "tokenizer.ggml.middle_token_id",
        ],
        texts: &["<|fim_middle|>", "<fim-middle>", "<｜fim▁end｜>", "<MID>"],
    },
];
/// Texts that end generation wherever they are in a vocabulary.
const EOG_TEXTS: [&str; 7] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<EOT>",
];

/// Bytes that what all tokens decode to may take: so many, and so many for each byte of their texts.
const LEAST_PIECES: usize = 1 << 20;
const PIECES_PER_TEXT: usize = 8;

impl Vocab {
    pub fn load(metadata: &Metadata, family: Family<'_>) -> Result<Vocab, Error> {
        let bad = |what: String| Error::bad_file(metadata.path(), what);
        let tokens: &StringArray = metadata.required("tokenizer.ggml.tokens")?;
        let n = tokens.len();
        if n == 0 || i32::try_from(n).is_err() {
            return Err(bad(format!("\"tokenizer.ggml.tokens\" has {n} tokens")));
        }
        let same_length = |key: &str, len: usize| match len == n {
            true => Ok(()),
            false => Err(bad(format!("{key:?} has {len} entries for {n} tokens"))),
        };

        let mut texts = StringArray::default();
        for (id, text) in tokens.iter().enumerate() {
            match until_nul(text) {
                b"" => texts.push(format!("[EMPTY_{id}]").as_bytes()),
                text => texts.push(text),
            }
        }
        let index = TextIndex::new(&texts).map_err(|[first, second]| {
            let text = texts.get(first as usize).unwrap_or_default().escape_ascii();
            bad(format!("tokens {first} and {second} are both \"{text}\""))
        })?;
        let scores = match metadata.optional::<&[f32]>("tokenizer.ggml.scores")? {
            None => vec![0.0; n],
            Some(scores) => {
                same_length("tokenizer.ggml.scores", scores.len())?;
                if let Some(id) = scores.iter().position(|score| score.is_nan()) {
                    return Err(bad(format!("the score of token {id} is not a number")));
                }
                scores.to_vec()
            }
        };
        let kinds = match metadata.optional::<&[i32]>("tokenizer.ggml.token_type")? {
            None => vec![Kind::Normal; n],
            Some(types) => {
                same_length("tokenizer.ggml.token_type", types.len())?;
                let kind = |(id, &ty): (usize, &i32)| {
                    kind(ty).ok_or_else(|| bad(format!("token {id} has the unknown type {ty}")))
                };
                types
                    .iter()
                    .enumerate()
                    .map(kind)
                    .collect::<Result<_, _>>()?
            }
        };
        let mut text_lens: Vec<usize> = texts.iter().map(<[u8]>::len).collect();
        text_lens.sort_unstable_by(|a, b| b.cmp(a));
        text_lens.dedup();
        let add_space_prefix = metadata.optional("tokenizer.ggml.add_space_prefix")?;
        let mut vocab = Vocab {
            text_lens,
            pieces: StringArray::default(),
            texts,
            index,
            scores,
            kinds,
            bos: None,
            eos: None,
            eot: None,
            unk: None,
            eog: BTreeSet::new(),
            add_bos: metadata
                .optional("tokenizer.ggml.add_bos_token")?
                .unwrap_or(match family {
                    Family::Spm | Family::Wpm => true,
                    Family::Bpe(pre) => pre.add_bos,
                }),
            add_eos: metadata
                .optional("tokenizer.ggml.add_eos_token")?
                .unwrap_or(false),
            add_space_prefix: add_space_prefix.unwrap_or(matches!(family, Family::Spm)),
            clean_spaces: match family {
                Family::Spm => false,
                Family::Bpe(pre) => pre.clean_spaces,
                Family::Wpm => true,
            },
            special: Vec::new(),
        };
        vocab.resolve_special(metadata, family)?;
        vocab.decode_pieces(metadata, family)?;
        vocab.collect_special(metadata)?;
        Ok(vocab)
    }

    fn resolve_special(&mut self, metadata: &Metadata, family: Family<'_>) -> Result<(), Error> {
        let (bos, eos, unk) = match family {
            Family::Spm => (Some(1), Some(2), Some(0)),
            Family::Bpe(pre) => (Some(11).filter(|_| pre.has_default_bos), Some(11), None),
            Family::Wpm => (None, None, Some(100)),
        };
        self.bos = self.special_id(metadata, "tokenizer.ggml.bos_token_id", bos)?;
        self.eos = self.special_id(metadata, "tokenizer.ggml.eos_token_id", eos)?;
        self.unk = self.special_id(metadata, "tokenizer.ggml.unknown_token_id", unk)?;
        for (wanted, id, key) in [
            (self.add_bos, self.bos, "bos"),
            (self.add_eos, self.eos, "eos"),
        ] {
            // WordPiece puts other tokens around a text, whatever these switches say.
            if wanted && id.is_none() && !matches!(family, Family::Wpm) {
                let what = format!(
                    "{} is to be added to texts, but there is none",
                    key.to_uppercase()
                );
                return Err(Error::bad_file(metadata.path(), what));
            }
        }

        self.eot = self.role(metadata, &EOT)?;
        let eom = self.role(metadata, &EOM)?;
        for role in &FIM {
            self.role(metadata, role)?;
        }
        let mut ends = vec![self.eos, self.eot, eom];
        for role in [FIM_PAD, FIM_REP, FIM_SEP] {
            ends.push(self.role(metadata, &role)?);
        }
        for text in EOG_TEXTS {
            if let Some(id) = self.id(text.as_bytes()) {
                self.kinds[id as usize] = Kind::Control;
                ends.push(Some(id));
            }
        }
        self.eog = ends.into_iter().flatten().collect();
        Ok(())
    }

    /// The ID that a key gives; `default` if it is absent or outside the vocabulary.
    pub fn special_id(
        &self,
        metadata: &Metadata,
        key: &str,
        default: Option<u32>,
    ) -> Result<Option<u32>, Error> {
        let given = metadata.optional::<u32>(key)?;
        let inside = |id: &u32| (*id as usize) < self.len();
        Ok(given.filter(inside).or(default.filter(inside)))
    }

    fn role(&mut self, metadata: &Metadata, role: &Role) -> Result<Option<u32>, Error> {
        let mut id = None;
        for key in role.keys {
            id = self.special_id(metadata, key, id)?;
        }
        if id.is_none() {
            // llama.cpp takes whichever its hash table yields first, mostly the one that was put in last.
            id = role
                .texts
                .iter()
                .filter_map(|t| self.id(t.as_bytes()))
                .max();
            if let Some(id) = id {
                self.kinds[id as usize] = Kind::Control;
            }
        }
        Ok(id)
    }

    fn decode_pieces(&mut self, metadata: &Metadata, family: Family<'_>) -> Result<(), Error> {
        let bad = |id: usize, text: &[u8], why: &str| {
            let text = text.escape_ascii();
            Error::bad_file(metadata.path(), format!("token {id} (\"{text}\") {why}"))
        };
        let mut pieces = StringArray::default();
        // Where texts are spelt out they grow with their square: memory is to follow from the file's size.
        let mut room = LEAST_PIECES + PIECES_PER_TEXT * self.texts.total_bytes();
        for (id, text) in self.texts.iter().enumerate() {
            match (self.kinds[id], family) {
                (Kind::Control | Kind::Unknown | Kind::UserDefined, _) => pieces.push(text),
                (Kind::Normal, Family::Spm | Family::Wpm) => pieces.push(&unescape(text)),
                (Kind::Normal, Family::Bpe(_)) => {
                    let text =
                        std::str::from_utf8(text).map_err(|_| bad(id, text, "is not UTF-8"))?;
                    let piece = decode_text(text, room).ok_or_else(|| {
                        let what = "has characters that stand for no byte, too many to spell out";
                        bad(id, text.as_bytes(), what)
                    })?;
                    room -= piece.len();
                    pieces.push(&piece);
                }
                (Kind::Byte, Family::Spm) => {
                    let byte =
                        parse_byte(text).ok_or_else(|| bad(id, text, "is not a byte token"))?;
                    pieces.push(&[byte]);
                }
                (Kind::Byte, Family::Wpm) => {
                    return Err(bad(
                        id,
                        text,
                        "is a byte token, which WordPiece has none of",
                    ));
                }
                (Kind::Byte, Family::Bpe(_)) | (Kind::Other, _) => pieces.push(b""),
            }
        }
        self.pieces = pieces;
        Ok(())
    }

    fn collect_special(&mut self, metadata: &Metadata) -> Result<(), Error> {
        let name = metadata.optional::<&str>("general.name")?.unwrap_or("");
        let name = name.to_ascii_lowercase();
        // The file does not say which tokens swallow white space; llama.cpp goes by the names.
        let phi3 = name.contains("phi-3") || name.contains("phi3");
        let pre = metadata
            .optional::<&str>("tokenizer.ggml.pre")?
            .unwrap_or("");
        let jina = ["jina-v2-de", "jina-v2-es", "jina-v2-code"].contains(&pre);
        let mut special: Vec<Special> = Vec::new();
        for (id, text) in self.texts.iter().enumerate() {
            let kind = self.kinds[id];
            if matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined) {
                let kept: [&[u8]; 3] = [b"<unk>", b"<s>", b"<|endoftext|>"];
                special.push(Special {
                    id: id as u32,
                    text: text.into(),
                    control: kind != Kind::UserDefined,
                    strip_left: jina && text == b"<mask>",
                    strip_right: phi3 && !jina && !kept.contains(&text),
                });
            }
        }
        let mut order: Vec<(usize, usize)> =
            special.iter().map(|s| s.text.len()).enumerate().collect();
        introsort::sort(&mut order, |a, b| a.1 > b.1);
        self.special = order.iter().map(|&(i, _)| special[i].clone()).collect();
        Ok(())
    }

    pub fn len(&self) -> usize {
        self.kinds.len()
    }

    pub fn id(&self, text: &[u8]) -> Option<u32> {
        self.index.find(text, &self.texts)
    }

    pub fn max_text_len(&self) -> usize {
        self.text_lens.first().copied().unwrap_or(0)
    }

    /// What the tokens are in the file, by ID.
    pub fn texts(&self) -> impl Iterator<Item = &[u8]> {
        self.texts.iter()
    }

    pub fn score(&self, id: u32) -> f32 {
        self.scores[id as usize]
    }

    pub fn is_control(&self, id: u32) -> bool {
        let kind = self.kinds.get(id as usize);
        matches!(kind, Some(Kind::Control | Kind::Unknown))
    }

    /// The token of a byte that no text token covers.
    pub fn byte(&self, byte: u8) -> Option<u32> {
        self.id(format!("<0x{byte:02X}>").as_bytes())
            .or_else(|| self.id(&[byte]))
    }
}

/// Finds a token by its text, without keeping the text again.
#[derive(Debug)]
struct TextIndex {
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl TextIndex {
    /// # Errors
    /// Two tokens of the same text.
    fn new(texts: &StringArray) -> Result<TextIndex, [u32; 2]> {
        let hasher = DefaultHashBuilder::default();
        let text_of = |id: u32| texts.get(id as usize).unwrap_or_default();
        let mut ids = HashTable::with_capacity(texts.len());
        for (id, text) in texts.iter().enumerate() {
            let id = id as u32;
            let entry = ids.entry(
                hasher.hash_one(text),
                |&other| text_of(other) == text,
                |&other| hasher.hash_one(text_of(other)),
            );
            match entry {
                Entry::Occupied(first) => return Err([*first.get(), id]),
                Entry::Vacant(vacant) => vacant.insert(id),
            };
        }
        Ok(TextIndex { ids, hasher })
    }

    fn find(&self, text: &[u8], texts: &StringArray) -> Option<u32> {
        let same = |&id: &u32| texts.get(id as usize) == Some(text);
        self.ids.find(self.hasher.hash_one(text), same).copied()
    }
}

/// What the reference, which takes strings as C's, reads of a string.
pub(super) fn until_nul(text: &[u8]) -> &[u8] {
    text.split(|&b| b == 0).next().unwrap_or_default()
}

fn kind(token_type: i32) -> Option<Kind> {
    Some(match token_type {
        0 | 5 => Kind::Other,
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        6 => Kind::Byte,
        _ => return None,
    })
}

/// SentencePiece's stand-in for a space, U+2581.
pub(super) const SPACE: &str = "\u{2581}";

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(&first) = rest.first() {
        if let Some(after) = rest.strip_prefix(SPACE.as_bytes()) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(first);
            rest = &rest[1..];
        }
    }
    out
}

/// `<0x0A>`
fn parse_byte(text: &[u8]) -> Option<u8> {
    let hex = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    let hex = std::str::from_utf8(hex).ok().filter(|hex| hex.len() == 2)?;
    u8::from_str_radix(hex, 16).ok()
}
