use reports::markdown::render;
use reports::model::{Activation, ActivationSource};

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

#[test]
fn recommendations_follow_the_intervals() {
    let purposes = |report: &reports::Report| section(&render(report), "Which engine for what");
    let mut report = sample::timed();
    let text = purposes(&report);
    for says in [
        "- Reading prompts: rust, surely faster in 2 of 2 tests; rust over bitnet.cpp where it is closest, 1.18x (pp128 at",
        "- Generating text: bitnet.cpp, surely faster in 2 of 2 tests; rust over bitnet.cpp where it is closest, 0.971x (tg64",
        "- Little memory: rust, by one reading each: candidate ",
        "2 logical CPUs), one model (tiny.gguf) and these tests: pp128, tg64, tg64 certified.",
        "Values were not compared in this run.",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    report.verdict.at_fault = reports::model::AtFault::Candidate;
    assert!(
        purposes(&report).contains("Reading prompts: rust (which is at fault in this run), surely")
    );
    let ratios = &mut report.bench.as_mut().unwrap().ratios;
    ratios[0].low = 0.9;
    (ratios[2].low, ratios[3].low, ratios[3].high) = (0.9, 1.1, 1.2);
    ratios[2].high = 0.99;
    let text = purposes(&report);
    assert!(text.contains("surely faster in 1 of 2 tests"), "{text}");
    assert!(
        text.contains("The intervals of 1 of 5 ratios hold equal speed."),
        "{text}"
    );
    assert!(
        text.contains("Generating text: bitnet.cpp for tg64 at 1 thread; rust (which is at fault in this run) for tg64 at 2 threads."),
        "{text}"
    );
    for ratio in &mut report.bench.as_mut().unwrap().ratios {
        (ratio.low, ratio.high) = (0.9, 1.3);
    }
    let text = purposes(&report);
    assert!(
        text.contains("Generating text: either, as the intervals of 2 tests hold equal speed.")
    );
    report.bench = None;
    assert_eq!(purposes(&report), "Speed and memory: not measured.");
}

#[test]
fn few_pairs_say_nothing_surely() {
    let mut report = sample::timed();
    for row in &mut report.bench.as_mut().unwrap().rows {
        for measured in [&mut row.tps, &mut row.ms].into_iter().flatten() {
            measured.samples.truncate(4);
        }
    }
    let text = render(&report);
    let summary = section(&text, "Executive summary");
    assert!(
        summary.contains("rust is surely faster in none and bitnet.cpp in none"),
        "{summary}"
    );
    let purposes = section(&text, "Which engine for what");
    for says in [
        "Reading prompts: not to be told by so few pairs.",
        "Of tests with fewer than five pairs no engine is said to be faster.",
    ] {
        assert!(purposes.contains(says), "{purposes}");
    }
    assert!(!section(&text, "Key advantages").contains("Faster in"));
}

#[test]
fn an_engine_against_itself_is_told_by_its_part() {
    let mut report = sample::timed();
    report.engines.reference.name = "rust".to_owned();
    for row in &mut report.bench.as_mut().unwrap().rows {
        row.engine = "rust".to_owned();
    }
    let text = render(&report);
    let start = "# rust (candidate) decodes at 0.971x (0.952x to 0.981x) and prefills";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("rust (candidate) is surely faster in 2 and rust (reference) in 3"));
}

#[test]
fn the_summary_says_how_fast() {
    let text = section(&render(&sample::timed()), "Executive summary");
    for says in [
        "Of 5 timed tests, rust is surely faster in 2 and bitnet.cpp in 3, by the 95% intervals of the ratios; the speed of rust over that of bitnet.cpp is from 0.971x (tg64, 1 thread) to 1.18x (pp128, 2 threads).",
        "Peak memory in timed runs: candidate 1.16 GiB, reference 1.24 GiB at 1 thread;",
    ] {
        assert!(text.contains(says), "{says}: {text}");
    }
    let mut report = sample::timed();
    let bench = report.bench.as_mut().unwrap();
    bench.ratios.clear();
    bench.memory.clear();
    let text = section(&render(&report), "Executive summary");
    assert!(
        !text.contains("surely") && !text.contains("Peak memory in timed"),
        "{text}"
    );
}

#[test]
fn a_benchmark_is_headed_by_its_result() {
    let headline = |report: &reports::Report| {
        render(report)
            .lines()
            .next()
            .unwrap()
            .trim_start_matches("# ")
            .to_owned()
    };
    let mut report = sample::timed();
    let result = "rust decodes at 0.971x (0.952x to 0.981x) and prefills at 1.18x (1.16x to 1.20x) the speed of bitnet.cpp on tiny.gguf: tg64 at 2 threads, pp128 at 2 threads";
    assert_eq!(headline(&report), result);
    let terminal = reports::terminal::bench(&report).replace("\n      ", " ");
    assert!(terminal.starts_with(result), "{terminal}");
    report.verdict.status = reports::model::Status::Fail;
    assert_eq!(headline(&report), format!("Fail: {result}"));
    report.bench.as_mut().unwrap().ratios.clear();
    assert_eq!(
        headline(&report),
        "Fail: rust and bitnet.cpp timed on tiny.gguf"
    );
}

#[test]
fn implementations_are_told_by_what_they_state() {
    let mut report = sample::pass();
    let row = |report: &reports::Report, name: &str| {
        let text = section(&render(report), "Implementation comparison");
        let mut lines = text.lines();
        let row = lines.find(|line| line.starts_with(&format!("| {name} ")));
        row.map(|row| {
            row.split('|')
                .map(|c| c.trim().to_owned())
                .collect::<Vec<_>>()[2..4]
                .to_vec()
        })
    };
    assert_eq!(row(&report, "Kernels").unwrap(), ["not stated", "avx2"]);
    assert_eq!(
        row(&report, "Model architectures").unwrap(),
        ["bitnet-b1.58, llama"; 2]
    );
    assert_eq!(row(&report, "Language"), None);
    let build = &mut report.engines.reference.build;
    build.insert("language".to_owned(), "C and C++".to_owned());
    build.insert(
        "cpu_features".to_owned(),
        "AVX = 1 | AVX512 = 0 | FMA = 1 |".to_owned(),
    );
    assert_eq!(
        row(&report, "Language").unwrap(),
        ["C and C++", "not stated"]
    );
    assert_eq!(
        row(&report, "Instruction sets").unwrap(),
        ["AVX, FMA", "not stated"]
    );
    for engine in [&mut report.engines.reference, &mut report.engines.candidate] {
        engine.abilities = None;
    }
    assert_eq!(row(&report, "Model architectures"), None);
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
        "### Which engine for what",
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
            "rust and bitnet.cpp were timed on tiny.gguf and their values not compared; 1 of 12 speeds slower than the baseline, 8 not judged.",
        ),
        (
            slower,
            "rust agrees with bitnet.cpp on tiny.gguf within every limit; 1 of 12 speeds slower than the baseline, 8 not judged.",
        ),
    ];
    for (report, want) in cases {
        assert_eq!(section(&render(&report), "Conclusion"), want);
    }
}

#[test]
fn what_the_baseline_lacks_does_not_make_the_values_unlike() {
    let agrees = "rust agrees with bitnet.cpp on tiny.gguf within every limit";
    let cases = [
        (
            gate::no_baseline(),
            "; the speed was not judged, as baselines/tiny.json has no baseline of this model, these engines and these inputs.",
            "- Record a baseline: the same command with --update adds this run to baselines/tiny.json.",
            "2,460 rows compared; the speed was not judged",
        ),
        (
            gate::short_history(false),
            "; the speed was not judged, as none of 1 speed could be held against the baseline.",
            "- Collect more samples, in this run or the baseline: ttft at 1 thread (candidate over reference).",
            "2,460 rows compared; the speed was not judged",
        ),
        (
            gate::short_history(true),
            "; none of 2 speeds is surely slower than the baseline, 1 not judged.",
            "- Collect more samples, in this run or the baseline: ttft at 1 thread (candidate over reference).",
            "2,460 rows compared; 1 of 2 speeds not judged",
        ),
        (
            gate::fewer_rows(),
            ", but on fewer rows than before (2,460 rows compared, 2,500 in the baseline's latest run); none of 1 speed is surely slower than the baseline.",
            "- Find out which rows are no longer compared: 2,460 rows compared, 2,500 in the baseline's latest run.",
            "2,460 of 2,460 rows compared",
        ),
    ];
    for (report, conclusion, step, headline) in cases {
        let text = render(&report);
        assert_eq!(
            section(&text, "Conclusion"),
            format!("{agrees}{conclusion}")
        );
        assert_eq!(section(&text, "Recommendations"), step);
        assert!(text.contains(headline), "{headline}");
    }
    // More is wrong than what the gate names, or not everything was compared after all.
    let mut other = gate::fewer_rows();
    other
        .verdict
        .reasons
        .push("12 of 40 tokens of the text were scored".to_owned());
    let mut missing = gate::no_baseline();
    missing.coverage.compared -= 1;
    for report in [other, missing] {
        let text = render(&report);
        assert!(section(&text, "Conclusion").contains("was not compared with bitnet.cpp"));
    }
}

#[test]
fn only_a_pass_calls_for_nothing() {
    for (name, report) in sample::all() {
        let nothing = render(&report).contains("nothing in the run calls for a step");
        let passed = report.verdict.status == reports::model::Status::Pass;
        assert_eq!(nothing, passed, "{name}");
    }
    let mut other = sample::pass();
    other.verdict.status = reports::model::Status::Incomplete;
    other.verdict.exit_code = 20;
    other.verdict.reasons = vec!["12 of 40 tokens of the text were scored".to_owned()];
    assert_eq!(
        section(&render(&other), "Recommendations"),
        "- See to what the verdict names: 12 of 40 tokens of the text were scored."
    );
}

#[test]
fn the_headline_names_what_is_slower() {
    let mut report = gate::report();
    let slower = "slower than the baseline in decode, tg64 at 2 threads (candidate over reference)";
    let headline = |report: &reports::Report| {
        let text = render(report);
        let line = text
            .lines()
            .find(|line| line.contains("slower than the baseline in"));
        line.unwrap().to_owned()
    };
    let line = headline(&report);
    assert!(line.contains(slower) && !line.contains("more"), "{line}");
    for series in &mut report.gate.as_mut().unwrap().series {
        series.result = reports::model::GateResult::Regressed;
    }
    let line = headline(&report);
    assert!(line.contains(&format!("{slower} and 11 more")), "{line}");
}

#[test]
fn a_run_like_no_other_says_what_is_other() {
    let mut report = gate::no_baseline();
    let held = report.gate.as_mut().unwrap();
    held.baseline_rows = Some(2_460);
    held.changed = vec!["CPU: A, B in the baseline".to_owned()];
    let text = render(&report);
    let says = "the speed was not judged, as baselines/tiny.json has no run like this one (CPU: A, B in the baseline).";
    assert!(section(&text, "Conclusion").ends_with(says), "{text}");
    assert!(text.contains("- Record runs like this one: the same command with --update adds one"));
}

#[test]
fn more_threads_than_cpus_are_said_where_the_figures_stand() {
    let mut report = sample::timed();
    assert!(!render(&report).contains(" on 1 CPU"));
    let rooflines = &mut report.bench.as_mut().unwrap().roofline;
    let two = rooflines.iter_mut().find(|r| r.threads == 2).unwrap();
    two.cpus = vec![0];
    let text = render(&report);
    assert!(text.contains("| 2 on 1 CPU |"), "{text}");
    assert!(
        text.contains(" at 2 threads on 1 CPU: candidate over reference"),
        "{text}"
    );
    let text = reports::terminal::bench(&report);
    assert!(text.contains("2 on 1 CPU"), "{text}");
}

#[test]
fn the_pairs_are_those_that_were_timed() {
    let mut report = sample::pass();
    assert!(render(&report).contains("Medians of 5 interleaved pairs"));
    let rows = &mut report.bench.as_mut().unwrap().rows;
    rows[0].tps.as_mut().unwrap().samples = vec![50.0; 20];
    assert!(render(&report).contains("Medians of 5 to 20 interleaved pairs"));
}

#[test]
fn who_says_what_the_activation_is() {
    for (source, says) in [
        (ActivationSource::File, "relu2, as the file says"),
        (
            ActivationSource::Assumed,
            "relu2, assumed: the file does not say",
        ),
        (
            ActivationSource::Override,
            "relu2, as the command line says",
        ),
    ] {
        let mut report = sample::report(1, 1);
        report.model.activation = Some(Activation {
            function: "relu2".to_owned(),
            source,
        });
        assert!(render(&report).contains(says), "{says}");
    }
}

/// Folders would make every row too wide to read; the command as it was typed stands among the details.
#[test]
fn an_engine_is_called_by_its_label_wherever_it_stands_beside_figures() {
    const NAME: &str = "exec:/opt/engines/numpy/worker.py --fast";
    let mut report = sample::timed();
    let was = std::mem::replace(&mut report.engines.candidate.name, NAME.to_owned());
    report.engines.candidate.label = Some("worker.py --fast".to_owned());
    let bench = report.bench.as_mut().expect("timed");
    for row in bench.rows.iter_mut().filter(|row| row.engine == was) {
        row.engine = NAME.to_owned();
    }
    for row in bench.memory.iter_mut().filter(|row| row.engine == was) {
        row.engine = NAME.to_owned();
    }
    let markdown = render(&report);
    let with_folders = markdown
        .lines()
        .filter(|line| line.contains("/opt/engines"));
    let with_folders: Vec<&str> = with_folders.collect();
    assert!(
        with_folders.len() == 1 && with_folders[0].starts_with("| engine "),
        "{with_folders:#?}"
    );
    let others = [
        reports::terminal::summary(&report),
        reports::junit::render(&report).expect("JUnit"),
    ];
    for text in others {
        assert!(
            text.contains("worker.py --fast") && !text.contains("/opt/engines"),
            "{text}"
        );
    }
}
