//! Engines that die, hang, lie or take too much.

use reports::model::Status;

use super::*;

/// A worker as this crate has it, as a command of a shell.
const WORKER: &str = concat!("'", env!("CARGO_BIN_EXE_crossval"), "' worker rust");

/// Bytes of requests after which the engine has loaded the model and is in the middle of being compared.
const COMPARING: usize = 9_000;

struct Case {
    what: &'static str,
    /// `WORKER` stands for a worker, `REQUESTS` for what it is sent while all is well.
    script: &'static str,
    flags: &'static [&'static str],
    code: i32,
    /// What the message says, and in a report what the engine was doing.
    says: &'static [&'static str],
    /// Whether there was something to report on.
    report: bool,
}

const CASES: [Case; 22] = [
    Case {
        what: "aborts",
        script: "REQUESTS | WORKER; kill -ABRT $$",
        flags: &[],
        code: 30,
        says: &["died with SIGABRT while evaluating prompt 0"],
        report: true,
    },
    Case {
        what: "is killed, as by the kernel when memory is out",
        script: "REQUESTS | WORKER; kill -KILL $$",
        flags: &[],
        code: 30,
        says: &[
            "died with SIGKILL (as when memory runs out)",
            "evaluating prompt 0",
        ],
        report: true,
    },
    Case {
        what: "dies of a signal without a name",
        script: "REQUESTS | WORKER; kill -35 $$",
        flags: &[],
        code: 30,
        says: &["died with signal 35 while evaluating prompt 0"],
        report: true,
    },
    Case {
        what: "exits in the middle",
        script: "REQUESTS | WORKER; exit 3",
        flags: &[],
        code: 30,
        says: &["exited with code 3 while evaluating prompt 0"],
        report: true,
    },
    Case {
        what: "exits at once",
        script: "exit 3",
        flags: &[],
        code: 30,
        says: &["exited with code 3 while starting"],
        report: false,
    },
    Case {
        what: "hangs at once",
        script: "sleep 1000",
        flags: &["--timeout", "1"],
        code: 30,
        says: &["did nothing for 1 s (--timeout) while starting"],
        report: false,
    },
    Case {
        what: "hangs in the middle",
        script: "REQUESTS | WORKER; sleep 1000",
        flags: &["--timeout", "5"],
        code: 30,
        says: &["did nothing for 5 s (--timeout) while evaluating prompt 0"],
        report: true,
    },
    Case {
        what: "hangs, and so does what it started",
        script: "sleep 1000 & sleep 1000 & REQUESTS | WORKER; sleep 1000",
        flags: &["--timeout", "5"],
        code: 30,
        says: &["did nothing for 5 s"],
        report: true,
    },
    Case {
        what: "trickles",
        script: r"printf '\0\1\0\0\0\0\0\0'; while :; do printf x; sleep 0.1; done",
        flags: &["--timeout", "1"],
        code: 30,
        says: &["did nothing for 1 s (--timeout) while starting"],
        report: false,
    },
    Case {
        what: "closes its pipe and lives on",
        script: "REQUESTS | WORKER; exec >&-; sleep 1000",
        flags: &[],
        code: 30,
        says: &["closed its pipe and did not end while evaluating"],
        report: true,
    },
    Case {
        what: "writes garbage",
        script: "echo 'Loading weights, please wait ...'; sleep 1000",
        flags: &[],
        code: 30,
        says: &[
            "wrote \"Loading weights, please wait ...\" to its standard output, which is for the protocol alone",
        ],
        report: false,
    },
    Case {
        what: "writes garbage in the middle",
        script: "REQUESTS | WORKER; yes; sleep 1000",
        flags: &[],
        code: 30,
        says: &["wrote \"y\" to its standard output", "evaluating prompt 0"],
        report: true,
    },
    Case {
        what: "writes a frame that is no JSON",
        script: r"printf '\004\0\0\0\0\0\0\0oops'; sleep 1000",
        flags: &[],
        code: 30,
        says: &["broke the protocol: unreadable frame header \"oops\""],
        report: false,
    },
    Case {
        what: "speaks version 1 of the protocol",
        script: r#"printf '\172\0\0\0\0\0\0\0%s' '{"type":"hello","protocol":1,"engine":"mine","architectures":[],"taps":[],"overwrite":false,"dtypes":[],"tokenizer":false}'; sleep 1000"#,
        flags: &[],
        code: 30,
        says: &[
            "/engine speaks version 1 of the worker protocol, this crossval speaks version 2: update the worker;",
            "under \"Versions\"",
        ],
        report: false,
    },
    Case {
        what: "speaks a later version of the protocol, with a tap that is unknown here",
        script: r#"printf '\202\0\0\0\0\0\0\0%s' '{"type":"hello","protocol":3,"engine":"mine","architectures":[],"taps":["router"],"overwrite":false,"dtypes":[],"tokenizer":false}'; sleep 1000"#,
        flags: &[],
        code: 30,
        says: &[
            "/engine speaks version 3 of the worker protocol, this crossval speaks version 2: update crossval;",
        ],
        report: false,
    },
    Case {
        what: "answers what nobody asked",
        script: r#"printf '\024\0\0\0\0\0\0\0{"type":"evaluated"}'; sleep 1000"#,
        flags: &[],
        code: 30,
        says: &["broke the protocol: unexpected answer Evaluated"],
        report: false,
    },
    Case {
        what: "writes half a frame and dies",
        script: "WORKER | { dd bs=1 count=60000 2>/dev/null; kill -TERM $$; }",
        flags: &[],
        code: 30,
        says: &["died with SIGTERM while"],
        report: true,
    },
    Case {
        what: "writes half a frame and hangs",
        script: "WORKER | { dd bs=1 count=60000 2>/dev/null; sleep 1000; }",
        flags: &["--timeout", "5"],
        code: 30,
        says: &["did nothing for 5 s"],
        report: true,
    },
    Case {
        what: "eats memory",
        script: "x=$(head -c 400000000 /dev/zero | tr '\\0' x); exec WORKER",
        flags: &["--memory-limit", "64MiB"],
        code: 30,
        says: &["with 64.0 MiB of memory (--memory-limit), while starting"],
        report: false,
    },
    Case {
        what: "floods its log",
        script: "yes flood >&2 & exec WORKER",
        flags: &[],
        code: 0,
        says: &[],
        report: true,
    },
    Case {
        what: "floods its log with one line",
        script: "cat /dev/zero >&2 & exec WORKER",
        flags: &["--memory-limit", "1GiB"],
        code: 0,
        says: &[],
        report: true,
    },
    Case {
        what: "leaves a process behind",
        script: "sleep 1000 >/dev/null 2>&1 & exec WORKER",
        flags: &[],
        code: 0,
        says: &[],
        report: true,
    },
];

#[test]
fn whatever_an_engine_does_is_reported() {
    for case in &CASES {
        let trial = Trial::new();
        let requests = format!("dd bs=1 count={COMPARING} 2>/dev/null");
        let script = case.script.replace("WORKER", WORKER);
        let engine = trial.engine(&script.replace("REQUESTS", &requests));
        let flags = [&["--candidate", &engine], case.flags].concat();
        let ending = trial.ending(&mut trial.command(&trial.small_run(&flags)));
        let what = case.what;
        assert_eq!(ending.code, case.code, "{what}: {}", ending.stderr);
        assert_eq!(
            ending.report.is_some(),
            case.report,
            "{what}: {}",
            ending.stderr
        );
        let Some(report) = ending.report else {
            for says in case.says {
                assert!(ending.stderr.contains(says), "{what}: {}", ending.stderr);
            }
            assert_eq!(
                ending.stderr.lines().count(),
                1,
                "{what}: {}",
                ending.stderr
            );
            continue;
        };
        assert_eq!(i32::from(report.verdict.exit_code), case.code, "{what}");
        if case.code == 0 {
            continue;
        }
        assert_eq!(report.verdict.status, Status::Error, "{what}");
        assert!(report.engines.reference.failure.is_none(), "{what}");
        let failure = report.engines.candidate.failure.expect("a failure");
        for says in case.says {
            assert!(
                failure.message.contains(says),
                "{what}: {}",
                failure.message
            );
        }
        assert_eq!(report.verdict.reasons[0], failure.message, "{what}");
        let words = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let summary = words(&ending.stdout);
        assert!(summary.contains(&failure.message), "{what}: {summary}");
    }
}

/// A model's file that is cut short under the worker that has it mapped: the worker dies, the driver says of what.
#[test]
fn a_model_that_is_cut_short_while_it_is_mapped() {
    let trial = Trial::new();
    let model = trial.scratch.path("model.gguf");
    std::fs::copy(TINY, &model).expect("a copy");
    let model = model.to_str().expect("UTF-8");
    // A second request comes when the first has been answered: the model is loaded then.
    let script = format!(
        "exec 3<&0; mkfifo requests\n\
         {{ dd bs=1 count=$1 <&3 2>/dev/null; head -c 8 <&3 > head; truncate -s 4096 '{model}'; cat head - <&3; }} \
         > requests &\n\
         {WORKER} < requests; kill -$(($? - 128)) $$"
    );
    let script = script.replace("$1", &(8 + load_request(model).len()).to_string());
    let engine = trial.engine(&script);
    let engines = ["--reference", &engine, "--candidate", "rust"];
    let more = ["--no-bench", "--tokens", "1,2,3"];
    let args = trial.run_of(model, &[&engines[..], &more].concat());
    let ending = trial.ending(&mut trial.command(&args));
    assert_eq!(ending.code, 30, "{}", ending.stderr);
    let report = ending.report.expect("a report");
    let failure = report.engines.reference.failure.expect("a failure");
    let says = "died with SIGBUS (as when a mapped file is cut short) while";
    assert!(failure.message.contains(says), "{}", failure.message);
    let changed = format!("{model} changed during the run");
    assert!(
        report.verdict.reasons.contains(&changed),
        "{:?}",
        report.verdict
    );
}

/// The same file twice in one run, but not the same bytes.
#[test]
fn a_model_that_is_replaced_while_it_is_compared() {
    let trial = Trial::new();
    let model = trial.scratch.path("model.gguf");
    std::fs::copy(TINY, &model).expect("a copy");
    let model = model.to_str().expect("UTF-8");
    let engine = trial.engine(&format!(
        "cp '{model}' new && mv new '{model}'; exec {WORKER}"
    ));
    let engines = ["--reference", "rust", "--candidate", &engine];
    let more = ["--no-bench", "--n-predict", "4"];
    let args = trial.run_of(model, &[&engines[..], &more].concat());
    let ending = trial.ending(&mut trial.command(&args));
    assert_eq!(ending.code, 20, "{}", ending.stderr);
    let report = ending.report.expect("a report");
    let reasons: Vec<&str> = findings(&report).iter().map(|f| f.text.as_str()).collect();
    assert_eq!(reasons, [format!("{model} changed during the run")]);
}

/// The other commands that start engines.
#[test]
fn no_command_waits_for_ever() {
    let commands: [&[&str]; 4] = [
        &["record", "-o", "made", "--engine"],
        &["tokenize", "--text", "Once", "--engine"],
        &[
            "bench",
            "--reference",
            "rust",
            "--out",
            "out",
            "--candidate",
        ],
        &["selftest", "-o", "made", "--reference"],
    ];
    // It loads the model, and hangs then.
    let loading = 8 + load_request(TINY).len() + "_vocab".len();
    let script = format!("dd bs=1 count={loading} 2>/dev/null | {WORKER}; sleep 1000");
    for command in commands {
        let trial = Trial::new();
        let engine = trial.engine(&script);
        let args = [command, &[&engine, "--model", TINY, "--timeout", "5"]].concat();
        let ending = trial.ending(&mut trial.command(&args));
        assert_eq!(ending.code, 30, "{args:?}: {}", ending.stderr);
        let says = "did nothing for 5 s (--timeout) while ";
        assert!(ending.stderr.contains(says), "{args:?}: {}", ending.stderr);
        assert_eq!(ending.report.is_some(), command[0] == "bench");
        assert!(!trial.scratch.path("made").exists());
    }
}

fn load_request(model: &str) -> String {
    serde_json::json!({"type": "load", "model": model}).to_string()
}
