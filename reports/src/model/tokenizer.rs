//! Token parity: both tokenizers on the same texts. It is judged apart from the numbers, for which both engines are
//! fed one list of IDs.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Both tokenizers on the same texts. Texts and pieces in it are escaped: bytes that are no UTF-8 as `\xE2`,
/// characters that do not print as in a Rust literal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenParity {
    /// Engine whose token IDs were fed to both; null if IDs were given.
    pub fed: Option<String>,
    /// Why the tokenizers were not compared; null if they were.
    pub not_compared: Option<String>,
    /// The prompts that are texts, and the text of the perplexity.
    pub texts: Vec<TokenizedText>,
    /// Generated strings.
    pub generated: GeneratedTexts,
}

/// A text of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenizedText {
    /// Index into `inputs.prompts`; null for the text of the perplexity.
    pub prompt: Option<usize>,
    /// Where it came from.
    pub source: String,
    /// What the engines made of it.
    pub comparison: TokenComparison,
}

/// Seeded random strings, the same in every run with the same vocabulary: those of
/// `crossval tokenize --fuzz COMPARED --seed SEED`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GeneratedTexts {
    /// The seed.
    pub seed: u64,
    /// Strings compared; null if none were.
    pub compared: Option<u64>,
    /// Those on which the engines differ; null likewise.
    pub different: Option<u64>,
    /// The first of them.
    pub first: Vec<GeneratedText>,
    /// Tokens whose text by themselves differs; null likewise.
    pub different_pieces: Option<u64>,
    /// The first of them.
    pub first_pieces: Vec<PieceDifference>,
}

/// A generated string on which the engines differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct GeneratedText {
    /// Its number.
    pub index: u64,
    /// As little of it as still differs.
    pub text: String,
    /// Whether BOS and the like were added.
    pub add_special: bool,
    /// Whether special tokens in the text were read as such.
    pub parse_special: bool,
    /// What the engines made of it.
    pub comparison: TokenComparison,
}

/// A token whose text by itself differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PieceDifference {
    /// Its ID.
    pub id: u32,
    /// The reference's text.
    pub reference: String,
    /// The candidate's text.
    pub candidate: String,
}

/// What both engines made of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenComparison {
    /// Both gave the same tokens, and from them the same text; or both refused.
    pub equal: bool,
    /// The reference.
    pub reference: TokensOf,
    /// The candidate.
    pub candidate: TokensOf,
    /// Index of the first token that differs; null if there is none, or an engine refused.
    pub first_difference: Option<usize>,
    /// Whether both made the same text of the reference's tokens; null if an engine refused.
    pub same_text: Option<bool>,
}

/// What one engine made of a text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokensOf {
    /// Why it refused the text; null if it did not.
    pub refused: Option<String>,
    /// Tokens that it made; null if it refused.
    pub tokens: Option<u64>,
    /// Those around the first difference; empty if there is none.
    pub around: Vec<TokenAt>,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct TokenAt {
    /// Its index in the list.
    pub index: usize,
    /// Its ID.
    pub id: u32,
    /// Its text; null if the engine does not say.
    pub piece: Option<String>,
}

impl TokenParity {
    /// The first difference as a phrase: of the run's texts, else of the generated strings, else of single tokens.
    /// `None` if nothing that was compared differs.
    pub fn first_difference(&self) -> Option<String> {
        let text = self.texts.iter().find_map(|text| {
            let difference = text.comparison.difference()?;
            Some(format!("{}, {difference}", text.name()))
        });
        let generated = || {
            let text = self.generated.first.first()?;
            let (index, seed) = (text.index, self.generated.seed);
            let difference = text.comparison.difference()?;
            Some(format!(
                "string {index} of seed {seed} (\"{}\"), {difference}",
                text.text
            ))
        };
        let piece = || {
            let piece = self.generated.first_pieces.first()?;
            Some(format!(
                "token {} by itself is \"{}\" in the reference, \"{}\" in the candidate",
                piece.id, piece.reference, piece.candidate
            ))
        };
        text.or_else(generated).or_else(piece)
    }
}

impl TokenizedText {
    /// `prompt 0`, or what else it is.
    pub fn name(&self) -> String {
        match self.prompt {
            Some(index) => format!("prompt {index}"),
            None => "text of the perplexity".to_owned(),
        }
    }
}

impl TokenComparison {
    /// How the engines differ, as a phrase: `token 3: 403 "a" in the reference, 17 "b" in the candidate`. `None` if
    /// they do not.
    pub fn difference(&self) -> Option<String> {
        if self.equal {
            return None;
        }
        let refused = |of: &TokensOf, who: &str, other: &str| {
            let why = of.refused.as_ref()?;
            Some(format!("{who} refuses it, {other} does not: {why}"))
        };
        let (reference, candidate) = ("the reference", "the candidate");
        if let Some(refusal) = refused(&self.reference, reference, candidate)
            .or_else(|| refused(&self.candidate, candidate, reference))
        {
            return Some(refusal);
        }
        let Some(index) = self.first_difference else {
            return Some("the same tokens become another text".to_owned());
        };
        let there = |of: &TokensOf| match of.around.iter().find(|t| t.index == index) {
            Some(token) => token.to_string(),
            None => "none".to_owned(),
        };
        Some(format!(
            "token {index}: {} in {reference}, {} in {candidate}",
            there(&self.reference),
            there(&self.candidate)
        ))
    }
}

impl std::fmt::Display for TokenAt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.piece {
            Some(piece) => write!(f, "{} \"{piece}\"", self.id),
            None => write!(f, "{}", self.id),
        }
    }
}
