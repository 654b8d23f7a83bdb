//! Strings that tokenizers stumble over, the same for a seed on every machine.

use std::ops::RangeInclusive;

use crossval_protocol::EncodeOptions;

use super::alphabet::{
    APOSTROPHES, COMBINING, CONTRACTIONS, CONTROL, EMOJI, MARKS, MARKUP, NUMBERS, PASSAGE,
    PUNCTUATION, REGIONAL_INDICATORS, SCRIPTS, SKIN_TONES, SPECIAL, TAGS, WHITE_SPACE, ZEROS,
    categories,
};
use super::dice::Dice;

/// One text in this many is not UTF-8.
const INVALID: usize = 16;

/// One text in this many is empty.
const EMPTY: usize = 500;

/// What the vocabulary adds to the strings.
#[derive(Clone, Debug, Default)]
pub struct Vocabulary {
    /// Texts of control and user-defined tokens.
    pub special: Vec<Vec<u8>>,
    /// Texts of all tokens.
    pub pieces: Vec<Vec<u8>>,
}

/// A string, and how to tokenize it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The string.
    pub text: Vec<u8>,
    /// How special tokens are treated.
    pub options: EncodeOptions,
}

/// Makes strings.
#[derive(Debug)]
pub struct Generator {
    seed: u64,
    vocabulary: Vocabulary,
    corpus: Vec<u8>,
    categories: Vec<Vec<RangeInclusive<char>>>,
}

/// Adds a piece of its kind to a string.
type Class = fn(&Generator, &mut Dice, &mut Vec<u8>);

/// All kinds, with their weights.
const CLASSES: [(usize, Class); 16] = [
    (6, words),
    (4, any_category),
    (6, script),
    (3, emoji),
    (2, combining),
    (2, control),
    (6, white_space),
    (4, digits),
    (4, contraction),
    (4, punctuation),
    (5, special),
    (6, pieces),
    (6, corpus),
    (3, markup),
    (2, mark),
    (2, repetition),
];

impl Generator {
    /// Equal arguments give equal strings. Without a `corpus`, slices come from a built-in passage.
    pub fn new(seed: u64, vocabulary: Vocabulary, corpus: Option<Vec<u8>>) -> Generator {
        Generator {
            seed,
            vocabulary,
            corpus: corpus
                .filter(|corpus| !corpus.is_empty())
                .unwrap_or_else(|| PASSAGE.into()),
            categories: categories(),
        }
    }

    /// String number `index`, whatever came before it.
    pub fn case(&self, index: u64) -> Case {
        let mut dice = Dice::new(self.seed, &format!("string {index}"));
        let options = EncodeOptions {
            add_special: dice.one_in(2),
            parse_special: dice.one_in(2),
        };
        let mut text = Vec::new();
        if !dice.one_in(EMPTY) {
            let length = dice.length();
            while text.len() < length {
                self.class(&mut dice)(self, &mut dice, &mut text);
            }
            // Slices of the corpus and byte tokens end within characters.
            if std::str::from_utf8(&text).is_err() {
                text = String::from_utf8_lossy(&text).into_owned().into_bytes();
            }
            if dice.one_in(INVALID) {
                invalidate(&mut dice, &mut text);
            }
        }
        Case { text, options }
    }

    fn class(&self, dice: &mut Dice) -> Class {
        let mut at = dice.below(CLASSES.iter().map(|(weight, _)| weight).sum());
        for (weight, class) in CLASSES {
            match at.checked_sub(weight) {
                Some(rest) => at = rest,
                None => return class,
            }
        }
        words
    }
}

fn words(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    for _ in 0..dice.within(1..=4) {
        if !dice.one_in(4) {
            text.push(b' ');
        }
        let case = dice.below(6);
        for i in 0..dice.within(1..=9) {
            let letter = b'a' + dice.below(26) as u8;
            let upper = case == 0 || (case == 1 && i == 0) || (case == 2 && dice.one_in(2));
            text.push(if upper {
                letter.to_ascii_uppercase()
            } else {
                letter
            });
        }
    }
}

fn any_category(generator: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let runs = dice.pick(&generator.categories);
    for _ in 0..dice.within(1..=4) {
        let run = dice.pick(runs).clone();
        push(text, dice.char(run));
    }
}

fn script(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let blocks = dice.pick(&SCRIPTS);
    if dice.one_in(2) {
        text.push(b' ');
    }
    let block = dice.pick(blocks);
    for _ in 0..dice.within(1..=8) {
        let block = if dice.one_in(4) {
            dice.pick(blocks)
        } else {
            block
        };
        push(text, dice.char(block.clone()));
    }
}

fn emoji(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    if dice.one_in(4) {
        for _ in 0..dice.within(1..=3) {
            push(text, dice.char(REGIONAL_INDICATORS));
        }
        return;
    }
    for i in 0..dice.within(1..=4) {
        if i > 0 && dice.one_in(2) {
            push(text, '\u{200d}');
        }
        let block = dice.pick(&EMOJI).clone();
        push(text, dice.char(block));
        match dice.below(6) {
            0 => push(text, dice.char(SKIN_TONES)),
            1 => push(text, '\u{fe0f}'),
            2 => push(text, '\u{fe0e}'),
            3 if dice.one_in(4) => push(text, dice.char(TAGS)),
            _ => {}
        }
    }
}

fn combining(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    if dice.one_in(2) {
        text.push(b'a' + dice.below(26) as u8);
    }
    for _ in 0..dice.within(1..=5) {
        let block = dice.pick(&COMBINING).clone();
        push(text, dice.char(block));
    }
}

fn control(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    for _ in 0..dice.within(1..=3) {
        let block = dice.pick(&CONTROL).clone();
        push(text, dice.char(block));
    }
}

fn white_space(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    match dice.below(5) {
        0 => text.extend(std::iter::repeat_n(b' ', dice.within(1..=20))),
        1 => text.extend(std::iter::repeat_n(b'\n', dice.within(1..=6))),
        2 => text.extend_from_slice(&b"\r\n".repeat(dice.within(1..=4))),
        3 => text.extend(std::iter::repeat_n(b'\t', dice.within(1..=6))),
        _ => {
            for _ in 0..dice.within(1..=6) {
                push(text, dice.char_of(WHITE_SPACE));
            }
        }
    }
}

fn digits(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let zero = match dice.one_in(2) {
        true => '0',
        false => *dice.pick(&ZEROS),
    };
    for _ in 0..dice.within(1..=12) {
        let digit = char::from_u32(u32::from(zero) + dice.below(10) as u32);
        push(text, digit.unwrap_or(zero));
        match dice.below(24) {
            0 => text.push(b','),
            1 => text.push(b'.'),
            2 => text.push(b' '),
            3 => push(text, dice.char_of(NUMBERS)),
            _ => {}
        }
    }
}

fn contraction(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let apostrophe = dice.pick(&APOSTROPHES).to_string();
    let mut words = dice.pick(&CONTRACTIONS).replace('\'', &apostrophe);
    if dice.one_in(3) {
        words = words.to_uppercase();
    }
    if dice.one_in(2) {
        text.push(b' ');
    }
    // Whole, or from the apostrophe on.
    let from = match dice.one_in(3) {
        true => words.find(&apostrophe).unwrap_or(0),
        false => 0,
    };
    text.extend_from_slice(&words.as_bytes()[from..]);
}

fn punctuation(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    if dice.one_in(3) {
        text.push(b' ');
    }
    let same = dice.one_in(3).then(|| dice.char_of(PUNCTUATION));
    for _ in 0..dice.within(1..=6) {
        push(text, same.unwrap_or_else(|| dice.char_of(PUNCTUATION)));
    }
}

fn special(generator: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let own = &generator.vocabulary.special;
    let token: Vec<u8> = match own.is_empty() || dice.one_in(4) {
        true if dice.one_in(3) => {
            let mut token = b"<|".to_vec();
            words(generator, dice, &mut token);
            token.extend_from_slice(b"|>");
            token
        }
        true => dice.pick(&SPECIAL).as_bytes().to_vec(),
        false => dice.pick(own).clone(),
    };
    match dice.below(7) {
        0 => text.extend_from_slice(&token[..dice.below(token.len() + 1)]),
        1 => text.extend_from_slice(&token[dice.below(token.len() + 1)..]),
        2 => text.extend_from_slice(&token.repeat(2)),
        3 => text.extend([b" ", token.as_slice(), b" "].concat()),
        4 => text.extend([b"\n \t", token.as_slice(), b"\n  "].concat()),
        5 => text.extend_from_slice(&token.to_ascii_uppercase()),
        _ => text.extend_from_slice(&token),
    }
}

fn pieces(generator: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let all = &generator.vocabulary.pieces;
    if all.is_empty() {
        return words(generator, dice, text);
    }
    for _ in 0..dice.within(1..=5) {
        text.extend_from_slice(dice.pick(all).as_slice());
    }
}

fn corpus(generator: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let corpus = &generator.corpus;
    let start = dice.below(corpus.len());
    let end = (start + dice.within(1..=60)).min(corpus.len());
    text.extend_from_slice(&corpus[start..end]);
}

fn markup(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let sample = dice.pick(&MARKUP).as_bytes();
    let start = if dice.one_in(2) {
        0
    } else {
        dice.below(sample.len())
    };
    let end = if dice.one_in(2) {
        sample.len()
    } else {
        start + dice.below(sample.len() - start + 1)
    };
    text.extend_from_slice(&sample[start..end]);
}

fn mark(_: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    text.extend_from_slice(dice.pick(&MARKS).as_bytes());
}

fn repetition(generator: &Generator, dice: &mut Dice, text: &mut Vec<u8>) {
    let mut unit = Vec::new();
    match dice.below(3) {
        0 => unit.push(b'!' + dice.below(94) as u8),
        1 => {
            let runs = dice.pick(&generator.categories);
            let run = dice.pick(runs).clone();
            push(&mut unit, dice.char(run));
        }
        _ => {
            generator.class(dice)(generator, dice, &mut unit);
            unit.truncate(24);
        }
    }
    let times = if dice.one_in(8) {
        dice.within(30..=300)
    } else {
        dice.within(2..=20)
    };
    text.extend_from_slice(&unit.repeat(times));
}

/// Puts bytes that are no character into a text.
fn invalidate(dice: &mut Dice, text: &mut Vec<u8>) {
    for _ in 0..dice.within(1..=3) {
        let bytes: Vec<u8> = match dice.below(7) {
            // A character cut short.
            0 => {
                let c = dice
                    .pick(&['é', '€', '中', '\u{1f600}', '\u{10ffff}'])
                    .to_string();
                c.as_bytes()[..dice.within(1..=c.len() - 1)].to_vec()
            }
            // Continuation bytes alone.
            1 => (0..dice.within(1..=4))
                .map(|_| 0x80 + dice.below(64) as u8)
                .collect(),
            // Longer than need be: `/`, NUL, U+FFFF.
            2 => dice
                .pick(&[
                    &b"\xc0\xaf"[..],
                    b"\xc1\x81",
                    b"\xe0\x80\x80",
                    b"\xf0\x8f\xbf\xbf",
                ])
                .to_vec(),
            // Surrogates.
            3 => vec![
                0xed,
                0xa0 + dice.below(32) as u8,
                0x80 + dice.below(64) as u8,
            ],
            // Above U+10FFFF.
            4 => dice
                .pick(&[
                    &b"\xf4\x90\x80\x80"[..],
                    b"\xf7\xbf\xbf\xbf",
                    b"\xf8\x88\x80\x80\x80",
                ])
                .to_vec(),
            5 => vec![*dice.pick(&[0xfe, 0xff, 0xc0, 0xf5])],
            _ => vec![dice.below(256) as u8],
        };
        let at = dice.below(text.len() + 1);
        text.splice(at..at, bytes);
    }
    if dice.one_in(4) {
        text.truncate(dice.below(text.len() + 1));
    }
}

fn push(text: &mut Vec<u8>, c: char) {
    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

#[cfg(test)]
mod tests {
    use xxhash_rust::xxh3::Xxh3Default;

    use super::*;

    fn generator(seed: u64) -> Generator {
        let tokens = |all: &[&str]| all.iter().map(|t| t.as_bytes().to_vec()).collect();
        let vocabulary = Vocabulary {
            special: tokens(&["<|eot_id|>"]),
            pieces: tokens(&[" the", "ing", "<|eot_id|>"]),
        };
        Generator::new(seed, vocabulary, None)
    }

    #[test]
    fn a_seed_gives_the_same_strings_on_every_machine() {
        let generator = generator(7);
        let mut hasher = Xxh3Default::default();
        for index in 0..1000 {
            hasher.update(&generator.case(index).text);
        }
        assert_eq!(hasher.digest(), 0x9d0b_1f52_7c12_f4fb);
    }

    #[test]
    fn seeds_and_indices_give_different_strings() {
        let (a, b) = (generator(1), generator(2));
        let same = (0..100)
            .filter(|&i| a.case(i).text == b.case(i).text)
            .count();
        assert!(same < 5, "{same} of 100");
        assert_ne!(a.case(0).text, a.case(1).text);
        assert_eq!(a.case(99), a.case(99));
    }

    #[test]
    fn everything_that_was_promised_occurs() {
        let generator = generator(3);
        let cases: Vec<Case> = (0..5000).map(|i| generator.case(i)).collect();
        let count = |what: &dyn Fn(&[u8]) -> bool| cases.iter().filter(|c| what(&c.text)).count();
        let contains = |needle: &'static [u8]| {
            move |text: &[u8]| text.windows(needle.len()).any(|w| w == needle)
        };
        let share = |n: usize| n as f64 / cases.len() as f64;
        assert!(count(&|t| t.is_empty()) > 0);
        let invalid = share(count(&|t| std::str::from_utf8(t).is_err()));
        assert!((0.03..0.1).contains(&invalid), "{invalid}");
        let short = share(count(&|t| t.len() <= 150));
        assert!(short > 0.7 && count(&|t| t.len() > 1000) > 10, "{short}");
        for needle in [
            &b"<|eot_id|>"[..],
            b" the",
            b"\0",
            b"\r\n",
            "\u{200d}".as_bytes(),
            "\u{301}".as_bytes(),
            "\u{feff}".as_bytes(),
            "\u{3000}".as_bytes(),
            "\u{2581}".as_bytes(),
            b"acknowledged",
            b"\xed\xa0",
        ] {
            assert!(
                count(&contains(needle)) > 0,
                "{}",
                String::from_utf8_lossy(needle)
            );
        }
        let options =
            |f: fn(&EncodeOptions) -> bool| cases.iter().filter(|c| f(&c.options)).count();
        assert!((2000..3000).contains(&options(|o| o.add_special)));
        assert!((2000..3000).contains(&options(|o| o.parse_special)));
    }
}
