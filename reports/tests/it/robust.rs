//! No figure that a report can hold makes a writer fail.

use proptest::option;
use proptest::prelude::*;
use reports::comparison::Comparison;
use reports::model::{Report, Status, TapStats};
use reports::{html, json, junit, markdown, records, terminal};

use crate::{gate, judged, sample};

fn figure() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<f64>(),
        Just(0.0),
        Just(-0.0),
        Just(f64::MAX),
        Just(f64::MIN),
        Just(5e-324),
        Just(f64::NAN),
        Just(f64::INFINITY),
    ]
}

/// A figure that may not be null, hence is finite.
fn required() -> impl Strategy<Value = f64> {
    figure().prop_filter("finite", |x| x.is_finite())
}

fn stats() -> impl Strategy<Value = Option<TapStats>> {
    let figures = prop::collection::vec(option::of(figure()), 7);
    let counts = (any::<u64>(), any::<usize>(), any::<u64>());
    option::of(
        (figures, counts, any::<bool>(), option::of(any::<bool>())).prop_map(
            |(figures, (rows, worst_position, non_finite), bit_equal, pass)| TapStats {
                rows,
                bit_equal,
                nmse: figures[0],
                worst_position,
                nmse_prefill: figures[1],
                nmse_decode: figures[2],
                nmse_aggregate: figures[3],
                cosine: figures[4],
                max_abs: figures[5],
                max_abs_at: None,
                non_finite,
                code_flip_rate: None,
                max_quantiser_steps: None,
                head_share: None,
                element_share: None,
                allowed: None,
                amplified: None,
                limit: figures[6],
                pass,
            },
        ),
    )
}

prop_compose! {
    fn report()(
        taps in prop::collection::vec((stats(), stats(), option::of(any::<usize>()), 0usize..4), 0..12),
        kl in prop::collection::vec(option::of(figure()), 0..500),
        figures in prop::collection::vec(required(), 8),
        nulls in prop::collection::vec(option::of(figure()), 8),
        counts in prop::collection::vec(any::<u64>(), 6),
    ) -> Report {
        let mut report = judged::known();
        let fail = sample::fail();
        (report.taps, report.logits) = (fail.taps, fail.logits);
        (report.generation, report.bench) = (fail.generation, sample::timed().bench);
        report.verdict.status = Status::Fail;
        report.gate = gate::report().gate;
        let names = ["embd", "q", "attn_norm", "unheard_of"];
        report.taps.truncate(taps.len());
        for (entry, (isolated, cumulative, layer, name)) in report.taps.iter_mut().zip(taps) {
            entry.isolated = isolated;
            entry.cumulative = cumulative;
            entry.layer = layer;
            entry.prompt = counts[5] as usize;
            entry.tap = names[name].to_owned();
        }
        let logits = report.logits[0].cumulative.as_mut().unwrap();
        logits.kl = kl;
        logits.kl_max = Some(figures[0]);
        logits.top1_agreement = figures[1];
        logits.top1_disagreements[0].margin = Some(figures[2]);
        let bench = report.bench.as_mut().unwrap();
        let tps = bench.rows[0].tps.as_mut().unwrap();
        (tps.median, tps.low, tps.high) = (figures[3], figures[4], figures[5]);
        bench.ratios[0].median = figures[6];
        let worst = &mut logits.worst[0];
        (worst.kl, worst.candidate[0].logit) = (nulls[0], nulls[1]);
        worst.candidate[1].probability = nulls[2];
        bench.kernels[0].ms.median = figures[5];
        bench.kernels[0].macs_per_second = figures[4];
        bench.kernels[0].roofline_share = nulls[3];
        let steps = bench.rows.iter_mut().find_map(|row| row.inter_token.as_mut()).unwrap();
        (steps.p50, steps.p99) = (figures[0], figures[1]);
        steps.samples.extend(&figures);
        let series = &mut report.gate.as_mut().unwrap().series[0];
        (series.baseline, series.noise, series.threshold) = (nulls[4], nulls[5], nulls[6]);
        let measured = &mut series.measurements[0];
        (measured.value, measured.change, measured.low) = (figures[2], nulls[6], nulls[7]);
        bench.memory[0].peak_rss_bytes = counts[0];
        let first = report.verdict.first_divergence.as_mut().unwrap();
        (first.limit, first.nmse) = (figures[7], Some(figures[0]));
        first.oracle = nulls[0];
        let judgement = &mut first.arbitration.as_mut().unwrap().reference;
        (judgement.nmse, judgement.limit) = (nulls[1], figures[2]);
        let perplexity = report.perplexity.as_mut().unwrap();
        (perplexity.reference, perplexity.kl_mean) = (nulls[2], nulls[3]);
        perplexity.top1_agreement = figures[3];
        let difference = perplexity.difference.as_mut().unwrap();
        (difference.mean, difference.low, difference.high) = (figures[4], nulls[4], nulls[5]);
        let noise = &mut report.noise_floor.as_mut().unwrap().measurements[0];
        noise.nmse.insert("q".to_owned(), nulls[6]);
        report.coverage.expected = counts[1];
        report.coverage.compared = counts[2];
        report.model.size_bytes = counts[3];
        report.engines.candidate.load_ms = Some(figures[6]);
        let generation = report.generation.as_mut().unwrap();
        generation.first_mismatch.as_mut().unwrap().index = counts[4] as usize;
        report
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_report_renders(report in report()) {
        prop_assert!(!markdown::render(&report).is_empty());
        prop_assert!(!terminal::summary(&report).is_empty());
        prop_assert!(!terminal::gate(&report, "report.json").is_empty());
        prop_assert_eq!(terminal::bench(&report).is_empty(), report.bench.is_none());
        prop_assert!(!html::render(&report).unwrap().is_empty());
        let read = json::parse(&json::write(&report).unwrap(), "report").unwrap();
        prop_assert!(!html::render(&read).unwrap().is_empty());
        for report in [&report, &read] {
            prop_assert!(!junit::render(report).unwrap().is_empty());
            let rows = records::taps_jsonl(report).lines().count();
            prop_assert_eq!(records::taps_csv(report).lines().count(), rows + 1);
            for (a, b) in [(report, &sample::fail()), (&sample::fail(), report)] {
                let comparison = Comparison::new(a, b);
                prop_assert!(comparison.text().lines().all(|line| line.chars().count() <= 100));
                prop_assert!(!comparison.markdown().is_empty());
                prop_assert!(!comparison.html().unwrap().is_empty());
            }
        }
    }
}
