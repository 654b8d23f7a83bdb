//! The walls of the workspace: which crates may depend on which, and no circles among the modules of a crate.

mod circles;
mod crates;
mod modules;

use anyhow::{Context, Result, ensure};
use cargo_metadata::{Metadata, MetadataCommand, TargetKind};

use self::modules::Naming;
use crate::root;

/// What a module of a crate may not name.
struct Forbidden {
    /// Name of the package, of whose library it is.
    package: &'static str,
    /// Path of the module, from `crate` on. What lies below it is meant too.
    from: &'static str,
    /// Paths of modules, or of what is outside the crate. What lies below them is meant too.
    to: &'static [&'static str],
}

const FORBIDDEN: &[Forbidden] = &[
    // Comparing is arithmetic on rows of values, wherever these come from.
    Forbidden {
        package: "crossval",
        from: "crate::compare",
        to: &[
            "crate::engine",
            "crate::session",
            "std::process",
            "rustix::process",
        ],
    },
];

/// Prints every breach as one line, and fails if there is one.
pub fn run() -> Result<()> {
    let metadata = metadata()?;
    let mut breaches = crates::breaches(&crates::crates(&metadata));
    for package in metadata.workspace_packages() {
        for target in &package.targets {
            if !target.kind.iter().any(is_checked) {
                continue;
            }
            let of = match target.is_bin() || target.is_custom_build() {
                true => format!("{}, {}", package.name, target.name),
                false => package.name.to_string(),
            };
            let namings = modules::namings(target.src_path.as_std_path(), root())
                .with_context(|| format!("cannot read the modules of {of}"))?;
            let found = circles::circles(&namings).into_iter();
            breaches.extend(found.map(|circle| format!("{of}: {circle}")));
            let rules = FORBIDDEN
                .iter()
                .filter(|rule| target.is_lib() && rule.package == *package.name);
            for breach in rules.flat_map(|rule| rule.breaches(&namings)) {
                breaches.push(format!("{of}: {breach}"));
            }
        }
    }
    for breach in &breaches {
        println!("{breach}");
    }
    ensure!(breaches.is_empty(), "{} walls are breached", breaches.len());
    Ok(())
}

/// Whether users of the workspace build it: tests, benchmarks and examples may be as they like.
fn is_checked(kind: &TargetKind) -> bool {
    !matches!(
        kind,
        TargetKind::Test | TargetKind::Bench | TargetKind::Example
    )
}

/// What cargo knows of the crates of the workspace, without what they depend on.
fn metadata() -> Result<Metadata> {
    let mut command = MetadataCommand::new();
    command.no_deps().current_dir(root());
    command.exec().context("cannot run cargo metadata")
}

impl Forbidden {
    fn breaches(&self, namings: &[Naming]) -> Vec<String> {
        let below = |path: &[String], of: &str| {
            let of: Vec<_> = of.split("::").collect();
            path.len() >= of.len() && path.iter().zip(of).all(|(a, b)| a == b)
        };
        let from = self.from;
        let mut namings = namings.iter().filter(|n| below(&n.from, from)).peekable();
        if namings.peek().is_none() {
            let table = file!();
            return vec![format!(
                "{from}, of the table in {table}, names nothing: has it moved?"
            )];
        }
        let mut breaches = Vec::new();
        for naming in namings {
            for to in self.to.iter().filter(|to| below(&naming.to, to)) {
                breaches.push(format!("{from} may not name {to}: {}", naming.place));
            }
        }
        breaches.sort();
        breaches.dedup();
        breaches
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    /// The sources of a crate, in a folder of their own.
    pub struct Fixture(TempDir);

    impl Fixture {
        /// From names of files and their text; `lib.rs` is the root.
        pub fn new(files: &[(&str, &str)]) -> Self {
            let folder = TempDir::new().expect("a folder");
            for (name, text) in files {
                let file = folder.path().join(name);
                let parent = file.parent().expect("a parent");
                fs::create_dir_all(parent).expect("a folder");
                fs::write(file, text).expect("written");
            }
            Fixture(folder)
        }

        pub fn try_namings(&self) -> Result<Vec<Naming>> {
            let folder = self.0.path();
            modules::namings(&folder.join("lib.rs"), folder)
        }

        pub fn namings(&self) -> Vec<Naming> {
            self.try_namings().expect("modules")
        }
    }

    const RULE: Forbidden = Forbidden {
        package: "fixture",
        from: "crate::compare",
        to: &["crate::engine", "std::process"],
    };

    #[test]
    fn forbidden_modules_are_seen_from_below_and_by_other_names() {
        let fixture = Fixture::new(&[
            (
                "lib.rs",
                "pub mod compare; pub mod engine; pub use engine::pipe::Pipe;",
            ),
            ("compare/mod.rs", "mod row; fn f() { crate::engine::g(); }"),
            (
                "compare/row.rs",
                "use std::process as p;\nuse crate::Pipe;\nfn f() { p::exit(1) }",
            ),
            ("engine/mod.rs", "pub mod pipe; pub fn g() {}"),
            ("engine/pipe.rs", "pub struct Pipe;"),
        ]);
        let engine = "crate::compare may not name crate::engine";
        let process = "crate::compare may not name std::process";
        assert_eq!(
            RULE.breaches(&fixture.namings()),
            [
                format!("{engine}: compare/mod.rs:1"),
                format!("{engine}: compare/row.rs:2"),
                format!("{process}: compare/row.rs:1"),
            ]
        );
    }

    #[test]
    fn others_may_name_what_one_may_not() {
        let fixture = Fixture::new(&[
            ("lib.rs", "mod compare; mod engine; mod compared;"),
            (
                "compare.rs",
                "use std::processes; fn f() { crate::engines::f() }",
            ),
            ("compared.rs", "use crate::engine;"),
            ("engine.rs", "use std::process::Command;"),
        ]);
        assert_eq!(RULE.breaches(&fixture.namings()), [] as [String; 0]);
    }

    #[test]
    fn a_rule_for_a_module_that_is_gone_is_a_breach() {
        let fixture = Fixture::new(&[
            ("lib.rs", "mod comparison; use std::fmt;"),
            ("comparison.rs", "use std::fmt;"),
        ]);
        assert_eq!(
            RULE.breaches(&fixture.namings()),
            ["crate::compare, of the table in xtask/src/walls.rs, names nothing: has it moved?"]
        );
    }
}
