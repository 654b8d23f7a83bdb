//! Real and synthetic models agree with the reference.
#![cfg(feature = "reference")]

use bitnet_model::Architecture;
use reports::model::{AtFault, Mode, Status, TapStats};

use super::*;

/// Pass, everything compared, and the arithmetic as close as it is known to be.
fn assert_parity(report: &Report) {
    let verdict = &report.verdict;
    assert_eq!(verdict.status, Status::Pass, "{:#?}", verdict.reasons);
    assert_eq!(verdict.at_fault, AtFault::None);
    assert!(report.coverage.expected > 0);
    assert_eq!(report.coverage.compared, report.coverage.expected);
    let expected = report
        .inputs
        .prompts
        .iter()
        .map(|p| p.tokens.len() + p.decode_tokens.len());
    let positions: usize = expected.sum();
    let names: std::collections::BTreeSet<&str> =
        report.taps.iter().map(|t| t.tap.as_str()).collect();
    assert!(names.len() >= 21, "{names:?}");
    for name in &names {
        for mode in [Mode::Isolated, Mode::Cumulative] {
            let rows: u64 = stats(report, name, mode).map(|s| s.rows).sum();
            let layers = report
                .taps
                .iter()
                .filter(|t| t.tap == *name && t.prompt == 0)
                .count();
            assert_eq!(rows as usize, positions * layers, "{name} {mode:?}");
        }
    }
    let ternary = report.model.tensor_types.contains_key("I2_S");
    let worst = |name: &str| {
        stats(report, name, Mode::Isolated)
            .map(|s| s.nmse.unwrap_or(f64::INFINITY))
            .fold(0.0, f64::max)
    };
    for name in names {
        let limit = match name {
            "embd" | "k_cache" | "v_cache" => 0.0,
            "q" | "k" | "v" | "attn_proj" | "ffn_gate" | "ffn_up" | "ffn_down" if ternary => 0.0,
            "attn_probs" | "attn_out" | "logits" => 1e-6,
            _ => 1e-12,
        };
        assert!(
            worst(name) <= limit,
            "{name}: {:e} > {limit:e}",
            worst(name)
        );
    }
    for name in ["attn_norm", "attn_sub_norm", "ffn_norm", "ffn_sub_norm"] {
        for stats in stats(report, name, Mode::Isolated) {
            let few = stats.code_flip_rate.map(|rate| rate < 1e-3);
            assert_eq!(few, ternary.then_some(true), "{name}");
        }
    }
    let generation = report.generation.as_ref().expect("a generation");
    assert!(
        generation
            .first_mismatch
            .as_ref()
            .is_none_or(|m| m.near_tie)
    );
}

fn stats<'a>(report: &'a Report, name: &str, mode: Mode) -> impl Iterator<Item = &'a TapStats> {
    report
        .taps
        .iter()
        .filter(move |t| t.tap == name)
        .filter_map(move |t| match mode {
            Mode::Isolated => t.isolated.as_ref(),
            Mode::Cumulative => t.cumulative.as_ref(),
        })
}

#[test]
fn bundled_model() {
    let (_, report, summary) = run(
        Path::new(TINY),
        &[
            "--prompt",
            "Once upon a time",
            "--prompt",
            "The dog",
            "--n-predict",
            "40",
        ],
    );
    assert_parity(&report);
    assert!(
        summary.starts_with("PASS  rust against bitnet.cpp"),
        "{summary}"
    );
    assert!(
        summary.lines().all(|l| l.chars().count() <= 100),
        "{summary}"
    );
    let generation = report.generation.expect("a generation");
    assert_eq!(
        (generation.reference.len(), generation.further.len()),
        (40, 1)
    );
    assert_eq!(generation.reference, generation.candidate);
    let text = generation.reference_text.expect("a text");
    assert!(text.contains("little girl"), "{text}");
    let bench = report.bench.expect("timings");
    assert_eq!(bench.ratios.len(), 5);
    assert!(bench.roofline.len() == 1 && bench.work.is_some());
    assert!(bench.tokens_reproduced.values().all(|&same| same));
}

#[test]
fn prompt_over_several_batches_and_two_threads() {
    let tokens: Vec<String> = (0..200).map(|i| (3 + i * 37 % 500).to_string()).collect();
    let tokens = tokens.join(",");
    let args = [
        "--tokens",
        &tokens,
        "--n-predict",
        "1",
        "--threads",
        "2",
        "--no-bench",
    ];
    let (code, report, _) = run(Path::new(TINY), &args);
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    assert_eq!(report.inputs.tokenizer, None);
    let layer_out = stats(&report, "layer_out", Mode::Isolated)
        .next()
        .expect("layer_out");
    assert_eq!(layer_out.rows, 208);
}

#[test]
fn trained_float_model() {
    let Some(model) = shared("models/stories260K.gguf") else {
        return;
    };
    let (_, report, _) = run(
        &model,
        &[
            "--prompt",
            "Once upon a time",
            "--n-predict",
            "100",
            "--no-bench",
        ],
    );
    assert_parity(&report);
    let generation = report.generation.expect("a generation");
    assert_eq!(generation.reference.len(), 100);
    assert_eq!(generation.reference, generation.candidate);
}

/// Output weights of tokens that the model has hardly seen have little in common with those of the others.
#[test]
fn trained_models_against_the_oracle() {
    let trained = shared("models/stories260K.gguf").into_iter();
    for model in trained.chain([PathBuf::from(TINY)]) {
        for engine in ["rust", "bitnet.cpp"] {
            for engines in [[engine, "oracle"], ["oracle", engine]] {
                let [reference, candidate] = engines;
                let args = ["--reference", reference, "--candidate", candidate];
                let (code, report, _) = run(&model, &[&args[..], &["--no-bench"]].concat());
                assert_eq!(code, 0, "{engines:?}: {:#?}", report.verdict.reasons);
            }
        }
    }
}

#[test]
fn synthetic_model_of_every_architecture() {
    for arch in Architecture::ALL.map(Architecture::name) {
        let scratch = Scratch::new();
        let model = synth(&scratch, arch, &[]);
        // The default pin is older.
        let reference = match arch {
            "qwen3" if mainline::built().is_none() => continue,
            "qwen3" => mainline::NAME,
            _ => "bitnet.cpp",
        };
        let (_, report, _) = run(&model, &["--no-bench", "--reference", reference]);
        assert_eq!(report.model.architecture, arch);
        assert_parity(&report);
    }
}

/// The second pin, if it is built.
pub(super) fn second_pin() -> Option<&'static str> {
    let doctor = crossval(&["doctor"]);
    let name = "bitnet.cpp@2024-11";
    if String::from_utf8_lossy(&doctor.stdout).contains(name) {
        return Some(name);
    }
    skip(&format!(
        "{name} is not built (cargo xtask reference 2024-11)"
    ));
    None
}

/// A model that both pins run.
#[test]
fn two_vintages_in_one_command() {
    let Some(candidate) = second_pin() else {
        return;
    };
    let scratch = Scratch::new();
    let model = synth(&scratch, "bitnet", &[]);
    let args = [
        "--reference",
        "bitnet.cpp",
        "--candidate",
        candidate,
        "--no-bench",
    ];
    let (code, report, _) = run(&model, &args);
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    assert_eq!(report.inputs.modes, [Mode::Isolated, Mode::Cumulative]);
    assert_eq!(report.coverage.compared, report.coverage.expected);
    assert!(report.coverage.expected > 0);
}

#[test]
pub(super) fn second_pin_of_the_reference() {
    let Some(reference) = second_pin() else {
        return;
    };
    let scratch = Scratch::new();
    for arch in ["bitnet", "llama"] {
        let model = synth(&scratch, arch, &[]);
        let (_, report, _) = run(&model, &["--reference", reference, "--no-bench"]);
        assert_eq!(report.engines.reference.name, reference);
        assert_parity(&report);
    }
    // The pin does not know this architecture: a finding with a name, not a crash.
    let (code, report, _) = run(Path::new(TINY), &["--reference", reference, "--no-bench"]);
    assert_eq!((code, report.verdict.status), (30, Status::Error));
    assert!(
        report.verdict.reasons[0].contains("bitnet-b1.58"),
        "{:?}",
        report.verdict.reasons
    );
}

#[test]
fn one_mode_alone() {
    for (mode, other) in [("isolated", "cumulative"), ("cumulative", "isolated")] {
        let (code, report, _) = run(Path::new(TINY), &["--mode", mode, "--no-bench"]);
        assert_eq!(code, 0);
        assert!(report.taps.iter().all(|t| match other {
            "isolated" => t.isolated.is_none() && t.cumulative.is_some(),
            _ => t.isolated.is_some() && t.cumulative.is_none(),
        }));
    }
}

#[test]
fn the_engine_against_itself_is_equal() {
    let (code, report, _) = run(
        Path::new(TINY),
        &["--reference", "rust", "--no-bench", "--profile", "strict"],
    );
    assert_eq!(code, 0);
    for tap in &report.taps {
        for stats in [&tap.isolated, &tap.cumulative].into_iter().flatten() {
            assert!(stats.bit_equal, "{} layer {:?}", tap.tap, tap.layer);
        }
    }
}

#[test]
fn a_report_renders_again_from_its_json() {
    let scratch = Scratch::new();
    let (out, again) = (scratch.path("out"), scratch.path("again"));
    let text = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let output = crossval(&["run", "--model", TINY, "--no-bench", "--out", &text(&out)]);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let json = text(&out.join("report.json"));
    let output = crossval(&[
        "report",
        &json,
        "--format",
        "json,html,md",
        "--out",
        &text(&again),
    ]);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    for file in ["report.json", "report.html", "report.md"] {
        let read = |dir: &Path| std::fs::read(dir.join(file)).expect(file);
        assert_eq!(read(&out), read(&again), "{file}");
    }
}
