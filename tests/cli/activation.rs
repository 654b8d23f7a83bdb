//! The function on the gate of the feed-forward network: the file names it, or nobody does, or the command line.

use bitnet_core::gguf::Metadata;
use reports::model::{Activation, ActivationSource, AtFault, Source, Status};
use reports::outcome::Outcome;

use super::*;

const ASSUMED: &str = "ReLU² is assumed";

/// A short run of a model, the Rust engine against another.
fn short(model: &Path, reference: &str, more: &[&str]) -> (i32, Report, String) {
    let mut args = vec!["--reference", reference, "--no-bench", "--n-predict", "2"];
    args.extend(["--tokens", "1,5,9"]);
    args.extend(more);
    run(model, &args)
}

/// The bundled model, which says that it has this activation.
fn tiny_saying(scratch: &Scratch, activation: &str) -> PathBuf {
    let file = scratch.path("says.gguf");
    tiny_with(&file, |metadata| {
        let mut edited = Metadata::new(&file);
        for (key, value) in metadata.iter() {
            edited.insert(key, value.clone()).expect("a new key");
        }
        let key = "bitnet-b1.58.hidden_activation";
        edited.insert(key, activation).expect("a new key");
        edited
    });
    file
}

fn of(report: &Report) -> (String, ActivationSource) {
    let Activation { function, source } = report.model.activation.clone().expect("known");
    (function, source)
}

#[test]
fn what_nobody_says_is_assumed_and_said_to_be() {
    let (code, report, shown) = short(Path::new(TINY), "rust", &[]);
    assert_eq!((code, report.verdict.status), (0, Status::Pass));
    assert_eq!(of(&report), ("relu2".to_owned(), ActivationSource::Assumed));
    assert_eq!(report.inputs.activation, None);
    let findings = &report.verdict.findings;
    let finding = findings.iter().find(|f| f.text.contains(ASSUMED));
    let finding = finding.expect("a finding");
    assert_eq!(
        (finding.outcome, finding.source),
        (Outcome::Pass, Source::ModelFile)
    );
    assert!(finding.text.contains("with ReLU² and with SiLU"), "{shown}");
    assert!(shown.contains(ASSUMED), "{shown}");
}

#[test]
fn what_the_file_says_is_computed_by_the_engine_and_the_oracle() {
    let scratch = Scratch::new();
    for (arch, function) in [
        ("bitnet-b1.58", "silu"),
        ("bitnet-25", "relu2"),
        ("bitnet", "relu2"),
        ("llama", "relu2"),
    ] {
        let model = synth(&scratch, arch, &["--activation", function]);
        let (code, report, shown) = short(&model, "oracle", &[]);
        assert_eq!(code, 0, "{arch}: {shown}");
        let said = (function.to_owned(), ActivationSource::File);
        assert_eq!(of(&report), said, "{arch}");
        assert!(!shown.contains(ASSUMED), "{arch}: {shown}");
    }
    // Of an architecture that has but one.
    let (code, report, shown) = short(&synth(&scratch, "llama", &[]), "oracle", &[]);
    assert_eq!((code, shown.contains(ASSUMED)), (0, false), "{shown}");
    let said = ("silu".to_owned(), ActivationSource::Architecture);
    assert_eq!(of(&report), said);
}

#[test]
fn an_activation_that_no_engine_computes_is_refused_by_name() {
    let scratch = Scratch::new();
    let model = tiny_saying(&scratch, "gelu");
    let model = model.to_str().expect("UTF-8");
    let refused = crossval(&["run", "--model", model, "--reference", "rust"]);
    assert_eq!(exit_code(&refused), 65, "{}", stderr(&refused));
    let says = r#"bitnet-b1.58.hidden_activation: "gelu" is not supported"#;
    assert!(stderr(&refused).contains(says), "{}", stderr(&refused));
    let (code, report, _) = short(Path::new(model), "oracle", &["--activation", "silu"]);
    assert_eq!(code, 0, "{:?}", report.verdict.reasons);
}

#[test]
fn the_command_line_decides_and_the_report_says_so() {
    let more = ["--activation", "silu"];
    let (code, report, shown) = short(Path::new(TINY), "oracle", &more);
    assert_eq!((code, shown.contains(ASSUMED)), (0, false), "{shown}");
    assert_eq!(of(&report), ("silu".to_owned(), ActivationSource::Override));
    assert_eq!(report.inputs.activation.as_deref(), Some("silu"));
    let unknown = crossval(&["run", "--model", TINY, "--activation", "gelu"]);
    assert_eq!(exit_code(&unknown), 64, "{}", stderr(&unknown));
    assert!(stderr(&unknown).contains("silu, relu2"));
}

#[test]
fn a_fault_is_told_by_the_activation_that_was_given() {
    let given = ["--activation", "silu", "--fault", "relu2:ffn_act:1"];
    let (code, report, _) = short(Path::new(TINY), "oracle", &given);
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Candidate));
    let hint = report.verdict.first_divergence.and_then(|first| first.hint);
    let hint = hint.expect("a hint");
    let says = "matches ReLU², --activation says SiLU";
    assert!(hint.contains(says), "{hint}");
}

#[cfg(feature = "reference")]
#[test]
fn a_reference_with_the_other_activation_is_named() {
    let scratch = Scratch::new();
    // The pin goes by the architecture's name alone, and never reads the key.
    let silu = synth(&scratch, "bitnet-b1.58", &["--activation", "silu"]);
    for (model, more, says) in [
        (
            silu.as_path(),
            &[][..],
            "matches ReLU², the model says SiLU",
        ),
        (
            Path::new(TINY),
            &["--activation", "silu"],
            "matches ReLU², --activation says SiLU",
        ),
    ] {
        for mode in ["isolated", "cumulative"] {
            let more = [more, &["--mode", mode]].concat();
            let (code, report, shown) = short(model, "bitnet.cpp", &more);
            assert_eq!(
                (code, report.verdict.at_fault),
                (10, AtFault::Reference),
                "{mode}: {shown}"
            );
            assert!(shown.contains(says), "{mode}: {shown}");
        }
        let (code, report, _) = short(
            model,
            "bitnet.cpp",
            &[more, &["--mode", "isolated"]].concat(),
        );
        let first = report.verdict.first_divergence.expect("a divergence");
        assert_eq!(
            (code, first.tap.as_str(), first.layer),
            (10, "ffn_act", Some(0))
        );
    }
}
