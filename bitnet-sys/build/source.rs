//! Which source tree is built: a pin from crates.io, or the user's checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cargo_var;

/// A tree that is pinned by a stub manifest under `third_party/`.
struct Pin {
    vintage: &'static str,
    /// Folder of the stub manifest, under `third_party/`.
    stub: &'static str,
    package: &'static str,
    /// Folder of the tree inside the package.
    tree: &'static str,
    revision: &'static str,
}

/// The default comes first.
const PINS: [Pin; 3] = [
    Pin {
        vintage: "2026-01",
        stub: "bitnet-2026-01",
        package: "bitnet-llm-sys",
        tree: "bitnet.cpp",
        // Inferred from the identity of its files: the package does not say.
        revision: "bitnet-llm-sys 1.0.2 (llama.cpp fork 1f86f058)",
    },
    Pin {
        vintage: "2024-11",
        stub: "bitnet-2024-11",
        package: "bitnet-cpp-sys",
        tree: "bitnet",
        revision: "bitnet-cpp-sys 0.0.5",
    },
    Pin {
        vintage: "llama.cpp",
        stub: "llama.cpp",
        package: "llama-cpp-sys-2",
        tree: "llama.cpp",
        revision: "llama-cpp-sys-2 0.1.161",
    },
];

/// A source tree of BitNet.cpp, or of llama.cpp.
pub struct Source {
    /// Name of the pin, or of the checkout.
    pub vintage: String,
    pub revision: String,
    /// Root of the tree.
    pub root: PathBuf,
    /// The llama.cpp in it, which may be all of it.
    pub llama: PathBuf,
}

impl Source {
    /// The files and folders that are built from, not all of which every tree has.
    pub fn parts(&self) -> Vec<PathBuf> {
        let own = ["src", "include"].map(|part| self.root.join(part));
        let llama = [
            "ggml",
            "src",
            "include",
            "cmake",
            "vendor",
            "CMakeLists.txt",
        ];
        let llama = llama.map(|part| self.llama.join(part));
        own.into_iter().chain(llama).collect()
    }
}

/// Finds the tree that the environment asks for: `BITNET_CPP_DIR` (a checkout, named by `BITNET_CPP_REFERENCE`), else
/// the pin `BITNET_CPP_REFERENCE`, else the default pin.
pub fn find() -> Result<Source, String> {
    for name in ["BITNET_CPP_DIR", "BITNET_CPP_REFERENCE"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let name = std::env::var("BITNET_CPP_REFERENCE")
        .ok()
        .filter(|s| !s.is_empty());
    match std::env::var_os("BITNET_CPP_DIR").filter(|s| !s.is_empty()) {
        Some(dir) => checkout(PathBuf::from(dir), name),
        None => pinned(name.as_deref().unwrap_or(PINS[0].vintage)),
    }
}

fn checkout(root: PathBuf, name: Option<String>) -> Result<Source, String> {
    if !root.is_absolute() {
        return Err(format!(
            "BITNET_CPP_DIR={}: must be an absolute path",
            root.display()
        ));
    }
    let llama = llama_dir(&root).ok_or_else(|| {
        format!(
            "BITNET_CPP_DIR={}: neither 3rdparty/llama.cpp/include/llama.h nor include/llama.h is there; in a git \
             checkout of BitNet run `git submodule update --init --recursive`",
            root.display()
        )
    })?;
    let mut revision = git_revision(&root).unwrap_or_else(|| "not a git checkout".to_owned());
    if llama != root
        && let Some(fork) = git_revision(&llama)
    {
        revision = format!("{revision} (llama.cpp fork {fork})");
    }
    let source = Source {
        vintage: name.unwrap_or_else(|| "checkout".to_owned()),
        revision,
        root,
        llama,
    };
    for part in source.parts().iter().filter(|part| part.exists()) {
        println!("cargo::rerun-if-changed={}", part.display());
    }
    Ok(source)
}

fn llama_dir(root: &Path) -> Option<PathBuf> {
    [root.join("3rdparty/llama.cpp"), root.to_owned()]
        .into_iter()
        .find(|dir| dir.join("include/llama.h").is_file())
}

/// `HEAD` of the checkout whose top level is `dir`, with `-dirty` if its files were changed.
fn git_revision(dir: &Path) -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git")
            .arg("--no-optional-locks")
            .arg("-C")
            .arg(dir)
            .args(args)
            .output()
            .ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    // A tree unpacked inside some other repository must not take that one's revision.
    let top = git(&["rev-parse", "--show-toplevel"])?;
    if Path::new(&top).canonicalize().ok()? != dir.canonicalize().ok()? {
        return None;
    }
    let head = git(&["rev-parse", "HEAD"])?;
    let dirty = git(&["status", "--porcelain"]).is_none_or(|s| !s.is_empty());
    Some(if dirty { head + "-dirty" } else { head })
}

fn pinned(vintage: &str) -> Result<Source, String> {
    let pin = PINS.iter().find(|pin| pin.vintage == vintage).ok_or_else(|| {
        let known = PINS.map(|pin| pin.vintage).join(", ");
        format!("BITNET_CPP_REFERENCE={vintage}: no such pin (there are {known}); a checkout is named by BITNET_CPP_DIR")
    })?;
    let manifest = Path::new(&cargo_var("CARGO_MANIFEST_DIR")?)
        .join(format!("../third_party/{}/Cargo.toml", pin.stub));
    println!(
        "cargo::rerun-if-changed={}",
        manifest.with_file_name("Cargo.lock").display()
    );
    let root = package_dir(pin.package, &manifest)
        .map(|dir| dir.join(pin.tree))
        .filter(|root| root.is_dir())
        .ok_or_else(|| {
            format!(
                "the source of reference {vintage} is not here yet. Fetch it: `cargo fetch --locked --manifest-path \
                 third_party/{}/Cargo.toml` (or `cargo xtask setup`), or set BITNET_CPP_DIR to a checkout",
                pin.stub
            )
        })?;
    let llama =
        llama_dir(&root).ok_or_else(|| format!("{}: llama.h is missing", root.display()))?;
    Ok(Source {
        vintage: vintage.to_owned(),
        revision: pin.revision.to_owned(),
        root,
        llama,
    })
}

/// Where cargo unpacked the package that the stub manifest pins; `None` if it has not been fetched.
fn package_dir(package: &str, manifest: &Path) -> Option<PathBuf> {
    let output = Command::new(cargo_var("CARGO").ok()?)
        .args([
            "metadata",
            "--locked",
            "--offline",
            "--format-version",
            "1",
            "--manifest-path",
        ])
        .arg(manifest)
        .output()
        .ok()?;
    if !output.status.success() {
        // Shown with `-vv`, and beneath our own message when the build fails.
        eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        return None;
    }
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).ok()?;
    let found = metadata["packages"]
        .as_array()?
        .iter()
        .find(|p| p["name"] == package)?;
    Path::new(found["manifest_path"].as_str()?)
        .parent()
        .map(Path::to_owned)
}
