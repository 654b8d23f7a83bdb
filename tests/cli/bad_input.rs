//! Bad input: one clear message that names the thing, and the right exit code.

use super::*;

struct Case<'a> {
    args: Vec<&'a str>,
    code: i32,
    says: &'a [&'a str],
}

fn check(cases: &[Case]) {
    for case in cases {
        let scratch = Scratch::new();
        let out = scratch.path("out");
        let mut args: Vec<&str> = case.args.clone();
        if args[0] == "run" && !args.contains(&"--out") {
            args.extend(["--out", out.to_str().expect("UTF-8")]);
        }
        let output = crossval(&args);
        let message = stderr(&output);
        assert_eq!(exit_code(&output), case.code, "{args:?}: {message}");
        for says in case.says {
            assert!(
                message.contains(says),
                "{args:?}: no {says:?} in {message:?}"
            );
        }
        if case.code != 64 {
            assert_eq!(message.lines().count(), 1, "one message: {message}");
        }
        assert!(!message.contains("panicked"), "{message}");
    }
}

/// A copy of the bundled model with `edit` applied.
fn damaged(scratch: &Scratch, name: &str, edit: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut bytes = std::fs::read(TINY).expect("the bundled model");
    edit(&mut bytes);
    let path = scratch.path(name);
    std::fs::write(&path, bytes).expect("a copy");
    path.to_str().expect("UTF-8").to_owned()
}

/// Replaces the first occurrence of `from`, which must be there, by `to` of the same length.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    assert_eq!(from.len(), to.len());
    let at = bytes
        .windows(from.len())
        .position(|w| w == from)
        .expect("present");
    bytes[at..at + to.len()].copy_from_slice(to);
}

#[test]
fn model_files() {
    let scratch = Scratch::new();
    let text = scratch.path("text.gguf");
    std::fs::write(&text, "no model at all, but long enough for a header").expect("a file");
    let text = text.to_str().expect("UTF-8");
    let cut = damaged(&scratch, "cut.gguf", |b| b.truncate(b.len() - 1000));
    let header_only = damaged(&scratch, "header.gguf", |b| b.truncate(100));
    let architecture = damaged(&scratch, "arch.gguf", |b| {
        while b.windows(12).any(|w| w == b"bitnet-b1.58") {
            replace(b, b"bitnet-b1.58", b"bitnet-b9.99");
        }
    });
    let renamed = damaged(&scratch, "renamed.gguf", |b| {
        replace(b, b"blk.3.ffn_up.weight", b"blk.3.ffn_op.weight");
    });
    let unknown_type = damaged(&scratch, "type.gguf", |b| {
        let name = b"blk.3.ffn_up.weight";
        let at = b
            .windows(name.len())
            .position(|w| w == name)
            .expect("present");
        // name, n_dims = 2, two dimensions, type
        let ty = at + name.len() + 4 + 16;
        assert_eq!(b[ty..ty + 4], 36_u32.to_le_bytes());
        b[ty..ty + 4].copy_from_slice(&38_u32.to_le_bytes());
    });
    let row = damaged(&scratch, "row.gguf", |b| {
        let name = b"blk.3.ffn_up.weight";
        let at = b
            .windows(name.len())
            .position(|w| w == name)
            .expect("present")
            + name.len()
            + 4;
        assert_eq!(b[at..at + 8], 128_u64.to_le_bytes());
        b[at..at + 8].copy_from_slice(&64_u64.to_le_bytes());
        b[at + 8..at + 16].copy_from_slice(&1024_u64.to_le_bytes());
    });
    let vocabulary = damaged(&scratch, "vocab.gguf", |b| {
        let name = b"token_embd.weight";
        let at = b
            .windows(name.len())
            .position(|w| w == name)
            .expect("present");
        let rows = at + name.len() + 4 + 8;
        assert_eq!(b[rows..rows + 8], 512_u64.to_le_bytes());
        b[rows..rows + 8].copy_from_slice(&500_u64.to_le_bytes());
    });
    let case = |file, says| Case {
        args: vec!["run", "--model", file],
        code: 65,
        says,
    };
    let tensor = |name: &str| {
        let gguf = Gguf::open(Path::new(TINY)).expect("the bundled model");
        let tensor = gguf.tensor(name).expect("a tensor").clone();
        (tensor.offset as usize, tensor.size as usize)
    };
    let code = damaged(&scratch, "code.gguf", |b| {
        b[tensor("blk.3.ffn_up.weight").0] = 0xff;
    });
    let scale = damaged(&scratch, "scale.gguf", |b| {
        let (offset, size) = tensor("blk.2.attn_q.weight");
        b[offset + size - 32..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    check(&[
        case(&code, &["code.gguf", "blk.3.ffn_up.weight", "4 of 65536"]),
        case(&scale, &["scale.gguf", "blk.2.attn_q.weight", "scale"]),
        Case {
            args: vec!["inspect", "--check", &code],
            code: 65,
            says: &["code.gguf", "blk.3.ffn_up.weight", "4 of 65536"],
        },
    ]);
    check(&[
        case("/no/such.gguf", &["/no/such.gguf", "No such file"]),
        case(text, &["text.gguf", "GGUF"]),
        case(&cut, &["cut.gguf", "truncated"]),
        case(&header_only, &["header.gguf"]),
        case(&architecture, &["arch.gguf", "bitnet-b9.99"]),
        case(&renamed, &["renamed.gguf", "blk.3.ffn_"]),
        case(&unknown_type, &["type.gguf", "blk.3.ffn_up.weight"]),
        case(&vocabulary, &["vocab.gguf", "token_embd.weight", "512"]),
        case(&row, &["row.gguf", "blk.3.ffn_up.weight", "128"]),
    ]);
    check(&[Case {
        args: vec!["inspect", text],
        code: 65,
        says: &["text.gguf"],
    }]);
}

#[test]
fn flags() {
    let long = vec!["5"; 250].join(",");
    let run = |more: &[&'static str], code, says| {
        let mut args = vec!["run", "--model", TINY];
        args.extend(more);
        Case { args, code, says }
    };
    check(&[
        run(&["--tokens", "1,512"], 64, &["512", "out of range"]),
        run(&["--tokens", "1,x"], 64, &["--tokens", "x"]),
        run(&["--threads", "0"], 64, &["--threads"]),
        run(&["--candidate", "java"], 64, &["java"]),
        run(&["--fault", "gremlins"], 64, &["gremlins"]),
        run(&["--n-predict", "300"], 64, &["300", "256"]),
        run(&["--prompt-file", "/no/prompt"], 65, &["/no/prompt"]),
        run(
            &["--profile", "/no/profile.toml"],
            65,
            &["/no/profile.toml"],
        ),
        run(&["--out", "/proc/nowhere"], 74, &["/proc/nowhere"]),
        run(
            &["--reference", "bitnet.cpp@nowhere"],
            30,
            &["cargo xtask reference nowhere"],
        ),
        run(&["--reference", "exec:/bin/true"], 30, &["/bin/true"]),
        Case {
            args: vec!["run", "--model", TINY, "--tokens", &long],
            code: 64,
            says: &["250", "256"],
        },
        Case {
            args: vec!["run"],
            code: 64,
            says: &["--model"],
        },
        Case {
            args: vec!["frobnicate"],
            code: 64,
            says: &["frobnicate"],
        },
        Case {
            args: vec!["report", "/no/report.json"],
            code: 65,
            says: &["/no/report.json"],
        },
    ]);
}

#[cfg(not(feature = "reference"))]
#[test]
fn reference_not_built() {
    check(&[Case {
        args: vec!["run", "--model", TINY],
        code: 30,
        says: &["bitnet.cpp", "built without it"],
    }]);
}
