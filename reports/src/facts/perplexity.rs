//! Perplexity of both engines on a text.

use super::Table;
use crate::model::{PerplexityDifference, Report};
use crate::number;

/// Name and value; what was not measured is left out. Empty without a text.
pub(super) fn table(report: &Report) -> Table {
    let Some(perplexity) = &report.perplexity else {
        return Table::default();
    };
    let count = |n: usize| number::count(n as u64);
    let mut pairs = vec![
        ("Text".to_owned(), perplexity.source.clone()),
        (
            "Windows".to_owned(),
            format!(
                "{} of {}",
                count(perplexity.windows),
                number::plural(perplexity.window as u64, "token")
            ),
        ),
        ("Tokens scored".to_owned(), count(perplexity.tokens)),
    ];
    for (role, engine) in report.engines.by_role() {
        pairs.extend(perplexity.of(role).map(|x| {
            (
                format!("Perplexity of the {role} ({})", engine.called()),
                number::value(x),
            )
        }));
    }
    if let Some(difference) = &perplexity.difference {
        let change = |x| number::significant(x, 3);
        pairs.push((
            "Candidate less reference, nats per token".to_owned(),
            with_interval(difference, change),
        ));
        pairs.push((
            "Ratio of the perplexities".to_owned(),
            with_interval(difference, |x| number::significant(x.exp(), 7)),
        ));
    }
    pairs.extend(perplexity.kl_mean.map(|kl| {
        (
            "Mean KL(reference || candidate), nats".to_owned(),
            number::error(kl),
        )
    }));
    pairs.push((
        "Same most likely token".to_owned(),
        number::share(perplexity.top1_agreement),
    ));
    pairs.extend(perplexity.near_ties.map(|share| {
        let what = "Another most likely token, a near tie";
        (what.to_owned(), number::share(share))
    }));
    pairs.extend(perplexity.worst_nmse.map(|nmse| {
        let what = "NMSE of the worst row of logits";
        (what.to_owned(), number::error(nmse))
    }));
    Table::pairs(pairs)
}

fn with_interval(difference: &PerplexityDifference, format: impl Fn(f64) -> String) -> String {
    let mean = format(difference.mean);
    match (difference.low, difference.high) {
        (Some(low), Some(high)) => {
            format!("{mean} (95% interval {} to {})", format(low), format(high))
        }
        _ => mean,
    }
}
