//! Models that were trained on short stories say something sensible.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_core::gguf::{Gguf, StringArray};
use bitnet_core::model::Model;
use bitnet_core::sampling::{Sampler, SamplerOptions};

use crate::session;

pub fn bundled() -> Arc<Model> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../assets/tiny-bitnet.gguf");
    Arc::new(Model::load(Arc::new(Gguf::open(&path).unwrap())).unwrap())
}

/// The shared F32 model, or a loud word that it is absent.
pub fn stories260k() -> Option<PathBuf> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/models/stories260K.gguf");
    if !path.exists() {
        // Past the test harness, which captures what tests print.
        let _ = writeln!(std::io::stderr(), "SKIPPED: {} is absent", path.display());
        return None;
    }
    Some(path)
}

fn story(model: &Arc<Model>, sampler: Sampler, n: usize) -> String {
    let vocabulary: &StringArray = model
        .gguf()
        .metadata()
        .required("tokenizer.ggml.tokens")
        .unwrap();
    let mut session = session(model, 2);
    let tokens = session.generate(&[1], sampler).take(n);
    let bytes: Vec<u8> = tokens
        .flat_map(|token| vocabulary.get(token.unwrap() as usize).unwrap().to_vec())
        .collect();
    String::from_utf8(bytes).unwrap().replace('\u{2581}', " ")
}

#[test]
fn the_bundled_model_tells_a_story() {
    let text = story(&bundled(), Sampler::greedy(), 60);
    let start = " Once upon a time, there was a little girl named Lily. She loved to play outside in the park.";
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn sampling_follows_its_seed() {
    let model = bundled();
    let sampler = |seed| {
        Sampler::new(SamplerOptions {
            temperature: 0.8,
            top_k: 40,
            top_p: 0.95,
            seed,
        })
    };
    let text = story(&model, sampler(1), 60);
    assert_eq!(text, story(&model, sampler(1), 60));
    assert_ne!(text, story(&model, sampler(2), 60));
}

#[test]
fn stories260k_tells_a_story() {
    let Some(path) = stories260k() else {
        return;
    };
    let model = Arc::new(Model::load(Arc::new(Gguf::open(&path).unwrap())).unwrap());
    let text = story(&model, Sampler::greedy(), 60);
    assert!(
        text.starts_with(" Once upon a time, there was a little girl named Lily."),
        "{text}"
    );
}

#[test]
fn a_full_context_ends_generation_with_an_error() {
    let model = bundled();
    let mut session = session(&model, 1);
    let tokens: Vec<_> = session.generate(&[1], Sampler::greedy()).collect();
    assert_eq!(tokens.len(), 65);
    assert!(tokens[..64].iter().all(Result::is_ok));
    let error = tokens[64].as_ref().unwrap_err();
    assert_eq!(error.kind(), bitnet_core::ErrorKind::Usage);
    assert!(
        session
            .generate(&[], Sampler::greedy())
            .next()
            .unwrap()
            .is_err()
    );
}
