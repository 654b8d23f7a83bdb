use std::io::Read;

use base64::prelude::{BASE64_STANDARD, Engine};
use flate2::read::GzDecoder;
use reports::Report;
use reports::html::render;

use crate::sample;

/// The page's text, with the style, the drawings and the embedded JSON left out.
pub fn text(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    let mut skip_until = None;
    while let Some(at) = rest.find('<') {
        if skip_until.is_none() {
            out.push_str(&rest[..at]);
        }
        let end = rest[at..].find('>').map_or(rest.len(), |end| at + end + 1);
        let tag = &rest[at..end];
        let name = tag[1..].split([' ', '>']).next().unwrap_or_default();
        match skip_until {
            None if ["style", "svg", "script"].contains(&name) => {
                skip_until = Some(format!("/{name}"));
            }
            Some(ref closing) if name == closing => skip_until = None,
            None if name == "td" || name == "dd" => out.push_str(" | "),
            None if ["tr", "div", "dt", "li", "/figure"].contains(&name) => out.push('\n'),
            _ => {}
        }
        rest = &rest[end..];
    }
    let lines = out.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.collect::<Vec<_>>().join("\n")
}

/// The report that a page carries.
pub fn embedded(html: &str) -> Report {
    let (_, rest) = html.split_once("data:application/gzip;base64,").unwrap();
    let (packed, _) = rest.split_once('"').unwrap();
    let bytes = BASE64_STANDARD.decode(packed).unwrap();
    let mut json = String::new();
    GzDecoder::new(bytes.as_slice())
        .read_to_string(&mut json)
        .unwrap();
    reports::json::parse(&json, "page").unwrap()
}

#[test]
fn what_the_pages_say() {
    for (name, report) in sample::all() {
        // The large report says the same as `pass`, at greater length.
        if name != "large" {
            insta::assert_snapshot!(format!("html_{name}"), text(&render(&report).unwrap()));
        }
    }
}

#[test]
fn a_page_of_the_2b_model_stays_small() {
    let html = render(&sample::large()).unwrap();
    assert!(html.len() < 2_000_000, "{} bytes", html.len());
}

#[test]
fn pages_are_self_contained() {
    for (name, report) in sample::all() {
        let mut html = render(&report).unwrap();
        // What a reader may follow; the page fetches none of it.
        for known in &report.known {
            let address = known.link.replace('&', "&amp;").replace('/', "&#x2f;");
            let link = format!("<a href=\"{address}\" rel=\"noreferrer\">{address}</a>");
            assert_eq!(
                html.contains(&link),
                known.link.starts_with("https"),
                "{name}"
            );
            html = html.replace(&link, "");
        }
        assert!(!html.contains("href=\"javascript"), "{name}");
        for outside in ["src=", "@import", "url(", "<link", "href=\"http"] {
            assert!(!html.contains(outside), "{name}: {outside}");
        }
        // The SVG namespace is a name, not an address.
        let addresses = html.replace("http://www.w3.org/2000/svg", "");
        let (before, packed) = addresses.split_once(";base64,").unwrap();
        let (_, after) = packed.split_once('"').unwrap();
        assert!(![before, after].concat().contains("http"), "{name}");
    }
}

#[test]
fn charts_use_the_palette_and_name_their_marks() {
    let html = render(&sample::large()).unwrap();
    let drawings: String = html
        .split("<svg ")
        .skip(1)
        .filter_map(|rest| rest.split("</svg>").next())
        .collect();
    assert!(!drawings.contains("\"#"), "a fixed colour");
    // 30 layers x 20 taps and three taps outside the layers, in two modes, each with its figures.
    let cells = |paint: &str| drawings.matches(&format!("\"var(--{paint}")).count();
    assert_eq!(
        cells("ramp-") + cells("over-") + cells("no-share"),
        2 * (30 * 20 + 3)
    );
    for tooltip in [
        "attn_out, layer 29, prompt 0, position 407: NMSE 4.0e-8, 4.00% of its limit 1.0e-6: pass",
        "q, layer 0, prompt 0, position 407: NMSE 0, its limit: 0 (bit for bit): pass",
        "v, layer 0, prompt 0, position 407: NMSE 1.4e-9, 0.01% of the limit on the logits 1.0e-2: not gated",
    ] {
        assert!(
            drawings.contains(&format!("<title>{tooltip}</title>")),
            "{tooltip}"
        );
    }
}

/// What is drawn of a page, by the names of its charts.
fn drawing<'a>(html: &'a str, title: &str) -> &'a str {
    let label = format!("aria-label=\"{title}");
    let (_, rest) = html
        .split_once(&label)
        .unwrap_or_else(|| panic!("no chart {title}"));
    rest.split("</svg>").next().unwrap()
}

#[test]
fn the_map_of_what_builds_up_is_pale_after_a_pass_and_not_after_a_failure() {
    const TITLE: &str = "Each engine on its own values: pale is noise (cumulative)";
    let strong = |report: &Report| {
        let html = render(report).unwrap();
        let map = drawing(&html, TITLE).to_owned();
        ["over-1", "over-2", "over-3"]
            .map(|paint| map.matches(&format!("\"var(--{paint})")).count())
    };
    let mut report = sample::pass();
    assert_eq!(strong(&report), [0, 0, 0]);
    // Without a limit on the logits it is the reference's noise that counts.
    for entry in report.taps.iter_mut().filter(|e| e.tap == "logits") {
        let stats = entry.cumulative.as_mut().unwrap();
        (stats.limit, stats.pass) = (None, None);
    }
    assert!(strong(&report)[2] > 0);
    let taps = report.taps.iter().map(|entry| (entry.tap.clone(), 1e-5));
    report.noise_floor.as_mut().unwrap().nmse = taps.collect();
    assert_eq!(strong(&report)[1..], [0, 0]);

    let mut worse = sample::fail();
    for entry in worse.taps.iter_mut().filter(|e| e.tap == "ffn_act") {
        sample::set(entry.cumulative.as_mut().unwrap(), 0.5);
    }
    assert!(strong(&worse)[1] > 0);
}

#[test]
fn the_headings_are_those_of_the_markdown() {
    let heading = |line: &str| line.trim_start_matches('#').trim().to_owned();
    for (name, report) in sample::all() {
        let html = render(&report).unwrap();
        let markdown = reports::markdown::render(&report);
        for line in markdown.lines().filter(|line| line.starts_with("##")) {
            let title = heading(line);
            let found = [2, 3]
                .iter()
                .any(|level| html.contains(&format!("<h{level}>{title}</h{level}>")));
            assert!(found, "{name}: {title}");
        }
        let order = [
            "Executive summary",
            "Performance analysis",
            "Cross-validation results",
        ];
        let places = order.map(|title| html.find(&format!("<h2>{title}</h2>")).unwrap());
        assert!(places.is_sorted(), "{name}");
    }
}

#[test]
fn the_first_screen_answers_and_leaves_out_what_is_not_known() {
    let answers = |report: &Report| {
        let html = render(report).unwrap();
        let (_, tiles) = html.split_once("<dl class=\"tiles\">").unwrap();
        text(tiles.split_once("</dl>").unwrap().0).replace("&#x2f;", "/")
    };
    let passed = answers(&sample::pass());
    for says in [
        "Parity | all 124 limits kept | 2,460 of 2,460 rows compared",
        "Generated tokens | all 6 the same",
        "Tokenizers | agree | 1 of 1 text, 1,000 of 1,000 generated strings",
        "Prefill (pp128, 2 threads) | 1.18x as fast | 1.16x to 1.20x; rust 123 t/s, bitnet.cpp 104 t/s",
        "Decode (tg64, 2 threads) | 0.971x as fast",
        "Model load | 4.10 ms | rust; bitnet.cpp 12.3 ms",
    ] {
        assert!(passed.contains(says), "{says}: {passed}");
    }
    let mut report = sample::pass();
    (report.generation, report.tokenizer, report.bench) = (None, None, None);
    report.engines.reference.load_ms = None;
    let some = answers(&report);
    for unknown in [
        "Generated",
        "Tokenizers",
        "Prefill",
        "Decode",
        "load",
        "not measured",
    ] {
        assert!(!some.contains(unknown), "{unknown}: {some}");
    }
    let says = "Parity | 540 of 2,460 rows compared | all 45 limits kept";
    assert!(answers(&sample::died()).contains(says));
    let failed = answers(&sample::fail());
    for says in [
        "Parity | 25 of 248 limits exceeded",
        "Generated tokens | 5 of 12 the same | then others, by more than a near tie; from 2 prompts",
    ] {
        assert!(failed.contains(says), "{says}: {failed}");
    }
    let passes = |report: &Report| {
        let html = render(report).unwrap();
        html.contains("<div class=\"pass\"><dt>Parity</dt>")
    };
    let mut wrong = sample::pass();
    assert!(passes(&wrong) && !passes(&sample::died()) && !passes(&sample::timed()));
    // A limit that rounding alone exceeds is not one that is kept.
    let mut grown = sample::pass();
    let mut taps = grown.taps.iter_mut();
    let logits = taps.find_map(|tap| match tap.tap.as_str() {
        "logits" => tap.cumulative.as_mut(),
        _ => None,
    });
    let logits = logits.unwrap();
    (logits.nmse, logits.limit) = (Some(1.3e-3), Some(1e-3));
    logits.amplified = Some(reports::model::Amplified {
        rows: 1,
        nmse: Some(1.3e-3),
        stages: 96,
        roundings: Vec::new(),
        limit: None,
    });
    let html = render(&grown).unwrap();
    for says in [
        "1 exceeded by rounding alone",
        "every limit but 1 limit, exceeded by rounding alone",
        "within its limit but 1, beyond it by rounding alone",
        "just within (to 100%), or beyond and accounted for",
    ] {
        assert!(html.contains(says), "{says}");
    }
    assert!(!html.contains("limits kept<"));
    // Every limit is kept, and the oracle finds an engine wrong.
    (wrong.verdict.status, wrong.verdict.exit_code) = (reports::model::Status::Fail, 10);
    assert!(!passes(&wrong));
    let timed = answers(&sample::timed());
    for says in [
        "Parity | not compared",
        "Generated tokens | the same in 1 of 2 tests",
    ] {
        assert!(timed.contains(says), "{says}: {timed}");
    }
}

#[test]
fn products_of_both_engines_stand_side_by_side() {
    let html = text(&render(&sample::timed()).unwrap());
    let rows = html
        .lines()
        .filter(|line| line.starts_with("| I2_S | 6,912 | 2,560 | 128 |"));
    let engines: Vec<&str> = rows.filter_map(|row| row.split(" | ").nth(4)).collect();
    assert_eq!(engines, ["bitnet.cpp", "rust"]);
}

#[test]
fn threads_that_shared_cpus_do_not_stand_for_the_rest() {
    let mut report = sample::timed();
    let two = report.bench.as_mut().unwrap().roofline.iter_mut();
    two.filter(|r| r.threads == 2)
        .for_each(|r| r.cpus = vec![0]);
    let html = render(&report).unwrap();
    assert!(html.contains("<dt>Prefill (pp128, 1 thread)</dt>"));
    // Where all did, the fewest.
    report.bench.as_mut().unwrap().roofline.clear();
    report.environment.cpus = 0;
    assert!(
        render(&report)
            .unwrap()
            .contains("<dt>Prefill (pp128, 1 thread on 0 CPUs)</dt>")
    );
}

#[test]
fn tables_are_folded_after_a_pass_and_open_where_something_fails() {
    let open = |report: &Report| render(report).unwrap().matches("<details open>").count();
    assert_eq!(open(&sample::pass()), 0);
    let html = render(&sample::fail()).unwrap();
    let open: Vec<&str> = html.split("<details open><summary>").skip(1).collect();
    assert!(
        open.iter()
            .any(|rest| rest.starts_with("Worst row of each tap, isolated"))
    );
}

#[test]
fn two_points_are_no_line() {
    let lines = |report: &Report| {
        render(report)
            .unwrap()
            .matches("tokens per second by threads")
            .count()
    };
    let mut report = sample::timed();
    assert_eq!(lines(&report), 0);
    assert!(
        render(&report)
            .unwrap()
            .contains("pp128, tokens per second: longer is better")
    );
    let bench = report.bench.as_mut().unwrap();
    let mut more = bench.rows.clone();
    more.retain(|row| row.threads == 2);
    more.iter_mut().for_each(|row| row.threads = 4);
    bench.rows.extend(more);
    // Twice each: the chart's caption and its name.
    assert!(lines(&report) > 0);

    let nulls = sample::report(2, 1);
    assert!(
        !render(&nulls)
            .unwrap()
            .contains("Error made in each kind of stage")
    );
    assert!(
        render(&sample::report(3, 1))
            .unwrap()
            .contains("Error made in each kind of stage")
    );
}

#[test]
fn the_map_tells_failures_from_what_cannot_fail() {
    let crosses = |report| {
        render(&report)
            .unwrap()
            .matches("stroke=\"var(--page)\"")
            .count()
    };
    assert_eq!(crosses(sample::pass()), 0);
    // Two taps in six layers and one cell that is not finite, two strokes each.
    assert_eq!(crosses(sample::fail()), 2 * (2 * 6 + 1));
}

#[test]
fn tables_that_scroll_can_be_reached_and_have_names() {
    for (name, report) in sample::all() {
        let html = render(&report).unwrap();
        let boxes: Vec<&str> = html.split("<div class=\"scroll\"").skip(1).collect();
        assert_eq!(boxes.len(), html.matches("<table>").count(), "{name}");
        for opened in boxes {
            let attributes = opened.split('>').next().unwrap();
            assert!(attributes.contains("tabindex=\"0\""), "{name}");
            assert!(attributes.contains("aria-label=\""), "{name}");
            assert!(!attributes.contains("aria-label=\"\""), "{name}");
        }
    }
}

#[test]
fn the_embedded_json_is_the_report() {
    for (name, report) in sample::all() {
        let html = render(&report).unwrap();
        assert!(embedded(&html) == report, "{name}");
    }
}

#[test]
fn noise_beyond_its_limit_stands_out() {
    let mut report = sample::pass();
    assert!(!render(&report).unwrap().contains("<tr class=\"fail\">"));
    let floor = report.noise_floor.as_mut().unwrap();
    floor.measurements[0].logits_limit = Some(0.0);
    let nmse = &mut floor.measurements[0].nmse;
    nmse.insert("logits".to_owned(), Some(0.39));
    let html = render(&report).unwrap();
    assert_eq!(html.matches("<tr class=\"fail\">").count(), 1);
}
