//! The `crossval` binary: see the `crossval` crate.

fn main() {}
