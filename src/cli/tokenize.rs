//! `crossval tokenize`.

mod fuzz;
mod single;
mod table;

use std::io::Read;
use std::path::{Path, PathBuf};

use crossval_protocol::EncodeOptions;
use reports::model::Role;
use reports::number;
use reports::outcome::Outcome;
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::limits::{LimitFlags, ModelFile};
use super::terminal::Terminal;
use crossval::Error;
use crossval::engine::{Engine, EngineError, EngineSpec, Failed, by};
use crossval::progress::Progress;
use crossval::session::chat;
use crossval::session::pair::Pair;
use crossval::session::setup::Setup;
use crossval::stats;
use crossval::text_file;
use crossval::tokens::{self, Answer, Compared, Tokenizers, escape};
use crossval_protocol::{MAX_TEXT, VocabFacts};

/// Outputs of more tokens are not shown token by token.
const SHOWN_TOKENS: usize = 300;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    model: ModelFile,
    /// The text [default: standard input]
    #[arg(short = 'p', long, value_name = "TEXT", conflicts_with_all = ["file", "fuzz"])]
    text: Option<String>,
    /// A file with the text, or - for standard input; it need not be UTF-8. With --fuzz, a corpus to cut slices from
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// both (the candidate is compared with the reference), or one alone: rust, bitnet.cpp, bitnet.cpp@NAME, llama.cpp, exec:COMMAND
    #[arg(long, value_name = "ENGINE", default_value = "both")]
    engine: String,
    /// Engine to compare against [default: bitnet.cpp]
    #[arg(long, value_name = "ENGINE")]
    reference: Option<String>,
    /// Engine under test [default: rust]
    #[arg(long, value_name = "ENGINE")]
    candidate: Option<String>,
    /// Make the text one message of the user, rendered by the chat template in the model's file
    #[arg(long, conflicts_with_all = ["no_parse_special", "fuzz"])]
    chat: bool,
    /// Print the token IDs alone: [1, 2, 3]
    #[arg(long, conflicts_with_all = ["json", "fuzz"])]
    ids: bool,
    /// Do not add BOS (nor EOS), even where the model asks for it
    #[arg(long, conflicts_with = "fuzz")]
    no_bos: bool,
    /// Read the names of control tokens as text
    #[arg(long, conflicts_with = "fuzz")]
    no_parse_special: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// With --file, time each engine this many times, by turns [default: 1]
    #[arg(long, value_name = "N", requires = "file", conflicts_with_all = ["text", "fuzz"], value_parser = clap::value_parser!(u32).range(1..))]
    reps: Option<u32>,
    /// Compare both engines on N random strings
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    fuzz: Option<u64>,
    /// Equal seeds give equal strings
    #[arg(
        long,
        value_name = "S",
        requires = "fuzz",
        conflicts_with = "text",
        default_value_t = 0
    )]
    seed: u64,
    #[command(flatten)]
    limits: LimitFlags,
}

pub(super) fn run(args: Args, terminal: Terminal) -> Result<Outcome, Error> {
    let launcher = args.limits.launcher();
    let model = args.model.clone().required()?;
    if args.engine != "both" {
        let spec: EngineSpec = args.engine.parse()?;
        if args.fuzz.is_some() || args.reference.is_some() || args.candidate.is_some() {
            return Err(Error::Usage(format!(
                "--engine {spec}: --fuzz, --reference and --candidate are for --engine both"
            )));
        }
        return single::run(&args, &launcher, &spec, &model, terminal);
    }
    let reference: EngineSpec = args.reference.as_deref().unwrap_or("bitnet.cpp").parse()?;
    let candidate: EngineSpec = args.candidate.as_deref().unwrap_or("rust").parse()?;
    if reference == candidate {
        return Err(Error::Usage(format!(
            "--reference and --candidate are both {reference}"
        )));
    }
    let setup = Setup {
        launcher,
        model: model.clone(),
        reference,
        candidate,
    };
    if let Some(count) = args.fuzz {
        let corpus = args.file.as_deref().map(read).transpose()?;
        let engines = Tokenizers::load(&setup)?;
        return fuzz::run(&args, &model, engines, count, corpus, terminal);
    }
    let text = args.text()?;
    let engines = Tokenizers::load(&setup)?;
    let (text, options) = args.input(text, &model, &engines.facts)?;
    compare(&args, engines, &text, options, terminal)
}

fn compare(
    args: &Args,
    mut engines: Tokenizers,
    text: &[u8],
    options: EncodeOptions,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    engines.reference.set_task("tokenizing");
    engines.candidate.set_task("tokenizing");
    let comparison = tokens::compare(&mut engines.pair(), text, options);
    let comparison = comparison.map_err(|failed| engines.failed(failed, "on the text"))?;
    let times = match (&comparison.candidate, &comparison.reference) {
        (Ok(_), Ok(_)) if args.file.is_some() => {
            let repetitions = args.reps.unwrap_or(1);
            let pair = &mut engines.pair();
            let times = terminal
                .bar()
                .during(|progress| Times::measure(pair, text, options, repetitions, progress));
            times.map_err(|failed| engines.failed(failed, "on the text, timed"))?
        }
        _ => None,
    };
    let names = [&engines.candidate, &engines.reference].map(|engine| engine.name().to_owned());
    let answers = [&comparison.candidate, &comparison.reference];
    if args.json {
        let ids = names.iter().zip(answers);
        let mut out: Vec<(String, Value)> = ids
            .map(|(name, answer)| (name.clone(), json!(answer.as_ref().ok())))
            .collect();
        out.push(("equal".to_owned(), comparison.equal().into()));
        out.extend(differences(&comparison, &names));
        out.extend(times.iter().flat_map(|times| times.json(&names)));
        terminal.print_json(&Entries(out))?;
    } else if args.ids {
        match answers {
            [Ok(c), Ok(r)] if c == r => terminal.print(&format!("{c:?}\n"))?,
            _ => {
                for (name, answer) in names.iter().zip(answers) {
                    terminal.print(&format!("{name}: {}\n", ids_or_refusal(answer)))?;
                }
            }
        }
    } else {
        let shown = table::render(&mut engines, text, options, &comparison);
        terminal.print(&shown.map_err(|failed| engines.failed(failed, "showing the tokens"))?)?;
        if let Some(times) = times {
            terminal.print(&times.line(&names, text.len()))?;
        }
    }
    Ok(match comparison.equal() {
        true => Outcome::Pass,
        false => Outcome::Parity,
    })
}

impl Args {
    /// What is tokenized, and how: the text given, or what the chat template makes of it.
    fn input(
        &self,
        text: Vec<u8>,
        model: &Path,
        vocab: &VocabFacts,
    ) -> Result<(Vec<u8>, EncodeOptions), Error> {
        let mut options = EncodeOptions {
            add_special: !self.no_bos,
            parse_special: !self.no_parse_special,
        };
        if !self.chat {
            return Ok((text, options));
        }
        let text = text_file::from_utf8(text)
            .map_err(|e| Error::BadInput(format!("--chat: the text is {e}")))?;
        let vocab = VocabFacts {
            add_bos: vocab.add_bos && options.add_special,
            ..vocab.clone()
        };
        options.add_special = false;
        let rendered = chat::render(&[text], model, Some(&vocab))?;
        Ok((rendered.concat().into_bytes(), options))
    }

    fn text(&self) -> Result<Vec<u8>, Error> {
        let (text, source) = match (&self.text, &self.file) {
            (Some(text), _) => (text.clone().into_bytes(), "--text".to_owned()),
            (None, Some(file)) => (read(file)?, file.display().to_string()),
            (None, None) => (read(Path::new("-"))?, "standard input".to_owned()),
        };
        match text.len() {
            ..=MAX_TEXT => Ok(text),
            n => Err(Error::Usage(format!(
                "text from {source}: {n} bytes, more than the {MAX_TEXT} that are tokenized at once"
            ))),
        }
    }
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    if file == Path::new("-") {
        let mut text = Vec::new();
        let read = std::io::stdin().lock().read_to_end(&mut text);
        read.map_err(|e| Error::io("standard input", e))?;
        return Ok(text);
    }
    std::fs::read(file).map_err(|e| Error::BadInput(format!("text {}: {e}", file.display())))
}

/// What the JSON says beyond the tokens, where the engines differ or refuse.
fn differences(
    comparison: &Compared,
    [candidate, reference]: &[String; 2],
) -> Vec<(String, Value)> {
    let mut out = Vec::new();
    let refusals: serde_json::Map<String, Value> = [
        (candidate, &comparison.candidate),
        (reference, &comparison.reference),
    ]
    .into_iter()
    .filter_map(|(name, answer)| Some((name.clone(), answer.as_ref().err()?.as_str().into())))
    .collect();
    if !refusals.is_empty() {
        out.push(("refused".to_owned(), refusals.into()));
    }
    if let Some(index) = comparison.first_difference() {
        out.push(("first_difference".to_owned(), index.into()));
    }
    if !comparison.texts.is_empty() {
        let texts = comparison.texts.iter().map(|text| {
            let shown = |answer: &Answer<Vec<u8>>| match answer {
                Ok(text) => escape(text),
                Err(message) => format!("refused: {message}"),
            };
            json!({
                "remove_special": text.options.remove_special,
                "unparse_special": text.options.unparse_special,
                candidate.as_str(): shown(&text.candidate),
                reference.as_str(): shown(&text.reference),
            })
        });
        out.push(("detokenized".to_owned(), texts.collect()));
    }
    out
}

fn ids_or_refusal(answer: &Answer<Vec<u32>>) -> String {
    match answer {
        Ok(ids) => format!("{ids:?}"),
        Err(message) => format!("refuses the text: {message}"),
    }
}

/// An object with its entries in the order given, which `serde_json`'s own does not keep.
struct Entries(Vec<(String, Value)>);

impl Serialize for Entries {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// How long each engine took for the text, milliseconds per repetition.
struct Times {
    candidate: Vec<f64>,
    reference: Vec<f64>,
}

impl Times {
    /// By turns, one engine at a time; the comparison before was the warm-up. `None` if an engine does not say.
    fn measure(
        pair: &mut Pair<'_>,
        text: &[u8],
        options: EncodeOptions,
        repetitions: u32,
        progress: Progress,
    ) -> Result<Option<Times>, Failed> {
        progress.stage("timing");
        progress.steps(2 * u64::from(repetitions));
        let mut times = Times {
            candidate: Vec::new(),
            reference: Vec::new(),
        };
        let time = |engine: &mut Engine| -> Result<Option<f64>, EngineError> {
            Ok(engine.tokenize(text, options)?.1)
        };
        for repetition in 0..repetitions {
            let mut turns = [Role::Candidate, Role::Reference];
            if repetition % 2 == 1 {
                turns.reverse();
            }
            for role in turns {
                let engine = role.of(&mut *pair.reference, &mut *pair.candidate);
                let ms = time(engine).map_err(by(role))?;
                let times = role.of(&mut times.reference, &mut times.candidate);
                progress.done(1);
                match ms {
                    Some(ms) => times.push(ms),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(times))
    }

    /// Medians, and how many times as fast as the reference the candidate is.
    fn medians(&self) -> Option<[f64; 3]> {
        let median = |samples: &[f64]| Some(stats::measured(samples.to_vec())?.median);
        let ratios: Vec<f64> = self
            .reference
            .iter()
            .zip(&self.candidate)
            .map(|(r, c)| r / c)
            .collect();
        Some([
            median(&self.candidate)?,
            median(&self.reference)?,
            median(&ratios)?,
        ])
    }

    fn json(&self, [candidate, reference]: &[String; 2]) -> Vec<(String, Value)> {
        let Some([c, r, ratio]) = self.medians() else {
            return Vec::new();
        };
        let ms = json!({candidate.as_str(): c, reference.as_str(): r});
        vec![("ms".to_owned(), ms), ("ratio".to_owned(), ratio.into())]
    }

    fn line(&self, [candidate, reference]: &[String; 2], bytes: usize) -> String {
        let Some([c, r, ratio]) = self.medians() else {
            return String::new();
        };
        let speed = |ms: f64| format!("{}/s", number::bytes(bytes as f64 / (ms / 1e3)));
        format!(
            "{candidate} {} ({}), {reference} {} ({}): {candidate} is {} times as fast\n",
            number::milliseconds(c),
            speed(c),
            number::milliseconds(r),
            speed(r),
            number::significant(ratio, 3)
        )
    }
}
