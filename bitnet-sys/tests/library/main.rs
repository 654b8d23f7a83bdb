//! BitNet.cpp, driven through the safe wrapper, on the bundled model (`bitnet-b1.58`, 6 layers, 128 wide, 512 in the
//! FFN, 4 heads of 32, 2 KV heads, 512 tokens).
#![cfg(feature = "reference")]

mod decode;
mod model;
mod nodes;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_sys::{
    Context, ContextOptions, LoadOptions, Model, Node, NodeInfo, NodeObserver, Values,
};

const TEXT: &str = "Once upon a time there was a little dog.";
const N_LAYER: usize = 6;

fn asset() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf")
}

fn model() -> Arc<Model> {
    Arc::new(Model::load(&asset(), LoadOptions::default()).unwrap())
}

fn context(model: &Arc<Model>, threads: u32, observe: bool) -> Context {
    let options = ContextOptions {
        n_ctx: 64,
        threads,
        observe,
        ..ContextOptions::default()
    };
    Context::new(model, options).unwrap()
}

fn all_logits(context: &Context, n: usize) -> Vec<Vec<f32>> {
    (0..n)
        .map(|i| context.logits(i).unwrap().to_vec())
        .collect()
}

/// Sum of squared differences over sum of squares.
fn nmse(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    let (mut difference, mut power) = (0f64, 0f64);
    for (x, y) in a.concat().into_iter().zip(b.concat()) {
        difference += (f64::from(x) - f64::from(y)).powi(2);
        power += f64::from(y).powi(2);
    }
    difference / power
}

/// Keeps every node, or stops at the node with a certain name.
#[derive(Default)]
struct Recorder {
    nodes: Vec<Recorded>,
    stop_at: Option<&'static str>,
    panic_at: Option<&'static str>,
}

struct Recorded {
    name: String,
    op: String,
    occurrence: u32,
    shape: [i64; 4],
    values: Option<Values>,
}

impl NodeObserver for Recorder {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        assert_ne!(Some(node.name), self.panic_at, "asked to");
        true
    }

    fn node(&mut self, node: &mut Node<'_>) -> ControlFlow<()> {
        if Some(node.info.name) == self.stop_at {
            return ControlFlow::Break(());
        }
        self.nodes.push(Recorded {
            name: node.info.name.to_owned(),
            op: node.info.op.to_owned(),
            occurrence: node.info.occurrence,
            shape: node.info.shape,
            values: node.values().ok(),
        });
        ControlFlow::Continue(())
    }
}

impl Recorder {
    fn find(&self, name: &str, op: &str) -> &Recorded {
        self.nodes
            .iter()
            .find(|n| n.name == name && n.op == op)
            .unwrap()
    }

    fn f32(&self, name: &str, op: &str) -> &[f32] {
        match &self.find(name, op).values {
            Some(Values::F32(values)) => values,
            other => panic!("{name} {op}: {other:?}"),
        }
    }

    fn f16(&self, name: &str, op: &str) -> Vec<u16> {
        match &self.find(name, op).values {
            Some(Values::F16(values)) => values.iter().map(|v| v.to_bits()).collect(),
            other => panic!("{name} {op}: {other:?}"),
        }
    }
}

fn to_f16(values: &[f32]) -> Vec<u16> {
    values
        .iter()
        .map(|&v| half::f16::from_f32(v).to_bits())
        .collect()
}
