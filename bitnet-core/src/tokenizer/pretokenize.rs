//! Pre-tokenizers: how byte-level BPE cuts a text into words before merging.
//!
//! llama.cpp names them by `tokenizer.ggml.pre` and writes most as regular expressions applied one after the
//! other, each to the pieces that the ones before it left. Here each expression is a scanner over characters
//! and their classes. Classes are those of Unicode 15.1, as in the reference: a later version has more letters.

use std::ops::Range;

use unicode_properties::{GeneralCategoryGroup, UnicodeGeneralCategory};

/// A pre-tokenizer and the defaults that llama.cpp ties to its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pretokenizer {
    stages: &'static [Stage],
    /// A word that is a token is taken whole.
    pub ignore_merges: bool,
    /// BOS is added unless the file says otherwise.
    pub add_bos: bool,
    /// There is a BOS even if the file names none.
    pub has_default_bos: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// ``[\p{P}$+<=>^~|]+``, with the backtick or without.
    Punctuation { backtick: bool },
    /// GPT-2: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
    Gpt2,
    /// Llama 3: the same contractions without regard to case, then
    /// `[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,max}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
    Llama3 { max_digits: usize },
    /// `\p{N}+`
    Numbers,
    /// `\p{N}`
    EachNumber,
    /// `[0-9][0-9][0-9]`
    DigitTriples,
    /// `[0-9]`
    EachDigit,
}

const DEFAULT: &[Stage] = &[
    Stage::Punctuation { backtick: false },
    Stage::Gpt2,
    Stage::Numbers,
    Stage::DigitTriples,
];
const FALCON: &[Stage] = &[
    Stage::Punctuation { backtick: true },
    Stage::Gpt2,
    Stage::DigitTriples,
];
const FALCON_3: &[Stage] = &[
    Stage::Punctuation { backtick: true },
    Stage::Gpt2,
    Stage::EachDigit,
];
const GPT2: &[Stage] = &[Stage::Gpt2];
const STARCODER: &[Stage] = &[Stage::EachNumber, Stage::Gpt2];
const LLAMA3: &[Stage] = &[Stage::Llama3 { max_digits: 3 }];
const QWEN2: &[Stage] = &[Stage::Llama3 { max_digits: 1 }];

impl Pretokenizer {
    /// The pre-tokenizer of this name, if it is implemented.
    pub fn by_name(name: &str) -> Option<Pretokenizer> {
        let stages = match name {
            "default" => DEFAULT,
            "llama3" | "llama-v3" | "llama-bpe" | "dbrx" | "smaug-bpe" | "chatglm-bpe" => LLAMA3,
            "qwen2" | "stablelm2" => QWEN2,
            "gpt-2" | "phi-2" | "mpt" | "olmo" | "jais" | "jina-es" | "jina-de" | "jina-v1-en"
            | "jina-v2-es" | "jina-v2-de" | "jina-v2-code" => GPT2,
            "starcoder" | "refact" | "command-r" | "smollm" | "codeshell" | "exaone" => STARCODER,
            "falcon" => FALCON,
            "falcon3" | "falcon_e" => FALCON_3,
            _ => return None,
        };
        let llama3 = matches!(name, "llama3" | "llama-v3" | "llama-bpe");
        Some(Pretokenizer {
            stages,
            ignore_merges: llama3,
            add_bos: llama3,
            has_default_bos: name != "chatglm-bpe",
        })
    }

    /// The words of a text; together they are the text.
    pub fn split<'a>(&self, text: &'a str) -> impl Iterator<Item = &'a str> {
        let chars = Chars::new(text);
        let mut ends = vec![chars.codes.len()];
        for stage in self.stages {
            let mut split = Vec::with_capacity(ends.len());
            let mut start = 0;
            for end in ends {
                stage.split(&chars, start..end, &mut split);
                start = end;
            }
            ends = split;
        }
        let mut start = 0;
        let mut rest = text;
        ends.into_iter().map(move |end| {
            let len = chars.codes[start..end].iter().map(|c| c.len_utf8()).sum();
            let (word, after) = rest.split_at(len);
            (start, rest) = (end, after);
            word
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Class {
    Letter,
    Number,
    Space,
    Punctuation,
    Other,
}

impl Class {
    fn of(c: char) -> Class {
        match c {
            'a'..='z' | 'A'..='Z' => return Class::Letter,
            '0'..='9' => return Class::Number,
            // White_Space.
            '\t'..='\r'
            | ' '
            | '\u{85}'
            | '\u{A0}'
            | '\u{1680}'
            | '\u{2000}'..='\u{200A}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{202F}'
            | '\u{205F}'
            | '\u{3000}' => return Class::Space,
            _ => {}
        }
        match c.general_category_group() {
            GeneralCategoryGroup::Letter => Class::Letter,
            GeneralCategoryGroup::Number => Class::Number,
            GeneralCategoryGroup::Punctuation => Class::Punctuation,
            _ => Class::Other,
        }
    }
}

struct Chars {
    codes: Vec<char>,
    classes: Vec<Class>,
}

impl Chars {
    fn new(text: &str) -> Chars {
        Chars {
            codes: text.chars().collect(),
            classes: text.chars().map(Class::of).collect(),
        }
    }
}

/// A piece of the text that a stage splits; positions are relative to it.
struct Piece<'a> {
    codes: &'a [char],
    classes: &'a [Class],
}

impl Stage {
    /// Appends the ends of the words within `range`.
    fn split(self, chars: &Chars, range: Range<usize>, ends: &mut Vec<usize>) {
        let piece = Piece {
            codes: &chars.codes[range.clone()],
            classes: &chars.classes[range.clone()],
        };
        let mut pos = 0;
        // Where a run of characters that no match covers began; such a run is a word of its own.
        let mut gap = 0;
        while pos < piece.codes.len() {
            let len = self.match_len(&piece, pos);
            if len == 0 {
                pos += 1;
                continue;
            }
            if gap < pos {
                ends.push(range.start + pos);
            }
            pos += len;
            gap = pos;
            ends.push(range.start + pos);
        }
        if gap < pos {
            ends.push(range.end);
        }
    }

    /// Characters that the expression matches at `pos`, 0 if it does not.
    fn match_len(self, p: &Piece<'_>, pos: usize) -> usize {
        let c = p.codes[pos];
        match self {
            Stage::Punctuation { backtick } => {
                let more: &[char] = match backtick {
                    true => &['$', '+', '<', '=', '>', '^', '~', '|', '`'],
                    false => &['$', '+', '<', '=', '>', '^', '~', '|'],
                };
                p.run(pos, |c, class| {
                    class == Class::Punctuation || more.contains(&c)
                })
            }
            Stage::Gpt2 => p.gpt2(pos),
            Stage::Llama3 { max_digits } => p.llama3(pos, max_digits),
            Stage::Numbers => p.run(pos, |_, class| class == Class::Number),
            Stage::EachNumber => usize::from(p.classes[pos] == Class::Number),
            Stage::DigitTriples => match p.codes.get(pos..pos + 3) {
                Some(three) if three.iter().all(char::is_ascii_digit) => 3,
                _ => 0,
            },
            Stage::EachDigit => usize::from(c.is_ascii_digit()),
        }
    }
}

impl Piece<'_> {
    fn run(&self, from: usize, matches: impl Fn(char, Class) -> bool) -> usize {
        let rest = self.codes[from..].iter().zip(&self.classes[from..]);
        rest.take_while(|&(&c, &class)| matches(c, class)).count()
    }

    fn run_of(&self, from: usize, class: Class) -> usize {
        self.run(from, |_, c| c == class)
    }

    /// A run of `[^\s\p{L}\p{N}]`.
    fn run_of_symbols(&self, from: usize) -> usize {
        self.run(from, |_, c| matches!(c, Class::Punctuation | Class::Other))
    }

    fn class(&self, pos: usize) -> Option<Class> {
        self.classes.get(pos).copied()
    }

    /// English contractions: 's 't 'm 'd 're 've 'll.
    fn contraction(&self, pos: usize, fold: impl Fn(char) -> char) -> usize {
        let letter = |i: usize| self.codes.get(pos + i).map(|&c| fold(c));
        match (self.codes[pos], letter(1), letter(2)) {
            ('\'', Some('s' | 't' | 'm' | 'd'), _) => 2,
            ('\'', Some('r' | 'v'), Some('e')) | ('\'', Some('l'), Some('l')) => 3,
            _ => 0,
        }
    }

    /// `\s+(?!\S)|\s+`: the last space before a word is left to it.
    fn space(&self, pos: usize) -> usize {
        let run = self.run_of(pos, Class::Space);
        match pos + run < self.codes.len() {
            true if run > 1 => run - 1,
            _ => run,
        }
    }

    fn gpt2(&self, pos: usize) -> usize {
        let contraction = self.contraction(pos, |c| c);
        if contraction > 0 {
            return contraction;
        }
        let space = usize::from(self.codes[pos] == ' ');
        match self.class(pos + space) {
            Some(class @ (Class::Letter | Class::Number)) => {
                space + self.run_of(pos + space, class)
            }
            Some(Class::Punctuation | Class::Other) => space + self.run_of_symbols(pos + space),
            Some(Class::Space) | None => self.space(pos),
        }
    }

    fn llama3(&self, pos: usize, max_digits: usize) -> usize {
        let contraction = self.contraction(pos, |c| c.to_ascii_lowercase());
        if contraction > 0 {
            return contraction;
        }
        let (c, class) = (self.codes[pos], self.classes[pos]);
        let line_break = |c: char| c == '\r' || c == '\n';
        if class == Class::Letter {
            return self.run_of(pos, Class::Letter);
        }
        if class == Class::Number {
            return self.run_of(pos, Class::Number).min(max_digits);
        }
        if !line_break(c) && self.class(pos + 1) == Some(Class::Letter) {
            return 1 + self.run_of(pos + 1, Class::Letter);
        }
        let space = usize::from(c == ' ');
        let symbols = self.run_of_symbols((pos + space).min(self.codes.len()));
        if symbols > 0 {
            let end = pos + space + symbols;
            return space + symbols + self.run(end, |c, _| line_break(c));
        }
        let run = self.run_of(pos, Class::Space);
        let breaks = self.codes[pos..pos + run]
            .iter()
            .rposition(|&c| line_break(c));
        breaks.map_or_else(|| self.space(pos), |last| last + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        Pretokenizer::by_name(name).unwrap().split(text).collect()
    }

    #[test]
    fn words() {
        let cases: &[(&str, &str, &[&str])] = &[
            (
                "gpt-2",
                "I'm  here, 1234!",
                &["I", "'m", " ", " here", ",", " 1234", "!"],
            ),
            ("gpt-2", "I'M", &["I", "'", "M"]),
            ("gpt-2", "a \n\n b  ", &["a", " \n\n", " b", "  "]),
            (
                "llama-bpe",
                "I'M  here, 1234!\n\n x",
                &["I", "'M", " ", " here", ",", " ", "123", "4", "!\n\n", " x"],
            ),
            (
                "llama-bpe",
                "a \r\n  b\t\tc",
                &["a", " \r\n", " ", " b", "\t", "\tc"],
            ),
            ("qwen2", "ab 12", &["ab", " ", "1", "2"]),
            (
                "default",
                "x=12345 $a",
                &["x", "=", "123", "45", " ", "$", "a"],
            ),
            ("falcon", "1234`a", &["123", "4", "`", "a"]),
            ("default", "1234`a", &["123", "4", "`", "a"]),
            ("default", "a`+b", &["a", "`", "+", "b"]),
            ("falcon", "a`+b", &["a", "`+", "b"]),
            ("falcon3", "a12", &["a", "1", "2"]),
            ("starcoder", "a 12", &["a", " ", "1", "2"]),
            ("gpt-2", "", &[]),
            ("gpt-2", " ", &[" "]),
            ("llama-bpe", " ", &[" "]),
            ("llama-bpe", "\u{3000}字", &["\u{3000}字"]),
        ];
        for (name, text, want) in cases {
            assert_eq!(split(name, text), *want, "{name}: {text:?}");
        }
    }

    #[test]
    fn unknown_names_are_not_guessed() {
        for name in ["tekken", "deepseek-llm", "viking", "llama4", ""] {
            assert_eq!(Pretokenizer::by_name(name), None, "{name}");
        }
    }
}
