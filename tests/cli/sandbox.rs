//! The processes that read a model are confined, as the kernel itself says, and the report says how.
#![cfg(target_os = "linux")]

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// A process of crossval, which is ended with the test.
struct Process(Child);

impl Process {
    fn start(args: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_crossval"));
        command.args(args).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::inherit());
        Process(command.spawn().expect("crossval starts"))
    }

    /// Whether the kernel holds it to a filter, with no way to new privileges, before long.
    fn is_confined(&self) -> bool {
        let file = format!("/proc/{}/status", self.0.id());
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            let status = std::fs::read_to_string(&file).expect("a process");
            let has = |line: &str| status.lines().any(|l| l == line);
            if has("NoNewPrivs:\t1") && has("Seccomp:\t2") {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a run says of its engines' sandbox; `None` (said aloud) where this machine has no seccomp.
fn seccomp(report: &Report) -> Option<&str> {
    let fact = &report.engines.candidate.build["sandbox"];
    if fact.contains("no seccomp") {
        skip(fact);
        return None;
    }
    Some(fact)
}

#[test]
fn workers_are_confined_before_they_are_asked_anything() {
    let scratch = Scratch::new();
    let trace = scratch.path("trace.safetensors");
    let trace = trace.to_str().expect("UTF-8");
    let recorded = crossval(&[
        "record",
        "--engine",
        "rust",
        "--model",
        TINY,
        "--n-predict",
        "2",
        "-o",
        trace,
    ]);
    assert_eq!(exit_code(&recorded), 0, "{}", stderr(&recorded));
    let trace_engine = format!("trace:{trace}");
    let args = [
        "--reference",
        &trace_engine,
        "--n-predict",
        "2",
        "--no-bench",
    ];
    let (_, report, _) = run(Path::new(TINY), &args);
    let Some(fact) = seccomp(&report) else { return };
    assert!(fact.contains("Landlock"), "{fact}");
    // Of the process that runs now, not of the one that was recorded.
    assert_eq!(report.engines.reference.build["sandbox"], fact);

    let workers: &[&[&str]] = &[
        &["worker", "rust"],
        &["worker", "oracle"],
        &["worker", "trace", "--file", trace],
        #[cfg(feature = "reference")]
        &["worker", "bitnet.cpp"],
        &["render-chat"],
    ];
    for args in workers {
        assert!(Process::start(args).is_confined(), "{args:?}");
    }
}
