//! The Rust engine's matrix products, and the quantisers before them, by themselves, at the model's shapes, on one thread.

use std::collections::BTreeSet;
use std::hint::black_box;
use std::time::Instant;

use bitnet_core::kernels::Kernel;
use bitnet_core::model::Model;
use bitnet_model::tap::Tap;
use crossval_protocol::{KernelTime, KernelTimes, ModelFacts, QuantiserTime, facts};

use crate::product::{Product, Storage};

/// Tokens at once: a decode step, and a prefill.
const TOKENS: [usize; 2] = [1, 128];

/// Rows measured of a longer matrix: an output head has a row per token of the vocabulary.
const MOST_ROWS: usize = 16_384;

/// Samples per product, and what each takes at least, seconds.
const SAMPLES: usize = 5;
const SAMPLE_SECONDS: f64 = 0.01;

/// Times every product of the model, and the quantisers before them.
pub(crate) fn measure(model: &Model, kernel: Kernel) -> KernelTimes {
    let shapes = shapes(&facts::model(model.gguf(), model.hyperparameters()));
    let cases = shapes
        .iter()
        .flat_map(|shape| TOKENS.map(|tokens| (shape, tokens)));
    let ternary = shapes.iter().filter(|shape| shape.storage == Storage::I2S);
    let columns: BTreeSet<usize> = ternary.map(|shape| shape.columns).collect();
    KernelTimes {
        products: cases
            .filter_map(|(shape, tokens)| time(kernel, shape, tokens))
            .collect(),
        quantisers: columns
            .into_iter()
            .map(|columns| {
                let quantise = |x: &[f32], codes: &mut [i8]| kernel.quantize_i8(x, codes);
                quantiser(kernel.name(), columns, quantise)
            })
            .collect(),
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Shape {
    weights: String,
    storage: Storage,
    rows: usize,
    columns: usize,
}

/// Those of the model's products that have a kernel to themselves, each once.
fn shapes(facts: &ModelFacts) -> Vec<Shape> {
    let embd = facts.n_embd;
    let kv = embd / facts.n_head.max(1) * facts.n_head_kv;
    let mut shapes: Vec<Shape> = Vec::new();
    for (tap, rows, columns) in [
        (Tap::Q, embd, embd),
        (Tap::K, kv, embd),
        (Tap::FfnGate, facts.n_ff, embd),
        (Tap::FfnDown, embd, facts.n_ff),
        (Tap::Logits, facts.n_vocab.min(MOST_ROWS), embd),
    ] {
        for weights in facts.weight_types.get(&tap).into_iter().flatten() {
            let storage = match weights.as_str() {
                "I2_S" => Storage::I2S,
                "TQ1_0" => Storage::Tq1_0,
                "TQ2_0" => Storage::Tq2_0,
                "F16" => Storage::F16,
                _ => continue,
            };
            let shape = Shape {
                weights: weights.clone(),
                storage,
                rows,
                columns,
            };
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
    }
    shapes
}

fn time(kernel: Kernel, shape: &Shape, tokens: usize) -> Option<KernelTime> {
    // A head is never computed for many tokens at once.
    if shape.storage == Storage::F16 && tokens > 1 {
        return None;
    }
    let product = Product::new(shape.storage, shape.rows, shape.columns, tokens)?;
    Some(KernelTime {
        kernel: kernel.name().to_owned(),
        weights: shape.weights.clone(),
        rows: shape.rows,
        columns: shape.columns,
        tokens,
        macs: product.macs(),
        weight_bytes: product.weight_bytes(),
        ms: samples(|| product.run(kernel)),
    })
}

/// Times the quantising of one token's activations, which lie in a cache, as those just computed do.
pub(crate) fn quantiser<T>(
    kernel: &str,
    columns: usize,
    quantise: impl Fn(&[f32], &mut [i8]) -> T,
) -> QuantiserTime {
    let x: Vec<f32> = (0..columns)
        .map(|i| (i * 31 % 257) as f32 / 64.0 - 2.0)
        .collect();
    let mut codes = vec![0; columns];
    QuantiserTime {
        kernel: kernel.to_owned(),
        columns,
        ms: samples(|| {
            black_box(quantise(black_box(&x), &mut codes));
        }),
    }
}

/// Milliseconds of what is done many times per sample.
fn samples(mut work: impl FnMut()) -> Vec<f64> {
    let mut seconds = |times: usize| {
        let start = Instant::now();
        (0..times).for_each(|_| work());
        start.elapsed().as_secs_f64()
    };
    let once = seconds(1).max(1e-9);
    let times = (SAMPLE_SECONDS / once).ceil() as usize;
    (0..SAMPLES)
        .map(|_| seconds(times) * 1e3 / times as f64)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shapes_of_a_model_come_once() {
        let types = |tap, ty: &str| (tap, vec![ty.to_owned()]);
        let facts = ModelFacts {
            n_embd: 256,
            n_ff: 512,
            n_head: 4,
            n_head_kv: 4,
            n_vocab: 100_000,
            weight_types: [
                types(Tap::Q, "I2_S"),
                types(Tap::K, "I2_S"),
                types(Tap::FfnGate, "I2_S"),
                types(Tap::FfnDown, "F32"),
                types(Tap::Logits, "F16"),
            ]
            .into(),
            ..serde_json::from_str(FACTS).unwrap()
        };
        let found: Vec<_> = shapes(&facts)
            .iter()
            .map(|s| (s.storage, s.rows, s.columns))
            .collect();
        let want = [
            (Storage::I2S, 256, 256),
            (Storage::I2S, 512, 256),
            (Storage::F16, 16_384, 256),
        ];
        assert_eq!(found, want);
    }

    const FACTS: &str = r#"{ "architecture": "bitnet-b1.58", "name": null, "n_layer": 1, "n_embd": 0, "n_ff": 0,
        "n_head": 0, "n_head_kv": 0, "n_vocab": 0, "n_ctx_train": 0, "taps": [] }"#;
}
