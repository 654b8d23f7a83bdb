//! Which crates of the workspace may depend on which.

use cargo_metadata::{DependencyKind, Metadata};

/// What a crate may depend on, for itself and its build script. Its tests may depend on more, see [`ALONE`].
enum May {
    Use(&'static [&'static str]),
    UseAny,
}

use May::{Use, UseAny};

/// Every crate of the workspace.
const CRATES: &[(&str, May)] = &[
    ("bitnet-model", Use(&[])),
    ("bitnet-convert", Use(&["bitnet-core", "bitnet-model"])),
    ("bitnet-core", Use(&["bitnet-model"])),
    ("bitnet-sys", Use(&[])),
    ("bitnet-synth", Use(&["bitnet-model"])),
    ("crossval-protocol", Use(&["bitnet-model"])),
    ("crossval-oracle", Use(&["bitnet-model"])),
    (
        "crossval-trace",
        Use(&["bitnet-model", "crossval-protocol"]),
    ),
    (
        "crossval-workers",
        Use(&[
            "bitnet-core",
            "bitnet-model",
            "bitnet-sys",
            "crossval-oracle",
            "crossval-protocol",
            "crossval-trace",
        ]),
    ),
    (
        "crossval",
        Use(&[
            "bitnet-model",
            "crossval-oracle",
            "crossval-protocol",
            "crossval-trace",
            "reports",
        ]),
    ),
    ("reports", Use(&[])),
    ("bitnet-crossval", UseAny),
    ("example-engine", Use(&["crossval-protocol"])),
    ("xtask", Use(&[])),
];

/// What the author of an engine takes without the rest: the tests of these depend on no more than they do themselves.
const ALONE: &[&str] = &["bitnet-model", "crossval-protocol", "example-engine"];

/// A crate of the workspace, with the crates that it names by their path.
pub struct Crate {
    name: String,
    dependencies: Vec<(String, DependencyKind)>,
}

pub fn crates(metadata: &Metadata) -> Vec<Crate> {
    let crates = metadata.workspace_packages().into_iter().map(|package| {
        let near = package.dependencies.iter().filter(|d| d.path.is_some());
        Crate {
            name: package.name.to_string(),
            dependencies: near.map(|d| (d.name.clone(), d.kind)).collect(),
        }
    });
    crates.collect()
}

/// Every dependency that the table does not allow, and every crate that is not in it, as one line each.
pub fn breaches(crates: &[Crate]) -> Vec<String> {
    let mut breaches = Vec::new();
    for Crate { name, dependencies } in crates {
        let Some((_, may)) = CRATES.iter().find(|(known, _)| known == name) else {
            breaches.push(format!(
                "{name}: not in the table of {}; add it, with the crates that it may depend on",
                file!()
            ));
            continue;
        };
        for (to, kind) in dependencies {
            let allowed = match may {
                UseAny => true,
                Use(crates) => crates.contains(&to.as_str()),
            };
            if !allowed && (*kind != DependencyKind::Development || ALONE.contains(&name.as_str()))
            {
                breaches.push(format!("{name}: may not depend on {to} ({kind})"));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use DependencyKind::{Build, Development, Normal};

    use super::*;
    use crate::walls::metadata;

    fn of(name: &str, dependencies: &[(&str, DependencyKind)]) -> Vec<String> {
        let dependencies = dependencies.iter().map(|&(to, kind)| (to.to_owned(), kind));
        breaches(&[Crate {
            name: name.to_owned(),
            dependencies: dependencies.collect(),
        }])
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_crate_depends_on_what_the_table_allows() {
        let allowed = [("bitnet-model", Normal), ("reports", Normal)];
        assert_eq!(of("crossval", &allowed), NONE);
        assert_eq!(of("bitnet-crossval", &[("crossval", Build)]), NONE);
        assert_eq!(
            of(
                "crossval",
                &[("bitnet-core", Normal), ("bitnet-sys", Build)]
            ),
            [
                "crossval: may not depend on bitnet-core (normal)",
                "crossval: may not depend on bitnet-sys (build)"
            ]
        );
    }

    #[test]
    fn tests_depend_on_more_unless_the_crate_stands_alone() {
        assert_eq!(of("crossval", &[("bitnet-core", Development)]), NONE);
        let protocol = [("bitnet-model", Development), ("crossval", Development)];
        assert_eq!(
            of("crossval-protocol", &protocol),
            ["crossval-protocol: may not depend on crossval (dev)"]
        );
    }

    #[test]
    fn an_unknown_crate_is_named() {
        let found = of("bitnet-gpu", &[]);
        assert!(found[0].starts_with("bitnet-gpu: not in the table of xtask/src/walls/crates.rs"));
    }

    #[test]
    fn the_table_names_only_crates_in_it() {
        let known: BTreeSet<_> = CRATES.iter().map(|(name, _)| name).collect();
        assert_eq!(known.len(), CRATES.len(), "each once");
        let named = CRATES.iter().flat_map(|(_, may)| match may {
            Use(crates) => *crates,
            UseAny => &[],
        });
        for name in named.chain(ALONE) {
            assert!(known.contains(name), "{name}");
        }
    }

    #[test]
    fn the_workspace_keeps_to_the_table() {
        let crates = crates(&metadata().expect("metadata"));
        assert!(!crates.is_empty());
        assert_eq!(breaches(&crates), NONE);
    }
}
