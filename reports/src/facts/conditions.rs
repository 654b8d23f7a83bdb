//! The logits under conditions other than those of the taps.

use super::{Kind, State, Table};
use crate::model::{Asked, Condition, Own, Report, Role, Source};
use crate::number;

/// What was covered, and what was left out. `None` where an engine failed before.
pub(crate) fn sentence(report: &Report) -> Option<String> {
    let conditions = report.conditions.as_ref()?;
    if let Some(why) = &conditions.not_compared {
        return Some(format!("not compared: {why}"));
    }
    let left_out = match conditions.left_out.as_slice() {
        [] => String::new(),
        left_out => format!("; left out (--thorough): {}", left_out.join(", ")),
    };
    Some(format!(
        "batches up to {}, positions up to {}, contexts {} to {}, {} in one worker{left_out}",
        count(conditions.largest_batch),
        count(conditions.largest_position),
        count(conditions.smallest_context),
        count(conditions.largest_context),
        number::plural(conditions.evaluations, "evaluation")
    ))
}

/// What makes the run other than a pass.
pub(crate) fn reasons(report: &Report) -> Vec<String> {
    let findings = report.findings();
    let of_conditions = findings.iter().filter(|f| f.source == Source::Conditions);
    of_conditions.map(|f| f.text.clone()).collect()
}

/// One row per size of batch and way of asking: the worst of all places, contexts and workers.
pub(super) fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Batch, tokens", Kind::Text),
        ("Asked for", Kind::Text),
        ("Largest position", Kind::Number),
        ("Rows", Kind::Number),
        ("Candidate against reference", Kind::Number),
        ("Reference, again", Kind::Number),
        ("Reference, otherwise", Kind::Number),
        ("Candidate, again", Kind::Number),
        ("Candidate, otherwise", Kind::Number),
        ("Result", Kind::Text),
    ]);
    let compared = report.conditions.iter().flat_map(|c| &c.compared);
    let compared: Vec<&Condition> = compared.collect();
    let mut kinds: Vec<(&str, Asked)> = Vec::new();
    for condition in &compared {
        let kind = (condition.batch.as_str(), condition.asked);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    for (batch, asked) in kinds {
        let of_kind = || {
            let compared = compared.iter();
            compared.filter(move |c| c.batch == batch && c.asked == asked)
        };
        let worst = |of: &dyn Fn(&Condition) -> Option<f64>| {
            let worst = of_kind().filter_map(|c| of(c)).reduce(f64::max);
            number::or_not_measured(worst, number::error)
        };
        let own = |role: Role, of: fn(&Own<Option<f64>>) -> Option<f64>| {
            worst(&|condition| of(condition.own(role)))
        };
        let (result, state) = match of_kind().all(|condition| condition.pass) {
            true => ("pass", State::Pass),
            false => ("fail", State::Fail),
        };
        let largest = of_kind().map(|c| c.largest_position).max();
        let cells = vec![
            batch.to_owned(),
            asked.to_string(),
            count(largest),
            number::count(of_kind().map(|c| c.rows).sum()),
            worst(&|condition| condition.nmse),
            own(Role::Reference, |own| own.repeated),
            own(Role::Reference, |own| own.varied),
            own(Role::Candidate, |own| own.repeated),
            own(Role::Candidate, |own| own.varied),
            result.to_owned(),
        ];
        table.push(state, cells);
    }
    table
}

fn count(n: Option<usize>) -> String {
    n.map_or_else(
        || number::NOT_MEASURED.to_owned(),
        |n| number::count(n as u64),
    )
}
