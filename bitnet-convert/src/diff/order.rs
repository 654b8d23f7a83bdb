//! Orders in which converters, and mistakes of theirs, put rows and columns.

use std::collections::HashMap;

use bitnet_model::packing::{OTHERS, Packing};

/// Another order of the same rows, or columns.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Order {
    /// The halves of every head of so many, one by one, as converters of `llama` put queries and keys for llama.cpp.
    Interleaved(usize),
    /// Pairs of every head taken apart into halves, as Hugging Face has queries and keys.
    Halves(usize),
    /// The first, twice.
    InterleavedTwice(usize),
    /// The second, twice.
    HalvesTwice(usize),
    /// Heads of so many as wholes.
    Heads(usize),
    /// Codes of `a` in other groups within their bytes than those of `b`.
    PackedFirst(Packing),
    /// Codes of `b`, likewise.
    Packed(Packing),
    /// Last first.
    Reversed,
    /// None that has a name.
    Other,
}

/// What is in another order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Of {
    /// Which converters turn for RoPE.
    Rows,
    /// Which are packed.
    Columns,
}

/// The order that makes `a` of `b`; `None` if they are not the same things. `heads` are the sizes that heads may have.
pub(super) fn find(of: Of, a: &[u64], b: &[u64], heads: &[usize]) -> Option<Order> {
    if a.len() != b.len() || a == b {
        return None;
    }
    let n = a.len();
    let is = |from: &dyn Fn(usize) -> usize| (0..n).all(|i| b[i] == a[from(i)]);
    if is(&|i| n - 1 - i) {
        return Some(Order::Reversed);
    }
    let known = match of {
        Of::Rows => of_rope(a, b, heads),
        Of::Columns => of_packing(a, b),
    };
    if known.is_some() {
        return known;
    }
    if !same(a, b) {
        return None;
    }
    let of_heads = heads.iter().find(|&&dim| {
        let whole = dim > 1 && dim < n && n.is_multiple_of(dim);
        let folded = |side: &[u64]| -> Vec<u64> { side.chunks(dim).map(folded).collect() };
        whole && same(&folded(a), &folded(b))
    });
    Some(of_heads.map_or(Order::Other, |&dim| Order::Heads(dim)))
}

fn of_rope(a: &[u64], b: &[u64], heads: &[usize]) -> Option<Order> {
    let is = |from: &dyn Fn(usize) -> usize| (0..a.len()).all(|i| b[i] == a[from(i)]);
    heads.iter().find_map(|&dim| {
        if !dim.is_multiple_of(2) || !a.len().is_multiple_of(dim) {
            return None;
        }
        let once = |i: usize| interleaved(i, dim);
        let back = |i: usize| halves(i, dim);
        if is(&once) {
            Some(Order::Interleaved(dim))
        } else if is(&back) {
            Some(Order::Halves(dim))
        } else if is(&|i| once(once(i))) {
            Some(Order::InterleavedTwice(dim))
        } else if is(&|i| back(back(i))) {
            Some(Order::HalvesTwice(dim))
        } else {
            None
        }
    })
}

fn of_packing(a: &[u64], b: &[u64]) -> Option<Order> {
    let n = a.len();
    if !n.is_multiple_of(Packing::OURS.block_len()) {
        return None;
    }
    OTHERS.into_iter().find_map(|packing| {
        if (0..n).all(|i| b[i] == a[packing.taken_for(i)]) {
            Some(Order::Packed(packing))
        } else if (0..n).all(|i| a[i] == b[packing.taken_for(i)]) {
            Some(Order::PackedFirst(packing))
        } else {
            None
        }
    })
}

/// Where in a tensor of halves the row is that llama.cpp has at `i`.
fn interleaved(i: usize, dim: usize) -> usize {
    let (head, within) = (i / dim * dim, i % dim);
    head + within % 2 * (dim / 2) + within / 2
}

/// The other way round.
fn halves(i: usize, dim: usize) -> usize {
    let (head, within) = (i / dim * dim, i % dim);
    head + within % (dim / 2) * 2 + within / (dim / 2)
}

fn folded(things: &[u64]) -> u64 {
    let fold = |hash: u64, thing: &u64| {
        (hash ^ thing)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(23)
    };
    things.iter().fold(0, fold)
}

/// Whether both hold the same, in whatever order.
fn same(a: &[u64], b: &[u64]) -> bool {
    let mut counts: HashMap<u64, i64> = HashMap::new();
    a.iter()
        .for_each(|thing| *counts.entry(*thing).or_default() += 1);
    b.iter()
        .for_each(|thing| *counts.entry(*thing).or_default() -= 1);
    counts.values().all(|count| *count == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(order: impl Fn(usize) -> usize, n: usize) -> Vec<u64> {
        (0..n).map(|i| order(i) as u64 * 1_000_003).collect()
    }

    #[test]
    fn known_orders_are_named() {
        let n = 256;
        let a = moved(|i| i, n);
        let named =
            |order: &dyn Fn(usize) -> usize| find(Of::Rows, &a, &moved(order, n), &[32, 64]);
        assert_eq!(named(&|i| i), None);
        assert_eq!(named(&|i| interleaved(i, 64)), Some(Order::Interleaved(64)));
        assert_eq!(named(&|i| halves(i, 32)), Some(Order::Halves(32)));
        let twice = |i| interleaved(interleaved(i, 64), 64);
        assert_eq!(named(&twice), Some(Order::InterleavedTwice(64)));
        assert_eq!(named(&|i| n - 1 - i), Some(Order::Reversed));
        assert_eq!(named(&|i| (i + 64) % n), Some(Order::Heads(32)));
        assert_eq!(named(&|i| i ^ 1), Some(Order::Other));
        assert_eq!(named(&|i| i / 2), None);
        let of_16 = OTHERS[0];
        let b = moved(|i| of_16.taken_for(i), n);
        assert_eq!(find(Of::Columns, &a, &b, &[64]), Some(Order::Packed(of_16)));
        assert_eq!(
            find(Of::Columns, &b, &a, &[64]),
            Some(Order::PackedFirst(of_16))
        );
    }

    #[test]
    fn one_way_undoes_the_other() {
        for i in 0..256 {
            assert_eq!(halves(interleaved(i, 64), 64), i);
        }
    }
}
