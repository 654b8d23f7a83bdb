//! One report as JSON, or two apart by `0xFF`: whatever parses is written in every format, and compared.

#![no_main]

use bitnet_crossval_fuzz::parts;
use libfuzzer_sys::fuzz_target;
use reports::comparison::Comparison;
use reports::{Report, html, json, junit, markdown, records, terminal};

fuzz_target!(|input: &[u8]| {
    let reports: Vec<Report> = parts(input)
        .take(2)
        .filter_map(|part| std::str::from_utf8(part).ok())
        .filter_map(|text| json::parse(text, "input").ok())
        .collect();
    for report in &reports {
        let text = json::write(report).expect("what was parsed can be written");
        assert_eq!(json::parse(&text, "output").as_ref().ok(), Some(report));
        html::render(report).expect("HTML");
        markdown::render(report);
        terminal::summary(report);
        terminal::bench(report);
        terminal::gate(report, "report.html");
        let _ = junit::render(report);
        records::taps_csv(report);
        records::bench_csv(report);
        records::taps_jsonl(report);
        records::bench_jsonl(report);
    }
    if let [a, .., b] | [a @ b] = reports.as_slice() {
        let comparison = Comparison::new(a, b);
        comparison.html().expect("HTML");
        comparison.markdown();
        comparison.text();
    }
});
