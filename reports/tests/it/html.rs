use reports::html::render;

use crate::sample;

/// The page's text, with the style, the drawings and the embedded JSON left out.
fn text(html: &str) -> String {
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
        let embedded = addresses.find("id=\"report-json\"").unwrap();
        assert!(!addresses[..embedded].contains("http"), "{name}");
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
    // 30 layers x 20 taps and three taps outside the layers, in two modes.
    let cells = drawings.matches("var(--ramp-").count();
    assert_eq!(cells, 2 * (30 * 20 + 3));
    assert!(
        drawings
            .contains("<title>attn_out, layer 29, position 5: NMSE 4.0e-8, limit 1.0e-6</title>")
    );
}

#[test]
fn the_embedded_json_is_the_report() {
    for (name, report) in sample::all() {
        let html = render(&report).unwrap();
        let (_, rest) = html.split_once("id=\"report-json\">").unwrap();
        let (json, _) = rest.split_once("</script>").unwrap();
        assert!(
            reports::json::parse(json, name).unwrap() == report,
            "{name}"
        );
    }
}
