//! Every number in the Markdown, on the page and in the results of a benchmark comes from the report.

use std::collections::BTreeSet;

use reports::Report;
use reports::markdown::render;
use reports::model::{Measured, Mode};
use reports::number;
use serde_json::Value;

use crate::sample;

/// Phrases of the writers with a number that is no figure of the run.
const FIXED: [&str; 12] = [
    "should be near 0 (KL in nats",
    "far within the limit (to 1% of it)",
    "within (to 10%)",
    "just within (to 100%)",
    "a little more (to 10 times)",
    "much more (to 1000 times)",
    "95% bootstrap intervals",
    "95% interval",
    "a ratio above 1 means",
    "can exceed 100% in tg",
    "of 3 times the series' own noise",
    "(nats)",
];

/// Units that belong to the number before them.
const UNITS: [&str; 10] = [
    "%", "x", " times", " t/s", "/s", " ms", " s", " MiB", " GiB", " J",
];

/// Numbers with their units. Digits within words (`pp128`, `top-1`) are no numbers.
fn numbers(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or(' ');
    let digit = |i| at(i).is_ascii_digit();
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        if !digit(i) {
            i += 1;
            continue;
        }
        let negative = i > 0 && at(i - 1) == '-' && !(i > 1 && word(at(i - 2)));
        let start = if negative { i - 1 } else { i };
        let within = i > 0 && (word(at(i - 1)) || (at(i - 1) == '-' && !negative));
        while digit(i) || (matches!(at(i), ',' | '.') && digit(i + 1)) {
            i += 1;
        }
        let exponent = if at(i + 1) == '-' { i + 2 } else { i + 1 };
        if at(i) == 'e' && digit(exponent) {
            i = exponent;
            while digit(i) {
                i += 1;
            }
        }
        let rest: String = chars[i..].iter().take(8).collect();
        let unit = UNITS.iter().find(|unit| {
            let after = rest.strip_prefix(**unit);
            after.is_some_and(|after| !after.starts_with(|c: char| word(c) || c == '/'))
        });
        if !within {
            let number: String = chars[start..i].iter().collect();
            found.push(number + unit.unwrap_or(&""));
        }
        while word(at(i)) {
            i += 1;
        }
    }
    found
}

/// What a report's JSON can account for.
#[derive(Default)]
struct Sources {
    /// Numbers with their units as a formatter writes them, and without.
    written: BTreeSet<String>,
}

impl Sources {
    fn new(report: &Report) -> Sources {
        let mut sources = Sources::default();
        sources.leaves(&serde_json::to_value(report).unwrap());
        sources.derived(report);
        sources
    }

    fn leaves(&mut self, value: &Value) {
        match value {
            Value::Number(n) => self.figure(n.as_f64().unwrap()),
            Value::String(text) => self.text(text),
            Value::Array(items) => {
                self.count(items.len() as u64);
                items.iter().for_each(|item| self.leaves(item));
            }
            Value::Object(fields) => {
                self.count(fields.len() as u64);
                for (name, value) in fields {
                    self.text(name);
                    self.leaves(value);
                }
            }
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn text(&mut self, text: &str) {
        self.written.extend(numbers(text));
    }

    fn count(&mut self, n: u64) {
        self.text(&number::count(n));
        self.text(&n.to_string());
    }

    fn figure(&mut self, x: f64) {
        if x >= 0.0 && x.fract() == 0.0 {
            self.count(x as u64);
        }
        let written = [
            number::error(x),
            number::value(x),
            number::significant(x, 3),
            number::significant(x, 5),
            number::tokens_per_second(x),
            number::milliseconds(x),
            number::milliseconds(x * 1e3),
            number::bytes(x),
            number::joules(x),
            number::billions(x, "B/s"),
            number::share(x),
            number::change(x),
            number::times(x),
            number::cosine(x),
            format!("{}/s", number::significant(x, 3)),
        ];
        for text in &written {
            self.text(text);
            // The ends of an interval share the unit of the median.
            self.text(
                text.split_once([' ', 'x', '%'])
                    .map_or("", |(bare, _)| bare),
            );
        }
        let ends = Measured {
            median: x,
            low: x,
            high: x,
            samples: Vec::new(),
        };
        self.text(&ends.written(number::milliseconds).1);
    }

    /// What the report's figures give by a calculation.
    fn derived(&mut self, report: &Report) {
        // The place of a prompt, and the rank of a likely token.
        (0..report.inputs.prompts.len()).for_each(|prompt| self.count(prompt as u64));
        let stats = report.logits.iter().flat_map(|entry| entry.modes());
        let worst = stats.flat_map(|(_, stats)| &stats.worst);
        let ranks = worst.map(|at| at.reference.len().max(at.candidate.len()) as u64);
        (1..=ranks.max().unwrap_or(0)).for_each(|rank| self.count(rank));
        // Errors over limits.
        let first = report.verdict.first_divergence.as_ref();
        let first = first.and_then(|first| Some((first.nmse?, first.limit)));
        let taps = report.taps.iter().flat_map(|entry| entry.modes());
        let taps = taps.filter_map(|(_, stats)| Some((stats.nmse?, stats.limit?)));
        for (nmse, limit) in taps.chain(first).filter(|(_, limit)| *limit > 0.0) {
            self.text(&number::share(nmse / limit));
            self.text(&format!("{} times", number::significant(nmse / limit, 2)));
        }
        // Layers that fail, that have equal bits, and all of them, of each tap; values that are not finite.
        for mode in [Mode::Isolated, Mode::Cumulative] {
            let of_mode = |tap: &str| {
                let entries = report.taps.iter().filter(|entry| entry.tap == tap);
                let stats = entries.flat_map(|e| e.modes().map(|(m, s)| (m, e.layer, s.clone())));
                let stats = stats.filter(|(of, _, _)| *of == mode);
                stats.map(|(_, layer, s)| (layer, s)).collect::<Vec<_>>()
            };
            let taps: BTreeSet<_> = report.taps.iter().map(|e| e.tap.as_str()).collect();
            let (mut gated, mut failed) = (0, 0);
            for tap in taps {
                let stats = of_mode(tap);
                let layers = |keep: &dyn Fn(&reports::model::TapStats) -> bool| {
                    let kept = stats.iter().filter(|(_, s)| keep(s));
                    kept.map(|(layer, _)| layer).collect::<BTreeSet<_>>().len() as u64
                };
                self.count(layers(&|_| true));
                self.count(layers(&|s| s.pass == Some(false)));
                self.count(layers(&|s| s.bit_equal));
                self.count(stats.iter().map(|(_, s)| s.non_finite).sum());
                gated += u64::from(layers(&|s| s.pass.is_some()) > 0);
                failed += u64::from(layers(&|s| s.pass == Some(false)) > 0);
            }
            self.count(gated);
            self.count(failed);
        }
        // Taps of a layer, prompt and mode that have a limit, and those that keep it or not.
        let gated = report.taps.iter().flat_map(|entry| entry.modes());
        let gated: Vec<bool> = gated.filter_map(|(_, stats)| stats.pass).collect();
        let within = gated.iter().filter(|pass| **pass).count();
        self.count(gated.len() as u64);
        self.count((gated.len() - within) as u64);
        // Tests in which an engine is surely faster, or none is, of all of them and of each kind; those with the same tokens.
        let pairs = report.timed_pairs();
        for kind in ["", "pp", "tg", "ttft", "load"] {
            let ratios = pairs.iter().filter(|pair| pair.test.starts_with(kind));
            let ratios: Vec<_> = ratios.filter_map(|pair| pair.ratio).collect();
            let faster = ratios.iter().filter(|r| r.low > 1.0).count();
            let slower = ratios.iter().filter(|r| r.high < 1.0).count();
            let unsure = ratios.len() - faster - slower;
            for n in [ratios.len(), faster, slower, unsure] {
                self.count(n as u64);
            }
        }
        let tokens = report.bench.iter().flat_map(|bench| &bench.tokens);
        self.count(tokens.filter(|t| t.first_mismatch.is_none()).count() as u64);
        // Texts and strings on which the tokenizers agree.
        if let Some(tokens) = &report.tokenizer {
            let equal = tokens.texts.iter().filter(|text| text.comparison.equal);
            self.count(equal.count() as u64);
            let generated = &tokens.generated;
            let equal = generated
                .compared
                .zip(generated.different)
                .map(|(all, n)| all - n);
            self.count(equal.unwrap_or(0));
        }
        // Rows that were not compared.
        let coverage = &report.coverage;
        self.count(coverage.expected - coverage.compared);
        // Generated tokens of all prompts, and those before a mismatch; tokens that stand behind it.
        let (mut same, mut all) = (0, 0);
        let mut generation = report.generation.iter().collect::<Vec<_>>();
        while let Some(of) = generation.pop() {
            generation.extend(&of.further);
            let both = of.reference.iter().zip(&of.candidate);
            same += both.take_while(|(a, b)| a == b).count() as u64;
            all += of.reference.len().max(of.candidate.len()) as u64;
            if let Some(m) = &of.first_mismatch {
                let longest = of.reference.len().max(of.candidate.len());
                self.count((longest - m.index - 1) as u64);
            }
        }
        self.count(same);
        self.count(all);
        if let Some(difference) = report.perplexity.as_ref().and_then(|p| p.difference) {
            for x in [Some(difference.mean), difference.low, difference.high] {
                self.text(&x.map_or(String::new(), |x| number::significant(x.exp(), 7)));
            }
        }
        for head in report.bench.iter().flat_map(|bench| &bench.compact_heads) {
            let rows = head.exact_rows as f64 / head.certified as f64;
            self.text(&number::significant(rows, 3));
        }
    }

    /// Numbers of a text that the report does not account for.
    fn untraced(&self, markdown: &str) -> Vec<String> {
        let mut text = markdown.replace("\\|", "|").replace('\\', "");
        for phrase in FIXED {
            text = text.replace(phrase, "");
        }
        let mut found = numbers(&text);
        found.retain(|number| !self.written.contains(number));
        found
    }
}

/// As a reader sees it.
fn html_unescaped(text: &str) -> String {
    let entities = [
        ("&#x2f;", "/"),
        ("&#x27;", "'"),
        ("&quot;", "\""),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ];
    let replace = |text: String, (entity, c): (&str, &str)| text.replace(entity, c);
    entities.into_iter().fold(text.to_owned(), replace)
}

#[test]
fn every_number_is_in_the_report_and_others_are_found_out() {
    for (name, report) in sample::all() {
        let sources = Sources::new(&report);
        let markdown = render(&report);
        let page = crate::html::text(&reports::html::render(&report).unwrap());
        let page = html_unescaped(&page);
        let table = reports::terminal::bench(&report);
        for (writer, text) in [("Markdown", &markdown), ("page", &page), ("table", &table)] {
            let untraced = sources.untraced(text);
            assert!(untraced.is_empty(), "{name}, {writer}: {untraced:?}");
        }
        for canned in [
            "17.13 t/s",
            "1.47x faster",
            "99.87% accurate",
            "4,711 rows",
            "3.3e-7",
        ] {
            let canned = format!("{markdown}\nThe candidate: {canned}.\n");
            assert_eq!(sources.untraced(&canned).len(), 1, "{name}: {canned}");
        }
    }
}

#[test]
fn numbers_are_told_from_words() {
    let text = "pp128 at -7.90% (1,234 rows), 1 - 3.2e-9, SHA-256, 0..20, 17.4 t/s to 2.50; v1.0";
    let want = [
        "-7.90%", "1,234", "1", "3.2e-9", "0", "20", "17.4 t/s", "2.50",
    ];
    assert_eq!(numbers(text), want);
}

/// Nulls whatever the schema says may be null, with all that is in it or, `inside`, keeping what is made of several
/// values; makes every other zero a seven, those in texts too.
fn nulled(report: &Report, inside: bool) -> Report {
    let schema = Report::json_schema();
    let mut value = serde_json::to_value(report).unwrap();
    null(&mut value, &schema, &schema, inside);
    serde_json::from_value(value).unwrap()
}

fn null(value: &mut Value, schema: &Value, root: &Value, inside: bool) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(&reference[1..]).unwrap();
        return null(value, target, root, inside);
    }
    let scalar = !value.is_object() && !value.is_array();
    if let Some(any) = schema["anyOf"].as_array() {
        let some = any.iter().find(|s| s["type"] != "null").unwrap();
        if scalar || !inside {
            *value = Value::Null;
        }
        return null(value, some, root, inside);
    }
    let types = schema["type"].as_array();
    if types.is_some_and(|types| types.contains(&"null".into())) && (scalar || !inside) {
        *value = Value::Null;
    }
    match value {
        Value::Array(items) => {
            for item in items {
                null(item, &schema["items"], root, inside);
            }
        }
        Value::Object(fields) => {
            for (name, field) in fields {
                let property = &schema["properties"][name];
                let of_map = &schema["additionalProperties"];
                let schema = if property.is_null() { of_map } else { property };
                null(field, schema, root, inside);
            }
        }
        Value::Number(n) if n.as_f64() == Some(0.0) => *value = 7.into(),
        Value::String(text) => *text = text.replace('0', "7"),
        _ => {}
    }
}

#[test]
fn what_is_null_is_not_measured_and_never_zero() {
    let all_zero = |number: &String| {
        let mut digits = number.chars().filter(char::is_ascii_digit);
        digits.all(|digit| digit == '0')
    };
    for (name, report) in sample::all()
        .into_iter()
        .filter(|(name, _)| *name != "large")
    {
        for inside in [false, true] {
            let mut report = nulled(&report, inside);
            // The length of an empty list is a zero that is in the data.
            for prompt in &mut report.inputs.prompts {
                prompt.decode_tokens.resize(8, 7);
            }
            let markdown = render(&report);
            assert!(markdown.contains("not measured"), "{name}");
            for line in markdown.lines() {
                // The place of the first prompt, which a row may begin with.
                let place = line.replace("rompt 0", "");
                let line = match place.trim_start().strip_prefix("| ") {
                    Some(row) => row.split_once('|').map_or("", |(_, rest)| rest),
                    None => &place,
                };
                let zeros: Vec<_> = numbers(line).into_iter().filter(all_zero).collect();
                assert!(zeros.is_empty(), "{name}: {line}");
            }
        }
    }
}
