//! Matrix products, timed by themselves.

use super::{Kind, State, Table};
use crate::model::Report;
use crate::number;

/// One row per shape and number of tokens; empty where no kernel was timed.
pub(super) fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Weights", Kind::Code),
        ("Rows", Kind::Number),
        ("Columns", Kind::Number),
        ("Tokens", Kind::Number),
        ("Kernel", Kind::Code),
        ("Time (95% interval)", Kind::Number),
        ("Arithmetic", Kind::Number),
        ("Weights read", Kind::Number),
        ("Of the roofline", Kind::Number),
    ]);
    for kernel in report.bench.iter().flat_map(|bench| &bench.kernels) {
        let (median, interval) = kernel.ms.written(number::milliseconds);
        let size = |n: usize| number::count(n as u64);
        table.push(
            State::Plain,
            vec![
                kernel.weights.clone(),
                size(kernel.rows),
                size(kernel.columns),
                size(kernel.tokens),
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
