//! Vocabularies of any size: pieces learnt from common English words by byte-pair merging, then systematic
//! combinations of letters for as many as are still to be filled.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use bitnet_model::gguf::{Array, Value};

use super::Error;

/// Common words, most frequent first.
const WORDS: &str = "the of and to a in is it you that he was for on are with as his they be at one have this \
from or had by hot but some what there we can out other were all your when up use word how said an each she \
which do their time if will way about many then them would write like so these her long make thing see him two \
has look more day could go come did my sound no most number who over know water than call first people may down \
side been now find any new work part take get place made live where after back little only round man year came \
show every good me give our under name very through just form much great think say help low line before turn \
cause same mean differ move right boy old too does tell sentence set three want air well also play small end put \
home read hand port large spell add even land here must big high such follow act why ask men change went light \
kind off need house picture try us again animal point mother world near build self earth father head stand own \
page should country found answer school grow study still learn plant cover food sun four thought let keep eye \
never last door between city tree cross since hard start might story saw far sea draw left late run while press \
close night real life few stop open seem together next white children begin got walk example ease paper often \
always music those both mark book letter until mile river car feet care second group carry took rain eat room \
friend began idea fish mountain north once base hear horse cut sure watch color face wood main enough plain girl \
usual young ready above ever red list though feel talk bird soon body dog family direct pose leave song measure \
state product black short numeral class wind question happen complete ship area half rock order fire south \
problem piece told knew pass farm top whole king size heard best hour better true during hundred am remember \
step early hold west ground interest reach fast five sing listen six table travel less morning ten simple \
several vowel toward war lay against pattern slow center love person money serve appear road map science rule \
govern pull cold notice voice fall power town fine certain fly unit lead cry dark machine note wait plan figure \
star box noun field rest correct able pound done beauty drive stood contain front teach week final gave green \
quick develop sleep warm free minute strong special mind behind clear tail produce fact street inch lot nothing \
course stay wheel full force blue object decide surface deep moon island foot yet busy test record boat common \
gold possible plane age dry wonder laugh thousand ago ran check game shape yes miss brought heat snow bed bring \
sit perhaps fill east weight language among";

/// What separates words inside pieces; each tokenizer writes it in its own way.
const SPACE: char = ' ';
/// Merges learnt at most; words that occur once or twice teach nothing more.
const LEARNT: usize = 1500;

/// Up to this size SentencePiece, above byte-level BPE.
const SPM_MAX: usize = 32_000;
/// `<unk>`, `<s>`, `</s>`, and the 256 bytes.
const SPM_FIXED: usize = 3 + 256;
/// More than any model has; [`merges`] knows 475,000.
const MAX: usize = 262_144;
/// Control tokens at the end of a byte-level vocabulary, as in Llama 3.
const BPE_CONTROL: usize = 256;

#[derive(Debug)]
pub(super) struct Vocab {
    tokens: Vec<String>,
    types: Vec<i32>,
    /// SentencePiece's scores, or byte-level BPE's merges.
    model: Model,
}

#[derive(Debug)]
enum Model {
    Spm(Vec<f32>),
    Bpe(Vec<String>),
}

/// `tokenizer.ggml.token_type`
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const BYTE: i32 = 6;

impl Vocab {
    /// A vocabulary of `n` tokens.
    pub fn new(n: usize) -> Result<Vocab, Error> {
        if !(SPM_FIXED..=MAX).contains(&n) {
            let what = format!("{n} is not within {SPM_FIXED} and {MAX}");
            return Err(Error::option("vocab", what));
        }
        Ok(match n {
            ..=SPM_MAX => Vocab::spm(n),
            _ => Vocab::bpe(n),
        })
    }

    fn spm(n: usize) -> Vocab {
        let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(str::to_owned).into();
        let mut types = vec![UNKNOWN, CONTROL, CONTROL];
        tokens.extend((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
        types.resize(SPM_FIXED, BYTE);
        let mut scores = vec![0.0; SPM_FIXED];
        let room = n - SPM_FIXED;
        let characters: Vec<String> = characters().take(room).map(String::from).collect();
        let merges = merges(room - characters.len());
        let pieces = merges
            .iter()
            .map(|(left, right)| format!("{left}{right}"))
            .chain(characters);
        for (rank, piece) in pieces.enumerate() {
            tokens.push(piece.replace(SPACE, "\u{2581}"));
            types.push(NORMAL);
            scores.push(-(rank as f32));
        }
        Vocab {
            tokens,
            types,
            model: Model::Spm(scores),
        }
    }

    fn bpe(n: usize) -> Vocab {
        let spell = |text: &str| text.replace(SPACE, "\u{120}");
        // GPT-2's order: the bytes that print in Latin-1, then the others as U+0100 and up.
        let printable = [0x21..=0x7E, 0xA1..=0xAC, 0xAE..=0xFFu32]
            .into_iter()
            .flatten();
        let bytes = printable.chain(0x100..0x144).filter_map(char::from_u32);
        let mut tokens: Vec<String> = bytes.map(String::from).collect();
        let learnt = merges(n - BPE_CONTROL - tokens.len());
        tokens.extend(
            learnt
                .iter()
                .map(|(left, right)| spell(&format!("{left}{right}"))),
        );
        let mut types = vec![NORMAL; tokens.len()];
        for i in 0..BPE_CONTROL {
            tokens.push(match i {
                0 => "<|begin_of_text|>".to_owned(),
                1 => "<|end_of_text|>".to_owned(),
                9 => "<|eot_id|>".to_owned(),
                _ => format!("<|reserved_special_token_{i}|>"),
            });
            types.push(CONTROL);
        }
        let merges = learnt
            .iter()
            .map(|(left, right)| format!("{} {}", spell(left), spell(right)));
        Vocab {
            model: Model::Bpe(merges.collect()),
            tokens,
            types,
        }
    }

    /// Everything under `tokenizer.ggml.`
    pub fn metadata(&self) -> Vec<(&'static str, Value)> {
        let strings = |list: &[String]| Value::from(Array::Str(list.iter().collect()));
        let mut entries = vec![
            ("tokens", strings(&self.tokens)),
            ("token_type", Array::I32(self.types.clone()).into()),
            ("add_bos_token", true.into()),
            ("add_eos_token", false.into()),
        ];
        match &self.model {
            Model::Spm(scores) => entries.extend([
                ("model", "llama".into()),
                ("scores", Array::F32(scores.clone()).into()),
                ("bos_token_id", 1u32.into()),
                ("eos_token_id", 2u32.into()),
                ("unknown_token_id", 0u32.into()),
            ]),
            Model::Bpe(merges) => {
                let bos = (self.tokens.len() - BPE_CONTROL) as u32;
                entries.extend([
                    ("model", "gpt2".into()),
                    ("pre", "llama-bpe".into()),
                    ("merges", strings(merges)),
                    ("bos_token_id", bos.into()),
                    ("eos_token_id", (bos + 1).into()),
                ]);
            }
        }
        entries
    }

    /// The tokens in runs: how many, and whether they are control or byte tokens.
    pub fn runs(&self) -> Vec<(u64, bool)> {
        let runs = self.types.chunk_by(|a, b| (*a == NORMAL) == (*b == NORMAL));
        runs.map(|run| (run.len() as u64, run[0] != NORMAL))
            .collect()
    }
}

/// Single characters, most useful first.
fn characters() -> impl Iterator<Item = char> {
    let printable = '!'..='~';
    let rest = printable.filter(|c| !c.is_ascii_alphabetic());
    std::iter::once(SPACE)
        .chain('a'..='z')
        .chain('A'..='Z')
        .chain(rest)
}

/// The first `n` merges. No two give the same piece.
fn merges(n: usize) -> Vec<(String, String)> {
    let mut merges = learn(n.min(LEARNT));
    let mut known: HashSet<String> = merges.iter().map(|(l, r)| format!("{l}{r}")).collect();
    // Two letters, then three, then four: the left part is always there already.
    let mut lefts: Vec<String> = ('a'..='z').map(String::from).collect();
    for _ in 0..3 {
        let mut longer = Vec::new();
        for left in &lefts {
            for right in 'a'..='z' {
                if merges.len() >= n {
                    return merges;
                }
                let piece = format!("{left}{right}");
                if known.insert(piece.clone()) {
                    merges.push((left.clone(), right.into()));
                }
                longer.push(piece);
            }
        }
        lefts = longer;
    }
    merges
}

/// Byte-pair encoding (Sennrich, Haddow, Birch 2016) of [`WORDS`], weighted by Zipf's law, with a space in front
/// and also capitalised.
fn learn(n: usize) -> Vec<(String, String)> {
    // Pieces by ID; characters come first.
    let mut pieces: Vec<String> = Vec::new();
    let mut words: Vec<(u64, Vec<usize>)> = Vec::new();
    let mut add = |weight: u64, text: String| {
        let mut symbol = |c: char| {
            let c = String::from(c);
            let known = pieces.iter().position(|p| *p == c);
            known.unwrap_or_else(|| {
                pieces.push(c);
                pieces.len() - 1
            })
        };
        words.push((weight, text.chars().map(&mut symbol).collect()));
    };
    for (rank, word) in WORDS.split_whitespace().enumerate() {
        let weight = 1_000_000 / (rank as u64 + 10);
        let (first, rest) = word.split_at(1);
        add(weight, format!("{SPACE}{word}"));
        add(weight / 8, format!("{SPACE}{}{rest}", first.to_uppercase()));
    }
    let mut merges = Vec::new();
    let mut known = HashSet::new();
    while merges.len() < n {
        let mut counts: HashMap<(usize, usize), u64> = HashMap::new();
        for (weight, symbols) in &words {
            for pair in symbols.windows(2) {
                *counts.entry((pair[0], pair[1])).or_default() += weight;
            }
        }
        // The most frequent; of equals, the pair that was there first.
        let best = counts
            .into_iter()
            .max_by_key(|&(pair, n)| (n, Reverse(pair)));
        let Some(((left, right), _)) = best else {
            break;
        };
        let merged = pieces.len();
        for (_, symbols) in &mut words {
            let mut i = 0;
            while i + 1 < symbols.len() {
                if (symbols[i], symbols[i + 1]) == (left, right) {
                    symbols.remove(i + 1);
                    symbols[i] = merged;
                }
                i += 1;
            }
        }
        let piece = format!("{}{}", pieces[left], pieces[right]);
        // Two ways to one piece: the first learnt stays.
        if known.insert(piece.clone()) {
            merges.push((pieces[left].clone(), pieces[right].clone()));
        }
        pieces.push(piece);
    }
    merges
}
