//! `crossval tokenize --fuzz`.

use std::fmt::Write;
use std::path::Path;

use reports::number;
use reports::outcome::Outcome;
use serde_json::{Value, json};

use super::{Args, Entries, differences, ids_or_refusal};
use crate::cli::terminal::Terminal;
use crossval::Error;
use crossval::tokens::{
    FuzzOptions, FuzzReport, Mismatch, PieceMismatch, Tokenizers, escape, fuzz, printf_argument,
};

pub(super) fn run(
    args: &Args,
    model: &Path,
    mut engines: Tokenizers,
    count: u64,
    corpus: Option<Vec<u8>>,
    terminal: Terminal,
) -> Result<Outcome, Error> {
    let options = FuzzOptions {
        count,
        seed: args.seed,
        corpus,
    };
    let facts = engines.facts.clone();
    let pair = &mut engines.pair();
    let report = terminal
        .bar()
        .during(|progress| {
            progress.stage("comparing");
            progress.steps(count);
            fuzz(pair, &facts, options, progress)
        })
        .map_err(|failed| {
            engines.failed(failed, &format!("--fuzz {count} --seed {}", args.seed))
        })?;
    let names = [&engines.candidate, &engines.reference].map(|engine| engine.name().to_owned());
    if args.json {
        terminal.print_json(&Entries(as_json(args, &report, &names)))?;
    } else {
        terminal.print(&render(args, model, &report, &names))?;
    }
    Ok(match report.equal() {
        true => Outcome::Pass,
        false => Outcome::Parity,
    })
}

fn render(args: &Args, model: &Path, report: &FuzzReport, names: &[String; 2]) -> String {
    let mut out = String::new();
    let [candidate, reference] = names;
    for piece in &report.piece_mismatches {
        let [c, r] = [&piece.candidate, &piece.reference].map(|text| escape(text));
        let id = piece.id;
        let _ = writeln!(
            out,
            "token {id} by itself: {candidate} \"{c}\", {reference} \"{r}\""
        );
    }
    for mismatch in &report.mismatches {
        out.push_str(&render_mismatch(args, model, mismatch, names));
    }
    let _ = writeln!(
        out,
        "{} of {} strings differ, seed {}: {}, {}, {} refused by both engines",
        number::count(report.different),
        number::count(report.strings),
        args.seed,
        number::plural(report.bytes, "byte"),
        number::plural(report.tokens, "token"),
        number::count(report.refused_by_both)
    );
    if report.different_pieces > 0 {
        let tokens = number::plural(report.different_pieces, "token");
        let _ = writeln!(out, "{tokens} with another text by itself");
    }
    out
}

fn render_mismatch(args: &Args, model: &Path, mismatch: &Mismatch, names: &[String; 2]) -> String {
    let mut out = String::new();
    let comparison = &mismatch.comparison;
    let _ = writeln!(
        out,
        "string {} of seed {}, shrunk from {}: \"{}\"",
        mismatch.index,
        args.seed,
        number::plural(mismatch.generated_bytes as u64, "byte"),
        escape(&mismatch.text)
    );
    let width = names.iter().map(String::len).max().unwrap_or(0);
    for (name, answer) in names
        .iter()
        .zip([&comparison.candidate, &comparison.reference])
    {
        let _ = writeln!(out, "  {name:width$}  {}", ids_or_refusal(answer));
    }
    for difference in &comparison.texts {
        out.push_str(&super::table::texts(names, difference));
    }
    let mut flags = String::new();
    for (flag, given) in [
        ("--reference", &args.reference),
        ("--candidate", &args.candidate),
    ] {
        if let Some(engine) = given {
            let _ = write!(flags, " {flag} {engine}");
        }
    }
    if !mismatch.options.add_special {
        flags.push_str(" --no-bos");
    }
    if !mismatch.options.parse_special {
        flags.push_str(" --no-parse-special");
    }
    let _ = writeln!(
        out,
        "  printf '{}' | crossval tokenize --model {}{flags}\n",
        printf_argument(&mismatch.text),
        model.display()
    );
    out
}

fn as_json(args: &Args, report: &FuzzReport, names: &[String; 2]) -> Vec<(String, Value)> {
    let [candidate, reference] = names;
    let piece = |piece: &PieceMismatch| {
        json!({
            "id": piece.id,
            candidate.as_str(): escape(&piece.candidate),
            reference.as_str(): escape(&piece.reference),
        })
    };
    let mismatch = |mismatch: &Mismatch| {
        let comparison = &mismatch.comparison;
        let mut out = json!({
            "index": mismatch.index,
            "add_special": mismatch.options.add_special,
            "parse_special": mismatch.options.parse_special,
            "text": escape(&mismatch.text),
            candidate.as_str(): comparison.candidate.as_ref().ok(),
            reference.as_str(): comparison.reference.as_ref().ok(),
        });
        if let Some(out) = out.as_object_mut() {
            out.extend(differences(comparison, names));
        }
        out
    };
    let entries: [(&str, Value); 9] = [
        ("seed", args.seed.into()),
        ("strings", report.strings.into()),
        ("different", report.different.into()),
        ("equal", report.equal().into()),
        ("bytes", report.bytes.into()),
        ("tokens", report.tokens.into()),
        ("refused_by_both", report.refused_by_both.into()),
        (
            "mismatches",
            report.mismatches.iter().map(mismatch).collect(),
        ),
        (
            "pieces",
            json!({
                "different": report.different_pieces,
                "mismatches": report.piece_mismatches.iter().map(piece).collect::<Value>(),
            }),
        ),
    ];
    entries.map(|(key, value)| (key.to_owned(), value)).into()
}
