//! Engine names, and the driver's end of a worker process.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use reports::model::EngineFailure;

use crate::error::Error;
use crate::protocol::{
    self, ErrorKind, FrameError, Hello, ModelFacts, Request, Response, Settings, TapHeader,
};

/// Stack of a worker's threads: the reference puts arrays of a whole batch there.
const WORKER_STACK_BYTES: u64 = 256 << 20;

/// Lines of a worker's log that are kept for a report.
const LOG_TAIL_LINES: usize = 40;

/// An engine, as named on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineSpec {
    /// `rust`: the engine of `bitnet-core`, with a deliberate error if one is named.
    Rust {
        /// A fault of `bitnet_core::model::Fault`, to prove that the comparison sees it.
        fault: Option<String>,
    },
    /// `bitnet.cpp`: the reference that this binary links.
    BitnetCpp,
    /// `bitnet.cpp@NAME`: a reference built by `cargo xtask reference NAME`.
    BitnetCppNamed(String),
    /// `exec:PATH`: any program that speaks the worker protocol.
    Exec(PathBuf),
}

impl FromStr for EngineSpec {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self, Error> {
        match s {
            "rust" => return Ok(EngineSpec::Rust { fault: None }),
            "bitnet.cpp" => return Ok(EngineSpec::BitnetCpp),
            _ => {}
        }
        if let Some(path) = s.strip_prefix("exec:").filter(|path| !path.is_empty()) {
            return Ok(EngineSpec::Exec(path.into()));
        }
        if let Some(name) = s.strip_prefix("bitnet.cpp@")
            && !name.is_empty()
            && !name.contains(['/', '\\'])
            && name != ".."
        {
            return Ok(EngineSpec::BitnetCppNamed(name.to_owned()));
        }
        Err(Error::Usage(format!(
            "unknown engine {s:?}: expected rust, bitnet.cpp, bitnet.cpp@NAME or exec:PATH"
        )))
    }
}

impl fmt::Display for EngineSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineSpec::Rust { fault: None } => f.write_str("rust"),
            EngineSpec::Rust { fault: Some(fault) } => write!(f, "rust+{fault}"),
            EngineSpec::BitnetCpp => f.write_str("bitnet.cpp"),
            EngineSpec::BitnetCppNamed(name) => write!(f, "bitnet.cpp@{name}"),
            EngineSpec::Exec(path) => write!(f, "exec:{}", path.display()),
        }
    }
}

impl EngineSpec {
    fn command(&self) -> Result<Command, Error> {
        let this = || {
            std::env::current_exe()
                .map_err(|e| Error::Internal(format!("cannot find this program: {e}")))
        };
        let mut command;
        match self {
            EngineSpec::Rust { fault } => {
                command = Command::new(this()?);
                command.args(["worker", "rust"]);
                if let Some(fault) = fault {
                    command.args(["--fault", fault]);
                }
            }
            EngineSpec::BitnetCpp => {
                if !bitnet_sys::available() {
                    return Err(Error::Engine(
                        "engine bitnet.cpp: this crossval was built without it \
                         (--no-default-features); build with `cargo build --release`"
                            .into(),
                    ));
                }
                command = Command::new(this()?);
                command.args(["worker", "bitnet.cpp"]);
            }
            EngineSpec::BitnetCppNamed(name) => {
                let program = named_reference(&this()?, name).ok_or_else(|| {
                    Error::Engine(format!(
                        "engine {self}: not built; run `cargo xtask reference {name}` \
                         (or `{name}=DIR` for a checkout)"
                    ))
                })?;
                command = Command::new(program);
                command.args(["worker", "bitnet.cpp"]);
            }
            EngineSpec::Exec(path) => command = Command::new(path),
        }
        Ok(command)
    }
}

/// Finds `target/reference/NAME/crossval` beside this program or below the working directory.
fn named_reference(this: &Path, name: &str) -> Option<PathBuf> {
    reference_folders(this)
        .into_iter()
        .map(|folder| folder.join(name).join("crossval"))
        .find(|program| program.is_file())
}

/// Folders that may hold reference workers, nearest first.
pub fn reference_folders(this: &Path) -> Vec<PathBuf> {
    let beside = this.ancestors().map(|a| a.join("reference"));
    let below = std::env::current_dir().map(|d| d.join("target/reference"));
    beside.chain(below).filter(|f| f.is_dir()).collect()
}

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

/// A worker process.
#[derive(Debug)]
pub struct Engine {
    name: String,
    hello: Hello,
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    payload: Vec<u8>,
    log: Arc<Mutex<VecDeque<String>>>,
    log_reader: Option<JoinHandle<()>>,
    during: String,
}

impl Engine {
    /// Starts a worker and reads its hello. With `cpus`, it is pinned to those.
    ///
    /// # Errors
    /// [`Error::Engine`] if the engine is not built, cannot be started or does not speak the protocol.
    pub fn start(spec: &EngineSpec, cpus: Option<&[usize]>) -> Result<Engine, Error> {
        let name = spec.to_string();
        let mut command = spec.command()?;
        let program = command.get_program().to_owned();
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("OMP_STACKSIZE", format!("{}", WORKER_STACK_BYTES >> 10));
        confine(&mut command, cpus);
        let mut child = command.spawn().map_err(|e| {
            Error::Engine(format!(
                "engine {name}: cannot start {}: {e}",
                Path::new(&program).display()
            ))
        })?;
        let missing = || Error::Internal(format!("engine {name}: no pipe"));
        let stdin = child.stdin.take().ok_or_else(missing)?;
        let stdout = child.stdout.take().ok_or_else(missing)?;
        let stderr = child.stderr.take().ok_or_else(missing)?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let log_reader = Some(std::thread::spawn({
            let log = Arc::clone(&log);
            move || keep_tail(BufReader::new(stderr), &log)
        }));
        let mut engine = Engine {
            name: name.clone(),
            hello: Hello {
                protocol: 0,
                engine: name,
                version: None,
                build: BTreeMap::new(),
                architectures: Vec::new(),
                taps: Vec::new(),
                overwrite: false,
                dtypes: Vec::new(),
                tokenizer: false,
            },
            child,
            stdin,
            stdout,
            payload: Vec::new(),
            log,
            log_reader,
            during: "starting".into(),
        };
        let hello = match engine.receive() {
            Ok(Response::Hello(hello)) => hello,
            Ok(other) => return Err(engine.unexpected(&other).into_error(&engine.name)),
            Err(e) => return Err(e.into_error(&engine.name)),
        };
        if hello.protocol != protocol::VERSION {
            return Err(Error::Engine(format!(
                "engine {}: speaks protocol {}, this crossval speaks {}",
                engine.name,
                hello.protocol,
                protocol::VERSION
            )));
        }
        engine.hello = hello;
        Ok(engine)
    }

    /// The name as given on the command line.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the worker said of itself.
    pub fn hello(&self) -> &Hello {
        &self.hello
    }

    /// Says what the engine is asked to do next, for the report in case it dies.
    pub fn set_task(&mut self, during: impl Into<String>) {
        self.during = during.into();
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
        self.set_task(format!("loading {}", model.display()));
        match self.request(&Request::Load {
            model: model.to_owned(),
        })? {
            Response::Loaded { facts, load_ms } => Ok((*facts, load_ms)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Makes the engine ready to evaluate; returns the settings it runs with.
    pub fn configure(
        &mut self,
        settings: Settings,
    ) -> Result<BTreeMap<String, String>, EngineError> {
        self.set_task("configuring");
        match self.request(&Request::Configure(settings))? {
            Response::Configured { settings } => Ok(settings),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Text to token IDs, as a prompt: special tokens are added and parsed.
    pub fn tokenize(&mut self, text: &str) -> Result<Vec<u32>, EngineError> {
        self.set_task("tokenizing");
        match self.request(&Request::Tokenize {
            text: text.to_owned(),
            add_special: true,
            parse_special: true,
        })? {
            Response::Tokens { tokens } => Ok(tokens),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Token IDs to text; invalid UTF-8 is replaced.
    pub fn detokenize(&mut self, tokens: &[u32]) -> Result<String, EngineError> {
        self.set_task("detokenizing");
        match self.request(&Request::Detokenize {
            tokens: tokens.to_vec(),
        })? {
            Response::Text => Ok(String::from_utf8_lossy(&self.payload).into_owned()),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Generates greedily; returns the tokens, the time of the prefill and of each decode step (ms).
    pub fn generate(
        &mut self,
        prompt: &[u32],
        n_predict: usize,
    ) -> Result<(Vec<u32>, f64, Vec<f64>), EngineError> {
        match self.request(&Request::Generate {
            tokens: prompt.to_vec(),
            n_predict,
        })? {
            Response::Generated {
                tokens,
                prefill_ms,
                decode_ms,
            } => Ok((tokens, prefill_ms, decode_ms)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Peak memory (bytes) and CPU time (seconds) so far.
    pub fn usage(&mut self) -> Result<(Option<u64>, Option<f64>), EngineError> {
        match self.request(&Request::Usage)? {
            Response::Usage {
                peak_rss_bytes,
                cpu_seconds,
            } => Ok((peak_rss_bytes, cpu_seconds)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Sends an evaluation without waiting for anything.
    pub fn begin_eval(&mut self, request: &Request) -> Result<(), EngineError> {
        self.send(request, &[])
    }

    /// The next event of an evaluation. The piece of a tap lies in [`Engine::payload`].
    pub fn next_event(&mut self) -> Result<EvalEvent, EngineError> {
        match self.receive()? {
            Response::Tap(header) => {
                let bytes = header
                    .rows
                    .checked_mul(header.width)
                    .and_then(|n| n.checked_mul(header.row_bytes() / header.width.max(1)));
                if bytes != Some(self.payload.len()) || header.rows == 0 || header.width == 0 {
                    return Err(self.broken(&format!(
                        "{} bytes for {} rows of {} values of {}",
                        self.payload.len(),
                        header.rows,
                        header.width,
                        header.tap
                    )));
                }
                Ok(EvalEvent::Tap(header))
            }
            Response::Evaluated => Ok(EvalEvent::Done),
            Response::Error { kind, message } => Err(EngineError::Refused { kind, message }),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The payload of the last message.
    pub fn payload(&self) -> &[u8] {
        &self.payload
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
        match self.receive()? {
            Response::Error { kind, message } => Err(EngineError::Refused { kind, message }),
            response => Ok(response),
        }
    }

    fn send(&mut self, request: &Request, payload: &[u8]) -> Result<(), EngineError> {
        protocol::write_frame(&mut self.stdin, request, payload)
            .map_err(|e| self.failure(&FrameError::Io(e)))
    }

    fn receive(&mut self) -> Result<Response, EngineError> {
        protocol::read_frame(&mut self.stdout, &mut self.payload).map_err(|e| self.failure(&e))
    }

    fn unexpected(&mut self, response: &Response) -> EngineError {
        let mut text = format!("{response:?}");
        text.truncate(text.floor_char_boundary(80));
        self.broken(&format!("unexpected answer {text}"))
    }

    /// The worker lives but does not keep to the protocol: it is ended.
    fn broken(&mut self, what: &str) -> EngineError {
        let _ = self.child.kill();
        let _ = self.child.wait();
        EngineError::Failed(EngineFailure {
            message: format!(
                "{} broke the protocol: {what}, while {}",
                self.name, self.during
            ),
            signal: None,
            exit_code: None,
            during: self.during.clone(),
            log_tail: self.log_tail(),
        })
    }

    /// The pipe is gone or holds garbage: find out how the worker ended.
    fn failure(&mut self, error: &FrameError) -> EngineError {
        if !matches!(error, FrameError::Closed | FrameError::Io(_)) {
            return self.broken(&error.to_string());
        }
        match self.child.wait() {
            Ok(status) => EngineError::Failed(EngineFailure {
                message: format!("{} {} while {}", self.name, ending(status), self.during),
                signal: status.signal().map(signal_name),
                exit_code: status.code(),
                during: self.during.clone(),
                log_tail: self.log_tail(),
            }),
            Err(e) => self.broken(&e.to_string()),
        }
    }

    fn log_tail(&mut self) -> Vec<String> {
        if let Some(reader) = self.log_reader.take() {
            let _ = reader.join();
        }
        let log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        log.iter().cloned().collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = protocol::write_frame(&mut self.stdin, &Request::Quit, &[]);
        // A worker that is busy or stuck must not outlive the driver.
        for _ in 0..50 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
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

fn keep_tail(stderr: impl BufRead, log: &Mutex<VecDeque<String>>) {
    for line in stderr.split(b'\n') {
        let Ok(line) = line else { return };
        let mut line = String::from_utf8_lossy(&line).into_owned();
        line.truncate(line.floor_char_boundary(400));
        let mut log = log.lock().unwrap_or_else(|e| e.into_inner());
        if log.len() == LOG_TAIL_LINES {
            log.pop_front();
        }
        log.push_back(line);
    }
}

fn ending(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("died with {}", signal_name(signal)),
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => format!("ended ({status})"),
    }
}

fn signal_name(signal: i32) -> String {
    match signal {
        libc::SIGSEGV => "SIGSEGV".into(),
        libc::SIGABRT => "SIGABRT".into(),
        libc::SIGBUS => "SIGBUS".into(),
        libc::SIGFPE => "SIGFPE".into(),
        libc::SIGILL => "SIGILL".into(),
        libc::SIGKILL => "SIGKILL".into(),
        libc::SIGTERM => "SIGTERM".into(),
        libc::SIGINT => "SIGINT".into(),
        libc::SIGPIPE => "SIGPIPE".into(),
        libc::SIGXCPU => "SIGXCPU".into(),
        other => format!("signal {other}"),
    }
}

/// Stack limit, pinning and an end with the driver's, set between fork and exec.
fn confine(command: &mut Command, cpus: Option<&[usize]>) {
    let mask = cpus.map(|cpus| {
        // SAFETY: an all-zero cpu_set_t is a valid, empty set.
        let mut mask: libc::cpu_set_t = unsafe { std::mem::zeroed() };
        for &cpu in cpus {
            // SAFETY: CPU_SET checks the index against the size of the set.
            unsafe { libc::CPU_SET(cpu, &mut mask) };
        }
        mask
    });
    let setup = move || {
        // SAFETY: plain system calls on values owned by this frame; all are async-signal-safe.
        unsafe {
            let mut limit: libc::rlimit = std::mem::zeroed();
            libc::getrlimit(libc::RLIMIT_STACK, &mut limit);
            limit.rlim_cur = WORKER_STACK_BYTES.min(limit.rlim_max);
            libc::setrlimit(libc::RLIMIT_STACK, &limit);
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if let Some(mask) = &mask {
                libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), mask);
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and only makes async-signal-safe calls.
    unsafe { command.pre_exec(setup) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for name in ["rust", "bitnet.cpp", "bitnet.cpp@2024-11", "exec:/bin/cat"] {
            assert_eq!(name.parse::<EngineSpec>().unwrap().to_string(), name);
        }
        for name in ["", "Rust", "bitnet.cpp@", "bitnet.cpp@../x", "exec:"] {
            let error = name.parse::<EngineSpec>().unwrap_err();
            assert_eq!(error.outcome().exit_code(), 64, "{name}");
        }
    }

    #[test]
    fn a_program_that_is_no_worker_is_an_engine_error() {
        for (program, says) in [
            ("exec:/bin/true", "exited with code 0 while starting"),
            ("exec:/nonexistent", "cannot start"),
        ] {
            let spec: EngineSpec = program.parse().unwrap();
            let error = Engine::start(&spec, None).unwrap_err();
            assert_eq!(error.outcome().exit_code(), 30);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
