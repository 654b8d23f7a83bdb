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
        "v, layer 0, prompt 0, position 407: NMSE 1.4e-9, its isolated limit: 0 (bit for bit): not gated",
        "ffn_act, layer 0, prompt 0, position 407: NMSE 1.4e-9, 110000 times the reference's noise 1.2e-14: not gated",
    ] {
        assert!(
            drawings.contains(&format!("<title>{tooltip}</title>")),
            "{tooltip}"
        );
    }
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
