use std::path::Path;

use reports::Error;
use reports::json::{parse, read, write};
use reports::model::Report;

use crate::sample;

#[test]
fn what_is_written_is_read_back() {
    for (name, report) in sample::all() {
        let text = write(&report).unwrap();
        assert!(parse(&text, name).unwrap() == report, "{name}");
    }
}

#[test]
fn samples_validate_against_the_schema() {
    let schema = Report::json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    for (name, report) in sample::all() {
        let value = serde_json::to_value(&report).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(&value)
            .map(|e| format!("{name}: {}: {e}", e.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
    let mut wrong = serde_json::to_value(sample::pass()).unwrap();
    wrong["taps"][0]["tap"] = serde_json::json!(3);
    assert!(!validator.is_valid(&wrong));
}

/// `UPDATE_SCHEMA=1 cargo test -p reports` rewrites the file.
#[test]
fn the_committed_schema_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/crossval.report-1.json");
    let current = format!("{:#}\n", Report::json_schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &current).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap();
    assert!(
        committed == current,
        "{} is out of date; UPDATE_SCHEMA=1 cargo test -p reports rewrites it",
        path.display()
    );
}

#[test]
fn errors_name_the_file_and_the_field() {
    let good: serde_json::Value = serde_json::to_value(sample::pass()).unwrap();
    let with = |change: &dyn Fn(&mut serde_json::Value)| {
        let mut value = good.clone();
        change(&mut value);
        parse(&value.to_string(), "r.json").unwrap_err().to_string()
    };
    let cases: [(String, &[&str]); 6] = [
        (
            parse("{", "r.json").unwrap_err().to_string(),
            &["r.json", "EOF"],
        ),
        (
            parse("[]", "r.json").unwrap_err().to_string(),
            &["r.json", "schema is missing"],
        ),
        (
            with(&|v| v["schema"] = "crossval.report/2".into()),
            &["r.json", "crossval.report/2", "crossval.report/1"],
        ),
        (
            with(&|v| v["taps"][3]["isolated"]["rows"] = (-1).into()),
            &["r.json", "taps[3].isolated.rows", "-1"],
        ),
        (
            with(&|v| v["verdict"]["status"] = "fine".into()),
            &["r.json", "verdict.status", "fine"],
        ),
        (
            with(&|v| drop(v.as_object_mut().unwrap().remove("model"))),
            &["r.json", "missing field `model`"],
        ),
    ];
    for (message, wanted) in cases {
        for part in wanted {
            assert!(message.contains(part), "{part:?} not in {message:?}");
        }
    }
    let missing = read(Path::new("no/such/report.json")).unwrap_err();
    assert!(missing.to_string().contains("no/such/report.json"));
}

#[test]
fn unknown_fields_are_ignored() {
    let mut value = serde_json::to_value(sample::pass()).unwrap();
    value["of_a_later_version"] = serde_json::json!({ "reference": 17.1 });
    assert!(parse(&value.to_string(), "r").unwrap() == sample::pass());
}

#[test]
fn a_number_that_json_lacks_is_refused_by_name() {
    let mut report = sample::pass();
    report.bench.as_mut().unwrap().ratios[1].low = f64::NAN;
    let error = write(&report).unwrap_err();
    assert!(matches!(&error, Error::NotJson { .. }));
    assert!(error.to_string().contains("bench.ratios[1].low"), "{error}");
}

/// The gallery's report, written by an earlier crossval, is read and rendered as any other.
#[test]
fn the_gallery_renders() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/2b-4t.json");
    let report = read(&file).expect("docs/2b-4t.json");
    assert_eq!(report.model.n_layer, 30);
    let page = reports::html::render(&report).expect("a page");
    assert!(page.len() < 2 << 20, "{} bytes", page.len());
    assert!(page.contains("50,652 of 50,652 rows compared"));
}
