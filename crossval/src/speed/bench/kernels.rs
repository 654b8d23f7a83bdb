//! An engine's matrix products by themselves, as shares of the limits of one thread, and the quantisers before them.

use crossval_protocol::{KernelTime, QuantiserTime};
use reports::model::{BenchKernel, BenchQuantiser, BenchRoofline, Role};

use crate::stats::measured;

/// Products that a worker has timed on one CPU, whose limits are `one`'s.
pub(super) fn shares(
    role: Role,
    products: Vec<KernelTime>,
    one: &BenchRoofline,
) -> Vec<BenchKernel> {
    let shares = products.into_iter().filter_map(|p| share(role, p, one));
    shares.collect()
}

fn share(role: Role, product: KernelTime, one: &BenchRoofline) -> Option<BenchKernel> {
    let ms = measured(product.ms)?;
    let per_second = |n: u64| n as f64 * 1e3 / ms.median;
    let (macs, bytes) = (per_second(product.macs), per_second(product.weight_bytes));
    let share = match product.tokens {
        1 => one.read_bytes_per_second.map(|limit| bytes / limit),
        _ => one.int8_macs_per_second.map(|limit| macs / limit),
    };
    Some(BenchKernel {
        role: Some(role),
        kernel: product.kernel,
        weights: product.weights,
        rows: product.rows,
        columns: product.columns,
        tokens: product.tokens,
        ms,
        macs_per_second: macs,
        weight_bytes_per_second: bytes,
        roofline_share: share,
    })
}

/// Quantisers that a worker has timed on one CPU.
pub(super) fn quantisers(role: Role, quantisers: Vec<QuantiserTime>) -> Vec<BenchQuantiser> {
    let quantisers = quantisers.into_iter().filter_map(|quantiser| {
        let ms = measured(quantiser.ms)?;
        Some(BenchQuantiser {
            role,
            kernel: quantiser.kernel,
            columns: quantiser.columns,
            elements_per_second: quantiser.columns as f64 * 1e3 / ms.median,
            ms,
        })
    });
    quantisers.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_is_bound_by_memory_and_many_by_the_peak() {
        let one = BenchRoofline {
            threads: 1,
            cpus: vec![0],
            read_bytes_per_second: Some(1e9),
            int8_macs_per_second: Some(1e10),
            int8_instructions: None,
        };
        let product = |tokens| KernelTime {
            kernel: "k".into(),
            weights: "I2_S".into(),
            rows: 2,
            columns: 3,
            tokens,
            macs: 5_000_000,
            weight_bytes: 250_000,
            ms: vec![1.0, 2.0, 1.0],
        };
        let decode = share(Role::Candidate, product(1), &one).unwrap();
        assert_eq!((decode.ms.median, decode.roofline_share), (1.0, Some(0.25)));
        let prefill = share(Role::Candidate, product(128), &one).unwrap();
        assert_eq!(prefill.macs_per_second, 5e9);
        assert_eq!(prefill.roofline_share, Some(0.5));
        let untimed = KernelTime {
            ms: Vec::new(),
            ..product(1)
        };
        assert!(share(Role::Candidate, untimed, &one).is_none());
    }

    #[test]
    fn a_quantiser_that_took_half_a_microsecond() {
        let times = |ms| QuantiserTime {
            kernel: "k".into(),
            columns: 2560,
            ms,
        };
        let all = quantisers(
            Role::Reference,
            vec![times(vec![5e-4, 6e-4, 5e-4]), times(vec![])],
        );
        let [one] = all.as_slice() else {
            panic!("{all:?}");
        };
        assert_eq!(
            (one.elements_per_second, one.role),
            (5.12e9, Role::Reference)
        );
    }
}
