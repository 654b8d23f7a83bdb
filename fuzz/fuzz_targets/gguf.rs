//! A GGUF file: the container, what `inspect` and a worker say of it, and where they accept it, the oracle on one token
//! and the Rust engine on a few.

#![no_main]

use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::model::{Logits, Model, Session, SessionOptions};
use bitnet_core::sampling::Sampler;
use bitnet_core::tokenizer::Tokenizer;
use bitnet_model::check::check_weights;
use bitnet_model::gguf::Gguf;
use bitnet_model::{Hyperparameters, Tap};
use crossval_oracle::inputs::Inputs;
use crossval_oracle::maths::Rounding;
use crossval_oracle::{Batch, Oracle};
use crossval_protocol::facts;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(gguf) = Gguf::from_bytes(Path::new("input"), bytes.to_vec()) else {
        return;
    };
    for (key, value) in gguf.metadata().iter() {
        black_box((key.len(), value.type_name(), format!("{value:?}").len()));
    }
    for tensor in gguf.tensors() {
        assert!(tensor.offset + tensor.size <= gguf.file_size());
        black_box(tensor.n_elements());
        if let Ok(data) = gguf.data(tensor) {
            assert_eq!(data.len() as u64, tensor.size);
        }
    }
    let _ = check_weights(&gguf);
    let _ = Tokenizer::from_gguf(gguf.metadata());
    let gguf = Arc::new(gguf);
    if let Ok(hyperparameters) = Hyperparameters::read(&gguf) {
        black_box(facts::model(&gguf, &hyperparameters));
    }
    if let Ok(oracle) = Oracle::new(Arc::clone(&gguf)) {
        let batch = Batch {
            first_position: 0,
            tokens: &[0],
        };
        let embedding = (Tap::Embd, None);
        let row = oracle.stage(embedding, batch, 0..1, &Inputs::default(), Rounding::None);
        let _ = black_box((oracle.n_vocab(), row));
    }
    let Ok(model) = Model::load(gguf) else {
        return;
    };
    let last = model.hyperparameters().n_vocab.saturating_sub(1) as u32;
    let options = SessionOptions {
        n_ctx: 8,
        threads: 1,
    };
    let Ok(mut session) = Session::new(Arc::new(model), options) else {
        return;
    };
    let logits = session.eval(&[0, last, 0], Logits::All, None);
    black_box(logits.map(<[f32]>::len).ok());
    let _ = black_box(session.next_token(&[last], &mut Sampler::greedy()));
});
