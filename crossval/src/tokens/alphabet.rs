//! What the fuzzer's strings are made of.

use std::ops::RangeInclusive;

use unicode_properties::{GeneralCategory, UnicodeGeneralCategory};

/// All code points but the surrogates by general category: for each category its runs of neighbours.
pub(super) fn categories() -> Vec<Vec<RangeInclusive<char>>> {
    let mut categories: Vec<(GeneralCategory, Vec<RangeInclusive<char>>)> = Vec::new();
    let mut last = None;
    for c in '\0'..=char::MAX {
        let category = c.general_category();
        let at = categories
            .iter()
            .position(|(known, _)| *known == category)
            .unwrap_or_else(|| {
                categories.push((category, Vec::new()));
                categories.len() - 1
            });
        let runs = &mut categories[at].1;
        match runs.last_mut() {
            Some(run) if last == Some(category) => *run = *run.start()..=c,
            _ => runs.push(c..=c),
        }
        last = Some(category);
    }
    categories.into_iter().map(|(_, runs)| runs).collect()
}

/// Letters, and the signs that go with them, by script.
pub(super) const SCRIPTS: [&[RangeInclusive<char>]; 17] = [
    &['a'..='z', 'A'..='Z'],
    &['\u{c0}'..='\u{24f}', '\u{1e00}'..='\u{1eff}'],
    &['\u{400}'..='\u{52f}'],
    &['\u{370}'..='\u{3ff}', '\u{1f00}'..='\u{1fff}'],
    &['\u{600}'..='\u{6ff}', '\u{fb50}'..='\u{fdff}'],
    &['\u{591}'..='\u{5f4}'],
    &['\u{900}'..='\u{97f}'],
    &['\u{e00}'..='\u{e5b}'],
    &[
        '\u{4e00}'..='\u{9fff}',
        '\u{3400}'..='\u{4dbf}',
        '\u{20000}'..='\u{2a6df}',
        '\u{f900}'..='\u{faff}',
    ],
    &['\u{ac00}'..='\u{d7a3}', '\u{1100}'..='\u{11ff}'],
    &[
        '\u{3040}'..='\u{309f}',
        '\u{30a0}'..='\u{30ff}',
        '\u{ff66}'..='\u{ff9f}',
    ],
    &['\u{530}'..='\u{58f}', '\u{10a0}'..='\u{10ff}'],
    &[
        '\u{980}'..='\u{9ff}',
        '\u{b80}'..='\u{bff}',
        '\u{d00}'..='\u{d7f}',
    ],
    &[
        '\u{1780}'..='\u{17ff}',
        '\u{1000}'..='\u{109f}',
        '\u{f00}'..='\u{fff}',
    ],
    &['\u{1200}'..='\u{137f}'],
    &['\u{ff01}'..='\u{ff5e}', '\u{2100}'..='\u{214f}'],
    &[
        '\u{10400}'..='\u{1044f}',
        '\u{12000}'..='\u{123ff}',
        '\u{1d400}'..='\u{1d7ff}',
    ],
];

/// The zeros of runs of ten digits.
pub(super) const ZEROS: [char; 8] = [
    '0',
    '\u{660}',
    '\u{6f0}',
    '\u{966}',
    '\u{e50}',
    '\u{ff10}',
    '\u{1d7ce}',
    '\u{1fbf0}',
];

/// Numbers that are no decimal digits.
pub(super) const NUMBERS: &str = "²³¹½¾⅓Ⅳⅻⅷ①⑳㉛〇一二㊿৴௲𐄇";

pub(super) const WHITE_SPACE: &str = " \t\n\r\u{b}\u{c}\u{85}\u{a0}\u{1680}\u{2000}\u{2003}\u{2009}\u{200a}\
\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{200b}\u{180e}\u{2060}\u{feff}";

pub(super) const EMOJI: [RangeInclusive<char>; 6] = [
    '\u{1f300}'..='\u{1f5ff}',
    '\u{1f600}'..='\u{1f64f}',
    '\u{1f680}'..='\u{1f6ff}',
    '\u{1f900}'..='\u{1f9ff}',
    '\u{2600}'..='\u{27bf}',
    '\u{1fa70}'..='\u{1faff}',
];

pub(super) const SKIN_TONES: RangeInclusive<char> = '\u{1f3fb}'..='\u{1f3ff}';
pub(super) const REGIONAL_INDICATORS: RangeInclusive<char> = '\u{1f1e6}'..='\u{1f1ff}';
pub(super) const TAGS: RangeInclusive<char> = '\u{e0020}'..='\u{e007f}';

pub(super) const COMBINING: [RangeInclusive<char>; 8] = [
    '\u{300}'..='\u{36f}',
    '\u{483}'..='\u{489}',
    '\u{591}'..='\u{5bd}',
    '\u{64b}'..='\u{65f}',
    '\u{93a}'..='\u{94f}',
    '\u{e31}'..='\u{e3a}',
    '\u{20d0}'..='\u{20ff}',
    '\u{fe20}'..='\u{fe2f}',
];

pub(super) const CONTROL: [RangeInclusive<char>; 5] = [
    '\0'..='\u{1f}',
    '\u{7f}'..='\u{9f}',
    '\u{200b}'..='\u{200f}',
    '\u{202a}'..='\u{202e}',
    '\u{fff9}'..='\u{fffd}',
];

pub(super) const CONTRACTIONS: [&str; 16] = [
    "I'm",
    "you're",
    "it's",
    "can't",
    "we've",
    "he'd",
    "they'll",
    "DON'T",
    "It'S",
    "WE'VE",
    "'tis",
    "o'clock",
    "y'all'd've",
    "l'homme",
    "'\u{17f}",
    "rock'n'roll",
];

/// What else stands for an apostrophe.
pub(super) const APOSTROPHES: [char; 6] =
    ['\'', '\u{2019}', '\u{2018}', '\u{2bc}', '`', '\u{ff07}'];

pub(super) const PUNCTUATION: &str =
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿§¶·«»–—‘’“”…‹›€£¥©®™°±×÷≠≤∞√→←⇒。、「」！？،؛॥";

/// Marks with a meaning to some tokenizer.
pub(super) const MARKS: [&str; 12] = [
    "\u{2581}",
    "\u{2581}\u{2581}",
    "\u{120}",
    "\u{10a}",
    "\u{109}",
    "##",
    "</w>",
    "@@",
    "\u{feff}",
    "\u{fffd}",
    "<0x0A>",
    "[EMPTY_0]",
];

/// Texts that are control tokens in one model or another.
pub(super) const SPECIAL: [&str; 22] = [
    "<s>",
    "</s>",
    "<unk>",
    "<pad>",
    "<mask>",
    "<|endoftext|>",
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|user|>",
    "<|assistant|>",
    "<|fim_prefix|>",
    "<｜end▁of▁sentence｜>",
    "[INST]",
    "[/INST]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
];

pub(super) const MARKUP: [&str; 20] = [
    "https://example.org/a/b?q=1&r=%20x#frag",
    "user.name+tag@mail.example.com",
    "{\"key\": [1, 2.5e-3, null, true]}",
    "fn main() {\n    println!(\"{}\", x[0]);\n}\n",
    "def f(x):\n\treturn x ** 2  # square\n",
    "for (int i = 0; i < n; ++i) { a[i] += b->c; }",
    "# Title\n\n- item **bold** _it_\n- [x] `code`\n",
    "| a | b |\n|---|---|\n| 1 | 2 |\n",
    "<div class=\"a\">&nbsp;text</div>\n",
    "SELECT * FROM t WHERE a <> 'b';",
    "camelCaseWord snake_case_word SCREAMING_CASE kebab-case",
    "\\frac{a}{b} + \\sum_{i=1}^{n} x_i^2",
    "$ ls -la ~/dir | grep '^d' > out.txt 2>&1",
    "0xDEADBEEF 1_000_000 3.14159 1e-10 -42",
    "C:\\Windows\\System32\\",
    "2024-11-30T23:59:59.999Z",
    "192.168.0.1:8080 ::1",
    "v1.2.3-rc.4+build.5",
    "\n\n\n  \n\t\n",
    "...\n\n---\n\n***\n",
];

/// The text for corpus slices where none is given.
pub(crate) const PASSAGE: &str = "It is a truth universally acknowledged, that a single man in possession of a good \
fortune, must be in want of a wife.\n\nHowever little known the feelings or views of such a man may be on his first \
entering a neighbourhood, this truth is so well fixed in the minds of the surrounding families, that he is considered \
as the rightful property of some one or other of their daughters.\n\n\u{201c}My dear Mr. Bennet,\u{201d} said his lady \
to him one day, \u{201c}have you heard that Netherfield Park is let at last?\u{201d}\n\nMr. Bennet replied that he had \
not.\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_category_and_every_code_point() {
        let categories = categories();
        // All of Unicode's thirty but the surrogates.
        assert_eq!(categories.len(), 29);
        let runs = categories.iter().flatten();
        let count: usize = runs.map(|run| run.clone().count()).sum();
        assert_eq!(count, 0x11_0000 - 0x800);
    }
}
