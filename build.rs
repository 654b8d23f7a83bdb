//! Stamps where the binary comes from into it, for the reports: `CROSSVAL_GIT_REVISION` (unset outside a checkout),
//! `CROSSVAL_RUSTC`, `CROSSVAL_TARGET`, `CROSSVAL_TARGET_FEATURES` (comma-separated) and `CROSSVAL_PROFILE`.

use std::env;
use std::path::Path;
use std::process::Command;

/// What the binary is made of: the revision is dirty, or clean again, only after one of these has changed.
const SOURCES: [&str; 16] = [
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
    "src",
    "assets/tiny-bitnet.gguf",
    "bitnet-core",
    "bitnet-model",
    "bitnet-synth",
    "bitnet-sys",
    "crossval",
    "crossval-oracle",
    "crossval-protocol",
    "crossval-trace",
    "crossval-workers",
    "reports",
    "third_party",
];

fn main() {
    for path in SOURCES {
        println!("cargo::rerun-if-changed={path}");
    }
    if let Some(revision) = git_revision() {
        stamp("GIT_REVISION", &revision);
    }
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    stamp("RUSTC", &output(&rustc, &["--version"]).unwrap_or_default());
    for (name, variable) in [
        ("TARGET", "TARGET"),
        ("TARGET_FEATURES", "CARGO_CFG_TARGET_FEATURE"),
        ("PROFILE", "PROFILE"),
    ] {
        stamp(name, &env::var(variable).unwrap_or_default());
    }
}

fn stamp(name: &str, value: &str) {
    println!("cargo::rustc-env=CROSSVAL_{name}={value}");
}

/// `HEAD`, with `-dirty` if tracked files differ from it; `None` where this is not the top of a checkout.
fn git_revision() -> Option<String> {
    let top = git(&["rev-parse", "--show-toplevel"])?;
    let here = Path::new(&env::var_os("CARGO_MANIFEST_DIR")?)
        .canonicalize()
        .ok()?;
    if Path::new(&top).canonicalize().ok()? != here {
        return None;
    }
    // A commit moves the branch, which is a file of its own or a line in packed-refs; a checkout moves HEAD.
    let branch = git(&["symbolic-ref", "--quiet", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // A path that is not there would make the script run every time.
        if let Some(path) = git(&["rev-parse", "--git-path", name])
            && Path::new(&path).exists()
        {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    let head = git(&["rev-parse", "HEAD"])?;
    let clean = git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if clean { head } else { head + "-dirty" })
}

fn git(args: &[&str]) -> Option<String> {
    // Without the option, asking for the status would rewrite the index.
    output("git", &[&["--no-optional-locks"], args].concat())
}

fn output(program: &str, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
