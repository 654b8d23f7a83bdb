use std::path::Path;

use super::*;
use crate::gguf::Value;

/// A file made by hand, since no writer writes types that it does not know: its metadata, and tensors by name, shape, type
/// id and bytes.
struct Made {
    metadata: Vec<(&'static str, Value)>,
    tensors: Vec<(&'static str, Vec<u64>, u32, usize)>,
}

impl Made {
    fn gguf(&self) -> Gguf {
        let mut bytes = b"GGUF".to_vec();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((self.tensors.len() as u64).to_le_bytes());
        bytes.extend((self.metadata.len() as u64).to_le_bytes());
        let put = |bytes: &mut Vec<u8>, text: &str| {
            bytes.extend((text.len() as u64).to_le_bytes());
            bytes.extend(text.as_bytes());
        };
        for (key, value) in &self.metadata {
            put(&mut bytes, key);
            match value {
                Value::U32(x) => {
                    bytes.extend(4u32.to_le_bytes());
                    bytes.extend(x.to_le_bytes());
                }
                Value::F32(x) => {
                    bytes.extend(6u32.to_le_bytes());
                    bytes.extend(x.to_le_bytes());
                }
                Value::Str(text) => {
                    bytes.extend(8u32.to_le_bytes());
                    put(&mut bytes, text);
                }
                other => panic!("{other:?}"),
            }
        }
        let mut offset = 0;
        for (name, shape, ty, size) in &self.tensors {
            put(&mut bytes, name);
            bytes.extend((shape.len() as u32).to_le_bytes());
            shape.iter().for_each(|n| bytes.extend(n.to_le_bytes()));
            bytes.extend(ty.to_le_bytes());
            bytes.extend((offset as u64).to_le_bytes());
            offset += size.next_multiple_of(32);
        }
        bytes.resize(bytes.len().next_multiple_of(32) + offset, 0);
        Gguf::from_bytes(Path::new("made.gguf"), bytes).unwrap()
    }

    fn said(&self) -> Vec<(&'static str, String)> {
        let remarks = remarks(&self.gguf()).into_iter();
        remarks.map(|r| (r.id, r.sentence)).collect()
    }

    fn says(&self, id: &str) -> Option<String> {
        let mut said = self.said().into_iter();
        said.find(|(of, _)| *of == id).map(|(_, sentence)| sentence)
    }
}

/// A file whose metadata suffice for a model.
fn made(architecture: &'static str, more: Vec<(&'static str, Value)>) -> Made {
    let mut metadata: Vec<(&str, Value)> = vec![("general.architecture", architecture.into())];
    for (key, n) in [
        ("embedding_length", 256u32),
        ("attention.head_count", 4),
        ("block_count", 1),
        ("feed_forward_length", 512),
        ("context_length", 64),
    ] {
        let key = format!("{architecture}.{key}").leak();
        metadata.push((key, n.into()));
    }
    let eps = format!("{architecture}.attention.layer_norm_rms_epsilon").leak();
    metadata.push((eps, 1e-5f32.into()));
    metadata.extend(more);
    Made {
        metadata,
        tensors: vec![("token_embd.weight", vec![256, 8], 1, 4096)],
    }
}

/// With a matrix of a layer, 8 rows of 512.
fn with_matrix(file_type: Option<u32>, ty: u32, size: usize) -> Made {
    let label = file_type.map(|id| ("general.file_type", id.into()));
    let mut made = made("llama", label.into_iter().collect());
    let q = ("blk.0.attn_q.weight", vec![512, 8], ty, size);
    made.tensors.push(q);
    made
}

#[test]
fn a_file_that_all_read_alike_has_no_remarks() {
    let plain = with_matrix(Some(1), 1, 8192);
    let mut said = plain.said();
    // It has few of a model's tensors.
    said.retain(|(id, _)| *id != "shape-refused");
    assert_eq!(said, []);
}

#[test]
fn keys_and_shapes_that_contradict_each_other() {
    let says = made("llama", Vec::new()).says("shape-refused").unwrap();
    assert_eq!(says, "tensor \"output_norm.weight\" is missing");
    let mut odd = made("llama", Vec::new());
    let heads = odd.metadata.iter_mut();
    for (key, value) in heads.filter(|(key, _)| key.ends_with("head_count")) {
        assert_eq!(*key, "llama.attention.head_count");
        *value = 3u32.into();
    }
    let says = odd.says("shape-refused").unwrap();
    assert!(says.contains("head"), "{says}");
    // Nor is what is sound and not supported here.
    let scaling = ("llama.rope.scaling.type", "none of ours".into());
    assert_eq!(made("llama", vec![scaling]).says("shape-refused"), None);
}

#[test]
fn the_bundled_model_is_remarked_on() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf");
    let remarks = remarks(&Gguf::open(&path).unwrap());
    let ids: Vec<&str> = remarks.iter().map(|r| r.id).collect();
    assert_eq!(
        ids,
        [
            "architecture-unknown",
            "activation-assumed",
            "activation-otherwise",
            "file-type-ambiguous",
            "tensor-type-unknown",
        ]
    );
    assert!(remarks.iter().all(|r| r.next_step.ends_with(['.'])));
}

#[test]
fn an_activation_that_nobody_names() {
    let silent = made("bitnet-25", Vec::new());
    let says = silent.says("activation-assumed").unwrap();
    assert!(says.contains("no bitnet-25.hidden_activation"), "{says}");
    assert!(
        says.ends_with("with ReLU² and with SiLU: ReLU² is assumed"),
        "{says}"
    );
    let says = silent.says("architecture-unknown").unwrap();
    let lack = "unknown to BitNet.cpp 2024-11, BitNet.cpp 2026-07 and llama.cpp";
    assert!(says.contains(lack), "{says}");
    let says = made("qwen3", Vec::new()).says("architecture-unknown");
    let lack = "unknown to BitNet.cpp 2024-11 and BitNet.cpp 2026-01";
    assert!(says.as_ref().is_some_and(|s| s.ends_with(lack)), "{says:?}");
    let named = made(
        "bitnet-25",
        vec![("bitnet-25.hidden_activation", "relu2".into())],
    );
    assert_eq!(named.says("activation-assumed"), None);
    assert_eq!(made("bitnet", Vec::new()).says("activation-assumed"), None);
}

#[test]
fn an_activation_that_vintages_do_not_compute() {
    let key = "bitnet-b1.58.hidden_activation";
    let of = |value: &str| made("bitnet-b1.58", vec![(key, value.into())]);
    assert_eq!(
        of("silu").says("activation-otherwise").unwrap(),
        "the activation is said by the file to be SiLU; what BitNet.cpp 2026-01 computes is ReLU², whatever the file says"
    );
    let says = of("relu2").says("activation-otherwise").unwrap();
    assert!(
        says.contains("what BitNet.cpp 2026-07 computes is SiLU"),
        "{says}"
    );
    let says = of("gelu").says("activation-unknown").unwrap();
    assert!(
        says.starts_with(r#"bitnet-b1.58.hidden_activation is "gelu""#),
        "{says}"
    );
    assert_eq!(of("silu").says("activation-unknown"), None);
    assert_eq!(made("llama", Vec::new()).says("activation-otherwise"), None);
}

#[test]
fn a_file_type_of_several_meanings() {
    for (id, says) in [
        (
            38,
            "TL1 in BitNet.cpp 2024-11 and BitNet.cpp 2026-01, MXFP4 in",
        ),
        (
            40,
            "I2_S in BitNet.cpp 2024-11 and BitNet.cpp 2026-01, Q1_0 in BitNet.cpp 2026-07 and llama.cpp",
        ),
        (41, "I2_S in BitNet.cpp 2026-07, Q2_0 in llama.cpp"),
    ] {
        let said = with_matrix(Some(id), 36, 1056)
            .says("file-type-ambiguous")
            .unwrap();
        assert!(said.contains(says), "{said}");
        assert!(said.ends_with("the matrices are I2_S"), "{said}");
    }
    assert_eq!(
        with_matrix(Some(7), 8, 4352).says("file-type-ambiguous"),
        None
    );
}

#[test]
fn a_file_that_is_not_of_the_type_on_its_label() {
    for label in [40, 41] {
        let said = with_matrix(Some(label), 1, 8192)
            .says("file-type-wrong")
            .unwrap();
        assert!(said.contains("I2_S"), "{said}");
        assert!(said.ends_with("no matrix is: they are F16"), "{said}");
    }
    let said = with_matrix(Some(1), 36, 1056)
        .says("file-type-wrong")
        .unwrap();
    assert_eq!(
        said,
        "general.file_type 1 says F16, and no matrix is: they are I2_S"
    );
    for (label, ty, size) in [
        (40, 36, 1056),
        (41, 36, 1056),
        (40, 41, 576),
        (0, 0, 16384),
        (27, 1, 8192),
    ] {
        let made = with_matrix(Some(label), ty, size);
        assert_eq!(made.says("file-type-wrong"), None, "{label} {ty}");
    }
    assert_eq!(with_matrix(None, 1, 8192).says("file-type-wrong"), None);
}

#[test]
fn a_file_type_that_nobody_knows_or_most_matrices_do_not_have() {
    let labelled = |id| with_matrix(Some(id), 36, 16416).says("file-type-wrong");
    let says = labelled(999).unwrap();
    assert_eq!(
        says,
        "general.file_type 999 stands for nothing that is known; the matrices are I2_S"
    );
    // Of several types, and the pins' own.
    assert_eq!((labelled(27), labelled(40)), (None, None));
    let mut mixed = with_matrix(Some(40), 36, 16416);
    mixed
        .tensors
        .push(("blk.0.ffn_up.weight", vec![256, 512], 1, 2 * 256 * 512));
    let says = mixed.says("file-type-wrong").unwrap();
    assert!(
        says.ends_with("less than half of the matrices are: they are F16 and I2_S"),
        "{says}"
    );
}

#[test]
fn a_pre_tokenizer_of_no_name_is_missing() {
    let of = |pre: &'static str| {
        let keys = vec![
            ("tokenizer.ggml.model", "gpt2".into()),
            ("tokenizer.ggml.pre", pre.into()),
        ];
        made("llama", keys)
    };
    assert!(of("").says("pre-tokenizer-missing").is_some());
    assert_eq!(of("").says("pre-tokenizer-refused"), None);
    assert_eq!(of("llama-bpe").says("pre-tokenizer-missing"), None);
}

#[test]
fn a_tensor_type_of_several_meanings_is_told_by_its_size() {
    for (id, size, says) in [
        (
            39,
            544,
            "TL2 in BitNet.cpp 2024-11 and BitNet.cpp 2026-01, MXFP4 in",
        ),
        (39, 2176, "can be MXFP4, by its size"),
        (39, 992, "can be TL2, by its size, and is read as TL2"),
        (42, 992, "TL2 in BitNet.cpp 2026-07, Q2_0 in llama.cpp"),
        (42, 992, "can be TL2, by its size, and is read as TL2_42"),
        (42, 1088, "can be Q2_0 in blocks of 128, by its size"),
        (42, 1088, "and is read as Q2_0_128"),
        (42, 1152, "by its size, and is read as Q2_0"),
        (
            42,
            2048,
            "can be none of these, by its size, and is not read here",
        ),
    ] {
        let said = with_matrix(None, id, size)
            .says("tensor-type-ambiguous")
            .unwrap();
        assert!(said.contains(says), "{id} {size}: {said}");
    }
    assert_eq!(
        with_matrix(None, 36, 1056).says("tensor-type-ambiguous"),
        None
    );
    assert_eq!(
        with_matrix(None, 41, 576).says("tensor-type-ambiguous"),
        None
    );
}

#[test]
fn a_tensor_type_that_vintages_do_not_know() {
    let said = |id, size| with_matrix(None, id, size).says("tensor-type-unknown");
    assert_eq!(
        said(36, 1056).unwrap(),
        "tensor type 36 (I2_S) is unknown to llama.cpp"
    );
    let everybody = said(143, 64).unwrap();
    assert!(everybody.starts_with("tensor type 143 is unknown to BitNet.cpp 2024-11"));
    assert_eq!(said(35, 1056), None);
}

#[test]
fn weights_in_tiles_of_sizes_that_are_assumed() {
    let said = |ty, rows: u64, columns: u64, size| {
        let mut file = made("llama", Vec::new());
        let shape = vec![columns, rows];
        file.tensors
            .push(("blk.0.attn_k.weight", shape.clone(), ty, size));
        file.tensors.push(("blk.0.attn_v.weight", shape, ty, size));
        file.says("tiles-assumed")
    };
    let start = "where weights lie follows from tile sizes of BitNet.cpp's kernels, which the file does not have; those of \
                 setup_env.py are assumed: ";
    assert_eq!(
        said(38, 1536, 1536, 589_856).unwrap(),
        format!("{start}TL1 of 1536 rows of 1536: bm 128, bk 64, bmm 64")
    );
    assert_eq!(
        said(38, 1024, 4096, 1_048_608).unwrap(),
        format!(
            "{start}TL1 of 1024 rows of 4096: bm 256, bk 128, bmm 32 (and not bm 128, bk 64, bmm 64, as preset_kernels has \
             them)"
        )
    );
    assert_eq!(
        said(39, 8, 512, 992).unwrap(),
        format!("{start}TL2 of 8 rows of 512: none are known")
    );
    assert_eq!(said(36, 128, 128, 4128), None);
}

#[test]
fn norms_of_a_type_that_vintages_do_not_multiply_by() {
    let of = |ty, size| {
        let mut file = made("llama", Vec::new());
        file.tensors = vec![("blk.0.attn_norm.weight", vec![64], ty, size)];
        file.says("norm-type-refused")
    };
    assert_eq!(
        of(1, 128).unwrap(),
        "norm weights are F16, \"blk.0.attn_norm.weight\" the first of them: BitNet.cpp 2024-11, BitNet.cpp 2026-01 and \
         llama.cpp abort where they multiply by them"
    );
    assert_eq!(of(0, 256), None);
}

#[test]
fn a_pre_tokenizer_that_vintages_refuse() {
    let of = |pre: Option<&'static str>, model: &'static str| {
        let mut keys: Vec<(&str, Value)> = vec![("tokenizer.ggml.model", model.into())];
        keys.extend(pre.map(|pre| ("tokenizer.ggml.pre", pre.into())));
        made("llama", keys)
    };
    assert_eq!(
        of(Some("falcon_e"), "gpt2")
            .says("pre-tokenizer-refused")
            .unwrap(),
        "pre-tokenizer \"falcon_e\" is refused by BitNet.cpp 2024-11, BitNet.cpp 2026-07 and llama.cpp"
    );
    let newer = of(Some("qwen35"), "gpt2")
        .says("pre-tokenizer-refused")
        .unwrap();
    assert!(
        newer.ends_with("BitNet.cpp 2024-11 and BitNet.cpp 2026-01"),
        "{newer}"
    );
    for (pre, model) in [
        (Some("llama-bpe"), "gpt2"),
        (Some("falcon_e"), "llama"),
        (None, "gpt2"),
    ] {
        assert_eq!(
            of(pre, model).says("pre-tokenizer-refused"),
            None,
            "{pre:?} {model}"
        );
    }
    let missing = of(None, "gpt2").says("pre-tokenizer-missing").unwrap();
    assert!(missing.contains("without tokenizer.ggml.pre"), "{missing}");
    assert_eq!(of(None, "llama").says("pre-tokenizer-missing"), None);
}
