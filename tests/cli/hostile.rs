//! Files made to break what reads them: each is refused with its cause, at once and in little memory.

mod container;
pub(super) mod file;
mod model;
mod tensors;
mod vocabulary;

use std::collections::HashSet;
use std::os::unix::process::CommandExt;

use self::file::File;
use super::*;

const CROSSVAL: &str = env!("CARGO_BIN_EXE_crossval");

/// Memory that a process may take, stack and mapped file apart, bytes. Who asks for more gets none, and aborts.
const MEMORY: u64 = 50 << 20;

/// Processor time that a process may take, seconds.
const SECONDS: u64 = 1;

struct Case {
    name: &'static str,
    /// Pieces of the message.
    says: Says,
    edit: Box<dyn FnOnce(&mut File)>,
    /// What refuses it.
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Container,
    Model,
    /// Only who looks at every weight: `run`, and `inspect --check`.
    Weights,
}

type Says = &'static [&'static str];

impl Case {
    fn new(name: &'static str, says: Says, edit: impl FnOnce(&mut File) + 'static) -> Case {
        Case {
            name,
            says,
            edit: Box::new(edit),
            stage: Stage::Container,
        }
    }

    fn at(self, stage: Stage) -> Case {
        Case { stage, ..self }
    }

    fn of_model(name: &'static str, says: Says, edit: impl FnOnce(&mut File) + 'static) -> Case {
        Case::new(name, says, edit).at(Stage::Model)
    }

    fn of_weights(name: &'static str, says: Says, edit: impl FnOnce(&mut File) + 'static) -> Case {
        Case::new(name, says, edit).at(Stage::Weights)
    }
}

/// A program, and what it starts, within the limits.
fn limited(program: &str, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args);
    let limit = || {
        for (resource, limit) in [(libc::RLIMIT_DATA, MEMORY), (libc::RLIMIT_CPU, SECONDS)] {
            let limit = libc::rlimit {
                rlim_cur: limit,
                rlim_max: limit,
            };
            // SAFETY: a plain system call on a value owned by this frame.
            if unsafe { libc::setrlimit(resource, &limit) } != 0 {
                return Err(std::io::Error::last_os_error());
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and only makes async-signal-safe calls.
    unsafe { command.pre_exec(limit) };
    command.output().expect("a program")
}

fn check(cases: Vec<Case>) {
    let scratch = Scratch::new();
    let path = scratch.path("hostile.gguf");
    let path = path.to_str().expect("UTF-8");
    let out = scratch.path("out");
    let out = out.to_str().expect("UTF-8");
    let mut failures = Vec::new();
    for case in cases {
        let mut file = File::bundled();
        (case.edit)(&mut file);
        std::fs::write(path, file.bytes()).expect("a file");
        let run = [
            "run",
            "--model",
            path,
            "--reference",
            "rust",
            "--no-bench",
            "--out",
            out,
        ];
        let output = limited(CROSSVAL, &run);
        let message = stderr(&output);
        let mut says = case.says.to_vec();
        says.push(path);
        let fine = output.status.code() == Some(65)
            && message.lines().count() == 1
            && message.len() < 2000
            && says.iter().all(|says| message.contains(says));
        if !fine {
            failures.push(format!("{}: run: {}: {message}", case.name, output.status));
        }
        let mut args = vec!["inspect", path];
        let code = match case.stage {
            Stage::Container => 65,
            // What is sound is shown, and who does not run it and why.
            Stage::Model => 0,
            Stage::Weights => {
                args.push("--check");
                65
            }
        };
        let output = limited(CROSSVAL, &args);
        let stdout = String::from_utf8_lossy(&output.stdout);
        let message = format!("{stdout}{}", stderr(&output));
        let said = case.says.iter().all(|says| message.contains(says));
        if output.status.code() != Some(code) || !said {
            failures.push(format!(
                "{}: inspect: {}: {message}",
                case.name, output.status
            ));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn hostile_containers() {
    check(container::cases());
}

#[test]
fn hostile_models() {
    check(model::cases());
}

#[test]
fn hostile_tensors() {
    check(tensors::cases());
}

#[test]
fn hostile_vocabularies() {
    check(vocabulary::cases());
}

/// BitNet.cpp aborts on some of them, and loads others: a finding with a name, whatever it does.
#[cfg(feature = "reference")]
#[test]
fn the_reference_may_do_with_hostile_files_what_it_likes() {
    let scratch = Scratch::new();
    let path = scratch.path("hostile.gguf");
    let cases = [model::cases(), tensors::cases(), vocabulary::cases()];
    let mut failures = Vec::new();
    for case in cases.into_iter().flatten() {
        let mut file = File::bundled();
        (case.edit)(&mut file);
        std::fs::write(&path, file.bytes()).expect("a file");
        let path = path.to_str().expect("UTF-8");
        let out = scratch.path("out").display().to_string();
        let output = crossval(&[
            "run",
            "--model",
            path,
            "--reference",
            "rust",
            "--candidate",
            "bitnet.cpp",
            "--no-bench",
            "--out",
            &out,
            // It believes what a file says.
            "--memory-limit",
            "2GiB",
        ]);
        // Its refusal, its crash, or ours as the failure of an engine that the other was not held against.
        let report = reports::json::read(&Path::new(&out).join("report.json"));
        let (message, says) = match (output.status.code(), report) {
            (Some(30 | 65), Ok(report)) => (report.verdict.reasons.join("; "), case.says),
            (Some(30 | 64 | 65), Err(_)) => (stderr(&output), &["error: "][..]),
            _ => (stderr(&output), &["another outcome"][..]),
        };
        if !says.iter().all(|says| message.contains(says)) {
            failures.push(format!("{}: {}: {message}", case.name, output.status));
        }
        let _ = std::fs::remove_dir_all(&out);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A FIFO that nobody writes to, a device without an end, a folder: none is waited for or read.
#[test]
fn hostile_files_that_are_none() {
    let scratch = Scratch::new();
    let fifo = scratch.path("fifo.gguf");
    let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo");
    assert!(made.success());
    let folder = scratch.path("");
    for (path, says) in [
        (fifo.as_path(), "not a regular file"),
        (Path::new("/dev/zero"), "not a regular file"),
        (&folder, "a folder"),
    ] {
        let path = path.to_str().expect("UTF-8");
        for args in [
            &["run", "--model", path, "--reference", "rust", "--no-bench"][..],
            &["inspect", path],
            &[
                "tokenize", "--model", path, "--engine", "rust", "--text", "a",
            ],
        ] {
            let output = limited("timeout", &[&["10", CROSSVAL], args].concat());
            let message = stderr(&output);
            assert_eq!(exit_code(&output), 65, "{args:?}: {message}");
            assert!(message.contains(says), "{args:?}: {message}");
            assert!(message.contains(path), "{args:?}: {message}");
        }
    }
}

/// Else those above could be refused for what they all have in common.
#[test]
fn hostile_files_are_sound_but_for_their_fault() {
    let scratch = Scratch::new();
    let path = scratch.path("sound.gguf");
    std::fs::write(&path, File::bundled().bytes()).expect("a file");
    let path = path.to_str().expect("UTF-8");
    let out = scratch.path("out");
    let out = out.to_str().expect("UTF-8");
    let output = limited(
        CROSSVAL,
        &[
            "run",
            "--model",
            path,
            "--reference",
            "rust",
            "--no-bench",
            "--out",
            out,
        ],
    );
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let cases = [
        container::cases(),
        model::cases(),
        tensors::cases(),
        vocabulary::cases(),
    ];
    let names: Vec<&str> = cases.iter().flatten().map(|case| case.name).collect();
    let distinct: HashSet<&str> = names.iter().copied().collect();
    assert_eq!(distinct.len(), names.len());
}
