//! `crossval bench`: what it measures, how it prints it, and how it fails. No test looks at how fast anything is.

use std::collections::BTreeSet;

use reports::model::{AtFault, Status};
use serde_json::Value;

use super::*;

/// The Rust engine against itself, so that these tests need no reference.
const SMALL: [&str; 14] = [
    "--reference",
    "rust",
    "--candidate",
    "rust",
    "--threads",
    "1,2",
    "--prefill",
    "16,5",
    "--decode",
    "7",
    "--reps",
    "2",
    "--model",
    TINY,
];

fn bench(more: &[&str]) -> Output {
    crossval(&[&["bench"], &SMALL[..], more].concat())
}

fn stdout(output: &Output) -> String {
    assert_eq!(exit_code(output), 0, "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Tests at one thread and at two: loading is timed at the first count alone.
const TESTS: [&[&str]; 2] = [
    &[
        "pp5",
        "pp16",
        "tg7",
        "ttft",
        "load",
        "load cold",
        "load+ttft",
        "load+ttft cold",
    ],
    &["pp5", "pp16", "tg7", "ttft"],
];

#[test]
fn a_report_of_timings_claims_no_parity() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let output = bench(&["--out", out.to_str().expect("UTF-8")]);
    let table = stdout(&output);
    assert!(table.lines().all(|l| l.chars().count() <= 100), "{table}");
    assert!(table.starts_with("rust (candidate) decodes at "), "{table}");
    let report = read_report(&out, &output);
    assert_eq!(report.verdict.status, Status::Pass);
    assert!(report.not_compared.is_some() && report.taps.is_empty());
    for file in ["report.html", "report.md"] {
        let text = std::fs::read_to_string(out.join(file)).expect(file);
        assert!(text.contains("values not compared"), "{file}");
        assert!(!text.contains("rows compared"), "{file}");
    }
    let timed = report.bench.as_ref().expect("timings");
    assert_eq!(timed.repetitions, 2);
    let tests = |threads: usize| {
        let pairs = report.timed_pairs().into_iter();
        let of_threads = pairs.filter(|p| p.threads == threads);
        of_threads.map(|p| p.test.to_owned()).collect::<Vec<_>>()
    };
    assert_eq!([tests(1), tests(2)], TESTS.map(<[&str]>::to_vec));
    for pair in report.timed_pairs() {
        for row in [pair.reference, pair.candidate] {
            let row = row.expect("a row of each engine");
            let cold = row.test.ends_with(" cold");
            let measured = row.tps.as_ref().or(row.ms.as_ref());
            assert!(cold || measured.is_some(), "{}", row.test);
            if let Some(m) = measured {
                assert_eq!(m.samples.len(), 2, "{}", row.test);
                assert!(m.low <= m.median && m.median <= m.high);
                assert!(pair.ratio.is_some(), "{}", row.test);
            }
            let unmeasured = measured.is_none();
            assert_eq!(
                unmeasured,
                timed.notes.iter().any(|n| n.contains(&row.test) && cold)
            );
            assert_eq!(row.inter_token.is_some(), row.test == "tg7");
            let generates = row.test.starts_with("pp") || row.test == "tg7";
            assert_eq!(row.tps.is_some(), generates);
            assert_eq!(row.cpu_seconds.is_some(), generates);
            let limit = timed.roofline.iter().find(|r| r.threads == row.threads);
            let limit = limit.expect("a roofline");
            let known = match row.test.as_str() {
                "tg7" => limit.read_bytes_per_second.is_some(),
                _ => generates && limit.int8_macs_per_second.is_some(),
            };
            assert_eq!(row.roofline_share.is_some(), known, "{}", row.test);
        }
    }
    assert_eq!(timed.memory.len(), 4);
    assert_eq!(timed.tokens.len(), 6);
    for tokens in &timed.tokens {
        // One engine: the same tokens.
        assert_eq!(tokens.reference, tokens.candidate);
        assert_eq!(tokens.first_mismatch, None);
        let count = if tokens.test == "tg7" { 8 } else { 1 };
        assert_eq!(tokens.count, count);
    }
    let at = |threads| timed.tokens.iter().filter(move |t| t.threads == threads);
    let hashes = |threads| at(threads).map(|t| &t.reference).collect::<Vec<_>>();
    assert_eq!(hashes(1), hashes(2), "at any thread count");
}

/// Those of the demo model that BitNet.cpp's graph takes long enough for, whatever the machine.
#[cfg(feature = "reference")]
#[test]
fn the_products_of_both_engines_are_timed() {
    use reports::model::Role;

    let scratch = Scratch::new();
    let out = scratch.path("out");
    let output = crossval(&[
        "bench",
        "--threads",
        "1",
        "--prefill",
        "5",
        "--decode",
        "2",
        "--reps",
        "1",
        "--model",
        TINY,
        "--out",
        out.to_str().expect("UTF-8"),
    ]);
    let report = read_report(&out, &output);
    let bench = report.bench.as_ref().expect("timings");
    let kernels = &bench.kernels;
    let of = |role| {
        let of_role = kernels.iter().filter(move |k| k.role == Some(role));
        let shapes = of_role.map(|k| (k.weights.as_str(), k.rows, k.columns, k.tokens));
        shapes.collect::<Vec<_>>()
    };
    let wide = ("I2_S", 512, 128, 128);
    assert!(of(Role::Reference).contains(&wide) && of(Role::Candidate).contains(&wide));
    assert!(kernels.iter().all(|k| k.macs_per_second > 0.0));
    let quantisers = bench.quantisers.iter().map(|q| (q.role, q.columns));
    assert_eq!(
        quantisers.collect::<Vec<_>>(),
        Role::BOTH.map(|role| [(role, 128), (role, 512)]).concat()
    );
    assert!(bench.quantisers.iter().all(|q| q.elements_per_second > 0.0));
    let reference = &report.engines.reference;
    assert_eq!(reference.build["language"], "C and C++");
    let abilities = reference.abilities.as_ref().expect("what it can do");
    assert!(abilities.takes_values && abilities.tensor_types.contains(&"I2_S".to_owned()));
}

#[test]
fn a_compact_head_is_timed_and_held_to_the_full_heads_tokens() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let folder = out.to_str().expect("UTF-8");
    let output = bench(&["--compact-head", "1", "--out", folder]);
    let table = stdout(&output);
    assert!(table.contains("compact head, "), "{table}");
    let report = read_report(&out, &output);
    let bench = report.bench.as_ref().expect("timings");
    assert_eq!(bench.compact_heads.len(), 2);
    for (head, threads) in bench.compact_heads.iter().zip([1, 2]) {
        assert_eq!(head.threads, threads);
        // 512 rows of 128 codes and three f32.
        assert_eq!(head.bytes, 512 * (128 + 12));
        // A warm-up and two repetitions, of a prompt and seven steps.
        assert_eq!((head.tokens, head.certified), (24, 24));
    }
    // The memory beside a certified row is that of the worker that has the copy.
    for pair in report.timed_pairs() {
        if pair.test == "tg7 certified" {
            let head = bench
                .compact_heads
                .iter()
                .find(|h| h.threads == pair.threads);
            assert_eq!(
                report.memory_of(&pair)[1],
                head.expect("a head").peak_rss_bytes
            );
        }
    }
    let rows = bench.rows.iter().filter(|row| row.test == "tg7 certified");
    assert!(rows.clone().count() == 4 && rows.clone().all(|row| row.tps.is_some()));
    assert!(bench.ratios.iter().any(|r| r.test == "tg7 certified"));
    assert!(bench.tokens_reproduced.values().all(|&same| same));
}

#[test]
fn formats() {
    let print = |format| {
        let args = [
            "bench",
            "--reference",
            "rust",
            "--model",
            TINY,
            "--threads",
            "1",
            "--prefill",
            "5,16",
            "--decode",
            "7",
            "--reps",
            "1",
            "--format",
            format,
        ];
        stdout(&crossval(&args))
    };
    let rows = 2 * TESTS[0].len();
    let lines = print("jsonl");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), rows);
    let names = |v: &Value| -> BTreeSet<String> {
        v.as_object().expect("an object").keys().cloned().collect()
    };
    let all = names(&lines[0]);
    assert!(
        all.contains("energy") && all.contains("peak_rss_bytes"),
        "{all:?}"
    );
    for record in &lines {
        assert_eq!(names(record), all);
        assert_eq!(record["engine"], "rust");
    }
    let roles = lines.iter().map(|r| r["role"].as_str().expect("a role"));
    assert_eq!(roles.filter(|r| *r == "candidate").count(), rows / 2);

    let csv = print("csv");
    let header: Vec<&str> = csv.lines().next().expect("a header").split(',').collect();
    assert_eq!(
        header
            .iter()
            .map(|n| n.to_string())
            .collect::<BTreeSet<_>>(),
        all
    );
    assert_eq!(csv.lines().count(), 1 + rows);

    let md = print("md");
    assert!(md.starts_with("# rust (candidate) decodes at "), "{md}");
    assert!(md.contains("| `tg7` "), "{md}");
}

#[test]
fn defaults_fit_the_model() {
    let output = crossval(&[
        "bench",
        "--reference",
        "rust",
        "--model",
        TINY,
        "--reps",
        "1",
        "--threads",
        "1",
        "--format",
        "csv",
    ]);
    let csv = stdout(&output);
    // 512 tokens would not fit its context of 256.
    assert!(csv.contains(",pp128,") && csv.contains(",tg64,"), "{csv}");
    assert!(!csv.contains("pp512"), "{csv}");
}

#[test]
fn more_threads_than_cpus_are_said_with_the_figures() {
    let cpus = std::thread::available_parallelism().expect("a count").get();
    let (scratch, threads) = (Scratch::new(), 4 * cpus);
    let out = scratch.path("out");
    let output = crossval(&[
        "bench",
        "--reference",
        "rust",
        "--model",
        TINY,
        "--reps",
        "1",
        "--prefill",
        "4",
        "--decode",
        "2",
        "--threads",
        &threads.to_string(),
        "--out",
        out.to_str().expect("UTF-8"),
    ]);
    let table = stdout(&output);
    let on = match cpus {
        1 => format!("{threads} on 1 CPU "),
        _ => format!("{threads} on {cpus} CPUs "),
    };
    let mut lines = table.lines();
    let line = lines.find(|line| line.starts_with(" rust") && line.contains(" tg2 "));
    assert!(line.is_some_and(|line| line.contains(&on)), "{table}");
    let notes = &read_report(&out, &output).bench.expect("timings").notes;
    let share = format!("{threads} threads share {cpus} CPU");
    assert!(
        notes.iter().any(|note| note.starts_with(&share)),
        "{notes:?}"
    );
}

#[test]
fn bad_flags_and_files() {
    let scratch = Scratch::new();
    let text = scratch.path("text.gguf");
    std::fs::write(&text, "no model at all, but long enough for a header").expect("a file");
    let text = text.to_str().expect("UTF-8");
    for (more, code, says) in [
        (&["--threads", "0"][..], 64, "--threads"),
        (&["--prefill", "0"], 64, "--prefill"),
        (&["--prefill", "16,x"], 64, "--prefill"),
        (
            &["--prefill", "16,257"],
            64,
            "--prefill: 257 is more than the 256 tokens",
        ),
        (&["--decode", "0"], 64, "--decode"),
        (
            &["--decode", "256"],
            64,
            "--decode: 256 is more than the 255 tokens",
        ),
        (&["--reps", "0"], 64, "--reps"),
        (&["--format", "xml"], 64, "xml"),
        (&["--out", "x", "--format", "xml"], 64, "xml"),
        (&["--format", "csv,md"], 64, "--out"),
        (&["--format", "csv", "--json"], 64, "--json"),
        (&["--candidate", "java"], 64, "java"),
        (&["--candidate", "trace:x"], 64, "cannot be timed"),
        (&["--candidate", "exec:/bin/true"], 30, "/bin/true"),
        (&["--reference", "bitnet.cpp@nowhere"], 30, "nowhere"),
        (&["--out", "/proc/nowhere"], 74, "/proc/nowhere"),
        (&["--model", "/no/such.gguf"], 65, "/no/such.gguf"),
        (&["--model", text], 65, "text.gguf"),
    ] {
        let mut args = vec!["bench"];
        if !more.contains(&"--model") {
            args.extend(["--model", TINY]);
        }
        if !more.contains(&"--reference") {
            args.extend(["--reference", "rust"]);
        }
        args.extend(more);
        let output = crossval(&args);
        let message = stderr(&output);
        assert_eq!(exit_code(&output), code, "{more:?}: {message}");
        assert!(message.contains(says), "{more:?}: {message}");
        assert!(!message.contains("panicked"), "{message}");
    }
}

/// A program that runs `script`, in which `$worker` is a worker of the Rust engine.
#[cfg(unix)]
fn exec(scratch: &Scratch, script: &str) -> String {
    let worker = format!("worker=\"{} worker rust\"", env!("CARGO_BIN_EXE_crossval"));
    scratch.engine("engine", &format!("{worker}\n{script}"))
}

#[cfg(unix)]
fn bench_of(candidate: &str, out: &Path) -> Output {
    let args = [
        "bench",
        "--reference",
        "rust",
        "--candidate",
        candidate,
        "--threads",
        "1",
        "--prefill",
        "16",
        "--decode",
        "20",
        "--reps",
        "1",
        "--model",
        TINY,
        "--out",
    ];
    let mut args = args.to_vec();
    args.push(out.to_str().expect("UTF-8"));
    crossval(&args)
}

#[cfg(unix)]
#[test]
fn other_tokens_while_timed_are_a_failure() {
    let scratch = Scratch::new();
    let started = scratch.path("started");
    // The untimed worker and the timed one are started one after the other.
    let script = format!(
        "if mkdir '{0}' 2>/dev/null; then exec $worker; else rmdir '{0}'; exec $worker --fault 'silu:ffn_act:*'; fi",
        started.display()
    );
    let candidate = exec(&scratch, &script);
    let out = scratch.path("out");
    let output = bench_of(&candidate, &out);
    assert_eq!(exit_code(&output), 10, "{}", stderr(&output));
    let report = read_report(&out, &output);
    assert_eq!(report.verdict.status, Status::Fail);
    assert_eq!(report.verdict.at_fault, AtFault::Candidate);
    let reason = &report.verdict.reasons[0];
    assert!(
        reason.starts_with("the candidate generated other tokens"),
        "{reason}"
    );
    let bench = report.bench.expect("timings");
    assert!(bench.tokens_reproduced["reference"]);
    assert!(!bench.tokens_reproduced["candidate"]);
}

#[cfg(unix)]
#[test]
fn engines_that_differ_from_each_other_are_reported() {
    let scratch = Scratch::new();
    let candidate = exec(&scratch, "exec $worker --fault 'silu:ffn_act:*'");
    let out = scratch.path("out");
    let output = bench_of(&candidate, &out);
    let table = stdout(&output);
    assert!(table.contains("generated different tokens"), "{table}");
    let report = read_report(&out, &output);
    let tokens = report.bench.expect("timings").tokens;
    let decode = tokens.iter().find(|t| t.test == "tg20").expect("a decode");
    assert!(decode.first_mismatch.is_some() && decode.reference != decode.candidate);
    assert!(decode.candidate_reproduced);
}

#[cfg(unix)]
#[test]
fn an_engine_that_dies_while_timed_is_in_the_report() {
    let scratch = Scratch::new();
    // Enough for loading, configuring and the first token.
    let candidate = dying_engine::mortal(&scratch, 450);
    let out = scratch.path("out");
    let output = bench_of(&candidate, &out);
    assert_eq!(exit_code(&output), 30, "{}", stderr(&output));
    let report = read_report(&out, &output);
    assert_eq!(report.verdict.status, Status::Error);
    assert!(report.bench.is_none());
    let failure = report.engines.candidate.failure.expect("a failure");
    assert_eq!(failure.signal.as_deref(), Some("SIGSEGV"));
    assert!(failure.during.starts_with("timing"), "{}", failure.during);
    assert!(stderr(&output).contains("SIGSEGV"), "{}", stderr(&output));
}
