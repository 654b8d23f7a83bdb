//! What is said of mistakes that people make, and of engines that do what they should not: each kind of message.

use super::wrong::doctored;
use super::*;

/// What a command prints where something is wrong: its errors, else the first paragraph of its summary. Paths of this
/// machine are left out.
fn said(scratch: &Scratch, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_crossval"))
        .args(args)
        .current_dir(scratch.path(""))
        .output()
        .expect("crossval starts");
    let errors = stderr(&output);
    let summary = String::from_utf8_lossy(&output.stdout);
    let summary = summary.split("\n\n").next().unwrap_or_default();
    let folder = scratch.path("");
    let folder = folder.to_str().expect("UTF-8").trim_end_matches('/');
    let shown: Vec<String> = args
        .iter()
        .map(|arg| arg.replace(TINY, "tiny.gguf").replace(folder, "DIR"))
        .collect();
    let text = if errors.is_empty() { summary } else { &errors };
    // How far an engine gets before it fails depends on the length of paths.
    let until = |line: &str| match line.ends_with("compared until then") {
        true => "      … rows compared until then\n".to_owned(),
        false => format!("{line}\n"),
    };
    // Whether roundings grow to more than the limit depends on the tokens drawn.
    let mut by_chance = false;
    let text: String = text
        .lines()
        .filter(|line| {
            let (starts, ends) = (
                line.trim_start().starts_with("rounding, amplified"),
                line.ends_with("engines right"),
            );
            let within = by_chance || starts;
            by_chance = within && !ends;
            !within
        })
        .map(until)
        .collect();
    let text = text.replace(TINY, "tiny.gguf").replace(folder, "DIR");
    format!(
        "$ crossval {}\n{}\n[exit code {}]\n\n",
        shown.join(" "),
        text.trim_end(),
        exit_code(&output)
    )
}

/// A small run with more flags.
fn run_of<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let run = ["run", TINY, "--reference", "rust", "-n", "4", "--no-bench"];
    [&run[..], more].concat()
}

#[test]
fn names_that_nobody_has() {
    let scratch = Scratch::new();
    let profile = |name: &str, lines: &str| {
        let text = format!("reason = 'a test'\nexpires = '9999-12-31'\n{lines}\n");
        std::fs::write(scratch.path(name), text).expect("a profile");
    };
    profile("key.toml", "[cumulative]\nnoise_facter = 2");
    profile("tap.toml", "[isolated]\nattn_prob = 1e-5");
    profile("type.toml", "[isolated.matmul]\nI2S = 0");
    let known = |name: &str, lines: &str| {
        let text = format!("[[deviation]]\n{lines}\n");
        std::fs::write(scratch.path(name), text).expect("a ledger");
    };
    known("tap-known.toml", "tap = 'ffn_atc'");
    known("key-known.toml", "tap = 'ffn_act'\nat_falt = 'reference'");
    let commands: Vec<Vec<&str>> = vec![
        run_of(&["--candidate", "rsut"]),
        run_of(&["--candidate", "bitnetcpp"]),
        run_of(&["--candidate", "exce:./mine"]),
        run_of(&["--candidate", "trace"]),
        run_of(&["--candidate", "vllm"]),
        run_of(&["--profile", "standart"]),
        run_of(&["--profile", "key.toml"]),
        run_of(&["--profile", "tap.toml"]),
        run_of(&["--profile", "type.toml"]),
        run_of(&["--known", "tap-known.toml"]),
        run_of(&["--known", "key-known.toml"]),
        run_of(&["--format", "jsno"]),
        run_of(&["--mode", "isolate"]),
        run_of(&["--fault", "sliu:ffn_act:1"]),
        run_of(&["--fault", "silu:fnn_act:1"]),
        run_of(&["--candiate", "rust"]),
        vec!["rnu"],
        vec!["models/x.gguf"],
        vec!["synth", "--arch", "bitnet158", "-o", "x.gguf"],
        vec!["selftest", "--reference", "rust", "--families", "stage"],
    ];
    let all: String = commands.iter().map(|args| said(&scratch, args)).collect();
    insta::assert_snapshot!(all);
}

#[test]
fn values_that_are_none() {
    let scratch = Scratch::new();
    let commands: [&[&str]; 15] = [
        &["--timeout", "0"],
        &["--timeout", "-1"],
        &["--timeout", "1h"],
        &["--memory-limit", "lots"],
        &["--memory-limit", "4"],
        &["--tokens", ""],
        &["--tokens", "1,,2"],
        &["--tokens", "1,-2"],
        &["--tokens", "Once"],
        &["-t", "many"],
        &["-c", "8"],
        &["-c", "few"],
        &["-c", "4096"],
        &["--max-regression", "5", "--baseline", "b.json"],
        &["-m", "other.gguf"],
    ];
    let mut all: String = commands.map(|more| said(&scratch, &run_of(more))).concat();
    all += &said(&scratch, &["run"]);
    insta::assert_snapshot!(all);
}

#[test]
fn files_that_cannot_be_used() {
    let scratch = Scratch::new();
    std::fs::write(scratch.path("latin1.txt"), b"Il prit un\ncaf\xe9 noir").expect("a file");
    std::fs::write(scratch.path("utf16.txt"), b"\xff\xfeO\0n\0c\0e\0").expect("a file");
    std::fs::write(scratch.path("file"), "").expect("a file");
    let commands: [&[&str]; 9] = [
        &["--out", "file"],
        &["--out", "file/report"],
        &["--out", "/proc/report"],
        &["--prompt-file", "latin1.txt"],
        &["--text", "utf16.txt"],
        &["--prompt-file", TINY],
        &["--prompt-file", "nowhere.txt"],
        &["--profile", "latin1.txt"],
        &["--baseline", TINY],
    ];
    let mut all: String = commands.map(|more| said(&scratch, &run_of(more))).concat();
    all += &said(&scratch, &["report", "latin1.txt"]);
    insta::assert_snapshot!(all);
}

/// A worker that the driver starts by a command of a shell.
const WORKER: &str = concat!("'", env!("CARGO_BIN_EXE_crossval"), "' worker rust");

#[test]
fn engines_that_do_not_speak_the_protocol() {
    let scratch = Scratch::new();
    let scripts = [
        (
            "text",
            "echo 'Loading weights, please wait ...'; sleep 1000".to_owned(),
        ),
        ("ready", "echo ready; exit 0".to_owned()),
        (
            "debug",
            format!(
                "dd bs=1 count=9000 2>/dev/null | {WORKER}; echo '[debug] 5 tokens'; sleep 1000"
            ),
        ),
        ("silent", "sleep 1000".to_owned()),
        ("gone", "echo 'no such device' >&2; exit 3".to_owned()),
        (
            "unknown",
            r#"printf '\017\0\0\0\0\0\0\0{"type":"helo"}'; sleep 1000"#.to_owned(),
        ),
        (
            "crash",
            format!(
                "dd bs=1 count=9000 2>/dev/null | {WORKER}; echo 'out of luck' >&2; kill -ABRT $$"
            ),
        ),
    ];
    let mut all = String::new();
    for (name, script) in &scripts {
        let engine = scratch.engine(name, script);
        let more = ["--candidate", &engine, "--timeout", "5"];
        all += &said(&scratch, &run_of(&more));
    }
    insta::assert_snapshot!(all);
}

/// What a worker is, how it comes of the example, and more flags.
type Shown<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);

/// A worker that is off by one in what it sends, and those that do not show what is needed.
#[test]
fn engines_that_show_the_wrong_thing_or_too_little() {
    const TAPS: &str = "taps=TAPS, overwrite=True";
    const PROBABILITIES: &str = "self.probabilities(q, keys[:end], positions))";
    const DOUBLED: &str = "self.probabilities(q, keys[:end], positions) * f32(1 + (i == 2)))";
    let without = |names: &str| {
        format!("taps=[t for t in TAPS if t not in '{names}'.split()], overwrite=True")
    };
    let no_cache = without("k_cache k_rope k attn_norm layer_out");
    let engines: [Shown; 9] = [
        (
            "a width that is one too large",
            &[("width=piece.shape[1])", "width=piece.shape[1] + 1)")],
            &[],
        ),
        (
            "rows that are one too short",
            &[(
                "rows_per_frame]\n",
                "rows_per_frame]\n            piece = piece[:, :-1] if name == 'ffn_act' else piece\n",
            )],
            &[],
        ),
        (
            "the last token's logits without the last three",
            &[("logits[-1].tobytes()", "logits[-1][:-3].tobytes()")],
            &[],
        ),
        (
            "logits alone, and the default profile",
            &[(TAPS, "taps=['logits'], overwrite=True")],
            &[],
        ),
        (
            "logits alone, and the profile for that",
            &[(TAPS, "taps=['logits'], overwrite=True")],
            &["--profile", "logits"],
        ),
        (
            "logits alone, in isolated mode",
            &[(TAPS, "taps=['logits'], overwrite=True")],
            &["--profile", "logits", "--mode", "isolated"],
        ),
        ("no tap at all", &[(TAPS, "taps=[], overwrite=True")], &[]),
        (
            "no weight types",
            &[(", weight_types=weight_types)", ")")],
            &[],
        ),
        (
            "wrong probabilities, and nothing that they start from",
            &[(TAPS, &no_cache), (PROBABILITIES, DOUBLED)],
            &[],
        ),
    ];
    let mut all = String::new();
    for (what, changes, more) in engines {
        let scratch = Scratch::new();
        let Some(engine) = doctored(&scratch, changes) else {
            return;
        };
        let args = [&["--candidate", &engine, "-p", "Once"], more].concat();
        all += &format!("# {what}\n{}", said(&scratch, &run_of(&args)));
    }
    insta::assert_snapshot!(all);
}
