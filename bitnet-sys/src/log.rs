//! What the library logs, kept as lines instead of going to stderr.

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Lines kept; the oldest go first.
const CAPACITY: usize = 2000;

struct Line {
    text: String,
    is_error: bool,
}

struct Log {
    lines: VecDeque<Line>,
    /// Lines ever begun, so that a caller can tell what is new.
    count: usize,
    open: bool,
}

static LOG: Mutex<Log> = Mutex::new(Log {
    lines: VecDeque::new(),
    count: 0,
    open: false,
});

fn log() -> MutexGuard<'static, Log> {
    LOG.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Log {
    fn push(&mut self, text: &str, is_error: bool) {
        for part in text.split_inclusive('\n') {
            let line = part.trim_end_matches(['\n', '\r']);
            match self.lines.back_mut().filter(|_| self.open) {
                Some(last) => last.text.push_str(line),
                None => {
                    self.lines.push_back(Line {
                        text: line.to_owned(),
                        is_error,
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
pub(crate) unsafe extern "C" fn on_log(text: *const c_char, is_error: bool, _: *mut c_void) {
    // SAFETY: by the contract of this function.
    let text = unsafe { CStr::from_ptr(text) };
    log().push(&text.to_string_lossy(), is_error);
}

/// Takes the lines that BitNet.cpp has logged since the last call, oldest first (the last 2000 of them).
pub fn take_log() -> Vec<String> {
    let mut log = log();
    log.open = false;
    log.lines.drain(..).map(|line| line.text).collect()
}

/// A moment in the log.
pub(crate) struct Mark(usize);

impl Mark {
    pub(crate) fn now() -> Self {
        Mark(log().count)
    }

    /// The first error logged since then (`fallback` if there is none), and all that was logged.
    pub(crate) fn since(&self, fallback: String) -> (String, Vec<String>) {
        let log = log();
        let new = log.count.saturating_sub(self.0);
        let lines = || log.lines.iter().skip(log.lines.len().saturating_sub(new));
        let reason = lines()
            .find(|line| line.is_error)
            .map_or(fallback, |line| line.text.trim().to_owned());
        (reason, lines().map(|line| line.text.clone()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments_become_lines() {
        let mut log = Log {
            lines: VecDeque::new(),
            count: 0,
            open: false,
        };
        log.push("loading", false);
        log.push("...", false);
        log.push(" done\nnext: bad\n", true);
        let lines: Vec<_> = log
            .lines
            .iter()
            .map(|l| (l.text.as_str(), l.is_error))
            .collect();
        assert_eq!(lines, [("loading... done", false), ("next: bad", true)]);
        assert_eq!(log.count, 2);

        for i in 0..CAPACITY {
            log.push(&format!("{i}\n"), false);
        }
        assert_eq!(log.lines.len(), CAPACITY);
        assert_eq!(log.lines[0].text, "0");
    }
}
