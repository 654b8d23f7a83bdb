use reports::markdown::render;

use crate::{gate, judged, sample};

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

/// The text under a heading, folded or not.
fn section(markdown: &str, heading: &str) -> String {
    let (_, rest) = markdown.split_once(&format!("# {heading}\n")).unwrap();
    rest.split("\n#").next().unwrap().trim().to_owned()
}

#[test]
fn the_headings_are_in_order() {
    let headings = [
        "## Executive summary",
        "## Test environment",
        "## Implementation comparison",
        "## Performance analysis",
        "### Quantization",
        "### Matrix multiplication",
        "### Model loading",
        "## Cross-validation results",
        "## Key advantages",
        "## Recommendations",
        "## Conclusion",
    ];
    for (name, report) in sample::all() {
        let markdown = render(&report);
        let found: Vec<_> = markdown.lines().filter(|l| l.starts_with("##")).collect();
        assert_eq!(found, headings, "{name}");
    }
}

#[test]
fn advantages_need_an_interval() {
    let none = "none that the measurements show";
    let mut report = sample::timed();
    let bench = report.bench.as_mut().unwrap();
    for ratio in &mut bench.ratios {
        (ratio.low, ratio.high) = (0.9, 1.3);
    }
    bench.rows.retain(|row| row.test != "ttft");
    // At one thread count the candidate has the smaller one, at the other the larger.
    bench.memory[0].peak_rss_bytes = 0;
    let advantages = section(&render(&report), "Key advantages");
    assert_eq!(advantages.matches(none).count(), 2, "{advantages}");

    report.bench.as_mut().unwrap().ratios[0].low = 1.01;
    let advantages = section(&render(&report), "Key advantages");
    assert_eq!(advantages.matches(none).count(), 1, "{advantages}");
    assert!(
        advantages.contains(
            "Faster in pp128 at 1 thread: candidate over reference 1.18x (1.01x to 1.30x)."
        )
    );

    report.bench = None;
    let advantages = section(&render(&report), "Key advantages");
    assert_eq!(
        advantages,
        "**bitnet.cpp:** not measured\n\n**rust:** not measured"
    );
}

#[test]
fn quantisers_and_products_are_named() {
    let mut report = sample::pass();
    for entry in report.taps.iter_mut().filter(|e| e.tap == "ffn_norm") {
        let stats = entry.cumulative.as_mut().unwrap();
        stats.code_flip_rate = Some(0.125);
        stats.max_quantiser_steps = Some(3.5);
    }
    for entry in report.taps.iter_mut().filter(|e| e.tap == "ffn_up") {
        if entry.layer == Some(4) {
            sample::set(entry.isolated.as_mut().unwrap(), 1e-9);
        }
    }
    let markdown = render(&report);
    let row = |name: &str, heading| -> Vec<String> {
        let section = section(&markdown, heading);
        let mut lines = section
            .lines()
            .filter(|l| l.starts_with(&format!("| `{name}`")));
        let cells = lines
            .next()
            .unwrap()
            .split('|')
            .map(|c| c.trim().to_owned());
        cells.collect()
    };
    let quantiser = row("ffn_norm", "Quantization");
    assert_eq!(
        quantiser[2..6],
        ["not measured", "not measured", "12.50%", "3.5e0"]
    );
    let product = row("ffn_up", "Matrix multiplication");
    assert_eq!(
        product[2..5],
        ["in 5 of 6 layers", "1.0e-9", "0 (bit for bit)"]
    );
    assert_eq!(row("q", "Matrix multiplication")[2], "in every layer");
}

#[test]
fn one_sentence_concludes() {
    let mut slower = sample::pass();
    slower.gate = gate::report().gate;
    slower.verdict.status = reports::model::Status::Fail;
    slower.verdict.exit_code = 11;
    let cases = [
        (
            sample::pass(),
            "rust agrees with bitnet.cpp on tiny.gguf within every limit; no speed was held against a baseline.",
        ),
        (
            judged::known(),
            "rust agrees with bitnet.cpp on tiny.gguf within every limit, 2 known deviations apart; no speed was held against a baseline.",
        ),
        (
            sample::fail(),
            "rust does not pass against bitnet.cpp on tiny.gguf, at fault: the candidate; no speed was held against a baseline.",
        ),
        (
            sample::died(),
            "rust could not be held against bitnet.cpp on tiny.gguf; no speed was held against a baseline.",
        ),
        (
            gate::report(),
            "rust and bitnet.cpp were timed on tiny.gguf and their values not compared; 1 of 9 speeds slower than the baseline, 5 not judged.",
        ),
        (
            slower,
            "rust agrees with bitnet.cpp on tiny.gguf within every limit; 1 of 9 speeds slower than the baseline, 5 not judged.",
        ),
    ];
    for (report, want) in cases {
        assert_eq!(section(&render(&report), "Conclusion"), want);
    }
}
