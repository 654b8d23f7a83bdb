//! What was not the same in the two runs.

use super::{Setting, keys};
use crate::facts::{Facts, Table};

/// Rows that say when and how the run was started, not what it was.
const NOT_COMPARED: [&str; 2] = ["Started", "Path"];

const ENGINE: &str = "engine";

/// Model, inputs, engines and environment, as far as they differ.
pub(super) fn differing(a: &Facts, b: &Facts) -> Vec<Setting> {
    let mut settings = Vec::new();
    for (about, of) in [
        ("model", (&a.model, &b.model)),
        ("prompt", (&a.prompts, &b.prompts)),
        ("inputs", (&a.inputs, &b.inputs)),
        ("limit", (&a.limits, &b.limits)),
        (ENGINE, (&a.engines, &b.engines)),
        ("environment", (&a.environment, &b.environment)),
    ] {
        settings.extend(tables(about, of));
    }
    settings
}

/// Cell by cell: the first of a row names it, and the column's title as well where there are several.
fn tables(about: &str, (a, b): (&Table, &Table)) -> Vec<Setting> {
    let named = |table: &Table| -> Vec<(String, String)> {
        let cells = table.rows.iter().flat_map(|row| {
            let (name, values) = row.cells.split_first()?;
            let titles = table.columns.iter().skip(1);
            let named = titles.zip(values).map(move |(column, value)| {
                let name = match column.title.as_str() {
                    // A column is an engine.
                    title if about == ENGINE => format!("{}, {name}", title.to_lowercase()),
                    title if table.columns.len() > 2 => format!("{about}, {name}, {title}"),
                    _ => format!("{about}, {name}"),
                };
                (name, value.clone())
            });
            Some(named.collect::<Vec<_>>())
        });
        cells.flatten().collect()
    };
    let ignored = NOT_COMPARED.map(|row| format!("{about}, {row}"));
    let (a, b) = (named(a), named(b));
    let names = |cells: &[(String, String)]| -> Vec<String> {
        cells.iter().map(|(name, _)| name.clone()).collect()
    };
    let value = |cells: &[(String, String)], name: &str| {
        let found = cells.iter().find(|(of, _)| of == name);
        found.map(|(_, value)| value.clone())
    };
    keys(&names(&a), &names(&b))
        .into_iter()
        .filter(|name| !ignored.contains(name))
        .filter_map(|name| {
            let (a, b) = (value(&a, &name), value(&b, &name));
            (a != b).then_some(Setting { name, a, b })
        })
        .collect()
}
