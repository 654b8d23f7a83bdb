//! The engine `bitnet.cpp`: BitNet.cpp, or llama.cpp, as linked into this binary.
//!
//! Newer generations repack weights when they load them, and use flash attention where they can: other kernels, and of
//! attention no probabilities to show. Where taps may be asked for ([`Settings::observe`]) both are off, and every stage
//! is what the graph says. Elsewhere (times, and logits that nobody observes) the library runs as people run it. Since
//! repacking is decided at load, the file is loaded a second time when taps are first wanted; most of it is mapped, and
//! takes no memory twice.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bitnet_model::check::{check_weights, zero_tensors};
use bitnet_model::gguf::{Gguf, TensorType};
use bitnet_model::tap::Tap;
use bitnet_model::{Activation, Architecture, Hyperparameters};
use bitnet_sys::{
    Context, ContextOptions, LoadOptions, Logits, Model, Node, NodeInfo, NodeObserver, Severity,
    Values,
};

use super::graph_products;
use super::nodes::{self, Layout, NodeMap, Outline, Place, Shape};
use crossval_protocol::{
    self as protocol, Backend, DecodeOptions, DriverGone, EncodeOptions, ErrorKind, EvalRequest,
    Graph, GraphNode, GraphSource, Graphs, Hello, KernelTimes, ModelFacts, Refusal, Settings,
    TakenFor, TapHeader, TapStream, VocabFacts, facts,
};

/// Tokens of the graph that shows what an evaluation of several is: a number that no other size of a small model is.
const SEVERAL: usize = 3;
/// Positions of a context that is there for its graph alone.
const SHORT_CONTEXT: u32 = 32;

/// BitNet.cpp behind the protocol.
#[derive(Default)]
pub(crate) struct BitnetCppBackend {
    /// What the model is taken to have; the library computes what it does.
    activation: Option<Activation>,
    loaded: Option<Loaded>,
    /// Where that is from.
    path: PathBuf,
    /// Loaded without its weights.
    vocab: Option<Model>,
    context: Option<Context>,
    /// Its size as asked for.
    n_ctx: usize,
}

/// A model, and what is known of it.
struct Loaded {
    /// As people run it.
    model: Arc<Model>,
    /// The same with its weights as they are in the file, where the library repacks them; from when taps are wanted.
    plain: Option<Arc<Model>>,
    shape: Shape,
    /// What its graphs are, once somebody has asked.
    nodes: Option<(NodeMap, Graphs)>,
}

impl Loaded {
    /// The model, for evaluations of which taps may be asked or not.
    fn model_for(&mut self, observe: bool, path: &Path) -> Result<Arc<Model>, Refusal> {
        if !observe || !bitnet_sys::library().repacks {
            return Ok(Arc::clone(&self.model));
        }
        if let Some(plain) = &self.plain {
            return Ok(Arc::clone(plain));
        }
        let options = LoadOptions {
            repack: false,
            ..LoadOptions::default()
        };
        let plain = Arc::new(Model::load(path, options).map_err(refused)?);
        pass_on_warnings();
        Ok(Arc::clone(self.plain.insert(plain)))
    }

    fn nodes(&mut self, path: &Path) -> Result<&(NodeMap, Graphs), Refusal> {
        let nodes = match self.nodes.take() {
            Some(nodes) => nodes,
            None => {
                let plain = self.model_for(true, path)?;
                let [one, several] = [1, SEVERAL].map(|n| graph(&plain, n));
                NodeMap::new(one?, several?, &self.shape)
            }
        };
        Ok(self.nodes.insert(nodes))
    }
}

/// The graph of an evaluation of `n_tokens`, which is evaluated for that.
fn graph(model: &Arc<Model>, n_tokens: usize) -> Result<Graph, Refusal> {
    let options = ContextOptions {
        n_ctx: SHORT_CONTEXT,
        n_batch: SHORT_CONTEXT,
        n_ubatch: SHORT_CONTEXT,
        flash_attn: false,
        observe: true,
        ..ContextOptions::default()
    };
    let mut context = Context::new(model, options).map_err(refused)?;
    let mut lister = Lister::default();
    let tokens = vec![0; n_tokens];
    context
        .decode(&tokens, 0, Logits::All, Some(&mut lister))
        .map_err(refused)?;
    Ok(Graph {
        n_tokens,
        nodes: lister.nodes,
    })
}

/// Lists the nodes of an evaluation, whatever their values.
#[derive(Default)]
struct Lister {
    nodes: Vec<GraphNode>,
    /// Their places in that list.
    indices: HashMap<usize, usize>,
}

impl NodeObserver for Lister {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        let sources = node.sources.iter().map(|source| {
            let index = self.indices.get(&source.id);
            match index {
                Some(&index) => GraphSource::Node(index),
                None => GraphSource::Tensor(source.name.to_owned()),
            }
        });
        let dimensions = node.shape.iter().rposition(|&n| n != 1);
        let listed = GraphNode {
            name: node.name.to_owned(),
            op: node.op.to_owned(),
            shape: node.shape[..dimensions.map_or(1, |last| last + 1)].to_vec(),
            ty: node.type_name.to_owned(),
            sources: sources.collect(),
            taken_for: TakenFor::Unknown,
        };
        self.indices.insert(node.id, self.nodes.len());
        self.nodes.push(listed);
        false
    }

    fn node(&mut self, _: &mut Node<'_>) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

fn refused(e: bitnet_sys::Error) -> Refusal {
    use bitnet_sys::Error as E;
    let kind = match e {
        E::Load { .. } | E::NoTokenizer => ErrorKind::BadModel,
        E::Token { .. }
        | E::ContextFull { .. }
        | E::BatchTooLarge { .. }
        | E::EmptyBatch
        | E::Position { .. } => ErrorKind::Usage,
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

    fn model(&self) -> Result<&Arc<Model>, Refusal> {
        let loaded = self.loaded.as_ref().ok_or_else(no_model)?;
        Ok(&loaded.model)
    }

    fn tokenizer(&self) -> Result<&Model, Refusal> {
        match &self.vocab {
            Some(vocab) => Ok(vocab),
            None => Ok(self.model()?),
        }
    }

    fn context(&mut self) -> Result<&mut Context, Refusal> {
        self.context
            .as_mut()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "the engine is not configured"))
    }
}

fn no_model() -> Refusal {
    Refusal::new(ErrorKind::Usage, "no model is loaded")
}

impl Backend for BitnetCppBackend {
    fn hello(&self) -> Hello {
        let library = bitnet_sys::library();
        let architectures: Vec<String> = nodes::architectures(&library.vintage)
            .map(str::to_owned)
            .collect();
        let build = [
            ("language", "C and C++".to_owned()),
            ("vintage", library.vintage),
            ("source", library.source_dir),
            ("compiler", library.compiler),
            ("cpu_level", library.cpu_level),
            ("c_flags", library.c_flags),
            ("cxx_flags", library.cxx_flags),
            ("options", library.options),
            ("cpu_features", library.cpu_features),
            // Both are off while taps may be asked for.
            ("repacks_weights", library.repacks.to_string()),
            ("flash_attn", library.flash_attn),
        ];
        Hello {
            protocol: protocol::VERSION,
            engine: bitnet_sys::name().to_lowercase(),
            version: Some(library.revision),
            build: build.map(|(k, v)| (k.to_owned(), v)).into(),
            architectures,
            taps: Tap::ALL.to_vec(),
            overwrite: true,
            // The ids are those of ggml and of its fork here, which has products of all of these.
            dtypes: TensorType::KNOWN.iter().map(|ty| ty.to_string()).collect(),
            tokenizer: true,
            judges: false,
            graphs: true,
        }
    }

    fn load(&mut self, path: &Path) -> Result<ModelFacts, Refusal> {
        let gguf = checked(path)?;
        let model = Arc::new(Model::load(path, LoadOptions::default()).map_err(refused)?);
        pass_on_warnings();
        let known = model.facts();
        let vocab = known
            .has_tokenizer
            .then(|| vocab_facts(&gguf, &model))
            .transpose()?;
        let (shape, read) = match Architecture::named(&known.architecture) {
            Some(_) => {
                let shape = Hyperparameters::read_as(&gguf, self.activation)?;
                let read = facts::model(&gguf, &shape);
                (Shape::Whole(shape), read)
            }
            None => {
                let outline = Outline {
                    n_layer: known.n_layer as usize,
                    n_embd: known.n_embd as usize,
                    n_vocab: known.n_vocab as usize,
                };
                let read = facts::outline(&gguf, &known.architecture);
                (Shape::Outline(outline), read)
            }
        };
        // The sizes are the library's own reading of the file.
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
        self.loaded = Some(Loaded {
            model,
            plain: None,
            shape,
            nodes: None,
        });
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

    fn graphs(&mut self) -> Result<Graphs, Refusal> {
        let loaded = self.loaded.as_mut().ok_or_else(no_model)?;
        let (_, graphs) = loaded.nodes(&self.path)?;
        Ok(graphs.clone())
    }

    fn time_kernels(&mut self) -> Result<KernelTimes, Refusal> {
        let loaded = self.loaded.as_ref().ok_or_else(no_model)?;
        graph_products::measure(&loaded.model).map_err(refused)
    }

    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal> {
        let as_u32 = |n: usize| u32::try_from(n).map_err(refuse);
        let observe = settings.observe;
        let loaded = self.loaded.as_mut().ok_or_else(no_model)?;
        let model = loaded.model_for(observe, &self.path)?;
        let options = ContextOptions {
            n_ctx: as_u32(settings.n_ctx)?,
            n_batch: as_u32(settings.n_ctx)?,
            n_ubatch: as_u32(settings.n_ubatch)?,
            threads: as_u32(settings.threads)?,
            flash_attn: !observe,
            observe,
        };
        let context = Context::new(&model, options).map_err(refused)?;
        let library = bitnet_sys::library();
        let flash_attn = match observe {
            true => false.to_string(),
            false => library.flash_attn,
        };
        let recorded = [
            ("n_ctx", context.n_ctx().to_string()),
            ("n_batch", context.n_batch().to_string()),
            ("n_ubatch", context.n_ubatch().to_string()),
            ("threads", settings.threads.to_string()),
            ("flash_attn", flash_attn),
            (
                "repacked_weights",
                (!observe && library.repacks).to_string(),
            ),
            ("kv_cache", "F16".to_owned()),
        ];
        self.context = Some(context);
        self.n_ctx = settings.n_ctx;
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
        let loaded = self.loaded.as_mut().ok_or_else(no_model)?;
        let context = self
            .context
            .as_mut()
            .ok_or_else(|| Refusal::new(ErrorKind::Usage, "the engine is not configured"))?;
        // The library rounds its context up.
        let end = request.first_position + request.tokens.len();
        if end > self.n_ctx {
            let n_ctx = self.n_ctx;
            let what = format!("positions up to {end} do not fit the context of {n_ctx}");
            return Err(Refusal::new(ErrorKind::Usage, what));
        }
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
            let (nodes, _) = loaded.nodes(&self.path)?;
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
    fn place(&self, node: &NodeInfo<'_>) -> Option<Place> {
        let n_tokens = self.request.tokens.len();
        let key = nodes::key(node.name, node.sources.iter().map(|source| source.name));
        self.nodes
            .place(n_tokens, key, node.op, node.occurrence)
            .filter(|place| self.request.taps.contains(&place.tap))
    }

    fn send(&mut self, node: &mut Node<'_>) -> Result<(), Refusal> {
        let Some(Place { tap, layer, layout }) = self.place(&node.info) else {
            return Ok(());
        };
        let mut values = match layout {
            Layout::Written => node.written(),
            _ => node.values(),
        }
        .map_err(refuse)?;
        let n_values = match &values {
            Values::F32(values) => values.len(),
            Values::F16(values) => values.len(),
        };
        let rows = Rows::of(layout, &node.info, self.request, n_values).ok_or_else(|| {
            refuse(format!(
                "node {} ({}) has shape {:?} and type {} for {} tokens",
                node.info.name,
                node.info.op,
                node.info.shape,
                node.info.type_name,
                self.request.tokens.len()
            ))
        })?;
        let mut bytes = match &values {
            Values::F32(values) => rows.take(values),
            Values::F16(values) => rows.take(values),
        };
        let header = TapHeader {
            tap,
            layer,
            first_position: self.request.first_position,
            rows: rows.n_tokens,
            width: rows.width,
        };
        let overwrite = self.request.overwrite;
        self.stream
            .send(header, &mut bytes, overwrite)
            .map_err(|e: DriverGone| refuse(e))?;
        if !overwrite {
            return Ok(());
        }
        match &mut values {
            Values::F32(values) => rows.put(&bytes, values),
            Values::F16(values) => rows.put(&bytes, values),
        }
        match layout {
            Layout::Written => node.replace_written(&values),
            _ => node.replace(&values),
        }
        .map_err(refuse)
    }
}

impl NodeObserver for TapObserver<'_> {
    fn wants(&mut self, node: &NodeInfo<'_>) -> bool {
        self.place(node).is_some()
    }

    fn node(&mut self, node: &mut Node<'_>) -> ControlFlow<()> {
        match self.send(node) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                self.error = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// How a node's values become the rows of its tap, and back.
struct Rows {
    layout: Layout,
    n_tokens: usize,
    /// Values of a row.
    width: usize,
    /// Positions in the cache, and as many as attention rounds them up to.
    n_kv: usize,
    n_padded: usize,
}

impl Rows {
    fn of(
        layout: Layout,
        node: &NodeInfo<'_>,
        request: &EvalRequest,
        n_values: usize,
    ) -> Option<Rows> {
        let n_tokens = request.tokens.len();
        let n_kv = request.first_position + n_tokens;
        let [first, second, third, _] = node.shape.map(|n| usize::try_from(n).unwrap_or(0));
        let width = n_values.checked_div(n_tokens).filter(|&width| width > 0)?;
        let (fits, width) = match layout {
            Layout::Rows | Layout::Written => (width * n_tokens == n_values, width),
            Layout::Columns => ((first, second) == (n_tokens, width), width),
            Layout::Probabilities => {
                let whole = second == n_tokens && first >= n_kv;
                (whole && first * third == width, third * n_kv)
            }
        };
        fits.then_some(Rows {
            layout,
            n_tokens,
            width,
            n_kv,
            n_padded: first,
        })
    }

    /// Where the node has each value of the rows.
    fn places(&self) -> impl Iterator<Item = usize> {
        let &Rows {
            layout,
            n_tokens,
            width,
            n_kv,
            n_padded,
        } = self;
        (0..n_tokens).flat_map(move |token| {
            (0..width).map(move |i| match layout {
                Layout::Rows | Layout::Written => token * width + i,
                Layout::Columns => i * n_tokens + token,
                Layout::Probabilities => {
                    let (head, position) = (i / n_kv, i % n_kv);
                    (head * n_tokens + token) * n_padded + position
                }
            })
        })
    }

    fn take<T: bytemuck::NoUninit>(&self, values: &[T]) -> Vec<u8> {
        let rows: Vec<T> = self.places().map(|at| values[at]).collect();
        bytemuck::cast_slice(&rows).to_vec()
    }

    fn put<T: bytemuck::AnyBitPattern>(&self, bytes: &[u8], values: &mut [T]) {
        let rows = bytes.chunks_exact(size_of::<T>());
        for (value, at) in rows.map(bytemuck::pod_read_unaligned).zip(self.places()) {
            values[at] = value;
        }
    }
}
