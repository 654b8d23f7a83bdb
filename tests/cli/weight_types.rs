//! Weight types and optional tensors that the synthetic models do not have by themselves, against the reference.
#![cfg(feature = "reference")]

use std::fs::File;
use std::io::BufWriter;

use bitnet_core::gguf::{Gguf, TensorInfo, TensorType, Writer};
use half::{bf16, f16};
use reports::model::AtFault;

use super::*;

/// A tensor that is added: name, row length, values.
type Extra = (String, usize, Vec<f32>);

/// Copies a model, with the types that `ty` names for some tensors, and with `extra` tensors.
fn rewrite(from: &Path, to: &Path, ty: impl Fn(&str) -> Option<TensorType>, extra: &[Extra]) {
    let gguf = Gguf::open(from).expect("a model");
    let mut writer = Writer::new(gguf.metadata().clone()).expect("a writer");
    for tensor in gguf.tensors() {
        let ty = ty(&tensor.name).unwrap_or(tensor.ty);
        writer
            .tensor(&tensor.name, &tensor.shape, ty)
            .expect("fits");
    }
    for (name, columns, values) in extra {
        let shape = [*columns as u64, (values.len() / columns) as u64];
        let shape = &shape[..if shape[1] == 1 { 1 } else { 2 }];
        writer.tensor(name, shape, TensorType::F32).expect("fits");
    }
    let file = BufWriter::new(File::create(to).expect("a file"));
    let mut writer = writer.begin(file).expect("a head");
    for tensor in gguf.tensors() {
        let data = gguf.data(tensor).expect("data");
        let bytes = match ty(&tensor.name) {
            Some(ty) if ty != tensor.ty => encode(&values(tensor, data), ty),
            _ => data.to_vec(),
        };
        writer
            .write_tensor(|out| out.write_all(&bytes))
            .expect("written");
    }
    for (_, _, values) in extra {
        let bytes = encode(values, TensorType::F32);
        writer
            .write_tensor(|out| out.write_all(&bytes))
            .expect("written");
    }
    writer.finish().expect("finished");
}

fn values(tensor: &TensorInfo, data: &[u8]) -> Vec<f32> {
    match tensor.ty {
        TensorType::F32 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| f32::from_le_bytes(*b))
            .collect(),
        TensorType::F16 => data
            .as_chunks()
            .0
            .iter()
            .map(|b| f16::from_le_bytes(*b).to_f32())
            .collect(),
        other => panic!("{}: {other:?}", tensor.name),
    }
}

fn encode(values: &[f32], ty: TensorType) -> Vec<u8> {
    match ty {
        TensorType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        TensorType::F16 => values
            .iter()
            .flat_map(|&v| f16::from_f32(v).to_le_bytes())
            .collect(),
        TensorType::BF16 => values
            .iter()
            .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
            .collect(),
        TensorType::Q8_0 => values.as_chunks::<32>().0.iter().flat_map(q8_0).collect(),
        TensorType::Q6_K => values.as_chunks::<256>().0.iter().flat_map(q6_k).collect(),
        other => panic!("{other:?}"),
    }
}

fn q8_0(block: &[f32; 32]) -> Vec<u8> {
    let d = f16::from_f32(block.iter().fold(0.0_f32, |m, v| m.max(v.abs())) / 127.0);
    let code = |v: &f32| (v / d.to_f32().max(f32::MIN_POSITIVE)).round() as i8 as u8;
    d.to_le_bytes()
        .into_iter()
        .chain(block.iter().map(code))
        .collect()
}

/// Codes of 6 bits around 32 for 16 sub-blocks of 16, in the bit layout of ggml's `block_q6_K`.
fn q6_k(block: &[f32; 256]) -> Vec<u8> {
    let amax = |values: &[f32]| values.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let d = f16::from_f32(amax(block) / (31.0 * 127.0))
        .to_f32()
        .max(f32::MIN_POSITIVE);
    let (mut low, mut high, mut scales) = ([0_u8; 128], [0_u8; 64], [0_u8; 16]);
    for (i, sub) in block.as_chunks::<16>().0.iter().enumerate() {
        let scale = (amax(sub) / 31.0 / d).round().clamp(1.0, 127.0);
        scales[i] = scale as i8 as u8;
        for (j, v) in sub.iter().enumerate() {
            let code = ((v / (d * scale)).round().clamp(-32.0, 31.0) as i32 + 32) as u8;
            let at = i * 16 + j;
            let (half, within) = (at / 128, at % 128);
            low[half * 64 + within % 64] |= (code & 15) << (4 * (within / 64));
            high[half * 32 + within % 32] |= (code >> 4) << (2 * (within / 32));
        }
    }
    let d = f16::from_f32(d).to_le_bytes();
    [&low[..], &high, &scales, &d].concat()
}

/// Our engine, and the oracle, which reads every format by another hand; against mainline llama.cpp too, where that
/// knows the model.
fn assert_passes(model: &Path, ty: TensorType, by_mainline: bool) {
    let mut pairs = vec![("bitnet.cpp", "rust"), ("bitnet.cpp", "oracle")];
    if by_mainline && mainline::built().is_some() {
        pairs.push((mainline::NAME, "rust"));
    }
    assert_pass(&pairs, model, ty);
}

fn assert_pass(pairs: &[(&str, &str)], model: &Path, ty: TensorType) {
    for &(reference, candidate) in pairs {
        let args = [
            "--reference",
            reference,
            "--candidate",
            candidate,
            "--no-bench",
            "--n-predict",
            "8",
        ];
        let (code, report, _) = run(model, &args);
        let reasons = &report.verdict.reasons;
        let which = format!("{candidate} against {reference}, {}", model.display());
        assert_eq!(code, 0, "{which}: {reasons:#?}");
        let not_offered = report.coverage.not_offered.get(reference);
        assert!(
            not_offered.is_none_or(Vec::is_empty),
            "{which}: {not_offered:?}"
        );
        assert!(
            report.model.tensor_types.contains_key(ty.name()),
            "{:?}",
            report.model.tensor_types
        );
    }
}

#[test]
fn matrices() {
    let scratch = Scratch::new();
    for arch in ["llama", "bitnet"] {
        let model = synth(&scratch, arch, &["--type", "f32"]);
        for ty in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            let copy = scratch.path(&format!("{arch}-{}.gguf", ty.name()));
            let matrix = |name: &str| !name.contains("norm") && name.ends_with(".weight");
            rewrite(&model, &copy, |name| matrix(name).then_some(ty), &[]);
            assert_passes(&copy, ty, true);
        }
    }
}

#[test]
fn ternary_blocks() {
    for ty in [TensorType::TQ1_0, TensorType::TQ2_0] {
        for arch in ["llama", "bitnet"] {
            let scratch = Scratch::new();
            let model = synth(&scratch, arch, &["--type", ty.name()]);
            assert_passes(&model, ty, true);
        }
    }
}

#[test]
fn embeddings_and_output() {
    let scratch = Scratch::new();
    for arch in ["llama", "bitnet-b1.58"] {
        let model = synth(&scratch, arch, &[]);
        for ty in [
            TensorType::F32,
            TensorType::BF16,
            TensorType::Q8_0,
            TensorType::Q6_K,
        ] {
            let copy = scratch.path(&format!("{arch}-{}.gguf", ty.name()));
            let head = |name: &str| ["token_embd.weight", "output.weight"].contains(&name);
            rewrite(&model, &copy, |name| head(name).then_some(ty), &[]);
            assert_passes(&copy, ty, arch == "llama");
        }
    }
}

/// The engines that know a model of a type by the pins' tables, or the oracle where there is none.
fn pairs_for(ty: TensorType) -> Vec<(&'static str, &'static str)> {
    let mut pairs = match ty {
        TensorType::I2_S => return vec![("bitnet.cpp", "rust"), ("bitnet.cpp", "oracle")],
        TensorType::TQ1_0 | TensorType::TQ2_0 => vec![("bitnet.cpp", "rust")],
        _ => vec![("rust", "oracle")],
    };
    if ty != TensorType::Q2_0_128 && mainline::built().is_some() {
        pairs.push((mainline::NAME, "rust"));
    }
    pairs
}

/// In matrices, as embeddings and as output.
#[test]
fn blocks_everywhere() {
    for (ty, arch) in [
        (TensorType::TQ1_0, "llama"),
        (TensorType::TQ2_0, "bitnet"),
        (TensorType::Q1_0, "llama"),
        (TensorType::Q2_0, "bitnet"),
        (TensorType::Q2_0_128, "llama"),
    ] {
        let scratch = Scratch::new();
        let name = ty.name();
        let mut types = vec!["--type", name, "--token-embedding-type", name];
        if arch != "bitnet" {
            types.extend(["--output-tensor-type", name]);
        }
        let model = synth(&scratch, arch, &types);
        let gguf = Gguf::open(&model).expect("a model");
        let vectors = gguf.tensors().iter().filter(|t| t.ty != ty);
        assert!(vectors.clone().all(|t| t.shape.len() == 1), "{ty}");
        assert_pass(&pairs_for(ty), &model, ty);
    }
}

/// As Bonsai: `qwen3` in signs and scales through and through.
#[test]
fn a_model_of_signs() {
    let Some(_) = mainline::built() else {
        return;
    };
    let scratch = Scratch::new();
    let types = [
        "--type",
        "q1_0",
        "--token-embedding-type",
        "q1_0",
        "--output-tensor-type",
        "q1_0",
    ];
    let model = synth(&scratch, "qwen3", &types);
    assert_pass(
        &[(mainline::NAME, "rust"), (mainline::NAME, "oracle")],
        &model,
        TensorType::Q1_0,
    );
    let out = scratch.path("out");
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let output = crossval(&[
        "bench",
        "--reference",
        mainline::NAME,
        "--model",
        &path(&model),
        "--threads",
        "1",
        "--prefill",
        "16",
        "--decode",
        "8",
        "--reps",
        "2",
        "--out",
        &path(&out),
    ]);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let bench = read_report(&out, &output).bench.expect("timings");
    assert!(bench.tokens_reproduced.values().all(|&same| same));
}

#[test]
fn biases_and_rope_factors() {
    let scratch = Scratch::new();
    let model = synth(&scratch, "llama", &[]);
    let gguf = Gguf::open(&model).expect("a model");
    let wave = |n: u64, size: f32| {
        (0..n)
            .map(|i| (i as f32).sin() * size)
            .collect::<Vec<f32>>()
    };
    let mut extra: Vec<Extra> = Vec::new();
    for tensor in gguf.tensors() {
        let biased = [
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "ffn_gate",
            "ffn_up",
            "ffn_down",
        ];
        let Some(name) = tensor.name.strip_suffix(".weight") else {
            continue;
        };
        if biased.iter().any(|b| name.ends_with(&format!(".{b}"))) {
            let bias = wave(tensor.shape[1], 0.1);
            extra.push((format!("{name}.bias"), bias.len(), bias));
        }
    }
    assert_eq!(extra.len(), 7 * 3);
    let metadata = gguf.metadata();
    let rotated = metadata
        .u32("llama.rope.dimension_count")
        .expect("a rotated width");
    let factors: Vec<f32> = (0..rotated / 2).map(|i| 1.0 + i as f32 * 0.2).collect();
    extra.push(("rope_freqs.weight".to_owned(), factors.len(), factors));
    let copy = scratch.path("biases.gguf");
    rewrite(&model, &copy, |_| None, &extra);
    assert_passes(&copy, TensorType::F32, true);
}

/// Mainline takes the scale of every product of these architectures, the pin those of `bitnet`.
#[test]
fn scales_in_tensors_of_their_own() {
    for (arch, types) in [
        (
            "bitnet",
            &[
                TensorType::I2_S,
                TensorType::TQ1_0,
                TensorType::TQ2_0,
                TensorType::Q2_0,
            ][..],
        ),
        ("llama", &[TensorType::TQ2_0, TensorType::Q2_0]),
        ("qwen3", &[TensorType::TQ1_0, TensorType::Q1_0]),
    ] {
        for &ty in types {
            let scratch = Scratch::new();
            let model = synth(&scratch, arch, &["--type", ty.name(), "--scale-tensors"]);
            let gguf = Gguf::open(&model).expect("a model");
            let scales = gguf.tensors().iter().filter(|t| t.name.ends_with(".scale"));
            assert_eq!(scales.count(), 7 * 3);
            let mut pairs = pairs_for(ty);
            pairs.retain(|&(reference, _)| arch == "bitnet" || reference != "bitnet.cpp");
            assert_pass(&pairs, &model, ty);
        }
    }
}

/// Mainline adds the bias of the feed-forward network before it multiplies by the weights' scale.
#[test]
fn a_bias_that_the_reference_scales() {
    let Some(_) = mainline::built() else {
        return;
    };
    let scratch = Scratch::new();
    let model = synth(&scratch, "llama", &["--type", "q2_0", "--scale-tensors"]);
    for (part, says) in [
        ("attn_q", None),
        ("ffn_up", Some("multiplies the bias by the `.scale` tensor")),
    ] {
        let gguf = Gguf::open(&model).expect("a model");
        let info = gguf
            .tensor(&format!("blk.1.{part}.weight"))
            .expect("a matrix");
        let bias: Vec<f32> = (0..info.shape[1]).map(|i| (i as f32).sin()).collect();
        let copy = scratch.path(&format!("{part}.gguf"));
        let extra = [(format!("blk.1.{part}.bias"), bias.len(), bias)];
        rewrite(&model, &copy, |_| None, &extra);
        let args = [
            "--reference",
            mainline::NAME,
            "--no-bench",
            "--n-predict",
            "8",
        ];
        let (code, report, _) = run(&copy, &args);
        let verdict = report.verdict;
        let Some(says) = says else {
            assert_eq!(code, 0, "{:#?}", verdict.reasons);
            continue;
        };
        assert_eq!((code, verdict.at_fault), (10, AtFault::Reference));
        let first = verdict.first_divergence.expect("a divergence");
        assert_eq!((&*first.tap, first.layer), (part, Some(1)));
        let hint = first.hint.expect("a hint");
        assert!(hint.contains(says), "{hint}");
    }
}

/// What a scale was rounded to, and what not, is in reports and in `inspect`.
#[test]
fn where_scales_are_is_said() {
    let scratch = Scratch::new();
    for (ty, more, says) in [
        ("i2_s", &[][..], "one F32 per matrix"),
        ("tq2_0", &[], "one F16 per 256 weights, no .scale tensors"),
        (
            "q2_0",
            &["--scale-tensors"],
            "one F16 per 64 weights, times that of a .scale tensor",
        ),
    ] {
        let model = synth(&scratch, "bitnet", &[&["--type", ty], more].concat());
        let args = ["--reference", "rust", "--no-bench", "--n-predict", "4"];
        let (code, report, _) = run(&model, &args);
        let name = ty.to_uppercase();
        assert_eq!((code, &*report.model.weight_scales[&name]), (0, says));
        assert_eq!(report.model.weight_scales.len(), 1);
        let output = crossval(&["inspect", model.to_str().expect("UTF-8")]);
        let shown = String::from_utf8_lossy(&output.stdout);
        let line = format!("\nscales of {name} in the layers: {says}\n");
        assert!(shown.contains(&line), "{shown}");
    }
}

/// Activations are rounded for the matrix that is used, not for the right one.
#[test]
fn wrong_matrices_of_every_type_are_named() {
    let scratch = Scratch::new();
    let model = synth(&scratch, "llama", &[]);
    let copy = scratch.path("mixed.gguf");
    let ty = |name: &str| match name {
        "output.weight" => Some(TensorType::Q6_K),
        "token_embd.weight" => Some(TensorType::Q8_0),
        "blk.0.attn_q.weight" => Some(TensorType::BF16),
        _ => None,
    };
    rewrite(&model, &copy, ty, &[]);
    for (fault, says) in [
        ("transposed:q:0", "uses the matrix transposed"),
        (
            "tied-head:logits",
            "uses the token embedding as output head",
        ),
    ] {
        let args = ["--fault", fault, "--no-bench", "--n-predict", "8"];
        let (code, report, _) = run(&copy, &args);
        let verdict = report.verdict;
        assert_eq!((code, verdict.at_fault), (10, AtFault::Candidate));
        let hint = verdict.first_divergence.and_then(|first| first.hint);
        assert!(hint.as_ref().is_some_and(|h| h.contains(says)), "{hint:?}");
    }
}

/// The reference loads the output matrix of a `bitnet-b1.58` file and then uses the embedding.
#[test]
fn a_head_of_its_own_that_the_reference_ignores() {
    let scratch = Scratch::new();
    let model = synth(&scratch, "bitnet-b1.58", &[]);
    let gguf = Gguf::open(&model).expect("a model");
    let table = gguf.tensor("token_embd.weight").expect("an embedding");
    let head = values(table, gguf.data(table).expect("data"));
    let head: Vec<f32> = head.iter().rev().copied().collect();
    let columns = table.shape[0] as usize;
    let copy = scratch.path("untied.gguf");
    let extra = [("output.weight".to_owned(), columns, head)];
    rewrite(&model, &copy, |_| None, &extra);
    let (code, report, _) = run(&copy, &["--no-bench", "--n-predict", "8"]);
    let verdict = report.verdict;
    assert_eq!((code, verdict.at_fault), (10, AtFault::Reference));
    let first = verdict.first_divergence.expect("a divergence");
    assert_eq!(first.tap, "logits");
    let hint = first.hint.expect("a hint");
    assert!(
        hint.contains("uses the token embedding as output head"),
        "{hint}"
    );
}
