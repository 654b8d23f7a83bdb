//! The worker as a process: its limits, its log, its end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, Read};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions, getpid, getppid, getrlimit,
    kill_process_group, set_parent_process_death_signal, setrlimit, waitid,
};
use rustix::thread::{CpuSet, sched_setaffinity};
use signal_hook::consts::{SIGBUS, SIGKILL};

use super::warnings::Warnings;
use crate::interrupt::Registered;

/// Stack of a worker's threads: the reference puts arrays of a whole batch there.
pub(super) const WORKER_STACK_BYTES: u64 = 256 << 20;

/// Lines of a worker's log that are kept for a report.
const LOG_TAIL_LINES: usize = 40;

/// Bytes of a line that are kept.
const LOG_LINE_BYTES: u64 = 400;

/// The OpenMP specification's variable for how threads wait; what a user sets stands.
const WAIT_POLICY: &str = "OMP_WAIT_POLICY";

/// How often the driver looks whether a worker has ended.
pub(super) const SHORT_WHILE: Duration = Duration::from_millis(2);

/// A worker and whatever it started, which ends with it: they are a process group. Or nobody, who counts as ended with
/// code 0.
#[derive(Debug)]
pub(super) struct Process(Option<Group>);

#[derive(Debug)]
struct Group {
    leader: Child,
    registered: Option<Registered>,
}

/// The driver's ends of a worker's pipes.
pub(super) struct Pipes {
    pub(super) stdin: File,
    pub(super) stdout: File,
    pub(super) stderr: Option<ChildStderr>,
}

impl Process {
    pub(super) fn none() -> Process {
        Process(None)
    }

    /// Starts a worker, pinned to `cpus` if given, that may allocate `memory` bytes if given.
    ///
    /// Pinned workers are timed, and wait in OpenMP's barriers as they would anywhere. The others sleep there: threads
    /// that spin while the one they wait for has no CPU made 32 runs at once on 2 CPUs take three times as long.
    pub(super) fn start(
        mut command: Command,
        cpus: Option<&[usize]>,
        memory: Option<u64>,
    ) -> io::Result<(Process, Pipes)> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A terminal's Ctrl-C is for the driver, which ends its workers.
            .process_group(0)
            .env("OMP_STACKSIZE", format!("{}", WORKER_STACK_BYTES >> 10));
        if cpus.is_none() && std::env::var_os(WAIT_POLICY).is_none() {
            command.env(WAIT_POLICY, "passive");
        }
        confine(&mut command, cpus, memory);
        let mut leader = command.spawn()?;
        let pipes = leader.stdin.take().zip(leader.stdout.take());
        let stderr = leader.stderr.take();
        let registered = Some(Registered::new(Pid::from_child(&leader)));
        let process = Process(Some(Group { leader, registered }));
        let (stdin, stdout) = pipes.ok_or_else(|| io::Error::other("no pipe"))?;
        let pipes = Pipes {
            stdin: OwnedFd::from(stdin).into(),
            stdout: OwnedFd::from(stdout).into(),
            stderr,
        };
        Ok((process, pipes))
    }

    pub(super) fn id(&self) -> Option<u32> {
        self.0.as_ref().map(|group| group.leader.id())
    }

    /// Waits until it has ended, for so long at most; returns whether it has.
    pub(super) fn ends_within(&self, time: Duration) -> bool {
        let Some(group) = &self.0 else {
            return true;
        };
        let leader = WaitId::Pid(Pid::from_child(&group.leader));
        // It stays to be reaped, so that its ID remains its own.
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let deadline = Instant::now() + time;
        loop {
            if !matches!(waitid(leader.clone(), look), Ok(None)) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(SHORT_WHILE);
        }
    }

    /// Ends it if it lives, and what it started; returns how it ended.
    pub(super) fn end(&mut self) -> io::Result<ExitStatus> {
        let Some(group) = &mut self.0 else {
            return Ok(ExitStatus::default());
        };
        if let Some(registered) = group.registered.take() {
            // Fails if there is nobody to end.
            let _ = kill_process_group(Pid::from_child(&group.leader), Signal::KILL);
            drop(registered);
        }
        group.leader.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

/// What is kept of a log.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// The last lines, the start of each.
    pub(super) tail: VecDeque<String>,
    pub(super) warnings: Warnings,
}

/// Reads a log to its end.
pub(super) fn keep(mut stderr: impl BufRead, log: &Mutex<Log>) {
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = stderr
            .by_ref()
            .take(LOG_LINE_BYTES)
            .read_until(b'\n', &mut line);
        match read {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let ended = line.pop_if(|&mut last| last == b'\n').is_some();
        let text = String::from_utf8_lossy(&line).into_owned();
        let mut kept = log.lock().unwrap_or_else(|e| e.into_inner());
        kept.warnings.look_at(&text);
        if kept.tail.len() == LOG_TAIL_LINES {
            kept.tail.pop_front();
        }
        kept.tail.push_back(text);
        drop(kept);
        if !ended && stderr.skip_until(b'\n').is_err() {
            return;
        }
    }
}

/// How a process ended, as a phrase.
pub(crate) fn ending(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => {
            let hint = match signal {
                SIGKILL => " (as when memory runs out)",
                SIGBUS => " (as when a mapped file is cut short)",
                _ => "",
            };
            format!("died with {}{hint}", signal_name(signal))
        }
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => format!("ended ({status})"),
    }
}

/// The name of a signal.
pub(super) fn signal_name(signal: i32) -> String {
    let name = signal_hook::low_level::signal_name(signal);
    name.map_or_else(|| format!("signal {signal}"), str::to_owned)
}

/// Memory (of addresses, bytes) and processor time (seconds) that a process may take, and an end with the driver's, set
/// between fork and exec.
pub(crate) fn bound(command: &mut Command, memory: u64, cpu_seconds: u64) {
    let driver = getpid();
    let setup = move || {
        limit(Resource::As, memory)?;
        limit(Resource::Cpu, cpu_seconds)?;
        end_with(driver)
    };
    // SAFETY: the closure allocates nothing and makes system calls alone.
    unsafe { command.pre_exec(setup) };
}

/// Limits, pinning and an end with the driver's, set between fork and exec.
fn confine(command: &mut Command, cpus: Option<&[usize]>, memory: Option<u64>) {
    let mask = cpus.map(|cpus| {
        let mut mask = CpuSet::new();
        for &cpu in cpus.iter().filter(|&&cpu| cpu < CpuSet::MAX_CPU) {
            mask.set(cpu);
        }
        mask
    });
    let driver = getpid();
    let setup = move || {
        let stack = getrlimit(Resource::Stack);
        let wanted = stack
            .maximum
            .map_or(WORKER_STACK_BYTES, |most| most.min(WORKER_STACK_BYTES));
        // Where it may not be, stages with less on the stack still run.
        let _ = setrlimit(
            Resource::Stack,
            Rlimit {
                current: Some(wanted),
                ..stack
            },
        );
        if let Some(memory) = memory {
            limit(Resource::Data, memory)?;
        }
        if let Some(mask) = &mask {
            let _ = sched_setaffinity(None, mask);
        }
        end_with(driver)
    };
    // SAFETY: the closure allocates nothing and makes system calls alone.
    unsafe { command.pre_exec(setup) };
}

fn limit(resource: Resource, most: u64) -> io::Result<()> {
    let most = Some(most);
    let limit = Rlimit {
        current: most,
        maximum: most,
    };
    Ok(setrlimit(resource, limit)?)
}

/// An end of this process with the driver's, also if that has come already.
fn end_with(driver: Pid) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid() {
        Some(parent) if parent == driver => Ok(()),
        _ => Err(rustix::io::Errno::SRCH.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_timed_workers_may_spin_in_barriers() {
        let policy = |cpus| {
            let mut command = Command::new("sh");
            command.args(["-c", "echo ${OMP_WAIT_POLICY-none}"]);
            let (_process, mut pipes) = Process::start(command, cpus, None).unwrap();
            let mut policy = String::new();
            pipes.stdout.read_to_string(&mut policy).unwrap();
            policy
        };
        let inherited = std::env::var(WAIT_POLICY).ok();
        assert_eq!(
            policy(None).trim(),
            inherited.as_deref().unwrap_or("passive")
        );
        let allowed = rustix::thread::sched_getaffinity(None).unwrap();
        let cpu = (0..CpuSet::MAX_CPU)
            .find(|&cpu| allowed.is_set(cpu))
            .unwrap();
        assert_eq!(
            policy(Some(&[cpu])).trim(),
            inherited.as_deref().unwrap_or("none")
        );
    }

    #[test]
    fn of_a_flood_the_last_lines_are_kept_and_of_each_its_start() {
        let log = Mutex::new(Log::default());
        let long = "x".repeat(1 << 20);
        let mut text = "early\n".repeat(1000);
        text += &format!("{long}\nlate\n\n");
        text += &long;
        keep(text.as_bytes(), &log);
        let log = log.into_inner().unwrap().tail;
        assert_eq!(log.len(), LOG_TAIL_LINES);
        let tail: Vec<&str> = log.iter().rev().take(5).map(String::as_str).collect();
        let cut = &long[..LOG_LINE_BYTES as usize];
        assert_eq!(tail, [cut, "", "late", cut, "early"]);
    }
}
