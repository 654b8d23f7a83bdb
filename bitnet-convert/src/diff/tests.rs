//! Models that a converter got wrong, each in one way, against what they were made from.

use std::path::Path;

use bitnet_model::gguf::{Array, Gguf, Metadata, StringArray, TensorType, Value, Writer};
use bitnet_model::packing::{OTHERS, Packing};
use half::f16;

use super::*;

const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/tiny-bitnet.gguf");

/// A model in memory.
#[derive(Clone)]
struct Model {
    keys: Vec<(String, Value)>,
    tensors: Vec<Tensor>,
}

#[derive(Clone)]
struct Tensor {
    name: String,
    shape: Vec<u64>,
    ty: TensorType,
    data: Vec<u8>,
}

impl Model {
    /// The bundled one.
    fn tiny() -> Model {
        let gguf = Gguf::open(Path::new(TINY)).unwrap();
        let keys = gguf.metadata().iter();
        let tensors = gguf.tensors().iter().map(|info| Tensor {
            name: info.name.clone(),
            shape: info.shape.clone(),
            ty: info.ty,
            data: gguf.data(info).unwrap().to_vec(),
        });
        Model {
            keys: keys.map(|(k, v)| (k.to_owned(), v.clone())).collect(),
            tensors: tensors.collect(),
        }
    }

    fn gguf(&self) -> Gguf {
        let path = Path::new("memory.gguf");
        let mut metadata = Metadata::new(path);
        for (key, value) in &self.keys {
            metadata.insert(key, value.clone()).unwrap();
        }
        let mut writer = Writer::new(metadata).unwrap();
        for t in &self.tensors {
            writer.tensor(&t.name, &t.shape, t.ty).unwrap();
        }
        let mut writer = writer.begin(Vec::new()).unwrap();
        for t in &self.tensors {
            writer.write_tensor(|out| out.write_all(&t.data)).unwrap();
        }
        Gguf::from_bytes(path, writer.finish().unwrap()).unwrap()
    }

    fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|t| t.name == name).unwrap()
    }

    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.keys.retain(|(k, _)| k != key);
        self.keys.push((key.to_owned(), value.into()));
    }

    fn exchange(&mut self, a: &str, b: &str) {
        let data = self.tensor(a).data.clone();
        let other = std::mem::replace(&mut self.tensor(b).data, data);
        self.tensor(a).data = other;
    }
}

impl Tensor {
    fn columns(&self) -> usize {
        self.shape[0] as usize
    }

    /// The codes of an I2_S tensor, row by row.
    fn codes(&self) -> Vec<i8> {
        let n = self.shape.iter().product::<u64>() as usize;
        let mut codes = vec![0.0; n];
        bitnet_core::quant::dequantize_row(TensorType::I2_S, &self.data[..n / 4], &mut codes);
        codes.iter().map(|code| *code as i8).collect()
    }

    fn scale(&mut self) -> &mut [u8] {
        let at = self.data.len() - 32;
        &mut self.data[at..at + 4]
    }

    fn scale_value(&self) -> f32 {
        let at = self.data.len() - 32;
        f32::from_le_bytes(self.data[at..at + 4].try_into().unwrap())
    }

    /// Packs other codes.
    fn set_codes(&mut self, codes: &[i8]) {
        let mut bytes = Vec::new();
        crate::encode::codes(codes, TensorType::I2_S, f16::ONE, &mut bytes).unwrap();
        self.data[..bytes.len()].copy_from_slice(&bytes);
    }

    fn map_rows(&mut self, from: impl Fn(usize) -> usize) {
        let (codes, columns) = (self.codes(), self.columns());
        let rows = (0..codes.len() / columns).flat_map(|r| &codes[from(r) * columns..][..columns]);
        let moved: Vec<i8> = rows.copied().collect();
        self.set_codes(&moved);
    }

    fn map_codes(&mut self, to: impl Fn(i8) -> i8) {
        let codes: Vec<i8> = self.codes().into_iter().map(to).collect();
        self.set_codes(&codes);
    }

    /// The same weights in F16, times a factor for each row.
    fn turn_to_f16(&mut self, of_row: impl Fn(usize) -> f32) {
        let (scale, columns) = (self.scale_value(), self.columns());
        let codes = self.codes();
        let values = codes.iter().enumerate();
        let values = values.map(|(i, code)| f32::from(*code) * scale * of_row(i / columns));
        self.data = values
            .flat_map(|v| f16::from_f32(v).to_le_bytes())
            .collect();
        self.ty = TensorType::F16;
    }
}

/// A tensor or key at which a difference is found, and what it is said to be.
fn findings(a: &Model, b: &Model) -> Vec<(String, String)> {
    let diff = diff(&a.gguf(), &b.gguf(), |_| true).unwrap();
    let keys = diff.keys.iter().filter(|key| key.matters);
    let keys = keys.map(|key| (key.key.clone(), "key".to_owned()));
    let different = diff
        .tensors
        .iter()
        .filter(|t| t.likeness == Likeness::Different);
    let tensors = different.flat_map(|t| {
        let ids = t.findings.iter().map(|finding| finding.id.to_owned());
        ids.map(|id| (t.name.clone(), id)).collect::<Vec<_>>()
    });
    let all: Vec<_> = keys.chain(tensors).collect();
    assert_eq!(all.is_empty(), diff.is_same());
    all
}

/// What is found where `edit` spoils the bundled model.
fn found(edit: impl FnOnce(&mut Model)) -> Vec<(String, String)> {
    let good = Model::tiny();
    let mut bad = good.clone();
    edit(&mut bad);
    findings(&good, &bad)
}

fn is(found: &[(String, String)], want: &[(&str, &str)]) {
    let found: Vec<_> = found
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    assert_eq!(found, want);
}

const Q: &str = "blk.2.attn_q.weight";
/// Values per head of the bundled model.
const DIM: usize = 32;

#[test]
fn a_model_is_the_same_as_itself() {
    is(&found(|_| ()), &[]);
}

#[test]
fn what_a_file_says_of_itself_makes_no_other_model() {
    is(
        &found(|m| {
            m.set("general.name", "another");
            m.set("general.file_type", 41u32);
            // As it is without the key.
            m.set("bitnet-b1.58.attention.key_length", 32u32);
        }),
        &[],
    );
}

#[test]
fn keys_that_a_model_follows_from_are_found() {
    let cases: [(&str, Value); 9] = [
        ("bitnet-b1.58.attention.layer_norm_rms_epsilon", 1e-6.into()),
        ("bitnet-b1.58.rope.freq_base", 500_000.0.into()),
        ("bitnet-b1.58.attention.head_count", 8u32.into()),
        ("bitnet-b1.58.hidden_activation", "silu".into()),
        ("tokenizer.ggml.add_bos_token", false.into()),
        ("tokenizer.ggml.pre", "llama-bpe".into()),
        ("tokenizer.ggml.eos_token_id", 7u32.into()),
        ("tokenizer.chat_template", "{{ messages }}".into()),
        ("bitnet-b1.58.rope.scaling.factor", 2.0.into()),
    ];
    for (key, value) in cases {
        is(&found(|m| m.set(key, value)), &[(key, "key")]);
    }
    let template = "tokenizer.chat_template";
    let mut with = Model::tiny();
    with.set(template, "{% for m in messages %}{{ m }}{% endfor %}");
    is(&findings(&with, &Model::tiny()), &[(template, "key")]);
}

#[test]
fn arrays_are_compared_element_by_element() {
    let tokens = "tokenizer.ggml.tokens";
    let good = Model::tiny();
    let mut bad = good.clone();
    let (_, value) = bad.keys.iter_mut().find(|(k, _)| k == tokens).unwrap();
    let Value::Array(Array::Str(strings)) = value else {
        panic!("not strings");
    };
    let all = strings.iter().enumerate();
    let changed = all.map(|(i, s)| if i == 300 { b"other".as_slice() } else { s });
    *strings = changed.collect::<StringArray>();
    let diff = diff(&good.gguf(), &bad.gguf(), |_| true).unwrap();
    let what = diff.keys[0].what.as_deref().unwrap();
    assert!(
        what.starts_with("1 elements differ, number 300 first: "),
        "{what}"
    );
    assert!(what.ends_with(" in A, \"other\" in B"), "{what}");
}

#[test]
fn scales_are_found() {
    let inverse = |m: &mut Model| {
        let scale = 1.0 / m.tensor(Q).scale_value();
        m.tensor(Q).scale().copy_from_slice(&scale.to_le_bytes());
    };
    is(&found(inverse), &[(Q, "scaled-inverse")]);
    let doubled = |m: &mut Model| {
        let scale = 2.0 * m.tensor(Q).scale_value();
        m.tensor(Q).scale().copy_from_slice(&scale.to_le_bytes());
    };
    is(&found(doubled), &[(Q, "scaled")]);
    let mut of_rows = Model::tiny();
    of_rows.tensor(Q).turn_to_f16(|r| 1.0 + r as f32 / 64.0);
    is(&findings(&of_rows, &Model::tiny()), &[(Q, "scaled-by-row")]);
    let mut infinite = Model::tiny();
    infinite
        .tensor(Q)
        .turn_to_f16(|r| if r == 3 { 1e9 } else { 1.0 });
    is(&findings(&Model::tiny(), &infinite), &[(Q, "not-finite")]);
}

#[test]
fn codes_that_stand_for_others_are_found() {
    let shifted = |code: i8| (code + 2) % 3 - 1;
    is(
        &found(|m| m.tensor(Q).map_codes(shifted)),
        &[(Q, "codes-shifted")],
    );
    is(
        &found(|m| m.tensor(Q).map_codes(|c| -c)),
        &[(Q, "sign-flipped")],
    );
    is(
        &found(|m| m.tensor(Q).map_codes(i8::abs)),
        &[(Q, "codes-mapped")],
    );
    is(&found(|m| m.tensor(Q).map_codes(|_| 0)), &[(Q, "zero")]);
}

#[test]
fn orders_are_found() {
    let interleave = |i: usize| i / DIM * DIM + i % 2 * (DIM / 2) + i % DIM / 2;
    let once = found(|m| m.tensor(Q).map_rows(interleave));
    is(&once, &[(Q, "rope-order")]);
    let twice = found(|m| m.tensor(Q).map_rows(|i| interleave(interleave(i))));
    is(&twice, &[(Q, "rope-order-twice")]);
    let heads = found(|m| m.tensor(Q).map_rows(|i| (i + DIM) % 128));
    is(&heads, &[(Q, "heads-reordered")]);
    let any = found(|m| m.tensor(Q).map_rows(|i| i ^ 1));
    is(&any, &[(Q, "reordered")]);
    let transposed = found(|m| {
        let codes = m.tensor(Q).codes();
        let turned = (0..128 * 128).map(|i| codes[i % 128 * 128 + i / 128]);
        m.tensor(Q).set_codes(&turned.collect::<Vec<_>>());
    });
    is(&transposed, &[(Q, "transposed")]);
}

#[test]
fn packings_are_found() {
    for packing in OTHERS {
        let packed = |m: &mut Model| {
            let codes = m.tensor(Q).codes();
            let read = (0..codes.len()).map(|i| codes[packing.taken_for(i)]);
            m.tensor(Q).set_codes(&read.collect::<Vec<_>>());
        };
        is(&found(packed), &[(Q, "packing")]);
        let mut bad = Model::tiny();
        packed(&mut bad);
        is(&findings(&bad, &Model::tiny()), &[(Q, "packing")]);
        // As it is mended.
        let data = bad.tensor(Q).data.clone();
        let n = data.len() - 32;
        assert_eq!(
            packing.to_ours(&data[..n]),
            Model::tiny().tensor(Q).data[..n]
        );
    }
    assert_eq!(Packing::OURS.taken_for(77), 77);
}

#[test]
fn exchanged_tensors_are_found() {
    let (gate, up) = ("blk.1.ffn_gate.weight", "blk.1.ffn_up.weight");
    is(
        &found(|m| m.exchange(gate, up)),
        &[(gate, "exchanged"), (up, "exchanged")],
    );
    let copied = |m: &mut Model| m.tensor(gate).data = m.tensor(up).data.clone();
    is(&found(copied), &[(gate, "exchanged")]);
    let (norm, other) = ("blk.0.attn_norm.weight", "blk.0.attn_sub_norm.weight");
    is(
        &found(|m| m.exchange(norm, other)),
        &[(norm, "exchanged"), (other, "exchanged")],
    );
    let layers = ["blk.3.attn_k.weight", "blk.4.attn_k.weight"];
    is(
        &found(|m| m.exchange(layers[0], layers[1])),
        &layers.map(|name| (name, "exchanged")),
    );
}

#[test]
fn tensors_of_one_file_alone_are_found() {
    let head = |from: &mut Model| Tensor {
        name: OUTPUT.to_owned(),
        ..from.tensor(EMBEDDING).clone()
    };
    // The embeddings, written out.
    is(
        &found(|m| {
            let head = head(m);
            m.tensors.push(head);
        }),
        &[],
    );
    is(
        &found(|m| {
            let mut head = head(m);
            head.data.reverse();
            m.tensors.push(head);
        }),
        &[(OUTPUT, "untied")],
    );
    let bias = "blk.0.attn_q.bias";
    let mut with = Model::tiny();
    with.tensors.push(Tensor {
        name: bias.to_owned(),
        shape: vec![128],
        ty: TensorType::F32,
        data: vec![1; 512],
    });
    is(&findings(&with, &Model::tiny()), &[(bias, "alone")]);
}

#[test]
fn a_cut_vocabulary_is_found() {
    let cut = |m: &mut Model| {
        let embedding = m.tensor(EMBEDDING);
        embedding.shape[1] -= 12;
        let bytes = 2 * (128 * embedding.shape[1]) as usize;
        embedding.data.truncate(bytes);
    };
    is(&found(cut), &[(EMBEDDING, "shape"), (EMBEDDING, "cut")]);
}

#[test]
fn other_types_of_the_same_weights_are_the_same() {
    let mut dequantized = Model::tiny();
    dequantized.tensor(Q).turn_to_f16(|_| 1.0);
    is(&findings(&Model::tiny(), &dequantized), &[]);
    // Codes, and the scale beside them.
    let mut beside = Model::tiny();
    let q = beside.tensor(Q);
    let scale = q.scale_value();
    q.scale().copy_from_slice(&1f32.to_le_bytes());
    let name = crate::weights::scale_beside(Q).unwrap();
    beside.tensors.push(Tensor {
        name,
        shape: vec![1],
        ty: TensorType::F32,
        data: scale.to_le_bytes().to_vec(),
    });
    is(&findings(&Model::tiny(), &beside), &[]);
    // Beside a scale that is there already.
    let scale = scale.to_le_bytes();
    beside.tensor(Q).scale().copy_from_slice(&scale);
    is(&findings(&Model::tiny(), &beside), &[(Q, "scale-beside")]);
    let mut rounded = Model::tiny();
    let norm = rounded.tensor("output_norm.weight");
    let values = norm
        .data
        .as_chunks()
        .0
        .iter()
        .map(|v| f32::from_le_bytes(*v));
    norm.data = values
        .flat_map(|v| f16::from_f32(v).to_le_bytes())
        .collect();
    norm.ty = TensorType::F16;
    is(&findings(&Model::tiny(), &rounded), &[]);
}

#[test]
fn norms_that_count_from_one_are_found() {
    let name = "output_norm.weight";
    let offset = |m: &mut Model| {
        let norm = m.tensor(name);
        let values = norm
            .data
            .as_chunks()
            .0
            .iter()
            .map(|v| f32::from_le_bytes(*v) - 1.0);
        norm.data = values.flat_map(f32::to_le_bytes).collect();
    };
    is(&found(offset), &[(name, "offset")]);
}

#[test]
fn rows_that_differ_are_counted() {
    let spoilt = |m: &mut Model| m.tensor(EMBEDDING).data[2 * 128 * 100 + 1] ^= 0x40;
    let good = Model::tiny();
    let mut bad = good.clone();
    spoilt(&mut bad);
    let diff = diff(&good.gguf(), &bad.gguf(), |_| true).unwrap();
    let [tensor] = &diff.tensors[..] else {
        panic!("{:?}", diff.tensors);
    };
    assert_eq!(
        tensor.findings[0].sentence,
        "1 of 512 rows differ, row 100 first"
    );
}

#[test]
fn what_has_no_reason_says_so() {
    let seeded = |m: &mut Model| {
        let codes = m.tensor(Q).codes();
        let mut state = 1u64;
        let random = codes.iter().map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) as i8 % 2
        });
        m.tensor(Q).set_codes(&random.collect::<Vec<_>>());
    };
    is(&found(seeded), &[(Q, "unexplained")]);
}

#[test]
fn a_comparison_can_be_stopped() {
    let model = Model::tiny().gguf();
    let mut calls = 0;
    let stopped = diff(&model, &model, |_| {
        calls += 1;
        calls < 3
    });
    assert_eq!(stopped.unwrap_err().kind(), bitnet_model::ErrorKind::Io);
    assert_eq!(calls, 3);
}
