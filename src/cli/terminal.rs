//! What commands print: a summary for people or JSON for programs on standard output, progress on standard error.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crossval::Error;
use crossval::progress::{Event, Progress};

/// Standard output and standard error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// Neither summaries nor progress.
    pub quiet: bool,
}

impl Terminal {
    /// Hidden where standard error is not a terminal, too.
    pub(super) fn bar(self) -> Bar {
        let bar = ProgressBar::no_length();
        let template = "{msg:24} {bar:40} {percent:>3}% {elapsed} (eta {eta})";
        let style = ProgressStyle::with_template(template);
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        if self.quiet {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Bar(bar)
    }

    /// Prints what is for people. Colours are left out where standard output is no terminal, and with `NO_COLOR`.
    ///
    /// # Errors
    /// [`Error::Io`] if standard output cannot be written to.
    pub(super) fn print(self, text: &str) -> Result<(), Error> {
        match self.quiet {
            true => Ok(()),
            false => write(text),
        }
    }

    /// Prints what the command is there to print.
    ///
    /// # Errors
    /// As [`Terminal::print`].
    pub(super) fn print_always(self, text: &str) -> Result<(), Error> {
        write(text)
    }

    /// Prints what was asked for as JSON, on one line.
    ///
    /// # Errors
    /// As [`Terminal::print`].
    pub(super) fn print_json(self, value: &impl Serialize) -> Result<(), Error> {
        let json = serde_json::to_string(value);
        let json = json.map_err(|e| Error::Internal(format!("the result as JSON: {e}")))?;
        write(&(json + "\n"))
    }
}

/// A progress bar, gone when this is.
pub(super) struct Bar(ProgressBar);

impl Bar {
    /// Shows how far `work` is.
    pub(super) fn during<T>(&self, work: impl FnOnce(Progress) -> T) -> T {
        work(Progress::to(&|event| self.show(event)))
    }

    fn show(&self, event: Event) {
        match event {
            Event::Stage(name) => self.0.set_message(name),
            Event::Steps(n) => {
                self.0.set_length(n);
                self.0.set_position(0);
            }
            Event::MoreSteps(n) => self.0.inc_length(n),
            Event::Done(n) => self.0.inc(n),
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// A table of plain columns.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

/// Says on standard error what is wrong; if that is gone, nobody wants to know.
pub(super) fn complain(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

fn write(text: &str) -> Result<(), Error> {
    let mut out = anstream::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // Whoever read it has seen enough, as `head` does: the result is what it is.
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|e| Error::io("standard output", e)),
    }
}
