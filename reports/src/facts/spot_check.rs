//! Rows that the oracle judged, whether or not the engines agree.

use super::verdict::stage;
use super::{Kind, State, Table};
use crate::model::{Report, Role, SpotCheck};
use crate::number;

/// `The oracle judged 2 of 13 rows (seed 7), 492 stages of both engines, and found every one right`; `None` if it was
/// not to.
pub(crate) fn sentence(report: &Report) -> Option<String> {
    let check = report.spot_check.as_ref()?;
    Some(format!(
        "The oracle judged {} of {} (seed {}), {} of both engines, and found {}",
        number::count(check.rows.len() as u64),
        number::plural(check.of_rows as u64, "row"),
        check.seed,
        number::plural(check.stages, "stage"),
        found(check)
    ))
}

/// What was found, as the end of a sentence.
pub(crate) fn found(check: &SpotCheck) -> String {
    let wrong = |role: Role| {
        let of_role = check.wrong.iter().filter(|w| w.engine == role.name());
        let n = of_role.count() as u64;
        (n > 0).then(|| format!("the {role} wrong at {}", number::plural(n, "stage")))
    };
    let wrong: Vec<String> = Role::BOTH.into_iter().filter_map(wrong).collect();
    match &check.not_judged {
        Some(why) if check.stages == 0 => format!("nothing judged: {why}"),
        Some(why) if wrong.is_empty() => format!("nothing wrong until it ended: {why}"),
        _ if wrong.is_empty() => "every one right".to_owned(),
        _ => wrong.join(", "),
    }
}

/// One row per stage that is wrong.
pub(super) fn table(report: &Report) -> Table {
    let mut table = Table::new(&[
        ("Engine", Kind::Text),
        ("Prompt", Kind::Number),
        ("Position", Kind::Number),
        ("Stage", Kind::Text),
        ("NMSE", Kind::Number),
        ("Limit", Kind::Number),
        ("Finding", Kind::Text),
    ]);
    let checks = report.spot_check.iter();
    for wrong in checks.flat_map(|check| &check.wrong) {
        let judgement = &wrong.judgement;
        table.push(
            State::Fail,
            vec![
                wrong.engine.clone(),
                wrong.prompt.to_string(),
                wrong.position.to_string(),
                stage(judgement.layer, &judgement.tap),
                judgement
                    .nmse
                    .map_or(number::NOT_FINITE.to_owned(), number::error),
                number::error(judgement.limit),
                judgement.findings.join("; "),
            ],
        );
    }
    table
}
