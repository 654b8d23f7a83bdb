//! The graphs of references: what `doctor --graph` lists, and what becomes of taps that are not in them.

use reports::model::Role;

use super::wrong::{doctored, run_doctored_as};
use super::*;

/// A worker that has graphs, in which it does not find a tap.
fn lacking(tap: &str) -> [(&'static str, String); 2] {
    let reason = format!("no node is called {tap}-0");
    let answer = format!(
        "    def on_graphs(self):\n        self.send(\"graphs\", graphs=[], not_offered={{\"{tap}\": \"{reason}\"}})\n\n"
    );
    [
        (
            "                  tokenizer=False)",
            "                  tokenizer=False, graphs=True)".to_owned(),
        ),
        ("    def serve(self):\n", answer + "    def serve(self):\n"),
    ]
}

#[test]
fn a_tap_that_is_not_in_the_graph_is_not_offered_and_the_report_says_why() {
    let changes = lacking("attn_probs");
    let changes = changes.each_ref().map(|(part, by)| (*part, by.as_str()));
    for role in Role::BOTH {
        let more = ["--no-bench", "--mode", "cumulative"];
        let Some((code, report)) = run_doctored_as(role, &changes, &more) else {
            return;
        };
        assert_eq!(code, 0, "{role}: {:?}", report.verdict.reasons);
        let name = &role
            .of(&report.engines.reference, &report.engines.candidate)
            .name;
        assert_eq!(report.coverage.not_offered[name], ["attn_probs"]);
        let because = &report.coverage.not_offered_because[name];
        assert_eq!(because["attn_probs"], "no node is called attn_probs-0");
        for written in [
            reports::terminal::summary(&report),
            reports::markdown::render(&report),
            reports::html::render(&report).expect("a page"),
        ] {
            let words: Vec<&str> = written.split_whitespace().collect();
            let words = words.join(" ");
            assert!(
                words.contains("no node is called attn_probs-0"),
                "{written}"
            );
        }
    }
}

#[test]
fn the_profile_says_which_taps_must_be_in_the_graph() {
    let changes = lacking("layer_out");
    let changes = changes.each_ref().map(|(part, by)| (*part, by.as_str()));
    let more = ["--no-bench", "--mode", "cumulative"];
    let Some((code, report)) = run_doctored_as(Role::Reference, &changes, &more) else {
        return;
    };
    assert_eq!(code, 20);
    let reasons = report.verdict.reasons.join("\n");
    assert!(
        reasons.contains("no node is called layer_out-0"),
        "{reasons}"
    );
}

#[test]
fn what_has_no_graphs_is_not_asked_for_any() {
    for (args, says) in [
        (
            &["--graph", TINY, "--reference", "rust"][..],
            "engine rust has no graphs to list",
        ),
        (&["--reference", "bitnet.cpp"][..], "--graph"),
        (
            &["--graph", TINY, "--reference", "llama"][..],
            "unknown engine \"llama\"",
        ),
    ] {
        let output = crossval(&[&["doctor"][..], args].concat());
        assert_eq!(exit_code(&output), 64, "{args:?}");
        let error = stderr(&output);
        assert!(error.contains(says), "{error}");
    }
}

/// A worker's names are whatever it likes.
#[test]
fn a_listing_shows_no_control_characters() {
    let scratch = Scratch::new();
    let node = "{\"name\": \"a\\x1b[2J\", \"op\": \"ADD\", \"shape\": [1], \"type\": \"f32\", \"sources\": [], \
                \"taken_for\": \"unknown\"}";
    let answer = format!(
        "    def on_graphs(self):\n        self.send(\"graphs\", graphs=[{{\"n_tokens\": 3, \"nodes\": [{node}]}}], \
         not_offered={{}})\n\n    def serve(self):\n"
    );
    let changes = [
        (
            "                  tokenizer=False)",
            "                  tokenizer=False, graphs=True)",
        ),
        ("    def serve(self):\n", answer.as_str()),
    ];
    let Some(engine) = doctored(&scratch, &changes) else {
        return;
    };
    let output = crossval(&["doctor", "--graph", TINY, "--reference", &engine]);
    let listing = String::from_utf8_lossy(&output.stdout);
    assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
    assert!(!listing.contains('\u{1b}'), "{listing:?}");
    assert!(
        listing.contains("not understood in the graph of 3: 1 of 1 nodes: a\\u{1b}[2J (ADD)"),
        "{listing}"
    );
}

#[cfg(feature = "reference")]
mod of_the_reference {
    use reports::model::Mode;

    use super::*;

    #[test]
    fn every_node_is_understood() {
        let scratch = Scratch::new();
        let models = ["bitnet", "bitnet-25", "bitnet-b1.58", "llama"];
        let models = models.map(|arch| synth(&scratch, arch, &["--layers", "2"]));
        for model in models.iter().map(PathBuf::as_path).chain([Path::new(TINY)]) {
            let model = model.to_str().expect("UTF-8");
            let output = crossval(&["doctor", "--graph", model]);
            assert_eq!(exit_code(&output), 0, "{}", stderr(&output));
            let listing = String::from_utf8_lossy(&output.stdout);
            let says = "\nevery node was understood, every tap was found\n";
            assert!(listing.ends_with(says), "{listing}");
            for part in [
                "graph of 3 tokens\n",
                "graph of 1 token\n",
                "  attn_probs\n",
            ] {
                assert!(listing.contains(part), "{part}: {listing}");
            }
        }
    }

    /// The oracle says whether it does, at every tap of the first and the last layer.
    #[test]
    fn it_goes_on_with_values_that_it_is_given() {
        let scratch = Scratch::new();
        let llama = synth(&scratch, "llama", &["--layers", "2"]);
        for model in [Path::new(TINY), &llama] {
            let engines = ["--reference", "rust", "--candidate", "bitnet.cpp"];
            let more = ["--no-bench", "--n-predict", "4"];
            let (code, report, _) = run(model, &[&engines[..], &more].concat());
            assert_eq!(code, 0, "{:?}", report.verdict.reasons);
            assert_eq!(report.inputs.modes, [Mode::Isolated, Mode::Cumulative]);
            assert!(report.coverage.not_offered.is_empty());
        }
    }

    #[test]
    fn a_file_that_is_no_model_is_named() {
        let scratch = Scratch::new();
        let file = scratch.path("no.gguf");
        std::fs::write(&file, "no model").expect("a file");
        let output = crossval(&["doctor", "--graph", file.to_str().expect("UTF-8")]);
        assert_eq!(exit_code(&output), 65);
        assert!(stderr(&output).contains("no.gguf"), "{}", stderr(&output));
    }
}
