//! The engine `bitnet.cpp`: BitNet.cpp as linked into this binary.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_model::check::{check_weights, zero_tensors};
use bitnet_model::gguf::{Gguf, TensorType};
use bitnet_model::tap::Tap;
use bitnet_model::{Activation, Hyperparameters};
use bitnet_sys::{
    Context, ContextOptions, LoadOptions, Logits, Model, Node, NodeInfo, NodeObserver, Severity,
    Values,
};

use super::nodes::{self, NodeMap};
use crossval_protocol::{
    self as protocol, Backend, DecodeOptions, DriverGone, EncodeOptions, ErrorKind, EvalRequest,
    Hello, ModelFacts, Refusal, Settings, TapHeader, TapStream, VocabFacts, facts,
};

/// BitNet.cpp behind the protocol.
#[derive(Default)]
pub(crate) struct BitnetCppBackend {
    /// What the model is taken to have; the library computes what it does.
    activation: Option<Activation>,
    loaded: Option<(Arc<Model>, NodeMap)>,
    /// Where that is from.
    path: PathBuf,
    /// Loaded without its weights.
    vocab: Option<Model>,
    context: Option<Context>,
}

fn refused(e: bitnet_sys::Error) -> Refusal {
    use bitnet_sys::Error as E;
    let kind = match e {
        E::Load { .. } | E::NoTokenizer => ErrorKind::BadModel,
        E::Token { .. } | E::ContextFull { .. } | E::BatchTooLarge { .. } | E::EmptyBatch => {
            ErrorKind::Usage
        }
        _ => ErrorKind::Internal,
    };
    Refusal::new(kind, e)
}

fn refuse(e: impl ToString) -> Refusal {
    Refusal::new(ErrorKind::Internal, e)
}

/// The file by our own reader, before the library sees it: it names what is wrong with a container, where the library
/// aborts or reads out of bounds.
fn checked(path: &Path) -> Result<Gguf, Refusal> {
    Gguf::open(path).map_err(|e| Refusal::new(ErrorKind::BadModel, e))
}

impl BitnetCppBackend {
    pub(crate) fn new(activation: Option<Activation>) -> BitnetCppBackend {
        BitnetCppBackend {
            activation,
            ..BitnetCppBackend::default()
        }
    }

    fn model(&self) -> Result<&(Arc<Model>, NodeMap), Refusal> {
        self.loaded
            .as_ref()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "no model is loaded"))
    }

    fn tokenizer(&self) -> Result<&Model, Refusal> {
        match &self.vocab {
            Some(vocab) => Ok(vocab),
            None => Ok(&self.model()?.0),
        }
    }

    fn context(&mut self) -> Result<&mut Context, Refusal> {
        self.context
            .as_mut()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "the engine is not configured"))
    }
}

impl Backend for BitnetCppBackend {
    fn hello(&self) -> Hello {
        let library = bitnet_sys::library();
        let architectures = nodes::architectures(&library.vintage);
        let build = [
            ("vintage", library.vintage),
            ("source", library.source_dir),
            ("compiler", library.compiler),
            ("c_flags", library.c_flags),
            ("cxx_flags", library.cxx_flags),
            ("options", library.options),
            ("cpu_features", library.cpu_features),
        ];
        Hello {
            protocol: protocol::VERSION,
            engine: "bitnet.cpp".into(),
            version: Some(library.revision),
            build: build.map(|(k, v)| (k.to_owned(), v)).into(),
            architectures: architectures.map(str::to_owned).collect(),
            taps: Tap::ALL.to_vec(),
            overwrite: false,
            // The ids are those of ggml and of its fork here, which has products of all of these.
            dtypes: TensorType::KNOWN.iter().map(|ty| ty.to_string()).collect(),
            tokenizer: true,
            judges: false,
        }
    }

    fn load(&mut self, path: &Path) -> Result<ModelFacts, Refusal> {
        let gguf = checked(path)?;
        let model = Arc::new(Model::load(path, LoadOptions::default()).map_err(refused)?);
        pass_on_warnings();
        let known = model.facts();
        let architecture = known.architecture.clone();
        let names = gguf.tensors().iter().map(|t| t.name.clone());
        let nodes = NodeMap::new(&architecture, names).ok_or_else(|| {
            Refusal::new(
                ErrorKind::BadModel,
                format!(
                    "{}: the graph of architecture {architecture:?} is not known",
                    path.display()
                ),
            )
        })?;
        let vocab = known
            .has_tokenizer
            .then(|| vocab_facts(&gguf, &model))
            .transpose()?;
        // The sizes are the library's own reading of the file.
        let shape = Hyperparameters::read_as(&gguf, self.activation)?;
        let read = facts::model(&gguf, &shape);
        let or_read = |known: Option<u32>, read| known.map_or(read, |n| n as usize);
        let facts = ModelFacts {
            n_layer: known.n_layer as usize,
            n_embd: known.n_embd as usize,
            n_head: or_read(known.n_head, read.n_head),
            n_head_kv: or_read(known.n_head_kv, read.n_head_kv),
            n_vocab: known.n_vocab as usize,
            n_ctx_train: known.n_ctx_train as usize,
            vocab,
            ..read
        };
        self.loaded = Some((model, nodes));
        self.vocab = None;
        self.path = path.to_owned();
        Ok(facts)
    }

    fn check_weights(&self) -> Result<Vec<String>, Refusal> {
        let findings = check_weights(&checked(&self.path)?);
        findings.map_err(|e| Refusal::new(ErrorKind::BadModel, e))
    }

    fn zero_tensors(&self) -> Result<Vec<String>, Refusal> {
        let zero = zero_tensors(&checked(&self.path)?);
        zero.map_err(|e| Refusal::new(ErrorKind::BadModel, e))
    }

    fn load_vocab(&mut self, path: &Path) -> Result<VocabFacts, Refusal> {
        let options = LoadOptions {
            vocab_only: true,
            ..LoadOptions::default()
        };
        let gguf = checked(path)?;
        let model = Model::load(path, options).map_err(refused)?;
        pass_on_warnings();
        let facts = vocab_facts(&gguf, &model)?;
        self.vocab = Some(model);
        Ok(facts)
    }

    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        let as_u32 = |n: usize| u32::try_from(n).map_err(refuse);
        let model = &self.model()?.0;
        let options = ContextOptions {
            n_ctx: as_u32(settings.n_ctx)?,
            n_batch: as_u32(settings.n_ctx)?,
            n_ubatch: as_u32(settings.n_ubatch)?,
            threads: as_u32(settings.threads)?,
            flash_attn: false,
            observe: settings.observe,
        };
        let context = Context::new(model, options).map_err(refused)?;
        let recorded = [
            ("n_ctx", context.n_ctx().to_string()),
            ("n_batch", context.n_batch().to_string()),
            ("n_ubatch", context.n_ubatch().to_string()),
            ("threads", settings.threads.to_string()),
            ("flash_attn", options.flash_attn.to_string()),
            ("kv_cache", "F16".to_owned()),
        ];
        self.context = Some(context);
        Ok(recorded.map(|(k, v)| (k.to_owned(), v)).into())
    }

    fn tokenize(&mut self, text: &[u8], options: EncodeOptions) -> Result<Vec<u32>, Refusal> {
        let EncodeOptions {
            add_special,
            parse_special,
        } = options;
        self.tokenizer()?
            .tokenize(text, add_special, parse_special)
            .map_err(refused)
    }

    fn detokenize(&mut self, ids: &[u32], options: DecodeOptions) -> Result<Vec<u8>, Refusal> {
        let DecodeOptions {
            remove_special,
            unparse_special,
        } = options;
        self.tokenizer()?
            .detokenize(ids, remove_special, unparse_special)
            .map_err(refused)
    }

    fn piece(&mut self, id: u32) -> Result<Vec<u8>, Refusal> {
        self.tokenizer()?.token_to_piece(id, true).map_err(refused)
    }

    fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal> {
        let (_, nodes) = self
            .loaded
            .as_ref()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "no model is loaded"))?;
        let context = self
            .context
            .as_mut()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "the engine is not configured"))?;
        if request.first_position == 0 {
            context.kv_clear();
        }
        let first = u32::try_from(request.first_position).map_err(refuse)?;
        if request.taps.is_empty() {
            let logits = if request.last_logits {
                Logits::Last
            } else {
                Logits::None
            };
            context
                .decode(request.tokens, first, logits, None)
                .map_err(refused)?;
        } else {
            let mut observer = TapObserver {
                nodes,
                request,
                stream: taps,
                error: None,
            };
            // All rows, or the last layer's taps lack some.
            let result = context.decode(request.tokens, first, Logits::All, Some(&mut observer));
            if let Some(error) = observer.error {
                return Err(error);
            }
            result.map_err(refused)?;
        }
        if request.last_logits {
            let last = context.logits(request.tokens.len() - 1);
            Ok(last.map_err(refused)?.to_vec())
        } else {
            Ok(Vec::new())
        }
    }

    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal> {
        let context = self.context()?;
        context.kv_clear();
        next_token(context, tokens, 0)
    }

    fn decode(&mut self, token: u32) -> Result<u32, Refusal> {
        let context = self.context()?;
        let position = context.n_past();
        next_token(context, &[token], position)
    }
}

/// To the log of the worker, which the driver reads: the library may know that what it runs is not what was meant.
fn pass_on_warnings() {
    let lines = bitnet_sys::take_log().into_iter();
    for line in lines.filter(|line| line.severity != Severity::Note) {
        eprintln!("{}", line.text);
    }
}

fn next_token(context: &mut Context, tokens: &[u32], position: u32) -> Result<u32, Refusal> {
    context
        .decode(tokens, position, Logits::Last, None)
        .map_err(refused)?;
    let logits = context.logits(tokens.len() - 1).map_err(refused)?;
    Ok(bitnet_core::sampling::greedy(logits))
}

fn vocab_facts(gguf: &Gguf, model: &Model) -> Result<VocabFacts, Refusal> {
    let known = model.facts();
    let text = |id: Option<u32>| -> Result<Option<String>, Refusal> {
        let piece = id.map(|id| model.token_to_piece(id, true)).transpose();
        let piece = piece.map_err(refused)?;
        Ok(piece.map(|piece| facts::text(&piece)))
    };
    Ok(VocabFacts {
        n_vocab: known.n_vocab as usize,
        bos: text(known.bos)?,
        eos: text(known.eos)?,
        add_bos: known.add_bos,
        ..facts::vocab(gguf.metadata())?
    })
}

/// Sends the nodes that are taps.
struct TapObserver<'a> {
    nodes: &'a NodeMap,
    request: &'a EvalRequest<'a>,
    stream: &'a mut TapStream,
    error: Option<Refusal>,
}

impl TapObserver<'_> {
    fn tap(&self, node: &NodeInfo<'_>) -> Option<(Tap, Option<usize>)> {
        self.nodes
            .tap(node.name, node.op, node.occurrence)
            .filter(|(tap, _)| self.request.taps.contains(tap))
    }

    fn send(&mut self, node: &Node<'_>) -> Result<(), Refusal> {
        let Some((tap, layer)) = self.tap(&node.info) else {
            return Ok(());
        };
        let (width, mut bytes) = rows(tap, node, self.request)?;
        let header = TapHeader {
            tap,
            layer,
            first_position: self.request.first_position,
            rows: self.request.tokens.len(),
            width,
        };
        self.stream
            .send(header, &mut bytes, false)
            .map_err(|e: DriverGone| refuse(e))
    }
}

impl NodeObserver for TapObserver<'_> {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        self.tap(node).is_some()
    }

    fn node(&mut self, node: &Node<'_>) -> ControlFlow<()> {
        match self.send(node) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// A node's values as the rows of its tap, with their width.
fn rows(tap: Tap, node: &Node<'_>, request: &EvalRequest) -> Result<(usize, Vec<u8>), Refusal> {
    let n_tokens = request.tokens.len();
    let shape = node.info.shape.map(|n| usize::try_from(n).unwrap_or(0));
    let unexpected = || {
        refuse(format!(
            "node {} ({}) has shape {:?} and type {} for {n_tokens} tokens",
            node.info.name, node.info.op, node.info.shape, node.info.type_name
        ))
    };
    let values = node.values().map_err(refuse)?;
    let elements: usize = shape.iter().product();
    if n_tokens == 0 || elements == 0 || !elements.is_multiple_of(n_tokens) {
        return Err(unexpected());
    }
    match (tap, values) {
        // [n_kv padded, n_tokens, n_head]
        (Tap::AttnProbs, Values::F32(probs)) => {
            let [n_padded, rows, n_head, _] = shape;
            let n_kv = request.first_position + n_tokens;
            if rows != n_tokens || n_padded < n_kv {
                return Err(unexpected());
            }
            let mut out = Vec::with_capacity(n_tokens * n_head * n_kv);
            for token in 0..n_tokens {
                for head in 0..n_head {
                    let start = (head * n_tokens + token) * n_padded;
                    out.extend_from_slice(&probs[start..start + n_kv]);
                }
            }
            Ok((n_head * n_kv, bytemuck::cast_slice(&out).to_vec()))
        }
        // The V cache is stored transposed: [n_tokens, width].
        (Tap::VCache, Values::F16(values)) if shape[0] == n_tokens && shape[2] == 1 => {
            let width = shape[1];
            let rows: Vec<half::f16> = (0..n_tokens)
                .flat_map(|token| (0..width).map(move |i| (token, i)))
                .map(|(token, i)| values[i * n_tokens + token])
                .collect();
            Ok((width, bytemuck::cast_slice(&rows).to_vec()))
        }
        (Tap::KCache, Values::F16(values)) => {
            Ok((elements / n_tokens, bytemuck::cast_slice(&values).to_vec()))
        }
        (Tap::VCache | Tap::KCache, _) => Err(unexpected()),
        (_, Values::F32(values)) => {
            Ok((elements / n_tokens, bytemuck::cast_slice(&values).to_vec()))
        }
        _ => Err(unexpected()),
    }
}
