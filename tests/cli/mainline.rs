//! Mainline llama.cpp, the third pinned reference, where it is built.
#![cfg(feature = "reference")]

use std::collections::BTreeSet;

use bitnet_core::gguf::Metadata;
use bitnet_model::Activation;
use reports::model::{Asked, AtFault, Source, Status};

use super::*;

pub(super) const NAME: &str = "llama.cpp";

/// What `crossval doctor` says of it, if it is built.
pub(super) fn built() -> Option<String> {
    let doctor = crossval(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    if let Some((_, rest)) = text.split_once(&format!("\n{NAME}  ")) {
        let more = rest.lines().skip(1).take_while(|l| l.starts_with("  "));
        return Some(more.collect::<Vec<_>>().join("\n"));
    }
    skip(&format!(
        "{NAME} is not built (cargo xtask reference {NAME})"
    ));
    None
}

#[test]
fn what_was_built_and_how_it_runs_by_itself() {
    let Some(facts) = built() else {
        return;
    };
    let fact = |name: &str| {
        let line = facts.lines().find(|l| l.trim_start().starts_with(name));
        line.unwrap_or_else(|| panic!("{name}: {facts}"))
    };
    assert!(fact("vintage").ends_with(NAME));
    let level = fact("cpu_level");
    assert!(
        ["native", "x86-64-v3", "x86-64-v4"]
            .iter()
            .any(|l| level.ends_with(l))
    );
    assert!(fact("repacks_weights").ends_with("true"));
    assert!(fact("flash_attn").ends_with("auto"));
}

#[test]
fn a_model_that_both_know() {
    if built().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let model = synth(&scratch, "llama", &[]);
    for engines in [
        ["--reference", NAME, "--candidate", "rust"],
        ["--reference", "rust", "--candidate", NAME],
    ] {
        let args = ["--no-bench", "--n-predict", "16"];
        let (code, report, _) = run(&model, &[&engines[..], &args].concat());
        assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
        let not_offered: Vec<&String> = report.coverage.not_offered.values().flatten().collect();
        assert!(not_offered.is_empty(), "{not_offered:?}");
        let conditions = report.conditions.as_ref().expect("conditions");
        // Which of them there is time for is drawn.
        let compared = conditions.compared.iter();
        let rows = |asked| compared.clone().any(|c| c.asked == asked && c.rows > 0);
        assert!(rows(Asked::LastLogits));
        let engines = [&report.engines.reference, &report.engines.candidate];
        let settings = engines
            .into_iter()
            .find(|engine| engine.name == NAME)
            .map(|engine| &engine.settings)
            .expect("its settings");
        // Where taps may be asked for.
        assert_eq!(
            (&*settings["flash_attn"], &*settings["repacked_weights"]),
            ("false", "false")
        );
    }
}

#[test]
fn it_is_timed_as_people_run_it() {
    if built().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let model = synth(&scratch, "llama", &[]);
    let out = scratch.path("out");
    let output = crossval(&[
        "bench",
        "--reference",
        NAME,
        "--model",
        model.to_str().expect("UTF-8"),
        "--threads",
        "1",
        "--prefill",
        "16",
        "--decode",
        "8",
        "--reps",
        "2",
        "--out",
        out.to_str().expect("UTF-8"),
    ]);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let report = read_report(&out, &output);
    let settings = &report.engines.reference.settings;
    assert_eq!(
        (&*settings["flash_attn"], &*settings["repacked_weights"]),
        ("auto", "true")
    );
    let bench = report.bench.expect("timings");
    assert!(bench.tokens_reproduced.values().all(|&same| same));
}

/// I2_S is BitNet's own, and mainline says so in words of its own.
#[test]
fn a_model_that_it_does_not_know() {
    if built().is_none() {
        return;
    }
    let scratch = Scratch::new();
    for model in [PathBuf::from(TINY), synth(&scratch, "bitnet", &[])] {
        let (code, report, _) = run(&model, &["--reference", NAME, "--no-bench"]);
        let reasons = &report.verdict.reasons;
        assert_eq!(
            (code, report.verdict.status),
            (30, Status::Error),
            "{reasons:?}"
        );
        for says in ["llama.cpp cannot load it: ", "; rust loads it"] {
            assert!(reasons[0].contains(says), "{reasons:?}");
        }
        let failure = report.engines.reference.failure.expect("a failure");
        assert!(failure.refused_model && failure.signal.is_none());
        let model = model.to_str().expect("UTF-8");
        let (reference, model) = (["--reference", "oracle"], Path::new(model));
        let more = ["--candidate", NAME, "--no-bench", "--tokens", "1,2"];
        let (code, report, _) = run(model, &[&reference[..], &more].concat());
        let reasons = &report.verdict.reasons;
        assert_eq!(code, 30, "{reasons:?}");
        assert!(
            reasons[0].contains("llama.cpp cannot load it: "),
            "{reasons:?}"
        );
    }
}

/// Both libraries know it, and nobody here: they are compared by what every transformer has.
#[test]
fn a_model_that_only_the_libraries_know() {
    if built().is_none() {
        return;
    }
    let scratch = Scratch::new();
    let model = scratch.path("internlm2.gguf");
    model_with(&synth(&scratch, "llama", &[]), &model, |llama| {
        let mut metadata = Metadata::new(&model);
        for (key, value) in llama.iter() {
            let (key, value) = match key.strip_prefix("llama.") {
                Some(rest) => (format!("internlm2.{rest}"), value.clone()),
                None if key == "general.architecture" => (key.to_owned(), "internlm2".into()),
                None => (key.to_owned(), value.clone()),
            };
            metadata.insert(&key, value).expect("a key");
        }
        metadata
    });
    let args = [
        "--reference",
        NAME,
        "--candidate",
        "bitnet.cpp",
        "--no-bench",
    ];
    let (code, report, summary) = run(&model, &args);
    assert_eq!(code, 0, "{summary}");
    assert_eq!(report.model.architecture, "internlm2");
    let taps: BTreeSet<&str> = report.taps.iter().map(|t| t.tap.as_str()).collect();
    assert_eq!(
        taps,
        BTreeSet::from(["embd", "layer_out", "final_norm", "logits"])
    );
    assert!(report.taps.iter().all(|t| t.isolated.is_none()));
    let generation = report.generation.expect("a generation");
    assert_eq!(generation.reference, generation.candidate);
    let output = crossval(
        &[
            &[
                "run",
                "--mode",
                "isolated",
                "--model",
                model.to_str().expect("UTF-8"),
            ],
            &args[..],
        ]
        .concat(),
    );
    assert_eq!(exit_code(&output), 64);
    assert!(
        stderr(&output).contains("the stages of architecture internlm2 are not known here"),
        "{}",
        stderr(&output)
    );
}

/// <https://github.com/microsoft/BitNet/issues/588>: its graph of `bitnet` has SiLU, whatever the file says.
#[test]
fn another_activation_than_the_file_says() {
    if built().is_none() {
        return;
    }
    let scratch = Scratch::new();
    for file_says in [Activation::Relu2, Activation::Silu] {
        let more = ["--type", "f16", "--activation", file_says.name()];
        let model = synth(&scratch, "bitnet", &more);
        for mode in ["isolated", "cumulative"] {
            let args = ["--reference", NAME, "--no-bench", "--mode", mode];
            let (code, report, summary) = run(&model, &args);
            let verdict = &report.verdict;
            if file_says == Activation::Silu {
                assert_eq!(code, 0, "{mode}: {:#?}", verdict.reasons);
                continue;
            }
            assert_eq!(
                (code, verdict.at_fault),
                (10, AtFault::Reference),
                "{mode}: {summary}"
            );
            let mut of_oracle = verdict
                .findings
                .iter()
                .filter(|f| f.source == Source::Oracle);
            let found = of_oracle.next().expect("a finding of the oracle");
            let place = found.place.as_ref().expect("a place");
            assert_eq!(
                (place.layer, place.tap.as_deref()),
                (Some(0), Some("ffn_act")),
                "{mode}: {summary}"
            );
            assert!(
                summary.contains("matches SiLU, the model says ReLU²"),
                "{mode}: {summary}"
            );
        }
    }
}
