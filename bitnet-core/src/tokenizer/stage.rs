//! The regular expressions of the pre-tokenizers, each as a scanner over characters and their classes.

use std::ops::Range;

use super::unicode::{self, Class};

/// One expression, and in its documentation how llama.cpp writes it. What no match covers is a word, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
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
    /// `[\r\n]`
    EachLineBreak,
    /// `\s?\p{L}+`
    SpacedLetters,
    /// `\s?\p{P}+`
    SpacedPunctuation,
    /// `\s?[...]+`, the brackets full of letters that have a case.
    CasedLetters,
    /// ``\s?[!-/:-~！-／：-～‘-‟　-。]+``
    DeepseekPunctuation,
    /// `\s+$`
    TrailingSpace,
    /// `[一-龥ࠀ-一가-퟿]+`
    Cjk,
    /// ` ?[^(\s|.,!?…。，、।۔،)]+`
    Bloom,
    /// Tekken: `[^\r\n\p{L}\p{N}]?U*L+|[^\r\n\p{L}\p{N}]?U+L*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`,
    /// where U are letters but a to z, and L letters but A to Z.
    Tekken,
    /// `<sentinel:[0-9]+>`
    Sentinel,
    /// `(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z`
    ImageToken,
    /// `([\t\n]|    |  )`
    CodeSpace,
    /// ``[\p{P}!-/:-@\[-`{-~]``
    EachPunctuation,
}

/// A text as code points and their classes.
pub(super) struct Chars {
    codes: Vec<u32>,
    classes: Vec<Class>,
}

impl Chars {
    /// Of a [normalized](unicode::normalize) text.
    pub fn new(text: &[u8]) -> Chars {
        let codes: Vec<u32> = unicode::codes(text).collect();
        let classes = codes.iter().map(|&code| Class::of(code)).collect();
        Chars { codes, classes }
    }

    pub fn len(&self) -> usize {
        self.codes.len()
    }

    /// Bytes of a range of characters.
    pub fn len_utf8(&self, range: Range<usize>) -> usize {
        let codes = self.codes[range].iter();
        codes.map(|&code| unicode::len_utf8(code)).sum()
    }
}

/// A piece of the text that a stage splits; positions are relative to it.
struct Piece<'a> {
    codes: &'a [u32],
    classes: &'a [Class],
}

impl Stage {
    /// Appends the ends of the words within `range`.
    pub fn split(self, chars: &Chars, range: Range<usize>, ends: &mut Vec<usize>) {
        let piece = Piece {
            codes: &chars.codes[range.clone()],
            classes: &chars.classes[range.clone()],
        };
        let mut pos = match self {
            // The only match there can be; to look for it everywhere would take quadratic time.
            Stage::TrailingSpace => {
                let behind = piece.classes.iter().rev();
                piece.codes.len() - behind.take_while(|&&c| c == Class::Space).count()
            }
            _ => 0,
        };
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
        let code = p.codes[pos];
        let class = p.classes[pos];
        match self {
            Stage::Punctuation { backtick } => p.run(pos, |code, class| {
                class == Class::Punctuation
                    || is_any(code, "$+<=>^~|")
                    || (backtick && is_any(code, "`"))
            }),
            Stage::Gpt2 => p.gpt2(pos),
            Stage::Llama3 { max_digits } => p.llama3(pos, max_digits),
            Stage::Numbers => p.run_of(pos, Class::Number),
            Stage::EachNumber => usize::from(class == Class::Number),
            Stage::DigitTriples => match p.codes.get(pos..pos + 3) {
                Some(three) if three.iter().all(|&code| is_digit(code)) => 3,
                _ => 0,
            },
            Stage::EachDigit => usize::from(is_digit(code)),
            Stage::EachLineBreak => usize::from(is_line_break(code)),
            Stage::SpacedLetters => p.spaced(pos, |_, class| class == Class::Letter),
            Stage::SpacedPunctuation => p.spaced(pos, |_, class| class == Class::Punctuation),
            Stage::CasedLetters => p.spaced(pos, |code, _| is_in(code, &CASED_LETTERS)),
            Stage::DeepseekPunctuation => p.spaced(pos, |code, class| {
                // The reference puts a vertical tab for any space beyond ASCII, U+3000 among them.
                class != Class::Space && is_in(code, &DEEPSEEK_PUNCTUATION)
            }),
            Stage::TrailingSpace => p.run_of(pos, Class::Space),
            Stage::Cjk => p.run(pos, |code, class| {
                class != Class::Space && is_in(code, &CJK)
            }),
            Stage::Bloom => {
                let space = usize::from(code == u32::from(' '));
                let word = p.run(pos + space, |code, class| {
                    class != Class::Space && !is_any(code, "(|.,!?…。，、।۔،)")
                });
                if word > 0 { space + word } else { 0 }
            }
            Stage::Tekken => p.tekken(pos),
            Stage::Sentinel => {
                let digits = p
                    .after(pos, "<sentinel:")
                    .map(|at| (at, p.run(at, |c, _| is_digit(c))));
                match digits {
                    Some((at, n)) if n > 0 && p.is(at + n, '>') => at + n + 1 - pos,
                    _ => 0,
                }
            }
            Stage::ImageToken => {
                let letter = |code: u32, _| (u32::from('A')..=u32::from('I')).contains(&code);
                let letters = p.after(pos, "IMGIMG").map(|at| (at, p.run(at, letter)));
                match letters {
                    Some((at, n @ 1..=4)) if p.is(at + n, 'Z') => at + n + 1 - pos,
                    _ => 0,
                }
            }
            Stage::CodeSpace => {
                if is_any(code, "\t\n") {
                    1
                } else if p.after(pos, "    ").is_some() {
                    4
                } else if p.after(pos, "  ").is_some() {
                    2
                } else {
                    0
                }
            }
            Stage::EachPunctuation => {
                usize::from(class == Class::Punctuation || (code < 0x7F && class == Class::Symbol))
            }
        }
    }
}

impl Piece<'_> {
    fn run(&self, from: usize, matches: impl Fn(u32, Class) -> bool) -> usize {
        let rest = self.codes.iter().zip(self.classes).skip(from);
        rest.take_while(|&(&code, &class)| matches(code, class))
            .count()
    }

    fn run_of(&self, from: usize, class: Class) -> usize {
        self.run(from, |_, c| c == class)
    }

    /// A run of `[^\s\p{L}\p{N}]`.
    fn run_of_symbols(&self, from: usize) -> usize {
        self.run(from, |_, c| {
            !matches!(c, Class::Space | Class::Letter | Class::Number)
        })
    }

    /// A run, with white space in front or without.
    fn spaced(&self, pos: usize, matches: impl Fn(u32, Class) -> bool) -> usize {
        let space = usize::from(self.classes[pos] == Class::Space);
        let word = self.run(pos + space, matches);
        if word > 0 { space + word } else { 0 }
    }

    fn class(&self, pos: usize) -> Option<Class> {
        self.classes.get(pos).copied()
    }

    fn is(&self, pos: usize, c: char) -> bool {
        self.codes.get(pos) == Some(&u32::from(c))
    }

    /// The position behind `text` if it stands at `pos`.
    fn after(&self, pos: usize, text: &str) -> Option<usize> {
        let mut at = pos;
        for c in text.chars() {
            if !self.is(at, c) {
                return None;
            }
            at += 1;
        }
        Some(at)
    }

    /// English contractions: 's 't 'm 'd 're 've 'll.
    fn contraction(&self, pos: usize, fold: impl Fn(char) -> char) -> usize {
        let letter = |i: usize| {
            let code = *self.codes.get(pos + i)?;
            char::from_u32(code).map(&fold)
        };
        match (letter(0), letter(1), letter(2)) {
            (Some('\''), Some('s' | 't' | 'm' | 'd'), _) => 2,
            (Some('\''), Some('r' | 'v'), Some('e')) | (Some('\''), Some('l'), Some('l')) => 3,
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

    /// `\s*[\r\n]+|\s+(?!\S)|\s+`
    fn lines_or_space(&self, pos: usize) -> usize {
        let run = self.run_of(pos, Class::Space);
        let breaks = self.codes[pos..pos + run]
            .iter()
            .rposition(|&code| is_line_break(code));
        breaks.map_or_else(|| self.space(pos), |last| last + 1)
    }

    /// ` ?[^\s\p{L}\p{N}]+` and a run of `behind`.
    fn symbols(&self, pos: usize, behind: impl Fn(u32) -> bool) -> usize {
        let space = usize::from(self.is(pos, ' '));
        let symbols = self.run_of_symbols(pos + space);
        match symbols {
            0 => 0,
            _ => space + symbols + self.run(pos + space + symbols, |code, _| behind(code)),
        }
    }

    fn gpt2(&self, pos: usize) -> usize {
        let contraction = self.contraction(pos, |c| c);
        if contraction > 0 {
            return contraction;
        }
        let space = usize::from(self.is(pos, ' '));
        match self.class(pos + space) {
            Some(class @ (Class::Letter | Class::Number)) => {
                space + self.run_of(pos + space, class)
            }
            Some(Class::Space) | None => self.space(pos),
            Some(_) => space + self.run_of_symbols(pos + space),
        }
    }

    fn llama3(&self, pos: usize, max_digits: usize) -> usize {
        let contraction = self.contraction(pos, |c| c.to_ascii_lowercase());
        if contraction > 0 {
            return contraction;
        }
        match self.classes[pos] {
            Class::Letter => return self.run_of(pos, Class::Letter),
            Class::Number => {
                let rest = self.classes[pos..].iter().take(max_digits);
                return rest.take_while(|&&c| c == Class::Number).count();
            }
            _ => {}
        }
        if !is_line_break(self.codes[pos]) && self.class(pos + 1) == Some(Class::Letter) {
            return 1 + self.run_of(pos + 1, Class::Letter);
        }
        match self.symbols(pos, is_line_break) {
            0 => self.lines_or_space(pos),
            symbols => symbols,
        }
    }

    fn tekken(&self, pos: usize) -> usize {
        let class = self.classes[pos];
        if class == Class::Number {
            return 1;
        }
        let prefix = usize::from(class != Class::Letter && !is_line_break(self.codes[pos]));
        let word = self.cased_word(pos + prefix);
        if word > 0 {
            return prefix + word;
        }
        match self.symbols(pos, |code| is_line_break(code) || code == u32::from('/')) {
            0 => self.lines_or_space(pos),
            symbols => symbols,
        }
    }

    /// `U*L+|U+L*`, where letters beyond ASCII are both.
    fn cased_word(&self, from: usize) -> usize {
        let upper = self.run(from, |code, class| {
            class == Class::Letter && !is_between(code, 'a', 'z')
        });
        let lower = self.run(from + upper, |code, class| {
            class == Class::Letter && !is_between(code, 'A', 'Z')
        });
        if lower > 0 {
            return upper + lower;
        }
        // Backtracking hands the last letter that can be lower to L+, and what follows it to the next match.
        let both = self.codes[from..from + upper]
            .iter()
            .rposition(|&code| !is_between(code, 'A', 'Z'));
        both.map_or(upper, |last| last + 1)
    }
}

fn is_digit(code: u32) -> bool {
    is_between(code, '0', '9')
}

fn is_line_break(code: u32) -> bool {
    is_any(code, "\r\n")
}

fn is_between(code: u32, first: char, last: char) -> bool {
    (u32::from(first)..=u32::from(last)).contains(&code)
}

fn is_any(code: u32, chars: &str) -> bool {
    chars.chars().any(|c| u32::from(c) == code)
}

fn is_in(code: u32, ranges: &[(u32, u32)]) -> bool {
    let behind = ranges.partition_point(|&(first, _)| first <= code);
    behind > 0 && code <= ranges[behind - 1].1
}

const CJK: [(u32, u32); 2] = [(0x0800, 0x9FA5), (0xAC00, 0xD7FF)];

const DEEPSEEK_PUNCTUATION: [(u32, u32); 6] = [
    (0x21, 0x2F),
    (0x3A, 0x7E),
    (0x2018, 0x201F),
    (0x3000, 0x3002),
    (0xFF01, 0xFF0F),
    (0xFF1A, 0xFF5E),
];

/// The letters with case that DeepSeek's tokenizer lists.
const CASED_LETTERS: [(u32, u32); 87] = [
    (0x41, 0x5A),
    (0x61, 0x7A),
    (0xB5, 0xB5),
    (0xC0, 0xD6),
    (0xD8, 0xF6),
    (0xF8, 0x1BA),
    (0x1BC, 0x1BF),
    (0x1C4, 0x293),
    (0x295, 0x2AF),
    (0x370, 0x373),
    (0x376, 0x376),
    (0x377, 0x377),
    (0x37B, 0x37D),
    (0x37F, 0x37F),
    (0x386, 0x386),
    (0x388, 0x38A),
    (0x38C, 0x38C),
    (0x38E, 0x3A1),
    (0x3A3, 0x3F5),
    (0x3F7, 0x481),
    (0x48A, 0x52F),
    (0x531, 0x556),
    (0x10A0, 0x10C5),
    (0x13A0, 0x13F5),
    (0x13F8, 0x13FD),
    (0x1C90, 0x1CBA),
    (0x1CBD, 0x1CBF),
    (0x1D00, 0x1D2B),
    (0x1D6B, 0x1D77),
    (0x1D79, 0x1D9A),
    (0x1E00, 0x1F15),
    (0x1F18, 0x1F1D),
    (0x1F20, 0x1F45),
    (0x1F48, 0x1F4D),
    (0x1F50, 0x1F57),
    (0x1F59, 0x1F59),
    (0x1F5B, 0x1F5B),
    (0x1F5D, 0x1F5D),
    (0x1F5F, 0x1F7D),
    (0x1F80, 0x1FB4),
    (0x1FB6, 0x1FBC),
    (0x1FBE, 0x1FBE),
    (0x1FC2, 0x1FC4),
    (0x1FC6, 0x1FCC),
    (0x1FD0, 0x1FD3),
    (0x1FD6, 0x1FDB),
    (0x1FE0, 0x1FEC),
    (0x1FF2, 0x1FF4),
    (0x1FF6, 0x1FFC),
    (0x2102, 0x2102),
    (0x2107, 0x2107),
    (0x210A, 0x2113),
    (0x2115, 0x2115),
    (0x2119, 0x211D),
    (0x2124, 0x2124),
    (0x2126, 0x2126),
    (0x2128, 0x2128),
    (0x212A, 0x212D),
    (0x212F, 0x2134),
    (0x2139, 0x2139),
    (0x213C, 0x213F),
    (0x2145, 0x2149),
    (0x214E, 0x214E),
    (0x2183, 0x2183),
    (0x2184, 0x2184),
    (0x2C00, 0x2C7B),
    (0x2C7E, 0x2CE4),
    (0x2CEB, 0x2CEE),
    (0x2CF2, 0x2CF2),
    (0x2CF3, 0x2CF3),
    (0xA640, 0xA66D),
    (0xA680, 0xA69B),
    (0xA722, 0xA76F),
    (0xA771, 0xA787),
    (0xA78B, 0xA78E),
    (0xAB70, 0xABBF),
    (0xFB00, 0xFB06),
    (0xFB13, 0xFB17),
    (0xFF21, 0xFF3A),
    (0xFF41, 0xFF5A),
    (0x1_0400, 0x1_044F),
    (0x1_04B0, 0x1_04D3),
    (0x1_04D8, 0x1_04FB),
    (0x1_0C80, 0x1_0CB2),
    (0x1_0CC0, 0x1_0CF2),
    (0x1_18A0, 0x1_18DF),
    (0x1_E900, 0x1_E943),
];
