//! Fuzzes what reads bytes from strangers: `fuzz/` with cargo-fuzz, which is installed into the target folder.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::has_nightly;
use crate::{line, root, run as run_command, target_dir};

const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";

/// A program of `fuzz/fuzz_targets`.
struct Target {
    name: &'static str,
    /// Bytes of the longest input.
    max_len: usize,
    /// Words that its inputs are made of, a file of `fuzz`.
    dictionary: Option<&'static str>,
}

const fn target(name: &'static str, max_len: usize, dictionary: Option<&'static str>) -> Target {
    Target {
        name,
        max_len,
        dictionary,
    }
}

const TARGETS: [Target; 6] = [
    target("gguf", 64 << 10, Some("gguf.dict")),
    target("tokenizer", 4 << 10, None),
    target("worker_requests", 8 << 10, Some("json.dict")),
    target("worker_responses", 16 << 10, Some("json.dict")),
    target("report_json", 64 << 10, Some("json.dict")),
    target("trace", 64 << 10, Some("json.dict")),
];

#[derive(clap::Args)]
pub struct Arguments {
    /// gguf, tokenizer, worker_requests, worker_responses, report_json or trace; all of them if none is named
    #[arg(value_parser = TARGETS.map(|target| target.name))]
    targets: Vec<String>,
    /// How long to fuzz each
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    minutes: u64,
}

/// What libFuzzer said last.
#[derive(Default)]
struct Figures {
    /// `#1234 NEW cov: 56 ft: 78 corp: 9/1234b …`
    last: String,
    executions: u64,
    /// The inputs that crash, or take too long or too much memory.
    crashes: Vec<String>,
}

/// Fuzzes the targets one after the other, and fails if there was a crash.
pub fn run(arguments: &Arguments) -> Result<()> {
    let fuzzer = Fuzzer::new()?;
    let named = |target: &&Target| arguments.targets.iter().any(|name| name == target.name);
    let all = arguments.targets.is_empty();
    let mut crashed = Vec::new();
    for target in TARGETS.iter().filter(|target| all || named(target)) {
        if fuzzer.run(target, arguments.minutes)? {
            crashed.push(target.name);
        }
    }
    if !crashed.is_empty() {
        bail!("crashes in {}", crashed.join(", "));
    }
    Ok(())
}

struct Fuzzer {
    program: PathBuf,
    /// With it comes AddressSanitizer.
    nightly: bool,
}

impl Fuzzer {
    fn new() -> Result<Fuzzer> {
        let tools = target_dir().join("tools");
        let program = tools.join("bin/cargo-fuzz");
        if !program.exists() {
            let mut install = crate::cargo(&["install", "--locked", CARGO_FUZZ, "--root"]);
            run_command(install.arg(&tools))?;
        }
        let nightly = has_nightly();
        if !nightly {
            eprintln!("xtask: no nightly toolchain, hence no AddressSanitizer");
        }
        Ok(Fuzzer { program, nightly })
    }

    /// `cargo fuzz COMMAND TARGET`
    fn command(&self, command: &str, target: &str) -> Command {
        let mut run = Command::new(&self.program);
        // It runs `cargo` and `rustc` by name; cargo has set what it itself is.
        run.env_remove("CARGO").env_remove("RUSTC");
        run.args(["fuzz", command, target, "--fuzz-dir"])
            .arg(root().join("fuzz"))
            .arg("--target-dir")
            .arg(target_dir().join("fuzz"));
        match self.nightly {
            true => run.env("RUSTUP_TOOLCHAIN", "nightly"),
            // Coverage and comparisons are instrumented by LLVM, which stable only says no to.
            false => run
                .args(["--sanitizer", "none"])
                .env("RUSTC_BOOTSTRAP", "1"),
        };
        run
    }

    /// Says what came of it, and returns whether there was a crash.
    fn run(&self, target: &Target, minutes: u64) -> Result<bool> {
        let name = target.name;
        run_command(&mut self.command("build", name))?;
        let folder = root().join("fuzz");
        let corpus = folder.join("corpus").join(name);
        fs::create_dir_all(&corpus)?;
        let mut run = self.command("run", name);
        // New inputs go to the first folder.
        run.args([&corpus, &folder.join("seeds").join(name)]);
        run.args([
            "--",
            "-rss_limit_mb=512",
            "-timeout=10",
            "-print_final_stats=1",
        ])
        .arg(format!("-max_len={}", target.max_len))
        .arg(format!("-max_total_time={}", minutes * 60));
        if let Some(dictionary) = target.dictionary {
            run.arg(format!("-dict={}", folder.join(dictionary).display()));
        }
        // What was freed a while ago would count as memory that is used.
        run.env("ASAN_OPTIONS", "quarantine_size_mb=32");
        let log = target_dir().join(format!("fuzz-{name}.log"));
        let figures = watch(&mut run, &log)?;
        println!(
            "{name}: {} executions in {minutes} min, {} crashes; {}",
            figures.executions,
            figures.crashes.len(),
            figures.last
        );
        for crash in &figures.crashes {
            println!("{name}: {crash} (log: {})", log.display());
        }
        Ok(!figures.crashes.is_empty())
    }
}

/// Runs the fuzzer and reads its log, which is kept.
fn watch(run: &mut Command, log: &Path) -> Result<Figures> {
    let line = line(run);
    eprintln!("xtask: {line}");
    let mut fuzzer = run
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{line}`"))?;
    let mut log = File::create(log)?;
    let mut figures = Figures::default();
    let output = fuzzer.stderr.take().context("no standard error")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        log.write_all(&line)?;
        log.write_all(b"\n")?;
        let line = String::from_utf8_lossy(&line);
        if let Some(n) = line.strip_prefix("stat::number_of_executed_units:") {
            figures.executions = n.trim().parse()?;
        } else if let Some((_, input)) = line.split_once("Test unit written to ") {
            figures.crashes.push(input.to_owned());
        } else if line.starts_with('#') && line.contains("cov:") {
            figures.last = line.trim_start_matches(|c| c != '\t').trim().to_owned();
        }
    }
    let status = fuzzer.wait()?;
    if figures.crashes.is_empty() && (!status.success() || figures.last.is_empty()) {
        bail!("`{line}` did not fuzz: {status}");
    }
    Ok(figures)
}
