//! Files whose rotation is stretched beyond the context of their training.
#![cfg(feature = "reference")]

use bitnet_core::gguf::{Metadata, Value};
use reports::model::{AtFault, Status};

use super::*;

/// A key without its architecture and `rope`, and its value.
type Key = (&'static str, Value);

/// A copy of a model with keys of its architecture's `rope`.
fn scaled(model: &Path, to: &Path, keys: &[Key]) {
    model_with(model, to, |metadata| {
        let mut edited = Metadata::new(metadata.path());
        for (key, value) in metadata.iter() {
            edited.insert(key, value.clone()).expect("a key");
        }
        let name = metadata.str("general.architecture").expect("a name");
        for (key, value) in keys {
            let key = format!("{name}.rope.{key}");
            edited.insert(&key, value.clone()).expect("a key");
        }
        edited
    });
}

fn yarn() -> Vec<Key> {
    vec![
        ("scaling.type", "yarn".into()),
        ("scaling.factor", 4f32.into()),
        ("scaling.original_context_length", 64u32.into()),
    ]
}

fn assert_passes(model: &Path, reference: &str, of: &str) {
    let args = ["--reference", reference, "--no-bench", "--n-predict", "8"];
    let (code, report, _) = run(model, &args);
    let verdict = &report.verdict;
    assert_eq!(code, 0, "{of}: {:#?}", verdict.reasons);
    assert_eq!(verdict.status, Status::Pass, "{of}");
    assert!(report.coverage.missing.is_empty(), "{of}");
}

#[test]
fn every_scaling_is_that_of_the_reference() {
    let scratch = Scratch::new();
    let llama = synth(&scratch, "llama", &[]);
    let mut more = yarn();
    more.push(("scaling.attn_factor", 1.5f32.into()));
    let cases: [(&str, &Path, Vec<Key>); 5] = [
        ("yarn", Path::new(TINY), yarn()),
        ("yarn of llama, and a factor beside it", &llama, more),
        (
            "yarn of the whole context",
            &llama,
            vec![
                ("scaling.type", "yarn".into()),
                ("scaling.factor", 16f32.into()),
            ],
        ),
        (
            "linear, by its older key",
            &llama,
            vec![
                ("scale_linear", 4f32.into()),
                ("scaling.attn_factor", 0.5f32.into()),
            ],
        ),
        (
            "none",
            &llama,
            vec![
                ("scaling.type", "none".into()),
                ("scaling.factor", 4f32.into()),
            ],
        ),
    ];
    let mainline = mainline::built().is_some();
    for (of, model, keys) in &cases {
        let copy = scratch.path("scaled.gguf");
        scaled(model, &copy, keys);
        assert_passes(&copy, "bitnet.cpp", of);
        if mainline && *model == llama {
            assert_passes(&copy, mainline::NAME, of);
        }
    }
}

#[test]
fn a_reported_file_of_yarn() {
    if let Some(model) = shared("reports/rope_yarn.gguf") {
        assert_passes(&model, "bitnet.cpp", "rope_yarn");
    }
}

#[test]
fn what_engines_leave_out_of_it_is_named() {
    let scratch = Scratch::new();
    let copy = scratch.path("scaled.gguf");
    scaled(Path::new(TINY), &copy, &yarn());
    for (fault, says) in [
        ("rope-unscaled:q_rope:0", "leaves out the scaling of RoPE"),
        ("yarn-on-every-pair:k_rope:2", "the model says YaRN"),
        ("rope-magnitude-left-out:q_rope:1", "YaRN's magnitude"),
    ] {
        let args = ["--fault", fault, "--no-bench", "--n-predict", "8"];
        let (code, report, _) = run(&copy, &args);
        let verdict = report.verdict;
        assert_eq!(
            (code, verdict.at_fault),
            (10, AtFault::Candidate),
            "{fault}"
        );
        let hint = verdict.first_divergence.and_then(|first| first.hint);
        assert!(hint.as_ref().is_some_and(|h| h.contains(says)), "{hint:?}");
    }
}

#[test]
fn what_nobody_here_computes_is_refused_by_its_key() {
    let scratch = Scratch::new();
    let copy = scratch.path("scaled.gguf");
    let beta = ("scaling.yarn_beta_fast", 16f32.into());
    let cases: [(Vec<Key>, &str); 2] = [
        (
            vec![("scaling.type", "longrope".into())],
            "rope.scaling.type: \"longrope\" is not supported",
        ),
        (
            yarn().into_iter().chain([beta]).collect(),
            "rope.scaling.yarn_beta_fast of 16: another YaRN is not supported",
        ),
    ];
    for (keys, says) in cases {
        scaled(Path::new(TINY), &copy, &keys);
        let output = crossval(&["run", "--model", copy.to_str().expect("UTF-8")]);
        assert_eq!(exit_code(&output), 65);
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}
