//! The certified head draws what the full head would.

use std::path::Path;
use std::sync::Arc;

use bitnet_core::gguf::{Gguf, TensorType};
use bitnet_core::model::{HeadUse, Model, Session, SessionOptions};
use bitnet_core::sampling::{Sampler, SamplerOptions};

use crate::synthetic::{SPECS, Synthetic};
use crate::trained;

/// A sampler that looks at `top_k` tokens.
fn top(top_k: usize, seed: u64) -> Sampler {
    Sampler::new(SamplerOptions {
        temperature: 0.9,
        top_k,
        top_p: 0.97,
        seed,
    })
}

/// `n` tokens from each of several starts, and how they were found.
fn generate(model: &Arc<Model>, sampler: impl Fn(u64) -> Sampler, n: usize) -> (Vec<u32>, HeadUse) {
    let n_vocab = model.hyperparameters().n_vocab as u64;
    let options = SessionOptions {
        n_ctx: n + 1,
        threads: 1,
    };
    let mut session = Session::new(Arc::clone(model), options).unwrap();
    let mut tokens = Vec::new();
    for seed in 0..4 {
        session.clear();
        let mut sampler = sampler(seed);
        let mut token = (seed * 97 % n_vocab) as u32;
        for _ in 0..n {
            token = session.next_token(&[token], &mut sampler).unwrap();
            tokens.push(token);
        }
    }
    (tokens, session.head_use())
}

fn load(path: &Path) -> Model {
    Model::load(Arc::new(Gguf::open(path).unwrap())).unwrap()
}

/// With and without the compact head; returns how it was used, greedily and by sampling.
fn check(path: &Path, n: usize) -> [HeadUse; 2] {
    let full = Arc::new(load(path));
    let mut compact = load(path);
    let config = compact.hyperparameters();
    // Of 7 bits in whole blocks, or of 8.
    let row = match compact.kernel_name().starts_with("avx512") {
        true => config.n_embd.min(config.n_embd.div_ceil(512) * 448),
        false => config.n_embd,
    };
    let bytes = (config.n_vocab * (row + 12)) as u64;
    assert_eq!(compact.build_compact_head(bytes - 1, 2).unwrap(), None);
    assert_eq!(compact.build_compact_head(bytes, 2).unwrap(), Some(bytes));
    let compact = Arc::new(compact);
    let (want, _) = generate(&full, |_| Sampler::greedy(), n);
    let (got, greedy) = generate(&compact, |_| Sampler::greedy(), n);
    assert_eq!(got, want);
    let (want, head_use) = generate(&full, |seed| top(40, seed), n);
    assert_eq!((head_use.tokens, head_use.certified), (4 * n as u64, 0));
    let (got, sampled) = generate(&compact, |seed| top(40, seed), n);
    assert_eq!(got, want);
    [greedy, sampled]
}

#[test]
fn two_thousand_tokens_of_the_bundled_model_are_the_same() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf");
    for head_use in check(&path, 500) {
        assert_eq!((head_use.tokens, head_use.certified), (2000, 2000));
    }
}

#[test]
fn two_thousand_tokens_of_stories260k_are_the_same() {
    if let Some(path) = trained::stories260k() {
        for head_use in check(&path, 500) {
            assert_eq!((head_use.tokens, head_use.certified), (2000, 2000));
        }
    }
}

#[test]
fn samplers_that_look_at_all_tokens_get_all_logits() {
    let full = trained::bundled();
    let mut compact = load(full.gguf().path());
    compact.build_compact_head(u64::MAX, 1).unwrap().unwrap();
    let compact = Arc::new(compact);
    for top_k in [0, 65] {
        let (want, _) = generate(&full, |seed| top(top_k, seed), 20);
        let (got, head_use) = generate(&compact, |seed| top(top_k, seed), 20);
        assert_eq!((got, head_use.certified), (want, 0));
    }
}

/// Rows that are alike tie, and rows that are no numbers are never left out unseen.
#[test]
fn ties_and_weights_that_are_not_finite() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for ty in [TensorType::F16, TensorType::F32, TensorType::BF16] {
        let spec = SPECS
            .iter()
            .find(|spec| spec.architecture == "llama")
            .unwrap();
        let mut synthetic = Synthetic::new(&crate::synthetic::Spec {
            embedding: ty,
            extras: false,
            ..*spec
        });
        let embedding = synthetic.tensor("token_embd.weight");
        let row = embedding.bytes.len() / embedding.shape[1] as usize;
        let n_vocab = embedding.shape[1] as usize;
        // The second half repeats the first; the last row is NaN.
        embedding
            .bytes
            .copy_within(..n_vocab / 2 * row, n_vocab / 2 * row);
        embedding.bytes[(n_vocab - 1) * row..].fill(0xff);
        synthetic.write(&path);
        let [greedy, _] = check(&path, 16);
        assert!(greedy.certified > 0, "{ty} {greedy:?}");
    }
}

/// A head that is quantised already is left alone.
#[test]
fn quantised_heads_have_no_copy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    for spec in SPECS
        .iter()
        .filter(|s| matches!(s.embedding, TensorType::Q8_0))
    {
        Synthetic::new(spec).write(&path);
        assert_eq!(load(&path).build_compact_head(u64::MAX, 1).unwrap(), None);
    }
}
