use std::fs;

use reports::comparison::Comparison;
use reports::{Format, json, write_comparison, write_dir};

use crate::sample;

#[test]
fn the_files_of_every_format_and_nothing_else() {
    // Kept after the test, to be looked at.
    let samples = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("reports");
    let names = [
        "report.json",
        "report.html",
        "report.md",
        "junit.xml",
        "taps.csv",
        "bench.csv",
        "taps.jsonl",
        "bench.jsonl",
    ];
    for (name, report) in sample::all() {
        let dir = samples.join(name);
        let written = write_dir(&dir, &report, &Format::ALL).unwrap();
        let paths: Vec<_> = written.iter().map(|(_, path)| path.clone()).collect();
        assert_eq!(paths, names.map(|file| dir.join(file)));
        assert!(json::read(&paths[0]).unwrap() == report);
        let html = fs::read_to_string(&paths[1]).unwrap();
        assert!(html.trim_end().ends_with("</html>"));
        assert!(fs::read_to_string(&paths[2]).unwrap().starts_with("# "));
        assert_eq!(fs::read_dir(&dir).unwrap().count(), names.len());
    }
}

#[test]
fn only_what_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    write_dir(dir.path(), &sample::pass(), &[Format::Junit]).unwrap();
    let files = fs::read_dir(dir.path()).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(names, ["junit.xml"]);
}

#[test]
fn a_comparison_is_three_files() {
    let dir = tempfile::tempdir().unwrap();
    let comparison = Comparison::new(&sample::pass(), &sample::fail());
    let written = write_comparison(dir.path(), &comparison).unwrap();
    let read = |i: usize| fs::read_to_string(&written[i]).unwrap();
    let json: serde_json::Value = serde_json::from_str(&read(0)).unwrap();
    assert_eq!(json, serde_json::to_value(&comparison).unwrap());
    assert_eq!(read(1), comparison.html().unwrap());
    assert_eq!(read(2), comparison.markdown());
    let names = written.iter().map(|path| path.file_name().unwrap());
    assert!(names.eq(["comparison.json", "comparison.html", "comparison.md"]));
}

#[test]
fn formats_are_named() {
    for format in Format::ALL {
        assert_eq!(format.to_string().parse::<Format>().unwrap(), format);
    }
    let error = "pdf".parse::<Format>().unwrap_err().to_string();
    assert!(error.contains("\"pdf\"") && error.contains("json, html, md, junit, csv, jsonl"));
}

#[test]
fn older_files_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    write_dir(dir.path(), &sample::fail(), &Format::DEFAULT).unwrap();
    let written = write_dir(dir.path(), &sample::pass(), &Format::DEFAULT).unwrap();
    assert!(json::read(&written[0].1).unwrap() == sample::pass());
}

#[test]
fn errors_name_the_path_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("out");
    let write = |dir| write_dir(dir, &sample::pass(), &Format::DEFAULT);
    let error = write(&below).unwrap_err().to_string();
    assert!(error.contains(below.to_str().unwrap()), "{error}");

    // A folder in the way of a file.
    let out = dir.path().join("out");
    fs::create_dir_all(out.join("report.html/occupied")).unwrap();
    let error = write(&out).unwrap_err().to_string();
    assert!(error.contains("report.html"), "{error}");
    let left = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tmp"));
    assert_eq!(left.count(), 0);
}
