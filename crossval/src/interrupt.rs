//! SIGINT and SIGTERM: the workers are ended, so that whoever waits for one goes on, and the command winds up by
//! itself. It writes what it has, marked as incomplete, and exits with 128 and the signal's number.
//!
//! And SIGBUS, which is how a mapped file that was cut short is met: an error of its input, not a crash.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use reports::outcome::Outcome;
use rustix::process::{Pid, Signal, kill_process_group};
use signal_hook::consts::{SIGBUS, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// How long a command may take to wind up: with workers, whose report is written then, and without, as where it waits
/// for standard input.
const GRACE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(1)];

const CUT_SHORT: &[u8] = b"error: the file was cut short while it was read\n";

/// The first signal; 0 before it.
static RECEIVED: AtomicI32 = AtomicI32::new(0);

/// Process groups of the workers alive.
static WORKERS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

/// A signal that ends the command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.name())]
pub struct Interruption {
    signal: i32,
}

impl Interruption {
    #[cfg(test)]
    pub(crate) const TERMINATED: Interruption = Interruption { signal: SIGTERM };

    /// What a command ends with after it.
    pub fn outcome(self) -> Outcome {
        match self.signal {
            SIGINT => Outcome::Interrupted,
            _ => Outcome::Terminated,
        }
    }

    fn name(self) -> &'static str {
        match self.signal {
            SIGINT => "interrupted by SIGINT",
            _ => "interrupted by SIGTERM",
        }
    }
}

/// From now on the signals are handled as this module says. For the driver; workers end with the driver.
///
/// # Errors
/// Whatever installing a handler returns.
pub fn watch() -> std::io::Result<()> {
    let cut_short = || {
        let _ = rustix::io::write(rustix::stdio::stderr(), CUT_SHORT);
        signal_hook::low_level::exit(Outcome::BadInput.exit_code().into());
    };
    // SAFETY: it makes two system calls.
    unsafe { signal_hook::low_level::register(SIGBUS, cut_short) }?;
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if RECEIVED.swap(signal, Ordering::SeqCst) != 0 {
                exit_at_once(signal);
            }
            let workers = workers();
            for &group in workers.iter() {
                // Those that are gone need nothing.
                let _ = kill_process_group(group, Signal::KILL);
            }
            let grace = GRACE[usize::from(workers.is_empty())];
            drop(workers);
            std::thread::spawn(move || {
                std::thread::sleep(grace);
                exit_at_once(signal);
            });
        }
    });
    Ok(())
}

/// The signal that came, if one did.
pub fn received() -> Option<Interruption> {
    match RECEIVED.load(Ordering::SeqCst) {
        0 => None,
        signal => Some(Interruption { signal }),
    }
}

/// For loops that wait for no worker.
///
/// # Errors
/// The signal that came, if one did.
pub fn check() -> Result<(), Interruption> {
    received().map_or(Ok(()), Err)
}

/// What became of a task.
pub fn sentence(interruption: Interruption, during: Option<&str>) -> String {
    let while_at = during.map_or(String::new(), |during| format!(", while {during}"));
    format!("{interruption}{while_at}")
}

/// A worker that is ended by a signal to the driver; dropped when it is about to be reaped, while its ID is still its
/// own.
#[derive(Debug)]
pub(crate) struct Registered(Pid);

impl Registered {
    /// `group` is led by the worker. If a signal has come already, it is ended now.
    pub(crate) fn new(group: Pid) -> Registered {
        let mut workers = workers();
        workers.push(group);
        if received().is_some() {
            let _ = kill_process_group(group, Signal::KILL);
        }
        Registered(group)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        workers().retain(|&group| group != self.0);
    }
}

fn workers() -> MutexGuard<'static, Vec<Pid>> {
    WORKERS.lock().unwrap_or_else(|e| e.into_inner())
}

fn exit_at_once(signal: i32) -> ! {
    std::process::exit(Interruption { signal }.outcome().exit_code().into())
}
