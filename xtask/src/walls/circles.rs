//! Circles among modules that lie beside each other.

use std::collections::{BTreeMap, BTreeSet};

use super::modules::{Naming, Place};

/// Modules of one parent, and where each names another, or what lies below it.
type Edges<'a> = BTreeMap<&'a str, BTreeMap<&'a str, BTreeSet<&'a Place>>>;

/// Every group of modules beside each other in which each leads to each, as one line with all that makes it.
///
/// A module and what lies below or above it form none: they are one thing in several files.
pub fn circles(namings: &[Naming]) -> Vec<String> {
    let mut parents: BTreeMap<&[String], Edges> = BTreeMap::new();
    for Naming { from, to, place } in namings {
        let common = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        if common == 0 || common == from.len() || common == to.len() {
            continue;
        }
        let edges = parents.entry(&from[..common]).or_default();
        let edges = edges.entry(&from[common]).or_default();
        edges.entry(&to[common]).or_default().insert(place);
    }
    let groups = parents.iter().flat_map(|(parent, edges)| {
        let groups = groups(edges).into_iter();
        groups.map(|group| line(parent, edges, &group))
    });
    groups.collect()
}

/// The strongly connected components of more than one module.
fn groups<'a>(edges: &Edges<'a>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached: BTreeMap<_, _> = edges
        .keys()
        .map(|&from| (from, reach(edges, from)))
        .collect();
    let group = |(&module, to): (&&'a str, &BTreeSet<&'a str>)| {
        let back = |other: &&&str| reached.get(**other).is_some_and(|to| to.contains(module));
        to.iter().filter(back).copied().collect::<BTreeSet<_>>()
    };
    let groups = reached.iter().map(group);
    groups.filter(|group| group.len() > 1).collect()
}

fn reach<'a>(edges: &Edges<'a>, from: &str) -> BTreeSet<&'a str> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(module) = next.pop() {
        for &to in edges.get(module).into_iter().flat_map(BTreeMap::keys) {
            if reached.insert(to) {
                next.push(to);
            }
        }
    }
    reached
}

fn line(parent: &[String], edges: &Edges, group: &BTreeSet<&str>) -> String {
    let members: Vec<_> = group.iter().copied().collect();
    let mut reasons = Vec::new();
    for from in group {
        for (to, places) in edges[from].iter().filter(|(to, _)| group.contains(*to)) {
            let places: Vec<_> = places.iter().map(ToString::to_string).collect();
            reasons.push(format!("{from} -> {to} ({})", places.join(", ")));
        }
    }
    format!(
        "circle in {}: {}: {}",
        parent.join("::"),
        members.join(", "),
        reasons.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::walls::tests::Fixture;

    fn of(files: &[(&str, &str)]) -> Vec<String> {
        circles(&Fixture::new(files).namings())
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn of_two() {
        let found = of(&[
            ("lib.rs", "mod a;\nmod b;\nmod c;"),
            ("a.rs", "use crate::b::{self, B};\n\npub struct A(B);"),
            ("b.rs", "pub struct B;\npub use super::a::A as Other;"),
            ("c.rs", "use crate::{a, b};"),
        ]);
        assert_eq!(
            found,
            ["circle in crate: a, b: a -> b (a.rs:1); b -> a (b.rs:2)"]
        );
    }

    #[test]
    fn of_three_below_a_module() {
        let found = of(&[
            ("lib.rs", "pub mod top;"),
            ("top/mod.rs", "mod a; mod b; mod c;"),
            ("top/a.rs", "use super::b::*;"),
            ("top/b.rs", "use crate::top::c::deep::X;"),
            ("top/c.rs", "pub mod deep;"),
            (
                "top/c/deep.rs",
                "pub struct X;\nfn f(_: super::super::a::A) {}",
            ),
        ]);
        assert_eq!(
            found,
            [
                "circle in crate::top: a, b, c: a -> b (top/a.rs:1); b -> c (top/b.rs:1); c -> a (top/c/deep.rs:2)"
            ]
        );
    }

    #[test]
    fn two_apart() {
        let found = of(&[
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            ("a.rs", "use crate::b;"),
            ("b.rs", "use crate::a; use crate::c;"),
            ("c.rs", "use crate::d;"),
            ("d.rs", "use crate::c; use crate::e;"),
            ("e.rs", ""),
        ]);
        assert_eq!(
            found,
            [
                "circle in crate: a, b: a -> b (a.rs:1); b -> a (b.rs:1)",
                "circle in crate: c, d: c -> d (c.rs:1); d -> c (d.rs:1)",
            ]
        );
    }

    #[test]
    fn through_a_re_export() {
        let parent = "mod a; mod b; pub use a::{A, helper as help}; pub use b::*;";
        let circle = ["circle in crate: a, b: a -> b (a.rs:1); b -> a (b.rs:1)"];
        for (a, b) in [
            ("use super::B; pub struct A;", "use super::A; pub struct B;"),
            (
                "use crate::B; fn helper() {}",
                "fn f() { crate::help() } pub struct B;",
            ),
            (
                "fn f() -> super::B { todo!() }",
                "use super::*; pub struct B(A);",
            ),
        ] {
            let found = of(&[("lib.rs", parent), ("a.rs", a), ("b.rs", b)]);
            assert_eq!(found, circle, "{a} {b}");
        }
    }

    #[test]
    fn through_a_path_in_code() {
        let circle = ["circle in crate: a, b: a -> b (a.rs:1); b -> a (b.rs:1)"];
        for a in [
            "fn f() { let x = crate::b::g(1); }",
            "fn f(_: Vec<super::b::B>) {}",
            "struct S { b: Option<self::super::b::B> }",
            "fn f(x: u8) { match x { crate::b::MAX => {} _ => {} } }",
            "fn f() { use crate::b::g; }",
            "fn f() -> String { format!(\"{}\", [0].map(|x| crate::b::g(x))) }",
            "macro_rules! m { ($x:expr) => { $crate::b::g($x) } }",
            "macro_rules! m { () => { use crate::{b::g}; } }",
            "#[arg(default_value_t = crate::b::MAX)] struct S;",
            "use crate as whole; fn f() { whole::b::g() }",
            "impl crate::b::Trait for u8 {}",
            "mod inner { fn f() { super::super::b::g() } }",
        ] {
            let b = "use crate::a; pub fn g() {}";
            let found = of(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", b)]);
            assert_eq!(found, circle, "{a}");
        }
    }

    #[test]
    fn between_inline_modules_and_ones_elsewhere() {
        let found = of(&[
            (
                "lib.rs",
                "mod a { pub mod deep; }\n#[path = \"odd/place.rs\"]\nmod b;",
            ),
            ("a/deep.rs", "use crate::b::B;"),
            ("odd/place.rs", "mod below;"),
            ("odd/below.rs", "use crate::a::deep;"),
        ]);
        assert_eq!(
            found,
            ["circle in crate: a, b: a -> b (a/deep.rs:1); b -> a (odd/below.rs:1)"]
        );
    }

    #[test]
    fn none_through_what_the_parent_defines() {
        let found = of(&[
            (
                "lib.rs",
                "mod a; pub use a::A; pub struct Item; pub(crate) fn helper() { a::f() }",
            ),
            (
                "a/mod.rs",
                "mod b; mod c; use crate::Item; fn f() { c::g(); super::helper() } pub struct A;",
            ),
            ("a/b.rs", "use super::A; use super::super::{Item, helper};"),
            ("a/c.rs", "use super::{A, b}; fn g(_: crate::Item) {}"),
        ]);
        assert_eq!(found, NONE);
    }

    #[test]
    fn none_through_tests() {
        let found = of(&[
            ("lib.rs", "mod a; mod b; #[cfg(test)] mod tests;"),
            (
                "a.rs",
                "use crate::b; #[cfg(test)] mod tests { use crate::b; } #[cfg(all(test, unix))] mod absent;",
            ),
            (
                "b.rs",
                "#[cfg(test)] use crate::a; struct S; impl S { #[cfg(test)] fn f() { crate::a::g() } }\n\
                 #[cfg(test)] fn h() { super::a::g() }",
            ),
        ]);
        assert_eq!(found, NONE);
    }

    #[test]
    fn what_is_built_outside_tests_too_counts() {
        for cfg in ["not(test)", "any(test, unix)", "unix"] {
            let b = format!("#[cfg({cfg})] use crate::a;");
            let a = "use crate::b;";
            let found = of(&[("lib.rs", "mod a; mod b;"), ("a.rs", a), ("b.rs", &b)]);
            assert_eq!(found.len(), 1, "{cfg}");
        }
    }

    #[test]
    fn none_through_names_that_only_look_alike() {
        let found = of(&[
            ("lib.rs", "mod error; mod read; mod write;"),
            ("error.rs", "pub struct Error;"),
            (
                "read.rs",
                "use super::*; use std::error; use std::fmt::write; fn f(error: u8) { g(error); x.write(); error::f() }",
            ),
            (
                "write.rs",
                "use crate::read; // crate::read::X\nconst TEXT: &str = \"crate::read\"; struct S { read: u8 }",
            ),
        ]);
        assert_eq!(found, NONE);
    }

    #[test]
    fn re_exports_in_a_ring_end() {
        let found = of(&[
            ("lib.rs", "mod a; mod b; use absent::X; pub use X as Y;"),
            ("a.rs", "pub use crate::b::*; pub use super::b::Z;"),
            (
                "b.rs",
                "pub use crate::a::*; use super::a::Z; fn f(_: Z, _: W) {}",
            ),
        ]);
        assert_eq!(
            found,
            ["circle in crate: a, b: a -> b (a.rs:1); b -> a (b.rs:1)"]
        );
    }
}
