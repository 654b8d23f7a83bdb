//! The worker as a process: its limits, its log, its end.

use std::collections::VecDeque;
use std::io::BufRead;
use std::os::fd::AsRawFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;

/// Stack of a worker's threads: the reference puts arrays of a whole batch there.
pub(super) const WORKER_STACK_BYTES: u64 = 256 << 20;

/// Lines of a worker's log that are kept for a report.
const LOG_TAIL_LINES: usize = 40;

/// Room in the pipes to a worker: as much as an unprivileged process may ask for.
#[cfg(target_os = "linux")]
const PIPE_BYTES: libc::c_int = 1 << 20;

/// Makes a pipe hold more than the usual 64 KiB: activations come in megabytes, and every filling is a change of
/// process. Where the system says no, the pipe stays as it is.
pub(super) fn widen(pipe: &impl AsRawFd) {
    #[cfg(target_os = "linux")]
    // SAFETY: the descriptor is open as long as `pipe` is, and the call only sets the pipe's capacity.
    unsafe {
        libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = pipe;
}

/// Keeps the last lines of a log.
pub(super) fn keep_tail(stderr: impl BufRead, log: &Mutex<VecDeque<String>>) {
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

/// How a process ended, as a phrase.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("died with {}", signal_name(signal)),
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => format!("ended ({status})"),
    }
}

/// The name of a signal.
pub(super) fn signal_name(signal: i32) -> String {
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

/// Memory (of addresses, bytes) and processor time (seconds) that a process may take, and an end with the driver's, set
/// between fork and exec.
pub(crate) fn bound(command: &mut Command, memory: u64, cpu_seconds: u64) {
    let setup = move || {
        // SAFETY: plain system calls on values owned by this frame; all are async-signal-safe.
        unsafe {
            for (resource, limit) in [(libc::RLIMIT_AS, memory), (libc::RLIMIT_CPU, cpu_seconds)] {
                let limit = libc::rlimit {
                    rlim_cur: limit,
                    rlim_max: limit,
                };
                if libc::setrlimit(resource, &limit) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
            }
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and only makes async-signal-safe calls.
    unsafe { command.pre_exec(setup) };
}

/// Stack limit, pinning and an end with the driver's, set between fork and exec.
pub(super) fn confine(command: &mut Command, cpus: Option<&[usize]>) {
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
