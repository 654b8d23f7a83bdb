//! BitNet.cpp's matrix products, timed one by one as its graph is evaluated, on one thread.
//!
//! Every node is asked for, so that the scheduler evaluates each by itself. What passes between the question and the data
//! is one product with the quantisation of its activations, and what a graph of one node costs beside it. Nodes that only
//! look at others, as views do, show how much that is; products that do not take much longer say nothing, and are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_model::gguf::TensorType;
use bitnet_sys::{
    Context, ContextOptions, Error, Logits, Model, Node, NodeInfo, NodeObserver, quantize_i8,
};
use crossval_protocol::{KernelTime, KernelTimes};

use crate::kernels;

/// Tokens at once: a decode step, and a prefill.
const TOKENS: [usize; 2] = [1, 128];

/// Samples per product; each is the mean over the matrices of one shape in an evaluation.
const SAMPLES: usize = 5;

/// Products of several tokens after which an evaluation ends: those of a few layers.
const SEVERAL: usize = 21;

/// The library's name of what quantises activations.
const QUANTISER: &str = "ggml quantize_row_i8_s";

/// How much longer than an empty node a product must take.
const TELLING: u32 = 10;

/// Times every product of the model's graph, and the library's quantiser at the lengths that ternary ones take.
///
/// # Errors
/// As [`Context::decode`].
pub(crate) fn measure(model: &Arc<Model>) -> Result<KernelTimes, Error> {
    let options = ContextOptions {
        n_ctx: TOKENS[1] as u32,
        n_batch: TOKENS[1] as u32,
        n_ubatch: TOKENS[1] as u32,
        threads: 1,
        flash_attn: false,
        observe: true,
    };
    let mut context = Context::new(model, options)?;
    let mut products = Vec::new();
    let mut columns = BTreeSet::new();
    for tokens in TOKENS {
        let ids: Vec<u32> = (0..tokens as u32)
            .map(|i| i % model.facts().n_vocab)
            .collect();
        let mut samples: BTreeMap<Product, Vec<f64>> = BTreeMap::new();
        // The first is the warm-up.
        for sample in 0..=SAMPLES {
            let mut timer = Timer::new(if tokens > 1 { SEVERAL } else { usize::MAX });
            context.kv_clear();
            match context.decode(&ids, 0, Logits::Last, Some(&mut timer)) {
                Ok(()) | Err(Error::Stopped) => {}
                Err(error) => return Err(error),
            }
            let all = timer.products.keys();
            let ternary = all.filter(|product| product.weights == TensorType::I2_S.name());
            columns.extend(ternary.map(|product| product.columns as usize));
            if sample > 0 {
                for (product, ms) in timer.means() {
                    samples.entry(product).or_default().push(ms);
                }
            }
        }
        let telling = samples.into_iter().filter(|(_, ms)| ms.len() == SAMPLES);
        products.extend(telling.map(|(product, ms)| product.time(ms)));
    }
    let quantises = quantize_i8(&[0.0], &mut [0]).is_some();
    let columns = columns.into_iter().filter(|_| quantises);
    let quantisers = columns.map(|columns| kernels::quantiser(QUANTISER, columns, quantize_i8));
    Ok(KernelTimes {
        products,
        quantisers: quantisers.collect(),
    })
}

/// A product of a matrix of weights.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Product {
    weights: String,
    rows: u64,
    columns: u64,
    tokens: u64,
    weight_bytes: u64,
}

impl Product {
    /// `None` if the node is none, or of weights whose size is not known.
    fn of(node: &NodeInfo<'_>) -> Option<Product> {
        let weights = node
            .sources
            .first()
            .filter(|s| s.name.ends_with(".weight"))?;
        let size = |n: i64| u64::try_from(n).ok();
        let [columns, rows, 1, 1] = weights.shape else {
            return None;
        };
        let (columns, rows) = (size(columns)?, size(rows)?);
        let ty = TensorType::from_name(&weights.type_name.to_uppercase())?;
        (node.op == "MUL_MAT").then_some(Product {
            weights: ty.to_string(),
            rows,
            columns,
            tokens: size(node.shape[1])?,
            weight_bytes: ty.data_size(&[columns, rows]).ok()?,
        })
    }

    fn time(self, ms: Vec<f64>) -> KernelTime {
        KernelTime {
            kernel: "ggml MUL_MAT".to_owned(),
            weights: self.weights,
            rows: self.rows as usize,
            columns: self.columns as usize,
            tokens: self.tokens as usize,
            macs: self.rows * self.columns * self.tokens,
            weight_bytes: self.weight_bytes,
            ms,
        }
    }
}

/// Times the nodes of one evaluation.
struct Timer {
    asked: Instant,
    products: BTreeMap<Product, (Duration, u32)>,
    seen: usize,
    /// After so many products the evaluation ends.
    most: usize,
    /// The shortest time of a node that computes nothing.
    empty: Option<Duration>,
}

impl Timer {
    fn new(most: usize) -> Timer {
        Timer {
            asked: Instant::now(),
            products: BTreeMap::new(),
            seen: 0,
            most,
            empty: None,
        }
    }

    /// Milliseconds of every product that takes long enough.
    fn means(self) -> impl Iterator<Item = (Product, f64)> {
        let least = self.empty.unwrap_or_default() * TELLING;
        let means = self.products.into_iter();
        let means = means.map(|(product, (sum, n))| (product, sum / n));
        let telling = means.filter(move |(_, mean)| *mean > least);
        telling.map(|(product, mean)| (product, mean.as_secs_f64() * 1e3))
    }
}

impl NodeObserver for Timer {
    fn wants(&mut self, _: &NodeInfo<'_>) -> bool {
        self.asked = Instant::now();
        true
    }

    fn node(&mut self, node: &mut Node<'_>) -> ControlFlow<()> {
        let took = self.asked.elapsed();
        if ["VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"].contains(&node.info.op) {
            self.empty = Some(self.empty.map_or(took, |least| least.min(took)));
        }
        let Some(product) = Product::of(&node.info) else {
            return ControlFlow::Continue(());
        };
        let (sum, n) = self.products.entry(product).or_default();
        (*sum, *n) = (*sum + took, *n + 1);
        self.seen += 1;
        match self.seen < self.most {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use bitnet_core::kernels::Kernel;
    use bitnet_sys::LoadOptions;

    use super::*;

    #[test]
    fn the_products_of_the_demo_model() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf");
        let model = Arc::new(Model::load(&file, LoadOptions::default()).unwrap());
        let KernelTimes {
            products,
            quantisers,
        } = measure(&model).unwrap();
        let of = |rows, columns| {
            let same = |p: &&KernelTime| (p.rows, p.columns, p.tokens) == (rows, columns, 128);
            products.iter().find(same)
        };
        // The largest matrix of a layer, of which 128 tokens take long whatever the machine.
        let up = of(512, 128).expect("its time");
        assert_eq!((up.weights.as_str(), up.macs), ("I2_S", 512 * 128 * 128));
        assert!(up.ms.len() == SAMPLES && up.ms.iter().all(|ms| *ms > 0.0));
        let columns: Vec<usize> = quantisers.iter().map(|q| q.columns).collect();
        assert_eq!(columns, [128, 512]);
        assert!(quantisers.iter().all(|q| q.ms.iter().all(|ms| *ms > 0.0)));
    }

    /// What is timed is what both engines multiply with.
    #[test]
    fn both_quantisers_come_to_the_same() {
        let x: Vec<f32> = (0..640).map(|i| ((i * 37 % 641) as f32).sin()).collect();
        let (mut ours, mut theirs) = (vec![0; x.len()], vec![0; x.len()]);
        let kernel = Kernel::select().expect("a kernel");
        let (scale, sum) = kernel.quantize_i8(&x, &mut ours);
        assert_eq!(quantize_i8(&x, &mut theirs), Some((scale, sum)));
        assert_eq!(ours, theirs);
    }
}
