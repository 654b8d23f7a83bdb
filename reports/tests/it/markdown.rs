use reports::markdown::render;

use crate::sample;

#[test]
fn what_the_markdown_says() {
    for (name, report) in sample::all() {
        if name != "large" {
            insta::assert_snapshot!(format!("markdown_{name}"), render(&report));
        }
    }
}

#[test]
fn every_row_of_a_table_has_the_same_cells() {
    for (name, report) in sample::all() {
        let mut columns = None;
        for line in render(&report).lines() {
            if line.starts_with('|') {
                let cells = line.replace("\\|", "").matches('|').count();
                assert_eq!(*columns.get_or_insert(cells), cells, "{name}: {line}");
            } else {
                columns = None;
            }
        }
    }
}
