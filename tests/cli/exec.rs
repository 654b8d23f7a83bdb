//! Engines that are named by the command that starts them.
#![cfg(unix)]

use super::*;

/// A run in the scratch folder with a candidate that is named by a command.
fn run_in(scratch: &Scratch, candidate: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_crossval"))
        .args(SMALL_RUN)
        .args(["--no-bench", "--out", "out", "--candidate", candidate])
        .current_dir(scratch.path(""))
        .output()
        .expect("crossval starts")
}

#[test]
fn a_command_may_have_arguments_and_lie_in_the_working_directory() {
    let scratch = Scratch::new();
    let start = format!("exec '{}'", env!("CARGO_BIN_EXE_crossval"));
    scratch.program("my engine", &format!("{start} worker rust"));
    scratch.program("engine", &format!("{start} \"$@\""));
    for candidate in [
        "exec:engine worker rust",
        "exec:./engine 'worker' \"rust\"",
        "exec:my engine",
        "exec:'./my engine' ignored",
    ] {
        let output = run_in(&scratch, candidate);
        assert_eq!(exit_code(&output), 0, "{candidate}: {}", stderr(&output));
        let report = read_report(&scratch.path("out"), &output);
        assert_eq!(report.engines.candidate.name, candidate);
    }
}

#[test]
fn a_command_that_cannot_be_started_is_told_apart() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("worker.py"), "").expect("a file");
    for (candidate, code, says) in [
        ("exec:engine 'a", 64, "has no end"),
        ("exec:no-engine", 30, "such as `exec:/path/to/no-engine`"),
        ("exec:./no-engine", 30, "there is no such file"),
        ("exec:worker.py", 30, "`exec:python3 ./worker.py`"),
        ("exec:worker.py --fast", 30, "type `chmod +x ./worker.py`"),
    ] {
        let output = run_in(&scratch, candidate);
        assert_eq!(exit_code(&output), code, "{candidate}: {}", stderr(&output));
        assert!(stderr(&output).contains(says), "{}", stderr(&output));
    }
}
