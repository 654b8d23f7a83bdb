//! Matrix products and the quantisers before them, timed by themselves.

use super::{Kind, State, Table, name_of};
use crate::model::{BenchKernel, BenchQuantiser, Report};
use crate::number;

/// One row per shape, number of tokens and engine; empty where no kernel was timed.
pub(super) fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Weights", Kind::Code),
        ("Rows", Kind::Number),
        ("Columns", Kind::Number),
        ("Tokens", Kind::Number),
        ("Engine", Kind::Code),
        ("Kernel", Kind::Code),
        ("Time (95% interval)", Kind::Number),
        ("Arithmetic", Kind::Number),
        ("Weights read", Kind::Number),
        ("Of the roofline", Kind::Number),
    ]);
    let kernels = report.bench.iter().flat_map(|bench| &bench.kernels);
    let mut kernels: Vec<&BenchKernel> = kernels.collect();
    // Both engines' of a shape together, in the order of the report.
    let shape = |k: &BenchKernel| (k.weights.clone(), k.rows, k.columns, k.tokens);
    let first = |k: &BenchKernel, all: &[&BenchKernel]| {
        let found = all.iter().position(|other| shape(other) == shape(k));
        found.unwrap_or(all.len())
    };
    let order = kernels.clone();
    kernels.sort_by_key(|kernel| first(kernel, &order));
    for kernel in kernels {
        let (median, interval) = kernel.ms.written(number::milliseconds);
        let size = |n: usize| number::count(n as u64);
        table.push(
            State::Plain,
            vec![
                kernel.weights.clone(),
                size(kernel.rows),
                size(kernel.columns),
                size(kernel.tokens),
                kernel
                    .role
                    .map_or(String::new(), |role| name_of(report, role)),
                kernel.kernel.clone(),
                format!("{median} ({interval})"),
                number::billions(kernel.macs_per_second, "MAC/s"),
                number::billions(kernel.weight_bytes_per_second, "B/s"),
                number::or_not_measured(kernel.roofline_share, number::share),
            ],
        );
    }
    table
}

/// One row per number of columns and engine; empty where no quantiser was timed.
pub(super) fn quantisers(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Columns", Kind::Number),
        ("Engine", Kind::Code),
        ("Kernel", Kind::Code),
        ("Time for one token (95% interval)", Kind::Number),
        ("Throughput", Kind::Number),
    ]);
    let quantisers = report.bench.iter().flat_map(|bench| &bench.quantisers);
    let mut quantisers: Vec<&BenchQuantiser> = quantisers.collect();
    // Both engines' of a length together.
    quantisers.sort_by_key(|quantiser| quantiser.columns);
    for quantiser in quantisers {
        let (median, interval) = quantiser.ms.written(number::milliseconds);
        table.push(
            State::Plain,
            vec![
                number::count(quantiser.columns as u64),
                name_of(report, quantiser.role),
                quantiser.kernel.clone(),
                format!("{median} ({interval})"),
                number::billions(quantiser.elements_per_second, "elements/s"),
            ],
        );
    }
    table
}
