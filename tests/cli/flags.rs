//! Flags that people type without the manual, and JSON from every command that has a result.

use serde_json::Value;

use super::*;

/// What a command prints with `--json`: one object, and nothing else.
fn json(args: &[&str]) -> Value {
    let output = crossval(&[args, &["--json"]].concat());
    let text = String::from_utf8(output.stdout.clone()).expect("UTF-8");
    assert_eq!(
        text.lines().count(),
        1,
        "{args:?}: {text} {}",
        stderr(&output)
    );
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert!(value.is_object(), "{args:?}");
    value
}

#[test]
fn the_flags_of_llama_cpp() {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let out = out.to_str().expect("UTF-8");
    let flags = ["-m", TINY, "-p", "Once", "-n", "4", "-t", "2", "-c", "96"];
    let more = ["--reference", "rust", "--no-bench", "--out", out];
    let report = json(&[&["run"], &flags[..], &more].concat());
    let inputs = &report["inputs"];
    assert_eq!(inputs["prompts"][0]["text"], "Once");
    assert_eq!(
        (&inputs["n_predict"], &inputs["threads"]),
        (&4.into(), &2.into())
    );
    let settings = &report["engines"]["candidate"]["settings"];
    assert_eq!(
        (&settings["n_ctx"], &settings["threads"]),
        (&"96".into(), &"2".into())
    );

    // Those of llama-bench.
    let flags = ["-m", TINY, "-p", "16", "-n", "8", "-t", "1", "--reps", "2"];
    let report = json(&[&["bench", "--reference", "rust"], &flags[..]].concat());
    let rows = report["bench"]["rows"].as_array().expect("rows");
    let tests: Vec<&str> = rows.iter().filter_map(|row| row["test"].as_str()).collect();
    assert!(
        tests.contains(&"pp16") && tests.contains(&"tg8"),
        "{tests:?}"
    );
}

#[test]
fn the_model_by_its_place() {
    let scratch = Scratch::new();
    let trace = scratch.path("trace");
    let trace = trace.to_str().expect("UTF-8");
    let commands: [&[&str]; 4] = [
        &["inspect"],
        &["tokenize", "--engine", "rust", "--ids", "-p", "Once"],
        &[
            "record", "--engine", "rust", "-n", "2", "--tokens", "[1, 2]", "-o", trace,
        ],
        &["check-worker", "rust"],
    ];
    for command in commands {
        for model in [&[TINY][..], &["-m", TINY], &[TINY, "--model", TINY]] {
            let output = crossval(&[command, model].concat());
            assert_eq!(
                exit_code(&output),
                0,
                "{command:?} {model:?}: {}",
                stderr(&output)
            );
        }
        let output = crossval(&[command, &[TINY, "--model", "other.gguf"]].concat());
        assert_eq!(exit_code(&output), 64, "{command:?}");
        assert!(
            stderr(&output).contains("two models are given"),
            "{command:?}"
        );
    }
}

#[test]
fn every_command_that_has_a_result_prints_it_as_json() {
    let scratch = Scratch::new();
    let (trace, model) = (scratch.path("trace"), scratch.path("m.gguf"));
    let [trace, model] = [&trace, &model].map(|path| path.to_str().expect("UTF-8"));
    let record = ["record", TINY, "--engine", "rust", "-n", "2", "-o", trace];
    let synth = ["synth", "--arch", "llama", "-o", model];
    for (command, schema, field) in [
        (&record[..], "crossval.record/1", "bytes"),
        (&synth, "crossval.synth/1", "bytes"),
        (&["doctor"], "crossval.doctor/1", "engines"),
        (
            &["profile", "show", "logits"],
            "crossval.profile/1",
            "cumulative",
        ),
        (&["inspect", TINY], "crossval.inspect/1", "tensors"),
        (
            &["check-worker", "rust", TINY],
            "crossval.check-worker/1",
            "checks",
        ),
    ] {
        let value = json(command);
        assert_eq!(value["schema"], schema);
        assert!(!value[field].is_null(), "{command:?}: {value}");
    }
    let bytes = std::fs::metadata(trace).expect("a trace").len();
    assert_eq!(json(&record)["bytes"], bytes);
    let tokens = json(&["tokenize", TINY, "--engine", "rust", "-p", "Once"]);
    assert!(tokens["rust"].is_array(), "{tokens}");
    // Of a file of one's own, what it does not name stands there, too.
    let own = scratch.path("own.toml");
    let text = "reason = 'a test'\nexpires = '9999-12-31'\n[text]\nkl = 0.5\n";
    std::fs::write(&own, text).expect("a profile");
    let limits = json(&["profile", "show", own.to_str().expect("UTF-8")]);
    assert_eq!(
        (&limits["text"]["kl"], &limits["text"]["top1"]),
        (&0.5.into(), &0.95.into())
    );
}
