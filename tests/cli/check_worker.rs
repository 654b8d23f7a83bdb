//! `crossval check-worker`: the examples keep to the protocol, and what does not is named.

use super::engines_of_others::{c_engine, rust_engine};
use super::wrong::{doctored, example, exec};
use super::*;

/// What is checked of a worker, by name.
fn checked(engine: &str) -> (i32, Vec<(String, Option<bool>, String)>) {
    let output = crossval(&["check-worker", engine, "--json"]);
    let result: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    assert_eq!(result["schema"], "crossval.check-worker/1");
    let checks = result["checks"].as_array().expect("checks");
    let check = |check: &serde_json::Value| {
        let text = |key: &str| check[key].as_str().unwrap_or_default().to_owned();
        (text("name"), check["passed"].as_bool(), text("what"))
    };
    (exit_code(&output), checks.iter().map(check).collect())
}

/// Everything passes, but for what is not offered.
fn assert_passes(engine: &str, not_offered: &[&str]) {
    let (code, checks) = checked(engine);
    let failed: Vec<_> = checks.iter().filter(|c| c.1 == Some(false)).collect();
    assert_eq!((code, failed), (0, vec![]), "{engine}");
    let left_out: Vec<&str> = checks
        .iter()
        .filter(|c| c.1.is_none())
        .map(|c| c.0.as_str())
        .collect();
    assert_eq!(left_out, not_offered, "{engine}");
}

const TOKENIZER: &str = "tokenizes, and back";
const OVERWRITING: [&str; 2] = [
    "keeps its own values when told to",
    "goes on with values that it is given",
];

#[test]
fn the_example_in_python_passes() {
    let scratch = Scratch::new();
    if let Some(worker) = exec(&scratch, &example("worker.py")) {
        assert_passes(&worker, &[TOKENIZER]);
    }
}

#[test]
fn the_examples_in_c_and_in_rust_pass() {
    let scratch = Scratch::new();
    let [keeps, overwrites] = OVERWRITING;
    assert_passes(&c_engine(&scratch, &[]), &[keeps, overwrites, TOKENIZER]);
    assert_passes(&format!("exec:'{}'", rust_engine()), &[TOKENIZER]);
}

#[test]
fn engines_of_this_repository_pass() {
    assert_passes("rust", &[]);
    if cfg!(feature = "reference") {
        assert_passes("bitnet.cpp", &[]);
    }
}

/// A worker with mistakes that have nothing to do with each other, and the checks that are to name them.
fn assert_named(changes: &[(&str, &str)], named: &[(&str, &str)]) {
    let scratch = Scratch::new();
    let Some(engine) = doctored(&scratch, changes) else {
        return;
    };
    let (code, checks) = checked(&engine);
    assert_eq!(code, 30, "{checks:#?}");
    let failed: Vec<_> = checks.iter().filter(|c| c.1 == Some(false)).collect();
    let names: Vec<&str> = failed.iter().map(|c| c.0.as_str()).collect();
    let expected: Vec<&str> = named.iter().map(|(name, _)| *name).collect();
    assert_eq!(names, expected, "{failed:#?}");
    for (check, (_, says)) in failed.iter().zip(named) {
        assert!(check.2.contains(says), "{check:?}: {says}");
    }
}

#[test]
fn what_a_worker_says_or_lets_pass_is_named() {
    let changes = [
        ("n_layer=self.n_layer,", "n_layer=self.n_layer + 1,"),
        (
            "if self.session is None or first_position != self.session.position:",
            "if False:",
        ),
        ("if end > self.cache[0].shape[1]:", "if False:"),
        (
            "while len(generated) < n_predict:",
            "while len(generated) < min(n_predict, 3):",
        ),
        ("if field in known", "if field in known or field == \"of\""),
    ];
    let named = [
        ("loads a model and says what it is", "layers"),
        ("refuses a gap in the sequence", "as if nothing were wrong"),
        (
            "refuses more positions than the context has",
            "as if nothing were wrong",
        ),
        (
            "generates as many tokens as asked for",
            "asked for 4, it sends 3",
        ),
        ("ignores fields that it does not know", "it refuses"),
    ];
    assert_named(&changes, &named);
}

#[test]
fn what_a_worker_does_wrong_is_named() {
    let changes = [
        (
            "self.send(\"error\", kind=\"bad_model\", message=str(e))",
            "sys.exit(4)",
        ),
        ("not tokens or max(tokens) >= m.n_vocab", "not tokens"),
        (
            "piece[:] = np.frombuffer(payload, piece.dtype).reshape(piece.shape)",
            "pass",
        ),
        ("int(logits[-1].argmax())", "int(logits[-1].argmin())"),
        (
            "if kind == \"quit\":\n                return",
            "if kind == \"quit\":\n                sys.exit(3)",
        ),
    ];
    let named = [
        (
            "refuses a file that is not there, and lives on",
            "exited with code 4",
        ),
        (
            "refuses a token that is not in the vocabulary",
            "as Internal, not as usage",
        ),
        (
            "goes on with values that it is given",
            "is what it was before",
        ),
        ("generates the most likely token", "below the largest"),
        ("quits when told to", "exited with code 3 while ending"),
    ];
    assert_named(&changes, &named);
}

#[test]
fn without_a_hello_nothing_else_is_checked() {
    let changes = [("taps=TAPS, overwrite", "taps=TAPS + TAPS[:1], overwrite")];
    let named = [("sends a hello", "it offers a tap twice")];
    assert_named(&changes, &named);
}

/// Nor does it take a model to say so.
#[test]
fn a_worker_that_ends_at_once_fails_the_first_check() {
    let output = crossval(&["check-worker", "exec:false", "--json"]);
    let result: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(
        (exit_code(&output), &result["model"]),
        (30, &serde_json::Value::Null)
    );
    let checks = result["checks"].as_array().expect("checks");
    assert_eq!(checks.len(), 1);
    assert_eq!(
        (&checks[0]["name"], &checks[0]["passed"]),
        (&"sends a hello".into(), &false.into())
    );
    assert!(
        checks[0]["what"]
            .as_str()
            .is_some_and(|what| !what.is_empty())
    );
}
