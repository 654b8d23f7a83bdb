//! Pre-tokenizers: how byte-level BPE cuts a text into words before merging.
//!
//! llama.cpp names them by `tokenizer.ggml.pre` and writes them as regular expressions applied one after the
//! other, each to the pieces that the ones before it left. Here each expression is a [`Stage`], which scans
//! characters and their classes.

use super::stage::{Chars, Stage};

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
    /// Detokenization cleans up spaces.
    pub clean_spaces: bool,
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
const DEEPSEEK_LLM: &[Stage] = &[
    Stage::EachLineBreak,
    Stage::CasedLetters,
    Stage::DeepseekPunctuation,
    Stage::TrailingSpace,
    Stage::Cjk,
    Stage::Numbers,
];
const DEEPSEEK_CODER: &[Stage] = &[
    Stage::EachLineBreak,
    Stage::SpacedLetters,
    Stage::SpacedPunctuation,
    Stage::Cjk,
    Stage::EachNumber,
];
const BLOOM: &[Stage] = &[Stage::Bloom];
const VIKING: &[Stage] = &[Stage::Bloom, Stage::EachNumber];
const TEKKEN: &[Stage] = &[Stage::Tekken];
const CHAMELEON: &[Stage] = &[
    Stage::Sentinel,
    Stage::ImageToken,
    Stage::CodeSpace,
    Stage::EachNumber,
    Stage::EachPunctuation,
    Stage::Gpt2,
];

impl Pretokenizer {
    /// The pre-tokenizer of this name, if llama.cpp as BitNet.cpp pins it knows one.
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
            "deepseek-llm" => DEEPSEEK_LLM,
            "deepseek-coder" => DEEPSEEK_CODER,
            "bloom" | "poro-chat" | "gpt3-finnish" => BLOOM,
            "viking" => VIKING,
            "tekken" => TEKKEN,
            "chameleon" => CHAMELEON,
            _ => return None,
        };
        let llama3 = matches!(name, "llama3" | "llama-v3" | "llama-bpe");
        Some(Pretokenizer {
            stages,
            ignore_merges: llama3 || name == "tekken",
            add_bos: llama3 || matches!(name, "tekken" | "chameleon"),
            has_default_bos: name != "chatglm-bpe",
            clean_spaces: !matches!(
                name,
                "deepseek-llm"
                    | "deepseek-coder"
                    | "command-r"
                    | "qwen2"
                    | "poro-chat"
                    | "viking"
                    | "tekken"
                    | "smollm"
                    | "chameleon"
            ),
        })
    }

    /// The words of a [normalized](super::unicode::normalize) text; together they are the text.
    pub fn split<'a>(&self, text: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let chars = Chars::new(text);
        let mut ends = vec![chars.len()];
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
            let (word, after) = rest.split_at(chars.len_utf8(start..end));
            (start, rest) = (end, after);
            word
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
        let words = Pretokenizer::by_name(name).unwrap();
        let words = words.split(text.as_bytes());
        words.map(|w| std::str::from_utf8(w).unwrap()).collect()
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
            (
                "deepseek-llm",
                "Hé llo\n\n 12  x!  ",
                // Its punctuation reaches from the colon to the tilde, letters and all.
                &[
                    "H", "é", " llo", "\n", "\n", " ", "12", " ", " x", "!", "  ",
                ],
            ),
            ("deepseek-llm", "가か漢", &["가か漢"]),
            (
                "deepseek-coder",
                "a 12 'か漢x",
                &["a", " ", "1", "2", " '", "か漢", "x"],
            ),
            (
                "bloom",
                "a (b)|c, d",
                &["a", " (", "b", ")|", "c", ",", " d"],
            ),
            ("viking", "ab12 3", &["ab", "1", "2", " ", "3"]),
            (
                "tekken",
                "HelloWorldABC abc12é/\n/x",
                &["Hello", "World", "ABC", " abc", "1", "2", "é", "/\n/", "x"],
            ),
            // A letter without case ends what is upper, and begins what is lower.
            ("tekken", "ÉAB 漢A漢b", &["É", "AB", " 漢A漢b"]),
            (
                "chameleon",
                "<sentinel:12>IMGIMGABZ \t    a-b1",
                &[
                    "<",
                    "sentinel",
                    ":",
                    "1",
                    "2",
                    ">",
                    "IMGIMGABZ",
                    " ",
                    "\t",
                    "    ",
                    "a",
                    "-",
                    "b",
                    "1",
                ],
            ),
            ("chameleon", "IMGIMGABZx", &["IMGIMGABZ", "x"]),
            ("chameleon", "IMGIMGABABAZx", &["IMGIMGABABAZx"]),
        ];
        for (name, text, want) in cases {
            assert_eq!(split(name, text), *want, "{name}: {text:?}");
        }
    }

    /// A scanner that looks ahead from every position would take minutes here.
    #[test]
    fn long_lines_without_a_match_take_linear_time() {
        let texts = [
            "a",
            "A",
            "é",
            "7",
            " ",
            "\n",
            "<sentinel:1",
            "'",
            "IMGIMGA",
            "\u{3000}",
            "漢A",
        ];
        for stages in [
            DEFAULT,
            GPT2,
            BLOOM,
            FALCON,
            FALCON_3,
            LLAMA3,
            QWEN2,
            STARCODER,
            DEEPSEEK_LLM,
            DEEPSEEK_CODER,
            VIKING,
            TEKKEN,
            CHAMELEON,
        ] {
            for text in texts {
                let mut text = text.repeat((1 << 18) / text.len());
                text.push('!');
                let pre = Pretokenizer {
                    stages,
                    ..Pretokenizer::by_name("default").unwrap()
                };
                let words: usize = pre.split(text.as_bytes()).map(<[u8]>::len).sum();
                assert_eq!(words, text.len());
            }
        }
    }

    #[test]
    fn unknown_names_are_not_guessed() {
        for name in ["gpt-4o", "superbpe", "llama4", ""] {
            assert_eq!(Pretokenizer::by_name(name), None, "{name}");
        }
    }
}
