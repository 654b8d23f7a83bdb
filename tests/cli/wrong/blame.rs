//! Two faults, and a fault behind a difference that is none: each engine that is wrong is named, with its place.

use reports::model::{AtFault, Place, Source};

use super::*;

/// The Rust engine with a fault as the reference.
fn faulty_reference(scratch: &Scratch, fault: &str) -> String {
    let worker = env!("CARGO_BIN_EXE_crossval");
    let script = format!("exec '{worker}' worker rust --fault '{fault}'");
    scratch.engine("faulty", &script)
}

const SHORT: [&str; 5] = ["--no-bench", "--n-predict", "2", "--tokens", "1,5,9,7,3,8"];

/// Engine, tap, layer and position of what findings beside the first divergence's and the spot check's name.
fn named(report: &Report) -> Vec<(Role, &str, usize, usize)> {
    let findings = report.verdict.findings.iter();
    let beside =
        findings.filter(|f| f.source == Source::Oracle && f.text.contains("beside the first"));
    let place = |place: &'_ Place| Some((place.role?, place.layer?, place.position?));
    beside
        .map(|f| {
            let at = f.place.as_ref().expect("a place");
            let (role, layer, position) = place(at).expect("a whole place");
            (role, at.tap.as_deref().expect("a tap"), layer, position)
        })
        .collect()
}

#[test]
fn two_engines_wrong_at_places_of_their_own() {
    let (reference, candidate) = (Role::Reference, Role::Candidate);
    for (of_reference, of_candidate, first, others, says) in [
        // The candidate's first wrong row is behind the reference's.
        (
            "negated:ffn_down:0",
            "other-pairing:q_rope:1@from-position=3",
            ("ffn_down", Some(0), 0),
            vec![(candidate, "q_rope", 1, 3)],
            "RoPE pairing",
        ),
        (
            "other-pairing:k_rope:3@from-position=4",
            "negated:ffn_down:0",
            ("ffn_down", Some(0), 0),
            vec![(reference, "k_rope", 3, 4)],
            "RoPE pairing",
        ),
        // At the same tap, in another layer.
        (
            "negated:ffn_down:0",
            "scaled-by-half-again:ffn_down:2@from-position=2",
            ("ffn_down", Some(0), 0),
            vec![(candidate, "ffn_down", 2, 2)],
            "a constant factor 1.5",
        ),
        // And in the same.
        (
            "negated:attn_proj:1@from-position=5",
            "zero:attn_proj:1:one-thread",
            ("attn_proj", Some(1), 0),
            vec![(reference, "attn_proj", 1, 5)],
            "the sign turned",
        ),
    ] {
        let scratch = Scratch::new();
        let faulty = faulty_reference(&scratch, of_reference);
        let engines = ["--reference", &faulty, "--fault", of_candidate];
        let (code, report, shown) = run(Path::new(TINY), &[&engines[..], &SHORT].concat());
        let verdict = &report.verdict;
        let both = (10, AtFault::Both);
        assert_eq!((code, verdict.at_fault), both, "{of_candidate}: {shown}");
        let place = verdict.first_divergence.as_ref().expect("a divergence");
        let place = (place.tap.as_str(), place.layer, place.position);
        assert_eq!(place, first, "{shown}");
        assert_eq!(named(&report), others, "{of_candidate}: {shown}");
        let mut findings = verdict.findings.iter();
        let beside = findings.find(|f| f.text.contains("beside the first"));
        let beside = &beside.expect("a finding").text;
        assert!(beside.contains(says), "{beside}");
    }
}

#[test]
fn one_engine_wrong_at_one_place_is_named_for_it_alone() {
    let fault = ["--reference", "rust", "--fault", "negated:ffn_down:*"];
    let (code, report, shown) = run(Path::new(TINY), &[&fault[..], &SHORT].concat());
    let verdict = &report.verdict;
    assert_eq!(
        (code, verdict.at_fault),
        (10, AtFault::Candidate),
        "{shown}"
    );
    assert_eq!(named(&report), [], "{shown}");
}

#[cfg(all(feature = "reference", target_arch = "x86_64"))]
#[test]
fn an_overflow_of_the_reference_does_not_hide_the_candidate() {
    if !std::arch::is_x86_feature_detected!("avx2") {
        skip("without AVX2 the reference has other kernels");
        return;
    }
    let scratch = Scratch::new();
    let stress = ["--stress", "i16-overflow", "--layers", "2"];
    let model = synth(&scratch, "bitnet", &stress);
    let fault = ["--fault", "other-pairing:q_rope:*@from-position=3"];
    let (code, report, shown) = run(&model, &[&fault[..], &SHORT].concat());
    let verdict = &report.verdict;
    assert_eq!((code, verdict.at_fault), (10, AtFault::Both), "{shown}");
    let first = verdict.first_divergence.as_ref().expect("a divergence");
    assert_eq!((first.tap.as_str(), first.position), ("ffn_down", 0));
    assert_eq!(
        named(&report),
        [(Role::Candidate, "q_rope", 0, 3)],
        "{shown}"
    );
}

const ANGLES: (&str, &str) = (
    "np.multiply.accumulate(factors, axis=1).astype(f64)[:, None]",
    "(positions[:, None] * float(self.model.rope_base) ** (-np.arange(half) / half))[:, None]",
);

/// Angles in f64 differ from those of the Rust engine from some position on, and are right. What is wrong comes later.
#[test]
fn an_honest_difference_hides_no_fault() {
    let tokens: Vec<String> = (0..120).map(|i| (i * 37 % 300).to_string()).collect();
    let tokens = tokens.join(",");
    for (change, tap, layer, position) in [
        (
            (
                "h = tap(\"ffn_norm\", i, self.norm(x, w[\"ffn_norm\"]))",
                "h = tap(\"ffn_norm\", i, self.norm(x, w[\"ffn_norm\"]) \
                 * np.where((i == 2) & (positions >= 110), f32(1.5), f32(1))[:, None])",
            ),
            "ffn_norm",
            2,
            110,
        ),
        // At the very tap that differs.
        (
            (
                "q = tap(\"q_rope\", i, self.rope(q, positions))",
                "q = tap(\"q_rope\", i, self.rope(q, positions + (i == 2) * (positions >= 100)))",
            ),
            "q_rope",
            2,
            100,
        ),
    ] {
        let scratch = Scratch::new();
        let Some(doctored) = doctored(&scratch, &[ANGLES, change]) else {
            return;
        };
        let engines = ["--reference", "rust", "--candidate", &doctored];
        let more = ["--mode", "isolated", "--no-bench", "--n-predict", "2"];
        let args = [&engines[..], &more, &["--tokens", &tokens]].concat();
        let (code, report, shown) = run(Path::new(TINY), &args);
        let verdict = &report.verdict;
        assert_eq!(
            (code, verdict.at_fault),
            (10, AtFault::Candidate),
            "{shown}"
        );
        let first = verdict.first_divergence.as_ref().expect("a divergence");
        let place = (first.tap.as_str(), first.layer, first.position);
        assert_eq!(place, (tap, Some(layer), position), "{shown}");
        // Of the honest ones none counts.
        let taps = verdict.findings.iter().find(|f| f.source == Source::Taps);
        let taps = &taps.expect("a finding").text;
        assert!(taps.starts_with("1 tap beyond the limit"), "{taps}");
    }
}
