//! The engine `rust`: `bitnet-core`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::kernels::Kernel;
use bitnet_core::model::{HeadUse, Logits, Model, Session, SessionOptions};
use bitnet_core::quant;
use bitnet_core::sampling::{Sampler, greedy};
use bitnet_core::tokenizer::{self, Tokenizer};
use bitnet_model::check::{check_weights, zero_tensors};
use bitnet_model::gguf::Gguf;
use bitnet_model::tap::{Observer, ObserverError, Tap, TapData, TapView};
use bitnet_model::{Activation, Architecture};

use super::{Error, kernels};
use crate::fault::{Asked, Injectors};
use crossval_protocol::{
    self as protocol, Backend, CompactHeadUse, DecodeOptions, EncodeOptions, ErrorKind,
    EvalRequest, Hello, KernelTimes, ModelFacts, Refusal, Settings, TapHeader, TapStream,
    VocabFacts, facts,
};

/// `bitnet-core` behind the protocol.
pub(crate) struct RustBackend {
    injectors: Injectors,
    kernel: Kernel,
    /// In place of the file's.
    activation: Option<Activation>,
    model: Option<Arc<Model>>,
    tokenizer: Option<Tokenizer>,
    session: Option<Session>,
    /// Bytes of the model's compact head.
    compact_head: Option<u64>,
}

impl RustBackend {
    pub(crate) fn new(
        injectors: Injectors,
        activation: Option<Activation>,
    ) -> Result<RustBackend, Error> {
        Ok(RustBackend {
            injectors,
            kernel: Kernel::select().map_err(|e| Error::Usage(e.to_string()))?,
            activation,
            model: None,
            tokenizer: None,
            session: None,
            compact_head: None,
        })
    }

    fn session(&mut self) -> Result<&mut Session, Refusal> {
        self.session.as_mut().ok_or_else(not_configured)
    }

    /// The most likely token after `tokens`; with faults, past their injectors.
    fn next_token(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        match self.injectors.is_empty() {
            false => Ok(greedy(self.last_logits(Asked::Generating, tokens)?)),
            true => Ok(self.session()?.next_token(tokens, &mut Sampler::greedy())?),
        }
    }

    /// Evaluates tokens for their last logits; with faults, past their injectors.
    fn last_logits(&mut self, asked: Asked, tokens: &[u32]) -> Result<&[f32], Refusal> {
        let session = self.session.as_mut().ok_or_else(not_configured)?;
        if self.injectors.is_empty() {
            return Ok(session.eval(tokens, Logits::Last, None)?);
        }
        self.injectors.begin(asked, session.position(), tokens);
        Ok(session.eval(tokens, Logits::Last, Some(&mut self.injectors))?)
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
            build: [("kernel", self.kernel.name()), ("language", "Rust")]
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .into(),
            architectures: Architecture::ALL.map(|a| a.to_string()).to_vec(),
            taps: Tap::ALL.to_vec(),
            overwrite: true,
            dtypes: quant::types().map(|ty| ty.to_string()).collect(),
            tokenizer: true,
            judges: false,
            graphs: false,
        }
    }

    fn load(&mut self, path: &Path) -> Result<ModelFacts, Refusal> {
        let gguf = Arc::new(Gguf::open(path)?);
        let tokenizer = match gguf.metadata().tokenizer()? {
            Some(_) => Some(Tokenizer::from_gguf(gguf.metadata())?),
            None => None,
        };
        let model = match self.activation {
            Some(activation) => Model::load_as(Arc::clone(&gguf), activation)?,
            None => Model::load(Arc::clone(&gguf))?,
        };
        self.injectors.load(&model);
        let facts = ModelFacts {
            vocab: tokenizer
                .as_ref()
                .map(|tokenizer| vocab_facts(&gguf, tokenizer))
                .transpose()?,
            ..facts::model(&gguf, model.hyperparameters())
        };
        self.model = Some(Arc::new(model));
        self.tokenizer = tokenizer;
        Ok(facts)
    }

    fn load_vocab(&mut self, path: &Path) -> Result<VocabFacts, Refusal> {
        let gguf = Gguf::open(path)?;
        let tokenizer = Tokenizer::from_gguf(gguf.metadata())?;
        let facts = vocab_facts(&gguf, &tokenizer)?;
        self.tokenizer = Some(tokenizer);
        Ok(facts)
    }

    fn check_weights(&self) -> Result<Vec<String>, Refusal> {
        let model = self.model.as_ref().ok_or_else(no_model)?;
        Ok(check_weights(model.gguf())?)
    }

    fn zero_tensors(&self) -> Result<Vec<String>, Refusal> {
        let model = self.model.as_ref().ok_or_else(no_model)?;
        Ok(zero_tensors(model.gguf())?)
    }

    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        self.injectors.configure(settings);
        // The session shares the model, which is about to change.
        self.session = None;
        let model = self.model.as_mut().ok_or_else(no_model)?;
        self.compact_head = match Arc::get_mut(model) {
            Some(model) => {
                model.build_compact_head(settings.compact_head_budget, settings.threads)?
            }
            None => None,
        };
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
            (
                "compact_head_bytes",
                self.compact_head.unwrap_or(0).to_string(),
            ),
        ];
        Ok(recorded.map(|(k, v)| (k.to_owned(), v)).into())
    }

    fn tokenize(&mut self, text: &[u8], options: EncodeOptions) -> Result<Vec<u32>, Refusal> {
        let options = tokenizer::EncodeOptions {
            add_special: options.add_special,
            parse_special: options.parse_special,
        };
        Ok(self.tokenizer()?.encode(text, options)?)
    }

    fn detokenize(&mut self, ids: &[u32], options: DecodeOptions) -> Result<Vec<u8>, Refusal> {
        let options = tokenizer::DecodeOptions {
            remove_special: options.remove_special,
            unparse_special: options.unparse_special,
        };
        Ok(self.tokenizer()?.decode(ids, options))
    }

    fn piece(&mut self, id: u32) -> Result<Vec<u8>, Refusal> {
        let tokenizer = self.tokenizer()?;
        let piece = tokenizer.piece(id).ok_or_else(|| {
            let n = tokenizer.n_vocab();
            let what = format!("token {id} is outside the vocabulary of {n}");
            Refusal::new(ErrorKind::Usage, what)
        })?;
        Ok(piece.to_vec())
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
        if request.taps.is_empty() {
            let logits = self.last_logits(Asked::Untapped, request.tokens)?;
            return Ok(logits.to_vec());
        }
        let session = self.session.as_mut().ok_or_else(not_configured)?;
        let (first_position, tokens) = (request.first_position, request.tokens);
        self.injectors.begin(Asked::Tapped, first_position, tokens);
        let mut observer = TapObserver {
            request,
            stream: taps,
            injectors: &mut self.injectors,
        };
        let logits = session.eval(request.tokens, Logits::All, Some(&mut observer))?;
        let n_vocab = logits.len() / request.tokens.len();
        Ok(logits[logits.len() - n_vocab..].to_vec())
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        self.session()?.clear();
        self.next_token(tokens)
    }

    fn decode(&mut self, token: u32) -> Result<u32, Refusal> {
        self.next_token(&[token])
    }

    fn time_kernels(&mut self) -> Result<KernelTimes, Refusal> {
        let model = self.model.as_ref().ok_or_else(no_model)?;
        Ok(kernels::measure(model, self.kernel))
    }

    fn compact_head(&self) -> Option<CompactHeadUse> {
        let HeadUse {
            tokens,
            certified,
            exact_rows,
        } = self.session.as_ref()?.head_use();
        Some(CompactHeadUse {
            bytes: self.compact_head?,
            tokens,
            certified,
            exact_rows,
        })
    }

    fn changed_values(&self) -> Option<u64> {
        (!self.injectors.is_empty()).then(|| self.injectors.changed())
    }
}

fn vocab_facts(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<VocabFacts, Refusal> {
    let text = |id: Option<u32>| id.and_then(|id| tokenizer.piece(id)).map(facts::text);
    Ok(VocabFacts {
        n_vocab: tokenizer.n_vocab(),
        bos: text(tokenizer.bos()),
        eos: text(tokenizer.eos()),
        add_bos: tokenizer.adds_bos(),
        ..facts::vocab(gguf.metadata())?
    })
}

fn no_model() -> Refusal {
    Refusal::new(ErrorKind::Usage, "no model is loaded")
}

fn not_configured() -> Refusal {
    Refusal::new(ErrorKind::Usage, "the engine is not configured")
}

/// Sends the taps asked for, and takes the driver's values for them.
struct TapObserver<'a> {
    request: &'a EvalRequest<'a>,
    stream: &'a mut TapStream,
    injectors: &'a mut Injectors,
}

impl Observer for TapObserver<'_> {
    fn tap(&mut self, mut view: TapView<'_>) -> Result<(), ObserverError> {
        self.injectors.alter(&mut view)?;
        if self.request.taps.contains(&view.tap) {
            let header = TapHeader {
                tap: view.tap,
                layer: view.layer,
                first_position: view.first_position,
                rows: view.n_tokens,
                width: view.width,
            };
            let bytes = match &mut view.data {
                TapData::F32(values) => bytemuck::cast_slice_mut(values),
                TapData::F16(values) => bytemuck::cast_slice_mut(values),
            };
            self.stream.send(header, bytes, self.request.overwrite)?;
        }
        self.injectors.remember(&view);
        Ok(())
    }
}
