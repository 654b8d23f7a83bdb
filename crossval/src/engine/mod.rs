//! The driver's end of a worker process.

mod over;
mod process;
mod spec;
mod tokenizer;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use reports::model::EngineFailure;

use self::over::Process;
use self::process::{WORKER_STACK_BYTES, confine, keep_tail, signal_name, widen};
pub(crate) use self::process::{bound, ending};
pub use self::spec::{EngineSpec, reference_folders};

use crate::error::Error;
use crate::protocol::{
    self, ErrorKind, FrameError, Hello, JudgeRequest, ModelFacts, Request, Response, RowJudgement,
    Settings, TapHeader, Usage,
};

/// How often, and how long apart, the driver looks whether a worker has ended.
const SHORT_WHILE: Duration = Duration::from_millis(2);
const QUIT_TRIES: usize = 50;
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

/// A worker process.
#[derive(Debug)]
pub struct Engine {
    name: String,
    hello: Hello,
    child: Process,
    stdin: ChildStdin,
    stdout: ChildStdout,
    payload: Vec<u8>,
    log: Arc<Mutex<VecDeque<String>>>,
    log_reader: JoinHandle<()>,
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
        widen(&stdin);
        widen(&stdout);
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let log_reader = std::thread::spawn({
            let log = Arc::clone(&log);
            move || keep_tail(BufReader::new(stderr), &log)
        });
        Engine {
            hello: Engine::no_hello(&name),
            name,
            child: child.into(),
            stdin,
            stdout,
            payload: Vec::new(),
            log,
            log_reader,
            during: "starting".into(),
        }
        .greet()
    }

    /// Until it has said one.
    fn no_hello(name: &str) -> Hello {
        Hello {
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
        }
    }

    /// Reads the hello.
    fn greet(mut self) -> Result<Engine, Error> {
        let hello = match self.receive() {
            Ok(Response::Hello(hello)) => hello,
            Ok(other) => return Err(self.unexpected(&other).into_error(&self.name)),
            Err(e) => return Err(e.into_error(&self.name)),
        };
        if hello.protocol != protocol::VERSION {
            return Err(Error::Engine(format!(
                "engine {}: speaks protocol {}, this crossval speaks {}",
                self.name,
                hello.protocol,
                protocol::VERSION
            )));
        }
        self.hello = hello;
        Ok(self)
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

    /// What the engine finds in the loaded model that no file should hold.
    pub fn check_weights(&mut self) -> Result<Vec<String>, EngineError> {
        self.set_task("checking the weights");
        match self.request(&Request::CheckWeights)? {
            Response::WeightsChecked { findings } => Ok(findings),
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

    /// What it has used so far.
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

    /// Sends an evaluation without waiting for anything.
    pub fn begin_eval(&mut self, request: &Request) -> Result<(), EngineError> {
        self.send(request, &[])
    }

    /// The next event of an evaluation. The piece of a tap lies in [`Engine::payload`].
    pub fn next_event(&mut self) -> Result<EvalEvent, EngineError> {
        match self.receive()? {
            Response::Tap(header) => {
                if header.payload_bytes() != Some(self.payload.len()) {
                    return Err(self.broke_protocol(&format!(
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
        self.response()
    }

    fn response(&mut self) -> Result<Response, EngineError> {
        match self.receive()? {
            Response::Error { kind, message } => Err(EngineError::Refused { kind, message }),
            response => Ok(response),
        }
    }

    fn send(&mut self, request: &Request, payload: &[u8]) -> Result<(), EngineError> {
        protocol::write_frame(&mut self.stdin, request, payload).map_err(|e| match e.kind() {
            // Over the cap, hence not sent: the worker lives, and waiting for its end would take for ever.
            io::ErrorKind::InvalidInput => EngineError::Refused {
                kind: ErrorKind::Usage,
                message: format!("{}: {e}", self.during),
            },
            _ => self.failure(&FrameError::Io(e)),
        })
    }

    fn receive(&mut self) -> Result<Response, EngineError> {
        protocol::read_frame(&mut self.stdout, &mut self.payload).map_err(|e| self.failure(&e))
    }

    fn unexpected(&mut self, response: &Response) -> EngineError {
        let mut text = format!("{response:?}");
        text.truncate(text.floor_char_boundary(80));
        self.broke_protocol(&format!("unexpected answer {text}"))
    }

    /// The worker lives but does not keep to the protocol: it is ended.
    pub(crate) fn broke_protocol(&mut self, what: &str) -> EngineError {
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
            return self.broke_protocol(&error.to_string());
        }
        match self.child.wait() {
            Ok(status) => EngineError::Failed(EngineFailure {
                message: format!("{} {} while {}", self.name, ending(status), self.during),
                signal: status.signal().map(signal_name),
                exit_code: status.code(),
                during: self.during.clone(),
                log_tail: self.log_tail(),
            }),
            Err(e) => self.broke_protocol(&e.to_string()),
        }
    }

    fn log_tail(&mut self) -> Vec<String> {
        // A process that the worker left behind may hold the pipe open for ever.
        for _ in 0..LOG_END_TRIES {
            if self.log_reader.is_finished() {
                break;
            }
            std::thread::sleep(SHORT_WHILE);
        }
        let log = self.log.lock().unwrap_or_else(|e| e.into_inner());
        log.iter().cloned().collect()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let _ = protocol::write_frame(&mut self.stdin, &Request::Quit, &[]);
        // A worker that is busy or stuck must not outlive the driver.
        for _ in 0..QUIT_TRIES {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(SHORT_WHILE);
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

#[cfg(test)]
mod tests {
    use super::*;

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
