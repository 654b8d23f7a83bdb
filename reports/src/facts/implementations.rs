//! The two engines side by side, as far as they say what they are.

use super::{Kind, State, Table};
use crate::model::{Abilities, Engine, Report};
use crate::number;

type Of = fn(&Engine) -> Option<String>;

/// One row per property that either engine states.
pub(super) fn table(report: &Report) -> Table {
    let rows: [(&str, Of); 13] = [
        ("Engine", |engine| Some(engine.called().to_owned())),
        ("Version", |engine| engine.version.clone()),
        ("Language", |engine| build(engine, "language")),
        ("Compiler", |engine| build(engine, "compiler")),
        ("Kernels", |engine| build(engine, "kernel")),
        ("Instruction sets", |engine| {
            build(engine, "cpu_features").map(|list| enabled(&list))
        }),
        ("Model architectures", |engine| {
            able(engine, |a| list(&a.architectures))
        }),
        ("Weight types", |engine| {
            able(engine, |a| list(&a.tensor_types))
        }),
        ("Taps offered", |engine| {
            able(engine, |a| number::count(a.taps.len() as u64))
        }),
        ("Goes on with given values", |engine| {
            able(engine, |a| yes_or_no(a.takes_values))
        }),
        ("Tokenizer", |engine| {
            able(engine, |a| yes_or_no(a.tokenizer))
        }),
        ("KV cache", |engine| setting(engine, "kv_cache")),
        ("Threads", |engine| setting(engine, "threads")),
    ];
    let mut table = Table::new(&[
        ("", Kind::Text),
        ("Reference", Kind::Text),
        ("Candidate", Kind::Text),
    ]);
    let engines = &report.engines;
    for (name, of) in rows {
        let cells = [of(&engines.reference), of(&engines.candidate)];
        if cells.iter().all(Option::is_none) {
            continue;
        }
        let cells = cells.map(|cell| cell.unwrap_or_else(|| "not stated".to_owned()));
        let cells = [name.to_owned()].into_iter().chain(cells);
        table.push(State::Plain, cells.collect());
    }
    table
}

fn build(engine: &Engine, key: &str) -> Option<String> {
    engine.build.get(key).cloned()
}

fn setting(engine: &Engine, key: &str) -> Option<String> {
    engine.settings.get(key).cloned()
}

fn able(engine: &Engine, of: impl Fn(&Abilities) -> String) -> Option<String> {
    engine.abilities.as_ref().map(of)
}

fn list(names: &[String]) -> String {
    match names {
        [] => "none".to_owned(),
        names => names.join(", "),
    }
}

fn yes_or_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// Of a list as ggml writes it, `AVX = 1 | AVX512 = 0 |`, those that are on; of any other, all of it.
fn enabled(list: &str) -> String {
    let pairs: Option<Vec<(&str, &str)>> = list
        .split('|')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.split_once('='))
        .collect();
    let Some(pairs) = pairs else {
        return list.to_owned();
    };
    let on = pairs.iter().filter(|(_, value)| value.trim() == "1");
    let on: Vec<&str> = on.map(|(name, _)| name.trim()).collect();
    match on.as_slice() {
        [] => "none".to_owned(),
        on => on.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::enabled;

    #[test]
    fn what_is_on() {
        assert_eq!(enabled("AVX = 1 | AVX512 = 0 | F16C = 1 |"), "AVX, F16C");
        assert_eq!(enabled("AVX = 0 |"), "none");
        assert_eq!(enabled("avx2 fma"), "avx2 fma");
    }
}
