//! `crossval run --text`.

use super::*;

const SENTENCE: &str = "The old man went down to the river, and there he told the children of the time when he was \
                        young. ";

/// 4000 bytes are six windows of the bundled model's context, 256 tokens.
pub(super) fn text(scratch: &Scratch, bytes: usize) -> String {
    let file = scratch.path("text.txt");
    let text: String = SENTENCE.chars().cycle().take(bytes).collect();
    std::fs::write(&file, text).expect("a text");
    file.to_str().expect("UTF-8").to_owned()
}

pub(super) const QUICK: [&str; 4] = ["--no-bench", "--mode", "cumulative", "--n-predict=8"];

#[cfg(feature = "reference")]
#[test]
fn both_engines_find_a_text_as_likely() {
    let scratch = Scratch::new();
    let text = text(&scratch, 4000);
    let (code, report, summary) = run(Path::new(TINY), &[&["--text", &text][..], &QUICK].concat());
    assert_eq!(code, 0, "{summary}");
    let perplexity = report.perplexity.expect("a perplexity");
    assert_eq!((perplexity.source, perplexity.window), (text, 256));
    assert!(perplexity.windows >= 2, "{}", perplexity.windows);
    assert_eq!(perplexity.tokens, perplexity.windows * 127);
    let reference = perplexity.reference.expect("finite");
    let candidate = perplexity.candidate.expect("finite");
    assert!(reference > 1.0 && (candidate / reference - 1.0).abs() < 1e-2);
    let difference = perplexity.difference.expect("finite");
    approx(difference.mean.exp(), candidate / reference);
    let (low, high) = (difference.low.expect("low"), difference.high.expect("high"));
    assert!(low <= difference.mean && difference.mean <= high && low < high);
    assert!(perplexity.kl_mean.expect("finite") < 1e-2);
    assert!(perplexity.top1_agreement > 0.95);
    assert!(summary.contains("perplexity  reference "), "{summary}");
    // The settings on record are those of the comparison.
    assert_ne!(report.engines.candidate.settings["n_ctx"], "256");
}

#[test]
fn an_engine_against_itself_and_fewer_windows() {
    let scratch = Scratch::new();
    let text = text(&scratch, 4000);
    let more = ["--reference", "rust", "--text", &text, "--chunks", "1"];
    let (code, report, _) = run(Path::new(TINY), &[&more[..], &QUICK].concat());
    assert_eq!(code, 0);
    let perplexity = report.perplexity.expect("a perplexity");
    assert_eq!((perplexity.windows, perplexity.tokens), (1, 127));
    assert_eq!(perplexity.reference, perplexity.candidate);
    let difference = perplexity.difference.expect("finite");
    assert_eq!(
        (difference.mean, difference.low, difference.high),
        (0.0, None, None)
    );
    assert_eq!(
        (perplexity.kl_mean, perplexity.top1_agreement),
        (Some(0.0), 1.0)
    );
}

#[cfg(unix)]
#[test]
fn an_engine_that_dies_has_no_perplexity() {
    let scratch = Scratch::new();
    let text = text(&scratch, 20_000);
    // Enough for the taps in isolated mode, not for all windows.
    let candidate = dying_engine::mortal(&scratch, 50_000);
    let engines = ["--reference", "rust", "--candidate", &candidate];
    let more = ["--text", &text, "--mode", "isolated", "--no-bench"];
    let (code, report, _) = run(Path::new(TINY), &[&engines[..], &more].concat());
    assert_eq!(code, 30);
    assert!(report.perplexity.is_none());
    assert_eq!(report.coverage.compared, report.coverage.expected);
    let failure = report.engines.candidate.failure.expect("a failure");
    assert!(
        failure.during.contains("of the text, positions"),
        "{}",
        failure.during
    );
}

#[test]
fn texts_that_cannot_be_scored() {
    let scratch = Scratch::new();
    let short = text(&scratch, 100);
    let long = scratch.path("long.txt");
    std::fs::write(&long, vec![b'a'; 17 << 20]).expect("a text");
    let long = long.to_str().expect("UTF-8");
    let out = scratch.path("out");
    let cases: [(&[&str], i32, &[&str]); 5] = [
        (
            &["--text", long],
            64,
            &["long.txt", "17825792 bytes, more than the 8388608"],
        ),
        (&["--text", "/no/text"], 65, &["/no/text", "No such file"]),
        (
            &["--text", &short],
            65,
            &["text.txt", "fewer than one window of 256"],
        ),
        (&["--text", &short, "--chunks", "0"], 64, &["--chunks"]),
        (&["--chunks", "1"], 64, &["--text"]),
    ];
    for (more, code, says) in cases {
        let mut args = vec!["run", "--model", TINY, "--reference", "rust"];
        args.extend(["--out", out.to_str().expect("UTF-8")]);
        args.extend(more);
        let output = crossval(&args);
        let message = stderr(&output);
        assert_eq!(exit_code(&output), code, "{message}");
        for says in says {
            assert!(message.contains(says), "{message}");
        }
    }
}

#[cfg(feature = "reference")]
fn approx(a: f64, b: f64) {
    assert!((a / b - 1.0).abs() < 1e-9, "{a} {b}");
}
