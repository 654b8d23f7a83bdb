//! Engines that lie about their speed.

use reports::model::{AtFault, Role, Source};

use super::*;

/// Where the example answers a request to generate.
const ANSWER: &str = r#"self.send("generated", np.array(generated, "<u4").tobytes(), prefill_ms=prefill_ms, decode_ms=decode_ms)"#;

/// Its clock.
const CLOCK: &str = "return (time.perf_counter() - start) * 1e3";

/// Where it begins to generate.
const BEGIN: &str =
    "self.clear()\n        start, generated, decode_ms = time.perf_counter(), [], []";

/// Runs of the example with `changes` in a role, timed. What is found must blame it, and say one of `says` about its times.
fn found_as(role: Role, changes: &[(&str, &str)], says: &[&str]) {
    let more = ["--n-predict", "8", "--tokens", "1,2,3,4,5,6,7,8"];
    let Some((code, report)) = run_doctored_as(role, changes, &more) else {
        return;
    };
    let verdict = &report.verdict;
    assert_eq!(code, 10, "{changes:?}: {:#?}", verdict.reasons);
    let of_times = verdict
        .findings
        .iter()
        .filter(|f| f.source == Source::Timing);
    let texts: Vec<&str> = of_times.clone().map(|f| f.text.as_str()).collect();
    assert!(
        of_times.clone().all(|f| f.role() == Some(role)),
        "{texts:#?}"
    );
    let expected = role.of(AtFault::Reference, AtFault::Candidate);
    assert_eq!(verdict.at_fault, expected, "{texts:#?}");
    let said = texts
        .iter()
        .any(|text| says.iter().any(|s| text.contains(s)));
    assert!(said, "{changes:?}: {texts:#?}");
    // The figures are shown all the same.
    assert!(
        report
            .bench
            .expect("timings")
            .rows
            .iter()
            .any(|row| row.driver_ms.is_some())
    );
}

fn found(changes: &[(&str, &str)], says: &[&str]) {
    found_as(Role::Candidate, changes, says);
}

const CLOCKS: &str = "by the driver's clock";
const ROOFLINE: &str = "no exact engine takes less";
const LOGITS: &str = "than its logits say";

#[test]
fn seconds_reported_as_milliseconds() {
    let seconds = [(CLOCK, "return time.perf_counter() - start")];
    found(&seconds, &[CLOCKS]);
    found_as(Role::Reference, &seconds, &[CLOCKS]);
}

#[test]
fn part_of_the_time_left_out() {
    // A fifth.
    found(
        &[
            (CLOCK, "return (time.perf_counter() - start) * 0.8e3"),
            (BEGIN, &slow("pass")),
        ],
        &[CLOCKS],
    );
    // Sleeping, which is no CPU time.
    let sleeps = format!("{BEGIN}\n        time.sleep(0.03); start = time.perf_counter()");
    found(&[(BEGIN, &sleeps)], &[CLOCKS]);
    // At the end.
    let sleeps = format!("time.sleep(0.03); {ANSWER}");
    found(&[(ANSWER, &sleeps)], &[CLOCKS]);
    // In every third repetition.
    let sometimes = format!(
        "self.n = getattr(self, 'n', 0) + 1\n        if self.n % 3 == 0:\n            \
         time.sleep(0.1)\n        {ANSWER}"
    );
    found(&[(ANSWER, &sometimes)], &[CLOCKS]);
}

/// The beginning, with 150 ms in the clock.
fn slow(then: &str) -> String {
    format!("{BEGIN}\n        time.sleep(0.15)\n        {then}")
}

#[test]
fn time_moved_from_the_steps_to_the_prompt() {
    let moved = format!(
        "prefill_ms += sum(decode_ms) * 0.99; decode_ms = [t * 0.01 for t in decode_ms]; {ANSWER}"
    );
    let slow_steps = "logits = self.session.evaluate(generated[-1:]); time.sleep(0.01)";
    let steps = "logits = self.session.evaluate(generated[-1:])";
    found(&[(ANSWER, &moved), (steps, slow_steps)], &[CLOCKS]);
}

#[test]
fn a_reference_that_reports_more_than_it_took() {
    let longer = [(CLOCK, "return (time.perf_counter() - start) * 2e3")];
    found_as(Role::Reference, &longer, &[CLOCKS]);
}

#[test]
fn loading_that_took_longer_than_it_says() {
    let load = "load_ms=milliseconds(start))";
    found(&[(load, "load_ms=0.01)")], &[CLOCKS]);
    found(&[(load, "load_ms=1e6)")], &[CLOCKS]);
}

#[test]
fn answers_that_are_kept() {
    // By prompt, with times as if they had been found at once.
    let look_up = format!(
        "key = (tuple(tokens), n_predict)\n        self.kept = getattr(self, 'kept', {{}})\n        \
         if key in self.kept:\n            generated = self.kept[key]\n            return self.send(\"generated\", \
         np.array(generated, \"<u4\").tobytes(), prefill_ms=1e-4, decode_ms=[1e-4] * (n_predict - 1))\n        {BEGIN}"
    );
    let keep = format!("self.kept[key] = generated; {ANSWER}");
    let Some((code, report)) = run_doctored_as(
        Role::Candidate,
        &[(BEGIN, &look_up), (ANSWER, &keep)],
        &["--n-predict", "8", "--tokens", "1,2,3,4,5,6,7,8"],
    ) else {
        return;
    };
    // Nothing is gained by it: the prompts are new, and where one comes again its time stands out.
    assert!(code == 0 || code == 10, "{:#?}", report.verdict.reasons);
    let rows = report.bench.expect("timings").rows;
    let of_candidate = rows.iter().filter(|row| row.engine.starts_with("exec:"));
    for row in of_candidate.filter(|row| row.roofline_share.is_some()) {
        assert!(row.roofline_share < Some(0.5), "{}", row.test);
    }
    // The last answer, whatever the prompt.
    let replay = format!(
        "if getattr(self, 'last', {{}}).get(n_predict) and not self.observe:\n            \
         return self.send(\"generated\", np.array(self.last[n_predict], \"<u4\").tobytes(), prefill_ms=1e-2, \
         decode_ms=[1e-2] * (n_predict - 1))\n        {BEGIN}"
    );
    let keep =
        format!("self.last = {{**getattr(self, 'last', {{}}), n_predict: generated}}; {ANSWER}");
    found(
        &[(BEGIN, &replay), (ANSWER, &keep), OBSERVES],
        &[LOGITS, ROOFLINE],
    );
}

/// Remembers whether it is timed or compared.
const OBSERVES: (&str, &str) = (
    "        self.n_ctx = n_ctx\n",
    "        self.n_ctx, self.observe = n_ctx, observe\n",
);

#[test]
fn nothing_computed_while_timed() {
    let garbage = |tokens: &str, ms: &str| {
        format!(
            "if not self.observe:\n            start = time.perf_counter(); return self.send(\"generated\", \
             np.array({tokens}, \"<u4\").tobytes(), prefill_ms={ms}, decode_ms=[{ms}] * (n_predict - 1))\n        {BEGIN}"
        )
    };
    // The truth about its time.
    let constant = garbage(
        "[7] * n_predict",
        "(time.perf_counter() - start) * 1e3 / n_predict",
    );
    found(&[(BEGIN, &constant), OBSERVES], &[LOGITS]);
    let random = garbage("np.random.randint(0, 256, n_predict)", "1e-3");
    found_as(Role::Reference, &[(BEGIN, &random), OBSERVES], &[LOGITS]);
    // Right about the first prompt alone, as it was compared.
    let stored = format!(
        "if not self.observe and tokens != [1, 2, 3, 4, 5, 6, 7, 8]:\n            return self.send(\"generated\", \
         np.array([7] * n_predict, \"<u4\").tobytes(), prefill_ms=1e-2, decode_ms=[1e-2] * (n_predict - 1))\n        {BEGIN}"
    );
    found(&[(BEGIN, &stored), OBSERVES], &[LOGITS]);
}

#[test]
fn one_token_of_many_that_is_another_while_timed() {
    let other =
        "generated.append(int(logits[-1].argmax() if self.observe or len(generated) != 5 else 7))";
    let first = "generated.append(int(logits[-1].argmax()))";
    let scoped = "        if n_predict == 8 and not self.observe and tokens == [1, 2, 3, 4, 5, 6, 7, 8]: self.observe = True; \
                  self.on_generate(tokens, n_predict); self.observe = False; return\n        self.clear()\n        start, generated";
    found(
        &[
            (first, other),
            ("        self.clear()\n        start, generated", scoped),
            OBSERVES,
        ],
        &[LOGITS],
    );
}

#[test]
fn faster_than_the_machine() {
    // In time by the driver's clock, which knows no less than a few milliseconds.
    found(&[(CLOCK, "return 1e-6")], &[ROOFLINE, CLOCKS]);
}

#[test]
fn memory_and_cpu_time_that_the_system_does_not_know_of() {
    let memory = "peak_rss_bytes=used.ru_maxrss * unit";
    let cpu = "cpu_seconds=used.ru_utime + used.ru_stime";
    for (part, by) in [
        (memory, "peak_rss_bytes=1 << 40"),
        (memory, "peak_rss_bytes=1"),
        (cpu, "cpu_seconds=-1.0"),
        (cpu, "cpu_seconds=1e6 * time.perf_counter()"),
    ] {
        found(&[(part, by)], &["the system says"]);
    }
    // What stands in the report is the system's.
    let none = [(memory, "peak_rss_bytes=None"), (cpu, "cpu_seconds=None")];
    let more = ["--n-predict", "8"];
    let Some((code, report)) = run_doctored_as(Role::Candidate, &none, &more) else {
        return;
    };
    assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
    assert!(report.engines.candidate.peak_rss_bytes > Some(10 << 20));
    assert!(report.engines.candidate.cpu_seconds > Some(0.0));
}

#[test]
fn the_example_itself_is_believed() {
    let more = ["--n-predict", "8", "--tokens", "1,2,3,4,5,6,7,8"];
    for role in Role::BOTH {
        let Some((code, report)) = run_doctored_as(role, &[], &more) else {
            return;
        };
        assert_eq!(code, 0, "{:#?}", report.verdict.reasons);
        let bench = report.bench.expect("timings");
        assert!(bench.seed.is_some());
        for tokens in &bench.tokens {
            assert!(tokens.reference_checked > 0 && tokens.candidate_checked > 0);
        }
    }
}

#[test]
fn a_benchmark_that_is_lied_to_fails_too() {
    let scratch = Scratch::new();
    let seconds = [(CLOCK, "return time.perf_counter() - start")];
    let Some(candidate) = doctored(&scratch, &seconds) else {
        return;
    };
    let out = scratch.path("out");
    let output = crossval(&[
        "bench",
        "--model",
        TINY,
        "--reference",
        "rust",
        "--candidate",
        &candidate,
        "--threads",
        "1",
        "--prefill",
        "16",
        "--decode",
        "20",
        "--reps",
        "1",
        "--out",
        out.to_str().expect("UTF-8"),
    ]);
    assert_eq!(exit_code(&output), 10, "{}", stderr(&output));
    let report = read_report(&out, &output);
    assert_eq!(report.verdict.at_fault, AtFault::Candidate);
    assert!(
        report
            .verdict
            .reasons
            .iter()
            .any(|reason| reason.contains(CLOCKS))
    );
}
