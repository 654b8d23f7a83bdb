//! Errors that an average hides, and errors that both engines make.

use reports::model::{AtFault, Source};

use super::*;

/// What the oracle finds at the places that it looks at by itself, as layer and tap.
fn wrong(report: &Report, role: Role) -> Vec<(Option<usize>, &str)> {
    let check = report.spot_check.as_ref().expect("a spot check");
    assert_eq!(check.not_judged, None);
    assert!(check.stages > 0 && check.rows.len() <= check.of_rows);
    let wrong = check.wrong.iter().filter(|w| w.engine == role.name());
    let places = wrong.map(|w| (w.judgement.layer, w.judgement.tap.as_str()));
    places.collect()
}

/// A run of a doctored engine on a model, in both roles or against the Rust engine.
fn run_on(
    model: &Path,
    reference: Option<&str>,
    changes: &[(&str, &str)],
    more: &[&str],
) -> Option<(i32, Report)> {
    let scratch = Scratch::new();
    let doctored = doctored(&scratch, changes)?;
    let reference = reference.unwrap_or(&doctored);
    let engines = ["--reference", reference, "--candidate", &doctored];
    let flags = ["--no-bench", "--n-predict", "4"];
    let (code, report, _) = run(model, &[&engines[..], &flags, more].concat());
    Some((code, report))
}

const LOGITS: &str = "return tap(\"logits\", None, apply(m.output, h))";

/// One element, whatever else the engine does to logits.
const ONE_LOGIT: (&str, &str) = (
    LOGITS,
    "logits = apply(m.output, h)\n        logits[:, 77] += f32(0.6)\n        return tap(\"logits\", None, logits)",
);

#[test]
fn one_logit_off_in_every_row() {
    let Some((code, report)) = run_doctored(&[ONE_LOGIT]) else {
        return;
    };
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Candidate));
    let first = report.verdict.first_divergence.as_ref().expect("a place");
    assert_eq!((first.tap.as_str(), first.element), ("logits", 77));
    let hint = first.hint.as_ref().expect("a hint");
    assert!(hint.contains("is off in element 77 only"), "{hint}");
    // In cumulative mode too, where the limit allows for much more.
    let logits = report.taps.iter().find(|t| t.tap == "logits").expect("it");
    let cumulative = logits.cumulative.as_ref().expect("cumulative");
    assert!(cumulative.nmse < cumulative.limit, "{cumulative:?}");
    assert_eq!(cumulative.pass, Some(false));
    assert!(cumulative.element_share > Some(1.0), "{cumulative:?}");
}

#[test]
fn one_logit_off_of_a_large_vocabulary() {
    let scratch = Scratch::new();
    let shape = ["--layers", "1", "--vocab", "64000"];
    let model = synth(&scratch, "bitnet-25", &shape);
    for mode in ["isolated", "cumulative"] {
        let args = ["--mode", mode, "--tokens", "5,9,21,6"];
        let Some((code, report)) = run_on(&model, Some("rust"), &[ONE_LOGIT], &args) else {
            return;
        };
        assert_eq!(
            (code, report.verdict.at_fault),
            (10, AtFault::Candidate),
            "{mode}: {:#?}",
            report.verdict
        );
        let first = report.verdict.first_divergence.expect("a place");
        assert_eq!((first.tap.as_str(), first.element), ("logits", 77));
        let part = first.part.expect("a part");
        assert!(first.nmse <= Some(first.limit) && part.nmse > part.limit);
    }
}

const SCORES: &str = "scores = np.einsum(\"tkgd,pkd->tkgp\", q, k) / np.sqrt(m.head_dim)";

fn scores(then: &str) -> String {
    format!("{SCORES}\n        {then}")
}

#[test]
fn one_heads_scores_off_by_less_than_a_percent() {
    let Some((code, report)) = run_doctored(&[(SCORES, &scores("scores[:, 0, 1] *= 1.004"))])
    else {
        return;
    };
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Candidate));
    let places = wrong(&report, Role::Candidate);
    assert!(places.contains(&(Some(0), "attn_probs")), "{places:?}");
    assert_eq!(wrong(&report, Role::Reference), []);
}

#[test]
fn all_heads_scores_off_by_a_fifth_of_a_percent() {
    let Some((code, report)) = run_doctored(&[(SCORES, &scores("scores *= 1.002"))]) else {
        return;
    };
    assert_eq!(
        (code, report.verdict.at_fault),
        (10, AtFault::Candidate),
        "{:#?}",
        report.verdict
    );
    let finding = &report.verdict.findings[0];
    assert_eq!(finding.role(), Some(Role::Candidate));
    let places = wrong(&report, Role::Candidate);
    assert_eq!(places[0], (Some(0), "attn_probs"));
    assert!(places.iter().all(|&(_, tap)| tap == "attn_probs"));
}

#[test]
fn a_reference_is_blamed_where_it_is_first_wrong() {
    let change = scores("scores *= 1.01");
    let changes = [(SCORES, change.as_str())];
    let Some((code, report)) = run_doctored_as(Role::Reference, &changes, &["--no-bench"]) else {
        return;
    };
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Reference));
    let first = report.verdict.first_divergence.expect("a place");
    assert_eq!((first.tap.as_str(), first.layer), ("attn_probs", Some(0)));
    assert!(!first.arbitration.expect("a ruling").reference.right);
}

/// What engines offer that show only what a layer gives.
const FEW: (&str, &str) = (
    "taps=TAPS, overwrite",
    "taps=[\"layer_out\", \"logits\"], overwrite",
);

#[test]
fn an_engine_that_shows_little_may_not_skip_the_quantiser() {
    let unquantised = (
        "codes = np.rint(x.astype(f64) * act_scale).clip(-128, 127)",
        "codes = x.astype(f64) * act_scale",
    );
    let changes = [FEW, unquantised];
    let Some((code, report)) = run_doctored(&changes) else {
        return;
    };
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Candidate));
    let places = wrong(&report, Role::Candidate);
    assert!(places.contains(&(Some(0), "layer_out")), "{places:?}");
    assert_eq!(wrong(&report, Role::Reference), []);
    // Nor if the other does so too.
    let Some((code, report)) = run_on(Path::new(TINY), None, &changes, &["--tokens", "1,5"]) else {
        return;
    };
    assert_eq!((code, report.verdict.at_fault), (10, AtFault::Both));
}

#[test]
fn an_engine_that_shows_little_and_is_right_passes() {
    let tokens: Vec<String> = (3..100).map(|id| id.to_string()).collect();
    for tokens in ["1,403,407", &tokens.join(",")] {
        let args = ["--tokens", tokens];
        let Some((code, report)) = run_on(Path::new(TINY), Some("rust"), &[FEW], &args) else {
            return;
        };
        assert_eq!(code, 0, "{:#?}", report.verdict);
        assert_eq!(wrong(&report, Role::Candidate), []);
        let check = report.spot_check.expect("a spot check");
        assert!(check.rows.iter().any(|row| row.position == 0));
    }
}

#[test]
fn a_mistake_that_both_engines_make() {
    // What is wrong, and the taps at which it must be found.
    for (part, by, tap, says) in [
        (
            "if self.model.arch == \"bitnet\":",
            "if True:",
            "ffn_act",
            "matches SiLU",
        ),
        (SCORES, &scores("scores *= 1.002") as &str, "attn_probs", ""),
        (
            "np.full((len(positions), half), f32(self.model.rope_base)",
            "np.full((len(positions), half), f32(self.model.rope_base * 1.05)",
            "q_rope",
            "",
        ),
        (
            "x = tap(\"ffn_inp\", i, x + h)",
            "x = tap(\"ffn_inp\", i, x + h + (h == h.max()) * f32(1e-3))",
            "ffn_inp",
            "is off in element",
        ),
    ] {
        // One token sees only itself, and position 0 is not rotated.
        let args = ["--tokens", "1,403,407,261,378"];
        let Some((code, report)) = run_on(Path::new(TINY), None, &[(part, by)], &args) else {
            return;
        };
        assert_eq!(
            (code, report.verdict.at_fault),
            (10, AtFault::Both),
            "{tap}: {:#?}",
            report.verdict
        );
        assert_eq!(report.verdict.first_divergence, None, "{tap}: they agree");
        for role in Role::BOTH {
            let places = wrong(&report, role);
            assert!(places.contains(&(Some(0), tap)), "{tap}: {places:?}");
            let of_role = |f: &&reports::model::Finding| f.role() == Some(role);
            let finding = report.verdict.findings.iter().find(of_role).expect("one");
            assert_eq!(finding.source, Source::Oracle);
            assert!(finding.text.contains(says), "{}", finding.text);
        }
    }
}

#[cfg(all(feature = "reference", target_arch = "x86_64"))]
#[test]
fn an_overflow_that_both_engines_make() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        skip("without AVX2 the reference has other kernels");
        return;
    }
    let scratch = Scratch::new();
    let stress = ["--stress", "i16-overflow", "--layers", "2"];
    let model = synth(&scratch, "bitnet-b1.58", &stress);
    let engines = ["--candidate", "bitnet.cpp"];
    let args = ["--no-bench", "--n-predict", "4"];
    let (code, report, stdout) = run(&model, &[&engines[..], &args].concat());
    assert_eq!(
        (code, report.verdict.at_fault),
        (10, AtFault::Both),
        "{:#?}",
        report.verdict
    );
    assert_eq!(report.verdict.first_divergence, None);
    assert_eq!(wrong(&report, Role::Candidate)[0], (Some(0), "ffn_down"));
    let finding = &report.verdict.findings[0];
    assert!(finding.text.contains("int16 overflow"), "{}", finding.text);
    assert!(stdout.contains("spot check"), "{stdout}");
}
