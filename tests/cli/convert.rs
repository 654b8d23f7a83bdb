//! `crossval convert`.

use super::*;

fn convert(from: &Path, to: &Path, ty: &str) -> (i32, String) {
    let (from, to) = (from.to_str().expect("UTF-8"), to.to_str().expect("UTF-8"));
    let output = crossval(&["convert", from, "-o", to, "--type", ty]);
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    (exit_code(&output), out + &stderr(&output))
}

#[test]
fn ternary_weights_come_back_byte_for_byte() {
    let scratch = Scratch::new();
    let model = synth(&scratch, "bitnet", &[]);
    let original = std::fs::read(&model).expect("a model");
    for ty in ["tq1_0", "tq2_0", "f32"] {
        let there = scratch.path(ty);
        let (code, shown) = convert(&model, &there, ty);
        assert_eq!(code, 0, "{shown}");
        assert!(
            shown.contains("\nSAME  35 tensors, up to the types of "),
            "{shown}"
        );
        let back = scratch.path("back.gguf");
        let (code, shown) = convert(&there, &back, "i2_s");
        assert_eq!(code, 0, "{shown}");
        if ty != "f32" {
            assert!(std::fs::read(&back).expect("a model") == original, "{ty}");
        }
    }
}

#[test]
fn a_model_may_be_converted_in_its_place() {
    let scratch = Scratch::new();
    let model = scratch.path("m.gguf");
    std::fs::copy(TINY, &model).expect("copied");
    assert_eq!(convert(&model, &model, "f16").0, 0);
    let gguf = Gguf::open(&model).expect("a model");
    let q = gguf.tensor("blk.0.attn_q.weight").expect("a matrix");
    assert_eq!(q.ty.name(), "F16");
    let (code, report, _) = run(&model, &["--reference", "rust", "--n-predict", "4"]);
    assert_eq!(code, 0, "{:?}", report.verdict);
}

#[test]
fn what_cannot_be_written_leaves_nothing() {
    let scratch = Scratch::new();
    let to = scratch.path("x.gguf");
    let (code, shown) = convert(Path::new(TINY), &to, "tq2_0");
    assert_eq!(code, 65, "{shown}");
    assert!(shown.contains("blk.0.attn_q.weight"), "{shown}");
    let left = std::fs::read_dir(scratch.path("")).expect("a folder");
    assert_eq!(left.count(), 0);
}

/// The bundled model as Hugging Face has it.
const CHECKPOINT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/tiny-bitnet-packed");

#[test]
fn a_checkpoint_is_converted_and_runs() {
    let scratch = Scratch::new();
    let to = scratch.path("m.gguf");
    let (code, shown) = convert(Path::new(CHECKPOINT), &to, "i2_s");
    assert_eq!(code, 0, "{shown}");
    assert!(shown.ends_with("\nSAME  68 tensors\n"), "{shown}");
    let tensors = |path: &Path| {
        let gguf = Gguf::open(path).expect("a model");
        let data = |t| gguf.data(t).expect("data").to_vec();
        let tensors = gguf.tensors().iter().map(|t| (t.name.clone(), data(t)));
        tensors.collect::<std::collections::BTreeMap<_, _>>()
    };
    assert!(tensors(&to) == tensors(Path::new(TINY)));
    let (code, report, _) = run(&to, &["--reference", "rust", "--n-predict", "4"]);
    assert_eq!(code, 0, "{:?}", report.verdict);
}

#[test]
fn a_checkpoint_without_weights_is_named() {
    let scratch = Scratch::new();
    let folder = scratch.path("empty");
    std::fs::create_dir(&folder).expect("a folder");
    for file in ["config.json", "tokenizer.model"] {
        std::fs::copy(Path::new(CHECKPOINT).join(file), folder.join(file)).expect("copied");
    }
    let (code, shown) = convert(&folder, &scratch.path("m.gguf"), "i2_s");
    assert_eq!(code, 65, "{shown}");
    assert!(shown.contains("no file of safetensors"), "{shown}");
}
