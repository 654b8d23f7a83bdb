//! The gate: exit codes, with text and with JSON, and what is left on disk.

use serde_json::{Value, json};

use super::*;

/// Reports of one real run, with other speeds.
struct Bench {
    scratch: Scratch,
    report: Value,
}

impl Bench {
    fn new() -> Bench {
        let scratch = Scratch::new();
        let out = scratch.path("run");
        let output =
            crossval(&[&SMALL_RUN[..], &["--quiet", "--out", out.to_str().unwrap()]].concat());
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
        let report = std::fs::read_to_string(out.join("report.json")).unwrap();
        let mut report: Value = serde_json::from_str(&report).unwrap();
        // Nothing is to be measured again here.
        report["model"]["path"] = json!("gone/tiny.gguf");
        Bench { scratch, report }
    }

    /// A report whose candidate is `ratio` times as fast as its reference in every test.
    fn report(&self, name: &str, ratio: f64, edit: impl FnOnce(&mut Value)) -> String {
        let mut report = self.report.clone();
        for (i, row) in report["bench"]["rows"]
            .as_array_mut()
            .unwrap()
            .iter_mut()
            .enumerate()
        {
            let (speed, ms) = (
                if i % 2 == 0 { 100.0 } else { 100.0 * ratio },
                row["ms"].is_object(),
            );
            let value = if ms { 1e3 / speed } else { speed };
            row[if ms { "ms" } else { "tps" }] =
                json!({ "median": value, "low": value, "high": value, "samples": vec![value; 5] });
        }
        report["created"] = json!(format!("{name}, 2026-08-01T12:00:00Z"));
        edit(&mut report);
        let file = self.scratch.path(name);
        std::fs::write(&file, report.to_string()).unwrap();
        file.to_str().unwrap().to_owned()
    }

    /// The exit code, with text and with JSON, where nothing is written.
    fn gate(&self, baseline: &str, reports: &[&str]) -> (i32, String, Value) {
        let args = [&["gate", "--baseline", baseline], reports].concat();
        let text = crossval(&args);
        let as_json = crossval(&[&args[..], &["--json", "--quiet"]].concat());
        let value: Value = serde_json::from_slice(&as_json.stdout).unwrap();
        assert_eq!(exit_code(&text), exit_code(&as_json));
        assert_eq!(value["schema"], "crossval.gate/1");
        assert_eq!(value["exit_code"], exit_code(&text));
        let quiet = crossval(&[&args[..], &["-q"]].concat());
        assert_eq!(
            (exit_code(&quiet), quiet.stdout.len()),
            (exit_code(&text), 0)
        );
        let text = String::from_utf8(text.stdout).unwrap();
        let wide = text.lines().find(|line| line.chars().count() > 100);
        assert_eq!(wide, None);
        (value["exit_code"].as_i64().unwrap() as i32, text, value)
    }

    fn baseline(&self) -> String {
        let file = self
            .scratch
            .path("baselines/tiny.json")
            .to_str()
            .unwrap()
            .to_owned();
        let runs = [1.99, 2.0, 2.01, 2.0, 2.0].iter().enumerate();
        let reports: Vec<String> = runs
            .map(|(i, &r)| self.report(&format!("{i}.json"), r, |_| ()))
            .collect();
        let mut args = vec!["gate", "--update", "--baseline", &file];
        args.extend(reports.iter().map(String::as_str));
        let output = crossval(&args);
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        file
    }
}

type Edit = fn(&mut Value);

fn verdict(status: &'static str, code: u8) -> impl FnOnce(&mut Value) {
    move |report| {
        report["verdict"]["status"] = json!(status);
        report["verdict"]["exit_code"] = json!(code);
    }
}

#[test]
fn every_outcome_has_its_exit_code_in_text_and_json() {
    let bench = Bench::new();
    let baseline = bench.baseline();
    let same = bench.report("same.json", 2.0, |_| ());
    let (code, text, value) = bench.gate(&baseline, &[&same]);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("PASS  rust against rust: "), "{text}");
    let series = value["reports"][0]["gate"]["series"].as_array().unwrap();
    assert!(
        series
            .iter()
            .any(|s| s["figure"] == "ratio" && s["result"] == "pass")
    );

    let wrong = bench.report("wrong.json", 2.0, verdict("fail", 10));
    assert_eq!(bench.gate(&baseline, &[&wrong]).0, 10);

    let slow = bench.report("slow.json", 1.7, |_| ());
    let slower = bench.report("slower.json", 1.6, |_| ());
    let (code, text, value) = bench.gate(&baseline, &[&slow, &slower]);
    assert_eq!(code, 11, "{text}");
    assert!(
        text.contains("prefill, pp5 at 1 thread (candidate over reference) is slower"),
        "{text}"
    );
    assert_eq!(value["reports"][0]["verdict"]["exit_code"], 11);

    let both = bench.report("both.json", 1.7, verdict("fail", 10));
    assert_eq!(bench.gate(&baseline, &[&both, &slow]).0, 12);

    let rows = |report: &mut Value| report["coverage"]["compared"] = json!(1);
    let fewer = bench.report("fewer.json", 2.0, rows);
    let (code, text, _) = bench.gate(&baseline, &[&fewer]);
    assert_eq!(code, 20);
    assert!(text.contains("1 row compared, "), "{text}");

    // Red, and not to be repeated: never a pass.
    let (code, text, _) = bench.gate(&baseline, &[&slow]);
    assert_eq!(code, 21);
    assert!(text.contains("gone/tiny.gguf"), "{text}");
    let absent = bench.scratch.path("absent.json");
    let (code, text, _) = bench.gate(absent.to_str().unwrap(), &[&same]);
    assert_eq!(code, 21);
    assert!(text.contains("--update writes one"), "{text}");
    assert!(!absent.exists());
}

#[test]
fn a_run_that_does_not_pass_is_not_taken_in() {
    let bench = Bench::new();
    let baseline = bench.baseline();
    let before = std::fs::read(&baseline).unwrap();
    let wrong = bench.report("wrong.json", 2.0, verdict("fail", 10));
    let output = crossval(&["gate", "--update", "--baseline", &baseline, &wrong]);
    assert_eq!(exit_code(&output), 10);
    assert!(stderr(&output).contains("does not take a run whose verdict is not a pass"));
    assert_eq!(std::fs::read(&baseline).unwrap(), before);
}

#[test]
fn a_slower_run_is_taken_in_when_it_is_accepted() {
    let bench = Bench::new();
    let baseline = bench.baseline();
    let slow = bench.report("slow.json", 1.7, |_| ());
    let again = bench.report("again.json", 1.7, |_| ());
    assert_eq!(
        exit_code(&crossval(&[
            "gate",
            "--update",
            "--baseline",
            &baseline,
            &slow,
            &again
        ])),
        0
    );
    assert_eq!(bench.gate(&baseline, &[&slow]).0, 0);
}

#[test]
fn bad_flags_and_files_are_named() {
    let bench = Bench::new();
    let same = bench.report("same.json", 2.0, |_| ());
    let bad = bench.scratch.path("bad.json");
    std::fs::write(&bad, "[]").unwrap();
    let bad = bad.to_str().unwrap();
    for (args, code, why) in [
        (vec!["gate", &same], 64, "--baseline"),
        (vec!["gate", "--baseline", bad], 64, "<REPORT>"),
        (vec!["gate", "--baseline", bad, &same], 65, "bad.json"),
        (vec!["gate", "--baseline", "b.json", bad], 65, "bad.json"),
        (
            vec![
                "gate",
                "--baseline",
                "b.json",
                "--max-regression",
                "5",
                &same,
            ],
            64,
            "percentage such as 5%",
        ),
        (vec!["run", "--model", TINY, "--update"], 64, "--baseline"),
    ] {
        let output = crossval(&args);
        assert_eq!(exit_code(&output), code, "{args:?}");
        assert!(
            stderr(&output).contains(why),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn run_holds_itself_against_a_baseline() {
    let scratch = Scratch::new();
    let baseline = scratch.path("b.json");
    let run = |more: &[&str]| {
        let baseline = baseline.to_str().unwrap();
        run(
            Path::new(TINY),
            &[&["--reference", "rust", "--baseline", baseline], more].concat(),
        )
    };
    let (code, report, text) = run(&[]);
    assert_eq!(code, 21);
    assert!(
        text.starts_with("INCOMPLETE") && !baseline.exists(),
        "{text}"
    );
    assert_eq!(report.gate.unwrap().reasons.len(), 1);
    let (code, report, _) = run(&["--update"]);
    assert_eq!((code, report.gate.unwrap().reasons.len()), (0, 0));
    assert!(baseline.is_file());
    let (code, report, text) = run(&["--max-regression", "90%"]);
    assert_eq!(code, 21);
    assert!(text.contains("1 run in the baseline"), "{text}");
    assert_eq!(
        report.gate.unwrap().baseline_rows,
        Some(report.coverage.compared)
    );
}

#[test]
fn a_gated_report_is_written_in_every_format() {
    let bench = Bench::new();
    let baseline = bench.baseline();
    let same = bench.report("same.json", 2.0, |_| ());
    let out = bench.scratch.path("gated").to_str().unwrap().to_owned();
    let args = [
        "gate",
        "--baseline",
        &baseline,
        "--out",
        &out,
        "--format",
        "json,md,junit",
    ];
    assert_eq!(exit_code(&crossval(&[&args[..], &[&same]].concat())), 0);
    let report = std::fs::read_to_string(Path::new(&out).join("report.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["gate"]["ungated_exit_code"], 0);
    let output = crossval(&[&args[..], &[&same, &same]].concat());
    assert_eq!(exit_code(&output), 64);
    assert!(stderr(&output).contains("--out: one report, not 2"));
}

#[test]
fn what_creeps_in_is_told_and_is_accepted_by_name() {
    let bench = Bench::new();
    let baseline = bench.baseline();
    let held = |args: &[&str]| {
        let args = [&["gate", "--baseline", &baseline], args].concat();
        let output = crossval(&args);
        (
            exit_code(&output),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    let update = |i: usize, ratio: f64| {
        let run = bench.report(&format!("run {i}.json"), ratio, |_| ());
        let again = bench.report(&format!("again {i}.json"), ratio, |_| ());
        held(&["--update", &run, &again])
    };
    // 3% slower each time, by all that can be seen of it in a single step nothing.
    let ratios = [0.97, 0.94, 0.91, 0.88, 0.85].map(|share| 2.0 * share);
    let codes = ratios
        .iter()
        .enumerate()
        .map(|(i, &ratio)| update(i, ratio).0);
    let codes: Vec<i32> = codes.collect();
    assert_eq!(codes, [0, 11, 11, 11, 11], "a step of 3% each");
    let (code, text) = update(9, 1.82);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(code, 11);
    assert!(
        text.contains("slower than the baseline by 9.00%, and again 9.00%"),
        "{text}"
    );
    assert!(
        text.contains("`crossval gate --update` of a report that says so"),
        "{text}"
    );
    // It was not taken in, and is when a report that says so is given.
    let crept = bench.report("crept.json", 1.82, |_| ());
    let again = bench.report("as crept.json", 1.82, |_| ());
    assert_eq!(held(&[&crept, &again]).0, 11);
    let out = bench.scratch.path("told").to_str().unwrap().to_owned();
    assert_eq!(held(&[&crept, "--out", &out]).0, 21);
    let told = Path::new(&out).join("report.json");
    let (code, text) = held(&["--update", told.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("note: accepted: prefill, pp5"), "{text}");
    let (code, text) = held(&[&again]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_is_other_than_in_the_baseline_is_no_pass() {
    let bench = Bench::new();
    let baseline = bench.baseline();
    let cases: [(&str, Edit); 5] = [
        ("CPU: Another, ", |report| {
            report["environment"]["cpu"] = json!("Another");
        }),
        ("reference: 7, 0.1.0 in the baseline", |report| {
            report["engines"]["reference"]["version"] = json!("7");
        }),
        ("profile: lax.toml, standard in the baseline", |report| {
            report["inputs"]["profile"]["name"] = json!("lax.toml");
            report["inputs"]["profile"]["cumulative_logits_nmse"] = json!(0.5);
        }),
        ("tokens to generate: 1, ", |report| {
            report["inputs"]["n_predict"] = json!(1);
        }),
        (
            "is of other prompts, decode steps, modes or activation",
            |report| {
                report["inputs"]["prompts"][0]["tokens"] = json!([1, 2, 3]);
            },
        ),
    ];
    for (i, (said, edit)) in cases.into_iter().enumerate() {
        let other = bench.report(&format!("other {i}.json"), 2.0, edit);
        let (code, text, _) = bench.gate(&baseline, &[&other]);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(code, 21, "{text}");
        assert!(text.contains(said), "{said}: {text}");
        // Accepted it is said all the same.
        let copy = bench.scratch.path(&format!("copy {i}.json"));
        std::fs::copy(&baseline, &copy).unwrap();
        let copy = copy.to_str().unwrap();
        let output = crossval(&["gate", "--update", "--baseline", copy, &other]);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(exit_code(&output), 0, "{text}");
        assert!(
            text.contains("note: ") && text.contains(said),
            "{said}: {text}"
        );
    }
    // A test less stays one less, --update or not.
    let fewer = bench.report("fewer.json", 2.0, |report| {
        let rows = report["bench"]["rows"].as_array_mut().unwrap();
        rows.retain(|row| row["test"] != "load");
    });
    for _ in 0..2 {
        let output = crossval(&["gate", "--update", "--baseline", &baseline, &fewer]);
        assert_eq!(exit_code(&output), 21);
        assert!(stderr(&output).contains("does not take a run of which a speed is not accepted"));
        assert_eq!(bench.gate(&baseline, &[&fewer]).0, 21);
    }
}

#[test]
fn a_pass_that_the_report_does_not_bear_out_is_none() {
    let bench = Bench::new();
    let baseline = bench.baseline();
    let cases: [(i32, &str, Edit); 6] = [
        (10, "1 tap beyond the limit; the first: ", |report| {
            report["taps"][1]["isolated"]["pass"] = json!(false);
        }),
        (10, "1 tap beyond the limit; the first: ", |report| {
            report["taps"][1]["isolated"]["nmse"] = json!(0.5);
        }),
        (10, "generated different tokens", |report| {
            report["generation"]["candidate"][0] = json!(0);
        }),
        (10, "generated other tokens while it was timed", |report| {
            report["bench"]["tokens_reproduced"]["candidate"] = json!(false);
        }),
        (
            20,
            "rows were compared; the first missing: layer 0",
            |report| {
                report["coverage"]["missing"] = json!(["layer 0"]);
            },
        ),
        (10, "the run failed", |report| {
            report["verdict"]["status"] = json!("fail")
        }),
    ];
    for (i, (code, said, edit)) in cases.into_iter().enumerate() {
        let report = bench.report(&format!("hides {i}.json"), 2.0, edit);
        let (found, text, _) = bench.gate(&baseline, &[&report]);
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(found, code, "{said}: {text}");
        assert!(
            text.contains("the verdict hides that") && text.contains(said),
            "{text}"
        );
    }
}
