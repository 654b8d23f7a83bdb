//! Files that are refused, and what the messages name.

use bitnet_core::gguf::{StringArray, TensorType, Value};
use bitnet_core::{ErrorKind, gguf::Array};

use crate::synthetic::{N_EMBD, N_VOCAB, SPECS, Synthetic};

struct Case {
    break_it: fn(&mut Synthetic),
    kind: ErrorKind,
    names: &'static str,
}

const fn case(break_it: fn(&mut Synthetic), kind: ErrorKind, names: &'static str) -> Case {
    Case {
        break_it,
        kind,
        names,
    }
}

#[test]
fn refusals_name_the_file_and_the_fault() {
    use ErrorKind::{BadFile, MissingTensor, Unsupported};
    let cases = [
        case(
            |m| m.tensors.retain(|t| t.name != "blk.1.attn_k.weight"),
            MissingTensor,
            "blk.1.attn_k.weight",
        ),
        case(
            |m| m.tensors.retain(|t| t.name != "blk.0.ffn_sub_norm.weight"),
            MissingTensor,
            "blk.0.ffn_sub_norm",
        ),
        case(
            |m| m.tensors.retain(|t| t.name != "token_embd.weight"),
            MissingTensor,
            "token_embd.weight",
        ),
        case(
            |m| m.tensor("blk.0.attn_q.weight").name = "blk.0.attn_qkv.weight".into(),
            MissingTensor,
            "blk.0.attn_q.",
        ),
        case(
            |m| m.matrix("blk.2.attn_q.weight", 1, 256, TensorType::F32),
            MissingTensor,
            "blk.2.attn_q.weight",
        ),
        case(
            |m| m.tensor("output_norm.weight").shape = vec![N_EMBD / 2, 2],
            BadFile,
            "output_norm.weight",
        ),
        case(
            |m| m.tensor("blk.1.ffn_up.weight").shape.swap(0, 1),
            BadFile,
            "blk.1.ffn_up.weight",
        ),
        case(
            |m| m.set("general.architecture", "gpt2"),
            Unsupported,
            "gpt2",
        ),
        case(
            |m| m.set("bitnet.expert_count", 8u32),
            Unsupported,
            "bitnet.expert_count",
        ),
        case(
            |m| m.set("bitnet.rope.scaling.type", "longrope"),
            Unsupported,
            "longrope",
        ),
        case(
            |m| {
                m.set("bitnet.rope.scaling.type", "yarn");
                m.set("bitnet.rope.scaling.factor", 0.5f32);
            },
            Unsupported,
            "bitnet.rope.scaling.factor",
        ),
        case(
            |m| m.set("bitnet.rope.scaling.attn_factor", 0f32),
            BadFile,
            "bitnet.rope.scaling.attn_factor",
        ),
        case(
            |m| m.set("bitnet.attention.sliding_window", 32u32),
            Unsupported,
            "bitnet.attention.sliding_window",
        ),
        case(
            |m| m.set("bitnet.attention.value_length", 16u32),
            Unsupported,
            "value_length",
        ),
        case(
            |m| m.set("bitnet.attention.head_count_kv", 3u32),
            BadFile,
            "key/value heads",
        ),
        case(
            |m| m.set("bitnet.attention.head_count_kv", 0u32),
            BadFile,
            "head_count_kv",
        ),
        case(
            |m| m.set("bitnet.attention.head_count", 7u32),
            BadFile,
            "heads",
        ),
        case(
            |m| m.set("bitnet.block_count", "two"),
            BadFile,
            "bitnet.block_count",
        ),
        case(
            |m| m.metadata.retain(|(k, _)| k != "bitnet.embedding_length"),
            BadFile,
            "bitnet.embedding_length",
        ),
        case(
            |m| {
                let tokens: StringArray = (0..N_VOCAB - 1).map(|i| i.to_string()).collect();
                m.set("tokenizer.ggml.tokens", Value::Array(Array::Str(tokens)));
            },
            BadFile,
            "40 rows for 39 tokens",
        ),
        case(
            |m| {
                m.tensors.retain(|t| t.name != "token_embd.weight");
                m.matrix("token_embd.weight", N_VOCAB, N_EMBD, TensorType::I2_S);
            },
            Unsupported,
            "token_embd.weight",
        ),
        case(
            |m| {
                m.tensors.retain(|t| t.name != "blk.0.attn_norm.weight");
                m.matrix("blk.0.attn_norm.weight", 1, N_EMBD, TensorType::Q8_0);
                m.tensor("blk.0.attn_norm.weight").shape.pop();
            },
            Unsupported,
            "blk.0.attn_norm.weight",
        ),
        case(
            |m| m.matrix("output.weight", N_VOCAB, N_EMBD, TensorType::F16),
            MissingTensor,
            "output.weight",
        ),
    ];
    for Case {
        break_it,
        kind,
        names,
    } in cases
    {
        let mut model = Synthetic::new(&SPECS[0]);
        break_it(&mut model);
        let error = model.load().unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), kind, "{text}");
        assert!(text.contains(names), "{text} names no {names}");
        assert!(text.contains("synthetic.gguf"), "{text}");
    }
}

#[test]
fn linear_rope_scaling_divides_the_angles() {
    let mut model = Synthetic::new(&SPECS[0]);
    model.set("bitnet.rope.scaling.type", "linear");
    model.set("bitnet.rope.scaling.factor", 4f32);
    assert_eq!(model.load().unwrap().hyperparameters().rope_scale, 0.25);
    // Read only where something is scaled.
    model.set("bitnet.rope.scaling.type", "none");
    model.set("bitnet.rope.scaling.factor", f32::NAN);
    assert_eq!(model.load().unwrap().hyperparameters().rope_scale, 1.0);
}

#[test]
fn yarn_extends_the_context_of_the_training_unless_the_file_names_another() {
    let mut model = Synthetic::new(&SPECS[0]);
    model.set("bitnet.rope.scaling.type", "yarn");
    model.set("bitnet.rope.scale_linear", 4f32);
    for (named, want) in [(None, 64), (Some(0u32), 64), (Some(16), 16)] {
        if let Some(named) = named {
            model.set("bitnet.rope.scaling.original_context_length", named);
        }
        let loaded = model.load().unwrap();
        let config = loaded.hyperparameters();
        assert_eq!((config.rope_scale, config.yarn_ctx), (0.25, Some(want)));
    }
}

#[test]
fn facts_are_read() {
    let model = Synthetic::new(&SPECS[1]).load().unwrap();
    let config = model.hyperparameters();
    assert_eq!((config.n_embd, config.n_ff, config.n_layer), (512, 896, 2));
    assert_eq!(
        (config.n_head, config.n_head_kv, config.head_dim),
        (8, 2, 64)
    );
    assert_eq!((config.n_vocab, config.tied_output), (40, false));
    assert_eq!(config.architecture.name(), "bitnet-25");
}
