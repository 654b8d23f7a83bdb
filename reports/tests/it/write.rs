use std::fs;

use reports::{json, write_dir};

use crate::sample;

#[test]
fn all_three_files_and_nothing_else() {
    // Kept after the test, to be looked at in a browser.
    let samples = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("reports");
    for (name, report) in sample::all() {
        let dir = samples.join(name);
        let paths = write_dir(&dir, &report).unwrap();
        assert!(json::read(&paths.json).unwrap() == report);
        let html = fs::read_to_string(&paths.html).unwrap();
        assert!(html.ends_with("</html>\n") || html.ends_with("</html>"));
        assert!(
            fs::read_to_string(&paths.markdown)
                .unwrap()
                .starts_with("# ")
        );
        let mut files: Vec<_> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(files, ["report.html", "report.json", "report.md"]);
    }
}

#[test]
fn older_files_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    write_dir(dir.path(), &sample::fail()).unwrap();
    let paths = write_dir(dir.path(), &sample::pass()).unwrap();
    assert!(json::read(&paths.json).unwrap() == sample::pass());
}

#[test]
fn errors_name_the_path_and_leave_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let below = file.join("out");
    let error = write_dir(&below, &sample::pass()).unwrap_err().to_string();
    assert!(error.contains(below.to_str().unwrap()), "{error}");

    // A folder in the way of a file.
    let out = dir.path().join("out");
    fs::create_dir_all(out.join("report.html/occupied")).unwrap();
    let error = write_dir(&out, &sample::pass()).unwrap_err().to_string();
    assert!(error.contains("report.html"), "{error}");
    let left = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".tmp"));
    assert_eq!(left.count(), 0);
}
