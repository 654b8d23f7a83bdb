//! Roundings that the layers grow: honest engines pass, whatever they offer, and hide no fault.

use reports::model::{AtFault, Source, Status, TapStats};
use reports::outcome::Outcome;

use super::*;

const F32_NORMS: (&str, &str) = (
    "        x = x.astype(f64)
        return (x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.model.eps) * gamma).astype(f32)",
    "        total = np.add.accumulate(x * x, axis=-1, dtype=f32)[..., -1:]
        return x * (f32(1) / np.sqrt(total / f32(x.shape[-1]) + f32(self.model.eps))) * gamma.astype(f32)",
);
const ANGLES: &str =
    "        factors = np.full((len(positions), half), f32(self.model.rope_base) ** f32(-1 / half))
        factors[:, 0] = positions
        angles = np.multiply.accumulate(factors, axis=1).astype(f64)[:, None]";
const F64_ANGLES: (&str, &str) = (
    ANGLES,
    "        angles = (positions[:, None] * float(self.model.rope_base) ** (-np.arange(half) / half))[:, None]",
);
const F32_FREQUENCIES: (&str, &str) = (
    ANGLES,
    "        inverse = f32(1) / f32(self.model.rope_base) ** (np.arange(half, dtype=f32) / f32(half))
        angles = (positions.astype(f32)[:, None] * inverse.astype(f32)).astype(f64)[:, None]",
);
const UNROUNDED_QUERIES: (&str, &str) = (
    "q.astype(f16).astype(f64).reshape(n, m",
    "q.astype(f64).reshape(n, m",
);
const F16_PROBABILITIES: (&str, &str) = (
    "probs.astype(f64).reshape(n",
    "probs.astype(f16).astype(f64).reshape(n",
);
const SEQUENTIAL_SUMS: (&str, &str) = (
    "(x.astype(f64) @ matrix.T.astype(f64)).astype(f32)",
    "np.add.accumulate(x.astype(f32)[:, None] * matrix.astype(f32), axis=-1, dtype=f32)[..., -1]",
);
const CODES: &str = "np.rint(x.astype(f64) * act_scale)";
const CODES_IN_F32: (&str, &str) = (CODES, "np.rint(x.astype(f32) * act_scale)");
const HALVES_AWAY: (&str, &str) = (
    CODES,
    "(lambda v: np.sign(v) * np.floor(np.abs(v) + f32(0.5)))(x.astype(f32) * act_scale)",
);

const PROMPTS: [&str; 6] = [
    "Once upon a time",
    "The capital of France is",
    "Tom had a red ball. He liked to play with it in the park",
    "1 2 3 4 5 6 7",
    "a",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune",
];

#[test]
fn engines_that_round_in_their_own_way_pass() {
    for (changes, name) in [
        (&[UNROUNDED_QUERIES][..], "unrounded queries"),
        (&[CODES_IN_F32], "codes through f32"),
        (
            &[F32_NORMS, F64_ANGLES, F16_PROBABILITIES, HALVES_AWAY],
            "one of each",
        ),
        (
            &[
                F32_FREQUENCIES,
                UNROUNDED_QUERIES,
                SEQUENTIAL_SUMS,
                CODES_IN_F32,
            ],
            "another of each",
        ),
    ] {
        let prompts = PROMPTS.iter().flat_map(|prompt| ["--prompt", prompt]);
        let more: Vec<&str> = ["--no-bench", "--n-predict", "6"]
            .into_iter()
            .chain(prompts)
            .collect();
        for role in Role::BOTH {
            let Some((code, report)) = run_doctored_as(role, changes, &more) else {
                return;
            };
            let verdict = &report.verdict;
            assert_eq!(
                (code, verdict.at_fault),
                (0, AtFault::None),
                "{name} as {role}: {:#?}",
                verdict.reasons
            );
        }
    }
}

/// A model that grows roundings beyond the limit.
fn growing(scratch: &Scratch) -> PathBuf {
    synth(scratch, "bitnet", &["--layers", "6", "--seed", "5"])
}

const TOKENS: [&str; 5] = [
    "--tokens",
    "1,5,9,33,7,12,90",
    "--n-predict",
    "4",
    "--no-bench",
];

fn logits(report: &Report) -> &TapStats {
    let mut taps = report.taps.iter();
    let logits = taps.find(|tap| tap.tap == "logits").expect("compared");
    logits.cumulative.as_ref().expect("in cumulative mode")
}

#[test]
fn what_the_layers_grow_is_measured_and_said() {
    let scratch = Scratch::new();
    let engines = ["--reference", "rust", "--candidate", "oracle"];
    let (code, report, shown) = run(&growing(&scratch), &[&engines[..], &TOKENS].concat());
    let verdict = &report.verdict;
    assert_eq!((code, verdict.status), (0, Status::Pass), "{shown}");
    assert_eq!(
        (verdict.at_fault, &verdict.first_divergence),
        (AtFault::None, &None)
    );
    let logits = logits(&report);
    assert!(
        logits.nmse > logits.limit && logits.pass == Some(true),
        "{logits:?}"
    );
    let amplified = logits.amplified.as_ref().expect("what speaks for it");
    assert!(amplified.nmse == logits.nmse && amplified.within() && amplified.stages > 100);
    let of_queries = amplified
        .roundings
        .iter()
        .find(|r| r.rounding.contains("queries"));
    assert!(
        of_queries.and_then(|r| r.nmse) > Some(1e-4),
        "{amplified:?}"
    );
    let mut notes = verdict.findings.iter();
    let note = notes.find(|f| f.text.starts_with("rounding, amplified over the layers"));
    let note = note.expect("a note");
    assert_eq!((note.outcome, note.source), (Outcome::Pass, Source::Oracle));
    assert!(
        note.text
            .contains("times what one rounding alone makes of the model's"),
        "{}",
        note.text
    );
}

const LOGITS_ALONE: (&str, &str) = (
    "taps=TAPS, overwrite=True",
    "taps=[\"logits\"], overwrite=False",
);

/// Of an engine that shows its logits alone no stage can be judged: how far apart roundings bring them decides.
#[test]
fn of_logits_alone_what_roundings_make_is_the_limit() {
    for (changes, expected) in [
        (&[LOGITS_ALONE, UNROUNDED_QUERIES, F64_ANGLES][..], 0),
        (
            &[
                LOGITS_ALONE,
                UNROUNDED_QUERIES,
                (
                    "x = tap(\"ffn_inp\", i, x + h)",
                    "x = tap(\"ffn_inp\", i, x + h * f32(1.1))",
                ),
            ],
            10,
        ),
    ] {
        let scratch = Scratch::new();
        let Some(doctored) = doctored(&scratch, changes) else {
            return;
        };
        let engines = [
            "--reference",
            "rust",
            "--candidate",
            &doctored,
            "--profile",
            "logits",
        ];
        let args = [&engines[..], &TOKENS, &["--mode", "cumulative"]].concat();
        let (code, report, shown) = run(&growing(&scratch), &args);
        assert_eq!(code, expected, "{shown}");
        let stats = logits(&report);
        assert!(stats.nmse > stats.limit, "{stats:?}");
        let verdict = &report.verdict;
        match expected {
            0 => assert!(stats.amplified.as_ref().is_some_and(|a| a.within())),
            _ => {
                assert_eq!(stats.amplified, None);
                let first = verdict.first_divergence.as_ref().expect("a divergence");
                let hint = first.hint.as_ref().expect("a hint");
                assert!(
                    hint.contains("times what one rounding alone makes"),
                    "{hint}"
                );
            }
        }
    }
}

/// In cumulative mode alone, behind rows that roundings bring apart, at another position than theirs.
#[test]
fn an_honest_difference_hides_no_fault_of_the_engines_own_way() {
    let scratch = Scratch::new();
    let fault = (
        "h = tap(\"ffn_down\", i, apply(w[\"ffn_down\"], h))",
        "h = tap(\"ffn_down\", i, apply(w[\"ffn_down\"], h) \
         * (f32(1) if getattr(self, 'overwriting', False) else np.where((i == 5) & (positions == 4), f32(1.002), f32(1))[:, None]))",
    );
    let told = (
        "        logits = self.session.evaluate(tokens, tap)\n",
        "        self.session.overwriting = overwrite\n        logits = self.session.evaluate(tokens, tap)\n",
    );
    let honest = [UNROUNDED_QUERIES, F64_ANGLES];
    let Some(doctored) = doctored(&scratch, &[&honest[..], &[fault, told]].concat()) else {
        return;
    };
    let engines = ["--reference", "rust", "--candidate", &doctored];
    let (code, report, shown) = run(&growing(&scratch), &[&engines[..], &TOKENS].concat());
    let verdict = &report.verdict;
    assert_eq!(
        (code, verdict.at_fault),
        (10, AtFault::Candidate),
        "{shown}"
    );
    let mut findings = verdict.findings.iter();
    let found = findings.any(|f| {
        let place = f.place.as_ref();
        place.is_some_and(|p| {
            p.tap.as_deref() == Some("ffn_down") && p.layer == Some(5) && p.position == Some(4)
        })
    });
    assert!(found, "{shown}");
}
