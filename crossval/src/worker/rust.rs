//! The engine `rust`: `bitnet-core`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::gguf::Gguf;
use bitnet_core::kernels::Kernel;
use bitnet_core::model::{Architecture, Fault, Logits, Model, Session, SessionOptions};
use bitnet_core::sampling::greedy;
use bitnet_core::tap::{Observer, ObserverError, Tap, TapData, TapView};
use bitnet_core::tokenizer::{EncodeOptions, Tokenizer};

use super::{Backend, EvalRequest, Refusal, Special, TapStream, facts};
use crate::error::Error;
use crate::protocol::{self, ErrorKind, Hello, ModelFacts, Settings, TapHeader};

/// `bitnet-core` behind the protocol.
pub(crate) struct RustBackend {
    fault: Option<Fault>,
    kernel: Kernel,
    model: Option<Arc<Model>>,
    tokenizer: Option<Tokenizer>,
    session: Option<Session>,
}

impl From<bitnet_core::Error> for Refusal {
    fn from(e: bitnet_core::Error) -> Refusal {
        use bitnet_core::ErrorKind as K;
        let kind = match e.kind() {
            K::Io | K::BadFile | K::Unsupported | K::MissingTensor => ErrorKind::BadModel,
            K::Usage => ErrorKind::Usage,
            _ => ErrorKind::Internal,
        };
        Refusal::new(kind, e)
    }
}

impl RustBackend {
    pub(crate) fn new(fault: Option<&str>) -> Result<RustBackend, Error> {
        let fault = fault
            .map(|f| {
                f.parse::<Fault>()
                    .map_err(|e| Error::Usage(format!("--fault: {e}")))
            })
            .transpose()?;
        Ok(RustBackend {
            fault,
            kernel: Kernel::select().map_err(|e| Error::Usage(e.to_string()))?,
            model: None,
            tokenizer: None,
            session: None,
        })
    }

    fn session(&mut self) -> Result<&mut Session, Refusal> {
        self.session
            .as_mut()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "the engine is not configured"))
    }

    fn tokenizer(&self) -> Result<&Tokenizer, Refusal> {
        self.tokenizer
            .as_ref()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "no model with a tokenizer is loaded"))
    }
}

impl Backend for RustBackend {
    fn hello(&self) -> Hello {
        Hello {
            protocol: protocol::VERSION,
            engine: "rust".into(),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            build: [("kernel".to_owned(), self.kernel.name().to_owned())].into(),
            architectures: Architecture::ALL.map(|a| a.to_string()).to_vec(),
            taps: Tap::ALL.to_vec(),
            overwrite: true,
            dtypes: ["F32", "F16", "BF16", "Q8_0", "Q6_K", "I2_S"]
                .map(str::to_owned)
                .to_vec(),
            tokenizer: true,
            judges: false,
        }
    }

    fn load(&mut self, path: &Path) -> Result<ModelFacts, Refusal> {
        let gguf = Arc::new(Gguf::open(path)?);
        let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
        let mut model = Model::load(Arc::clone(&gguf))?;
        if let Some(fault) = &self.fault {
            model.inject(fault)?;
        }
        let config = model.config();
        let facts = ModelFacts {
            architecture: config.architecture.to_string(),
            name: gguf.metadata().str("general.name").ok().map(str::to_owned),
            n_layer: config.n_layer,
            n_embd: config.n_embd,
            n_ff: config.n_ff,
            n_head: config.n_head,
            n_head_kv: config.n_head_kv,
            n_vocab: config.n_vocab,
            n_ctx_train: config.n_ctx_train,
            taps: model.taps(),
            tensor_types: facts::tensor_types(&gguf),
            weight_types: facts::weight_types(&gguf),
        };
        self.model = Some(Arc::new(model));
        self.tokenizer = Some(tokenizer);
        Ok(facts)
    }

    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        let model = self
            .model
            .as_ref()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "no model is loaded"))?;
        self.session = Some(Session::new(
            Arc::clone(model),
            SessionOptions {
                n_ctx: settings.n_ctx,
                threads: settings.threads,
            },
        )?);
        let recorded = [
            ("n_ctx", settings.n_ctx.to_string()),
            ("threads", settings.threads.to_string()),
            ("kv_cache", "F16".to_owned()),
        ];
        Ok(recorded.map(|(k, v)| (k.to_owned(), v)).into())
    }

    fn tokenize(&mut self, text: &str, special: Special) -> Result<Vec<u32>, Refusal> {
        let options = EncodeOptions {
            add_special: special.add,
            parse_special: special.parse,
        };
        Ok(self.tokenizer()?.encode(text, options))
    }

    fn detokenize(&mut self, tokens: &[u32]) -> Result<Vec<u8>, Refusal> {
        Ok(self.tokenizer()?.decode(tokens))
    }

    fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal> {
        let session = self.session()?;
        if request.first_position == 0 {
            session.clear();
        }
        if session.position() != request.first_position {
            return Err(Refusal::new(
                ErrorKind::Usage,
                format!(
                    "tokens for position {}, the sequence is at {}",
                    request.first_position,
                    session.position()
                ),
            ));
        }
        let logits = if request.taps.is_empty() {
            let wanted = if request.last_logits {
                Logits::Last
            } else {
                Logits::None
            };
            session.eval(&request.tokens, wanted, None)?
        } else {
            let mut observer = TapObserver {
                request,
                stream: taps,
            };
            session.eval(&request.tokens, Logits::All, Some(&mut observer))?
        };
        if !request.last_logits {
            return Ok(Vec::new());
        }
        let n_vocab = logits.len()
            / if request.taps.is_empty() {
                1
            } else {
                request.tokens.len()
            };
        Ok(logits[logits.len() - n_vocab..].to_vec())
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        let session = self.session()?;
        session.clear();
        Ok(greedy(session.eval(tokens, Logits::Last, None)?))
    }

    fn decode(&mut self, token: u32) -> Result<u32, Refusal> {
        Ok(greedy(self.session()?.eval(
            &[token],
            Logits::Last,
            None,
        )?))
    }
}

/// Sends the taps asked for, and takes the driver's values for them.
struct TapObserver<'a> {
    request: &'a EvalRequest,
    stream: &'a mut TapStream,
}

impl Observer for TapObserver<'_> {
    fn tap(&mut self, view: TapView<'_>) -> Result<(), ObserverError> {
        if !self.request.taps.contains(&view.tap) {
            return Ok(());
        }
        let header = TapHeader {
            tap: view.tap,
            layer: view.layer,
            first_position: view.first_position,
            rows: view.n_tokens,
            width: view.width,
        };
        let bytes = match view.data {
            TapData::F32(values) => bytemuck::cast_slice_mut(values),
            TapData::F16(values) => bytemuck::cast_slice_mut(values),
        };
        Ok(self.stream.send(header, bytes, self.request.overwrite)?)
    }
}
