//! Engines that are no child process: the other end of a conversation comes from elsewhere, as in tests.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex};

use super::Engine;
use crate::error::Error;

/// The process at the other end of the pipes, if there is one. Without, it counts as ended with code 0.
#[derive(Debug)]
pub(super) struct Process(Option<Child>);

impl From<Child> for Process {
    fn from(child: Child) -> Process {
        Process(Some(child))
    }
}

impl Process {
    pub fn kill(&mut self) -> io::Result<()> {
        self.0.as_mut().map_or(Ok(()), Child::kill)
    }

    pub fn wait(&mut self) -> io::Result<ExitStatus> {
        self.0
            .as_mut()
            .map_or(Ok(ExitStatus::from_raw(0)), Child::wait)
    }

    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        self.0
            .as_mut()
            .map_or(Ok(Some(ExitStatus::from_raw(0))), Child::try_wait)
    }
}

impl Engine {
    /// An engine that writes its responses to `stdout` and reads requests from `stdin`, both open already; reads its
    /// hello.
    ///
    /// # Errors
    /// [`Error::Engine`] if what comes is not the protocol.
    pub fn over(name: &str, stdin: OwnedFd, stdout: OwnedFd) -> Result<Engine, Error> {
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let log_reader = std::thread::spawn(|| ());
        Engine {
            name: name.to_owned(),
            hello: Engine::no_hello(name),
            child: Process(None),
            stdin: stdin.into(),
            stdout: stdout.into(),
            payload: Vec::new(),
            log,
            log_reader,
            during: "starting".into(),
        }
        .greet()
    }
}
