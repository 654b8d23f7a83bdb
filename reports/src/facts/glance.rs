//! What a reader asks first: is it right, are the tokens the same, how fast is it, and on what.

use serde::Serialize;

use super::parity::{gated, is_spoken_for};
use super::representative::{decode, figures, prefill, representative};
use super::speed::{Format, memory_threads, threads, threads_on};
use super::{Kind, State, Table, excused, name_of, output};
use crate::model::{Cache, Engine, Report, Role, Test, TimedPair, TokenParity};
use crate::number;

/// The name of the day in what the answers are about.
pub(crate) const DATE: &str = "Date";

/// One answer.
#[derive(Serialize)]
pub(crate) struct Tile {
    pub title: String,
    pub value: String,
    /// What the value rests on; may be empty.
    pub note: String,
    pub state: State,
}

impl Tile {
    fn plain(title: impl Into<String>, value: String, note: String) -> Tile {
        Tile {
            title: title.into(),
            value,
            note,
            state: State::Plain,
        }
    }
}

/// The answers that the report has; what it does not know is left out.
pub(super) fn tiles(report: &Report) -> Vec<Tile> {
    let tiles = [
        parity(report),
        tokens(report).or_else(|| timed_tokens(report)),
        report.tokenizer.as_ref().and_then(tokenizers),
        representative(report, prefill).map(|pair| speed(report, "Prefill", &pair)),
        representative(report, decode).map(|pair| speed(report, "Decode", &pair)),
        load(report),
        memory(report),
    ];
    tiles.into_iter().flatten().collect()
}

fn parity(report: &Report) -> Option<Tile> {
    let coverage = &report.coverage;
    if let Some(why) = &report.not_compared {
        return Some(Tile::plain(
            "Parity",
            "not compared".to_owned(),
            why.clone(),
        ));
    }
    if coverage.expected == 0 {
        return None;
    }
    let rows = format!(
        "{} of {} compared",
        number::count(coverage.compared),
        number::plural(coverage.expected, "row")
    );
    let all = gated(report).count() as u64;
    let within = gated(report).filter(|s| s.pass == Some(true)).count() as u64;
    let complete = super::coverage::complete(coverage);
    // Rows may keep their limits and yet be wrong, as the oracle or other conditions find.
    let right = complete && !report.verdict.parity_failed();
    let state = match excused(report).is_empty() && within < all {
        true => State::Fail,
        false if within == all && all > 0 && right => State::Pass,
        false => State::Plain,
    };
    let beyond = gated(report).filter(|s| is_spoken_for(s)).count() as u64;
    let limits = match all == within {
        true if beyond > 0 => format!(
            "{} of {} kept, {} exceeded by rounding alone",
            number::count(all - beyond),
            number::plural(all, "limit"),
            number::count(beyond)
        ),
        true => format!("all {} kept", number::plural(all, "limit")),
        false => format!(
            "{} of {} exceeded",
            number::count(all - within),
            number::plural(all, "limit")
        ),
    };
    let (value, note) = match all {
        0 => (rows, String::new()),
        // What is missing may be what differs.
        _ if !complete && within == all => (rows, limits),
        _ => (limits, rows + &excused(report)),
    };
    Some(Tile {
        state,
        ..Tile::plain("Parity", value, note)
    })
}

fn tokens(report: &Report) -> Option<Tile> {
    let generations: Vec<_> = output::generations_of(report).collect();
    if generations.is_empty() {
        return None;
    }
    let sum = |of: &dyn Fn(&crate::model::Generation) -> usize| {
        generations.iter().map(|g| of(g) as u64).sum::<u64>()
    };
    let all = sum(&|g| g.reference.len().max(g.candidate.len()));
    let same = sum(&|g| {
        let both = g.reference.iter().zip(&g.candidate);
        both.take_while(|(a, b)| a == b).count()
    });
    let mismatches = || generations.iter().filter_map(|g| g.first_mismatch.as_ref());
    let judged = output::generations(report);
    let state = if judged.iter().any(|g| g.state == State::Fail) {
        State::Fail
    } else if mismatches().next().is_some() {
        State::Plain
    } else {
        State::Pass
    };
    let mut notes = Vec::new();
    if mismatches().any(|m| !m.near_tie) {
        notes.push("then others, by more than a near tie".to_owned());
    } else if mismatches().next().is_some() {
        notes.push("then a near tie".to_owned());
    }
    if judged.iter().any(|g| g.contradicts) {
        notes.push("an engine contradicts its own logits".to_owned());
    }
    if generations.len() > 1 {
        let prompts = number::plural(generations.len() as u64, "prompt");
        notes.push(format!("from {prompts}"));
    }
    Some(Tile {
        state,
        ..Tile::plain("Generated tokens", same_of(same, all), notes.join("; "))
    })
}

/// `all 32 the same`, `23 of 32 the same`.
fn same_of(same: u64, all: u64) -> String {
    match same == all {
        true => format!("all {} the same", number::count(all)),
        false => format!("{} of {} the same", number::count(same), number::count(all)),
    }
}

/// Those of a report that has no others.
fn timed_tokens(report: &Report) -> Option<Tile> {
    let bench = report.bench.as_ref()?;
    let others = bench.tokens_reproduced.values().any(|same| !same);
    let all = bench.tokens.len() as u64;
    if report.not_compared.is_none() || all == 0 {
        return None;
    }
    let same = bench.tokens.iter().filter(|t| t.first_mismatch.is_none());
    let value = format!(
        "the same in {} of {}",
        number::count(same.count() as u64),
        number::plural(all, "test")
    );
    let (state, note) = match others {
        true => (
            State::Fail,
            "an engine generated others while timed than untimed",
        ),
        false => (State::Plain, ""),
    };
    Some(Tile {
        state,
        ..Tile::plain("Generated tokens", value, note.to_owned())
    })
}

fn tokenizers(parity: &TokenParity) -> Option<Tile> {
    if parity.not_compared.is_some() {
        return None;
    }
    let texts = parity.texts.len() as u64;
    let equal = parity.texts.iter().filter(|t| t.comparison.equal).count() as u64;
    let generated = &parity.generated;
    let mut notes = Vec::new();
    if texts > 0 {
        let texts = number::plural(texts, "text");
        notes.push(format!("{} of {texts}", number::count(equal)));
    }
    if let (Some(compared), Some(different)) = (generated.compared, generated.different) {
        let same = number::count(compared.saturating_sub(different));
        let strings = number::plural(compared, "generated string");
        notes.push(format!("{same} of {strings}"));
    }
    if notes.is_empty() {
        return None;
    }
    let pieces = generated.different_pieces.unwrap_or(0);
    let differ = equal < texts || generated.different.unwrap_or(0) > 0 || pieces > 0;
    let (value, state) = match differ {
        true => ("differ", State::Fail),
        false => ("agree", State::Pass),
    };
    Some(Tile {
        state,
        ..Tile::plain("Tokenizers", value.to_owned(), notes.join(", "))
    })
}

fn speed(report: &Report, what: &str, pair: &TimedPair) -> Tile {
    let threads = threads_on(report, pair.threads);
    let title = format!("{what} ({}, {threads})", pair.test);
    let figures = figures(report, pair).unwrap_or_default();
    let Some(ratio) = pair.ratio else {
        return Tile::plain(title, figures, String::new());
    };
    let [median, low, high] = [ratio.median, ratio.low, ratio.high].map(number::times);
    let interval = format!("{low} to {high}");
    let note = match figures.as_str() {
        "" => interval,
        figures => format!("{interval}; {figures}"),
    };
    Tile::plain(title, format!("{median} as fast"), note)
}

fn load(report: &Report) -> Option<Tile> {
    let warm = |test| test == Test::Load(Cache::Warm);
    if let Some(pair) = representative(report, warm) {
        return Some(Tile {
            title: "Model load".to_owned(),
            ..speed(report, "Model load", &pair)
        });
    }
    of_both(
        report,
        "Model load",
        |engine| engine.load_ms,
        number::milliseconds,
    )
}

fn memory(report: &Report) -> Option<Tile> {
    let timed = memory_threads(report).into_iter().rev().find_map(|n| {
        let [Some(reference), Some(candidate)] = report.timed_memory(n) else {
            return None;
        };
        Some((n, reference, candidate))
    });
    let Some((n, reference, candidate)) = timed else {
        let bytes = |engine: &Engine| engine.peak_rss_bytes.map(|b| b as f64);
        return of_both(report, "Peak memory (comparing)", bytes, number::bytes);
    };
    let title = format!("Peak memory (timed, {})", threads(n));
    let bytes = [reference, candidate].map(|bytes| number::bytes(bytes as f64));
    Some(beside(report, title, bytes))
}

fn of_both(
    report: &Report,
    title: &str,
    value: impl Fn(&Engine) -> Option<f64>,
    format: Format,
) -> Option<Tile> {
    let engines = &report.engines;
    let (reference, candidate) = (value(&engines.reference)?, value(&engines.candidate)?);
    let values = [reference, candidate].map(format);
    Some(beside(report, title.to_owned(), values))
}

/// The candidate's value, with the reference's beside it.
fn beside(report: &Report, title: String, [reference, candidate]: [String; 2]) -> Tile {
    let [of_reference, of_candidate] = Role::BOTH.map(|role| name_of(report, role));
    let note = format!("{of_candidate}; {of_reference} {reference}");
    Tile::plain(title, candidate, note)
}

/// What the answers are about: name and value.
pub(super) fn about(report: &Report) -> Vec<(&'static str, String)> {
    let model = &report.model;
    let mut about = vec![(
        "Model",
        format!(
            "{}, {}, {}",
            model.name.as_deref().unwrap_or(model.file_name()),
            number::bytes(model.size_bytes as f64),
            model.architecture
        ),
    )];
    let machine = &report.environment;
    let cpus = number::plural(machine.cpus as u64, "logical CPU");
    let cpu = match (&machine.cpu, &machine.cpu_id) {
        (Some(name), Some(id)) => format!("{name} ({id}), {cpus}"),
        (Some(one), None) | (None, Some(one)) => format!("{one}, {cpus}"),
        (None, None) => cpus,
    };
    about.push(("CPU", cpu));
    about.push(("Threads", thread_counts(report)));
    let version = |engine: &Engine| match &engine.version {
        Some(version) => format!("{} {version}", engine.called()),
        None => engine.called().to_owned(),
    };
    about.push((
        "Versions",
        format!(
            "{} against {}, by crossval {}",
            version(&report.engines.candidate),
            version(&report.engines.reference),
            machine.crossval_version
        ),
    ));
    let day = report.created.split('T').next();
    about.push((DATE, day.unwrap_or_default().to_owned()));
    about
}

/// The answers, then what they are about.
pub(super) fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("At a glance", Kind::Text),
        ("", Kind::Text),
        ("", Kind::Text),
    ]);
    for tile in tiles(report) {
        table.push(tile.state, vec![tile.title, tile.value, tile.note]);
    }
    for (name, value) in about(report) {
        table.push(State::Plain, vec![name.to_owned(), value, String::new()]);
    }
    table
}

/// Those of the run, which are several where only timings were made.
fn thread_counts(report: &Report) -> String {
    let mut counts = vec![report.inputs.threads];
    if report.not_compared.is_some() {
        let timed = report
            .timed_pairs()
            .iter()
            .map(|pair| pair.threads)
            .collect::<Vec<_>>();
        if !timed.is_empty() {
            counts = timed;
        }
    }
    counts.sort_unstable();
    counts.dedup();
    let counts: Vec<String> = counts.iter().map(usize::to_string).collect();
    counts.join(", ")
}
