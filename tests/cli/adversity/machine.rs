//! Machines that are full, read-only, shared or short of something.

use std::os::unix::process::CommandExt;

use super::*;

/// Whether a script may do what it does in namespaces of its own; says so if not.
fn may(what: &str, script: &str) -> bool {
    let done = Command::new("unshare")
        .args(["-rm", "sh", "-c", script])
        .output();
    let may = done.is_ok_and(|done| done.status.success());
    if !may {
        skip(&format!("{what}: this machine lets nobody do it"));
    }
    may
}

/// crossval in a shell with namespaces of its own.
fn in_namespaces<S: AsRef<std::ffi::OsStr>>(trial: &Trial, script: &str, args: &[S]) -> Command {
    let mut command = Command::new("unshare");
    command.args([
        "-rm",
        "sh",
        "-c",
        script,
        "sh",
        env!("CARGO_BIN_EXE_crossval"),
    ]);
    trial.marked(command, args)
}

struct Case {
    what: &'static str,
    /// `"$@"` is crossval, which is to write into the folder `out`, a file system of its own.
    script: &'static str,
    args: &'static [&'static str],
    says: &'static str,
}

/// Room for one report and no more.
const SMALL_DISK: &str = "mkdir out; mount -t tmpfs -o size=1M none out";

#[test]
fn a_disk_that_is_full_or_read_only() {
    let check = format!("cd $(mktemp -d) && {SMALL_DISK} && mount -o remount,ro out");
    if !may("a file system of one's own", &check) {
        return;
    }
    const RUN: &[&str] = &[
        "run",
        "--model",
        TINY,
        "--reference",
        "rust",
        "--no-bench",
        "--n-predict",
        "4",
        "--out",
        "out",
    ];
    let cases = [
        Case {
            what: "a report that does not fit",
            script: "DISK; head -c 900k /dev/zero > out/filler; \"$@\"",
            args: RUN,
            says: "out/report.",
        },
        Case {
            what: "a disk that is full before",
            script: "DISK; head -c 2M /dev/zero > out/filler 2>/dev/null; \"$@\"",
            args: RUN,
            says: "out/report.",
        },
        Case {
            what: "a disk that cannot be written to",
            script: "DISK; mount -o remount,ro out; \"$@\"",
            args: RUN,
            says: "error: out: nothing can be written to this folder: Read-only file system",
        },
        Case {
            what: "a model that does not fit",
            script: "DISK; \"$@\"",
            args: &[
                "synth",
                "--arch",
                "llama",
                "--preset",
                "tiny",
                "-o",
                "out/model.gguf",
            ],
            says: "error: out/model.gguf: No space left on device",
        },
        Case {
            what: "a trace that does not fit",
            script: "DISK; \"$@\"",
            args: &[
                "record",
                "--engine",
                "rust",
                "--model",
                TINY,
                "-o",
                "out/trace",
            ],
            says: "No space left on device",
        },
        Case {
            what: "a self-test's result on a disk that cannot be written to",
            script: "DISK; mount -o remount,ro out; \"$@\"",
            args: &["selftest", "--reference", "rust", "-o", "out/selftest.json"],
            says: "error: out/selftest.json: Read-only file system",
        },
    ];
    for case in cases {
        let trial = Trial::new();
        // What is in the folder goes with the namespace: it is listed first.
        let script = format!(
            "{}; code=$?; ls -A out >&2; exit $code",
            case.script.replace("DISK", SMALL_DISK)
        );
        let output = in_namespaces(&trial, &script, case.args)
            .output()
            .expect("it starts");
        let ending = trial.check(&output);
        let what = case.what;
        assert_eq!(ending.code, 74, "{what}: {}", ending.stderr);
        let (message, left) = ending.stderr.split_once('\n').expect("a line");
        assert!(message.contains(case.says), "{what}: {message}");
        assert!(["", "filler\n"].contains(&left), "{what}: {left}");
    }
}

#[test]
fn an_earlier_report_survives_a_full_disk() {
    let check = format!("cd $(mktemp -d) && {SMALL_DISK}");
    if !may("a file system of one's own", &check) {
        return;
    }
    let trial = Trial::new();
    let script = format!(
        "{SMALL_DISK}; \"$@\" && sha256sum out/* > before; head -c 2M /dev/zero > out/filler 2>/dev/null; \
         \"$@\"; code=$?; rm out/filler; sha256sum out/* > after; ls -A out > files; exit $code"
    );
    let args = trial.small_run(&[]);
    let ending = trial.ending(&mut in_namespaces(&trial, &script, &args));
    assert_eq!(ending.code, 74, "{}", ending.stderr);
    let read = |name: &str| std::fs::read_to_string(trial.scratch.path(name)).expect("a list");
    assert_eq!(read("before"), read("after"));
    assert_eq!(read("files"), "report.html\nreport.json\nreport.md\n");
}

#[test]
fn without_proc() {
    let script = "mount -t tmpfs none /proc";
    if !may("hiding /proc", script) {
        return;
    }
    let trial = Trial::new();
    let script = format!("{script}; \"$@\"");
    let args = trial.small_run(&[]);
    let ending = trial.ending(&mut in_namespaces(&trial, &script, &args));
    assert_eq!(ending.code, 0, "{}", ending.stderr);
    let report = ending.report.expect("a report");
    assert_eq!(report.environment.cpu, None);
    assert_eq!(report.engines.candidate.peak_rss_bytes, None);
}

#[test]
fn one_cpu() {
    let trial = Trial::new();
    let args = trial.small_run(&["--threads", "2"]);
    let ending = trial.ending(&mut trial.by_shell("exec taskset -c 0 \"$@\"", &args));
    assert_eq!(ending.code, 0, "{}", ending.stderr);
    assert_eq!(ending.report.expect("a report").verdict.exit_code, 0);
}

/// The kernel kills what takes more memory than the group may.
#[test]
fn a_group_that_is_out_of_memory() {
    let group = Path::new("/sys/fs/cgroup/memory").join(format!("crossval-{}", std::process::id()));
    let limits = group.join("memory.limit_in_bytes");
    let limited = std::fs::create_dir(&group).is_ok() && std::fs::write(&limits, "100M").is_ok();
    if !limited {
        let _ = std::fs::remove_dir(&group);
        skip("a memory cgroup: this machine lets nobody make one");
        return;
    }
    let trial = Trial::new();
    let worker = env!("CARGO_BIN_EXE_crossval");
    let join = format!("echo $$ > '{}/cgroup.procs'", group.display());
    let engine = trial.engine(&format!(
        "{join}; dd bs=1 count=9000 2>/dev/null | '{worker}' worker rust; head -c 400000000 /dev/zero | tail -n 1; \
         kill -KILL $$"
    ));
    let args = trial.small_run(&["--candidate", &engine]);
    let ending = trial.ending(&mut trial.command(&args));
    let _ = std::fs::remove_dir(&group);
    assert_eq!(ending.code, 30, "{}", ending.stderr);
    let failure = ending.report.expect("a report").engines.candidate.failure;
    let message = failure.expect("a failure").message;
    assert!(
        message.contains("died with SIGKILL (as when memory runs out)"),
        "{message}"
    );
}

#[test]
fn nobody_reads_what_is_printed() {
    for (script, code) in [
        // A reader that has seen enough, before anything is printed.
        ("{ \"$@\"; echo $? > code; } | true; exit $(cat code)", 0),
        ("exec \"$@\" >&-", 0),
        ("exec \"$@\" > /dev/full", 74),
    ] {
        let trial = Trial::new();
        let ending = trial.ending(&mut trial.by_shell(script, &trial.small_run(&[])));
        assert_eq!(ending.code, code, "{script}: {}", ending.stderr);
        // The report is not lost with the summary.
        assert_eq!(
            ending.report.expect("a report").verdict.exit_code,
            0,
            "{script}"
        );
    }
    for script in [
        "{ \"$@\" 2>&1 >/dev/null; echo $? > code; } | true; exit $(cat code)",
        "exec \"$@\" 2>&-",
        "exec \"$@\" 2>/dev/full",
    ] {
        let trial = Trial::new();
        let ending = trial.ending(&mut trial.by_shell(script, &["inspect", "/no/such.gguf"]));
        assert_eq!(ending.code, 65, "{script}: {}", ending.stderr);
    }
}

#[test]
fn a_folder_that_another_run_writes_to_is_refused() {
    let trial = Trial::new();
    let worker = env!("CARGO_BIN_EXE_crossval");
    // Says that it is there, and waits to be let on.
    let slow = trial.engine(&format!(
        "touch started; while [ ! -e let-on ]; do sleep 0.05; done; exec '{worker}' worker rust"
    ));
    let started = trial.scratch.path("started");
    let mut first = trial.command(&trial.small_run(&["--candidate", &slow]));
    let first = first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let first = first.expect("it starts");
    while !started.exists() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = trial
        .command(&trial.small_run(&[]))
        .output()
        .expect("it starts");
    assert_eq!(exit_code(&second), 74);
    let out = trial.out();
    let says = format!("error: {}: another crossval is at work", out.display());
    assert!(stderr(&second).starts_with(&says), "{}", stderr(&second));
    assert_eq!(std::fs::read_dir(&out).expect("a folder").count(), 0);
    std::fs::write(trial.scratch.path("let-on"), "").expect("to let it on");
    let ending = trial.check(&first.wait_with_output().expect("it ends"));
    assert_eq!(ending.code, 0, "{}", ending.stderr);
    assert!(ending.report.is_some());
}

/// A trace or a model that is cut short under a command that has it mapped itself.
#[test]
fn a_file_that_is_cut_short_while_it_is_inspected() {
    let trial = Trial::new();
    let model = synth(&trial.scratch, "bitnet-b1.58", &["--layers", "300"]);
    let mut command = trial.command(&["inspect", "--check", model.to_str().expect("UTF-8")]);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // The table of tensors is more than a pipe holds, and comes before the weights are read.
    use std::io::Read;
    let mut first = [0; 100];
    let stdout = child.stdout.as_mut().expect("a pipe");
    stdout.read_exact(&mut first).expect("its first bytes");
    let file = File::options().write(true).open(&model).expect("the file");
    file.set_len(4096).expect("cut short");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(exit_code(&output), 65, "{}", stderr(&output));
    assert_eq!(
        stderr(&output),
        "error: the file was cut short while it was read\n"
    );
}

/// Starts so many runs before it waits for the first, each with its prompt. Every other one is to fail.
fn assert_right_at_once(
    trial: &Trial,
    runs: usize,
    args: &[&str],
    prompt: impl Fn(usize) -> String,
) {
    let name = |i: usize| format!("run-{i}");
    let children: Vec<_> = (0..runs)
        .map(|i| {
            let out = trial.scratch.path(&name(i)).display().to_string();
            let prompt = prompt(i);
            let mut args = args.to_vec();
            args.extend(["--no-bench", "--out", &out, "--prompt", &prompt]);
            args.extend(&["--fault", "silu:ffn_act:*"][..i % 2 * 2]);
            let mut command = trial.command(&args);
            command
                .process_group(0)
                .stdout(Stdio::null())
                .stderr(Stdio::piped());
            command.spawn().expect("it starts")
        })
        .collect();
    for (i, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("it ends");
        let code = [0, 10][i % 2];
        assert_eq!(exit_code(&output), code, "{i}: {}", stderr(&output));
        let report = trial.report(&trial.scratch.path(&name(i)));
        let report = report.expect("a report");
        assert_eq!(i32::from(report.verdict.exit_code), code);
        assert_eq!(report.inputs.prompts[0].text, Some(prompt(i)));
    }
    trial.assert_no_process_left();
}

#[test]
fn many_at_once() {
    const RUNS: usize = 16;
    let trial = Trial::new();
    let baseline = trial.scratch.path("baseline.json").display().to_string();
    let args = ["--baseline", &baseline, "--update"];
    let args = [&SMALL_RUN[..], &args].concat();
    assert_right_at_once(&trial, RUNS, &args, |_| "Once".to_owned());
    let text = std::fs::read_to_string(&baseline).expect("a baseline");
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let histories = json["histories"].as_array().expect("histories");
    assert_eq!(histories.len(), 1, "all ran the same");
    let runs = histories[0]["runs"].as_array().expect("runs");
    assert_eq!(runs.len(), RUNS / 2, "none is lost");
}

#[test]
#[ignore = "takes minutes"]
#[cfg(feature = "reference")]
fn two_hundred_at_once() {
    let args = ["run", "--model", TINY];
    assert_right_at_once(&Trial::new(), 200, &args, |i| format!("run {i}"));
}
