//! Fuzzes what reads bytes from strangers: `fuzz/` with cargo-fuzz, which is installed into the target folder.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::setup::runs;
use crate::{line, root, run as run_command, target_dir};

const CARGO_FUZZ: &str = "cargo-fuzz@0.13.2";

/// Each target and the longest input for it, bytes.
const TARGETS: [(&str, usize); 6] = [
    ("gguf", 64 << 10),
    ("tokenizer", 4 << 10),
    ("worker_requests", 8 << 10),
    ("worker_responses", 16 << 10),
    ("report_json", 64 << 10),
    ("trace", 64 << 10),
];

#[derive(clap::Args)]
pub struct Arguments {
    /// gguf, tokenizer, worker_requests, worker_responses, report_json or trace; all of them if none is named
    #[arg(value_parser = TARGETS.map(|(name, _)| name))]
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
}

/// Fuzzes the targets one after the other, and fails if there was a crash.
pub fn run(arguments: &Arguments) -> Result<()> {
    let fuzzer = Fuzzer::new()?;
    let chosen = TARGETS.iter().filter(|(name, _)| {
        arguments.targets.is_empty() || arguments.targets.iter().any(|target| target == name)
    });
    let mut crashed = Vec::new();
    for &(target, max_len) in chosen {
        let crashes = fuzzer.run(target, max_len, arguments.minutes)?;
        if !crashes.is_empty() {
            crashed.push(target);
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
        let nightly = runs("rustc +nightly", "--version");
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

    /// Says what came of it, and returns the inputs that crash.
    fn run(&self, target: &str, max_len: usize, minutes: u64) -> Result<Vec<PathBuf>> {
        run_command(&mut self.command("build", target))?;
        let folder = root().join("fuzz");
        let corpus = folder.join("corpus").join(target);
        fs::create_dir_all(&corpus)?;
        let artifacts = folder.join("artifacts").join(target);
        let before = files(&artifacts);
        let mut run = self.command("run", target);
        // New inputs go to the first folder.
        run.args([&corpus, &folder.join("seeds").join(target)]);
        run.args([
            "--",
            "-rss_limit_mb=512",
            "-timeout=10",
            "-print_final_stats=1",
        ])
        .arg(format!("-max_len={max_len}"))
        .arg(format!("-max_total_time={}", minutes * 60))
        // What was freed a while ago would count as memory that is used.
        .env("ASAN_OPTIONS", "quarantine_size_mb=32")
        .stderr(Stdio::piped());
        let log = target_dir().join(format!("fuzz-{target}.log"));
        let figures = watch(&mut run, &log)?;
        let crashes: Vec<PathBuf> = files(&artifacts)
            .into_iter()
            .filter(|file| !before.contains(file))
            .collect();
        println!(
            "{target}: {} executions in {minutes} min, {} crashes; {}",
            figures.executions,
            crashes.len(),
            figures.last
        );
        for crash in &crashes {
            println!("{target}: {} (log: {})", crash.display(), log.display());
        }
        Ok(crashes)
    }
}

/// Runs the fuzzer and reads its log, which is kept. A crash is found by its artifact.
fn watch(run: &mut Command, log: &Path) -> Result<Figures> {
    let line = line(run);
    eprintln!("xtask: {line}");
    let mut fuzzer = run
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
        } else if line.starts_with('#') && line.contains("cov:") {
            figures.last = line.trim_start_matches(|c| c != '\t').trim().to_owned();
        }
    }
    fuzzer.wait()?;
    if figures.last.is_empty() {
        bail!("`{line}` fuzzed nothing");
    }
    Ok(figures)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}
