//! Timings and memory.

use super::{Kind, State, Table, name_of};
use crate::model::{
    BenchCompactHead, BenchRow, BenchTokens, Measured, Report, Role, TimedPair, TokenWork,
};
use crate::number;

pub(super) type Format = fn(f64) -> String;

/// What a test measures, and how it is written.
pub(crate) fn measured(row: &BenchRow) -> Option<(&Measured, Format)> {
    let tps = row.tps.as_ref();
    let ms = row.ms.as_ref();
    tps.map(|m| (m, number::tokens_per_second as Format))
        .or(ms.map(|m| (m, number::milliseconds as Format)))
}

pub(super) fn threads(n: usize) -> String {
    number::plural(n as u64, "thread")
}

/// `8 threads on 2 CPUs` where they shared them, else `8 threads`.
pub(crate) fn threads_on(report: &Report, n: usize) -> String {
    threads(n) + &on_cpus(report, n)
}

/// The same in a column of threads.
pub(crate) fn threads_cell(report: &Report, n: usize) -> String {
    n.to_string() + &on_cpus(report, n)
}

fn on_cpus(report: &Report, n: usize) -> String {
    let shared = report.shared_cpus(n);
    shared.map_or(String::new(), |cpus| {
        format!(" on {}", number::plural(cpus as u64, "CPU"))
    })
}

/// One row per test and thread count that is wanted.
pub(super) fn throughput(report: &Report, wanted: impl Fn(&TimedPair) -> bool) -> Table {
    let mut pairs = report.timed_pairs();
    pairs.retain(wanted);
    let share = |row: Option<&BenchRow>| row.and_then(|row| row.roofline_share);
    let shares = pairs
        .iter()
        .any(|p| share(p.reference).or(share(p.candidate)).is_some());
    let mut columns = vec![
        ("Test", Kind::Code),
        ("Threads", Kind::Number),
        ("Reference", Kind::Number),
        ("Candidate", Kind::Number),
        ("Candidate / reference", Kind::Number),
    ];
    if shares {
        columns.push(("Reference, of the roofline", Kind::Number));
        columns.push(("Candidate, of the roofline", Kind::Number));
    }
    let mut table = Table::new(&columns);
    for pair in pairs {
        let cell = |row: Option<&BenchRow>| match row.and_then(measured) {
            Some((m, format)) => {
                let (median, interval) = m.written(format);
                format!("{median} ({interval})")
            }
            None => number::NOT_MEASURED.to_owned(),
        };
        let ratio = |x| number::significant(x, 3);
        let mut cells = vec![
            pair.test.to_owned(),
            threads_cell(report, pair.threads),
            cell(pair.reference),
            cell(pair.candidate),
            pair.ratio.map_or_else(
                || number::NOT_MEASURED.to_owned(),
                |r| {
                    format!(
                        "{} ({} to {})",
                        number::times(r.median),
                        ratio(r.low),
                        ratio(r.high)
                    )
                },
            ),
        ];
        if shares {
            let of_role = |row| share(row).map(number::share).unwrap_or_default();
            cells.extend([of_role(pair.reference), of_role(pair.candidate)]);
        }
        table.push(State::Plain, cells);
    }
    table
}

/// Time between tokens, and what a repetition took.
pub(super) fn latency(report: &Report) -> Table {
    let pairs = report.timed_pairs();
    let rows = || {
        pairs
            .iter()
            .flat_map(|p| Role::BOTH.map(|role| Some((role, p.row(role)?))))
            .flatten()
    };
    let energy = rows().any(|(_, row)| row.energy.is_some());
    let mut columns = vec![
        ("Test", Kind::Code),
        ("Threads", Kind::Number),
        ("Engine", Kind::Code),
        ("Between tokens, p50", Kind::Number),
        ("p95", Kind::Number),
        ("p99", Kind::Number),
        ("CPU time", Kind::Number),
    ];
    if energy {
        columns.push(("Energy", Kind::Number));
    }
    let mut table = Table::new(&columns);
    for (role, row) in rows() {
        if row.inter_token.is_none() && row.cpu_seconds.is_none() && row.energy.is_none() {
            continue;
        }
        let ms = |x: Option<f64>| x.map(number::milliseconds).unwrap_or_default();
        let mut cells = vec![
            row.test.clone(),
            threads_cell(report, row.threads),
            name_of(report, role),
            ms(row.inter_token.as_ref().map(|t| t.p50)),
            ms(row.inter_token.as_ref().map(|t| t.p95)),
            ms(row.inter_token.as_ref().map(|t| t.p99)),
            number::or_not_measured(row.cpu_seconds, |s| number::milliseconds(s * 1e3)),
        ];
        if energy {
            cells.push(number::or_not_measured(row.energy, number::joules));
        }
        table.push(State::Plain, cells);
    }
    table
}

/// What the machine can do.
pub(super) fn roofline(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Threads", Kind::Number),
        ("CPUs", Kind::Code),
        ("Read bandwidth", Kind::Number),
        ("int8 peak", Kind::Number),
        ("by", Kind::Text),
    ]);
    for roofline in report.bench.iter().flat_map(|bench| &bench.roofline) {
        let cpus: Vec<String> = roofline.cpus.iter().map(usize::to_string).collect();
        let bandwidth = |x| number::billions(x, "B/s");
        let macs = |x| number::billions(x, "MAC/s");
        table.push(
            State::Plain,
            vec![
                roofline.threads.to_string(),
                cpus.join(" "),
                number::or_not_measured(roofline.read_bytes_per_second, bandwidth),
                number::or_not_measured(roofline.int8_macs_per_second, macs),
                roofline.int8_instructions.clone().unwrap_or_default(),
            ],
        );
    }
    table
}

/// Peak memory by thread count, of a report that has no other memory.
pub(super) fn memory(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Threads", Kind::Number),
        ("Reference, peak memory", Kind::Number),
        ("Candidate, peak memory", Kind::Number),
    ]);
    if report.not_compared.is_some() {
        for threads in memory_threads(report) {
            let of_role = |bytes: Option<u64>| {
                number::or_not_measured(bytes.map(|b| b as f64), number::bytes)
            };
            let [reference, candidate] = report.timed_memory(threads).map(of_role);
            table.push(
                State::Plain,
                vec![threads.to_string(), reference, candidate],
            );
        }
    }
    table
}

/// Thread counts at which memory was measured; that of the run in older reports.
pub(super) fn memory_threads(report: &Report) -> Vec<usize> {
    let memory = report.bench.iter().flat_map(|bench| &bench.memory);
    let mut all: Vec<usize> = memory
        .map(|m| m.threads.unwrap_or(report.inputs.threads))
        .collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Load time, memory and CPU time of both workers.
pub(super) fn workers(report: &Report) -> Table {
    if report.not_compared.is_some() {
        return Table::default();
    }
    let timed = report.timed_memory(report.inputs.threads);
    let mut table = Table::new(&[
        ("Engine", Kind::Code),
        ("Model load", Kind::Number),
        ("Peak memory, comparing", Kind::Number),
        ("Peak memory, timed runs", Kind::Number),
        ("CPU time, comparing", Kind::Number),
    ]);
    for ((role, engine), timed) in report.engines.by_role().into_iter().zip(timed) {
        table.push(
            State::Plain,
            vec![
                name_of(report, role),
                number::or_not_measured(engine.load_ms, number::milliseconds),
                number::or_not_measured(engine.peak_rss_bytes.map(|b| b as f64), number::bytes),
                number::or_not_measured(timed.map(|b| b as f64), number::bytes),
                number::or_not_measured(engine.cpu_seconds, |s| number::milliseconds(s * 1000.0)),
            ],
        );
    }
    table
}

/// What the timings are, and what they do not say.
pub(crate) fn bench_notes(report: &Report) -> Vec<String> {
    let Some(bench) = &report.bench else {
        return Vec::new();
    };
    // Each row has its own number: a load takes longer than a token.
    let rows = bench.rows.iter();
    let samples = rows
        .filter_map(|row| Some(measured(row)?.0.samples.len() as u64))
        .filter(|&n| n > 0);
    let pairs = match samples.clone().min().zip(samples.max()) {
        Some((low, high)) if low < high => format!(
            " of {} to {}",
            number::count(low),
            number::plural(high, "interleaved pair")
        ),
        Some((all, _)) => format!(" of {}", number::plural(all, "interleaved pair")),
        None => String::new(),
    };
    let mut notes = vec![format!(
        "Medians{pairs} with 95% bootstrap intervals; a ratio above 1 means that the candidate is faster.",
    )];
    for (engine, reproduced) in &bench.tokens_reproduced {
        notes.push(if *reproduced {
            format!("The {engine} generated the same tokens while timed as without timing.")
        } else {
            format!("The {engine} generated other tokens while timed than without timing.")
        });
    }
    notes.extend(bench.seed.map(|seed| {
        let checked = |of: fn(&BenchTokens) -> usize| bench.tokens.iter().map(of).sum::<usize>();
        format!(
            "Timed repetitions have random prompts of their own, seed {seed}; held against the engines' own logits were \
             the tokens of {} of the reference and of {} of the candidate.",
            checked(|t| t.reference_checked),
            checked(|t| t.candidate_checked)
        )
    }));
    let differ = bench
        .tokens
        .iter()
        .filter_map(|t| Some((t, t.first_mismatch?)));
    let places: Vec<String> = differ
        .map(|(t, at)| {
            let threads = threads(t.threads);
            format!("{} at {threads} from token {at} of {}", t.test, t.count)
        })
        .collect();
    if !places.is_empty() {
        notes.push(format!(
            "The engines generated different tokens, as near ties or errors make them, in {}.",
            places.join(", ")
        ));
    } else if !bench.tokens.is_empty() {
        notes.push("Both engines generated the same tokens.".to_owned());
    }
    notes.extend(bench.compact_heads.iter().map(compact_head_note));
    notes.extend(bench.work.as_ref().map(roofline_note));
    notes.extend(bench.notes.iter().map(|note| format!("Note: {note}.")));
    notes
}

/// What a compact head cost and how often it served.
fn compact_head_note(head: &BenchCompactHead) -> String {
    let rows = match head.certified {
        0 => String::new(),
        n => format!(
            ", computing {} rows of the head for each",
            number::significant(head.exact_rows as f64 / n as f64, 3)
        ),
    };
    format!(
        "The candidate's compact head, {}, gave {} of {} at {} without all logits{rows}; peak memory with it: {}.",
        number::bytes(head.bytes as f64),
        number::count(head.certified),
        number::plural(head.tokens, "token"),
        threads(head.threads),
        number::or_not_measured(head.peak_rss_bytes.map(|b| b as f64), number::bytes),
    )
}

/// How the shares follow from the figures.
fn roofline_note(work: &TokenWork) -> String {
    let of_prefill = work.ternary_macs.map_or(String::new(), |n| {
        format!(
            "; of tokens/s times {} multiply-accumulates of ternary weights over the int8 peak (pp)",
            number::count(n)
        )
    });
    format!(
        "Share of the roofline: of tokens/s times {} of weights over the read bandwidth (tg){of_prefill}. A model that \
         fits the caches, or an engine that repacks weights to fewer bytes, can exceed 100% in tg.",
        number::bytes(work.weight_bytes as f64)
    )
}
