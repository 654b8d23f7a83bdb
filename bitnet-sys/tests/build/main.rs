//! What the build script does without a compiler.

#[path = "../../build/cache.rs"]
mod cache;

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use cache::{Cache, Key, VARIABLE};
use tempfile::TempDir;

const KEY: &str = "0123";

/// A cache and two folders beside it: one with two libraries, one that is not there yet.
struct Scratch {
    folder: TempDir,
    cache: Cache,
    from: PathBuf,
    into: PathBuf,
}

impl Scratch {
    fn new() -> Scratch {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("lib");
        fs::create_dir(&from).unwrap();
        fs::write(from.join("liba.a"), "aaaa").unwrap();
        fs::write(from.join("libb.a"), "bb").unwrap();
        Scratch {
            cache: in_folder(folder.path()),
            into: folder.path().join("build/lib"),
            from,
            folder,
        }
    }

    fn taken(&self) -> bool {
        self.cache.take(KEY, &self.into).unwrap()
    }

    /// What lies in the cache's folder, whatever its name.
    fn entries(&self) -> Vec<String> {
        let folder = self.cache.entry(KEY);
        let entries = fs::read_dir(folder.parent().unwrap()).unwrap();
        let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
        entries
            .map(|entry| name(entry).into_string().unwrap())
            .collect()
    }
}

fn in_folder(folder: &Path) -> Cache {
    Cache::of_user(|name| (name == VARIABLE).then(|| folder.into())).unwrap()
}

#[test]
fn what_is_kept_is_taken() {
    let scratch = Scratch::new();
    assert!(!scratch.taken() && !scratch.into.exists());
    scratch.cache.keep(KEY, &scratch.from).unwrap();
    // Whoever comes second finds it there.
    scratch.cache.keep(KEY, &scratch.from).unwrap();
    assert_eq!(scratch.entries(), [KEY]);
    assert!(scratch.taken());
    for name in ["liba.a", "libb.a"] {
        let read = |folder: &Path| fs::read(folder.join(name)).unwrap();
        assert_eq!(read(&scratch.into), read(&scratch.from));
    }
    assert!(!scratch.cache.take("4567", &scratch.into).unwrap());
}

#[test]
fn what_is_damaged_is_not_used_and_is_replaced() {
    let sums = "SHA256SUMS";
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 6] = [
        ("a changed byte", |e| {
            fs::write(e.join("liba.a"), "aaab").unwrap()
        }),
        ("a short file", |e| {
            fs::write(e.join("liba.a"), "aaa").unwrap()
        }),
        ("a missing file", |e| {
            fs::remove_file(e.join("libb.a")).unwrap()
        }),
        ("no sums", |e| {
            fs::remove_file(e.join("SHA256SUMS")).unwrap()
        }),
        ("empty sums", |e| {
            fs::write(e.join("SHA256SUMS"), "").unwrap()
        }),
        ("a path for a name", |e| {
            let sums = fs::read_to_string(e.join("SHA256SUMS")).unwrap();
            let sums = sums.replace("  liba.a", "  ../0123/liba.a");
            fs::write(e.join("SHA256SUMS"), sums).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let scratch = Scratch::new();
        scratch.cache.keep(KEY, &scratch.from).unwrap();
        assert!(scratch.cache.entry(KEY).join(sums).is_file());
        damage(&scratch.cache.entry(KEY));
        assert!(!scratch.taken() && !scratch.into.exists(), "{what}");
        scratch.cache.keep(KEY, &scratch.from).unwrap();
        assert!(scratch.taken(), "{what}");
        assert_eq!(scratch.entries(), [KEY], "{what}");
    }
}

/// A build that was interrupted leaves a folder by another name.
#[test]
fn what_is_half_built_is_no_entry() {
    let scratch = Scratch::new();
    let cache = scratch.cache.entry(KEY);
    let half = cache.with_file_name(format!(".{KEY}.1.2"));
    fs::create_dir_all(&half).unwrap();
    fs::write(half.join("liba.a"), "aa").unwrap();
    assert!(!scratch.taken());
    scratch.cache.keep(KEY, &scratch.from).unwrap();
    assert!(scratch.taken());
    // What cannot be kept leaves nothing behind.
    let missing = scratch.folder.path().join("missing");
    assert!(scratch.cache.keep("4567", &missing).is_err());
    assert_eq!(scratch.entries().len(), 2);
}

#[test]
fn many_builds_at_once_keep_one() {
    for damaged in [false, true] {
        let scratch = Scratch::new();
        if damaged {
            fs::create_dir_all(scratch.cache.entry(KEY)).unwrap();
            fs::write(scratch.cache.entry(KEY).join("liba.a"), "?").unwrap();
        }
        std::thread::scope(|scope| {
            for _ in 0..8 {
                // One that loses a race may fail; what counts is what is left.
                scope.spawn(|| drop(scratch.cache.keep(KEY, &scratch.from)));
            }
        });
        assert_eq!(scratch.entries(), [KEY]);
        assert!(scratch.taken());
    }
}

#[test]
fn the_users_folder() {
    let of = |variables: &[(&str, &str)]| {
        let variable = |name: &str| -> Option<OsString> {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| value.into())
        };
        let entry = Cache::of_user(variable)?.entry(KEY);
        Some(entry.to_str().unwrap().to_owned())
    };
    let home = ("HOME", "/h");
    let below_home = Some("/h/.cache/bitnet-crossval/references/0123".to_owned());
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[home]), below_home);
    assert_eq!(of(&[home, ("XDG_CACHE_HOME", "")]), below_home);
    assert_eq!(of(&[home, ("XDG_CACHE_HOME", "near")]), below_home);
    let xdg = ("XDG_CACHE_HOME", "/x");
    let below_xdg = "/x/bitnet-crossval/references/0123".to_owned();
    assert_eq!(of(&[home, xdg]), Some(below_xdg));
    let own = "/own/references/0123".to_owned();
    assert_eq!(of(&[home, xdg, (VARIABLE, "/own")]), Some(own));
}

#[test]
fn a_key_stands_for_names_and_contents() {
    let key = |parts: &[(&str, &str)]| {
        let mut key = Key::default();
        for (name, value) in parts {
            key.add(name, value);
        }
        key.finish()
    };
    let ab = key(&[("a", "b"), ("c", "d")]);
    assert_eq!(ab.len(), 32);
    assert_eq!(ab, key(&[("a", "b"), ("c", "d")]));
    for other in [
        &[("a", "b"), ("c", "e")][..],
        &[("a", "b")],
        &[("a", "bc"), ("", "d")],
        &[("c", "d"), ("a", "b")],
    ] {
        assert_ne!(ab, key(other), "{other:?}");
    }
}

#[test]
fn a_tree_is_its_files_wherever_it_lies() {
    let folder = tempfile::tempdir().unwrap();
    let tree = |name: &str, files: &[(&str, &str)]| {
        let root = folder.path().join(name);
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let mut key = Key::default();
        let parts = ["src", "include", "CMakeLists.txt"].map(|part| root.join(part));
        key.add_tree(&root, &parts).unwrap();
        key.finish()
    };
    let files = [("src/a.c", "int a;"), ("src/deep/b.h", "int b;")];
    let first = tree("1", &files);
    assert_eq!(first, tree("2", &files));
    // What nothing is built from does not count: models, documents.
    let beside = [files[0], files[1], ("models/m.gguf", "GGUF")];
    assert_eq!(first, tree("3", &beside));
    let moved = [files[0], ("src/b.h", "int b;")];
    let changed = [files[0], ("src/deep/b.h", "int c;")];
    let more = [files[0], files[1], ("CMakeLists.txt", "")];
    for (name, files) in [("4", &moved[..]), ("5", &changed), ("6", &more)] {
        assert_ne!(first, tree(name, files), "{files:?}");
    }
}
