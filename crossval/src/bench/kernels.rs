//! The Rust engine's matrix products by themselves, at the model's shapes.

use std::time::Instant;

use bitnet_core::kernels::Kernel;
use bitnet_core::tap::Tap;
use reports::model::{BenchKernel, BenchRoofline};

use crate::protocol::ModelFacts;
use crate::roofline::pin;
use crate::roofline::product::{Product, Storage};
use crate::stats::measured;

/// Tokens at once: a decode step, and a prefill.
const TOKENS: [usize; 2] = [1, 128];

/// Rows measured of a longer matrix: an output head has a row per token of the vocabulary.
const MOST_ROWS: usize = 16_384;

/// Samples per product, and what each takes at least, seconds.
const SAMPLES: usize = 5;
const SAMPLE_SECONDS: f64 = 0.01;

/// Times every product of the model on `cpu`, as shares of the limits of one thread. Empty if the kernel that
/// `BITNET_KERNEL` names is none.
pub(super) fn measure(facts: &ModelFacts, cpu: usize, one: &BenchRoofline) -> Vec<BenchKernel> {
    let Ok(kernel) = Kernel::select() else {
        return Vec::new();
    };
    let time_all = || {
        if !pin(cpu) {
            return Vec::new();
        }
        let shapes = shapes(facts).into_iter();
        let cases = shapes.flat_map(|shape| TOKENS.map(|tokens| (shape.clone(), tokens)));
        cases
            .filter_map(|(shape, tokens)| time(kernel, &shape, tokens, one))
            .collect()
    };
    std::thread::scope(|scope| scope.spawn(time_all).join().unwrap_or_default())
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

fn time(kernel: Kernel, shape: &Shape, tokens: usize, one: &BenchRoofline) -> Option<BenchKernel> {
    // A head is never computed for many tokens at once.
    if shape.storage == Storage::F16 && tokens > 1 {
        return None;
    }
    let product = Product::new(shape.storage, shape.rows, shape.columns, tokens)?;
    let seconds = |times: usize| {
        let start = Instant::now();
        (0..times).for_each(|_| product.run(kernel));
        start.elapsed().as_secs_f64()
    };
    let once = seconds(1).max(1e-9);
    let times = (SAMPLE_SECONDS / once).ceil() as usize;
    let ms = measured(
        (0..SAMPLES)
            .map(|_| seconds(times) * 1e3 / times as f64)
            .collect(),
    )?;
    let per_second = |n: u64| n as f64 * 1e3 / ms.median;
    let (macs, bytes) = (
        per_second(product.macs()),
        per_second(product.weight_bytes()),
    );
    let share = match tokens {
        1 => one.read_bytes_per_second.map(|limit| bytes / limit),
        _ => one.int8_macs_per_second.map(|limit| macs / limit),
    };
    Some(BenchKernel {
        kernel: kernel.name().to_owned(),
        weights: shape.weights.clone(),
        rows: shape.rows,
        columns: shape.columns,
        tokens,
        ms,
        macs_per_second: macs,
        weight_bytes_per_second: bytes,
        roofline_share: share,
    })
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
