//! TL1 and TL2, whose weights lie in the tiles of BitNet.cpp's kernels. No reference here has those kernels.

use std::os::unix::fs::FileExt;

use bitnet_core::gguf::{Gguf, TensorType, Writer};
use reports::model::AtFault;

use super::*;

/// At the smallest widths for which there are tiles.
fn in_tiles(scratch: &Scratch, ty: TensorType) -> PathBuf {
    let widths = [
        "--embd",
        "1536",
        "--heads",
        "16",
        "--kv-heads",
        "16",
        "--ffn",
        "4096",
    ];
    let more = [
        "--type",
        &ty.name().to_lowercase(),
        "--layers",
        "1",
        "--ctx",
        "64",
    ];
    synth(scratch, "bitnet", &[&widths[..], &more].concat())
}

const SMALL: [&str; 5] = ["--no-bench", "--n-predict", "1", "--tokens", "1,300,7"];

/// Attention's matrices of one model, the others of another that has the same shapes.
fn mixed(attention: &Path, others: &Path, to: &Path) {
    let [attention, others] = [attention, others].map(|path| Gguf::open(path).expect("a model"));
    let tensors = attention.tensors().iter().zip(others.tensors());
    let tensors = tensors.map(|(a, b)| match a.name.contains("attn") {
        true => (&attention, a),
        false => (&others, b),
    });
    let mut writer = Writer::new(attention.metadata().clone()).expect("a writer");
    for (_, t) in tensors.clone() {
        writer.tensor(&t.name, &t.shape, t.ty).expect("a tensor");
    }
    let file = BufWriter::new(File::create(to).expect("a file"));
    let mut writer = writer.begin(file).expect("a head");
    for (of, t) in tensors {
        let data = of.data(t).expect("data");
        writer
            .write_tensor(|out| out.write_all(data))
            .expect("written");
    }
    writer.finish().expect("finished");
}

#[test]
fn both_readings_agree_in_every_mode_and_what_is_assumed_is_said() {
    let (first, second) = (Scratch::new(), Scratch::new());
    let model = first.path("mixed.gguf");
    let [tl1, tl2] = [(&first, TensorType::TL1), (&second, TensorType::TL2)]
        .map(|(scratch, ty)| in_tiles(scratch, ty));
    mixed(&tl1, &tl2, &model);
    let args = ["--reference", "oracle", "--candidate", "rust"];
    let (code, report, _) = run(&model, &[&SMALL[..], &args].concat());
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    let types = &report.model.tensor_types;
    assert_eq!((types["TL1"], types["TL2"]), (4, 3));
    let says = "those of setup_env.py are assumed: TL1 of 1536 rows of 1536: bm 128, bk 64, bmm 64; TL2 of 1536 rows of 4096: \
                bm 256";
    let said = report
        .verdict
        .findings
        .iter()
        .any(|f| f.text.contains(says));
    assert!(said, "{:#?}", report.verdict.findings);
}

#[test]
fn a_scale_left_out_is_named() {
    let scratch = Scratch::new();
    let model = in_tiles(&scratch, TensorType::TL2);
    let fault = [
        "--reference",
        "rust",
        "--candidate",
        "rust",
        "--fault",
        "weight-scale-left-out:ffn_down:0",
    ];
    let (code, report, _) = run(&model, &[&SMALL[..], &fault].concat());
    let verdict = report.verdict;
    assert_eq!((code, verdict.at_fault), (10, AtFault::Candidate));
    let first = verdict.first_divergence.expect("a divergence");
    assert_eq!(first.tap, "ffn_down");
    let hint = first.hint.expect("a hint");
    assert!(hint.contains("scale"), "{hint}");
}

#[test]
fn codes_of_no_weights_are_refused_and_counted() {
    for (ty, of) in [(TensorType::TL1, 1_179_648), (TensorType::TL2, 786_432)] {
        let scratch = Scratch::new();
        let model = in_tiles(&scratch, ty);
        let gguf = Gguf::open(&model).expect("a model");
        let tensor = gguf.tensor("blk.0.attn_k.weight").expect("a tensor");
        let file = File::options().write(true).open(&model).expect("the file");
        file.write_all_at(&[0xf0], tensor.offset + 5)
            .expect("written");
        let args = [
            "run",
            "--model",
            model.to_str().unwrap(),
            "--no-bench",
            "--reference",
            "rust",
        ];
        let output = crossval(&args);
        let says = "tensor \"blk.0.attn_k.weight\": 1 of its codes stand for no weights";
        assert_eq!(exit_code(&output), 65, "{ty}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
        let output = crossval(&["inspect", "--check", model.to_str().unwrap()]);
        let says = format!("tensor \"blk.0.attn_k.weight\": 1 of {of} codes stand for no weights");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&says), "{text}");
    }
}

#[test]
fn widths_without_tiles_are_refused() {
    let output = crossval(&[
        "synth",
        "--arch",
        "llama",
        "--type",
        "tl2",
        "-o",
        "never.gguf",
    ]);
    assert_eq!(exit_code(&output), 64);
    let says = "--embd: where the weights of TL2 lie follows from tile sizes that no file holds, and BitNet.cpp has none for \
                256 rows of 256";
    assert!(stderr(&output).contains(says), "{}", stderr(&output));
}
