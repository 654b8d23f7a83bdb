//! The serve loop: an engine in a process of its own, behind the protocol.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::time::Instant;

use crate::{
    self as protocol, CompactHeadUse, DecodeOptions, EncodeOptions, ErrorKind, EvalRequest,
    FrameError, Graphs, Hello, JudgeRequest, KernelTimes, ModelFacts, Request, Response,
    RoundingSpread, Settings, TapHeader, Usage, VocabFacts,
};

/// What a request came to nothing for, as it goes over the wire.
#[derive(Debug)]
pub struct Refusal {
    /// What kind.
    pub kind: ErrorKind,
    /// One sentence that names the thing.
    pub message: String,
}

impl Refusal {
    /// For whatever can be said of it.
    pub fn new(kind: ErrorKind, message: impl ToString) -> Refusal {
        Refusal {
            kind,
            message: message.to_string(),
        }
    }
}

impl From<bitnet_model::Error> for Refusal {
    fn from(e: bitnet_model::Error) -> Refusal {
        use bitnet_model::ErrorKind as K;
        let kind = match e.kind() {
            K::Io | K::BadFile | K::Unsupported | K::MissingTensor => ErrorKind::BadModel,
            K::Usage => ErrorKind::Usage,
            _ => ErrorKind::Internal,
        };
        Refusal::new(kind, e)
    }
}

/// For `?` behind [`TapStream::send`]: nobody reads it, the serve loop ends.
impl From<DriverGone> for Refusal {
    fn from(e: DriverGone) -> Refusal {
        Refusal::new(ErrorKind::Internal, e)
    }
}

/// An engine, as the serve loop sees it. The calls come in the order of the trait.
pub trait Backend {
    /// Who it is and what it can do.
    fn hello(&self) -> Hello;
    /// Loads a model file.
    fn load(&mut self, model: &Path) -> Result<ModelFacts, Refusal>;
    /// Instead of [`Backend::load`].
    fn load_vocab(&mut self, _model: &Path) -> Result<VocabFacts, Refusal> {
        Err(no_tokenizer())
    }
    /// What no file should hold, one finding per tensor.
    fn check_weights(&self) -> Result<Vec<String>, Refusal> {
        Err(Refusal::new(
            ErrorKind::Usage,
            "this engine does not look through weights",
        ))
    }
    /// Tensors, biases aside, whose every weight is 0.
    fn zero_tensors(&self) -> Result<Vec<String>, Refusal> {
        Ok(Vec::new())
    }
    /// What its library evaluates for the loaded model.
    fn graphs(&mut self) -> Result<Graphs, Refusal> {
        Err(Refusal::new(ErrorKind::Usage, "this engine has no graphs"))
    }
    /// Makes ready to evaluate, with an empty cache; returns every setting that it runs with.
    fn configure(&mut self, settings: Settings) -> Result<BTreeMap<String, String>, Refusal>;
    /// Text, which need not be UTF-8, to token IDs.
    fn tokenize(&mut self, _text: &[u8], _options: EncodeOptions) -> Result<Vec<u32>, Refusal> {
        Err(no_tokenizer())
    }
    /// Token IDs to text.
    fn detokenize(&mut self, _ids: &[u32], _options: DecodeOptions) -> Result<Vec<u8>, Refusal> {
        Err(no_tokenizer())
    }
    /// What a token adds to a text that others precede; of a control token, its name.
    fn piece(&mut self, _id: u32) -> Result<Vec<u8>, Refusal> {
        Err(no_tokenizer())
    }
    /// Evaluates a batch, and sends the taps that are asked for as soon as they are computed. Returns the last token's
    /// logits, if those are.
    fn eval(&mut self, request: &EvalRequest, taps: &mut TapStream) -> Result<Vec<f32>, Refusal>;
    /// Clears the sequence, evaluates the prompt, returns the most likely next token.
    fn prefill(&mut self, tokens: &[u32]) -> Result<u32, Refusal>;
    /// Evaluates one more token, returns the most likely next one.
    fn decode(&mut self, token: u32) -> Result<u32, Refusal>;
    /// Judges rows of a stage. `tokens` are the batch's, `values` the inputs and the rows.
    fn judge(
        &mut self,
        _request: &JudgeRequest,
        _tokens: &[u32],
        _values: &[u8],
    ) -> Result<Response, Refusal> {
        Err(Refusal::new(ErrorKind::Usage, "this engine does not judge"))
    }
    /// What roundings make of the logits of a sequence, of those from `first_position` on.
    fn spread(
        &mut self,
        _tokens: &[u32],
        _first_position: usize,
    ) -> Result<Vec<RoundingSpread>, Refusal> {
        Err(Refusal::new(ErrorKind::Usage, "this engine does not judge"))
    }
    /// Times its matrix products, and the quantisers before them, at the shapes of the loaded model.
    fn time_kernels(&mut self) -> Result<KernelTimes, Refusal> {
        Err(Refusal::new(
            ErrorKind::Usage,
            "this engine does not time its kernels",
        ))
    }
    /// What became of the compact head.
    fn compact_head(&self) -> Option<CompactHeadUse> {
        None
    }
    /// Values that a deliberate fault has changed so far.
    fn changed_values(&self) -> Option<u64> {
        None
    }
}

fn no_tokenizer() -> Refusal {
    Refusal::new(ErrorKind::Usage, "this engine has no tokenizer")
}

/// The pipes to the driver. Taps go out, replacements come in.
pub struct TapStream {
    input: Box<dyn Read>,
    output: Box<dyn Write>,
    payload: Vec<u8>,
    /// A pipe broke within an evaluation: there is nobody to answer to.
    broken: bool,
}

/// A pipe that broke: there is nobody left to work for.
#[derive(Debug, thiserror::Error)]
#[error("the driver is gone: {0}")]
pub struct DriverGone(#[from] FrameError);

impl From<io::Error> for DriverGone {
    fn from(e: io::Error) -> Self {
        DriverGone(FrameError::Io(e))
    }
}

impl TapStream {
    /// Sends all rows of a tap in pieces. With `overwrite`, `values` holds the replacements afterwards.
    ///
    /// # Errors
    /// If the driver is gone: give up the evaluation.
    pub fn send(
        &mut self,
        first: TapHeader,
        values: &mut [u8],
        overwrite: bool,
    ) -> Result<(), DriverGone> {
        let sent = self.send_pieces(first, values, overwrite);
        self.broken |= sent.is_err();
        sent
    }

    fn send_pieces(
        &mut self,
        first: TapHeader,
        values: &mut [u8],
        overwrite: bool,
    ) -> Result<(), DriverGone> {
        let row_bytes = first.row_bytes();
        let rows = protocol::rows_per_frame(row_bytes);
        for (i, piece) in values.chunks_mut(rows * row_bytes).enumerate() {
            let header = TapHeader {
                first_position: first.first_position + i * rows,
                rows: piece.len() / row_bytes,
                ..first
            };
            protocol::write_frame(&mut self.output, &Response::Tap(header), piece)?;
            if overwrite {
                match protocol::read_frame(&mut self.input, &mut self.payload)? {
                    Request::Overwrite if self.payload.len() == piece.len() => {
                        piece.copy_from_slice(&self.payload);
                    }
                    Request::Keep => {}
                    other => {
                        let what = format!(
                            "{other:?} with {} bytes in answer to {} of {}",
                            self.payload.len(),
                            piece.len(),
                            header.tap
                        );
                        return Err(io::Error::new(io::ErrorKind::InvalidData, what).into());
                    }
                }
            }
        }
        Ok(())
    }

    fn respond(&mut self, response: &Response, payload: &[u8]) -> Result<(), DriverGone> {
        Ok(protocol::write_frame(&mut self.output, response, payload)?)
    }
}

/// Serves an engine on standard input and output until the driver quits or closes the pipe. What else the engine prints
/// goes to standard error. `facts` are added to [`Hello::build`].
///
/// # Errors
/// If the pipes cannot be set up, or the driver does not keep to the protocol.
pub fn serve(backend: &mut dyn Backend, facts: BTreeMap<String, String>) -> io::Result<()> {
    converse(backend, TapStream::from_standard_streams()?, facts)
}

/// Serves an engine to a driver at the other end of `input` and `output`.
///
/// # Errors
/// If the driver does not keep to the protocol.
pub fn serve_over(
    backend: &mut dyn Backend,
    input: impl Read + 'static,
    output: impl Write + 'static,
) -> io::Result<()> {
    converse(backend, TapStream::new(input, output), BTreeMap::new())
}

fn converse(
    backend: &mut dyn Backend,
    stream: TapStream,
    facts: BTreeMap<String, String>,
) -> io::Result<()> {
    match serve_requests(backend, stream, facts) {
        // A closed pipe is the driver's way of ending a worker early.
        Ok(()) | Err(DriverGone(FrameError::Closed)) => Ok(()),
        Err(DriverGone(e)) => Err(io::Error::other(e)),
    }
}

impl TapStream {
    /// Over any two ends of pipes.
    pub fn new(input: impl Read + 'static, output: impl Write + 'static) -> TapStream {
        TapStream {
            input: Box::new(input),
            output: Box::new(output),
            payload: Vec::new(),
            broken: false,
        }
    }

    /// Takes descriptors 0 and 1 away from everything else in the process: C++ libraries print.
    fn from_standard_streams() -> io::Result<TapStream> {
        let duplicate = |fd: i32| -> io::Result<File> {
            // SAFETY: dup takes any number; the result is checked, and owned by the File alone.
            unsafe {
                let copy = libc::dup(fd);
                if copy < 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(File::from_raw_fd(copy))
            }
        };
        let stream = TapStream::new(duplicate(0)?, duplicate(1)?);
        let null = File::open("/dev/null")?;
        // SAFETY: both descriptors are open; dup2 replaces 0 and 1, which nothing in this process has used yet.
        unsafe {
            libc::dup2(null.as_raw_fd(), 0);
            libc::dup2(2, 1);
        }
        Ok(stream)
    }
}

fn serve_requests(
    backend: &mut dyn Backend,
    mut stream: TapStream,
    facts: BTreeMap<String, String>,
) -> Result<(), DriverGone> {
    let mut hello = backend.hello();
    hello.build.extend(facts);
    stream.respond(&Response::Hello(hello), &[])?;
    loop {
        let request: Request = protocol::read_frame(&mut stream.input, &mut stream.payload)?;
        if request == Request::Quit {
            return Ok(());
        }
        // Of a model, it is the file that makes an answer too long.
        let (kind, what) = match &request {
            Request::Load { model } | Request::LoadVocab { model } => {
                (ErrorKind::BadModel, format!("{}: ", model.display()))
            }
            _ => (ErrorKind::Internal, String::new()),
        };
        let (response, payload) = match answer(backend, request, &mut stream) {
            Ok(answer) => answer,
            Err(Refusal { kind, message }) => (Response::Error { kind, message }, Vec::new()),
        };
        if stream.broken {
            return Err(DriverGone(FrameError::Closed));
        }
        match stream.respond(&response, &payload) {
            Err(DriverGone(FrameError::Io(e))) if e.kind() == io::ErrorKind::InvalidInput => {
                let message = format!("{what}the answer is too long: {e}");
                stream.respond(&Response::Error { kind, message }, &[])?;
            }
            responded => responded?,
        }
    }
}

fn answer(
    backend: &mut dyn Backend,
    request: Request,
    stream: &mut TapStream,
) -> Result<(Response, Vec<u8>), Refusal> {
    let response = match request {
        Request::Load { model } => {
            let start = Instant::now();
            let facts = Box::new(backend.load(&model)?);
            Response::Loaded {
                facts,
                load_ms: milliseconds(start),
            }
        }
        Request::Configure(settings) => Response::Configured {
            settings: backend.configure(settings)?,
        },
        Request::LoadVocab { model } => {
            let start = Instant::now();
            let facts = backend.load_vocab(&model)?;
            Response::VocabLoaded {
                facts,
                load_ms: milliseconds(start),
            }
        }
        Request::Tokenize {
            add_special,
            parse_special,
        } => {
            let options = EncodeOptions {
                add_special,
                parse_special,
            };
            let start = Instant::now();
            let tokens = backend.tokenize(&stream.payload, options)?;
            let ms = Some(milliseconds(start));
            return Ok((Response::Tokens { ms }, protocol::token_bytes(&tokens)));
        }
        Request::Detokenize {
            remove_special,
            unparse_special,
        } => {
            let options = DecodeOptions {
                remove_special,
                unparse_special,
            };
            let text = backend.detokenize(&token_ids(&stream.payload)?, options)?;
            return Ok((Response::Text, text));
        }
        Request::Pieces => {
            let (mut lengths, mut pieces) = (Vec::new(), Vec::new());
            for id in token_ids(&stream.payload)? {
                let piece = backend.piece(id)?;
                lengths.push(piece.len());
                pieces.extend_from_slice(&piece);
            }
            return Ok((Response::Pieces { lengths }, pieces));
        }
        Request::Eval {
            seq_id,
            first_position,
            taps,
            overwrite,
            last_logits,
        } => {
            if seq_id != 0 {
                return Err(Refusal::new(ErrorKind::Usage, "only sequence 0 is there"));
            }
            let request = EvalRequest {
                first_position,
                tokens: &batch(&stream.payload)?,
                taps: &taps,
                overwrite,
                last_logits,
            };
            let logits = backend.eval(&request, stream)?;
            let payload = if last_logits {
                bytemuck::cast_slice(&logits).to_vec()
            } else {
                Vec::new()
            };
            return Ok((Response::Evaluated, payload));
        }
        Request::CheckWeights => Response::WeightsChecked {
            findings: backend.check_weights()?,
            zero: backend.zero_tensors()?,
        },
        Request::Graphs => Response::Graphs(backend.graphs()?),
        Request::TimeKernels => Response::KernelsTimed(backend.time_kernels()?),
        Request::Generate { n_predict } => {
            return generate(backend, &batch(&stream.payload)?, n_predict);
        }
        Request::Judge(request) => {
            let n_bytes = request.n_tokens.checked_mul(size_of::<u32>());
            let parts = n_bytes.and_then(|n| stream.payload.split_at_checked(n));
            let (tokens, values) = parts.ok_or_else(|| {
                let what = format!("fewer token IDs than {}", request.n_tokens);
                Refusal::new(ErrorKind::Usage, what)
            })?;
            backend.judge(&request, &token_ids(tokens)?, values)?
        }
        Request::Spread { first_position } => Response::Spread {
            roundings: backend.spread(&batch(&stream.payload)?, first_position)?,
        },
        Request::Usage => Response::Usage(Usage {
            peak_rss_bytes: peak_rss_bytes(),
            cpu_seconds: cpu_seconds(),
            changed_values: backend.changed_values(),
            compact_head: backend.compact_head(),
        }),
        Request::Overwrite | Request::Keep | Request::Quit => {
            return Err(Refusal::new(ErrorKind::Usage, "nothing to overwrite now"));
        }
    };
    Ok((response, Vec::new()))
}

/// Token IDs of a payload.
fn token_ids(payload: &[u8]) -> Result<Vec<u32>, Refusal> {
    protocol::tokens_from_bytes(payload).ok_or_else(|| {
        let n = payload.len();
        Refusal::new(ErrorKind::Usage, format!("{n} bytes of token IDs"))
    })
}

/// Those of a batch or a prompt, at least one.
fn batch(payload: &[u8]) -> Result<Vec<u32>, Refusal> {
    match token_ids(payload)? {
        tokens if tokens.is_empty() => Err(Refusal::new(ErrorKind::Usage, "there are no tokens")),
        tokens => Ok(tokens),
    }
}

/// The loop that is timed, the same for every engine that is served here.
fn generate(
    backend: &mut dyn Backend,
    prompt: &[u32],
    n_predict: usize,
) -> Result<(Response, Vec<u8>), Refusal> {
    // Not for `n_predict` of them at once: the context may end long before.
    let (mut tokens, mut decode_ms) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let mut next = backend.prefill(prompt)?;
    let prefill_ms = milliseconds(start);
    while tokens.len() < n_predict {
        tokens.push(next);
        if tokens.len() < n_predict {
            let start = Instant::now();
            next = backend.decode(next)?;
            decode_ms.push(milliseconds(start));
        }
    }
    let generated = Response::Generated {
        prefill_ms,
        decode_ms,
    };
    Ok((generated, protocol::token_bytes(&tokens)))
}

fn milliseconds(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}

/// From /proc, which unlike getrusage does not count the driver's memory from before exec.
fn peak_rss_bytes() -> Option<u64> {
    let mut status = String::new();
    File::open("/proc/self/status")
        .ok()?
        .read_to_string(&mut status)
        .ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn cpu_seconds() -> Option<f64> {
    // SAFETY: an all-zero rusage is valid, and getrusage fills it.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        (libc::getrusage(libc::RUSAGE_SELF, &mut usage) == 0).then_some(usage)
    }?;
    let seconds = |t: libc::timeval| t.tv_sec as f64 + t.tv_usec as f64 * 1e-6;
    Some(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}
