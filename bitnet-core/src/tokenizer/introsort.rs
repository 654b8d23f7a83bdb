//! The order that libstdc++'s `std::sort` leaves equal elements in.
//!
//! llama.cpp sorts special tokens by length with it, and cuts them out of the text in that order: where two of one
//! length overlap, the order decides. It is no stable order, but always the same one.

/// Runs of at most this many elements are sorted by insertion.
const THRESHOLD: usize = 16;

/// Sorts as `std::sort(begin, end, less)`.
pub(super) fn sort<T: Copy>(items: &mut [T], less: impl Fn(&T, &T) -> bool) {
    if items.is_empty() {
        return;
    }
    introsort(items, 2 * items.len().ilog2(), &less);
    for i in 1..items.len() {
        insert(items, i, &less);
    }
}

/// Quicksort by the median of three, down to short runs.
fn introsort<T: Copy>(items: &mut [T], depth: u32, less: &impl Fn(&T, &T) -> bool) {
    let mut end = items.len();
    let mut depth = depth;
    while end > THRESHOLD {
        if depth == 0 {
            // libstdc++ goes over to heapsort here; lengths of tokens do not bring it that far.
            items[..end].sort_by(|a, b| less(b, a).cmp(&less(a, b)));
            return;
        }
        depth -= 1;
        let cut = partition(&mut items[..end], less);
        introsort(&mut items[cut..end], depth, less);
        end = cut;
    }
}

/// Parts the elements by the median of the second, the middle and the last, which goes to the front; where the second
/// part begins.
fn partition<T: Copy>(items: &mut [T], less: &impl Fn(&T, &T) -> bool) -> usize {
    let (a, b, c) = (1, items.len() / 2, items.len() - 1);
    let is_less = |i: usize, j: usize| less(&items[i], &items[j]);
    let median = match (is_less(a, b), is_less(b, c), is_less(a, c)) {
        (true, true, _) => b,
        (true, false, true) => c,
        (true, false, false) => a,
        (false, _, true) => a,
        (false, true, false) => c,
        (false, false, false) => b,
    };
    items.swap(0, median);
    let (mut first, mut last) = (1, items.len());
    loop {
        while less(&items[first], &items[0]) {
            first += 1;
        }
        last -= 1;
        while less(&items[0], &items[last]) {
            last -= 1;
        }
        if first >= last {
            return first;
        }
        items.swap(first, last);
        first += 1;
    }
}

/// Moves element `i` before those in front of it that are greater.
fn insert<T: Copy>(items: &mut [T], i: usize, less: &impl Fn(&T, &T) -> bool) {
    let greater = items[..i].iter().rev();
    let greater = greater.take_while(|item| less(&items[i], item)).count();
    items[i - greater..=i].rotate_right(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys `i * i * 7 % 13 % keys`, descending: what `std::sort` of gcc 12 makes of the indices, hashed.
    #[test]
    fn equals_end_up_where_libstdcxx_puts_them() {
        let sorted = |n: u32, keys: u32| {
            let mut items: Vec<(u32, u32)> = (0..n).map(|i| (i * i * 7 % 13 % keys, i)).collect();
            sort(&mut items, |a, b| a.0 > b.0);
            items.into_iter().map(|(_, i)| i).collect::<Vec<u32>>()
        };
        assert_eq!(
            sorted(17, 1),
            [8, 16, 15, 14, 13, 12, 11, 10, 9, 0, 7, 6, 5, 4, 3, 2, 1]
        );
        for (n, keys, hash) in [
            (0, 1, 0),
            (1, 1, 0),
            (16, 3, 526_354_793),
            (40, 1, 282_847_877),
            (40, 3, 202_284_783),
            (40, 13, 963_095_298),
            (200, 2, 559_754_135),
            (1000, 5, 256_323_661),
        ] {
            let fold = |hash: u64, i: u32| (hash * 31 + u64::from(i)) % 1_000_000_007;
            assert_eq!(
                sorted(n, keys).into_iter().fold(0, fold),
                hash,
                "{n} {keys}"
            );
        }
    }
}
