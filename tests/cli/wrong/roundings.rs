//! Engines that round as the model's types allow, and not as others do; and engines that round as nothing allows.

use std::io::BufWriter;

use bitnet_core::gguf::{Gguf, Writer};
use half::f16;
use reports::model::{AtFault, Source, Status};
use reports::outcome::Outcome;

use super::*;

const CODES: &str = "np.rint(x.astype(f64) * act_scale)";

/// The token whose activations in front of the first layer are halves of a quantiser step.
const TOKEN: u32 = 5;

/// The bundled model with such a token: multiples of one value, that a norm without weights of its own keeps.
fn model_of_halves(scratch: &Scratch) -> PathBuf {
    let gguf = Gguf::open(Path::new(TINY)).expect("the bundled model");
    let file = scratch.path("halves.gguf");
    let mut writer = Writer::new(gguf.metadata().clone()).expect("a writer");
    for t in gguf.tensors() {
        writer.tensor(&t.name, &t.shape, t.ty).expect("a tensor");
    }
    let out = BufWriter::new(File::create(&file).expect("a file"));
    let mut writer = writer.begin(out).expect("a head");
    for t in gguf.tensors() {
        let mut data = gguf.data(t).expect("data").to_vec();
        match t.name.as_str() {
            "token_embd.weight" => {
                let halves = (1..128).map(|i| (i * 37 % 253 - 126) as f32 / 2.0);
                let row = std::iter::once(127.0).chain(halves);
                let row = row.map(|v| f16::from_f32(v / 1024.0).to_le_bytes());
                let row: Vec<u8> = row.flatten().collect();
                data[TOKEN as usize * row.len()..][..row.len()].copy_from_slice(&row);
            }
            "blk.0.attn_norm.weight" => data = 0.5f32.to_le_bytes().repeat(data.len() / 4),
            _ => {}
        }
        writer
            .write_tensor(|out| out.write_all(&data))
            .expect("written");
    }
    writer.finish().expect("complete");
    file
}

/// The example worker, with other codes, as the candidate on that model.
fn run_rounding(by: &str) -> Option<(i32, Report, String)> {
    let scratch = Scratch::new();
    let doctored = doctored(&scratch, &[(CODES, by)])?;
    let engines = ["--reference", "rust", "--candidate", &doctored];
    let more = ["--mode", "isolated", "--no-bench", "--n-predict", "2"];
    let tokens = ["--tokens", "1,5,9,5"];
    let model = model_of_halves(&scratch);
    Some(run(&model, &[&engines[..], &more, &tokens].concat()))
}

#[test]
fn halves_away_from_zero_are_named_and_no_fault() {
    let away = "(lambda v, t: t + np.sign(v) * (np.abs(v - t) >= 0.5))(x * act_scale, np.trunc(x * act_scale))";
    let Some((code, report, shown)) = run_rounding(away) else {
        return;
    };
    let verdict = &report.verdict;
    assert_eq!((code, verdict.status), (0, Status::Pass), "{shown}");
    assert_eq!(verdict.at_fault, AtFault::None);
    assert_eq!(verdict.first_divergence, None);
    let named = verdict.findings.iter().find(|f| f.source == Source::Oracle);
    let named = named.expect("a finding");
    assert_eq!(named.outcome, Outcome::Pass);
    let says = "in the candidate, int8 codes rounded half away from zero";
    assert!(named.text.contains(says), "{}", named.text);
    let beyond = |tap: &str| {
        let mut taps = report.taps.iter();
        let tap = taps.find(|t| t.tap == tap && t.layer == Some(0))?;
        tap.isolated.clone()
    };
    let q = beyond("q").expect("compared");
    assert!(q.nmse > q.limit, "{q:?}");
    assert_eq!(q.pass, Some(true));
    let allowed = q.allowed.expect("roundings");
    assert_eq!((allowed.rows, allowed.judged), (2, 2), "{allowed:?}");
    let norm = beyond("attn_norm").expect("compared");
    assert_eq!((norm.pass, norm.allowed), (Some(true), None));
}

#[test]
fn halves_that_nothing_allows_are_a_fault() {
    for (by, why) in [
        (
            "(lambda v, t: t + np.sign(v) * (np.abs(v - t) > 0.5))(x * act_scale, np.trunc(x * act_scale))",
            "towards zero",
        ),
        ("np.floor(x * act_scale + f32(0.5))", "up"),
        ("np.trunc(x * act_scale)", "truncated"),
        (
            "(lambda v, t: np.where(np.arange(v.shape[-1]) % 2 == 0, np.rint(v), \
             t + np.sign(v) * (np.abs(v - t) >= 0.5)))(x * act_scale, np.trunc(x * act_scale))",
            "mixed",
        ),
    ] {
        let Some((code, report, shown)) = run_rounding(by) else {
            return;
        };
        let verdict = &report.verdict;
        assert_eq!(
            (code, verdict.at_fault),
            (10, AtFault::Candidate),
            "{why}: {shown}"
        );
    }
}

#[cfg(feature = "reference")]
#[test]
fn the_pinned_reference_rounds_through_f32_and_is_right() {
    let scratch = Scratch::new();
    let more = ["--no-bench", "--n-predict", "2", "--tokens", "1,5,9,5"];
    let (code, report, shown) = run(&model_of_halves(&scratch), &more);
    assert_eq!(
        (code, report.verdict.at_fault),
        (0, AtFault::None),
        "{shown}"
    );
}
