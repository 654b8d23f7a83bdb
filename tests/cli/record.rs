//! Record now, compare later: the same verdict as live, and nothing from a file that does not fit.

use reports::model::{Generation, Source, Status, Verdict};

use super::*;

fn record(scratch: &Scratch, more: &[&str]) -> (PathBuf, String) {
    let file = scratch.path("run.safetensors");
    let mut args = vec!["record", "--model", TINY, "-o", text(&file)];
    args.extend(more);
    let output = crossval(&args);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    let engine = format!("trace:{}", file.display());
    (file, engine)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// The verdict without what was found at rows drawn at random, other ones in every run; and how many engines were wrong
/// there.
fn not_drawn(report: &Report) -> (Verdict, usize) {
    let mut verdict = report.verdict.clone();
    let (drawn, others): (Vec<_>, Vec<_>) = verdict
        .findings
        .into_iter()
        .partition(|finding| finding.source == Source::Oracle);
    verdict.reasons = others.iter().map(|f| f.text.clone()).collect();
    verdict.findings = others;
    (verdict, drawn.len())
}

/// What must not depend on whether the reference ran now or then.
fn assert_same(live: &Report, replayed: &Report) {
    assert_eq!(not_drawn(live), not_drawn(replayed));
    assert_eq!(live.taps, replayed.taps);
    assert_eq!(live.logits, replayed.logits);
    assert_eq!(live.coverage, replayed.coverage);
    // A trace holds no logits behind tokens that its engine did not generate.
    assert_eq!(without_checks(live), without_checks(replayed));
    assert_eq!(live.inputs, replayed.inputs);
    assert_eq!(live.noise_floor, replayed.noise_floor);
    let (then, now) = (&live.engines.reference, &replayed.engines.reference);
    assert_eq!(then.settings, now.settings);
    assert_eq!(then.version, now.version);
    for (key, value) in &then.build {
        assert_eq!(now.build.get(key), Some(value));
    }
    assert_eq!(now.build["trace_engine"], then.name);
    assert_eq!((now.load_ms, now.peak_rss_bytes), (None, None));
}

/// What was generated, apart from what the logits say of it.
fn without_checks(report: &Report) -> Option<Generation> {
    let mut generation = report.generation.clone()?;
    let further = generation.further.iter_mut();
    further.for_each(|g| g.checks.clear());
    generation.checks.clear();
    Some(generation)
}

/// Both engines live and from a trace, with each of the faults.
fn assert_replays(engine: &str, inputs: &[&str], faults: &[Option<&str>]) {
    let scratch = Scratch::new();
    let mut args = vec!["--engine", engine];
    args.extend(inputs);
    let (_, trace) = record(&scratch, &args);
    for fault in faults {
        let fault: Vec<&str> = fault.iter().flat_map(|f| ["--fault", f]).collect();
        let mut args = vec!["--reference", engine, "--no-bench"];
        args.extend(inputs);
        args.extend(&fault);
        let (code, live, _) = run(Path::new(TINY), &args);
        // The inputs come from the trace, and there is nothing to time.
        let mut args = vec!["--reference", &trace];
        args.extend(&fault);
        let (code_replayed, replayed, _) = run(Path::new(TINY), &args);
        assert_eq!(code, if fault.is_empty() { 0 } else { 10 }, "{fault:?}");
        assert_eq!(code_replayed, code, "{fault:?}");
        assert_same(&live, &replayed);
        assert!(replayed.bench.is_none());
        assert_eq!(replayed.engines.reference.name, trace);
    }
}

/// More than one batch.
fn long_prompt() -> String {
    let tokens: Vec<String> = (0..150).map(|i| (3 + i * 37 % 500).to_string()).collect();
    tokens.join(",")
}

#[cfg(feature = "reference")]
#[test]
fn the_same_verdict_as_live() {
    let inputs = ["--prompt", "Once upon a time", "--prompt", "The dog"];
    let faults = [
        None,
        Some("norm-left-out:attn_sub_norm:2"),
        Some("scaled-by-half-again:ffn_down:3"),
    ];
    assert_replays("bitnet.cpp", &inputs, &faults);
    let tokens = long_prompt();
    let inputs = ["--tokens", &tokens, "--n-predict", "3", "--threads", "2"];
    // The candidate's threads are no part of a trace.
    let scratch = Scratch::new();
    let (_, trace) = record(&scratch, &inputs);
    let args = [&inputs[..], &["--no-bench"]].concat();
    let (_, live, _) = run(Path::new(TINY), &args);
    let args = [&inputs[..], &["--reference", &trace]].concat();
    let (code, replayed, _) = run(Path::new(TINY), &args);
    assert_eq!(code, 0);
    assert_same(&live, &replayed);
}

#[test]
fn without_the_reference() {
    let tokens = long_prompt();
    let inputs = ["--tokens", &tokens, "--n-predict", "12"];
    assert_replays("rust", &inputs, &[None, Some("silu:ffn_act:4")]);
}

#[test]
fn a_trace_as_candidate() {
    let scratch = Scratch::new();
    let (_, trace) = record(&scratch, &["--engine", "rust", "--n-predict", "4"]);
    let args = ["--reference", "rust", "--candidate", &trace];
    let (code, report, _) = run(Path::new(TINY), &args);
    assert_eq!(code, 0, "{:?}", report.verdict.reasons);
    assert!(report.taps.iter().all(|t| {
        let stats = t.cumulative.as_ref().expect("cumulative");
        stats.bit_equal && t.isolated.is_none()
    }));
    refuses(
        &[&args[..], &["--mode", "both"]].concat(),
        64,
        &["--mode: engine trace:", "in cumulative mode"],
    );
}

/// An entry of the ledger that names the reference means the one recorded.
#[test]
fn known_deviations_hold_for_a_trace() {
    let scratch = Scratch::new();
    let (_, trace) = record(&scratch, &["--engine", "rust"]);
    let ledger = scratch.path("known.toml");
    let entry = |what: &str| {
        let ceiling = if what == "generation" {
            ""
        } else {
            "ceiling = inf\n"
        };
        format!(
            "[[deviation]]\ntap = '{what}'\nreference = 'rust'\nat_fault = 'candidate'\n{ceiling}\
             reason = 'demo'\nlink = 'https://example.org/1'\nexpires = '9999-12-31'\n"
        )
    };
    let text_of = ["ffn_act", "logits", "generation"].map(entry).concat();
    std::fs::write(&ledger, text_of).expect("a ledger");
    let fault = ["--fault", "silu:ffn_act:4", "--known", text(&ledger)];
    for reference in ["rust", &trace] {
        let args = [&fault[..], &["--reference", reference, "--no-bench"]].concat();
        let (code, report, _) = run(Path::new(TINY), &args);
        assert_eq!(code, 0, "{reference}: {:#?}", report.verdict.reasons);
        assert!(report.verdict.first_divergence.is_some());
    }
}

#[test]
fn an_engine_that_did_not_repeat_itself() {
    let scratch = Scratch::new();
    let (file, trace) = record(&scratch, &["--engine", "rust", "--n-predict", "4"]);
    edit_header(&file, |header| {
        header.replace(
            r#""not_repeatable":"[]""#,
            r#""not_repeatable":"[\"prompt0.layer01.q\"]""#,
        )
    });
    let (code, report, _) = run(Path::new(TINY), &["--reference", &trace]);
    assert_eq!((code, report.verdict.status), (20, Status::Incomplete));
    let reason = &report.verdict.reasons[0];
    assert!(reason.contains("prompt0.layer01.q"), "{reason}");
}

/// `crossval run` refuses with this exit code and names these.
fn refuses(more: &[&str], code: i32, says: &[&str]) {
    let scratch = Scratch::new();
    let out = scratch.path("out");
    let mut args = vec!["run", "--out", text(&out)];
    if !more.contains(&"--model") {
        args.extend(["--model", TINY]);
    }
    args.extend(more);
    let output = crossval(&args);
    let message = stderr(&output);
    assert_eq!(exit_code(&output), code, "{more:?}: {message}");
    assert_eq!(message.lines().count(), 1, "one message: {message}");
    for says in says {
        assert!(message.contains(says), "no {says:?} in {message:?}");
    }
}

fn edit_header(file: &Path, edit: impl FnOnce(&str) -> String) {
    let bytes = std::fs::read(file).expect("a trace");
    let (length, rest) = bytes.split_at(8);
    let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
    let (header, data) = rest.split_at(length as usize);
    let before = std::str::from_utf8(header).expect("UTF-8");
    let after = edit(before);
    assert_ne!(before, after, "the edit applies");
    let mut bytes = (after.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(after.as_bytes());
    bytes.extend_from_slice(data);
    std::fs::write(file, bytes).expect("a trace");
}

#[test]
fn what_does_not_fit_is_refused() {
    let scratch = Scratch::new();
    let (file, trace) = record(&scratch, &["--engine", "rust", "--n-predict", "8"]);
    let reference = ["--reference", &trace];
    let with = |more: &[&'static str]| [&reference[..], more].concat();

    let other = scratch.path("other.gguf");
    let mut model = std::fs::read(TINY).expect("the bundled model");
    // The last bytes are weights: another model of the same shape and size.
    *model.last_mut().expect("bytes") ^= 1;
    std::fs::write(&other, model).expect("a model");
    let args = ["--model", text(&other), "--reference", &trace];
    refuses(
        &args,
        65,
        &["another model", "other.gguf", "tiny-bitnet.gguf", "SHA-256"],
    );

    let holds = "prompt 0 of 5 tokens";
    refuses(&with(&["--prompt", "The dog"]), 64, &["--prompt", holds]);
    refuses(&with(&["--tokens", "1,2,3"]), 64, &["--tokens", holds]);
    refuses(
        &with(&["--n-predict", "9"]),
        64,
        &["--n-predict: 9", "8 tokens"],
    );
    refuses(&with(&["--text", "README.md"]), 64, &["--text", "trace"]);
    let (code, ..) = run(
        Path::new(TINY),
        &with(&["--prompt", "Once upon a time", "--n-predict", "5"]),
    );
    assert_eq!(code, 0, "the recorded prompt, and fewer tokens");

    refuses(
        &["--reference", "trace:/no/run.safetensors"],
        65,
        &["/no/run.safetensors"],
    );
    let whole = std::fs::read(&file).expect("a trace");
    for length in [0, 5, 1000, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&file, &whole[..length]).expect("a trace");
        refuses(&reference, 65, &["run.safetensors"]);
    }
    std::fs::write(&file, &whole).expect("a trace");
    edit_header(&file, |h| {
        h.replace("prompt0.layer03.attn_out", "prompt0.layer03.attn_oot")
    });
    refuses(
        &reference,
        65,
        &["run.safetensors", "prompt0.layer03.attn_out: is missing"],
    );
    std::fs::write(&file, &whole).expect("a trace");
    edit_header(&file, |h| h.replace("crossval.trace/1", "crossval.trace/9"));
    refuses(&reference, 65, &["run.safetensors", "crossval.trace/9"]);
}

#[test]
fn recording_refuses() {
    let scratch = Scratch::new();
    let file = scratch.path("x.safetensors");
    let file = text(&file);
    let long = vec!["5"; 250].join(",");
    for (args, code, says) in [
        (
            vec!["--engine", "trace:a.safetensors", "-o", file],
            64,
            "a.safetensors",
        ),
        (
            vec!["--engine", "rust", "--tokens", "1,512", "-o", file],
            64,
            "512",
        ),
        (
            vec!["--engine", "rust", "--tokens", &long, "-o", file],
            64,
            "256",
        ),
        (
            vec!["--engine", "exec:/bin/true", "-o", file],
            30,
            "/bin/true",
        ),
        (
            vec!["--engine", "rust", "-o", "/proc/nowhere/x"],
            74,
            "/proc/nowhere/x",
        ),
        (vec!["--engine", "rust", "-o", "/proc/x"], 74, "/proc/x"),
        (vec!["--engine", "rust", "-o", "/"], 74, "/"),
    ] {
        let mut all = vec!["record", "--model", TINY];
        all.extend(&args);
        let output = crossval(&all);
        let message = stderr(&output);
        assert_eq!(exit_code(&output), code, "{args:?}: {message}");
        assert!(message.contains(says), "no {says:?} in {message:?}");
    }
    let left = std::fs::read_dir(scratch.0.path())
        .expect("a folder")
        .count();
    assert_eq!(left, 0);
}

/// A limit on the size of files stands in for a full disk: writing fails half-way.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_the_old_trace() {
    let scratch = Scratch::new();
    let (file, _) = record(&scratch, &["--engine", "rust", "--n-predict", "4"]);
    let before = std::fs::read(&file).expect("a trace");
    let script = format!(
        "trap '' XFSZ; ulimit -f 200; exec '{}' record --engine rust --model '{TINY}' -o '{}'",
        env!("CARGO_BIN_EXE_crossval"),
        file.display()
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("a shell");
    assert_eq!(exit_code(&output), 74, "{}", stderr(&output));
    assert!(
        stderr(&output).contains("run.safetensors"),
        "{}",
        stderr(&output)
    );
    assert_eq!(std::fs::read(&file).expect("a trace"), before);
    let left = std::fs::read_dir(scratch.0.path())
        .expect("a folder")
        .count();
    assert_eq!(left, 1);
}
