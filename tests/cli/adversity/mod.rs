//! Engines that misbehave and machines that run out: the right exit code, a message that says what happened, no process
//! left over, no file half written.
#![cfg(target_os = "linux")]

mod engine;
mod machine;
mod signals;

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::*;

/// What crossval's processes have in their environment here, to be told from those of other tests.
const MARK: &str = "CROSSVAL_TEST_MARK";

/// A command of crossval's that something happens to.
struct Trial {
    scratch: Scratch,
    mark: String,
}

/// How it ended.
struct Ending {
    code: i32,
    stdout: String,
    stderr: String,
    /// The report in the folder `out`, if there is one.
    report: Option<Report>,
}

impl Trial {
    fn new() -> Trial {
        let scratch = Scratch::new();
        let mark = scratch.path("").display().to_string();
        Trial { scratch, mark }
    }

    fn out(&self) -> PathBuf {
        self.scratch.path("out")
    }

    /// `crossval` with these arguments, to be started.
    fn command<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Command {
        self.marked(Command::new(env!("CARGO_BIN_EXE_crossval")), args)
    }

    /// The same by way of a shell, where `crossval` is `"$@"`.
    fn by_shell<S: AsRef<std::ffi::OsStr>>(&self, script: &str, args: &[S]) -> Command {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, "sh", env!("CARGO_BIN_EXE_crossval")]);
        self.marked(shell, args)
    }

    fn marked<S: AsRef<std::ffi::OsStr>>(&self, mut command: Command, args: &[S]) -> Command {
        command.args(args).env(MARK, &self.mark);
        command.stdin(Stdio::null());
        command.current_dir(self.scratch.path(""));
        command
    }

    /// Arguments of a run without BitNet.cpp, into the folder `out`.
    fn small_run(&self, more: &[&str]) -> Vec<String> {
        self.run(&[&["--no-bench", "--n-predict", "4"], more].concat())
    }

    /// The same of any length.
    fn run(&self, more: &[&str]) -> Vec<String> {
        self.run_of(TINY, &[&["--reference", "rust"], more].concat())
    }

    /// Arguments of a run on a model, into the folder `out`.
    fn run_of(&self, model: &str, more: &[&str]) -> Vec<String> {
        let out = self.out().display().to_string();
        let args = ["run", "--model", model, "--out", &out];
        let args = args.iter().chain(more);
        args.map(|&arg| arg.to_owned()).collect()
    }

    /// Waits for the end, and checks that nothing is left over.
    fn ending(&self, command: &mut Command) -> Ending {
        let output = command.output().expect("it starts");
        self.check(&output)
    }

    fn check(&self, output: &Output) -> Ending {
        let stderr = stderr(output);
        assert!(!stderr.contains("panicked"), "{stderr}");
        assert!(!stderr.starts_with("error: internal error"), "{stderr}");
        self.assert_no_process_left();
        Ending {
            code: exit_code(output),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr,
            report: self.report(&self.out()),
        }
    }

    /// Processes that end at a signal take a moment.
    fn assert_no_process_left(&self) {
        let until = Instant::now() + Duration::from_secs(5);
        loop {
            let left = self.processes();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left over: {left:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Command lines of the processes that this trial has started.
    fn processes(&self) -> Vec<String> {
        let mark = format!("{MARK}={}", self.mark);
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let ours = processes.filter(|process| {
            std::fs::read(process.path().join("environ")).is_ok_and(|environment| {
                environment
                    .split(|&byte| byte == 0)
                    .any(|variable| variable == mark.as_bytes())
            })
        });
        ours.map(|process| {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).replace('\0', " ")
        })
        .collect()
    }

    /// The report in a folder, all of whose files are whole; `None` if it has none.
    fn report(&self, folder: &Path) -> Option<Report> {
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .map(|files| files.flatten())
            .into_iter()
            .flatten()
            .map(|file| file.file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        if files.is_empty() {
            return None;
        }
        assert_eq!(files, ["report.html", "report.json", "report.md"]);
        let html = std::fs::read_to_string(folder.join("report.html")).expect("HTML");
        assert!(html.trim_end().ends_with("</html>"));
        let report = reports::json::read(&folder.join("report.json")).expect("a whole report");
        assert!(html.contains(&report.created), "of the same run");
        Some(report)
    }

    /// An engine that is a shell script.
    fn engine(&self, script: &str) -> String {
        self.scratch.engine("engine", script)
    }
}
