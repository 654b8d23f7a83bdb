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

#[test]
fn a_comment_on_github_holds_any_report() {
    const MOST: usize = 65_536;
    let mut report = sample::large();
    assert!(render(&report).len() <= MOST);
    assert!(!render(&report).contains("Cut off here"));

    let long = "no end of it <&>| ".repeat(5_000);
    report.verdict.reasons = vec![long.clone(); 5_000];
    report.coverage.missing = vec![long.clone(); 5_000];
    report.command = vec![long.clone(); 10];
    let cut = render(&report);
    assert!(cut.len() <= MOST, "{}", cut.len());
    assert!(cut.contains("more reasons in report.json"));
    assert!(cut.contains("## Conclusion") && !cut.contains("Cut off here"));

    // More columns than fit a line.
    let floor = report.noise_floor.as_mut().unwrap();
    let measurement = floor.measurements[0].clone();
    floor.measurements = vec![measurement; 5_000];
    let cut = render(&report);
    assert!(cut.len() <= MOST, "{}", cut.len());
    assert!(cut.contains("Cut off here; the rest is in report.json."));
    assert_eq!(
        cut.matches("<details>").count(),
        cut.matches("</details>").count()
    );
}
