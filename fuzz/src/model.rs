//! Models small enough to be mutated whole.

use std::path::Path;

use bitnet_model::gguf::{Array, Metadata, TensorType, Value, Writer};

const HEAD: u64 = 4;
const VOCAB: [&str; 12] = [
    "<unk>",
    "<s>",
    "</s>",
    "a",
    "b",
    "ab",
    "\u{2581}a",
    "Ġb",
    "<0x0A>",
    "aba",
    "\u{2581}",
    "Ġ",
];

/// Models of every architecture, of every type of blocks, and one that others are parts of: name, and what [`model`] takes.
pub const MODELS: [(&str, &str, TensorType, u16); 10] = [
    ("qwen3", "qwen3", TensorType::I2_S, 1),
    ("bitnet", "bitnet", TensorType::I2_S, 1),
    ("llama", "llama", TensorType::I2_S, 1),
    ("bitnet-b1.58", "bitnet-b1.58", TensorType::I2_S, 1),
    ("tq1_0", "llama", TensorType::TQ1_0, 1),
    ("tq2_0", "bitnet", TensorType::TQ2_0, 1),
    ("q1_0", "qwen3", TensorType::Q1_0, 1),
    ("q2_0", "llama", TensorType::Q2_0, 1),
    ("q2_0_128", "qwen3", TensorType::Q2_0_128, 1),
    ("first-of-two", "llama", TensorType::I2_S, 2),
];

/// A whole GGUF file: one layer of `architecture`, weights of `ty` and other types, and a vocabulary of 12 tokens. If they
/// are no I2_S, the embeddings are of `ty` too, and a product is scaled by a tensor. It is the first of so many `parts`.
pub fn model(architecture: &str, ty: TensorType, parts: u16) -> Vec<u8> {
    let width = ty.block_len().max(128);
    let mut metadata = Metadata::new(Path::new("seed"));
    let key = |name: &str| format!("{architecture}.{name}");
    let mut put = |key: &str, value: Value| metadata.insert(key, value).expect("a new key");
    put("general.architecture", architecture.into());
    put("general.name", "seed".into());
    if parts > 1 {
        put("split.no", Value::U16(0));
        put("split.count", Value::U16(parts));
        put("split.tensors.count", 16i32.into());
    }
    put(&key("embedding_length"), (width as u32).into());
    put(&key("feed_forward_length"), (width as u32).into());
    put(&key("block_count"), 1u32.into());
    put(&key("attention.head_count"), 2u32.into());
    put(&key("attention.head_count_kv"), 1u32.into());
    put(&key("attention.key_length"), (HEAD as u32).into());
    put(&key("context_length"), 16u32.into());
    put(&key("attention.layer_norm_rms_epsilon"), 1e-5f32.into());
    put(&key("rope.freq_base"), 1e4f32.into());
    for (key, value) in tokenizer_metadata(match architecture {
        "llama" => "llama",
        _ => "gpt2",
    }) {
        put(&key, value);
    }
    let mut writer = Writer::new(metadata).expect("a writer");
    use TensorType::{BF16, F16, F32, I2_S, Q8_0};
    let embedding = if ty == I2_S { Q8_0 } else { ty };
    let vector = |name: &str, n| (name.to_owned(), vec![n], F32);
    let matrix = |name: &str, columns, rows, ty| (name.to_owned(), vec![columns, rows], ty);
    let mut tensors = vec![
        matrix("token_embd.weight", width, VOCAB.len() as u64, embedding),
        vector("output_norm.weight", width),
        vector("blk.0.attn_norm.weight", width),
        vector("blk.0.ffn_norm.weight", width),
        matrix("blk.0.attn_q.weight", width, 2 * HEAD, ty),
        matrix("blk.0.attn_k.weight", width, HEAD, F16),
        matrix("blk.0.attn_v.weight", width, HEAD, BF16),
        matrix("blk.0.attn_output.weight", 2 * HEAD, width, F16),
        matrix("blk.0.ffn_gate.weight", width, width, ty),
        matrix("blk.0.ffn_up.weight", width, width, ty),
        matrix("blk.0.ffn_down.weight", width, width, ty),
    ];
    if ty != I2_S {
        tensors.push(vector("blk.0.ffn_up.scale", 1));
    }
    if architecture == "qwen3" {
        tensors.push(vector("blk.0.attn_q_norm.weight", HEAD));
        tensors.push(vector("blk.0.attn_k_norm.weight", HEAD));
    }
    if architecture.starts_with("bitnet") {
        tensors.push(vector("blk.0.attn_sub_norm.weight", 2 * HEAD));
        tensors.push(vector("blk.0.ffn_sub_norm.weight", width));
    }
    for (name, shape, ty) in &tensors {
        writer.tensor(name, shape, *ty).expect("a tensor");
    }
    let mut file = writer.begin(Vec::new()).expect("a head");
    for (_, shape, ty) in &tensors {
        let data = data(shape.iter().product(), *ty);
        file.write_tensor(|out| out.write_all(&data))
            .expect("written");
    }
    file.finish().expect("complete")
}

/// Weights of no meaning, all finite.
fn data(n: u64, ty: TensorType) -> Vec<u8> {
    let elements = 0..n as usize;
    let value = |i: usize| ((i * 37 % 64) as f32 - 32.0) / 64.0;
    let mut data: Vec<u8> = match ty {
        TensorType::F32 => return elements.flat_map(|i| value(i).to_le_bytes()).collect(),
        // The upper half of a small single is a small half too.
        TensorType::F16 | TensorType::BF16 => {
            return elements
                .flat_map(|i| ((value(i).to_bits() >> 16) as u16 & 0xBFFF).to_le_bytes())
                .collect();
        }
        TensorType::Q8_0 => {
            let block = |b: usize| {
                let codes = (0..32).map(move |i| (b * 11 + i * 7) as u8);
                [0x00, 0x20].into_iter().chain(codes)
            };
            return (0..n as usize / 32).flat_map(block).collect();
        }
        TensorType::I2_S => (0..n / 4)
            .map(|i| [0x19, 0x84, 0x52][i as usize % 3])
            .collect(),
        blocks => return self::blocks(n, blocks),
    };
    data.extend_from_slice(&0.5f32.to_le_bytes());
    data.resize(data.len() + 28, 0);
    data
}

/// Blocks of codes, each with an F16 scale, 2^-7 and more.
fn blocks(n: u64, ty: TensorType) -> Vec<u8> {
    let bytes = ty.block_bytes() as usize;
    let scale = match ty {
        TensorType::TQ1_0 | TensorType::TQ2_0 => bytes - 2,
        _ => 0,
    };
    let mut data: Vec<u8> = (0..(n / ty.block_len()) as usize * bytes)
        .map(|i| [0x19, 0x84, 0x52][i % 3])
        .collect();
    for block in data.chunks_exact_mut(bytes) {
        block[scale..scale + 2].copy_from_slice(&[0x00, 0x20]);
    }
    data
}

/// The keys of a vocabulary of 12 tokens for a tokenizer (`llama`, `gpt2`, `bert`).
pub fn tokenizer_metadata(tokenizer: &str) -> Vec<(String, Value)> {
    let strings = |list: &[&str]| Value::Array(Array::Str(list.iter().collect()));
    let types = [2, 3, 3, 1, 1, 1, 1, 1, 6, 1, 1, 4];
    let types: Vec<i32> = match tokenizer {
        "llama" => types.to_vec(),
        _ => types.map(|t| if t == 6 { 1 } else { t }).to_vec(),
    };
    let mut keys = vec![
        ("model", Value::from(tokenizer)),
        ("tokens", strings(&VOCAB)),
        ("token_type", Array::I32(types).into()),
        ("bos_token_id", 1u32.into()),
        ("eos_token_id", 2u32.into()),
        ("unknown_token_id", 0u32.into()),
    ];
    match tokenizer {
        "llama" => {
            let scores = (0..12).map(|i| -(i as f32)).collect();
            keys.push(("scores", Array::F32(scores).into()));
        }
        "gpt2" => {
            keys.push(("pre", "llama-bpe".into()));
            keys.push(("merges", strings(&["a b", "ab a", "Ġ b"])));
        }
        _ => {}
    }
    keys.into_iter()
        .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
        .collect()
}
