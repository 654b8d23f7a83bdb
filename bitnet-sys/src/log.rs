//! What the library logs, kept as lines instead of going to stderr.
//!
//! Each thread has its own log: the library logs on the thread that calls it, a piece of a line at a time, so that in a
//! log of all threads the pieces would run into each other and one call would be given another's reason.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};

/// Lines kept; the oldest go first.
const CAPACITY: usize = 2000;

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Without its end.
    pub text: String,
    /// As its first piece has it.
    pub severity: Severity,
}

/// How bad the library finds what it logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// A fact.
    Note,
    /// A warning.
    Warning,
    /// An error.
    Error,
}

struct Log {
    lines: VecDeque<LogLine>,
    /// Lines ever begun, so that a caller can tell what is new.
    count: usize,
    open: bool,
}

thread_local! {
    static LOG: RefCell<Log> = const { RefCell::new(Log::new()) };
}

impl Log {
    const fn new() -> Self {
        Log {
            lines: VecDeque::new(),
            count: 0,
            open: false,
        }
    }

    fn push(&mut self, text: &str, severity: Severity) {
        for part in text.split_inclusive('\n') {
            let line = part.trim_end_matches(['\n', '\r']);
            match self.lines.back_mut().filter(|_| self.open) {
                Some(last) => last.text.push_str(line),
                None => {
                    self.lines.push_back(LogLine {
                        text: line.to_owned(),
                        severity,
                    });
                    self.count += 1;
                }
            }
            self.open = !part.ends_with('\n');
        }
        while self.lines.len() > CAPACITY {
            self.lines.pop_front();
        }
    }
}

/// The log callback of the shim.
///
/// # Safety
/// `text` must be a NUL-terminated string.
pub(crate) unsafe extern "C" fn on_log(text: *const c_char, severity: i32, _: *mut c_void) {
    // SAFETY: by the contract of this function.
    let text = unsafe { CStr::from_ptr(text) };
    let text = text.to_string_lossy();
    let severity = match severity {
        ..1 => Severity::Note,
        1 => Severity::Warning,
        2.. => Severity::Error,
    };
    // A thread that is ending may have no log any more.
    let _ = LOG.try_with(|log| log.borrow_mut().push(&text, severity));
}

/// Takes the lines that BitNet.cpp has logged on this thread since the last call, oldest first (the last 2000 of them).
pub fn take_log() -> Vec<LogLine> {
    LOG.with_borrow_mut(|log| {
        log.open = false;
        log.lines.drain(..).collect()
    })
}

/// A moment in this thread's log.
pub(crate) struct Mark(usize);

impl Mark {
    pub(crate) fn now() -> Self {
        Mark(LOG.with_borrow(|log| log.count))
    }

    /// The first error logged since then (`fallback` if there is none), and all that was logged.
    pub(crate) fn since(&self, fallback: String) -> (String, Vec<String>) {
        LOG.with_borrow(|log| {
            let new = log.count.saturating_sub(self.0);
            let lines = || log.lines.iter().skip(log.lines.len().saturating_sub(new));
            let reason = lines()
                .find(|line| line.severity == Severity::Error)
                .map_or(fallback, |line| line.text.trim().to_owned());
            (reason, lines().map(|line| line.text.clone()).collect())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_become_lines() {
        let mut log = Log::new();
        log.push("loading", Severity::Note);
        log.push("...", Severity::Note);
        log.push(" done\nnext: bad\n", Severity::Error);
        let lines: Vec<_> = log
            .lines
            .iter()
            .map(|l| (l.text.as_str(), l.severity))
            .collect();
        let said = [
            ("loading... done", Severity::Note),
            ("next: bad", Severity::Error),
        ];
        assert_eq!(lines, said);
        assert_eq!(log.count, 2);

        for i in 0..CAPACITY {
            log.push(&format!("{i}\n"), Severity::Note);
        }
        assert_eq!(log.lines.len(), CAPACITY);
        assert_eq!(log.lines[0].text, "0");
    }

    #[test]
    fn threads_do_not_mix() {
        let log = |text: &CStr, severity| {
            // SAFETY: a C string.
            unsafe { on_log(text.as_ptr(), severity, std::ptr::null_mut()) };
        };
        let mark = Mark::now();
        log(c"loading: ", 2);
        std::thread::spawn(move || {
            let mark = Mark::now();
            log(c"elsewhere", 0);
            log(c"\n", 2);
            let (reason, lines) = mark.since("none".to_owned());
            assert_eq!((reason.as_str(), lines.len()), ("none", 1));
        })
        .join()
        .unwrap();
        log(c"no such file\n", 1);
        let (reason, lines) = mark.since("none".to_owned());
        assert_eq!(reason, "loading: no such file");
        assert_eq!(lines, ["loading: no such file"]);
        log(c"beware\n", 1);
        let taken = take_log();
        let taken: Vec<_> = taken
            .iter()
            .map(|l| (l.text.as_str(), l.severity))
            .collect();
        let said = [
            ("loading: no such file", Severity::Error),
            ("beware", Severity::Warning),
        ];
        assert_eq!(taken, said);
    }
}
