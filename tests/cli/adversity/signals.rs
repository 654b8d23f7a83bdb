//! SIGINT, SIGTERM and SIGKILL, early and late.

use std::os::unix::process::ExitStatusExt;

use reports::model::Status;

use super::*;

/// Sends a signal to a process.
fn signal(name: &str, pid: u32) {
    let sent = Command::new("kill")
        .args(["-s", name, &pid.to_string()])
        .status();
    assert!(sent.expect("kill starts").success());
}

/// Starts crossval, and sends it a signal after a while.
fn interrupted(trial: &Trial, args: &[String], name: &str, after: Duration) -> Output {
    let mut command = trial.command(args);
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let child = child.expect("it starts");
    std::thread::sleep(after);
    signal(name, child.id());
    child.wait_with_output().expect("it ends")
}

#[test]
fn a_signal_at_any_moment_leaves_a_whole_report_or_none() {
    let (mut with_report, mut without) = (0, 0);
    for (i, ms) in [60, 100, 150, 220, 330, 500, 750, 1100, 1700, 2500]
        .into_iter()
        .enumerate()
    {
        let trial = Trial::new();
        let (name, code) = [("INT", 130), ("TERM", 143)][i % 2];
        // Long enough for all of them.
        let args = trial.run(&["--n-predict", "200"]);
        let output = interrupted(&trial, &args, name, Duration::from_millis(ms));
        let ending = trial.check(&output);
        match ending.report {
            // It came too late.
            Some(report) if ending.code == 0 => assert_eq!(report.verdict.exit_code, 0),
            Some(report) => {
                assert_eq!(ending.code, code, "after {ms} ms: {}", ending.stderr);
                assert_eq!(i32::from(report.verdict.exit_code), code);
                assert_eq!(report.verdict.status, Status::Incomplete);
                let first = &report.verdict.reasons[0];
                let says = format!("interrupted by SIG{name}");
                assert!(first.starts_with(&says), "{:?}", report.verdict.reasons);
                assert!(report.engines.reference.failure.is_none());
                assert!(report.engines.candidate.failure.is_none());
                assert!(ending.stdout.starts_with("INCOMPLETE"), "{}", ending.stdout);
                with_report += 1;
            }
            None => {
                assert_eq!(ending.code, code, "after {ms} ms: {}", ending.stderr);
                assert_eq!(ending.stderr, format!("error: interrupted by SIG{name}\n"));
                without += 1;
            }
        }
    }
    assert!(
        with_report > 0,
        "none of them came while engines were compared; {without} before"
    );
}

#[test]
fn every_command_that_works_for_long_can_be_interrupted() {
    let trial = Trial::new();
    let text = |args: &[&str]| {
        args.iter()
            .map(|&arg| arg.to_owned())
            .collect::<Vec<String>>()
    };
    let stuck = trial.engine("sleep 1000");
    let commands = [
        text(&[
            "synth",
            "--arch",
            "bitnet-b1.58",
            "--preset",
            "2b-4t",
            "-o",
            "made",
        ]),
        text(&["selftest", "--reference", "rust", "-o", "made"]),
        text(&["record", "--engine", &stuck, "--model", TINY, "-o", "made"]),
        text(&[
            "bench",
            "--model",
            TINY,
            "--reference",
            "rust",
            "--reps",
            "1000",
            "--json",
        ]),
        text(&[
            "tokenize", "--model", TINY, "--engine", &stuck, "--text", "Once",
        ]),
    ];
    for args in commands {
        let output = interrupted(&trial, &args, "TERM", Duration::from_millis(700));
        let ending = trial.check(&output);
        assert_eq!(ending.code, 143, "{args:?}: {}", ending.stderr);
        let left: Vec<_> = std::fs::read_dir(trial.scratch.path(""))
            .expect("a folder")
            .flatten()
            .map(|file| file.file_name())
            .collect();
        assert_eq!(left, ["engine"], "{args:?}");
    }
}

#[test]
fn the_engines_end_with_a_driver_that_is_killed_and_the_folder_is_free() {
    let trial = Trial::new();
    let args = trial.run(&["--n-predict", "200"]);
    let output = interrupted(&trial, &args, "KILL", Duration::from_millis(800));
    assert_eq!(output.status.signal(), Some(9));
    trial.assert_no_process_left();
    let ending = trial.ending(&mut trial.command(&trial.small_run(&[])));
    assert_eq!(ending.code, 0, "{}", ending.stderr);
}

#[test]
fn a_command_that_waits_for_standard_input_ends_soon() {
    let trial = Trial::new();
    let mut command = trial.command(&["tokenize", "--model", TINY, "--engine", "rust"]);
    let child = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn();
    let mut child = child.expect("it starts");
    std::thread::sleep(Duration::from_millis(300));
    signal("INT", child.id());
    let until = Instant::now() + Duration::from_secs(8);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        assert!(Instant::now() < until, "it waits on");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(130));
}
