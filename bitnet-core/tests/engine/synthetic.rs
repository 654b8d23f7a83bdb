//! Random models, with the values of their weights in f64 beside the encoded bytes.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::Error;
use bitnet_core::blocks::{i2_s, tq1_0, tq2_0};
use bitnet_core::gguf::{Array, Gguf, Metadata, StringArray, TensorType, Value, Writer};
use bitnet_core::model::Model;
use bitnet_model::random::Rng;
use half::{bf16, f16};

/// A whole block of what a compact head of 7 bits has.
pub const N_EMBD: u64 = 512;
/// Long enough for rows that are repacked for decoding, where the kernel prefers it.
pub const N_FF: u64 = 896;
pub const N_HEAD: u64 = 8;
pub const N_HEAD_KV: u64 = 2;
pub const HEAD_DIM: u64 = 64;
pub const N_VOCAB: u64 = 40;
pub const N_LAYER: usize = 2;

pub struct Tensor {
    pub name: String,
    pub shape: Vec<u64>,
    pub ty: TensorType,
    pub bytes: Vec<u8>,
    /// What the bytes mean.
    pub values: Vec<f64>,
}

/// A model file to be, open to changes.
pub struct Synthetic {
    pub metadata: Vec<(String, Value)>,
    pub tensors: Vec<Tensor>,
    rng: Rng,
}

/// Types of the matrices in the layers and of the embedding, and whether there are biases, scales, frequency factors,
/// an output matrix, YaRN, and keys of another type than the rest.
pub struct Spec {
    pub architecture: &'static str,
    pub matrices: TensorType,
    pub embedding: TensorType,
    pub extras: bool,
}

/// Every architecture, and every tensor type where it may stand.
pub const SPECS: [Spec; 12] = [
    spec("bitnet", TensorType::I2_S, TensorType::F16, false),
    spec("bitnet-25", TensorType::I2_S, TensorType::F32, true),
    spec("bitnet-b1.58", TensorType::I2_S, TensorType::Q6_K, true),
    spec("llama", TensorType::F32, TensorType::BF16, true),
    spec("llama", TensorType::Q8_0, TensorType::Q8_0, false),
    spec("bitnet", TensorType::F16, TensorType::F16, true),
    spec("bitnet", TensorType::TQ1_0, TensorType::TQ2_0, true),
    spec("llama", TensorType::TQ2_0, TensorType::TQ1_0, false),
    spec("llama", TensorType::Q1_0, TensorType::Q1_0, false),
    spec("llama", TensorType::Q2_0, TensorType::Q2_0, false),
    spec(
        "bitnet-b1.58",
        TensorType::Q2_0_128,
        TensorType::Q2_0_128,
        true,
    ),
    spec("qwen3", TensorType::I2_S, TensorType::F16, false),
];

impl Spec {
    /// Of a matrix in a layer.
    pub fn type_of(&self, part: &str) -> TensorType {
        match part {
            "attn_k" if self.extras => self.embedding,
            // Its rows are no whole blocks of 256.
            "ffn_down" if !N_FF.is_multiple_of(self.matrices.block_len()) => TensorType::F16,
            _ => self.matrices,
        }
    }
}

const fn spec(
    architecture: &'static str,
    matrices: TensorType,
    embedding: TensorType,
    extras: bool,
) -> Spec {
    Spec {
        architecture,
        matrices,
        embedding,
        extras,
    }
}

impl Synthetic {
    pub fn new(spec: &Spec) -> Self {
        let Spec {
            architecture: name,
            embedding,
            extras,
            ..
        } = *spec;
        let mut new = Self {
            metadata: Vec::new(),
            tensors: Vec::new(),
            rng: Rng::new(5, "engine"),
        };
        let tokens: StringArray = (0..N_VOCAB).map(|i| format!("t{i}")).collect();
        for (key, value) in [
            ("context_length", 64),
            ("embedding_length", N_EMBD as u32),
            ("block_count", N_LAYER as u32),
            ("feed_forward_length", N_FF as u32),
            ("attention.head_count", N_HEAD as u32),
            ("attention.head_count_kv", N_HEAD_KV as u32),
        ] {
            new.set(&format!("{name}.{key}"), value);
        }
        new.set(&format!("{name}.attention.layer_norm_rms_epsilon"), 1e-5f32);
        new.set(&format!("{name}.rope.freq_base"), 5000f32);
        new.set("general.architecture", name);
        if extras && name == "llama" {
            new.set("llama.rope.scaling.type", "yarn");
            new.set("llama.rope.scaling.factor", 8f32);
            new.set("llama.rope.scaling.attn_factor", 1.25f32);
        }
        new.set("tokenizer.ggml.tokens", Array::Str(tokens));

        let bitnet = name.starts_with("bitnet");
        new.matrix("token_embd.weight", N_VOCAB, N_EMBD, embedding);
        new.vector("output_norm.weight", N_EMBD, 1.0);
        if extras {
            new.vector("rope_freqs.weight", HEAD_DIM / 2, 2.0);
            if name != "bitnet" {
                new.matrix("output.weight", N_VOCAB, N_EMBD, embedding);
            }
        }
        for layer in 0..N_LAYER {
            let kv = N_HEAD_KV * HEAD_DIM;
            for (part, rows, columns) in [
                ("attn_q", N_EMBD, N_EMBD),
                ("attn_k", kv, N_EMBD),
                ("attn_v", kv, N_EMBD),
                ("attn_output", N_EMBD, N_EMBD),
                ("ffn_gate", N_FF, N_EMBD),
                ("ffn_up", N_FF, N_EMBD),
                ("ffn_down", N_EMBD, N_FF),
            ] {
                let name = format!("blk.{layer}.{part}");
                new.matrix(&format!("{name}.weight"), rows, columns, spec.type_of(part));
                if extras {
                    new.vector(&format!("{name}.bias"), rows, 0.1);
                    new.vector(&format!("{name}.scale"), 1, 1.5);
                }
            }
            for (part, n, due) in [
                ("attn_norm", N_EMBD, true),
                ("ffn_norm", N_EMBD, true),
                ("attn_q_norm", HEAD_DIM, name == "qwen3"),
                ("attn_k_norm", HEAD_DIM, name == "qwen3"),
                ("attn_sub_norm", N_EMBD, bitnet),
                ("ffn_sub_norm", N_FF, bitnet),
            ] {
                if due {
                    let name = format!("blk.{layer}.{part}.weight");
                    new.vector(&name, n, 1.0);
                    // Whatever is not quantised, as newer converters write it.
                    if spec.matrices == TensorType::F16 {
                        new.halve(&name);
                    }
                }
            }
        }
        new
    }

    pub fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.metadata.retain(|(k, _)| k != key);
        self.metadata.push((key.to_owned(), value.into()));
    }

    pub fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    pub fn values(&self) -> HashMap<String, Vec<f64>> {
        let pair = |t: &Tensor| (t.name.clone(), t.values.clone());
        self.tensors.iter().map(pair).collect()
    }

    /// A vector of F32 around `size`.
    fn vector(&mut self, name: &str, n: u64, size: f32) {
        let values: Vec<f32> = (0..n)
            .map(|_| size * (0.5 + self.rng.unit() as f32))
            .collect();
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: vec![n],
            ty: TensorType::F32,
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            values: values.into_iter().map(f64::from).collect(),
        });
    }

    /// Makes a vector one of F16.
    fn halve(&mut self, name: &str) {
        let tensor = self.tensor(name);
        let halves = tensor.values.iter().map(|&v| f16::from_f32(v as f32));
        let halves: Vec<f16> = halves.collect();
        tensor.ty = TensorType::F16;
        tensor.bytes = halves.iter().flat_map(|v| v.to_le_bytes()).collect();
        tensor.values = halves.into_iter().map(f64::from).collect();
    }

    pub fn matrix(&mut self, name: &str, rows: u64, columns: u64, ty: TensorType) {
        let (bytes, values) = self.encode((rows * columns) as usize, ty);
        self.tensors.push(Tensor {
            name: name.to_owned(),
            shape: vec![columns, rows],
            ty,
            bytes,
            values,
        });
    }

    fn encode(&mut self, n: usize, ty: TensorType) -> (Vec<u8>, Vec<f64>) {
        let rng = &mut self.rng;
        let (mut bytes, mut values) = (Vec::new(), Vec::new());
        match ty {
            TensorType::I2_S => {
                let scale = 0.07f32;
                let codes: Vec<i8> = (0..n).map(|_| rng.below(3) as i8 - 1).collect();
                bytes.extend(codes.as_chunks().0.iter().flat_map(i2_s::pack_block));
                bytes.extend(scale.to_le_bytes());
                bytes.extend([0; 28]);
                values.extend(codes.iter().map(|&c| f64::from(c) * f64::from(scale)));
            }
            TensorType::TQ1_0 | TensorType::TQ2_0 => {
                for _ in 0..n / 256 {
                    let d = f16::from_f32(0.04 + 0.06 * rng.unit() as f32);
                    let block: [i8; 256] = std::array::from_fn(|_| rng.below(3) as i8 - 1);
                    match ty {
                        TensorType::TQ1_0 => bytes.extend(tq1_0::pack_block(&block, d)),
                        _ => bytes.extend(tq2_0::pack_block(&block, d)),
                    }
                    values.extend(block.map(|v| f64::from(v) * f64::from(d)));
                }
            }
            TensorType::Q8_0 => {
                for _ in 0..n / 32 {
                    let d = f16::from_f32(0.0004 + 0.0006 * rng.unit() as f32);
                    bytes.extend(d.to_le_bytes());
                    for _ in 0..32 {
                        let q = rng.next_u64() as i8;
                        bytes.push(q as u8);
                        values.push(f64::from(d) * f64::from(q));
                    }
                }
            }
            TensorType::Q1_0 => {
                for _ in 0..n / 128 {
                    let d = f16::from_f32(0.03 + 0.03 * rng.unit() as f32);
                    bytes.extend(d.to_le_bytes());
                    let signs: Vec<bool> = (0..128).map(|_| rng.below(2) == 1).collect();
                    for eight in signs.chunks(8) {
                        let bits = eight.iter().rev();
                        bytes.push(bits.fold(0, |byte, &plus| byte << 1 | u8::from(plus)));
                    }
                    let weight = |plus| f64::from(d) * if plus { 1.0 } else { -1.0 };
                    values.extend(signs.into_iter().map(weight));
                }
            }
            TensorType::Q2_0 | TensorType::Q2_0_128 => {
                let block = ty.block_len() as usize;
                for _ in 0..n / block {
                    let d = f16::from_f32(0.02 + 0.02 * rng.unit() as f32);
                    bytes.extend(d.to_le_bytes());
                    let weights: Vec<i8> = (0..block).map(|_| rng.below(4) as i8 - 1).collect();
                    for four in weights.chunks(4) {
                        let codes = four.iter().rev().map(|&w| (w + 1) as u8);
                        bytes.push(codes.fold(0, |byte, code| byte << 2 | code));
                    }
                    values.extend(weights.iter().map(|&w| f64::from(d) * f64::from(w)));
                }
            }
            TensorType::Q6_K => {
                for _ in 0..n / 256 {
                    let d = f16::from_f32(0.0001 + 0.0002 * rng.unit() as f32);
                    let q: Vec<u8> = (0..256).map(|_| rng.below(64) as u8).collect();
                    let scales: Vec<i8> = (0..16).map(|_| rng.below(120) as i8 - 60).collect();
                    let (mut low, mut high) = ([0u8; 128], [0u8; 64]);
                    for (i, q) in q.iter().enumerate() {
                        let (half, l) = (i / 128, i % 32);
                        let quarter = i % 128 / 32;
                        low[half * 64 + quarter % 2 * 32 + l] |= (q & 15) << (quarter / 2 * 4);
                        high[half * 32 + l] |= (q >> 4) << (quarter * 2);
                        let scale = f64::from(scales[i / 16]);
                        values.push(f64::from(d) * scale * (f64::from(*q) - 32.0));
                    }
                    bytes.extend(low.iter().chain(&high));
                    bytes.extend(scales.iter().map(|&s| s as u8));
                    bytes.extend(d.to_le_bytes());
                }
            }
            _ => {
                for _ in 0..n {
                    let v = 0.2 * rng.unit() as f32 - 0.1;
                    let value = match ty {
                        TensorType::F32 => {
                            bytes.extend(v.to_le_bytes());
                            v
                        }
                        TensorType::F16 => {
                            bytes.extend(f16::from_f32(v).to_le_bytes());
                            f16::from_f32(v).to_f32()
                        }
                        TensorType::BF16 => {
                            bytes.extend(bf16::from_f32(v).to_le_bytes());
                            bf16::from_f32(v).to_f32()
                        }
                        other => unreachable!("{other}"),
                    };
                    values.push(f64::from(value));
                }
            }
        }
        (bytes, values)
    }

    pub fn write(&self, path: &Path) {
        let mut metadata = Metadata::new(path);
        for (key, value) in &self.metadata {
            metadata.insert(key, value.clone()).unwrap();
        }
        let mut writer = Writer::new(metadata).unwrap();
        for t in &self.tensors {
            writer.tensor(&t.name, &t.shape, t.ty).unwrap();
        }
        let mut writer = writer.begin(std::fs::File::create(path).unwrap()).unwrap();
        for t in &self.tensors {
            writer.write_tensor(|out| out.write_all(&t.bytes)).unwrap();
        }
        writer.finish().unwrap();
    }

    pub fn load(&self) -> Result<Model, Error> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("synthetic.gguf");
        self.write(&path);
        // The map outlives the folder.
        Model::load(Arc::new(Gguf::open(&path)?))
    }
}
