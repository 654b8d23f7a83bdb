//! What is written and printed, in every format.

use serde_json::Value;

use super::*;

fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn report_of(folder: &Path, more: &[&str]) -> Output {
    let out = ["--no-bench", "--out", folder.to_str().unwrap()];
    crossval(&[&SMALL_RUN[..], &out, more].concat())
}

#[test]
fn one_run_writes_every_format() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let output = report_of(&out, &["--format", "json,html,md,junit,csv,jsonl"]);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let want = [
        "bench.csv",
        "bench.jsonl",
        "junit.xml",
        "report.html",
        "report.json",
        "report.md",
        "taps.csv",
        "taps.jsonl",
    ];
    assert_eq!(names(&out), want);
    read_report(&out, &output);
    let read = |name| std::fs::read_to_string(out.join(name)).unwrap();
    for suite in [
        "prompt 0, isolated",
        "conditions",
        "generation",
        "tokenizer",
    ] {
        let junit = read("junit.xml");
        let (_, of) = junit
            .split_once(&format!("<testsuite name=\"{suite}\""))
            .unwrap();
        assert!(
            of.split('>').next().unwrap().contains(" time=\""),
            "{suite}"
        );
    }
    let taps = read("taps.csv");
    assert_eq!(taps.lines().count(), 1 + read("taps.jsonl").lines().count());
    assert!(
        taps.lines().count() > 2 * 6 * 20,
        "a row per layer, tap and mode"
    );
}

#[test]
fn json_is_all_that_standard_output_holds() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let output = report_of(&out, &["--json", "--format", "junit"]);
    assert_eq!(names(&out), ["junit.xml"]);
    let value: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(value["verdict"]["exit_code"], exit_code(&output));
    let quiet = report_of(&out, &["--quiet"]);
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty());
}

#[test]
fn colours_are_for_terminals() {
    let scratch = Scratch::new();
    let output = report_of(&scratch.path("out"), &[]);
    assert!(output.stdout.starts_with(b"PASS  rust against rust"));
}

#[test]
fn two_reports_are_seen_side_by_side() {
    let scratch = Scratch::new();
    let [a, b] = ["a", "b"].map(|name| scratch.path(name));
    assert_eq!(exit_code(&report_of(&a, &[])), 0);
    assert_eq!(
        exit_code(&report_of(&b, &["--fault", "silu:ffn_act:4"])),
        10
    );
    let files = [&a, &b].map(|folder| folder.join("report.json").to_str().unwrap().to_owned());
    let out = scratch.path("both");
    let compare = |more: &[&str]| {
        let files = files.each_ref().map(String::as_str);
        let output = crossval(&[&["report"][..], &files, more].concat());
        assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = compare(&[]);
    assert!(text.contains("ffn_act"), "{text}");
    assert_eq!(text.lines().find(|line| line.chars().count() > 100), None);
    compare(&["--out", out.to_str().unwrap()]);
    assert_eq!(
        names(&out),
        ["comparison.html", "comparison.json", "comparison.md"]
    );
    let value: Value = serde_json::from_str(&compare(&["--json"])).expect("JSON");
    assert_eq!(value["b"]["status"], "fail");
    let bad = crossval(&["report", &files[0], TINY]);
    assert_eq!(exit_code(&bad), 65);
    assert!(
        stderr(&bad).contains("tiny-bitnet.gguf"),
        "{}",
        stderr(&bad)
    );
}
