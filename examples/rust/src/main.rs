//! An engine to copy: LLaMA with F32 weights, which offers every tap and takes values from outside. `forward.rs` is the
//! engine; this file is all that the worker protocol asks of it.
//!
//! ```sh
//! cargo build -p example-engine
//! crossval run --model llama.gguf --candidate exec:target/debug/example-engine
//! ```

mod forward;

use std::collections::BTreeMap;
use std::path::Path;

use crossval_protocol::{Backend, EvalRequest, Hello, ModelFacts, Refusal, Settings, TapStream};
use forward::{ARCHITECTURE, Model, Session, usage};

struct Engine {
    session: Option<Session>,
}

impl Engine {
    fn session(&mut self) -> Result<&mut Session, Refusal> {
        let session = self.session.as_mut();
        session.ok_or_else(|| usage("no model is loaded"))
    }
}

impl Backend for Engine {
    fn hello(&self) -> Hello {
        Hello {
            protocol: crossval_protocol::VERSION,
            engine: "example".into(),
            version: Some(env!("CARGO_PKG_VERSION").into()),
            build: BTreeMap::new(),
            architectures: vec![ARCHITECTURE.to_string()],
            taps: ARCHITECTURE.taps(),
            overwrite: true,
            dtypes: vec!["F32".into()],
            tokenizer: false,
            judges: false,
            graphs: false,
        }
    }

    fn load(&mut self, path: &Path) -> Result<ModelFacts, Refusal> {
        let (model, facts) = Model::load(path)?;
        self.session = Some(Session::new(model));
        Ok(facts)
    }

    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        self.session()?.clear(settings.n_ctx);
        Ok([("threads".into(), "1".into())].into())
    }

    fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal> {
        let (first, tokens) = (request.first_position, request.tokens);
        self.session()?.eval(first, tokens, &mut |header, values| {
            if request.taps.contains(&header.tap) {
                taps.send(header, values, request.overwrite)?;
            }
            Ok(())
        })
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        self.session()?.next_token(0, tokens)
    }

    fn decode(&mut self, token: u32) -> Result<u32, Refusal> {
        let session = self.session()?;
        session.next_token(session.position(), &[token])
    }
}

fn main() -> std::io::Result<()> {
    crossval_protocol::serve(&mut Engine { session: None }, BTreeMap::new())
}
