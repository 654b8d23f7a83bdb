//! The driver's end of a worker process.

mod command;
mod consumption;
mod limits;
mod pipe;
mod process;
mod shape;
mod spec;
mod stray;
mod tokenizer;
mod warnings;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bitnet_model::Activation;
use bitnet_model::nearest::with_what_was_meant;
use bitnet_model::tap::Tap;
use reports::model::{EngineFailure, Role};
use reports::number;
use serde::Serialize;

pub(crate) use self::consumption::{Consumption, Moment, own_peak_bytes};
pub use self::limits::Limits;
use self::pipe::Timed;
use self::process::{Log, Pipes, Process, SHORT_WHILE, keep, signal_name};
pub(crate) use self::process::{bound, ending};
use self::shape::{Asked, Sizes};
pub use self::spec::{EngineSpec, built_references, this_program};
use self::stray::Kept;

use crate::error::Error;
use crate::interrupt;
use crossval_protocol::{
    self as protocol, ErrorKind, EvalRequest, FrameError, Graphs, Hello, JudgeRequest, KernelTimes,
    ModelFacts, Request, Response, RoundingSpread, RowJudgement, Settings, TapHeader, Usage,
};

/// How long a worker may take for its hello, unless it may not take that long for anything. It is there before a model is
/// loaded, and needs to know nothing.
const HELLO_TIME: Duration = Duration::from_secs(30);

/// Characters of an engine's own name, at most.
const LABEL: usize = 40;

/// How long the rest of a line is waited for that a worker wrote where its messages belong.
const LINE_TIME: Duration = Duration::from_millis(100);

/// How long a worker that is in the midst of something may take to quit, where nobody waits for that any more.
const QUIT_TIME: Duration = Duration::from_millis(100);

/// How long a worker that was told to quit or has closed its pipe may take to end: a model may have to be unmapped, and
/// the kernel may have a core to write.
const ENDING_TIME: Duration = Duration::from_secs(10);

/// How long the end of a log is waited for: a process that the worker left behind may hold the pipe open.
const LOG_END_TRIES: usize = 100;

/// Why a request to a worker came to nothing.
#[derive(Clone, Debug)]
pub enum EngineError {
    /// The worker answered with an error, and lives.
    Refused {
        /// What kind.
        kind: ErrorKind,
        /// Its message.
        message: String,
    },
    /// The worker died or broke the protocol; it is gone.
    Failed(EngineFailure),
}

/// An engine that failed in the midst of a comparison.
#[derive(Clone, Debug)]
pub struct Failed {
    /// Which of the two.
    pub role: Role,
    /// How.
    pub error: EngineError,
}

/// Makes the error of an engine that of a comparison in which it has this role.
pub fn by(role: Role) -> impl Fn(EngineError) -> Failed {
    move |error| Failed { role, error }
}

/// How workers are started.
#[derive(Clone, Debug, Default)]
pub struct Launcher {
    /// What each may take.
    pub limits: Limits,
    /// Whether this program is linked to BitNet.cpp.
    pub has_reference: bool,
    /// What the model is taken to have, whatever its file says. Engines from outside are not told.
    pub activation: Option<Activation>,
    /// How workers ended that nobody ended by [`Engine::end`].
    pub bad_ends: BadEnds,
    /// So that an engine is called alike in all that is said of it, and nobody's lie is what it is held against.
    pub known: Known,
}

/// What is known of the engines and the model of a command, for every worker that it starts. Clones are one.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<Facts>>);

#[derive(Debug, Default)]
struct Facts {
    /// What engines are called in a sentence, by the name that they were given.
    labels: BTreeMap<String, String>,
    /// What rows of the model measure, whatever an engine says.
    sizes: Option<Sizes>,
}

impl Known {
    fn with<T>(&self, look: impl FnOnce(&mut Facts) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }

    pub(crate) fn set_label(&self, engine: &str, label: &str) {
        self.with(|known| known.labels.insert(engine.to_owned(), label.to_owned()));
    }

    pub(crate) fn set_model(&self, facts: &ModelFacts) {
        self.with(|known| known.sizes = Some(Sizes::from(facts)));
    }
}

/// Workers that were told to quit and did not end as they should, by the name of their engine. Clones are one list.
#[derive(Clone, Debug, Default)]
pub struct BadEnds(Arc<Mutex<Vec<(String, EngineFailure)>>>);

impl BadEnds {
    fn push(&self, engine: &str, failure: EngineFailure) {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        all.push((engine.to_owned(), failure));
    }

    /// Takes what is there.
    pub fn take(&self) -> Vec<(String, EngineFailure)> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(|e| e.into_inner()))
    }
}

impl Launcher {
    /// The activation given, for a report.
    pub(crate) fn activation_name(&self) -> Option<String> {
        self.activation
            .map(|activation| activation.name().to_owned())
    }

    /// Starts a worker and reads its hello. With `cpus`, it is pinned to those.
    ///
    /// # Errors
    /// [`Error::Engine`] if the engine is not built, cannot be started or does not speak the protocol.
    pub fn start(&self, spec: &EngineSpec, cpus: Option<&[usize]>) -> Result<Engine, Error> {
        Engine::start(spec, self, cpus)
    }

    /// Starts one more worker in the midst of a run, whose report says why if it does not start.
    pub(crate) fn start_another(
        &self,
        spec: &EngineSpec,
        cpus: Option<&[usize]>,
    ) -> Result<Engine, EngineError> {
        self.start(spec, cpus).map_err(|e| EngineError::Refused {
            kind: ErrorKind::Internal,
            message: e.to_string(),
        })
    }
}

/// A worker process.
#[derive(Debug)]
pub struct Engine {
    name: String,
    /// What it is called in a sentence.
    label: String,
    hello: Hello,
    /// Of the model that it has loaded, as it says.
    sizes: Option<Sizes>,
    known: Known,
    /// The evaluation that it is in.
    asked_for: Asked,
    /// Taps of the hello that the loaded model's graphs lack, with the reason.
    not_offered: BTreeMap<Tap, String>,
    process: Process,
    limits: Limits,
    /// Closed once the worker was told to quit.
    stdin: Option<Timed<File>>,
    stdout: Timed<File>,
    payload: Vec<u8>,
    /// What the message that was read last begins with.
    beginning: Vec<u8>,
    log: Arc<Mutex<Log>>,
    log_reader: Option<JoinHandle<()>>,
    during: String,
    /// Whether somebody said so, and not the request itself.
    during_is_given: bool,
    /// When the last request began to be written.
    asked: Instant,
    /// From then until its answer was read.
    took: Duration,
    /// Waits for a request: it has answered the last one.
    idle: bool,
    bad_ends: BadEnds,
}

impl Engine {
    fn start(
        spec: &EngineSpec,
        launcher: &Launcher,
        cpus: Option<&[usize]>,
    ) -> Result<Engine, Error> {
        let name = spec.to_string();
        let limits = launcher.limits;
        let command = spec.command(launcher)?;
        let program = command.get_program().to_owned();
        let cannot_start = |e| {
            let program = Path::new(&program).display();
            Error::Engine(format!("engine {name}: cannot start {program}: {e}"))
        };
        let (process, pipes) =
            Process::start(command, cpus, limits.memory_bytes()).map_err(cannot_start)?;
        let mut engine = Engine::greeted(&name, process, pipes, limits, HELLO_TIME)?;
        engine.label = spec.label();
        engine.bad_ends = launcher.bad_ends.clone();
        engine.known = launcher.known.clone();
        match engine.known.with(|known| known.labels.get(&name).cloned()) {
            Some(label) => engine.label = label,
            None if spec.is_ours() => {}
            None => engine.introduce_itself(),
        }
        Ok(engine)
    }

    /// An engine that is no child process: it reads requests from `stdin` and has written its responses to `stdout`,
    /// both open already. Reads its hello.
    ///
    /// # Errors
    /// [`Error::Engine`] if what comes is not the protocol.
    pub fn over(name: &str, stdin: OwnedFd, stdout: OwnedFd) -> Result<Engine, Error> {
        let pipes = Pipes {
            stdin: stdin.into(),
            stdout: stdout.into(),
            stderr: None,
        };
        let limits = Limits::default();
        Engine::greeted(name, Process::none(), pipes, limits, HELLO_TIME)
    }

    /// Reads the hello, which is waited for so long at most.
    fn greeted(
        name: &str,
        process: Process,
        pipes: Pipes,
        limits: Limits,
        patience: Duration,
    ) -> Result<Engine, Error> {
        let no_pipe = |e| Error::Internal(format!("engine {name}: no pipe: {e}"));
        let log = Arc::new(Mutex::new(Log::default()));
        let log_reader = pipes.stderr.map(|stderr| {
            let log = Arc::clone(&log);
            std::thread::spawn(move || keep(BufReader::new(stderr), &log))
        });
        let mut engine = Engine {
            name: name.to_owned(),
            // Until it has said its own.
            label: name.to_owned(),
            sizes: None,
            known: Known::default(),
            asked_for: Asked::default(),
            hello: Hello {
                protocol: 0,
                engine: name.to_owned(),
                version: None,
                build: BTreeMap::new(),
                architectures: Vec::new(),
                taps: Vec::new(),
                overwrite: false,
                dtypes: Vec::new(),
                tokenizer: false,
                judges: false,
                graphs: false,
            },
            not_offered: BTreeMap::new(),
            process,
            limits,
            stdin: Some(Timed::new(pipes.stdin).map_err(no_pipe)?),
            stdout: Timed::new(pipes.stdout).map_err(no_pipe)?,
            payload: Vec::new(),
            beginning: Vec::new(),
            log,
            log_reader,
            during: "starting".into(),
            during_is_given: false,
            asked: Instant::now(),
            took: Duration::ZERO,
            idle: false,
            bad_ends: BadEnds::default(),
        };
        let until = Instant::now() + patience;
        let usual = limits.deadline();
        engine.stdout.deadline = usual.min(until);
        let mut pipe = Kept {
            pipe: &mut engine.stdout,
            beginning: &mut engine.beginning,
        };
        let read = protocol::read_hello(&mut pipe, &mut engine.payload);
        engine.hello = match read {
            Ok(Response::Hello(hello)) => hello,
            Ok(other) => return Err(engine.unexpected(&other).into_error(name)),
            Err(FrameError::Version(theirs)) => return Err(other_version(name, theirs)),
            Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::TimedOut && until < usual => {
                return Err(engine.no_hello(patience).into_error(name));
            }
            Err(e) => return Err(engine.failure(&e).into_error(name)),
        };
        engine.idle = true;
        Ok(engine)
    }

    /// An engine from outside by the name that it gives itself in its hello, if that is one.
    fn introduce_itself(&mut self) {
        let name = Path::new(&self.hello.engine).file_name();
        let name = name.and_then(|name| name.to_str()).unwrap_or_default();
        let n = name.chars().count();
        let is_one = (1..=LABEL).contains(&n) && !name.chars().any(char::is_control);
        // Those of ours are taken.
        if is_one && name.parse::<EngineSpec>().is_err() {
            self.label = name.to_owned();
        }
    }

    /// The name as given on the command line.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is called in a sentence: an engine from outside by the name that it gives itself.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Calls it by another name.
    pub(crate) fn set_label(&mut self, label: String) {
        self.label = label;
    }

    /// What the worker said of itself; of its taps, those that it offers for the loaded model, once
    /// [learned](Engine::learn_taps).
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Says what the engine is asked to do next, for the report in case it dies.
    pub fn set_task(&mut self, during: impl Into<String>) {
        self.during = during.into();
        self.during_is_given = true;
    }

    /// Likewise, where a request says so itself.
    fn is_to(&mut self, during: impl Into<String>) {
        self.during = during.into();
        self.during_is_given = false;
    }

    /// What it was asked to do last.
    pub fn task(&self) -> &str {
        &self.during
    }

    /// Loads a model; returns its facts and the time in milliseconds.
    ///
    /// # Errors
    /// As [`EngineError`] says; so do all requests below.
    pub fn load(&mut self, model: &Path) -> Result<(ModelFacts, f64), EngineError> {
        self.is_to(format!("loading {}", model.display()));
        match self.request(&Request::Load {
            model: model.to_owned(),
        })? {
            Response::Loaded { facts, load_ms } => {
                self.sizes = Some(Sizes::from(&*facts));
                Ok((*facts, load_ms))
            }
            other => Err(self.unexpected(&other)),
        }
    }

    /// The model has no vocabulary: its tokenizer is not asked.
    pub(crate) fn without_tokenizer(&mut self) {
        self.hello.tokenizer = false;
    }

    /// What the engine's library evaluates for the loaded model.
    pub fn graphs(&mut self) -> Result<Graphs, EngineError> {
        self.is_to("listing its graphs");
        match self.request(&Request::Graphs)? {
            Response::Graphs(graphs) => Ok(graphs),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Asks an engine that has graphs which of its taps the loaded model's lack, and no longer counts them as offered.
    /// Any other is taken at its word.
    pub fn learn_taps(&mut self) -> Result<(), EngineError> {
        if self.hello.graphs {
            self.not_offered = self.graphs()?.not_offered;
            let lacking = &self.not_offered;
            self.hello.taps.retain(|tap| !lacking.contains_key(tap));
        }
        Ok(())
    }

    /// What it was [found](Engine::learn_taps) not to offer for the loaded model, with the reason.
    pub fn not_offered(&self) -> &BTreeMap<Tap, String> {
        &self.not_offered
    }

    /// Makes the engine ready to evaluate; returns the settings it runs with.
    pub fn configure(
        &mut self,
        settings: Settings,
    ) -> Result<BTreeMap<String, String>, EngineError> {
        self.is_to("configuring");
        match self.request(&Request::Configure(settings))? {
            Response::Configured { settings } => Ok(settings),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What the engine finds in the loaded model that no file should hold, and the tensors that are all zero.
    pub fn check_weights(&mut self) -> Result<(Vec<String>, Vec<String>), EngineError> {
        self.is_to("checking the weights");
        match self.request(&Request::CheckWeights)? {
            Response::WeightsChecked { findings, zero } => Ok((findings, zero)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Times its kernels at the shapes of the loaded model.
    pub fn time_kernels(&mut self) -> Result<KernelTimes, EngineError> {
        self.is_to("timing its kernels");
        match self.request(&Request::TimeKernels)? {
            Response::KernelsTimed(times) => Ok(times),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Generates greedily; returns the tokens, the time of the prefill and of each decode step (ms).
    pub fn generate(
        &mut self,
        prompt: &[u32],
        n_predict: usize,
    ) -> Result<(Vec<u32>, f64, Vec<f64>), EngineError> {
        if !self.during_is_given {
            let tokens = number::plural(n_predict as u64, "token");
            self.is_to(format!("generating {tokens}"));
        }
        let request = Request::Generate { n_predict };
        self.send(&request, &protocol::token_bytes(prompt))?;
        match self.response()? {
            Response::Generated {
                prefill_ms,
                decode_ms,
            } => Ok((self.tokens()?, prefill_ms, decode_ms)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What the last request took by this side's clock, pipe and all, milliseconds.
    pub(crate) fn took_ms(&self) -> f64 {
        self.took.as_secs_f64() * 1e3
    }

    /// What its processes have used so far, by the operating system; `None` where that cannot be asked.
    pub(crate) fn consumption(&self) -> Option<Consumption> {
        consumption::of_tree(self.process.id()?)
    }

    /// Its processes, by ID; none where they cannot be asked for.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.process.id().map(consumption::pids).unwrap_or_default()
    }

    /// Whether any of its processes has an accelerator open.
    pub(crate) fn has_accelerator(&self) -> bool {
        self.process.id().is_some_and(consumption::has_accelerator)
    }

    /// What it has used so far, as it says.
    pub fn usage(&mut self) -> Result<Usage, EngineError> {
        match self.request(&Request::Usage)? {
            Response::Usage(usage) => Ok(usage),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Has rows judged; `payload` as the request says. Returns the right value of the element, and what became of each
    /// row.
    pub fn judge(
        &mut self,
        request: JudgeRequest,
        payload: &[u8],
    ) -> Result<(Option<f64>, Vec<RowJudgement>), EngineError> {
        let wanted = request.rows;
        self.send(&Request::Judge(request), payload)?;
        match self.response()? {
            Response::Judged { value, rows } if rows.len() == wanted => Ok((value, rows)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What roundings make of the logits of a sequence, of those from `first_position` on.
    ///
    /// # Errors
    /// The engine's.
    pub fn spread(
        &mut self,
        tokens: &[u32],
        first_position: usize,
    ) -> Result<Vec<RoundingSpread>, EngineError> {
        let request = Request::Spread { first_position };
        self.send(&request, &protocol::token_bytes(tokens))?;
        match self.response()? {
            Response::Spread { roundings } => Ok(roundings),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends an evaluation without waiting for anything.
    pub fn begin_eval(&mut self, request: EvalRequest) -> Result<(), EngineError> {
        if !self.during_is_given {
            let end = request.first_position + request.tokens.len();
            self.is_to(format!(
                "evaluating positions {}..{end}",
                request.first_position
            ));
        }
        self.asked_for = Asked::from(&request);
        let payload = protocol::token_bytes(request.tokens);
        let request = Request::Eval {
            seq_id: 0,
            first_position: request.first_position,
            taps: request.taps.to_vec(),
            overwrite: request.overwrite,
            last_logits: request.last_logits,
        };
        self.send(&request, &payload)
    }

    /// The next event of an evaluation. The piece of a tap lies in [`Engine::payload`].
    pub fn next_event(&mut self) -> Result<EvalEvent, EngineError> {
        match self.receive()? {
            Response::Tap(header) => {
                if let Some(what) = self.asked_for.misfit(&header, self.sizes()) {
                    return Err(self.broke_protocol(&what));
                }
                if header.payload_bytes() != Some(self.payload.len()) {
                    return Err(self.broke_protocol(&format!(
                        "{}: {} bytes for {} rows of {} values",
                        shape::place(&header),
                        self.payload.len(),
                        header.rows,
                        header.width
                    )));
                }
                Ok(EvalEvent::Tap(header))
            }
            Response::Evaluated => {
                let logits = self.payload.len();
                match self.asked_for.misfit_of_logits(logits, self.sizes()) {
                    Some(what) => Err(self.broke_protocol(&what)),
                    None => Ok(EvalEvent::Done),
                }
            }
            Response::Error { kind, message } => Err(EngineError::Refused { kind, message }),
            other => Err(self.unexpected(&other)),
        }
    }

    /// What rows of the model measure: as it is known, else as the engine says.
    fn sizes(&self) -> Option<Sizes> {
        self.known.with(|known| known.sizes).or(self.sizes)
    }

    /// The payload of the last message.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload of the last message as token IDs.
    fn tokens(&mut self) -> Result<Vec<u32>, EngineError> {
        protocol::tokens_from_bytes(&self.payload).ok_or_else(|| {
            let n = self.payload.len();
            self.broke_protocol(&format!("{n} bytes of token IDs"))
        })
    }

    /// Takes the payload of the last message.
    pub fn take_payload(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.payload)
    }

    /// During an overwriting evaluation: the values to go on with; `None` keeps the engine's own.
    pub fn overwrite(&mut self, values: Option<&[u8]>) -> Result<(), EngineError> {
        match values {
            Some(values) => self.send(&Request::Overwrite, values),
            None => self.send(&Request::Keep, &[]),
        }
    }

    fn request(&mut self, request: &Request) -> Result<Response, EngineError> {
        self.send(request, &[])?;
        self.response()
    }

    /// Sends a request that may be more than one of this version.
    pub(crate) fn ask(&mut self, request: &serde_json::Value) -> Result<Response, EngineError> {
        self.send(request, &[])?;
        self.response()
    }

    fn response(&mut self) -> Result<Response, EngineError> {
        match self.receive()? {
            Response::Error { kind, message } => Err(EngineError::Refused { kind, message }),
            response => Ok(response),
        }
    }

    fn send(&mut self, request: &impl Serialize, payload: &[u8]) -> Result<(), EngineError> {
        let idle = std::mem::replace(&mut self.idle, false);
        let Some(stdin) = &mut self.stdin else {
            return Err(self.failure(&FrameError::Closed));
        };
        stdin.deadline = self.limits.deadline();
        // Before it is written: a worker that has read it may run before this thread does again.
        self.asked = Instant::now();
        protocol::write_frame(stdin, request, payload).map_err(|e| match e.kind() {
            // Over the cap, hence not sent: the worker lives, and waiting for its end would take for ever.
            io::ErrorKind::InvalidInput => {
                self.idle = idle;
                EngineError::Refused {
                    kind: ErrorKind::Usage,
                    message: format!("{}: {e}", self.during),
                }
            }
            _ => self.failure(&FrameError::Io(e)),
        })
    }

    fn receive(&mut self) -> Result<Response, EngineError> {
        self.stdout.deadline = self.limits.deadline();
        self.beginning.clear();
        let mut pipe = Kept {
            pipe: &mut self.stdout,
            beginning: &mut self.beginning,
        };
        let received = protocol::read_frame(&mut pipe, &mut self.payload);
        self.took = self.asked.elapsed();
        let response = received.map_err(|e| self.failure(&e))?;
        self.idle = !matches!(response, Response::Tap(_));
        Ok(response)
    }

    /// Tells the worker to quit, and waits for its end; returns what it did if it did not end as it should: with status 0,
    /// in time. One that is in the midst of something, or gone, is ended without a word.
    pub fn end(&mut self) -> Option<EngineFailure> {
        self.end_by(|stdin| protocol::write_frame(stdin, &Request::Quit, &[]).is_ok())
    }

    /// The same without a word, by the end of its input.
    pub(crate) fn end_by_closing(&mut self) -> Option<EngineFailure> {
        self.end_by(|_| true)
    }

    /// Ends the worker, told by what `tell` writes or by the end of its input.
    fn end_by(&mut self, tell: impl FnOnce(&mut Timed<File>) -> bool) -> Option<EngineFailure> {
        let idle = std::mem::replace(&mut self.idle, false);
        // After a signal nobody waits any more.
        let awaited = idle && interrupt::received().is_none();
        let patience = if awaited { ENDING_TIME } else { QUIT_TIME };
        // Where it cannot be told, it is gone already, or stuck. What stands before it in a pipe of a shell's ends with the
        // pipe.
        let told = self.stdin.take().is_some_and(|mut stdin| {
            stdin.deadline = Instant::now() + patience;
            tell(&mut stdin)
        });
        let ended = (told || awaited) && self.process.ends_within(patience);
        let status = self.process.end();
        if !awaited || interrupt::received().is_some() {
            return None;
        }
        self.is_to("ending");
        let did = match &status {
            Ok(_) if !ended => {
                let seconds = ENDING_TIME.as_secs();
                format!("did not end within {seconds} s of being told to")
            }
            Ok(status) if status.success() => return None,
            Ok(status) => ending(*status),
            Err(e) => format!("is gone ({e})"),
        };
        let status = status.ok().filter(|_| ended);
        match self.failed(&did, status) {
            EngineError::Failed(failure) => Some(failure),
            EngineError::Refused { .. } => None,
        }
    }

    fn unexpected(&mut self, response: &Response) -> EngineError {
        let mut text = format!("{response:?}");
        text.truncate(text.floor_char_boundary(80));
        self.broke_protocol(&format!("unexpected answer {text}"))
    }

    /// The worker lives but does not keep to the protocol: it is ended.
    pub(crate) fn broke_protocol(&mut self, what: &str) -> EngineError {
        let _ = self.process.end();
        self.failed(&format!("broke the protocol: {what},"), None)
    }

    /// The pipe is gone, silent or holds garbage: find out how the worker ended.
    fn failure(&mut self, error: &FrameError) -> EngineError {
        if let Some(failed) = self.stray_text() {
            return failed;
        }
        match error {
            FrameError::Io(e) if e.kind() == io::ErrorKind::TimedOut => {
                let _ = self.process.end();
                let seconds = self.limits.timeout.get();
                self.failed(&format!("did nothing for {seconds} s (--timeout)"), None)
            }
            FrameError::Closed | FrameError::Io(_) => {
                let ended = self.process.ends_within(ENDING_TIME);
                match self.process.end() {
                    Ok(status) if ended => {
                        let limit = self.limits.of_memory();
                        self.failed(&(ending(status) + &limit), Some(status))
                    }
                    Ok(_) => self.failed("closed its pipe and did not end", None),
                    Err(e) => self.failed(&format!("is gone ({e})"), None),
                }
            }
            FrameError::Header { .. } => {
                self.broke_protocol(&with_what_was_meant(&error.to_string()))
            }
            FrameError::TooLarge { .. } | FrameError::Version(_) => {
                self.broke_protocol(&error.to_string())
            }
        }
    }

    /// It is not a worker, or waits for something itself.
    fn no_hello(&mut self, patience: Duration) -> EngineError {
        if let Some(failed) = self.stray_text() {
            return failed;
        }
        let _ = self.process.end();
        let seconds = patience.as_secs_f64();
        self.failed(
            &format!(
                "sent no hello within {seconds} s (a worker speaks first, before it reads or loads anything)"
            ),
            None,
        )
    }

    /// What it wrote, if that is text in place of a message.
    fn stray_text(&mut self) -> Option<EngineError> {
        stray::line(&self.beginning)?;
        self.stdout.deadline = Instant::now() + LINE_TIME;
        stray::read_line(&mut self.stdout, &mut self.beginning);
        let text = stray::line(&self.beginning)?;
        let ended = self.process.ends_within(LINE_TIME);
        let status = self.process.end().ok().filter(|_| ended);
        let did = format!(
            "wrote {text:?} to its standard output, which is for the protocol alone (log to standard error),"
        );
        Some(self.failed(&did, status))
    }

    /// What it did, without its name, as the reason.
    fn failed(&mut self, did: &str, status: Option<ExitStatus>) -> EngineError {
        self.idle = false;
        // It need not have done that by itself.
        let message = match interrupt::received() {
            Some(interruption) => interrupt::sentence(interruption, Some(&self.during)),
            None => format!("{} {did} while {}", self.label, self.during),
        };
        EngineError::Failed(EngineFailure {
            message,
            signal: status.and_then(|s| s.signal()).map(signal_name),
            exit_code: status.and_then(|s| s.code()),
            during: self.during.clone(),
            log_tail: self.log_tail(),
            refused_model: false,
        })
    }

    fn log_tail(&mut self) -> Vec<String> {
        self.await_log();
        let log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        log.tail.iter().cloned().collect()
    }

    /// What an engine that has ended said in its log that nobody should overlook.
    pub fn warnings(&mut self) -> Vec<String> {
        self.await_log();
        let log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        log.warnings.lines().to_vec()
    }

    /// Waits for the end of the log.
    fn await_log(&mut self) {
        // A process that the worker left behind may hold the pipe open for ever.
        for _ in 0..LOG_END_TRIES {
            if self.log_reader.as_ref().is_none_or(JoinHandle::is_finished) {
                break;
            }
            std::thread::sleep(SHORT_WHILE);
        }
    }
}

fn other_version(name: &str, theirs: u32) -> Error {
    let ours = protocol::VERSION;
    let old = if theirs < ours {
        "the worker"
    } else {
        "crossval"
    };
    Error::Engine(format!(
        "engine {name} speaks version {theirs} of the worker protocol, this crossval speaks version {ours}: \
         update {old}; what changed stands in the protocol's documentation, under \"Versions\""
    ))
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(failure) = self.end() {
            self.bad_ends.push(&self.name, failure);
        }
    }
}

impl EngineError {
    /// For commands that cannot go on without the engine.
    pub fn into_error(self, engine: &str) -> Error {
        match self {
            EngineError::Refused { kind, message } => match kind {
                ErrorKind::BadModel => Error::BadInput(message),
                ErrorKind::Usage => Error::Usage(message),
                ErrorKind::Internal => Error::Engine(format!("engine {engine}: {message}")),
            },
            EngineError::Failed(failure) => Error::Engine(match failure.log_tail.last() {
                Some(last) => format!("{}; its last words: {last}", failure.message),
                None => failure.message,
            }),
        }
    }

    /// As it stands in a report.
    pub fn into_failure(self, engine: &str, during: &str) -> EngineFailure {
        match self {
            EngineError::Refused { message, .. } => EngineFailure {
                message: format!("{engine}: {message}, while {during}"),
                signal: None,
                exit_code: None,
                during: during.to_owned(),
                log_tail: Vec::new(),
                refused_model: false,
            },
            EngineError::Failed(failure) => failure,
        }
    }
}

/// What comes next in an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvalEvent {
    /// A piece of a tap; its values are the payload.
    Tap(TapHeader),
    /// The end; the payload holds the last token's logits, if asked for.
    Done,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a worker that writes `text` where its hello belongs, and goes on living.
    fn no_worker(text: &[u8]) -> String {
        let (stdout, mut theirs) = io::pipe().unwrap();
        let (_stdin, ours) = io::pipe().unwrap();
        io::Write::write_all(&mut theirs, text).unwrap();
        let pipes = Pipes {
            stdin: OwnedFd::from(ours).into(),
            stdout: OwnedFd::from(stdout).into(),
            stderr: None,
        };
        let limits = Limits::default();
        let patience = Duration::from_millis(50);
        let process = Process::none();
        let engine = Engine::greeted("exec:mine", process, pipes, limits, patience);
        let error = engine.unwrap_err();
        assert_eq!(error.outcome().exit_code(), 30);
        error.to_string()
    }

    #[test]
    fn a_hello_that_does_not_come_is_not_waited_for_as_long_as_an_answer() {
        assert_eq!(
            no_worker(b""),
            "exec:mine sent no hello within 0.05 s (a worker speaks first, before it reads or loads anything) while starting"
        );
        // The beginning of one.
        assert!(no_worker(b"\x7a\0\0\0").starts_with("exec:mine sent no hello"));
    }

    #[test]
    fn text_in_place_of_a_hello_is_shown() {
        let says = "exec:mine wrote \"ready\" to its standard output, which is for the protocol alone (log to standard \
                    error), while starting";
        for text in ["ready\n", "ready\nto serve requests\n"] {
            assert_eq!(no_worker(text.as_bytes()), says);
        }
    }

    #[test]
    fn a_program_that_is_no_worker_is_an_engine_error() {
        for (program, says) in [
            ("exec:/bin/true", "exited with code 0 while starting"),
            ("exec:/nonexistent", "cannot start"),
        ] {
            let spec: EngineSpec = program.parse().unwrap();
            let error = Launcher::default().start(&spec, None).unwrap_err();
            assert_eq!(error.outcome().exit_code(), 30);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
