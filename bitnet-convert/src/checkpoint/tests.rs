//! The bundled model as a checkpoint, in every form that is read, and back.

use std::collections::HashMap;

use bitnet_model::gguf::{Array, FromValue, StringArray};
use safetensors::tensor::TensorView;
use serde_json::json;

use super::*;
use crate::convert::convert;
use crate::diff::{Diff, diff};

fn tiny() -> Gguf {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf");
    Gguf::open(Path::new(path)).unwrap()
}

fn get<'a, T: FromValue<'a>>(gguf: &'a Gguf, key: &str) -> T {
    gguf.metadata().required(key).unwrap()
}

/// How the matrices of the layers are written.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// Codes, and a scale of this type that multiplies.
    Packed(Dtype),
    /// Codes, and a scale that divides.
    Divided,
    /// Floats that round to the codes.
    Master,
}

/// The bundled model in a folder.
fn checkpoint(form: Form, shards: usize, config: serde_json::Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), form, shards, config);
    folder
}

fn write(folder: &Path, form: Form, shards: usize, config: serde_json::Value) {
    let gguf = tiny();
    let mut all: Vec<(String, Dtype, Vec<usize>, Vec<u8>)> = Vec::new();
    for info in gguf.tensors() {
        let weights = gguf.weights(info).unwrap().unwrap();
        let name = hugging_face(&info.name);
        let shape: Vec<usize> = info.shape.iter().rev().map(|&n| n as usize).collect();
        if info.ty != TensorType::I2_S {
            let dtype = match info.ty {
                TensorType::F16 => Dtype::F16,
                _ => Dtype::F32,
            };
            all.push((name, dtype, shape, gguf.data(info).unwrap().to_vec()));
            continue;
        }
        let mut codes = Vec::new();
        weights.for_each_row(|_, row| codes.extend(row.iter().map(|v| *v as i8)));
        let scale = weights.scale();
        if form == Form::Master {
            // The mean of the magnitudes is the scale, and some are far from a level.
            let nonzero = codes.iter().filter(|c| **c != 0).count();
            let level = scale * codes.len() as f32 / nonzero as f32;
            let values = codes
                .iter()
                .flat_map(|c| bf16::from_f32(f32::from(*c) * level).to_le_bytes());
            all.push((name, Dtype::BF16, shape, values.collect()));
            continue;
        }
        let (quarter, columns) = (shape[0] / 4, shape[1]);
        let code = |r: usize, c: usize| (codes[r * columns + c] + 1) as u8;
        let packed = (0..quarter * columns).map(|i| {
            let (r, c) = (i / columns, i % columns);
            (0..4).map(|k| code(k * quarter + r, c) << (2 * k)).sum()
        });
        all.push((
            name.clone(),
            Dtype::U8,
            vec![quarter, columns],
            packed.collect(),
        ));
        let scale = if form == Form::Divided {
            1.0 / scale
        } else {
            scale
        };
        let (dtype, bytes) = match form {
            Form::Packed(Dtype::BF16) => {
                (Dtype::BF16, bf16::from_f32(scale).to_le_bytes().to_vec())
            }
            _ => (Dtype::F32, scale.to_le_bytes().to_vec()),
        };
        all.push((format!("{name}_scale"), dtype, vec![1], bytes));
    }
    let mut map = HashMap::new();
    for (i, part) in all.chunks(all.len().div_ceil(shards)).enumerate() {
        let file = match shards {
            1 => "model.safetensors".to_owned(),
            n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
        };
        let views = part.iter().map(|(name, dtype, shape, data)| {
            map.insert(name.clone(), file.clone());
            (
                name.clone(),
                TensorView::new(*dtype, shape.clone(), data).unwrap(),
            )
        });
        let bytes = safetensors::serialize(views, None).unwrap();
        std::fs::write(folder.join(&file), bytes).unwrap();
    }
    let write = |name: &str, value: &serde_json::Value| {
        std::fs::write(folder.join(name), format!("{value:#}\n")).unwrap();
    };
    if shards > 1 {
        write("model.safetensors.index.json", &json!({"weight_map": map}));
    }
    let mut of_model = json!({
        "architectures": ["BitNetForCausalLM"],
        "vocab_size": 512, "hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "relu2", "tie_word_embeddings": true,
        "bos_token_id": 1, "eos_token_id": [2],
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": if form == Form::Divided { "bitlinear" } else { "autobitlinear" },
            "quantization_mode": if form == Form::Master { "online" } else { "offline" },
        },
    });
    for (key, value) in config.as_object().unwrap() {
        of_model[key] = value.clone();
    }
    write("config.json", &of_model);
    write(
        "tokenizer_config.json",
        &json!({"unk_token": "<unk>", "add_bos_token": true, "add_eos_token": false}),
    );
    std::fs::write(folder.join("tokenizer.model"), sentencepiece(&gguf)).unwrap();
}

/// The checkpoint beside the bundled model.
const COMMITTED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet-packed");

/// `cargo test -p bitnet-convert -- --ignored` writes it again.
#[test]
#[ignore = "writes into assets/"]
fn write_the_checkpoint_of_the_assets() {
    write(Path::new(COMMITTED), Form::Packed(Dtype::F32), 1, json!({}));
}

#[test]
fn the_checkpoint_of_the_assets_is_the_bundled_model() {
    let gguf = converted(Path::new(COMMITTED), TensorType::I2_S);
    let diff = diff(&tiny(), &gguf, |_| true).unwrap();
    assert_eq!(different(&diff), []);
    assert_eq!(diff.equal_tensors, tiny().tensors().len());
}

fn hugging_face(name: &str) -> String {
    let parts: Vec<&str> = name.split('.').collect();
    let module = |part: &str| {
        match part {
            "attn_norm" => "input_layernorm",
            "attn_q" => "self_attn.q_proj",
            "attn_k" => "self_attn.k_proj",
            "attn_v" => "self_attn.v_proj",
            "attn_output" => "self_attn.o_proj",
            "attn_sub_norm" => "self_attn.attn_sub_norm",
            "ffn_norm" => "post_attention_layernorm",
            "ffn_gate" => "mlp.gate_proj",
            "ffn_up" => "mlp.up_proj",
            "ffn_down" => "mlp.down_proj",
            "ffn_sub_norm" => "mlp.ffn_sub_norm",
            other => panic!("{other}"),
        }
        .to_owned()
    };
    match parts[..] {
        ["token_embd", _] => "model.embed_tokens.weight".to_owned(),
        ["output_norm", _] => "model.norm.weight".to_owned(),
        ["blk", layer, part, kind] => format!("model.layers.{layer}.{}.{kind}", module(part)),
        _ => panic!("{name}"),
    }
}

/// The vocabulary as SentencePiece has it.
fn sentencepiece(gguf: &Gguf) -> Vec<u8> {
    let texts: &StringArray = get(gguf, "tokenizer.ggml.tokens");
    let scores: &[f32] = get(gguf, "tokenizer.ggml.scores");
    let kinds: &[i32] = get(gguf, "tokenizer.ggml.token_type");
    let mut out = Vec::new();
    for ((text, score), kind) in texts.iter().zip(scores).zip(kinds) {
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend(text);
        piece.push(0x15);
        piece.extend(score.to_le_bytes());
        piece.extend([0x18, *kind as u8]);
        out.extend([0x0a, piece.len() as u8]);
        out.extend(piece);
    }
    out
}

fn converted(folder: &Path, ty: TensorType) -> Gguf {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let mut bytes = Vec::new();
    let path = Path::new("memory.gguf");
    convert(&checkpoint, ty, path, &mut bytes, |_| true).unwrap();
    let gguf = Gguf::from_bytes(path, bytes).unwrap();
    let own = diff(&checkpoint, &gguf, |_| true).unwrap();
    assert!(own.is_same(), "{:?} {:?}", own.keys, own.tensors);
    gguf
}

fn different(diff: &Diff) -> Vec<(&str, &str)> {
    let keys = diff
        .keys
        .iter()
        .filter(|k| k.matters)
        .map(|k| (k.key.as_str(), "key"));
    let tensors = diff.tensors.iter().filter(|t| !t.findings.is_empty());
    keys.chain(tensors.map(|t| (t.name.as_str(), t.findings[0].id)))
        .collect()
}

/// The bundled file does not name its activation, the checkpoint does.
const NAMED: (&str, &str) = ("bitnet-b1.58.hidden_activation", "key");

#[test]
fn packed_weights_come_back_to_the_bit() {
    for (form, shards) in [(Form::Packed(Dtype::F32), 1), (Form::Packed(Dtype::F32), 3)] {
        let folder = checkpoint(form, shards, json!({}));
        let gguf = converted(folder.path(), TensorType::I2_S);
        let diff = diff(&tiny(), &gguf, |_| true).unwrap();
        assert_eq!(different(&diff), []);
        assert_eq!(diff.equal_tensors, tiny().tensors().len());
        let says: &str = get(&gguf, NAMED.0);
        assert_eq!(says, "relu2");
    }
}

#[test]
fn scales_that_divide_come_back_but_for_their_rounding() {
    let folder = checkpoint(Form::Divided, 1, json!({}));
    let back = diff(&tiny(), &converted(folder.path(), TensorType::I2_S), |_| {
        true
    })
    .unwrap();
    for tensor in &back.tensors {
        assert_eq!(tensor.equal_codes, Some(1.0));
        let factor = tensor.factor.unwrap();
        assert!((factor - 1.0).abs() < 2e-7, "{factor}");
    }
    // Taken for one that multiplies.
    let multiplied =
        json!({"quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear"}});
    let folder = checkpoint(Form::Divided, 1, multiplied);
    let wrong = diff(&tiny(), &converted(folder.path(), TensorType::I2_S), |_| {
        true
    })
    .unwrap();
    assert_eq!(wrong.tensors.len(), 42);
    assert!(
        wrong
            .tensors
            .iter()
            .all(|t| t.findings[0].id == "scaled-inverse")
    );
}

#[test]
fn scales_in_bf16_are_said_to_be_others() {
    let folder = checkpoint(Form::Packed(Dtype::BF16), 1, json!({}));
    let back = diff(&tiny(), &converted(folder.path(), TensorType::I2_S), |_| {
        true
    })
    .unwrap();
    assert!(!back.is_same());
    for tensor in &back.tensors {
        assert_eq!(
            (tensor.equal_codes, tensor.findings[0].id),
            (Some(1.0), "scaled")
        );
        let factor = tensor.factor.unwrap();
        assert!((factor - 1.0).abs() < 0.004, "{factor}");
    }
}

#[test]
fn master_weights_are_rounded_to_the_codes() {
    let folder = checkpoint(Form::Master, 1, json!({}));
    for ty in [TensorType::I2_S, TensorType::F32] {
        let gguf = converted(folder.path(), ty);
        let back = diff(&tiny(), &gguf, |_| true).unwrap();
        let ternary = back.tensors.iter().filter_map(|t| t.equal_codes);
        assert!(ternary.into_iter().all(|share| share == 1.0), "{ty}");
        for tensor in back.tensors.iter().filter(|t| t.equal_codes.is_some()) {
            let factor = tensor.factor.unwrap();
            assert!((factor - 1.0).abs() < 0.004, "{ty} {factor}");
        }
    }
}

#[test]
fn halves_are_interleaved_for_llama() {
    let llama = json!({"architectures": ["LlamaForCausalLM"], "hidden_act": "silu"});
    let folder = checkpoint(Form::Packed(Dtype::F32), 1, llama);
    let gguf = converted(folder.path(), TensorType::I2_S);
    let back = diff(&tiny(), &gguf, |_| true).unwrap();
    let moved: Vec<_> = back
        .tensors
        .iter()
        .map(|t| (t.name.as_str(), t.findings[0].id))
        .collect();
    assert_eq!(moved.len(), 12);
    assert!(
        moved.iter().all(|(name, id)| *id == "rope-order"
            && (name.contains("attn_q") || name.contains("attn_k")))
    );
}

#[test]
fn what_is_missing_or_unknown_is_named() {
    let folder = checkpoint(Form::Packed(Dtype::F32), 1, json!({}));
    let config = folder.path().join("config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    for (from, to, says) in [
        (
            "\"hidden_act\":\"relu2\"",
            "\"hidden_act\":\"gelu\"",
            "hidden_act \"gelu\" is not supported",
        ),
        ("\"hidden_size\"", "\"other\"", "\"hidden_size\" is missing"),
        (
            "BitNetForCausalLM",
            "MambaForCausalLM",
            "\"MambaForCausalLM\" is not supported",
        ),
        ("\"bitnet\"", "\"gptq\"", "\"gptq\" is not supported"),
        (
            "\"num_hidden_layers\":6",
            "\"num_hidden_layers\":\"six\"",
            "\"num_hidden_layers\" is no whole number",
        ),
    ] {
        let spoilt = text.replace(&from.replace("\":", "\": "), to);
        assert_ne!(spoilt, text, "{from}");
        std::fs::write(&config, spoilt).unwrap();
        let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains(says) && error.contains("config.json"),
            "{error}"
        );
    }
    std::fs::write(&config, text).unwrap();
    std::fs::write(folder.path().join("model.safetensors"), [0; 64]).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("no safetensors"), "{error}");
    std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    let error = Checkpoint::open(folder.path()).unwrap_err().to_string();
    assert!(error.contains("there is no file of safetensors"), "{error}");
}

#[test]
fn a_byte_level_vocabulary_is_read() {
    let folder = checkpoint(
        Form::Packed(Dtype::F32),
        1,
        json!({"vocab_size": 8, "bos_token_id": 5, "eos_token_id": 6}),
    );
    std::fs::remove_file(folder.path().join("tokenizer.model")).unwrap();
    let tokenizer = json!({
        "added_tokens": [
            {"id": 5, "content": "<s>", "special": true},
            {"id": 6, "content": "<tool>", "special": false},
        ],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"}},
            {"type": "ByteLevel", "use_regex": false},
        ]},
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4}, "merges": [["a", "b"], ["ab", "c"]]},
    });
    std::fs::write(folder.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
    let settings = json!({"bos_token": {"content": "<s>"}, "chat_template": [{"name": "default", "template": "{{ x }}"}]});
    std::fs::write(
        folder.path().join("tokenizer_config.json"),
        settings.to_string(),
    )
    .unwrap();
    let checkpoint = Checkpoint::open(folder.path()).unwrap();
    let metadata = checkpoint.metadata();
    let texts: &StringArray = metadata.required("tokenizer.ggml.tokens").unwrap();
    let texts: Vec<_> = texts.iter().map(String::from_utf8_lossy).collect();
    assert_eq!(
        texts,
        ["a", "b", "c", "ab", "abc", "<s>", "<tool>", "[PAD7]"]
    );
    assert_eq!(
        metadata.get("tokenizer.ggml.token_type"),
        Some(&Array::I32(vec![1, 1, 1, 1, 1, 3, 4, 5]).into())
    );
    assert_eq!(metadata.str("tokenizer.ggml.pre").unwrap(), "qwen2");
    assert_eq!(metadata.u32("tokenizer.ggml.bos_token_id").unwrap(), 5);
    assert!(metadata.bool("tokenizer.ggml.add_bos_token").unwrap());
    assert!(!metadata.bool("tokenizer.ggml.add_eos_token").unwrap());
    assert_eq!(metadata.str("tokenizer.chat_template").unwrap(), "{{ x }}");
    let merges: &StringArray = metadata.required("tokenizer.ggml.merges").unwrap();
    assert_eq!(merges.get(1), Some(b"ab c".as_slice()));
}
