//! Two reports side by side.

use reports::Report;
use reports::comparison::{Comparison, Direction, Subject};
use reports::model::*;

use crate::hostile::{hostile, inert};
use crate::{html, judged, sample};

/// `pass`, some weeks later: each kind of change once or more.
fn later() -> Report {
    let mut report = sample::pass();
    report.created = "2026-09-01T12:00:00Z".to_owned();
    report.environment.cpu = Some("Other CPU @ 3.00GHz".to_owned());
    report.engines.candidate.version = Some("0.2.0".to_owned());
    report.engines.candidate.load_ms = Some(2.0);
    report.verdict = Verdict {
        status: Status::Incomplete,
        exit_code: 20,
        reasons: vec!["1 row is missing".to_owned()],
        ..report.verdict
    };
    for entry in &mut report.taps {
        let isolated = entry.isolated.as_mut().unwrap();
        match entry.tap.as_str() {
            // Within its limit still, and beyond it.
            "attn_norm" => sample::set(isolated, 2e-13),
            "ffn_act" if entry.layer == Some(3) => sample::set(isolated, 4e-3),
            "attn_out" => sample::set(isolated, 1e-9),
            // By less than a factor of 2.
            "attn_probs" => {
                let nmse = isolated.nmse.unwrap();
                sample::set(isolated, nmse * 1.9);
            }
            _ => {}
        }
    }
    report.taps.retain(|entry| entry.tap != "v_cache");
    report.taps[0].tap = "embd_scaled".to_owned();
    let stats = report.logits[0].cumulative.as_mut().unwrap();
    (stats.kl_mean, stats.top1_agreement) = (Some(1e-3), 0.95);
    let generation = report.generation.as_mut().unwrap();
    generation.candidate[4] = 13;
    generation.first_mismatch = Some(GenerationMismatch {
        index: 4,
        reference: Some(12),
        candidate: Some(13),
        margin: Some(0.001),
        max_logit_difference: Some(0.01),
        near_tie: true,
    });
    report.coverage.compared -= 1;
    report.coverage.missing = vec!["isolated, prompt 0, layer 1, q, positions 5..6".to_owned()];
    report.coverage.not_offered.clear();
    let tokens = report.tokenizer.as_mut().unwrap();
    (tokens.generated.different, tokens.texts[0].comparison.equal) = (Some(3), false);
    let bench = report.bench.as_mut().unwrap();
    let faster = bench.rows[1].tps.as_mut().unwrap();
    for x in [&mut faster.median, &mut faster.low, &mut faster.high] {
        *x *= 1.5;
    }
    // The intervals of before and after overlap.
    let same = bench.rows[0].tps.as_mut().unwrap();
    for x in [&mut same.median, &mut same.low, &mut same.high] {
        *x *= 1.04;
    }
    let slower = bench.rows.last_mut().unwrap().ms.as_mut().unwrap();
    for x in [&mut slower.median, &mut slower.low, &mut slower.high] {
        *x *= 1.5;
    }
    let ratio = &mut bench.ratios[2];
    (ratio.median, ratio.low, ratio.high) = (0.8, 0.79, 0.81);
    bench.memory[1].peak_rss_bytes += 100_000_000;
    bench.memory[0].peak_rss_bytes += 10_000_000;
    report
}

fn pairs() -> Vec<(&'static str, Report, Report)> {
    vec![
        ("later", sample::pass(), later()),
        ("fixed", sample::fail(), sample::pass()),
        ("texts", judged::known(), judged::reference_at_fault()),
        ("other", sample::timed(), sample::pass()),
        ("same", sample::pass(), sample::pass()),
    ]
}

#[test]
fn what_the_comparisons_say() {
    for (name, a, b) in pairs() {
        let comparison = Comparison::new(&a, &b);
        insta::assert_snapshot!(format!("comparison_text_{name}"), comparison.text());
        insta::assert_snapshot!(format!("comparison_markdown_{name}"), comparison.markdown());
        let page = html::text(&comparison.html().unwrap());
        insta::assert_snapshot!(format!("comparison_html_{name}"), page);
    }
}

fn subject<'a>(comparison: &'a Comparison, name: &str) -> &'a Subject {
    let mut subjects = comparison.subjects.iter();
    subjects.find(|subject| subject.name == name).unwrap()
}

/// Of a subject, the names of what went that way, with their layers.
fn went(subject: &Subject, way: Direction) -> Vec<(&str, Option<usize>)> {
    let changes = subject.changes.iter().filter(|c| c.direction == way);
    changes.map(|c| (c.name.as_str(), c.layer)).collect()
}

#[test]
fn noise_is_no_change() {
    use Direction::{Appeared, Better, Vanished, Worse};
    let comparison = Comparison::new(&sample::pass(), &later());
    let taps = subject(&comparison, "Taps");
    let worse = went(taps, Worse);
    assert!(worse.contains(&("prompt 0, isolated, ffn_act", Some(3))));
    assert!(worse.contains(&("prompt 0, isolated, attn_norm", Some(0))));
    assert_eq!(worse.len(), 7);
    let crossed: Vec<_> = taps.changes.iter().filter(|c| c.crossed_limit).collect();
    assert_eq!(crossed.len(), 1);
    assert_eq!(crossed[0].name, "prompt 0, isolated, ffn_act");
    assert!(
        went(taps, Better)
            .iter()
            .all(|(name, _)| *name == "prompt 0, isolated, attn_out")
    );
    assert_eq!(went(taps, Better).len(), 6);
    // 6 layers of v_cache, and embd under its old name, in two modes.
    assert_eq!(went(taps, Vanished).len(), 14);
    assert_eq!(went(taps, Appeared).len(), 2);
    let speed = subject(&comparison, "Speed");
    assert_eq!(went(speed, Better), [("pp128, 1 thread, candidate", None)]);
    let slower = [
        ("tg64, 1 thread, ratio", None),
        ("ttft, 1 thread, candidate", None),
    ];
    assert_eq!(went(speed, Worse), slower);
    let memory = subject(&comparison, "Memory");
    assert_eq!(
        went(memory, Worse),
        [("timed runs, 1 thread, candidate", None)]
    );
    assert_eq!(memory.unchanged, 3);
}

#[test]
fn fewer_rows_are_worse_however_few_were_left_out() {
    use Direction::{Better, Worse};
    let mut fewer = sample::pass();
    fewer.coverage.expected -= 40;
    fewer.coverage.compared -= 40;
    let rows = [("rows compared", None)];
    let there = Comparison::new(&sample::pass(), &fewer);
    assert_eq!(went(subject(&there, "Coverage"), Worse), rows);
    let back = Comparison::new(&fewer, &sample::pass());
    assert_eq!(went(subject(&back, "Coverage"), Better), rows);
}

#[test]
fn a_report_does_not_differ_from_itself() {
    for (name, report) in sample::all() {
        let comparison = Comparison::new(&report, &report);
        assert!(comparison.settings.is_empty(), "{name}");
        for subject in &comparison.subjects {
            assert!(subject.changes.is_empty(), "{name}: {:?}", subject.changes);
            assert_eq!(subject.compared, subject.unchanged);
        }
        assert!(comparison.text().starts_with("Nothing changed"), "{name}");
    }
}

#[test]
fn the_other_way_round_worse_is_better() {
    use Direction::{Appeared, Better, Changed, Vanished, Worse};
    let all = sample::all();
    for (name, a) in &all {
        for (other, b) in all
            .iter()
            .filter(|(other, _)| ["fail", "timed", "died"].contains(other))
        {
            let (there, back) = (Comparison::new(a, b), Comparison::new(b, a));
            assert_eq!(there.settings.len(), back.settings.len());
            for (there, back) in there.subjects.iter().zip(&back.subjects) {
                for (one, opposite) in [
                    (Worse, Better),
                    (Better, Worse),
                    (Appeared, Vanished),
                    (Vanished, Appeared),
                    (Changed, Changed),
                ] {
                    let (mut one, mut opposite) = (went(there, one), went(back, opposite));
                    one.sort_unstable();
                    opposite.sort_unstable();
                    assert_eq!(one, opposite, "{name} and {other}");
                }
                let (n, changes) = (there.compared, there.changes.len() as u64);
                assert!(n - there.unchanged <= changes && n >= there.unchanged);
            }
        }
    }
}

#[test]
fn the_terminal_is_100_columns_wide() {
    for (name, a, b) in pairs() {
        for line in Comparison::new(&a, &b).text().lines() {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
    }
    let text = Comparison::new(&hostile(&sample::pass()), &hostile(&later())).text();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    assert!(text.lines().all(|line| line.chars().count() <= 100));
}

#[test]
fn strings_are_escaped() {
    let comparison = Comparison::new(&hostile(&sample::pass()), &hostile(&later()));
    inert(&comparison.markdown());
    let html = comparison.html().unwrap();
    assert!(html.contains("&lt;script&gt;alert(1)"));
    assert!(!html.contains("<script") && !html.contains("<img"));
}

#[test]
fn programs_read_it() {
    let json = serde_json::to_value(Comparison::new(&sample::pass(), &later())).unwrap();
    assert_eq!(json["b"]["status"], "incomplete");
    let loading = &json["subjects"]
        .as_array()
        .unwrap()
        .iter()
        .find(|s| s["name"] == "Loading");
    let change = &loading.unwrap()["changes"][0];
    assert_eq!(change["direction"], "better");
    assert_eq!(
        (&change["a"]["value"], &change["b"]["value"]),
        (&4.1.into(), &2.0.into())
    );
}
